//! What calls say: parts of the path, the query, bodies and expected versions, each with an error of
//! our own shape; and the places in lists.

use super::Shared;
use super::answer::Problem;
use crate::scheduler::model::{Refusal, understand, unique};
use axum::body::{Body, HttpBody as _};
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::Method;
use axum::http::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::time::Duration;

/// Bytes of a body: what the store takes as a value.
const BODY_BYTES_MAX: usize = 1 << 20;
/// And of one that is too long, before its sender is cut off.
const PASSED_OVER_BYTES_MAX: usize = 8 << 20;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 1_000;

/// Parts of the path.
pub(super) struct InPath<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        let found = Path::<T>::from_request_parts(parts, state).await;
        found.map(|Path(found)| Self(found)).map_err(|error| Problem::new(400, in_path(&error)))
    }
}

/// What is wrong with a part of the path.
fn in_path(error: &PathRejection) -> String {
    let PathRejection::FailedToDeserializePathParams(found) = error else {
        return error.body_text();
    };
    match found.kind() {
        ErrorKind::ParseErrorAtIndex { value, .. } => {
            format!("{value:?} in the path is not a whole number from 0 to {}", u32::MAX)
        }
        kind => kind.to_string(),
    }
}

/// What stands behind the question mark.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        let found = Query::<T>::try_from_uri(&parts.uri);
        found.map(|Query(found)| Self(found)).map_err(|error| {
            let text = error.body_text();
            let said = text.split_once("query string: ").map_or(&*text, |(_, said)| said);
            let said = said.replace("invalid digit found in string", "it is not a whole number");
            Problem::new(400, format!("not a valid query: {said}"))
        })
    }
}

/// The version that the caller has seen, from `If-Match`.
pub(super) struct Expected {
    pub(super) version: Option<i64>,
    /// Whether there must be one, of whatever version, or must be none.
    pub(super) is_there: Option<bool>,
}

impl FromRequestParts<Shared> for Expected {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        let header =
            |name| parts.headers.get(name).map(|tag| tag.to_str().unwrap_or_default().trim());
        let mut expected = Self { version: None, is_there: None };
        match header(IF_NONE_MATCH) {
            None => {}
            Some(_) if parts.headers.contains_key(IF_MATCH) => {
                return Err(Problem::new(400, "If-Match and If-None-Match exclude each other"));
            }
            Some("*") => expected.is_there = Some(false),
            Some(_) => {
                return Err(Problem::new(400, "If-None-Match of a change is *, or not there"));
            }
        }
        match header(IF_MATCH) {
            None => {}
            Some("*") => expected.is_there = Some(true),
            Some(tag) => {
                let version = tag.trim_start_matches("W/").trim_matches('"').parse();
                let version =
                    version.map_err(|_| Problem::new(400, "If-Match is not a version"))?;
                expected.version = Some(version);
            }
        }
        Ok(expected)
    }
}

impl Expected {
    /// The version, which may stand in the body too.
    pub(super) fn or(self, in_body: Option<i64>) -> Result<Option<i64>, Problem> {
        match (self.version, in_body) {
            (Some(one), Some(other)) if one != other => {
                Err(Problem::new(400, "If-Match and the body name different versions"))
            }
            (one, other) => Ok(one.or(other)),
        }
    }
}

/// A body that is a JSON object; an empty one stands for one without fields, but where it replaces something.
pub(super) struct Object(pub(super) Map<String, Value>);

impl FromRequest<Shared> for Object {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, Problem> {
        let replaces = request.method() == Method::PUT;
        let text = read(request).await?;
        if text.is_empty() && !replaces {
            return Ok(Self(Map::new()));
        }
        match unique(&text) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Problem::new(400, "the body is not a JSON object")),
            Err(error) if error.is_data() => {
                Err(Problem::new(400, format!("the body is ambiguous: {error}")))
            }
            Err(error) => Err(Problem::new(400, format!("the body is not JSON: {error}"))),
        }
    }
}

impl Object {
    /// Takes the version out, which is no part of a definition.
    pub(super) fn take_version(&mut self) -> Result<Option<i64>, Problem> {
        match self.0.remove("version") {
            None | Some(Value::Null) => Ok(None),
            Some(version) => match version.as_i64() {
                Some(version) => Ok(Some(version)),
                None => Err(Problem::new(400, "version is not a whole number")),
            },
        }
    }

    pub(super) fn parse<T: DeserializeOwned>(self, what: &str) -> Result<T, Refusal> {
        understand(what, Value::Object(self.0))
    }
}

/// The whole body. One that is too long is read on for a while: a client that writes all of it before
/// it reads would never see the answer.
async fn read(request: Request) -> Result<Bytes, Problem> {
    let too_long = || Problem::new(413, format!("the body is longer than {BODY_BYTES_MAX} bytes"));
    let mut body: Body = request.into_body();
    if body.size_hint().lower() > (BODY_BYTES_MAX + PASSED_OVER_BYTES_MAX) as u64 {
        return Err(too_long());
    }
    let whole = async {
        let (mut kept, mut passed_over) = (BytesMut::new(), 0);
        while let Some(frame) = body.frame().await {
            // A body that breaks off has nobody left who could read the answer.
            let broken = |_| Problem::new(400, "the body broke off");
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            if passed_over == 0 && kept.len() + data.len() <= BODY_BYTES_MAX {
                kept.extend_from_slice(&data);
                continue;
            }
            passed_over += data.len();
            if passed_over > PASSED_OVER_BYTES_MAX {
                break;
            }
        }
        if passed_over > 0 { Err(too_long()) } else { Ok(kept.freeze()) }
    };
    let read = tokio::time::timeout(BODY_TIMEOUT, whole).await;
    read.map_err(|_| Problem::new(408, "the body did not come in time"))?
}

/// Whether a call says that its body is JSON.
pub(super) fn is_json(request: &Request) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    ["application/json", "application/merge-patch+json"]
        .iter()
        .any(|known| kind.eq_ignore_ascii_case(known))
}

/// That a filter asks for what there is.
///
/// # Errors
/// 400 with what there is.
pub(super) fn check_known(name: &str, asked: Option<&str>, known: &[&str]) -> Result<(), Problem> {
    match asked {
        Some(asked) if !known.contains(&asked) => {
            let known = known.join(", ");
            Err(Problem::new(400, format!("unknown {name} {asked:?}: known are {known}")))
        }
        _ => Ok(()),
    }
}

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Part {
    limit: Option<String>,
    next: Option<String>,
}

impl Part {
    pub(super) fn new(limit: Option<String>, next: Option<String>) -> Self {
        Self { limit, next }
    }

    pub(super) fn limit(&self) -> Result<usize, Problem> {
        let Some(limit) = &self.limit else { return Ok(LIMIT_DEFAULT) };
        match limit.parse() {
            Ok(limit @ 1..=LIMIT_MAX) => Ok(limit),
            _ => Err(Problem::new(400, format!("limit is not between 1 and {LIMIT_MAX}"))),
        }
    }

    /// The place behind which the list goes on.
    pub(super) fn after(&self) -> Result<Option<String>, Problem> {
        let Some(next) = &self.next else { return Ok(None) };
        let place = URL_SAFE_NO_PAD.decode(next).ok().and_then(|id| String::from_utf8(id).ok());
        match place {
            Some(place) => Ok(Some(place)),
            None => Err(Problem::new(400, "next is not what a list has said")),
        }
    }
}

/// A place in a list, for the caller to hand back.
pub(super) fn token(place: &str) -> String {
    URL_SAFE_NO_PAD.encode(place)
}

#[cfg(test)]
mod tests {
    use super::{Part, check_known, token};

    #[test]
    fn filters_that_fit_nothing_are_refused() {
        let known = ["good", "bad"];
        for fine in [None, Some("good"), Some("bad")] {
            assert!(check_known("health", fine, &known).is_ok());
        }
        for wrong in ["", "goo", "Good"] {
            let refused = check_known("health", Some(wrong), &known).unwrap_err();
            let text = format!("unknown health {wrong:?}: known are good, bad");
            assert_eq!((refused.status, refused.message), (400, text));
        }
    }

    fn part(limit: Option<&str>, next: Option<&str>) -> Part {
        Part::new(limit.map(str::to_owned), next.map(str::to_owned))
    }

    #[test]
    fn places_in_lists_come_back_as_they_were_given() {
        for place in ["a", "a b/ü%", ""] {
            let after = part(None, Some(&token(place))).after().unwrap();
            assert_eq!(after.as_deref(), Some(place));
        }
        assert_eq!(part(None, Some("*")).after().unwrap_err().status, 400);
    }

    #[test]
    fn limits_are_within_bounds() {
        assert_eq!(part(None, None).limit().unwrap(), 50);
        assert_eq!(part(Some("1000"), None).limit().unwrap(), 1_000);
        for limit in ["0", "1001", "-1", "x", ""] {
            assert_eq!(part(Some(limit), None).limit().unwrap_err().status, 400, "{limit}");
        }
    }
}
