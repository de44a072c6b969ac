//! The Lock service: who stands first under a name holds its lock.

use super::ownership::{Caller, Queues};
use crate::error::RequestError;
use crate::pb::v3lockpb::lock_server::Lock;
use crate::pb::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use bytes::Bytes;
use tonic::{Request, Response, Status};

/// Serves v3lockpb.Lock for one member.
#[derive(Clone)]
pub struct LockService {
    queues: Queues,
}

impl LockService {
    pub(super) fn new(queues: Queues) -> Self {
        Self { queues }
    }
}

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let (caller, LockRequest { name, lease }) = Caller::of(&self.queues.handle, request)?;
        let mut place = self.queues.enter(caller, &name, lease, Bytes::new()).await?;
        place.first(RequestError::LockSessionExpired).await?;
        let (key, header) = place.keep();
        Ok(Response::new(LockResponse { header, key }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let (caller, UnlockRequest { key }) = Caller::of(&self.queues.handle, request)?;
        let header = self.queues.delete(&caller, key).await?;
        Ok(Response::new(UnlockResponse { header }))
    }
}
