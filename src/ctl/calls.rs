//! The calls that the command line makes: paths, messages, and which of them may be sent twice.

use std::marker::PhantomData;

use crate::pb::etcdserverpb::*;
use crate::pb::{v3electionpb, v3lockpb};

/// A call of a service: what it is sent and what it answers.
pub(super) struct Call<Q, A> {
    pub(super) path: &'static str,
    /// Sent again when a server is unavailable: it changes nothing, or nothing by a second time.
    pub(super) is_repeatable: bool,
    pub(super) messages: PhantomData<(Q, A)>,
}

/// Declares calls; `twice` marks those that etcd's client repeats.
macro_rules! calls {
    ($($name:ident: $path:literal $(($twice:ident))?, $request:ty => $answer:ty;)*) => {
        $(pub(super) const $name: Call<$request, $answer> =
            Call::new($path, stringify!($($twice)?).len() > 0);)*
    };
}

calls! {
    RANGE: "/etcdserverpb.KV/Range" (twice), RangeRequest => RangeResponse;
    RANGE_STREAM: "/etcdserverpb.KV/RangeStream", RangeRequest => RangeStreamResponse;
    PUT: "/etcdserverpb.KV/Put", PutRequest => PutResponse;
    DELETE_RANGE: "/etcdserverpb.KV/DeleteRange", DeleteRangeRequest => DeleteRangeResponse;
    TXN: "/etcdserverpb.KV/Txn", TxnRequest => TxnResponse;
    COMPACT: "/etcdserverpb.KV/Compact", CompactionRequest => CompactionResponse;
    WATCH: "/etcdserverpb.Watch/Watch", WatchRequest => WatchResponse;

    LEASE_GRANT: "/etcdserverpb.Lease/LeaseGrant" (twice),
        LeaseGrantRequest => LeaseGrantResponse;
    LEASE_REVOKE: "/etcdserverpb.Lease/LeaseRevoke" (twice),
        LeaseRevokeRequest => LeaseRevokeResponse;
    LEASE_TIME_TO_LIVE: "/etcdserverpb.Lease/LeaseTimeToLive" (twice),
        LeaseTimeToLiveRequest => LeaseTimeToLiveResponse;
    LEASE_LEASES: "/etcdserverpb.Lease/LeaseLeases" (twice),
        LeaseLeasesRequest => LeaseLeasesResponse;
    LEASE_KEEP_ALIVE: "/etcdserverpb.Lease/LeaseKeepAlive" (twice),
        LeaseKeepAliveRequest => LeaseKeepAliveResponse;

    MEMBER_LIST: "/etcdserverpb.Cluster/MemberList" (twice),
        MemberListRequest => MemberListResponse;
    MEMBER_ADD: "/etcdserverpb.Cluster/MemberAdd", MemberAddRequest => MemberAddResponse;
    MEMBER_REMOVE: "/etcdserverpb.Cluster/MemberRemove",
        MemberRemoveRequest => MemberRemoveResponse;
    MEMBER_UPDATE: "/etcdserverpb.Cluster/MemberUpdate",
        MemberUpdateRequest => MemberUpdateResponse;
    MEMBER_PROMOTE: "/etcdserverpb.Cluster/MemberPromote",
        MemberPromoteRequest => MemberPromoteResponse;

    ALARM: "/etcdserverpb.Maintenance/Alarm" (twice), AlarmRequest => AlarmResponse;
    STATUS: "/etcdserverpb.Maintenance/Status" (twice), StatusRequest => StatusResponse;
    HASH_KV: "/etcdserverpb.Maintenance/HashKV" (twice), HashKvRequest => HashKvResponse;
    DEFRAGMENT: "/etcdserverpb.Maintenance/Defragment",
        DefragmentRequest => DefragmentResponse;
    SNAPSHOT: "/etcdserverpb.Maintenance/Snapshot", SnapshotRequest => SnapshotResponse;
    MOVE_LEADER: "/etcdserverpb.Maintenance/MoveLeader" (twice),
        MoveLeaderRequest => MoveLeaderResponse;
    DOWNGRADE: "/etcdserverpb.Maintenance/Downgrade",
        DowngradeRequest => DowngradeResponse;

    AUTHENTICATE: "/etcdserverpb.Auth/Authenticate" (twice),
        AuthenticateRequest => AuthenticateResponse;
    AUTH_ENABLE: "/etcdserverpb.Auth/AuthEnable", AuthEnableRequest => AuthEnableResponse;
    AUTH_DISABLE: "/etcdserverpb.Auth/AuthDisable", AuthDisableRequest => AuthDisableResponse;
    AUTH_STATUS: "/etcdserverpb.Auth/AuthStatus" (twice), AuthStatusRequest => AuthStatusResponse;
    USER_ADD: "/etcdserverpb.Auth/UserAdd", AuthUserAddRequest => AuthUserAddResponse;
    USER_GET: "/etcdserverpb.Auth/UserGet" (twice), AuthUserGetRequest => AuthUserGetResponse;
    USER_LIST: "/etcdserverpb.Auth/UserList" (twice), AuthUserListRequest => AuthUserListResponse;
    USER_DELETE: "/etcdserverpb.Auth/UserDelete", AuthUserDeleteRequest => AuthUserDeleteResponse;
    USER_CHANGE_PASSWORD: "/etcdserverpb.Auth/UserChangePassword",
        AuthUserChangePasswordRequest => AuthUserChangePasswordResponse;
    USER_GRANT_ROLE: "/etcdserverpb.Auth/UserGrantRole",
        AuthUserGrantRoleRequest => AuthUserGrantRoleResponse;
    USER_REVOKE_ROLE: "/etcdserverpb.Auth/UserRevokeRole",
        AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse;
    ROLE_ADD: "/etcdserverpb.Auth/RoleAdd", AuthRoleAddRequest => AuthRoleAddResponse;
    ROLE_GET: "/etcdserverpb.Auth/RoleGet" (twice), AuthRoleGetRequest => AuthRoleGetResponse;
    ROLE_LIST: "/etcdserverpb.Auth/RoleList" (twice), AuthRoleListRequest => AuthRoleListResponse;
    ROLE_DELETE: "/etcdserverpb.Auth/RoleDelete", AuthRoleDeleteRequest => AuthRoleDeleteResponse;
    ROLE_GRANT_PERMISSION: "/etcdserverpb.Auth/RoleGrantPermission",
        AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse;
    ROLE_REVOKE_PERMISSION: "/etcdserverpb.Auth/RoleRevokePermission",
        AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse;

    LOCK: "/v3lockpb.Lock/Lock", v3lockpb::LockRequest => v3lockpb::LockResponse;
    UNLOCK: "/v3lockpb.Lock/Unlock", v3lockpb::UnlockRequest => v3lockpb::UnlockResponse;
    CAMPAIGN: "/v3electionpb.Election/Campaign",
        v3electionpb::CampaignRequest => v3electionpb::CampaignResponse;
    OBSERVE: "/v3electionpb.Election/Observe",
        v3electionpb::LeaderRequest => v3electionpb::LeaderResponse;
    RESIGN: "/v3electionpb.Election/Resign",
        v3electionpb::ResignRequest => v3electionpb::ResignResponse;
}
