//! Member and cluster ids: the hashes that etcd computes, bit for bit.
//!
//! Members that start separately from the same flags must come to the same ids without
//! talking to each other, and backups and tools name members by them.

use crate::config::url::MemberUrl;
use crate::types::{ClusterId, MemberId};
use sha1::{Digest, Sha1};

/// The id of a member that bootstraps a cluster with `token`.
pub fn bootstrap_member_id(peer_urls: &[MemberUrl], token: &str) -> MemberId {
    member_id(peer_urls, token)
}

/// The id of a member that is added to a running cluster at `unix_seconds`: the same URLs
/// added again make another member.
pub fn added_member_id(peer_urls: &[MemberUrl], unix_seconds: i64) -> MemberId {
    member_id(peer_urls, &unix_seconds.to_string())
}

/// The cluster's id, from its first members.
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> ClusterId {
    let mut ids: Vec<u64> = members.into_iter().map(|id| id.0).collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    ClusterId(first_bytes(hash))
}

fn member_id(peer_urls: &[MemberUrl], suffix: &str) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(MemberUrl::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(suffix);
    MemberId(first_bytes(hash))
}

fn first_bytes(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(text: &str) -> Vec<MemberUrl> {
        MemberUrl::parse_list(text).unwrap()
    }

    #[test]
    fn ids_are_those_that_etcd_prints() {
        let table = [
            ("http://localhost:2380", "etcd-cluster", "8e9e05c52164694d", "cdf818194e3a8c32"),
            // Leading zeros are not printed: this id has 14 digits.
            ("https://localhost:20001", "new", "a8f3458387986d", "34c21a2d427db393"),
        ];
        for (peer_urls, token, member, cluster) in table {
            let id = bootstrap_member_id(&urls(peer_urls), token);
            assert_eq!(id.to_string(), member);
            assert_eq!(cluster_id([id]).to_string(), cluster);
        }

        let three = [
            ("http://127.0.0.1:2380", "71405583d3e2d5ce"),
            ("http://10.0.0.2:2390,http://10.0.0.2:2380", "c3149cc42eb9d823"),
            ("http://10.0.0.3:2380", "7aa181191753809e"),
        ];
        let three = three.map(|(peer_urls, printed)| {
            let id = bootstrap_member_id(&urls(peer_urls), "tok");
            assert_eq!(id.to_string(), printed);
            id
        });
        assert_eq!(cluster_id(three).to_string(), "cb084b01568a0d33");
    }

    #[test]
    fn order_of_urls_and_members_does_not_matter() {
        let [mut ab, mut ba] = [urls("http://a:1,http://b:1"), urls("http://a:1,http://b:1")];
        ab.sort();
        ba.reverse();
        assert_eq!(bootstrap_member_id(&ab, "t"), bootstrap_member_id(&ba, "t"));
        assert_eq!(cluster_id([MemberId(1), MemberId(2)]), cluster_id([MemberId(2), MemberId(1)]));
        assert_ne!(cluster_id([MemberId(1), MemberId(2)]), cluster_id([MemberId(1)]));
    }

    #[test]
    fn added_members_differ_by_the_second_they_are_added_in() {
        let urls = urls("http://localhost:2380");
        assert_ne!(added_member_id(&urls, 1_700_000_000), added_member_id(&urls, 1_700_000_001));
        assert_eq!(added_member_id(&urls, 17), bootstrap_member_id(&urls, "17"));
    }
}
