//! Short ways to write requests, and to look at what came back.

use quoin::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quoin::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use quoin::pb::mvccpb::KeyValue;
use std::fmt::Debug;
use tokio::net::TcpStream;
use tonic::{Code, Response, Status};

pub fn put(key: &str, value: &str) -> PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    PutRequest { key, value, ..Default::default() }
}

pub fn get(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

pub fn range(key: &str, range_end: &str) -> RangeRequest {
    RangeRequest { range_end: range_end.to_owned().into(), ..get(key) }
}

pub fn delete(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }
}

pub fn delete_range(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { range_end: range_end.to_owned().into(), ..delete(key) }
}

pub fn txn(compare: Vec<Compare>, success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare, success, failure }
}

/// A Txn without a condition.
pub fn all_of(success: Vec<RequestOp>) -> TxnRequest {
    txn(vec![], success, vec![])
}

pub fn op(request: impl Into<Op>) -> RequestOp {
    RequestOp { request: Some(request.into().0) }
}

pub struct Op(request_op::Request);

impl From<PutRequest> for Op {
    fn from(request: PutRequest) -> Op {
        Op(request_op::Request::RequestPut(request))
    }
}

impl From<RangeRequest> for Op {
    fn from(request: RangeRequest) -> Op {
        Op(request_op::Request::RequestRange(request))
    }
}

impl From<DeleteRangeRequest> for Op {
    fn from(request: DeleteRangeRequest) -> Op {
        Op(request_op::Request::RequestDeleteRange(request))
    }
}

impl From<TxnRequest> for Op {
    fn from(request: TxnRequest) -> Op {
        Op(request_op::Request::RequestTxn(request))
    }
}

pub fn compare(
    key: &str,
    target: CompareTarget,
    result: CompareResult,
    union: Option<TargetUnion>,
) -> Compare {
    Compare {
        key: key.to_owned().into(),
        target: target as i32,
        result: result as i32,
        target_union: union,
        ..Default::default()
    }
}

pub fn keys(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// The code and text that a call was refused with.
pub fn refusal<T: Debug>(result: Result<Response<T>, Status>) -> (Code, String) {
    let status = result.expect_err("the call is refused");
    (status.code(), status.message().to_owned())
}

/// The status of a call that carries `grpc-timeout`, from a client that leaves it to the server.
/// A call without a message keeps its stream open; of an answer only as much is read as fits the window.
/// A stream that is reset counts as cancelled.
pub async fn status_with_timeout(
    endpoint: &str,
    path: &str,
    timeout: &str,
    message: Option<Vec<u8>>,
) -> (Code, String) {
    let address = endpoint.trim_start_matches("http://");
    let socket = TcpStream::connect(address).await.expect("a connection");
    let (mut client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("{endpoint}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(());
    let (response, mut sender) =
        client.send_request(request.expect("a request"), false).expect("a stream");
    if let Some(message) = message {
        let mut frame = vec![0];
        frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
        frame.extend_from_slice(&message);
        // A refusal may come before it.
        let _refused = sender.send_data(frame.into(), true);
    }
    let response = match response.await {
        Ok(response) => response,
        Err(error) if error.is_reset() => return (Code::Cancelled, error.to_string()),
        Err(error) => panic!("{error}"),
    };
    let mut headers = response.headers().clone();
    if !headers.contains_key("grpc-status") {
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            match data {
                Ok(_) => {}
                Err(error) if error.is_reset() => return (Code::Cancelled, error.to_string()),
                Err(error) => panic!("{error}"),
            }
        }
        headers = body.trailers().await.expect("an end").expect("trailers");
    }
    connection.abort();
    let status = Status::from_header_map(&headers).expect("a status");
    (status.code(), status.message().into())
}
