//! Watches against the commits: filtered, ordered, each event once, none missing, revisions
//! whole, nothing after a bookmark that the bookmark covers.

use super::{History, Request, Rule, Store, Violation, Watched, store};
use bytes::Bytes;
use quoin::pb::etcdserverpb::WatchCreateRequest;
use quoin::pb::etcdserverpb::watch_create_request::FilterType;
use quoin::pb::mvccpb::Event;
use quoin::pb::mvccpb::event::EventType;

pub fn check(history: &History, store: &Store) -> Vec<Violation> {
    let compacted = history.operations.iter().any(|o| matches!(o.request, Request::Compact(_)));
    let failed = history.watches.iter().filter_map(|watched| {
        let what = one(store, watched, compacted).err()?;
        Some(Violation::new(Rule::Watch, format!("{what}, by watch {:?}", watched.request)))
    });
    failed.collect()
}

fn one(store: &Store, watched: &Watched, compacted: bool) -> Result<(), String> {
    let request = &watched.request;
    let Some((created, responses)) = watched.responses.split_first() else {
        return if watched.complete_to == 0 { Ok(()) } else { Err("never created".into()) };
    };
    if !created.created {
        return Err(format!("started with {created:?}"));
    }
    let now = created.header.as_ref().map_or(0, |header| header.revision);
    let start = if request.start_revision > 0 { request.start_revision } else { now + 1 };

    // All below it has been delivered, or never will be.
    let mut next = start;
    let mut parts: Vec<Event> = vec![];
    for response in responses {
        let header = response.header.as_ref().map_or(0, |header| header.revision);
        if response.canceled {
            break;
        }
        parts.extend(response.events.iter().cloned());
        if response.fragment {
            continue;
        }
        let events = std::mem::take(&mut parts);
        let last = events.last().map_or(header, revision);
        if last > header {
            return Err(format!("header {header} is older than its event of {last}"));
        }
        let expected = expected(store, request, next, last);
        if !equal(&events, &expected, compacted) {
            return Err(format!("{events:?} came for {next} to {last}, not {expected:?}"));
        }
        next = next.max(last + 1);
    }
    let missing = expected(store, request, next, watched.complete_to);
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("{missing:?} never came")),
    }
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// What the watch has to get of these revisions, both included.
fn expected(store: &Store, request: &WatchCreateRequest, from: i64, to: i64) -> Vec<Event> {
    let revisions = from..=to.min(store.revision());
    let events = revisions.flat_map(|revision| store.events(revision).unwrap_or_default());
    let wanted = events.filter(|event| is_wanted(request, event));
    wanted.map(|event| with_previous(store, request, event)).collect()
}

fn is_wanted(request: &WatchCreateRequest, event: &Event) -> bool {
    let everything = Bytes::from_static(&[0]);
    let key = if request.key.is_empty() { &everything } else { &request.key };
    let dropped = |kind| request.filters.contains(&(kind as i32));
    let is_dropped = match event.r#type() {
        EventType::Put => dropped(FilterType::Noput),
        EventType::Delete => dropped(FilterType::Nodelete),
    };
    let inside =
        event.kv.as_ref().is_some_and(|kv| store::contains(key, &request.range_end, &kv.key));
    inside && !is_dropped
}

fn with_previous(store: &Store, request: &WatchCreateRequest, event: &Event) -> Event {
    let key = event.kv.as_ref().map(|kv| kv.key.clone()).unwrap_or_default();
    let previous = store.get(&key, revision(event) - 1).cloned();
    Event { prev_kv: previous.filter(|_| request.prev_kv), ..event.clone() }
}

/// A previous value may be absent where a compaction may have taken it.
fn equal(got: &[Event], expected: &[Event], compacted: bool) -> bool {
    let same = |(got, expected): (&Event, &Event)| {
        let previous = got.prev_kv == expected.prev_kv || (compacted && got.prev_kv.is_none());
        got.kv == expected.kv && got.r#type == expected.r#type && previous
    };
    got.len() == expected.len() && got.iter().zip(expected).all(same)
}
