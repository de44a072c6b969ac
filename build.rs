//! Compiles `proto/` into server and client stubs, in Rust alone: no `protoc` is needed.

use protox::Compiler;
use std::error::Error;
use std::path::Path;

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
    // For the JSON gateway, which reads messages by their descriptors.
    let bare = Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(false)
        .open_files(PROTOS)?
        .encode_file_descriptor_set();
    let folder = std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    std::fs::write(Path::new(&folder).join("descriptors.bin"), bare)?;
    tonic_prost_build::configure()
        // Byte fields share the buffer that the message came in.
        .bytes(".")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
