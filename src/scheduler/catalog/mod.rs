//! What test teams describe, as it lies in the store: cases and environments with their versions.
//!
//! The version of a definition is the revision of its last change; whoever says which one he has seen
//! overwrites no other. Deleted definitions stay, marked, until they are described anew: runs have
//! copies of their own.

mod kinds;

pub use kinds::Definition;

use super::client::Client;
use super::keys;
use super::model::{Refusal, TestCase, find_circle};
use super::plan_file::Given;
use super::store::{Compare, Kv, Op, Outcome, Txn};
use super::submit::{SubmitError, check_room};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

/// Cases that are followed to see whether a new one closes a circle; a submit sees longer ones.
const FOLLOWED_MAX: usize = 10_000;
/// Keys that are read together.
const READS_MAX: usize = 64;
/// Such reads at the same time: each waits for a majority of the members.
const READS_AT_ONCE: usize = 8;
/// Keys in one read of a list.
const PAGE: i64 = 500;
/// Bytes of the definitions in one page of a list, but for the last one's.
const LISTED_BYTES_MAX: usize = 16 << 20;
/// Definitions that are looked through for one page of a list with a filter.
const LOOKED_AT_MAX: usize = 10_000;
/// Definitions that are written together, and their bytes but for the last one's: etcd takes 128
/// operations and a megabyte and a half.
const WRITES_MAX: usize = 64;
const WRITTEN_BYTES_MAX: usize = 256 * 1024;
/// Attempts to write what somebody else changes at the same time.
const TRIES: usize = 5;

/// A definition as it was read or written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stored<T> {
    #[serde(flatten)]
    pub value: T,
    pub version: i64,
}

/// A definition that was written, and the version that it has since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    pub id: String,
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

/// That there is one of this id, which stands against a new one.
pub fn there_is<T: Definition>(id: &str) -> String {
    let article = if T::WHAT.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("there is {article} {} {id} already", T::WHAT)
}

fn parse<T: Definition>(kv: &Kv) -> Result<Stored<T>, SubmitError> {
    let value = serde_json::from_slice(&kv.value).map_err(|error| {
        let what = format!("{} does not hold a {}: {error}", kv.key, T::WHAT);
        Refusal::new(422, what)
    })?;
    Ok(Stored { value, version: kv.mod_revision })
}

fn unknown<T: Definition>(id: &str) -> SubmitError {
    Refusal::new(404, format!("unknown {} {id}", T::WHAT)).into()
}

/// A definition, also one that is marked as deleted.
pub async fn find<T: Definition>(
    client: &Client,
    id: &str,
) -> Result<Option<Stored<T>>, SubmitError> {
    let found: Option<Stored<T>> =
        client.get(&key::<T>(id)).await?.as_ref().map(parse).transpose()?;
    if let Some(other) = found.as_ref().map(|found| found.value.id()).filter(|other| *other != id) {
        let (key, what) = (key::<T>(id), T::WHAT);
        let text = format!(
            "the key {key} holds a {what} with the id {other:?}: whoever wrote it by hand must mend it, \
             or delete the key"
        );
        return Err(Refusal::new(422, text).into());
    }
    Ok(found)
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
    let reads: Vec<_> = keys.chunks(READS_MAX).map(|keys| client.get_all(keys)).collect();
    let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
    while let Some(kvs) = reads.try_next().await? {
        for kv in kvs {
            let value = parse::<T>(&kv)?.value;
            found.insert(value.id().to_owned(), value);
        }
    }
    Ok(found)
}

/// Writes a new definition.
///
/// # Errors
/// What `check` and `check_change` refuse; 409 if there is one of this id.
pub async fn create<T: Definition>(client: &Client, value: T) -> Result<Stored<T>, SubmitError> {
    value.check()?;
    value.check_change(None)?;
    let before = find::<T>(client, value.id()).await?;
    if before.as_ref().is_some_and(|before| !before.value.is_deleted()) {
        return Err(Refusal::new(409, there_is::<T>(value.id())).into());
    }
    let written = write(client, value, before.as_ref()).await?;
    written.ok_or_else(|| Refusal::new(409, "somebody else has described it meanwhile").into())
}

/// Writes a definition, new or in place of one that is there.
///
/// # Errors
/// What `check` and `check_change` refuse; 409 if the version that is there is not the expected one.
pub async fn put<T: Definition>(
    client: &Client,
    value: T,
    expected: Option<i64>,
) -> Result<Stored<T>, SubmitError> {
    value.check()?;
    change(client, value.id(), expected, |_| Ok(value.clone())).await
}

/// Writes definitions, new or in place of those that are there, many at a time and in order: of two with
/// one id the last stays. What people set of those that are there stays as it is where the new ones do
/// not name it: nobody ends somebody else's maintenance or mute by writing a file again.
///
/// # Errors
/// What `check` and `check_change` refuse of any, and then nothing is written; else those before the failure may be.
pub async fn put_all<T: Definition>(
    client: &Client,
    values: &[Given<T>],
) -> Result<Vec<Written>, SubmitError> {
    values.iter().try_for_each(|given| given.value.check())?;
    check_changes(client, values).await?;
    let (mut written, mut rest) = (Vec::with_capacity(values.len()), values);
    while !rest.is_empty() {
        let (together, others) = rest.split_at(fitting(rest));
        check_room(client).await?;
        let version = put_together(client, together).await?;
        let ids = together.iter().map(|given| given.value.id().to_owned());
        written.extend(ids.map(|id| Written { id, version }));
        rest = others;
    }
    Ok(written)
}

/// That all may be what they would be beside those that are there: else none is written.
async fn check_changes<T: Definition>(
    client: &Client,
    values: &[Given<T>],
) -> Result<(), SubmitError> {
    let doubtful: Vec<&Given<T>> =
        values.iter().filter(|given| given.value.check_change(None).is_err()).collect();
    let ids: Vec<String> = doubtful.iter().map(|given| given.value.id().to_owned()).collect();
    let before = of_ids::<T>(client, &ids).await?;
    for given in doubtful {
        changed(given, before.get(given.value.id()))?;
    }
    Ok(())
}

/// How many of the first definitions one transaction takes.
fn fitting<T: Definition>(values: &[Given<T>]) -> usize {
    let (mut ids, mut bytes) = (BTreeSet::new(), 0);
    let first = values.iter().take(WRITES_MAX);
    let fitting = first.take_while(|Given { value, .. }| {
        let is_small = bytes < WRITTEN_BYTES_MAX;
        bytes += serde_json::to_vec(value).map_or(0, |text| text.len());
        is_small && ids.insert(value.id().to_owned())
    });
    fitting.count()
}

async fn put_together<T: Definition>(
    client: &Client,
    values: &[Given<T>],
) -> Result<i64, SubmitError> {
    let keys: Vec<String> = values.iter().map(|given| key::<T>(given.value.id())).collect();
    for _ in 0..TRIES {
        let before = client.get_all(&keys).await?;
        let before: Vec<Stored<T>> = before.iter().map(parse).collect::<Result<_, _>>()?;
        let before: BTreeMap<&str, &Stored<T>> =
            before.iter().map(|before| (before.value.id(), before)).collect();
        let mut txn = Txn::default();
        for given in values {
            let before = before.get(given.value.id()).copied();
            let value = changed(given, before.map(|before| &before.value))?;
            let (_, compare, put) = writing(value, before);
            txn.compares.push(compare);
            txn.then.push(put);
        }
        if let Some(version) = committed(client, &txn).await? {
            return Ok(version);
        }
    }
    let text = format!("some {}s are changed by others all the time", T::WHAT);
    Err(Refusal::new(409, text).into())
}

/// What definitions would be after they were written by `put_all`.
pub async fn beside<T: Definition>(
    client: &Client,
    values: &[Given<T>],
) -> Result<Vec<T>, SubmitError> {
    let ids: Vec<String> = values.iter().map(|given| given.value.id().to_owned()).collect();
    let before = of_ids::<T>(client, &ids).await?;
    Ok(values.iter().map(|given| merged(given, before.get(given.value.id()))).collect())
}

/// The same, if people may do that.
fn changed<T: Definition>(given: &Given<T>, before: Option<&T>) -> Result<T, Refusal> {
    let value = merged(given, before);
    let alive = before.filter(|before| !before.is_deleted());
    value.check_change(alive).map_err(|why| why.about(T::WHAT, value.id()))?;
    Ok(value)
}

/// A definition with what people set of the one that is there.
fn merged<T: Definition>(given: &Given<T>, before: Option<&T>) -> T {
    let mut value = given.value.clone();
    if let Some(before) = before.filter(|before| !before.is_deleted()) {
        value.keep(before, &given.named);
    }
    value
}

/// Changes a definition by what it is at the time.
///
/// # Errors
/// What `change`, `check` and `check_change` refuse; 409 if the version that is there is not the expected one.
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
        value.check_change(alive.map(|before| &before.value))?;
        if let Some(written) = write(client, value, before.as_ref()).await? {
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

/// Marks definitions as deleted, in order.
///
/// # Errors
/// 404 if one of them is not there: then nothing is deleted.
pub async fn delete_all<T: Definition>(
    client: &Client,
    ids: &[String],
) -> Result<Vec<Written>, SubmitError> {
    for id in ids {
        get::<T>(client, id).await?;
    }
    let mut deleted = Vec::with_capacity(ids.len());
    for id in ids {
        let version = delete::<T>(client, id, None).await?.version;
        deleted.push(Written { id: id.clone(), version });
    }
    Ok(deleted)
}

/// Writes a definition in place of the one that was there, or none. Nothing if there is another one now.
async fn write<T: Definition>(
    client: &Client,
    value: T,
    before: Option<&Stored<T>>,
) -> Result<Option<Stored<T>>, SubmitError> {
    let (value, compare, put) = writing(value, before);
    let txn = Txn { compares: vec![compare], then: vec![put], ..Default::default() };
    let version = committed(client, &txn).await?;
    Ok(version.map(|version| Stored { value, version }))
}

/// A definition with its times, what must hold for it to be written, and what writes it.
fn writing<T: Definition>(mut value: T, before: Option<&Stored<T>>) -> (T, Compare, Op) {
    let alive = before.filter(|before| !before.value.is_deleted());
    let created = alive.map(|before| before.value.clone().marks().0.clone());
    let now = SystemTime::now();
    value.date(alive.map(|before| &before.value), now);
    let (gmt_create, gmt_modified, _) = value.marks();
    *gmt_modified = humantime::format_rfc3339_seconds(now).to_string();
    *gmt_create = created.unwrap_or_else(|| gmt_modified.clone());
    let key = key::<T>(value.id());
    let compare = match before {
        None => Compare::Absent(key.clone()),
        Some(before) => Compare::ChangedAt(key.clone(), before.version),
    };
    let put = Op::put(key, &value);
    (value, compare, put)
}

/// The revision of a transaction, or nothing if it was refused.
async fn committed(client: &Client, txn: &Txn) -> Result<Option<i64>, SubmitError> {
    match client.txn(txn).await {
        Outcome::Committed { revision } => Ok(Some(revision)),
        Outcome::Refused { .. } => Ok(None),
        Outcome::Failed(text) => Err(SubmitError::Answer(text)),
        Outcome::Unknown => Err(SubmitError::unknown()),
    }
}

/// All definitions that fit, in the order of their ids.
pub async fn all<T: Definition>(
    client: &Client,
    fits: impl Fn(&T) -> bool,
) -> Result<Vec<Stored<T>>, SubmitError> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let listed = list::<T>(client, after.as_deref(), PAGE as usize, &fits).await?;
        found.extend(listed.items);
        match listed.next {
            Some(next) => after = Some(next),
            None => return Ok(found),
        }
    }
}

/// Definitions in the order of their ids behind `after`, at most `limit`, that fit. A page may hold
/// fewer than there are when few of many fit, or they are long; `next` then says where to go on.
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
    let (mut looked_at, mut listed_bytes) = (0, 0);
    loop {
        let page = client.page(&from, &end, PAGE.min(limit as i64 + 1), false).await?;
        if listed.left < 0 {
            listed.left = page.count;
        }
        for kv in &page.kvs {
            if listed.items.len() == limit || listed_bytes >= LISTED_BYTES_MAX {
                return Ok(listed);
            }
            looked_at += 1;
            listed.next = kv.key.strip_prefix(T::PREFIX).map(str::to_owned);
            // What was written by hand and is no definition is passed over.
            if let Some(found) = parse::<T>(kv).ok().filter(|found| fits(&found.value)) {
                listed_bytes += kv.value.len();
                listed.items.push(found);
            }
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

/// That cases close no circle among themselves and with those that are there.
///
/// # Errors
/// 400 with the path.
pub async fn check_order(client: &Client, new: &[TestCase]) -> Result<(), SubmitError> {
    let names_of = |cases: &[TestCase]| -> Vec<String> {
        let before = cases.iter().flat_map(|case| &case.case_pre);
        before.map(|before| before.case.clone()).collect()
    };
    let mut seen: BTreeSet<String> = new.iter().map(|case| case.id.clone()).collect();
    let most = seen.len() + FOLLOWED_MAX;
    let (mut others, mut next) = (Vec::new(), names_of(new));
    while !next.is_empty() && seen.len() < most {
        next.retain(|id| seen.insert(id.clone()));
        let found = of_ids::<TestCase>(client, &next).await?;
        let found: Vec<_> = found.into_values().filter(|case| !case.is_deleted).collect();
        next = names_of(&found);
        others.extend(found);
    }
    let all = new.iter().chain(&others);
    match find_circle(all.map(|case| (&*case.id, &case.case_pre[..]))) {
        Some(path) => {
            let text = format!("cases wait for each other: {path}");
            Err(Refusal::new(400, text).about_circle(&path).into())
        }
        None => Ok(()),
    }
}
