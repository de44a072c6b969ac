//! Calls by what clients say of their version.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Calls by the version that clients say they have.
#[derive(Default)]
pub(super) struct Clients {
    unknown: AtomicU64,
    /// 3.0 to 3.9.
    third: [AtomicU64; 10],
    others: Mutex<BTreeMap<String, u64>>,
}

/// Versions told apart beside those that exist: what clients send must not grow the page.
const OTHER_VERSIONS_MAX: usize = 50;

impl Clients {
    /// A call from a client of this version, if it names one.
    pub(super) fn count(&self, version: Option<&[u8]>) {
        let counter = match version {
            None => &self.unknown,
            Some([b'3', b'.', minor @ b'0'..=b'9']) => &self.third[usize::from(minor - b'0')],
            Some(other) => {
                let mut others = self.others.lock();
                let name = match std::str::from_utf8(other) {
                    Ok(name) if others.len() < OTHER_VERSIONS_MAX || others.contains_key(name) => {
                        name
                    }
                    _ => "other",
                };
                *others.entry(name.to_owned()).or_default() += 1;
                return;
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Vec<(String, u64)> {
        let third = self
            .third
            .iter()
            .enumerate()
            .map(|(minor, count)| (format!("3.{minor}"), count.load(Ordering::Relaxed)));
        let others: Vec<_> =
            self.others.lock().iter().map(|(name, count)| (name.clone(), *count)).collect();
        let unknown = ("unknown".to_owned(), self.unknown.load(Ordering::Relaxed));
        third.filter(|(_, count)| *count > 0).chain(others).chain([unknown]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_versions_are_bounded() {
        let clients = Clients::default();
        for n in 0..200 {
            clients.count(Some(format!("4.{n}").as_bytes()));
        }
        clients.count(Some(b"\xFF"));
        let counts = clients.counts();
        assert_eq!(counts.len(), OTHER_VERSIONS_MAX + 2);
        assert!(counts.contains(&("other".to_owned(), 151)));
    }
}
