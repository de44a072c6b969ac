//! Watching clients: each has one watch, loses its stream with its member, and goes on at another
//! member from where it was.

use super::profile::{MILLI, SECOND};
use super::work;
use super::world::{Event, Phase, Violation, World};
use crate::checker::{History, Watched};
use bytes::Bytes;
use quoin::pb::etcdserverpb::watch_create_request::FilterType;
use quoin::pb::etcdserverpb::watch_request::RequestUnion;
use quoin::pb::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use quoin::watch::registry::StreamId;

#[derive(Default)]
pub struct Watcher {
    /// Counts streams: what comes from an earlier one is ignored.
    epoch: u64,
    /// Member, life of it and stream.
    open: Option<(u64, u64, StreamId)>,
    request: WatchCreateRequest,
    responses: Vec<WatchResponse>,
    /// The first revision that it has not seen; 0 before it knows of any.
    next: i64,
    in_flight: usize,
    last_arrival: u64,
    /// It takes its time to read.
    is_slow: bool,
}

impl Watcher {
    pub fn is_settled(&self) -> bool {
        self.open.is_some() && self.in_flight == 0 && !self.responses.is_empty()
    }

    /// Hands over what the watch of the present stream got; `complete_to` as in [`Watched`].
    fn record(&mut self, complete_to: i64, history: &mut History) {
        let responses = std::mem::take(&mut self.responses);
        if !responses.is_empty() {
            history.watches.push(Watched { request: self.request.clone(), responses, complete_to });
        }
    }

    pub fn finish(&mut self, revision: i64, history: &mut History) {
        self.record(revision, history);
    }
}

impl World {
    pub fn open_watch(&mut self, number: usize) {
        if self.watchers[number].open.is_some() {
            return;
        }
        let id = self.work_random.between(1, self.profile.all());
        let boot = self.member(id).boot;
        let Some(running) = self.running(id) else {
            let delay = self.work_random.between(20 * MILLI, 500 * MILLI);
            return self.after(delay, Event::OpenWatch { watcher: number });
        };
        let stream = running.hub.open();
        let request = self.watch_request(number);
        let watcher = &mut self.watchers[number];
        watcher.request = request.clone();
        watcher.epoch += 1;
        watcher.open = Some((id, boot, stream));
        watcher.in_flight = 0;
        watcher.is_slow = self.work_random.chance(300);
        self.trace(|_| format!("watcher {number} opens {stream} at {id}: {request:?}"));
        let union = Some(RequestUnion::CreateRequest(request));
        if let Some(running) = self.running(id) {
            running.hub.request(stream, WatchRequest { request_union: union });
        }
        self.after(100, Event::Turn { member: id, boot, stream });
        let delay = self.work_random.between(50 * MILLI, 3 * SECOND);
        self.after(delay, Event::WatchWork { watcher: number });
    }

    fn watch_request(&mut self, number: usize) -> WatchCreateRequest {
        let random = &mut self.work_random;
        let watcher = &self.watchers[number];
        if watcher.next > 0 {
            return WatchCreateRequest { start_revision: watcher.next, ..watcher.request.clone() };
        }
        let (key, range_end) = match random.chance(300) {
            true => (Bytes::new(), Bytes::from_static(&[0])),
            false => work::interval(&self.profile, random),
        };
        let known = self.clients.iter().map(|client| client.last_revision).max().unwrap_or(0);
        let compacted = self.clients.iter().map(|client| client.compacted).max().unwrap_or(0);
        let start_revision = match random.below(8) {
            0 | 1 => 0,
            2 => 1,
            3 => compacted,
            4 => known + random.below(10) as i64,
            _ => (known - random.below(20) as i64).max(0),
        };
        let mut filters = Vec::new();
        match random.below(10) {
            0 => filters.push(FilterType::Noput as i32),
            1 => filters.push(FilterType::Nodelete as i32),
            _ => {}
        }
        WatchCreateRequest {
            key,
            range_end,
            start_revision,
            progress_notify: random.chance(300),
            filters,
            prev_kv: random.chance(400),
            watch_id: 0,
            fragment: random.chance(200),
        }
    }

    /// The hub of a member hands out what has arrived.
    pub fn hand_out(&mut self, id: u64, boot: u64) {
        if !self.is_alive(id, boot) {
            return;
        }
        let Some(running) = self.running(id) else { return };
        let woken = running.hub.hand_out();
        let has_more = running.hub.has_arrivals();
        for stream in woken {
            let delay = self.turn_delay(id, boot, stream);
            self.after(delay, Event::Turn { member: id, boot, stream });
        }
        if has_more {
            let delay = self.time_random.skewed(5, 2 * MILLI);
            self.after(delay, Event::HandOut { member: id, boot });
        }
    }

    fn watcher_of(&self, id: u64, boot: u64, stream: StreamId) -> Option<usize> {
        self.watchers.iter().position(|watcher| watcher.open == Some((id, boot, stream)))
    }

    fn turn_delay(&mut self, id: u64, boot: u64, stream: StreamId) -> u64 {
        let watcher = self.watcher_of(id, boot, stream);
        let is_slow = watcher.is_some_and(|number| self.watchers[number].is_slow);
        let delay_max = if is_slow && self.phase == Phase::Faults { SECOND } else { 2 * MILLI };
        self.time_random.skewed(5, delay_max)
    }

    /// A stream does a few steps of what there is to do.
    pub fn turn(&mut self, id: u64, boot: u64, stream: StreamId) -> Result<(), Violation> {
        if !self.is_alive(id, boot) {
            return Ok(());
        }
        let steps = self.time_random.between(1, 8) as usize;
        let Some(running) = self.running(id) else { return Ok(()) };
        let (sent, has_more) =
            running.hub.turn(stream, steps).map_err(|e| format!("member {id} stops: {e}"))?;
        if let Some(number) = self.watcher_of(id, boot, stream) {
            for response in sent {
                let delay = self.net_random.skewed(20, 5 * MILLI);
                let watcher = &mut self.watchers[number];
                // A stream keeps its order.
                watcher.last_arrival = (watcher.last_arrival + 1).max(self.now + delay);
                watcher.in_flight += 1;
                let (delay, epoch) = (watcher.last_arrival - self.now, watcher.epoch);
                let response = Box::new(response);
                self.after(delay, Event::WatchArrives { watcher: number, epoch, response });
            }
        }
        if has_more {
            let delay = self.turn_delay(id, boot, stream);
            self.after(delay, Event::Turn { member: id, boot, stream });
        }
        Ok(())
    }

    pub fn watch_arrives(
        &mut self,
        number: usize,
        epoch: u64,
        response: WatchResponse,
    ) -> Result<(), Violation> {
        if self.watchers[number].epoch != epoch || self.watchers[number].open.is_none() {
            return Ok(());
        }
        self.trace(|_| format!("watcher {number} gets {response:?}"));
        let watcher = &mut self.watchers[number];
        watcher.in_flight -= 1;
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        let last = response.events.last().and_then(|event| event.kv.as_ref());
        let ended = response.canceled;
        if response.created {
            let start = watcher.request.start_revision;
            watcher.next = if start > 0 { start } else { revision + 1 };
        } else if let Some(kv) = last {
            // Of a revision in parts, more is to come.
            let after = kv.mod_revision + i64::from(!response.fragment);
            watcher.next = watcher.next.max(after);
        } else if ended {
            if response.compact_revision <= watcher.next {
                return Err(format!(
                    "watcher {number} is canceled for the compaction of {} and needs {}",
                    response.compact_revision, watcher.next
                ));
            }
            watcher.next = response.compact_revision;
        } else {
            watcher.next = watcher.next.max(revision + 1);
        }
        watcher.responses.push(response);
        if ended {
            self.close_watch(number);
        }
        Ok(())
    }

    /// The watch is over; it goes on in another stream.
    fn close_watch(&mut self, number: usize) {
        let watcher = &mut self.watchers[number];
        let Some((id, boot, stream)) = watcher.open.take() else { return };
        watcher.record(0, &mut self.history);
        if self.is_alive(id, boot)
            && let Some(running) = self.running(id)
        {
            running.hub.close(stream);
        }
        let delay = self.work_random.between(MILLI, 500 * MILLI);
        self.after(delay, Event::OpenWatch { watcher: number });
    }

    /// All streams of a member break.
    pub fn watches_end(&mut self, id: u64) {
        for number in 0..self.watchers.len() {
            if self.watchers[number].open.is_some_and(|(member, ..)| member == id) {
                self.close_watch(number);
            }
        }
    }

    /// Something that a watching client does from time to time.
    pub fn watch_work(&mut self, number: usize) {
        let Some((id, boot, stream)) = self.watchers[number].open else { return };
        if self.phase != Phase::Faults || !self.is_alive(id, boot) {
            return;
        }
        let what = self.work_random.below(10);
        if what == 0 {
            // It moves to another member, and may start anew.
            if self.work_random.chance(300) {
                self.watchers[number].next = 0;
            }
            return self.close_watch(number);
        }
        let Some(running) = self.running(id) else { return };
        match what {
            1..=5 => {
                let union = Some(RequestUnion::ProgressRequest(WatchProgressRequest {}));
                running.hub.request(stream, WatchRequest { request_union: union });
            }
            _ => running.hub.tick(stream),
        }
        self.after(100, Event::Turn { member: id, boot, stream });
        let delay = self.work_random.between(50 * MILLI, 3 * SECOND);
        self.after(delay, Event::WatchWork { watcher: number });
    }
}
