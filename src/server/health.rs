//! grpc.health.v1: the empty service name is serving, any other is unknown.

use crate::pb::health::health_check_response::ServingStatus;
use crate::pb::health::health_server::Health;
use crate::pb::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};
use std::pin::Pin;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
pub struct HealthService;

fn check(service: &str) -> Option<HealthCheckResponse> {
    service.is_empty().then(|| HealthCheckResponse { status: ServingStatus::Serving.into() })
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        check(&request.into_inner().service)
            .map(Response::new)
            .ok_or_else(|| Status::not_found("unknown service"))
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let statuses = check("").map(|serving| (String::new(), serving)).into_iter().collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    /// The state now, and nothing more: it does not change while the server serves.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let now = check(&request.into_inner().service).unwrap_or(unknown);
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(now)).chain(tokio_stream::pending()))))
    }
}
