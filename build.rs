//! Compiles `proto/` into server and client stubs, in Rust alone: no `protoc` is needed.

use std::error::Error;

/// All packages; imports among them are named relative to `proto/`.
const PROTOS: [&str; 9] = [
    "etcd/mvccpb.proto",
    "etcd/authpb.proto",
    "etcd/membershippb.proto",
    "etcd/etcdserverpb.proto",
    "etcd/v3lockpb.proto",
    "etcd/v3electionpb.proto",
    "grpc/health.proto",
    "quoin/command.proto",
    "quoin/peer.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure()
        // Byte fields share the buffer that the message came in.
        .bytes(".")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
