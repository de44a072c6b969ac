//! The bounds that services check, taken from the configuration once.

/// See the fields.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of an encoded command; etcd's `--max-request-bytes`.
    pub request_bytes_max: usize,
    /// Operations on one level of a transaction; etcd's `--max-txn-ops`.
    pub txn_ops_max: usize,
    /// Seconds below which a lease's TTL is raised: one and a half election timeouts, rounded up.
    pub lease_ttl_min: i64,
    /// Learners that the cluster may have; etcd's `--max-learners`.
    pub learners_max: u32,
    /// Whether changes of members that endanger the quorum are refused; etcd's
    /// `--strict-reconfig-check`.
    pub strict_reconfiguration: bool,
    /// Bytes that the store may hold, negative for no bound; etcd's `--quota-backend-bytes`.
    pub quota_bytes: i64,
    /// Bytes that the answers to long ranges may hold together. What finds no room is read again while
    /// it is sent.
    pub range_bytes: usize,
}

impl Limits {
    /// What a message may weigh on the wire: the command's bound and room for the rest of it.
    pub fn message_bytes_max(&self) -> usize {
        self.request_bytes_max + 512 * 1024
    }
}
