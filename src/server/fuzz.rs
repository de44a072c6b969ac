//! The targets of [`crate::fuzz`] that look at what arrives on a client's connection.

use super::authority::Mender;
use super::{gateway as json, jwt};

/// A body of the gateway, behind a byte that chooses the call and one that cuts the body: what is understood
/// survives the way to JSON and back.
pub(crate) fn gateway(data: &[u8]) {
    let [call, piece, body @ ..] = data else { return };
    json::fuzz(usize::from(*call), usize::from(*piece).max(1), body);
}

/// A token that a client shows: none of these was signed by us.
pub(crate) fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    assert!(jwt::fuzz(&text).is_none(), "a forged token is taken");
}

/// Bytes of a connection behind one that cuts them: what leaves does not depend on the cuts.
pub(crate) fn authority(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let pass = |piece: usize| {
        let mut mender = Mender::default();
        let mut passed = Vec::new();
        for piece in bytes.chunks(piece) {
            mender.push(piece);
            passed.extend_from_slice(&mender.pop(usize::MAX));
        }
        mender.end();
        passed.extend_from_slice(&mender.pop(usize::MAX));
        assert!(mender.is_done());
        passed
    };
    assert!(pass(usize::from(*piece).max(1)) == pass(bytes.len().max(1)));
}

/// A request of a client that sends a URL.
#[cfg(test)]
pub(crate) fn authority_seed() -> Vec<u8> {
    let head = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x0b\x01\x04\0\0\0\x01";
    [b"\x07", &head[..], b"\x83\x41\x06a://bc\x86\x44"].concat()
}
