//! What Go's HTTP/2 library says of requests when `GODEBUG=http2debug=2` asks it to, as far as tests of
//! etcd wait for it: the `:authority` of each. Plain text, as it is there.

use std::io::Write as _;
use std::sync::LazyLock;

static IS_ON: LazyLock<bool> = LazyLock::new(|| {
    let wishes = std::env::var("GODEBUG").unwrap_or_default();
    wishes.split(',').any(|wish| wish.trim() == "http2debug=2")
});

/// Costs one load unless it was asked for.
pub(super) fn show_authority<B>(request: &http::Request<B>) {
    if *IS_ON && let Some(authority) = request.uri().authority() {
        let name = "http2: decoded hpack field header field \":authority\"";
        let _closed = writeln!(std::io::stderr(), "{name} = {:?}", authority.as_str());
    }
}
