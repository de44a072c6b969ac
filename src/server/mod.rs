//! etcd's services on gRPC and HTTP: one file for each service, and what they share.
//!
//! A call is checked ([`validate`]), carried out, and its error translated ([`status`]);
//! nothing below this module knows gRPC, and nothing in it decides about data.

pub mod access;
pub mod auth;
mod authority;
pub mod backup;
mod budget;
mod call_head;
pub mod cluster;
mod connection;
mod deadline;
mod departure;
mod downgrade;
pub mod election;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gateway;
mod go_words;
pub mod header;
pub mod health;
pub mod hpack;
pub mod http;
mod http2_debug;
pub mod jwt;
pub mod kv;
pub mod lease;
pub mod limits;
pub mod listener;
pub mod lock;
mod long_range;
mod long_work;
pub mod maintenance;
mod metadata;
mod metered;
mod one_message;
mod ownership;
pub mod password;
pub mod peer_pages;
mod pings;
mod profiles;
mod proven;
pub mod quota;
pub mod readings;
mod request_stats;
pub mod routes;
mod socket;
pub mod status;
pub mod token;
mod unary;
pub mod validate;
mod vars;
mod verified;
pub mod visitors;
pub mod watch;
mod web;
