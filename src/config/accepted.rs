//! Checks of flags that have no effect here, or none by themselves: a mistake in one is still a
//! mistake, answered with etcd's words.

use crate::config::error::{ConfigError, Notice};
use crate::config::flags::Flags;
use crate::config::url::{MemberUrl, Scheme};

const SAMPLES_PER_MILLION_MAX: i64 = 1_000_000;
const RAFT_TIMEOUT_MIN_NANOSECONDS: i64 = 5_000_000_000;

/// Names of cipher suites as Go has them, the insecure ones too, and two older spellings.
const CIPHER_SUITES: [&str; 28] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// What etcd finds wrong with flags before it starts anything.
pub(super) fn check(flags: &Flags) -> Result<(), ConfigError> {
    match flags.text("auto-compaction-mode") {
        "periodic" | "revision" => {}
        "" => return Err(ConfigError::flags("undefined auto-compaction-mode")),
        mode => return Err(ConfigError::flags(format!("unknown auto-compaction-mode {mode:?}"))),
    }
    check_tracing(flags)?;
    if flags.gate("LeaseCheckpointPersist") && !flags.gate("LeaseCheckpoint") {
        return Err(ConfigError::flags(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
             LeaseCheckpoint",
        ));
    }
    if flags.nanoseconds("compact-hash-check-time") <= 0 {
        let text = flags.text("compact-hash-check-time");
        let shown = if text == "0" { "0s" } else { text };
        let message = format!("--compact-hash-check-time must be >0 (set to {shown})");
        return Err(ConfigError::flags(message));
    }
    check_tls_versions(flags)
}

/// What etcd finds wrong while it opens its listeners.
pub(super) fn check_listeners(flags: &Flags) -> Result<(), ConfigError> {
    let suites = flags.text("cipher-suites");
    for suite in suites.split(',').filter(|_| !suites.is_empty()) {
        if !CIPHER_SUITES.contains(&suite) {
            let message = format!("unexpected TLS cipher suite {suite:?}");
            return Err(ConfigError::bootstrap(message));
        }
    }
    let lists = ["listen-peer-urls", "listen-client-urls", "listen-client-http-urls"];
    for name in lists.into_iter().chain(["listen-metrics-urls"]) {
        for url in flags.urls(name) {
            url.check_port()
                .map_err(|error| ConfigError::bootstrap(format!("listen tcp: {error}")))?;
        }
    }
    let clients = flags.urls("listen-client-urls");
    let both = flags
        .urls("listen-client-http-urls")
        .into_iter()
        .find(|http| clients.iter().any(|url| url.address() == http.address()));
    if let Some(url) = both {
        return Err(ConfigError::bootstrap(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
        )));
    }
    if flags.signed("max-learners") < 0 {
        return Err(ConfigError::bootstrap("membership: too many learner members in cluster"));
    }
    check_metrics_certificate(flags, &flags.urls("listen-metrics-urls"))
}

/// Lines about values that are not taken as they are.
pub(super) fn notices(flags: &Flags) -> Vec<Notice> {
    let low = |name: &&str| flags.nanoseconds(name) < RAFT_TIMEOUT_MIN_NANOSECONDS;
    let raised = ["raft-read-timeout", "raft-write-timeout"].into_iter().filter(low);
    let text = |name: &str| format!("{name} increased to minimum value: 5s");
    let mut notices: Vec<Notice> = raised.map(|name| Notice::info(&text(name), vec![])).collect();
    let threshold = flags.unsigned("bootstrap-defrag-threshold-megabytes");
    if threshold > 0 {
        // There never are holes to fill: removed versions leave none.
        let fields = vec![
            ("current-db-size-freeable-bytes", "0".to_owned()),
            ("bootstrap-defrag-threshold-megabytes", threshold.to_string()),
        ];
        notices.push(Notice::info("Skipping defragmentation", fields));
    }
    notices
}

fn check_tracing(flags: &Flags) -> Result<(), ConfigError> {
    if !flags.switch("enable-distributed-tracing") {
        return Ok(());
    }
    let fault = match flags.signed("distributed-tracing-sampling-rate") {
        ..0 => "tracing sampling rate must be positive".to_owned(),
        0..=SAMPLES_PER_MILLION_MAX => return Ok(()),
        _ => format!("tracing sampling rate must be less than {SAMPLES_PER_MILLION_MAX}"),
    };
    // The spelling is etcd's.
    let message = format!("distributed tracing configurition is not valid: ({fault})");
    Err(ConfigError::flags(message))
}

fn check_tls_versions(flags: &Flags) -> Result<(), ConfigError> {
    let (least, most) = (flags.text("tls-min-version"), flags.text("tls-max-version"));
    for version in [least, most] {
        if !["", "TLS1.2", "TLS1.3"].contains(&version) {
            return Err(ConfigError::flags(format!(
                "unexpected TLS version {version:?} (must be one of: TLS1.2, TLS1.3)"
            )));
        }
    }
    if !most.is_empty() && least > most {
        let message = format!("min version ({least}) is greater than max version ({most})");
        return Err(ConfigError::flags(message));
    }
    if least == "TLS1.3" && !flags.text("cipher-suites").is_empty() {
        let message = "cipher suites cannot be configured when only TLS1.3 is enabled";
        return Err(ConfigError::flags(message));
    }
    Ok(())
}

fn check_metrics_certificate(flags: &Flags, urls: &[MemberUrl]) -> Result<(), ConfigError> {
    let is_set = |name: &str| !flags.text(name).is_empty();
    let has_certificate = is_set("cert-file") && is_set("key-file") || flags.switch("auto-tls");
    match urls.iter().find(|url| matches!(url.scheme(), Scheme::Https | Scheme::Unixs)) {
        Some(url) if !has_certificate => Err(ConfigError::bootstrap(format!(
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure \
             url {url}"
        ))),
        _ => Ok(()),
    }
}
