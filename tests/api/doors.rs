//! One request by each door through which a member takes it: gRPC, and JSON with its token in the header
//! `Authorization`. How it is answered is told in the same form.

use crate::cluster::{Cluster, Raw};
use crate::credentials::Token;
use crate::gateway::PATHS;
use crate::pages::{Lines, address, send};
use base64::Engine as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MethodDescriptor, Value};
use serde_json::Value as Json;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use tonic::{Code, Status};

pub type Outcome = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Grpc,
    Json,
}

/// A call with its request.
pub struct Call {
    pub by_grpc: Arc<dyn Fn(Raw, Token) -> Outcome + Send + Sync>,
    /// The request's wire form.
    pub message: Vec<u8>,
}

pub const SILENCE: &str = "no answer";

/// A stream that ended well but without an answer.
pub fn silence() -> Status {
    Status::new(Code::Ok, SILENCE)
}

/// A unary call of a client of [`Raw`].
macro_rules! unary {
    ($client:ident.$method:ident($request:expr)) => {
        Call {
            message: $request.encode_to_vec(),
            by_grpc: Arc::new(move |raw: Raw, token: Token| -> Outcome {
                let mut client = raw.$client.clone();
                let request = token.on($request);
                Box::pin(async move { client.$method(request).await.map(drop) })
            }),
        }
    };
}

/// A call that is answered by a stream: its first message counts.
macro_rules! stream {
    ($client:ident.$method:ident($request:expr)) => {
        Call {
            message: $request.encode_to_vec(),
            by_grpc: Arc::new(move |raw: Raw, token: Token| -> Outcome {
                let mut client = raw.$client.clone();
                let request = token.on($request);
                Box::pin(async move {
                    let mut answers = client.$method(request).await?.into_inner();
                    answers.message().await?.map(drop).ok_or_else(silence)
                })
            }),
        }
    };
}

pub(crate) use {stream, unary};

impl Call {
    /// How a member answers on each path of this door; on none if the door does not have the call.
    pub async fn outcomes(
        &self,
        cluster: &Cluster,
        door: Door,
        method: &str,
        token: &Token,
    ) -> Vec<Result<(), Status>> {
        if door == Door::Grpc {
            return vec![(self.by_grpc)(cluster.raw(0), token.clone()).await];
        }
        let of_call = descriptor(method);
        let message = DynamicMessage::decode(of_call.input(), &self.message[..]).unwrap();
        let body = to_json(&message).to_string();
        let mut outcomes = vec![];
        for (path, _) in PATHS.iter().filter(|(_, call)| *call == method) {
            let path = format!("/v3/{path}");
            let is_stream = of_call.is_server_streaming();
            outcomes.push(by_json(&address(cluster, 0), &path, &body, token, is_stream).await);
        }
        outcomes
    }
}

async fn by_json(
    address: &str,
    path: &str,
    body: &str,
    token: &Token,
    is_stream: bool,
) -> Result<(), Status> {
    let mut headers = vec![("Connection", "close")];
    headers.extend(token.0.as_deref().map(|token| ("Authorization", token)));
    let (status, answer) = if is_stream {
        let mut lines = Lines::open_with(address, path, &headers, body).await;
        let line = lines.maybe_next().await.ok_or_else(silence)?;
        let line: Json = serde_json::from_str(&line).unwrap();
        (lines.page.status, line["error"].as_object().cloned().map_or(line, Json::Object))
    } else {
        let page = send(address, "POST", path, &headers, body.as_bytes()).await;
        (page.status, page.json())
    };
    let Some(code) = answer["code"].as_i64() else {
        assert_eq!(status, 200, "{path} {body}: {answer}");
        return cancelled(answer["result"]["cancel_reason"].as_str().unwrap_or_default());
    };
    let code = Code::from(i32::try_from(code).unwrap());
    let expected = match code {
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::InvalidArgument => 400,
        Code::Unknown => 500,
        _ => status,
    };
    assert_eq!(status, expected, "{path} {body}: {answer}");
    Err(Status::new(code, answer["message"].as_str().unwrap_or_default()))
}

/// What the reason says for which a watch was cancelled.
pub fn cancelled(reason: &str) -> Result<(), Status> {
    if reason.is_empty() {
        return Ok(());
    }
    for code in (0..=16).map(Code::from) {
        if let Some(text) = reason.strip_prefix(&format!("rpc error: code = {code:?} desc = ")) {
            return Err(Status::new(code, text));
        }
    }
    panic!("{reason}");
}

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(quoin::pb::DESCRIPTORS).unwrap());

/// All methods of the services for clients, as `Service/Method`.
pub fn methods() -> impl Iterator<Item = String> {
    all_methods().map(|method| name_of(&method))
}

fn all_methods() -> impl Iterator<Item = MethodDescriptor> {
    let of_clients = ["etcdserverpb", "v3lockpb", "v3electionpb"];
    let services = POOL.services().filter(move |s| of_clients.contains(&s.package_name()));
    services.flat_map(|service| service.methods().collect::<Vec<_>>())
}

fn name_of(method: &MethodDescriptor) -> String {
    format!("{}/{}", method.parent_service().name(), method.name())
}

fn descriptor(method: &str) -> MethodDescriptor {
    all_methods().find(|other| name_of(other) == method).unwrap()
}

fn to_json(message: &DynamicMessage) -> Json {
    let fields = message.fields();
    fields.map(|(field, value)| (field.name().to_owned(), of_value(&field.kind(), value))).collect()
}

fn of_value(kind: &Kind, value: &Value) -> Json {
    match (value, kind) {
        (Value::Bool(value), _) => (*value).into(),
        (Value::I32(value), _) => (*value).into(),
        (Value::U32(value), _) => (*value).into(),
        (Value::I64(value), _) => value.to_string().into(),
        (Value::U64(value), _) => value.to_string().into(),
        (Value::String(text), _) => text.as_str().into(),
        (Value::Bytes(bytes), _) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
        (Value::EnumNumber(number), Kind::Enum(names)) => {
            names.get_value(*number).unwrap().name().into()
        }
        (Value::Message(message), _) => to_json(message),
        (Value::List(values), kind) => values.iter().map(|value| of_value(kind, value)).collect(),
        other => panic!("{other:?}"),
    }
}
