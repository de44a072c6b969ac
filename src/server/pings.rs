//! Ends connections whose clients ping too often, by the rules of the gRPC library that etcd uses.
//!
//! A ping is a strike if it comes sooner after the one before it than allowed: the configured time while calls
//! are under way, two hours otherwise. Whatever the server says in an answer forgives all strikes and
//! the next ping. After two strikes the next ends the connection with GOAWAY.
//!
//! The HTTP library answers pings without telling anybody. So the heads of frames are read along on their way in
//! and out: some nanoseconds for each, nothing for what is in them.

use std::time::{Duration, Instant};

const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
/// HTTP/2's error for clients that do too much.
const ENHANCE_YOUR_CALM: u32 = 11;
const REASON: &[u8] = b"too_many_pings";
/// Strikes that a client may have.
const STRIKES_MAX: u8 = 2;
/// What a client without calls keeps between two pings.
const IDLE_MIN: Duration = Duration::from_secs(2 * 60 * 60);

/// Finds the heads of frames in a stream of bytes, however it is cut.
#[derive(Debug)]
struct Walk {
    head: [u8; FRAME_HEAD],
    head_len: usize,
    /// Bytes to come of the present frame.
    passing: usize,
}

impl Walk {
    /// A walk that begins behind so many bytes.
    fn behind(passing: usize) -> Self {
        Self { head: [0; FRAME_HEAD], head_len: 0, passing }
    }

    fn pass(&mut self, mut bytes: &[u8], mut see: impl FnMut(&[u8; FRAME_HEAD])) {
        loop {
            let of_frame = self.passing.min(bytes.len());
            self.passing -= of_frame;
            bytes = &bytes[of_frame..];
            if bytes.is_empty() {
                return;
            }
            if self.head_len == 0
                && let Some((head, rest)) = bytes.split_first_chunk()
            {
                self.passing = length(head);
                see(head);
                bytes = rest;
                continue;
            }
            let of_head = bytes.len().min(FRAME_HEAD - self.head_len);
            self.head[self.head_len..][..of_head].copy_from_slice(&bytes[..of_head]);
            self.head_len += of_head;
            bytes = &bytes[of_head..];
            if self.head_len == FRAME_HEAD {
                self.head_len = 0;
                self.passing = length(&self.head);
                see(&self.head);
            }
        }
    }

    /// Whether one frame has ended and no other begun.
    fn is_between(&self) -> bool {
        self.passing == 0 && self.head_len == 0
    }
}

fn length(&[a, b, c, ..]: &[u8; FRAME_HEAD]) -> usize {
    u32::from_be_bytes([0, a, b, c]) as usize
}

/// What one HTTP/2 connection's pings come to.
#[derive(Debug)]
pub(super) struct Pings {
    received: Walk,
    sent: Walk,
    min: Duration,
    last: Option<Instant>,
    strikes: u8,
    /// Something of an answer was sent since the last ping.
    has_answered: bool,
    last_stream: [u8; 4],
    /// Calls under way.
    pub(super) calls: usize,
    are_too_many: bool,
}

impl Pings {
    /// `min` is for clients with calls under way; `preface_len` bytes come before the first frame.
    pub(super) fn new(min: Duration, preface_len: usize) -> Self {
        Self {
            received: Walk::behind(preface_len),
            sent: Walk::behind(0),
            min,
            last: None,
            strikes: 0,
            has_answered: false,
            last_stream: [0; 4],
            calls: 0,
            are_too_many: false,
        }
    }

    /// Looks at what has come.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.receive_at(bytes, Instant::now);
    }

    fn receive_at(&mut self, bytes: &[u8], now: impl Fn() -> Instant) {
        let mut pings = 0;
        let last_stream = &mut self.last_stream;
        self.received.pass(bytes, |&[_, _, _, kind, flags, stream @ ..]| match kind {
            PING if flags & ACK == 0 => pings += 1,
            HEADERS => *last_stream = stream.max(*last_stream),
            _ => {}
        });
        for _ in 0..pings {
            self.ping(now());
        }
    }

    fn ping(&mut self, now: Instant) {
        let last = self.last.replace(now);
        if std::mem::take(&mut self.has_answered) {
            self.strikes = 0;
            return;
        }
        let min = if self.calls == 0 { IDLE_MIN } else { self.min };
        if last.is_some_and(|last| last + min > now) {
            self.strikes += 1;
            self.are_too_many |= self.strikes > STRIKES_MAX;
        }
    }

    /// Looks at what leaves.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        let has_answered = &mut self.has_answered;
        self.sent.pass(bytes, |head| *has_answered |= matches!(head[3], DATA | HEADERS));
    }

    /// Whether the connection is to end.
    pub(super) fn are_too_many(&self) -> bool {
        self.are_too_many
    }

    /// What the client is told; nothing in the middle of a frame that it does not take.
    pub(super) fn farewell(&self) -> Option<Vec<u8>> {
        let length = (8 + REASON.len() as u32).to_be_bytes();
        let head = [&length[1..], &[GOAWAY, 0, 0, 0, 0, 0]].concat();
        let code = ENHANCE_YOUR_CALM.to_be_bytes();
        let frame = [&head[..], &self.last_stream, &code, REASON].concat();
        self.sent.is_between().then_some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn ping() -> Vec<u8> {
        frame(PING, 0, 0, &[7; 8])
    }

    /// Pings so long after one another; returns after how many the connection ends.
    fn end(pings: &mut Pings, apart: Duration) -> Option<usize> {
        let mut now = Instant::now();
        for number in 1..100 {
            pings.receive_at(&ping(), || now);
            pings.send(&frame(PING, ACK, 0, &[7; 8]));
            if pings.are_too_many() {
                return Some(number);
            }
            now += apart;
        }
        None
    }

    const MIN: Duration = Duration::from_secs(5);

    #[test]
    fn the_time_between_pings_is_another_with_and_without_calls() {
        for (calls, apart, ends) in [
            (0, Duration::ZERO, Some(4)),
            (0, Duration::from_secs(7199), Some(4)),
            (0, Duration::from_secs(7200), None),
            (1, Duration::ZERO, Some(4)),
            (1, Duration::from_millis(4999), Some(4)),
            (1, MIN, None),
            (9, Duration::from_secs(7199), None),
        ] {
            let mut pings = Pings::new(MIN, 0);
            pings.calls = calls;
            assert_eq!(end(&mut pings, apart), ends, "{calls} calls, {apart:?} apart");
        }
    }

    #[test]
    fn an_answer_forgives_the_strikes_before_it_and_the_next_ping() {
        for (kind, flags, forgives) in
            [(DATA, 0, true), (HEADERS, 4, true), (PING, ACK, false), (4, 1, false), (8, 0, false)]
        {
            let mut pings = Pings::new(MIN, 0);
            for _ in 0..3 {
                pings.receive(&ping());
            }
            assert!(!pings.are_too_many(), "the first ping and two strikes");
            pings.send(&frame(kind, flags, 1, &[0; 8]));
            pings.receive(&ping());
            assert_eq!(pings.are_too_many(), !forgives, "{kind}");
            if forgives {
                pings.receive(&[ping(), ping()].concat());
                assert!(!pings.are_too_many(), "two strikes");
                pings.receive(&ping());
                assert!(pings.are_too_many());
            }
        }
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let bytes = [
            &preface[..],
            &frame(4, 0, 0, &[]),
            &frame(HEADERS, 4, 5, &[6; 300]),
            // What looks like a ping is none in the middle of a frame, nor is the answer to one.
            &frame(DATA, 0, 5, &ping().repeat(50)),
            &frame(PING, ACK, 0, &[0; 8]).repeat(9),
            &ping().repeat(3),
            &frame(HEADERS, 4, 3, &[]),
        ]
        .concat();
        for piece in [1, 2, 8, 9, 10, 17, 100, 100_000] {
            let mut pings = Pings::new(MIN, preface.len());
            bytes.chunks(piece).for_each(|piece| pings.receive(piece));
            assert!(!pings.are_too_many(), "in pieces of {piece}");
            assert_eq!(pings.last_stream, [0, 0, 0, 5], "in pieces of {piece}");
            pings.receive(&ping());
            assert!(pings.are_too_many(), "in pieces of {piece}");
        }
    }

    #[test]
    fn the_farewell_waits_for_the_end_of_a_frame() {
        let mut pings = Pings::new(MIN, 0);
        pings.receive(&frame(HEADERS, 4, 3, &[]));
        let expected =
            [&[0, 0, 22, 7, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 11], &b"too_many_pings"[..]];
        assert_eq!(pings.farewell(), Some(expected.concat()));
        for cut in [5, 15] {
            let data = frame(DATA, 0, 1, &[0; 20]);
            pings.send(&data[..cut]);
            assert_eq!(pings.farewell(), None);
            pings.send(&data[cut..]);
            assert!(pings.farewell().is_some());
        }
    }
}
