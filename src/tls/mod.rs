//! TLS on both ends of a socket: certificates from files, what is demanded of the other side, and
//! the words in which failures are told.
//!
//! Files are looked at again for each handshake, so that a new certificate, authority or
//! revocation list counts from the next connection on, without a restart. Nothing is resumed: a
//! certificate that was revoked must not live on in a session. Texts of errors are those of etcd,
//! whose operators and tests look for them.
//!
//! Left out: OCSP, session tickets, and cipher suites that rustls does not have.

mod accept;
mod certificate;
mod dial;
mod files;
mod origin;
mod pending;
mod self_signed;
mod suites;
mod text;
mod verify;

pub use accept::{Accepted, Refused, ServerOptions, ServerTls};
pub use dial::{DialOptions, Dialer, endpoint_url};
pub use files::TlsError;
pub use self_signed::{SelfSigned, self_signed};
pub use suites::{Suites, Version};
pub use text::reason;
pub use verify::Allowed;
