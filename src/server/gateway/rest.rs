//! What follows in a request's body behind all that its call takes. Nothing is made of it; but unless it is read, nobody
//! learns that the client has gone, and a call that waits would go on for good.

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

/// The rest of a request's body, or who will tell what it is.
pub(super) struct Rest {
    body: Option<Body>,
    later: Option<oneshot::Receiver<Left>>,
}

impl Rest {
    pub(super) fn of(body: Body) -> Self {
        Self { body: Some(body), later: None }
    }

    /// Of a body from which requests are read still.
    pub(super) fn behind_requests() -> (oneshot::Sender<Left>, Self) {
        let (teller, later) = oneshot::channel();
        (teller, Self { body: None, later: Some(later) })
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
            () = self.broken() => Err(Status::cancelled("context canceled")),
        }
    }

    /// Returns once the client has broken off its request.
    async fn broken(&mut self) {
        if let Some(later) = &mut self.later {
            match later.await {
                Ok(Left::Broken) => return,
                Ok(Left::Unread(body)) => self.body = Some(body),
                // All of it has come.
                Err(_) => {}
            }
            self.later = None;
        }
        while let Some(body) = &mut self.body {
            match body.frame().await {
                Some(Ok(_)) => {}
                Some(Err(_)) => return,
                None => self.body = None,
            }
        }
        pending::<()>().await;
    }
}
