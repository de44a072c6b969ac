//! etcd's services on gRPC and HTTP: one file for each service, and what they share.
//!
//! A call is checked ([`validate`]), carried out, and its error translated ([`status`]);
//! nothing below this module knows gRPC, and nothing in it decides about data.

pub mod status;
pub mod validate;
