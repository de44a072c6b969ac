//! Tokens that prove themselves: JSON web tokens, signed with a key that the members share.
//!
//! A token names its user, the auth revision at which it was made and when it ends. Because of
//! the revision, any change of users or roles makes all tokens old. A member with only a public
//! key checks tokens and makes none. The algorithm is the configured one alone, whatever a token
//! says; a token without an end is none. Keys come in PEM form, public ones in certificates too.

use super::proven::{Proof, Proven};
use super::token::INVALID_OPTIONS;
use crate::error::RequestError;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, ParsedPublicKey,
    RsaEncoding, RsaKeyPair, VerificationAlgorithm,
};
use aws_lc_rs::{error::Unspecified, hmac};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as BASE64_URL};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MISSING_KEY: &str = "auth: missing key data";
const KEY_MISMATCH: &str = "auth: public and private keys don't match";

const TTL: Duration = Duration::from_secs(300);
/// Bytes of the longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Makes and checks tokens with one algorithm and key.
pub struct Jwt {
    /// As tokens name it.
    name: &'static str,
    signer: Option<Signer>,
    verifier: Verifier,
    ttl: Duration,
    /// None where checking costs less than looking up.
    proven: Option<Proven>,
}

/// An algorithm, as far as its keys go.
#[derive(Clone, Copy)]
enum Algorithm {
    Hmac(hmac::Algorithm),
    Rsa(&'static dyn RsaEncoding, &'static dyn VerificationAlgorithm),
    Ecdsa(&'static EcdsaSigningAlgorithm, &'static dyn VerificationAlgorithm),
    Ed25519,
}

enum Signer {
    Hmac(Arc<hmac::Key>),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

enum Verifier {
    Hmac(Arc<hmac::Key>),
    Public(ParsedPublicKey),
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: String,
}

/// Times are seconds of Unix time, in whatever way the signer writes numbers.
#[derive(Deserialize)]
struct Claims {
    username: String,
    revision: u64,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
}

impl Jwt {
    /// Reads keys and settings that stand in `--auth-token` behind `jwt`.
    ///
    /// # Errors
    /// With etcd's text.
    pub(super) fn open(options: &BTreeMap<&str, &str>) -> Result<Self, String> {
        let known = ["sign-method", "public-key", "pub-key", "private-key", "priv-key", "ttl"];
        let unknown: Vec<&str> =
            options.keys().filter(|name| !known.contains(*name)).copied().collect();
        if !unknown.is_empty() {
            tracing::warn!(keys = ?unknown, "unknown JWT options");
        }
        let ttl = match options.get("ttl") {
            Some(text) => parse_duration(text).ok_or(INVALID_OPTIONS)?,
            None => TTL,
        };
        let file = |name: &str| match options.get(name).filter(|path| !path.is_empty()) {
            Some(path) => std::fs::read(path).map(Some).map_err(|_| INVALID_OPTIONS.to_owned()),
            None => Ok(None),
        };
        let (public, private) = (file("pub-key")?, file("priv-key")?);
        let method = options.get("sign-method").copied().unwrap_or_default();
        let (name, algorithm) = algorithm(method).ok_or(INVALID_OPTIONS)?;
        Self::new(name, algorithm, public.as_deref(), private.as_deref(), ttl)
    }

    fn new(
        name: &'static str,
        algorithm: Algorithm,
        public: Option<&[u8]>,
        private: Option<&[u8]>,
        ttl: Duration,
    ) -> Result<Self, String> {
        if let Algorithm::Hmac(algorithm) = algorithm {
            let secret = private.filter(|key| !key.is_empty()).ok_or(MISSING_KEY)?;
            let key = Arc::new(hmac::Key::new(algorithm, secret));
            let (signer, verifier) = (Some(Signer::Hmac(key.clone())), Verifier::Hmac(key));
            return Ok(Self { name, signer, verifier, ttl, proven: None });
        }
        let signer = private.map(|pem| Signer::open(algorithm, pem)).transpose()?;
        let public = match (public.map(public_key).transpose()?, &signer) {
            (Some(public), _) => public,
            (None, Some(signer)) => signer.public_key(),
            (None, None) => return Err(MISSING_KEY.to_owned()),
        };
        let algorithm = match algorithm {
            Algorithm::Rsa(_, verification) | Algorithm::Ecdsa(_, verification) => verification,
            _ => &signature::ED25519,
        };
        let key = ParsedPublicKey::new(algorithm, public)
            .map_err(|_| "auth: the public key is not one of this signature method")?;
        let proven = Some(Proven::default());
        let jwt = Self { name, signer, verifier: Verifier::Public(key), ttl, proven };
        if let Some(signer) = &jwt.signer {
            let signed = signer.sign(b"a pair?").map_err(|_| KEY_MISMATCH)?;
            jwt.verifier.verify(b"a pair?", &signed).map_err(|_| KEY_MISMATCH)?;
        }
        Ok(jwt)
    }

    /// A token for a user at this auth revision.
    ///
    /// # Errors
    /// `VerifyOnlyTokens` where there is no private key.
    pub(super) fn sign(&self, user: &str, revision: u64) -> Result<String, RequestError> {
        let signer = self.signer.as_ref().ok_or(RequestError::VerifyOnlyTokens)?;
        let exp = (unix_now() + self.ttl).as_secs();
        let header = Header { alg: self.name.to_owned(), typ: "JWT".to_owned() };
        let claims = serde_json::json!({ "username": user, "revision": revision, "exp": exp });
        let text = |json: serde_json::Result<Vec<u8>>| json.map(|json| BASE64_URL.encode(json));
        let (Ok(header), Ok(claims)) =
            (text(serde_json::to_vec(&header)), text(serde_json::to_vec(&claims)))
        else {
            return Err(RequestError::Stopped);
        };
        let mut token = format!("{header}.{claims}");
        let signature = signer.sign(token.as_bytes()).map_err(|_| RequestError::Stopped)?;
        token.push('.');
        token.push_str(&BASE64_URL.encode(signature));
        Ok(token)
    }

    /// The user and auth revision in a token.
    ///
    /// # Errors
    /// `InvalidAuthToken`: the reason is nobody's business but ours.
    pub(super) fn verify(&self, token: &str) -> Result<(Arc<str>, u64), RequestError> {
        self.check(token, unix_now()).ok_or(RequestError::InvalidAuthToken)
    }

    fn check(&self, token: &str, now: Duration) -> Option<(Arc<str>, u64)> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let Some(proven) = &self.proven else { return self.prove(token)?.at(now) };
        let name = Proven::name(token);
        if let Some(proof) = proven.get(&name) {
            return proof.at(now);
        }
        let proof = self.prove(token)?;
        let found = proof.at(now)?;
        proven.insert(name, proof, now);
        Some(found)
    }

    /// What a token says, if it is signed with our key.
    fn prove(&self, token: &str) -> Option<Proof> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&BASE64_URL.decode(header).ok()?).ok()?;
        if header.alg != self.name {
            return None;
        }
        self.verifier.verify(signed.as_bytes(), &BASE64_URL.decode(signature).ok()?).ok()?;
        let claims: Claims = serde_json::from_slice(&BASE64_URL.decode(claims).ok()?).ok()?;
        let Claims { username, revision, exp, nbf } = claims;
        Some(Proof { user: username.into(), revision, ends: exp, begins: nbf })
    }
}

impl Signer {
    fn open(algorithm: Algorithm, pem: &[u8]) -> Result<Self, String> {
        let wrong = || "auth: the private key is not one of this signature method".to_owned();
        let (label, der) = decode_pem(pem).ok_or_else(wrong)?;
        match algorithm {
            Algorithm::Rsa(encoding, _) => {
                let pair = match &label[..] {
                    "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der),
                    _ => RsaKeyPair::from_pkcs8(&der),
                };
                pair.map(|pair| Signer::Rsa(pair, encoding)).map_err(|_| wrong())
            }
            Algorithm::Ecdsa(algorithm, _) => EcdsaKeyPair::from_private_key_der(algorithm, &der)
                .map(Signer::Ecdsa)
                .map_err(|_| wrong()),
            Algorithm::Ed25519 => Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
                .map(Signer::Ed25519)
                .map_err(|_| wrong()),
            Algorithm::Hmac(_) => Err(wrong()),
        }
    }

    fn public_key(&self) -> Vec<u8> {
        match self {
            Signer::Hmac(_) => Vec::new(),
            Signer::Rsa(pair, _) => pair.public_key().as_ref().to_vec(),
            Signer::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        match self {
            Signer::Hmac(key) => Ok(hmac::sign(key, message).as_ref().to_vec()),
            Signer::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &SystemRandom::new(), message, &mut signature)?;
                Ok(signature)
            }
            Signer::Ecdsa(pair) => Ok(pair.sign(&SystemRandom::new(), message)?.as_ref().to_vec()),
            Signer::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl Verifier {
    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Unspecified> {
        match self {
            Verifier::Hmac(key) => hmac::verify(key, message, signature),
            Verifier::Public(key) => key.verify_sig(message, signature),
        }
    }
}

/// By the name in the flag.
fn algorithm(name: &str) -> Option<(&'static str, Algorithm)> {
    use Algorithm::{Ecdsa, Ed25519, Hmac, Rsa};
    use signature as s;
    Some(match name {
        "HS256" => ("HS256", Hmac(hmac::HMAC_SHA256)),
        "HS384" => ("HS384", Hmac(hmac::HMAC_SHA384)),
        "HS512" => ("HS512", Hmac(hmac::HMAC_SHA512)),
        "RS256" => ("RS256", Rsa(&s::RSA_PKCS1_SHA256, &s::RSA_PKCS1_2048_8192_SHA256)),
        "RS384" => ("RS384", Rsa(&s::RSA_PKCS1_SHA384, &s::RSA_PKCS1_2048_8192_SHA384)),
        "RS512" => ("RS512", Rsa(&s::RSA_PKCS1_SHA512, &s::RSA_PKCS1_2048_8192_SHA512)),
        "PS256" => ("PS256", Rsa(&s::RSA_PSS_SHA256, &s::RSA_PSS_2048_8192_SHA256)),
        "PS384" => ("PS384", Rsa(&s::RSA_PSS_SHA384, &s::RSA_PSS_2048_8192_SHA384)),
        "PS512" => ("PS512", Rsa(&s::RSA_PSS_SHA512, &s::RSA_PSS_2048_8192_SHA512)),
        "ES256" => {
            ("ES256", Ecdsa(&s::ECDSA_P256_SHA256_FIXED_SIGNING, &s::ECDSA_P256_SHA256_FIXED))
        }
        "ES384" => {
            ("ES384", Ecdsa(&s::ECDSA_P384_SHA384_FIXED_SIGNING, &s::ECDSA_P384_SHA384_FIXED))
        }
        "ES512" => {
            ("ES512", Ecdsa(&s::ECDSA_P521_SHA512_FIXED_SIGNING, &s::ECDSA_P521_SHA512_FIXED))
        }
        "EdDSA" => ("EdDSA", Ed25519),
        _ => return None,
    })
}

/// The key in a PEM file, or that of the certificate in it.
fn public_key(pem: &[u8]) -> Result<Vec<u8>, String> {
    let wrong = || "auth: the public key cannot be read".to_owned();
    let (label, der) = decode_pem(pem).ok_or_else(wrong)?;
    match &label[..] {
        "CERTIFICATE" => certificate_key(&der).map(<[u8]>::to_vec).ok_or_else(wrong),
        _ => Ok(der),
    }
}

/// The first block of a PEM file: its label and what it holds.
fn decode_pem(pem: &[u8]) -> Option<(String, Vec<u8>)> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    Some((label.to_owned(), BASE64_STANDARD.decode(body).ok()?))
}

/// The public key of an X.509 certificate, with its algorithm in front.
fn certificate_key(der: &[u8]) -> Option<&[u8]> {
    let (_, certificate, _) = der_element(der)?;
    let (_, mut fields, _) = der_element(certificate)?;
    // Number, algorithm, issuer, validity and subject stand before the key, and a version before
    // them if it is not the first.
    let mut before = if fields.first() == Some(&0xA0) { 6 } else { 5 };
    loop {
        let (whole, _, rest) = der_element(fields)?;
        if before == 0 {
            return Some(whole);
        }
        before -= 1;
        fields = rest;
    }
}

/// The first element: all of it, what it holds, and what follows it.
fn der_element(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (length, header) = match *der.get(1)? {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7F);
            let bytes = der.get(2..2 + count).filter(|bytes| (1..=4).contains(&bytes.len()))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 2 + count)
        }
    };
    let end = header.checked_add(length)?;
    Some((der.get(..end)?, der.get(header..end)?, der.get(end..)?))
}

/// Go's form, such as `10m` or `1h30m`, without signs.
fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(sum).ok()).flatten()
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Takes a text for a token, and its two halves for what a token says.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(text: &str) -> Option<(Arc<str>, u64)> {
    let algorithm = algorithm("HS256").expect("it is known");
    let jwt = Jwt::new(algorithm.0, algorithm.1, None, Some(b"secret"), TTL).expect("a secret");
    let (header, claims) = text.split_once('\0').unwrap_or((text, "{}"));
    let signed = format!("{}.{}", BASE64_URL.encode(header), BASE64_URL.encode(claims));
    let signature = jwt.signer.as_ref().expect("a secret").sign(signed.as_bytes()).expect("a sum");
    let token = format!("{signed}.{}", BASE64_URL.encode(signature));
    if let Ok((user, _)) = jwt.verify(&token) {
        assert!(!user.is_empty());
    }
    jwt.verify(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
    use aws_lc_rs::rsa::KeySize;

    const METHODS: [&str; 13] = [
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
        "ES384", "ES512", "EdDSA",
    ];

    fn pem(label: &str, der: &[u8]) -> Vec<u8> {
        let body = BASE64_STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
    }

    /// A private key of a method, and the public one if there is such a thing.
    fn keys(method: &str) -> (Vec<u8>, Option<Vec<u8>>) {
        let (private, public) = match algorithm(method).unwrap().1 {
            Algorithm::Hmac(_) => return (b"a secret that all members share".to_vec(), None),
            Algorithm::Rsa(..) => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
                (private.as_ref().to_vec(), public.as_ref().to_vec())
            }
            Algorithm::Ecdsa(algorithm, _) => {
                let pair = EcdsaKeyPair::generate(algorithm).unwrap();
                let private = pair.to_pkcs8v1().unwrap();
                let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
                (private.as_ref().to_vec(), public.as_ref().to_vec())
            }
            Algorithm::Ed25519 => {
                let pair = Ed25519KeyPair::generate().unwrap();
                let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
                (pair.to_pkcs8v1().unwrap().as_ref().to_vec(), public.as_ref().to_vec())
            }
        };
        (pem("PRIVATE KEY", &private), Some(pem("PUBLIC KEY", &public)))
    }

    fn jwt(method: &str, public: Option<&[u8]>, private: Option<&[u8]>) -> Result<Jwt, String> {
        let (name, algorithm) = algorithm(method).unwrap();
        Jwt::new(name, algorithm, public, private, Duration::from_secs(60))
    }

    #[test]
    fn each_method_checks_what_it_signed_and_nothing_else() {
        for method in METHODS {
            let (private, public) = keys(method);
            let signing = jwt(method, public.as_deref(), Some(&private)).unwrap();
            let token = signing.sign("ann", 7).unwrap();
            assert_eq!(signing.verify(&token), Ok(("ann".into(), 7)), "{method}");

            let (other, _) = keys(method);
            let stranger = match method.starts_with("HS") {
                true => jwt(method, None, Some(b"another secret")).unwrap(),
                false => jwt(method, None, Some(&other)).unwrap(),
            };
            assert_eq!(stranger.verify(&token), Err(RequestError::InvalidAuthToken), "{method}");
            if let Some(public) = public {
                let verify_only = jwt(method, Some(&public), None).unwrap();
                assert_eq!(verify_only.verify(&token), Ok(("ann".into(), 7)), "{method}");
                assert_eq!(verify_only.sign("ann", 7), Err(RequestError::VerifyOnlyTokens));
                let mismatch = jwt(method, Some(&public), Some(&other)).err();
                assert_eq!(mismatch.as_deref(), Some(KEY_MISMATCH), "{method}");
            }
            let missing = jwt(method, None, None).err();
            assert_eq!(missing.as_deref(), Some(MISSING_KEY), "{method}");
        }
    }

    #[test]
    fn a_token_ends_and_cannot_be_changed() {
        // Also when it was seen before, as tokens signed with a public key's other half are.
        for method in ["HS256", "EdDSA"] {
            let jwt = jwt(method, None, Some(&keys(method).0)).unwrap();
            let token = jwt.sign("ann", 7).unwrap();
            let now = unix_now();
            assert!(jwt.check(&token, now + Duration::from_secs(58)).is_some());
            assert!(jwt.check(&token, now + Duration::from_secs(62)).is_none());
            for at in 0..token.len() {
                let mut changed = token.clone().into_bytes();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(changed).unwrap();
                assert!(jwt.check(&changed, now).is_none(), "byte {at}");
                assert!(jwt.check(&token[..at], now).is_none(), "cut at {at}");
            }
            assert_eq!(jwt.proven.map(|proven| proven.len()), (method == "EdDSA").then_some(1));
        }
    }

    #[test]
    fn claims_that_say_too_little_are_no_token() {
        let jwt = jwt("HS256", None, Some(b"secret")).unwrap();
        let token = |header: &str, claims: &str| {
            let signed = format!("{}.{}", BASE64_URL.encode(header), BASE64_URL.encode(claims));
            let signature = jwt.signer.as_ref().unwrap().sign(signed.as_bytes()).unwrap();
            format!("{signed}.{}", BASE64_URL.encode(signature))
        };
        let good = r#"{"username":"ann","revision":7,"exp":4000000000}"#;
        let header = r#"{"alg":"HS256","typ":"JWT"}"#;
        let table = [
            (header, good, true),
            (r#"{"alg":"HS256"}"#, good, true),
            (r#"{"alg":"none"}"#, good, false),
            (r#"{"alg":"HS384"}"#, good, false),
            ("{}", good, false),
            ("", good, false),
            (header, r#"{"username":"ann","revision":7}"#, false),
            (header, r#"{"username":"ann","exp":4000000000}"#, false),
            (header, r#"{"revision":7,"exp":4000000000}"#, false),
            (header, r#"{"username":"","revision":7,"exp":4000000000}"#, false),
            (header, r#"{"username":1,"revision":7,"exp":4000000000}"#, false),
            (header, r#"{"username":"ann","revision":-7,"exp":4000000000}"#, false),
            (header, r#"{"username":"ann","revision":7,"exp":4000000000,"nbf":3999999999}"#, false),
            (header, "[]", false),
        ];
        for (header, claims, expected) in table {
            assert_eq!(jwt.verify(&token(header, claims)).is_ok(), expected, "{header} {claims}");
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let table = [
            ("10m", Some(600.0)),
            ("1h30m", Some(5400.0)),
            ("1.5s", Some(1.5)),
            ("250ms", Some(0.25)),
            ("0", Some(0.0)),
            ("", None),
            ("10", None),
            ("m", None),
            ("-1s", None),
            ("1x", None),
        ];
        for (text, expected) in table {
            let seconds = parse_duration(text).map(|duration| duration.as_secs_f64());
            assert_eq!(seconds, expected, "{text}");
        }
    }
}
