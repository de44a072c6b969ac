//! The watches of one sequence, all on one stream, and all that each of them was told.

use crate::generate::FAR;
use crate::relative::Frame;
use quoin::pb::etcdserverpb::watch_request::RequestUnion;
use quoin::pb::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::cluster::Raw;

/// Far above what any response takes; a watch that is behind waits 100 ms in etcd.
const PATIENCE: Duration = Duration::from_secs(20);
/// A request for progress is dropped while a watch is behind, so it is repeated.
const REPEAT: Duration = Duration::from_millis(150);

#[derive(Default)]
pub struct Watches {
    stream: Option<(mpsc::Sender<WatchRequest>, Streaming<WatchResponse>)>,
    pub list: Vec<Watch>,
    /// Whether one of them was ended by a compaction: from then on etcd answers no request for
    /// progress on the stream, as it goes on to count that watch as one that is behind.
    lost: bool,
}

pub struct Watch {
    request: WatchCreateRequest,
    id: i64,
    pub lives: bool,
    /// What it was told, events and its end.
    pub told: Vec<String>,
    seen: i64,
}

/// A change that was made only so that watches have something last to see.
pub struct Last {
    pub revision: i64,
    pub key: Vec<u8>,
    pub is_delete: bool,
}

impl Watch {
    /// A key that it watches.
    pub fn key(&self) -> Vec<u8> {
        match self.request.key.is_empty() {
            true => vec![0],
            false => self.request.key.to_vec(),
        }
    }

    fn wants(&self, last: &Last) -> bool {
        let WatchCreateRequest { key, range_end, start_revision, filters, .. } = &self.request;
        let within = match &range_end[..] {
            [] => last.key == key[..],
            [0] => last.key >= key.to_vec(),
            end => last.key >= key.to_vec() && last.key < end.to_vec(),
        };
        within && last.revision >= *start_revision && !filters.contains(&i32::from(last.is_delete))
    }
}

impl Watches {
    pub async fn create(
        &mut self,
        raw: &Raw,
        request: WatchCreateRequest,
        frame: &Frame,
        compacted: i64,
    ) -> Result<String, Status> {
        let begins_lost = (1..compacted).contains(&request.start_revision);
        let send = union(RequestUnion::CreateRequest(request.clone()));
        if let Some((requests, _)) = &self.stream {
            requests.send(send).await.unwrap();
        } else {
            let (requests, receiver) = mpsc::channel(100);
            requests.send(send).await.unwrap();
            let responses = raw.watch.clone().watch(ReceiverStream::new(receiver)).await?;
            self.stream = Some((requests, responses.into_inner()));
        }
        loop {
            let mut response = self.next(PATIENCE).await?;
            if !response.created {
                self.deliver(response, frame);
                continue;
            }
            let (id, lives) = (response.watch_id, !response.canceled);
            self.list.push(Watch { request, id, lives, told: vec![], seen: 0 });
            frame.header(&mut response.header);
            let created = format!("{response:?}");
            // One that begins too early ends soon, but when is each server's own.
            while begins_lost && self.list.last().is_some_and(|watch| watch.lives) {
                let response = self.next(PATIENCE).await?;
                self.deliver(response, frame);
            }
            return Ok(created);
        }
    }

    async fn next(&mut self, patience: Duration) -> Result<WatchResponse, Status> {
        let (_, responses) = self.stream.as_mut().unwrap();
        match tokio::time::timeout(patience, responses.message()).await {
            Ok(message) => message?.ok_or_else(|| Status::aborted("the stream ended")),
            Err(_) => Err(Status::aborted("nothing came")),
        }
    }

    fn deliver(&mut self, response: WatchResponse, frame: &Frame) {
        let lives = |watch: &&mut Watch| watch.lives && watch.id == response.watch_id;
        let Some(watch) = self.list.iter_mut().find(lives) else { return };
        if response.canceled {
            watch.lives = false;
            let mut at = response.compact_revision;
            frame.relative(&mut at);
            watch.told.push(format!("canceled, compacted {at}, {:?}", response.cancel_reason));
            self.lost |= at != 0;
        }
        for mut event in response.events {
            watch.seen = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            frame.event(&mut event);
            watch.told.push(format!("{event:?}"));
        }
    }

    /// Whether a request for progress has an answer: a stream without watches has none, nor has
    /// one with a watch that begins in the future.
    pub fn has_progress(&self, frame: &Frame) -> bool {
        let mut living = self.list.iter().filter(|watch| watch.lives).peekable();
        let far = frame.base + FAR;
        !self.lost && living.peek().is_some() && living.all(|w| w.request.start_revision < far)
    }

    /// Reads until every watch has seen what it wants of these changes.
    pub async fn catch_up(&mut self, lasts: &[Last], frame: &Frame) -> Result<(), Status> {
        let behind = |watch: &Watch| {
            let last = lasts.iter().filter(|last| watch.wants(last)).map(|last| last.revision);
            watch.lives && last.max().is_some_and(|last| watch.seen < last)
        };
        while self.list.iter().any(behind) {
            let response = self.next(PATIENCE).await?;
            self.deliver(response, frame);
        }
        Ok(())
    }

    pub async fn cancel(&mut self, place: usize, frame: &Frame) -> Result<(), Status> {
        let watch_id = self.list[place].id;
        let (requests, _) = self.stream.as_ref().unwrap();
        let request = RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
        requests.send(union(request)).await.unwrap();
        while self.list[place].lives {
            let response = self.next(PATIENCE).await?;
            self.deliver(response, frame);
        }
        Ok(())
    }

    /// What a manual request for progress is answered with, once all watches are up to date.
    pub async fn progress(&mut self, frame: &Frame) -> Result<String, Status> {
        for _ in 0..100 {
            let (requests, _) = self.stream.as_ref().unwrap();
            let request = RequestUnion::ProgressRequest(WatchProgressRequest {});
            requests.send(union(request)).await.unwrap();
            while let Ok(mut response) = self.next(REPEAT).await {
                if response.events.is_empty() && !response.canceled && !response.created {
                    frame.header(&mut response.header);
                    return Ok(format!("{response:?}"));
                }
                self.deliver(response, frame);
            }
        }
        Err(Status::aborted("no progress"))
    }
}

/// The first answer to a watch on a stream of its own, under somebody's token.
pub async fn first_answer(
    raw: &Raw,
    request: WatchCreateRequest,
    token: Option<&str>,
    frame: &Frame,
) -> Result<String, Status> {
    let (requests, receiver) = mpsc::channel(1);
    requests.send(union(RequestUnion::CreateRequest(request))).await.unwrap();
    let mut call = tonic::Request::new(ReceiverStream::new(receiver));
    if let Some(token) = token {
        call.metadata_mut().insert("token", token.parse().unwrap());
    }
    let mut responses = raw.watch.clone().watch(call).await?.into_inner();
    let first = tokio::time::timeout(PATIENCE, responses.message()).await;
    let first = first.unwrap_or(Err(Status::aborted("nothing came")))?;
    let mut first = first.ok_or_else(|| Status::aborted("the stream ended"))?;
    frame.header(&mut first.header);
    Ok(format!("{first:?}"))
}

fn union(request: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(request) }
}
