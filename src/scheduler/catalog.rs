//! What test teams describe, as it lies in the store: cases and environments with their versions.
//!
//! The version of a definition is the revision of its last change; whoever says which one he has seen
//! overwrites no other. Deleted definitions stay, marked, until they are described anew: runs have
//! copies of their own.

use super::client::Client;
use super::keys;
use super::model::{Environment, Refusal, TestCase, find_circle};
use super::store::{Compare, Kv, Op, Outcome, Txn};
use super::submit::SubmitError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

/// Cases that are followed to see whether a new one closes a circle; a submit sees longer ones.
const FOLLOWED_MAX: usize = 10_000;
/// Keys that are read together.
const READS_MAX: usize = 64;
/// Keys in one read of a list.
const PAGE: i64 = 500;
/// Definitions that are looked through for one page of a list with a filter.
const LOOKED_AT_MAX: usize = 10_000;
/// Attempts to write what somebody else changes at the same time.
const TRIES: usize = 5;

/// A kind of definition.
pub trait Definition: Clone + Serialize + DeserializeOwned + Send + Sync {
    const PREFIX: &'static str;
    /// What one is called.
    const WHAT: &'static str;

    fn id(&self) -> &str;
    /// # Errors
    /// 400 with what is wrong.
    fn check(&self) -> Result<(), Refusal>;
    fn is_deleted(&self) -> bool;
    /// When it was created and changed, and whether it is deleted.
    fn marks(&mut self) -> (&mut String, &mut String, &mut bool);
}

impl Definition for TestCase {
    const PREFIX: &'static str = keys::CASES;
    const WHAT: &'static str = "case";

    fn id(&self) -> &str {
        &self.id
    }

    fn check(&self) -> Result<(), Refusal> {
        TestCase::check(self)
    }

    fn is_deleted(&self) -> bool {
        self.is_deleted
    }

    fn marks(&mut self) -> (&mut String, &mut String, &mut bool) {
        (&mut self.gmt_create, &mut self.gmt_modified, &mut self.is_deleted)
    }
}

impl Definition for Environment {
    const PREFIX: &'static str = keys::ENVIRONMENTS;
    const WHAT: &'static str = "environment";

    fn id(&self) -> &str {
        &self.id
    }

    fn check(&self) -> Result<(), Refusal> {
        Environment::check(self)
    }

    fn is_deleted(&self) -> bool {
        self.is_deleted
    }

    fn marks(&mut self) -> (&mut String, &mut String, &mut bool) {
        (&mut self.gmt_create, &mut self.gmt_modified, &mut self.is_deleted)
    }
}

/// A definition as it was read or written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stored<T> {
    #[serde(flatten)]
    pub value: T,
    pub version: i64,
}

/// Part of a list.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    pub items: Vec<Stored<T>>,
    /// The id behind which the list goes on.
    pub next: Option<String>,
    /// Keys from the asked place to the end, whether they fit the filter or not.
    pub left: i64,
}

fn key<T: Definition>(id: &str) -> String {
    format!("{}{id}", T::PREFIX)
}

fn parse<T: Definition>(kv: &Kv) -> Result<Stored<T>, SubmitError> {
    let value = serde_json::from_slice(&kv.value).map_err(|error| {
        let what = format!("{} does not hold a {}: {error}", kv.key, T::WHAT);
        Refusal::new(422, what)
    })?;
    Ok(Stored { value, version: kv.mod_revision })
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

fn unknown<T: Definition>(id: &str) -> SubmitError {
    Refusal::new(404, format!("unknown {} {id}", T::WHAT)).into()
}

/// A definition, also one that is marked as deleted.
pub async fn find<T: Definition>(
    client: &Client,
    id: &str,
) -> Result<Option<Stored<T>>, SubmitError> {
    client.get(&key::<T>(id)).await?.as_ref().map(parse).transpose()
}

/// A definition that is in use.
///
/// # Errors
/// 404 if there is none, or it is deleted.
pub async fn get<T: Definition>(client: &Client, id: &str) -> Result<Stored<T>, SubmitError> {
    let found = find::<T>(client, id).await?.filter(|found| !found.value.is_deleted());
    found.ok_or_else(|| unknown::<T>(id))
}

/// Definitions by their ids; what is not there is left out.
pub async fn of_ids<T: Definition>(
    client: &Client,
    ids: &[String],
) -> Result<BTreeMap<String, T>, SubmitError> {
    let mut found = BTreeMap::new();
    let keys: Vec<String> = ids.iter().map(|id| key::<T>(id)).collect();
    for keys in keys.chunks(READS_MAX) {
        for kv in client.get_all(keys).await? {
            let value = parse::<T>(&kv)?.value;
            found.insert(value.id().to_owned(), value);
        }
    }
    Ok(found)
}

/// Writes a new definition.
///
/// # Errors
/// What `check` refuses; 409 if there is one of this id.
pub async fn create<T: Definition>(client: &Client, value: T) -> Result<Stored<T>, SubmitError> {
    value.check()?;
    let before = find::<T>(client, value.id()).await?;
    if before.as_ref().is_some_and(|before| !before.value.is_deleted()) {
        let text = format!("there is a {} {} already", T::WHAT, value.id());
        return Err(Refusal::new(409, text).into());
    }
    let written = write(client, value, None, before.map_or(0, |before| before.version)).await?;
    written.map_err(|()| Refusal::new(409, "somebody else has described it meanwhile").into())
}

/// Writes a definition, new or in place of one that is there.
///
/// # Errors
/// What `check` refuses; 409 if the version that is there is not the expected one.
pub async fn put<T: Definition>(
    client: &Client,
    value: T,
    expected: Option<i64>,
) -> Result<Stored<T>, SubmitError> {
    value.check()?;
    change(client, value.id(), expected, |_| Ok(value.clone())).await
}

/// Changes a definition by what it is at the time.
///
/// # Errors
/// What `change` and `check` refuse; 409 if the version that is there is not the expected one.
pub async fn change<T: Definition>(
    client: &Client,
    id: &str,
    expected: Option<i64>,
    change: impl Fn(Option<&T>) -> Result<T, Refusal>,
) -> Result<Stored<T>, SubmitError> {
    for _ in 0..TRIES {
        let before = find::<T>(client, id).await?;
        let alive = before.as_ref().filter(|before| !before.value.is_deleted());
        if let Some(expected) = expected {
            match alive {
                None => return Err(unknown::<T>(id)),
                Some(before) if before.version != expected => {
                    let (what, version) = (T::WHAT, before.version);
                    let text = format!("{what} {id} has version {version}, not {expected}");
                    return Err(Refusal::new(409, text).into());
                }
                Some(_) => {}
            }
        }
        let value = change(alive.map(|before| &before.value))?;
        value.check()?;
        let created = alive.map(|before| before.value.clone().marks().0.clone());
        let version = before.as_ref().map_or(0, |before| before.version);
        if let Ok(written) = write(client, value, created, version).await? {
            return Ok(written);
        }
    }
    let text = format!("{} {id} is changed by others all the time", T::WHAT);
    Err(Refusal::new(409, text).into())
}

/// Marks a definition as deleted.
///
/// # Errors
/// 404 if there is none; 409 if the version that is there is not the expected one.
pub async fn delete<T: Definition>(
    client: &Client,
    id: &str,
    expected: Option<i64>,
) -> Result<Stored<T>, SubmitError> {
    change::<T>(client, id, expected, |before| {
        let before = before.ok_or_else(|| Refusal::new(404, format!("unknown {} {id}", T::WHAT)));
        let mut value = before?.clone();
        *value.marks().2 = true;
        Ok(value)
    })
    .await
}

/// Writes a definition in place of the one of this version, 0 for none. The inner error says that
/// another one is there.
async fn write<T: Definition>(
    client: &Client,
    mut value: T,
    created: Option<String>,
    version: i64,
) -> Result<Result<Stored<T>, ()>, SubmitError> {
    let (gmt_create, gmt_modified, _) = value.marks();
    *gmt_modified = now();
    *gmt_create = created.unwrap_or_else(|| gmt_modified.clone());
    let key = key::<T>(value.id());
    let compare = match version {
        0 => Compare::Absent(key.clone()),
        version => Compare::ChangedAt(key.clone(), version),
    };
    let txn =
        Txn { compares: vec![compare], then: vec![Op::put(key, &value)], ..Default::default() };
    match client.txn(&txn).await {
        Outcome::Committed { revision } => Ok(Ok(Stored { value, version: revision })),
        Outcome::Refused { .. } => Ok(Err(())),
        Outcome::Failed(text) => Err(SubmitError::Store(text)),
        Outcome::Unknown => Err(SubmitError::Store("no answer".into())),
    }
}

/// Definitions in the order of their ids behind `after`, at most `limit`, that fit. A page may hold
/// fewer than there are when few of many fit; `next` then says where to go on.
pub async fn list<T: Definition>(
    client: &Client,
    after: Option<&str>,
    limit: usize,
    fits: impl Fn(&T) -> bool,
) -> Result<Listed<T>, SubmitError> {
    let end = keys::range_end(T::PREFIX);
    // The first key behind another one is that with a zero at its end.
    let mut from = after.map_or_else(|| T::PREFIX.to_owned(), |id| format!("{}\0", key::<T>(id)));
    let mut listed = Listed { items: Vec::new(), next: None, left: -1 };
    let mut looked_at = 0;
    loop {
        let page = client.page(&from, &end, PAGE.min(limit as i64 + 1), false).await?;
        if listed.left < 0 {
            listed.left = page.count;
        }
        for kv in &page.kvs {
            if listed.items.len() == limit {
                return Ok(listed);
            }
            looked_at += 1;
            listed.next = kv.key.strip_prefix(T::PREFIX).map(str::to_owned);
            // What was written by hand and is no definition is passed over.
            listed.items.extend(parse::<T>(kv).ok().filter(|found| fits(&found.value)));
        }
        match page.kvs.last() {
            Some(last) if page.has_more && looked_at < LOOKED_AT_MAX => {
                from = format!("{}\0", last.key);
            }
            _ => {
                if !page.has_more {
                    listed.next = None;
                }
                return Ok(listed);
            }
        }
    }
}

/// That a case closes no circle with the cases that are there.
///
/// # Errors
/// 400 with the path.
pub async fn check_order(client: &Client, case: &TestCase) -> Result<(), SubmitError> {
    let mut cases = vec![case.clone()];
    let mut seen = BTreeSet::from([case.id.clone()]);
    let mut next: Vec<String> = case.case_pre.iter().map(|before| before.case.clone()).collect();
    while !next.is_empty() && seen.len() < FOLLOWED_MAX {
        next.retain(|id| seen.insert(id.clone()));
        let found = of_ids::<TestCase>(client, &next).await?;
        let found = found.into_values().filter(|case| !case.is_deleted);
        let before = cases.len();
        cases.extend(found);
        let names = cases[before..].iter().flat_map(|case| &case.case_pre);
        next = names.map(|before| before.case.clone()).collect();
    }
    match find_circle(cases.iter().map(|case| (&*case.id, &case.case_pre[..]))) {
        Some(path) => Err(Refusal::new(400, format!("cases wait for each other: {path}")).into()),
        None => Ok(()),
    }
}
