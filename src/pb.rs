//! Messages and service stubs, generated from `proto/`.
//!
//! One module for each protobuf package, named like it. Byte fields are [`bytes::Bytes`],
//! so that decoding a request copies no key and no value. Nothing here is written by hand
//! but this list; what a field means stands in its `.proto` file.

/// Declares one package; the lints allowed are those that generated code cannot follow.
macro_rules! package {
    ($module:ident, $package:literal, $what:literal) => {
        #[doc = $what]
        #[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]
        #[allow(rustdoc::invalid_html_tags, rustdoc::bare_urls)]
        pub mod $module {
            tonic::include_proto!($package);
        }
    };
}

package!(
    etcdserverpb,
    "etcdserverpb",
    "etcd's client API: KV, Watch, Lease, Cluster, Maintenance, Auth."
);
package!(mvccpb, "mvccpb", "Stored pairs and events.");
package!(authpb, "authpb", "Users, roles, permissions.");
package!(membershippb, "membershippb", "Members as etcd's own files store them.");
package!(v3lockpb, "v3lockpb", "The lock service.");
package!(v3electionpb, "v3electionpb", "The election service.");
package!(health, "grpc.health.v1", "gRPC's standard health service.");
package!(quoinpb, "quoinpb", "Raft entries, and messages between members.");

/// The descriptors of all of them, an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
