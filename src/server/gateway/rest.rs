//! What follows in a request's body behind all that its call takes. Nothing is made of it; but unless it is read, nobody
//! learns that the client has gone, and a call that waits would go on for good.

use crate::server::departure::Departed;
use http_body_util::BodyExt as _;
use std::future::pending;
use tokio::sync::oneshot;
use tonic::Status;
use tonic::body::Body;

/// What is left of a body whose requests have ended.
pub(super) enum Left {
    /// More may come, and is not looked at.
    Unread(Body),
    /// The client has broken it off.
    Broken,
}

/// What a call is answered whose client has broken it off.
pub(super) fn given_up() -> Status {
    Status::cancelled("context canceled")
}

/// The rest of a request's body, or who will tell what it is.
pub(super) struct Rest {
    body: Option<Body>,
    later: Option<oneshot::Receiver<Left>>,
    /// Tells of a client that goes away behind all that it has sent.
    departed: Option<Departed>,
}

impl Rest {
    pub(super) fn of(body: Body, departed: Option<Departed>) -> Self {
        Self { body: Some(body), later: None, departed }
    }

    /// Of a body from which requests are read still.
    pub(super) fn behind_requests(departed: Option<Departed>) -> (oneshot::Sender<Left>, Self) {
        let (teller, later) = oneshot::channel();
        (teller, Self { body: None, later: Some(later), departed })
    }

    /// Does something.
    ///
    /// # Errors
    /// The client breaks off its request before that is done.
    pub(super) async fn unless_broken<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, Status> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.broken() => Err(given_up()),
        }
    }

    /// Returns once the client has broken off its request, or gone.
    async fn broken(&mut self) {
        let Self { body, later, departed } = self;
        let gone = async {
            match departed {
                Some(departed) => departed.wait().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = broken_off(body, later) => {}
            () = gone => {}
        }
    }
}

/// Returns once a client breaks off its request's body.
async fn broken_off(body: &mut Option<Body>, later: &mut Option<oneshot::Receiver<Left>>) {
    if let Some(telling) = later {
        match telling.await {
            Ok(Left::Broken) => return,
            Ok(Left::Unread(left)) => *body = Some(left),
            // All of it has come.
            Err(_) => {}
        }
        *later = None;
    }
    while let Some(left) = body {
        match left.frame().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return,
            None => *body = None,
        }
    }
    pending::<()>().await;
}
