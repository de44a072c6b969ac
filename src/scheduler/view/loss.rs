//! Where the time of slots went that no task used, and why.

use super::book::RunBook;
use super::gone::{Turn, is_lost, turns};
use super::slots::{has_all, slots};
use super::steps::{State, Stretch, Waits, steps};
use crate::scheduler::coordinator::WorkerInfo;
use crate::scheduler::model::{Labels, LanePlan};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Looking for the cause of each gap costs starts times lanes; beyond this it is not looked for, where many ask.
pub(super) const STEPS_MAX: u64 = 50_000_000;
/// The same for somebody who waits for it, some seconds at most.
pub(super) const STEPS_MAX_ONCE: u64 = 500_000_000;

/// No slot is handed from one task to the next for so long, in microseconds.
const HAND_OVER_MAX_US: u64 = 1_000_000;

/// What slots did not do, in microseconds of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Loss {
    /// From the submit to the first start.
    pub start: u64,
    /// All that had not started waited for predecessors.
    pub predecessor: u64,
    /// Or for tags as well.
    pub tag: u64,
    /// Or for places in environments and queues that take only so many tasks at once.
    pub limit: u64,
    /// Or for people's verdicts alone.
    pub person: u64,
    /// Something could have run: a slot was handed from one task to the next.
    pub hand_over: u64,
    /// Their worker was gone while something was left to start, or had what was lost with it.
    pub gone: u64,
    /// Nothing of these kept tasks back, and yet they did not come: no idle worker had
    /// their labels, or for a second and more something else kept them
    /// that the record does not tell, such as a pause, a closed environment, a rest or a lost store.
    pub other: u64,
    /// Nothing was left to start.
    pub tail: u64,
    /// Spent on attempts after which the task was tried again, but for those that were lost.
    pub repeated: u64,
}

/// A stretch of time in which slots were idle, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gap {
    pub from: u64,
    pub to: u64,
    /// What most of them were idle for, as a field of `Loss`.
    pub cause: &'static str,
}

/// When slots were idle and why, in the order of time, and what was lost so; nothing where there were too many tasks
/// to look.
pub(super) fn gaps(
    book: &RunBook,
    stretches: &[Stretch],
    slots: u64,
    span: (u64, u64),
    steps_max: u64,
) -> (Vec<Gap>, Option<Loss>) {
    if stretches.len() as u64 * book.plan.lanes.len() as u64 > steps_max {
        return (Vec::new(), None);
    }
    let mut found: Vec<Gap> = Vec::new();
    let loss = loss(book, stretches, slots, span, &mut |gap| match found.last_mut() {
        Some(last) if last.to == gap.from && last.cause == gap.cause => last.to = gap.to,
        _ => found.push(gap),
    });
    (found, Some(loss))
}

/// Where the slots' time went that no task used; each stretch of it is told.
fn loss(
    book: &RunBook,
    found: &[Stretch],
    slots: u64,
    (begin, end): (u64, u64),
    tell: &mut impl FnMut(Gap),
) -> Loss {
    let mut loss = Loss::default();
    for stretch in found {
        let lost = if is_lost(&book.attempts[stretch.attempt as usize]) {
            &mut loss.gone
        } else if !stretch.is_last {
            &mut loss.repeated
        } else {
            continue;
        };
        *lost += stretch.end - stretch.start;
    }
    let mut state = State::new(book);
    let mut room = Room::new(book);
    let mut at = begin;
    let mut has_begun = false;
    let mut turns = turns(book).into_iter().peekable();
    let mut steps = steps(found).into_iter().peekable();
    loop {
        let turn = turns.next_if(|turn| steps.peek().is_none_or(|(next, ..)| turn.at < *next));
        let step = if turn.is_none() { steps.next() } else { None };
        let next = match (&turn, &step) {
            (Some(turn), _) => turn.at.min(end),
            (None, Some((next, ..))) => *next,
            (None, None) => break,
        };
        let idle = slots.saturating_sub(state.busy);
        if idle == 0 {
            room.since.fill(None);
        } else if next > at && has_begun {
            let cause = room.lose(&mut loss, &state, idle, (at, next));
            tell(Gap { from: at, to: next, cause });
        } else if next > at {
            loss.start += idle * (next - at);
            tell(Gap { from: at, to: next, cause: "start" });
        }
        at = at.max(next);
        if let Some(turn) = turn {
            room.turn(turn);
        }
        if let Some((_, is_start, stretch)) = step {
            has_begun |= is_start;
            state.step(stretch, is_start);
            room.step(stretch, is_start);
        }
    }
    debug_assert!(at <= end.max(begin));
    let idle = slots.saturating_sub(state.busy);
    if has_begun && end > at && idle > 0 {
        let cause = room.lose(&mut loss, &state, idle, (at, end));
        tell(Gap { from: at, to: end, cause });
    } else if end > at {
        loss.start += idle * (end - at);
        tell(Gap { from: at, to: end, cause: "start" });
    }
    loss
}

/// A worker's slots.
struct Seat {
    slots: u64,
    busy: u64,
    /// Attempts that it has still to end.
    attempts: u64,
    /// What it offers, unless it is gone.
    offers: Option<Labels>,
    /// It was gone at this time.
    is_gone: bool,
    /// It is gone, leaves or rests: behind its last attempt nothing could have gone there.
    leaves: bool,
}

/// Where idle slots are, and since when lanes could have had them.
struct Room<'b> {
    book: &'b RunBook,
    workers: BTreeMap<&'b str, Seat>,
    /// By lane: since when idle slots could have had its tasks, and none came.
    since: Vec<Option<u64>>,
}

impl<'b> Room<'b> {
    fn new(book: &'b RunBook) -> Self {
        let seat = |slots: u64, worker: &str| {
            let known = book.workers.get(worker);
            let leaves = known.is_none_or(|info| info.draining || info.resting.is_some());
            let offers = known.map(WorkerInfo::offers);
            Seat { slots, busy: 0, attempts: 0, offers, is_gone: false, leaves }
        };
        let mut workers: BTreeMap<&str, Seat> =
            slots(book).into_iter().map(|(name, slots)| (name, seat(slots, name))).collect();
        for attempt in &book.attempts {
            if let Some(seat) = workers.get_mut(&*attempt.worker) {
                seat.attempts += 1;
            }
        }
        Self { book, workers, since: vec![None; book.plan.lanes.len()] }
    }

    fn step(&mut self, stretch: &Stretch, is_start: bool) {
        let Some(plan) = self.book.plan.lanes.get(stretch.lane as usize) else { return };
        let worker = &*self.book.attempts[stretch.attempt as usize].worker;
        let slots = u64::from(plan.slots);
        if let Some(seat) = self.workers.get_mut(worker) {
            let busy = seat.busy;
            seat.busy = if is_start { busy + slots } else { busy.saturating_sub(slots) };
            seat.attempts -= u64::from(!is_start && seat.attempts > 0);
        }
        if is_start {
            self.since[stretch.lane as usize] = None;
        }
    }

    fn turn(&mut self, turn: Turn<'_>) {
        if let Some(seat) = self.workers.get_mut(turn.worker) {
            seat.is_gone = turn.goes;
        }
    }

    /// Idle slots of workers that are gone.
    fn gone(&self) -> u64 {
        let gone = self.workers.values().filter(|seat| seat.is_gone);
        gone.map(|seat| seat.slots.saturating_sub(seat.busy)).sum()
    }

    /// Idle slots that tasks of a lane could have had.
    fn of_lane(&self, plan: &LanePlan) -> u64 {
        let fits = |offers: &Labels| has_all(offers, &plan.requires);
        let is_there = |seat: &&Seat| !seat.is_gone && (!seat.leaves || seat.attempts > 0);
        let fit = self.workers.values().filter(is_there);
        let fit = fit.filter(|seat| seat.offers.as_ref().is_none_or(fits));
        fit.map(|seat| seat.slots.saturating_sub(seat.busy)).sum()
    }

    /// Counts so many slots that were idle for a time, by their cause. Returns that of most of them.
    fn lose(
        &mut self,
        loss: &mut Loss,
        state: &State<'_>,
        idle: u64,
        (from, to): (u64, u64),
    ) -> &'static str {
        let left: u64 = state.unstarted.iter().map(|left| u64::from(*left)).sum();
        let has_more = left + u64::from(state.again) > 0;
        let gone = if has_more { self.gone().min(idle) } else { 0 };
        let idle = idle - gone;
        let mut found = [false; Waits::COUNT];
        // Idle slots that lanes could have had: which had time to go from one task to the next, and which
        // stayed idle for longer than that takes.
        let (mut handed, mut kept): (u64, u64) = (0, 0);
        let mut fit = Fit::default();
        for lane in 0..self.since.len() {
            let waits = state.of_lane(lane);
            if waits == Waits::ForNothing {
                let room = fit.of(self, lane);
                let since = self.since[lane].unwrap_or(from);
                self.since[lane] = (room > 0).then_some(since);
                let is_late = to.saturating_sub(since) > HAND_OVER_MAX_US;
                let slots = if is_late { &mut kept } else { &mut handed };
                *slots = room.min(idle).max(*slots);
            } else {
                self.since[lane] = None;
            }
            found[waits as usize] = true;
        }
        let mut parts = Parts { gone, left: idle, hand_over: handed, ..Default::default() };
        parts.left -= handed;
        let causes = [
            (Waits::ForTag, &mut parts.tag),
            (Waits::ForLimit, &mut parts.limit),
            (Waits::ForLane, &mut parts.predecessor),
        ];
        if found[Waits::ForNothing as usize] {
            parts.other = kept.min(parts.left);
            parts.left -= parts.other;
            // Of slots that no ready lane could have had, those that others wait for are theirs.
            for (waits, slots) in causes.into_iter().filter(|(waits, _)| found[*waits as usize]) {
                *slots = self.of_lanes(state, waits).min(parts.left);
                parts.left -= *slots;
            }
            parts.other += parts.left;
        } else if let Some((_, slots)) =
            causes.into_iter().find(|(waits, _)| found[*waits as usize])
        {
            *slots = idle;
        } else if state.again > 0 {
            parts.other = idle;
        } else if found[Waits::ForPerson as usize] {
            parts.person = idle;
        } else {
            parts.tail = idle;
        }
        parts.count(loss, to - from)
    }

    /// Idle slots that lanes could have had which wait so.
    fn of_lanes(&self, state: &State<'_>, waits: Waits) -> u64 {
        let mut fit = Fit::default();
        let lanes = (0..self.since.len()).filter(|lane| state.of_lane(*lane) == waits);
        lanes.map(|lane| fit.of(self, lane)).max().unwrap_or(0)
    }
}

/// Idle slots that fit a lane: lanes in a row that want the same share them.
#[derive(Default)]
struct Fit<'b>(Option<(&'b LanePlan, u64)>);

impl<'b> Fit<'b> {
    fn of(&mut self, room: &Room<'b>, lane: usize) -> u64 {
        let plan = &room.book.plan.lanes[lane];
        let alike = self.0.filter(|(other, _)| Arc::ptr_eq(&other.requires, &plan.requires));
        let slots = alike.map_or_else(|| room.of_lane(plan), |(_, slots)| slots);
        self.0 = Some((plan, slots));
        slots
    }
}

/// Idle slots by their cause.
#[derive(Default)]
struct Parts {
    gone: u64,
    hand_over: u64,
    other: u64,
    tag: u64,
    limit: u64,
    predecessor: u64,
    person: u64,
    tail: u64,
    /// Not told apart yet.
    left: u64,
}

impl Parts {
    /// Counts them for a time. Returns the cause of most.
    fn count(&self, loss: &mut Loss, time: u64) -> &'static str {
        let mut most = ("tail", 0);
        for (cause, slots, lost) in [
            ("hand_over", self.hand_over, &mut loss.hand_over),
            ("other", self.other, &mut loss.other),
            ("gone", self.gone, &mut loss.gone),
            ("tag", self.tag, &mut loss.tag),
            ("limit", self.limit, &mut loss.limit),
            ("predecessor", self.predecessor, &mut loss.predecessor),
            ("person", self.person, &mut loss.person),
            ("tail", self.tail, &mut loss.tail),
        ] {
            *lost += slots * time;
            // Of as many the later one: it has a name.
            if slots > 0 && slots >= most.1 {
                most = (cause, slots);
            }
        }
        most.0
    }
}
