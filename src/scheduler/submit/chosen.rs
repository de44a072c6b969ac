//! The cases of a submit: those that it names, those that a prefix stands for, and those that are
//! pulled in, with the texts that the run gets copies of.

use super::SubmitError;
use crate::scheduler::catalog;
use crate::scheduler::client::Client;
use crate::scheduler::keys;
use crate::scheduler::model::{
    Environment, Missing, Outline, Rules, RunSpec, Selected, Survey, TestCase,
};
use crate::scheduler::store::Kv;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of definitions in one key.
const PACK_BYTES: usize = 256 * 1024;
/// Cases that are read by their names; for more of them all cases are read together.
const SINGLE_READS_MAX: usize = 1_000;

/// A case as it is copied.
pub(super) struct Copy {
    pub(super) outline: Outline,
    /// In JSON.
    text: Box<[u8]>,
}

#[derive(Default)]
pub(super) struct Chosen {
    /// By name, in the order of the submit.
    pub(super) selected: Vec<Selected>,
    pub(super) cases: BTreeMap<Arc<str>, Copy>,
    /// Of the case that was added last.
    rules: Option<Arc<Rules>>,
}

/// Looks up what a submit selects.
pub(super) async fn read(client: &Client, spec: &RunSpec) -> Result<Chosen, SubmitError> {
    let mut chosen = Chosen::default();
    let named = spec.cases.iter().filter(|selected| selected.prefix().is_none());
    let mut next: BTreeSet<String> = named.map(|selected| selected.case.clone()).collect();
    if next.len() > SINGLE_READS_MAX {
        let wanted = std::mem::take(&mut next);
        let take = |id: &str| wanted.contains(id);
        each(client, "", |kv| chosen.keep(&kv, spec.submitted, take).map(drop)).await?;
    }
    chosen.read_named(client, spec, next).await?;
    for selected in &spec.cases {
        let Some(prefix) = selected.prefix() else {
            chosen.selected.push(selected.clone());
            continue;
        };
        let before = chosen.selected.len();
        each(client, prefix, |kv| {
            let id = chosen.keep(&kv, spec.submitted, |_| true)?;
            chosen.selected.push(Selected { case: id.to_string(), repeats: selected.repeats });
            Some(())
        })
        .await?;
        if chosen.selected.len() == before {
            let text = match prefix {
                "" => "there are no cases".to_owned(),
                prefix => format!("no case begins with {prefix}"),
            };
            return Err(SubmitError::Nothing(text));
        }
    }
    if spec.missing == Missing::Include {
        let before = chosen.cases.values().flat_map(|case| &case.outline.case_pre);
        let mut next: BTreeSet<String> = before.map(|before| before.case.clone()).collect();
        next.retain(|id| !chosen.cases.contains_key(&**id));
        chosen.read_named(client, spec, next).await?;
    }
    Ok(chosen)
}

/// Hands out all cases whose ids begin with a prefix, in the order of their ids, all at one revision.
async fn each(
    client: &Client,
    prefix: &str,
    mut take: impl FnMut(Kv) -> Option<()>,
) -> Result<(), SubmitError> {
    let prefix = format!("{}{prefix}", keys::CASES);
    // What is passed over was not written by us.
    let take = |kv| take(kv).unwrap_or_default();
    client.each(&prefix, 0, take).await?;
    Ok(())
}

impl Chosen {
    /// Cases by their ids, and where the submit wants it those that they wait for.
    async fn read_named(
        &mut self,
        client: &Client,
        spec: &RunSpec,
        mut next: BTreeSet<String>,
    ) -> Result<(), SubmitError> {
        let mut asked = BTreeSet::new();
        while !next.is_empty() {
            let ids: Vec<String> = next.iter().cloned().collect();
            asked.append(&mut next);
            for (_, case) in catalog::of_ids::<TestCase>(client, &ids).await? {
                if spec.missing == Missing::Include {
                    next.extend(case.case_pre.iter().map(|before| before.case.clone()));
                }
                self.add(case, None, spec.submitted);
            }
            next.retain(|id| !asked.contains(id) && !self.cases.contains_key(&**id));
        }
        Ok(())
    }

    /// Keeps what a key holds if it is a case that is wanted and in use, and says its id.
    fn keep(&mut self, kv: &Kv, now: u64, is_wanted: impl Fn(&str) -> bool) -> Option<Arc<str>> {
        let case: TestCase = serde_json::from_slice(&kv.value).ok()?;
        if case.is_deleted || !is_wanted(&case.id) {
            return None;
        }
        Some(self.add(case, Some(&kv.value), now))
    }

    /// Keeps a case; `text` is what was read of it.
    pub(super) fn add(&mut self, mut case: TestCase, text: Option<&[u8]>, now: u64) -> Arc<str> {
        let state = case.state;
        case.end_state(now);
        let text = match text.filter(|_| case.state == state) {
            Some(text) => text.into(),
            // What was read as a case can be written as one.
            None => serde_json::to_vec(&case).unwrap_or_default().into(),
        };
        let outline = Outline::new(&case, &mut self.rules);
        let id = outline.id.clone();
        self.cases.insert(id.clone(), Copy { outline, text });
        id
    }
}

/// Definitions that go into one key.
pub(super) struct Pack {
    /// The number of the first case.
    pub(super) first: u32,
    /// As `Definitions` is written.
    pub(super) text: Vec<u8>,
}

/// The definitions of a run, as many together as fit into a key, made one after the other.
pub(super) struct Packs<'a> {
    /// The cases in the order of the lanes, each with its repeats.
    cases: Vec<(&'a Copy, u32)>,
    environments: &'a [Environment],
    /// Whether the repeats are written, too: the run does not name its cases.
    has_repeats: bool,
    next: usize,
}

impl<'a> Packs<'a> {
    pub(super) fn new(
        survey: &Survey<'_>,
        cases: &'a BTreeMap<Arc<str>, Copy>,
        environments: &'a [Environment],
        has_repeats: bool,
    ) -> Self {
        let of_run = survey.cases.iter();
        let cases = of_run.filter_map(|(case, repeats)| Some((cases.get(&case.id)?, *repeats)));
        let cases = cases.collect();
        Self { cases, environments, has_repeats, next: 0 }
    }

    /// The one pack that holds all, if one does.
    pub(super) fn only(&mut self) -> Option<Pack> {
        let end = self.end();
        (end == self.cases.len()).then(|| self.next()).flatten()
    }

    /// Up to where the next pack goes.
    fn end(&self) -> usize {
        let mut bytes = 0;
        let fits = |(case, _): &&(&Copy, u32)| {
            bytes += case.text.len();
            bytes <= PACK_BYTES
        };
        let fitting = self.cases[self.next..].iter().take_while(fits).count();
        // A longer case has a key of its own.
        (self.next + fitting.max(1)).min(self.cases.len())
    }
}

impl Iterator for Packs<'_> {
    type Item = Pack;

    fn next(&mut self) -> Option<Pack> {
        let (start, end) = (self.next, self.end());
        if start == end {
            return None;
        }
        self.next = end;
        let cases = &self.cases[start..end];
        let (total, first) = (self.cases.len(), start as u32);
        let mut text = format!(r#"{{"total":{total},"first":{first},"cases":["#).into_bytes();
        for (n, (case, _)) in cases.iter().enumerate() {
            text.extend((n > 0).then_some(b','));
            text.extend(&case.text);
        }
        text.push(b']');
        let mut part = |name: &str, value: Vec<u8>| {
            text.extend(format!(r#","{name}":"#).bytes());
            text.extend(value);
        };
        if self.has_repeats {
            let repeats: Vec<u32> = cases.iter().map(|(_, repeats)| *repeats).collect();
            part("repeats", serde_json::to_vec(&repeats).unwrap_or_default());
        }
        if start == 0 && !self.environments.is_empty() {
            part("environments", serde_json::to_vec(self.environments).unwrap_or_default());
        }
        text.push(b'}');
        Some(Pack { first, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::coordinator::Definitions;

    fn case(id: &str, bytes: usize) -> TestCase {
        TestCase { id: id.into(), name: "x".repeat(bytes), ..Default::default() }
    }

    fn packed(cases: &[TestCase], environments: &[Environment]) -> Vec<Definitions> {
        let mut chosen = Chosen::default();
        cases.iter().for_each(|case| drop(chosen.add(case.clone(), None, 0)));
        let selected = cases.iter().zip(1..);
        let spec = RunSpec {
            cases: selected
                .map(|(case, n)| Selected { case: case.id.clone(), repeats: Some(n) })
                .collect(),
            environments: environments.iter().map(|found| found.id.clone()).collect(),
            ..Default::default()
        };
        let spec = RunSpec { repeats: 1, queue: "q".into(), ..spec };
        let by_id = environments.iter().map(|found| (found.id.clone(), found.clone())).collect();
        let find = |id: &str| Some(&chosen.cases.get(id)?.outline);
        let survey = crate::scheduler::model::survey(&spec, find, &by_id).unwrap();
        let mut packs = Packs::new(&survey, &chosen.cases, environments, true);
        if packs.only().is_some() {
            packs.next = 0;
        }
        packs.map(|pack| serde_json::from_slice(&pack.text).unwrap()).collect()
    }

    #[test]
    fn packs_hold_all_definitions_once_and_in_order() {
        let places: Vec<Environment> =
            ["lab", "field"].map(|id| Environment { id: id.into(), ..Default::default() }).into();
        for (sizes, expected) in [
            (vec![1], vec![1]),
            (vec![1, 2, 3], vec![3]),
            (vec![PACK_BYTES, 1, 1], vec![1, 2]),
            (vec![1, 2 * PACK_BYTES, 1], vec![1, 1, 1]),
            (vec![PACK_BYTES / 2; 4], vec![1, 1, 1, 1]),
            (vec![PACK_BYTES / 3; 4], vec![2, 2]),
        ] {
            let cases: Vec<TestCase> =
                sizes.iter().zip(1..).map(|(size, n)| case(&format!("c{n}"), *size)).collect();
            let packs = packed(&cases, &places);
            let lengths: Vec<usize> = packs.iter().map(|pack| pack.cases.len()).collect();
            assert_eq!(lengths, expected, "{sizes:?}");
            let found: Vec<&TestCase> = packs.iter().flat_map(|pack| &pack.cases).collect();
            assert_eq!(found, cases.iter().collect::<Vec<_>>());
            let repeats: Vec<u32> = packs.iter().flat_map(|pack| pack.repeats.clone()).collect();
            assert_eq!(repeats, (1..=cases.len() as u32).collect::<Vec<_>>());
            let mut first = 0;
            for (n, pack) in packs.iter().enumerate() {
                assert_eq!((pack.first, pack.total), (first, cases.len() as u32));
                assert_eq!(pack.environments.len(), if n == 0 { 2 } else { 0 });
                first += pack.cases.len() as u32;
            }
        }
    }
}
