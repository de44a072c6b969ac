//! What the gateway knows of messages: the descriptors that the build keeps of `proto/`, and
//! the table of paths.
//!
//! A call is reached by its path as soon as its service is on the client listener's router:
//! nothing here is written for one message or another.

use crate::pb::DESCRIPTORS;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Paths below `/v3/` and the calls behind them. All are POST.
const PATHS: [(&str, &str); 51] = [
    ("kv/range", "etcdserverpb.KV/Range"),
    ("kv/put", "etcdserverpb.KV/Put"),
    ("kv/deleterange", "etcdserverpb.KV/DeleteRange"),
    ("kv/txn", "etcdserverpb.KV/Txn"),
    ("kv/compaction", "etcdserverpb.KV/Compact"),
    ("watch", "etcdserverpb.Watch/Watch"),
    ("lease/grant", "etcdserverpb.Lease/LeaseGrant"),
    ("lease/revoke", "etcdserverpb.Lease/LeaseRevoke"),
    ("kv/lease/revoke", "etcdserverpb.Lease/LeaseRevoke"),
    ("lease/keepalive", "etcdserverpb.Lease/LeaseKeepAlive"),
    ("lease/timetolive", "etcdserverpb.Lease/LeaseTimeToLive"),
    ("kv/lease/timetolive", "etcdserverpb.Lease/LeaseTimeToLive"),
    ("lease/leases", "etcdserverpb.Lease/LeaseLeases"),
    ("kv/lease/leases", "etcdserverpb.Lease/LeaseLeases"),
    ("cluster/member/add", "etcdserverpb.Cluster/MemberAdd"),
    ("cluster/member/remove", "etcdserverpb.Cluster/MemberRemove"),
    ("cluster/member/update", "etcdserverpb.Cluster/MemberUpdate"),
    ("cluster/member/list", "etcdserverpb.Cluster/MemberList"),
    ("cluster/member/promote", "etcdserverpb.Cluster/MemberPromote"),
    ("maintenance/alarm", "etcdserverpb.Maintenance/Alarm"),
    ("maintenance/status", "etcdserverpb.Maintenance/Status"),
    ("maintenance/defragment", "etcdserverpb.Maintenance/Defragment"),
    ("maintenance/hash", "etcdserverpb.Maintenance/Hash"),
    ("maintenance/hashkv", "etcdserverpb.Maintenance/HashKV"),
    ("maintenance/snapshot", "etcdserverpb.Maintenance/Snapshot"),
    ("maintenance/transfer-leadership", "etcdserverpb.Maintenance/MoveLeader"),
    ("maintenance/downgrade", "etcdserverpb.Maintenance/Downgrade"),
    ("auth/enable", "etcdserverpb.Auth/AuthEnable"),
    ("auth/disable", "etcdserverpb.Auth/AuthDisable"),
    ("auth/status", "etcdserverpb.Auth/AuthStatus"),
    ("auth/authenticate", "etcdserverpb.Auth/Authenticate"),
    ("auth/user/add", "etcdserverpb.Auth/UserAdd"),
    ("auth/user/get", "etcdserverpb.Auth/UserGet"),
    ("auth/user/list", "etcdserverpb.Auth/UserList"),
    ("auth/user/delete", "etcdserverpb.Auth/UserDelete"),
    ("auth/user/changepw", "etcdserverpb.Auth/UserChangePassword"),
    ("auth/user/grant", "etcdserverpb.Auth/UserGrantRole"),
    ("auth/user/revoke", "etcdserverpb.Auth/UserRevokeRole"),
    ("auth/role/add", "etcdserverpb.Auth/RoleAdd"),
    ("auth/role/get", "etcdserverpb.Auth/RoleGet"),
    ("auth/role/list", "etcdserverpb.Auth/RoleList"),
    ("auth/role/delete", "etcdserverpb.Auth/RoleDelete"),
    ("auth/role/grant", "etcdserverpb.Auth/RoleGrantPermission"),
    ("auth/role/revoke", "etcdserverpb.Auth/RoleRevokePermission"),
    ("lock/lock", "v3lockpb.Lock/Lock"),
    ("lock/unlock", "v3lockpb.Lock/Unlock"),
    ("election/campaign", "v3electionpb.Election/Campaign"),
    ("election/proclaim", "v3electionpb.Election/Proclaim"),
    ("election/leader", "v3electionpb.Election/Leader"),
    ("election/observe", "v3electionpb.Election/Observe"),
    ("election/resign", "v3electionpb.Election/Resign"),
];

/// One call.
#[derive(Debug)]
pub(super) struct Method {
    /// As it stands in the request line of gRPC: `/package.Service/Method`.
    pub path: String,
    pub input: MessageDescriptor,
    pub output: MessageDescriptor,
    pub takes_stream: bool,
    pub gives_stream: bool,
}

/// The call behind a path below `/v3/`.
pub(super) fn method(path: &str) -> Option<&'static Method> {
    static METHODS: LazyLock<HashMap<&'static str, Method>> = LazyLock::new(methods);
    METHODS.get(path)
}

fn methods() -> HashMap<&'static str, Method> {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build made this descriptor set");
    let find = |call: &str| {
        let (service, name) = call.split_once('/').expect("service and method");
        let service = pool.get_service_by_name(service).expect("the service is in proto/");
        let method = service.methods().find(|method| method.name() == name);
        let method = method.expect("the method is in proto/");
        Method {
            path: format!("/{call}"),
            input: method.input(),
            output: method.output(),
            takes_stream: method.is_client_streaming(),
            gives_stream: method.is_server_streaming(),
        }
    };
    PATHS.iter().map(|(path, call)| (*path, find(call))).collect()
}

/// A call by its place in the list, from the front again behind the end.
#[cfg(any(test, fuzzing))]
pub(super) fn nth(place: usize) -> &'static Method {
    method(PATHS[place % PATHS.len()].0).expect("a path of the list")
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::Kind;
    use std::collections::BTreeSet;

    /// What [`super::super::read`] and [`super::super::write`] can do is all that there is.
    #[test]
    fn every_field_of_every_call_is_of_a_known_kind() {
        let mut seen = BTreeSet::new();
        let mut left: Vec<MessageDescriptor> =
            methods().into_values().flat_map(|method| [method.input, method.output]).collect();
        while let Some(message) = left.pop() {
            if !seen.insert(message.full_name().to_owned()) {
                continue;
            }
            for field in message.fields() {
                assert!(!field.is_map() && !field.is_group(), "{}", field.full_name());
                match field.kind() {
                    Kind::Message(inner) => left.push(inner),
                    Kind::Bool | Kind::Bytes | Kind::String | Kind::Enum(_) => {}
                    Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => {}
                    other => panic!("{}: {other:?}", field.full_name()),
                }
            }
        }
        assert!(seen.len() > 90, "only {} messages", seen.len());
    }

    #[test]
    fn every_call_of_the_client_listener_but_one_has_a_path() {
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let of_clients = ["etcdserverpb", "v3lockpb", "v3electionpb"];
        let mut without: Vec<String> = pool
            .services()
            .filter(|service| of_clients.contains(&service.package_name()))
            .flat_map(|service| {
                service.methods().map(|m| m.full_name().to_owned()).collect::<Vec<_>>()
            })
            .collect();
        for method in methods().values() {
            let name = method.path[1..].replace('/', ".");
            without.retain(|other| *other != name);
        }
        // etcd has no path for it either.
        assert_eq!(without, ["etcdserverpb.KV.RangeStream"]);
    }
}
