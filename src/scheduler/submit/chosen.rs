//! The cases of a submit: those that it names, those that a prefix stands for, and those that are
//! pulled in, with the copies that the run gets of them.

use super::SubmitError;
use crate::scheduler::catalog;
use crate::scheduler::client::Client;
use crate::scheduler::keys;
use crate::scheduler::model::{CaseCopy, Copier, Missing, Outline, Repeats, RunSpec, TestCase};
use crate::scheduler::store::Kv;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Cases that are read by their names; for more of them all cases are read together.
const SINGLE_READS_MAX: usize = 1_000;

#[derive(Default)]
pub(super) struct Chosen {
    /// In the order of the submit, with their own number of repeats if they have one.
    pub(super) selected: Vec<(Arc<str>, Option<Repeats>)>,
    cases: BTreeMap<Arc<str>, CaseCopy>,
    copier: Copier,
}

/// Looks up what a submit selects, among the cases of the store and new ones, which go before them.
pub(super) async fn read(
    client: &Client,
    spec: &RunSpec,
    new: &[TestCase],
) -> Result<Chosen, SubmitError> {
    let mut chosen = Chosen::default();
    new.iter().for_each(|case| chosen.add(case.clone(), spec.submitted));
    let new: BTreeSet<&str> = new.iter().map(|case| &*case.id).collect();
    let named = spec.cases.iter().filter(|selected| selected.prefix().is_none());
    let named = named.map(|selected| selected.case.clone());
    let mut next: BTreeSet<String> = named.filter(|id| !new.contains(&**id)).collect();
    if next.len() > SINGLE_READS_MAX {
        let wanted = std::mem::take(&mut next);
        let take = |id: &str| wanted.contains(id);
        each(client, "", |kv| chosen.keep(&kv, spec, take).map(drop)).await?;
    }
    chosen.read_named(client, spec, next).await?;
    for selected in &spec.cases {
        let Some(prefix) = selected.prefix() else {
            chosen.selected.push((selected.case.as_str().into(), selected.repeats.clone()));
            continue;
        };
        let before = chosen.selected.len();
        let fits = new.iter().filter(|id| id.starts_with(prefix));
        chosen.selected.extend(fits.map(|id| (Arc::from(*id), selected.repeats.clone())));
        each(client, prefix, |kv| {
            let id = chosen.keep(&kv, spec, |id| !new.contains(id))?;
            chosen.selected.push((id, selected.repeats.clone()));
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
                self.add(case, spec.submitted);
            }
            next.retain(|id| !asked.contains(id) && !self.cases.contains_key(&**id));
        }
        Ok(())
    }

    /// Keeps what a key holds if it is a case that is wanted and in use, and says its id.
    pub(super) fn keep(
        &mut self,
        kv: &Kv,
        spec: &RunSpec,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Option<Arc<str>> {
        let copy = self.copier.read(&kv.value, spec.submitted)?;
        // What ran once may run again.
        let is_there = !copy.outline.is_deleted || spec.rerun_of.is_some();
        let is_meant = is_there && is_wanted(&copy.outline.id);
        is_meant.then(|| self.insert(copy))
    }

    fn add(&mut self, case: TestCase, now: u64) {
        if let Some(copy) = self.copier.copy(case, now) {
            self.insert(copy);
        }
    }

    fn insert(&mut self, copy: CaseCopy) -> Arc<str> {
        let id = copy.outline.id.clone();
        self.cases.insert(id.clone(), copy);
        id
    }

    pub(super) fn case(&self, id: &str) -> Option<&CaseCopy> {
        self.cases.get(id)
    }

    pub(super) fn outline(&self, id: &str) -> Option<&Outline> {
        Some(&self.case(id)?.outline)
    }
}
