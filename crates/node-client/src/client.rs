//! Requests and watches over the connection that there is.
//!
//! Nothing waits for a fixed time for a whole answer: a list over a 64 kbit/s link takes its minutes, and is no failure as long as
//! bytes come. What counts is silence. A connection over which nothing at all has come for [`SILENCE_MAX`] while somebody waits is
//! closed; a request whose own answer makes no progress for [`PATIENCE`] fails alone, and others on the connection do not notice.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base_retry::{BackoffLaw, Retry, Wake};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::connection::{BACKOFF, Connection, Endpoint, Health};
use crate::object::{ListPage, Malformed, Object};
use crate::partial;
use crate::warnings::Warnings;

/// A connection on which nothing was heard for this long while an answer was due is dead: a half-open one is found so.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Longest time without progress of one answer while others come: a hub that is busy with this one alone.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest answer that is read: a list of 110 pods with their status stays well below.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Largest single event of a watch: objects are at most 1.5 MB in etcd, and so in any hub.
const EVENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What all watches of a connection may hold back together: none of many endless lines may fill the memory of a gateway.
const BUFFERED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How objects are answered.
const JSON: &str = "application/json";
/// The metadata of an object alone; all of it by a hub that knows no such answer.
const METADATA_ONLY: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// Why a request to the hub has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no connection.
    #[error("the hub is out of reach")]
    Unreachable,
    /// The answer made no progress.
    #[error("the hub did not answer {act} in time")]
    Timeout {
        /// Method and path.
        act: String,
    },
    /// The connection ended meanwhile.
    #[error("the connection to the hub broke during {act}")]
    Broken {
        /// Method and path.
        act: String,
        /// How.
        #[source]
        source: hyper::Error,
    },
    /// The hub answered, and not with success.
    #[error("the hub answered {act} with {code} {reason}: {message}")]
    Status {
        /// Method and path.
        act: String,
        /// HTTP status.
        code: u16,
        /// Kubernetes' word for it.
        reason: String,
        /// For people.
        message: String,
        /// The fields that the hub names as the causes.
        fields: Vec<String>,
    },
    /// The answer is not what was requested. It changes nothing.
    #[error("the hub answered {act} with something that cannot be used: {message}")]
    Unreadable {
        /// Method and path.
        act: String,
        /// What is wrong with it.
        message: String,
    },
}

impl ApiError {
    /// The HTTP status, when the hub answered at all.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// What the hub said, when it said something; else what went wrong.
    pub fn message(&self) -> String {
        match self {
            Self::Status { message, .. } if !message.is_empty() => message.clone(),
            other => chain(other),
        }
    }

    /// What came in answer to `act` is not what was requested.
    pub fn unreadable(act: impl Into<String>, error: &Malformed) -> Self {
        Self::Unreadable { act: act.into(), message: error.to_string() }
    }

    /// Whether the hub names this field as a cause.
    pub fn is_about(&self, field: &str) -> bool {
        matches!(self, Self::Status { fields, .. } if fields.iter().any(|found| found == field))
    }

    /// Whether waiting for the hub is all there is to do.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable | Self::Timeout { .. } | Self::Broken { .. } => true,
            Self::Status { code, .. } => *code >= 500 || *code == 429,
            Self::Unreadable { .. } => false,
        }
    }
}

/// A handle on the connection; cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiClient {
    pub(crate) connection: watch::Receiver<Option<Connection>>,
    pub(crate) endpoint: watch::Receiver<Option<Endpoint>>,
    pub(crate) local_ip: watch::Receiver<Option<std::net::IpAddr>>,
    pub(crate) restored: Wake,
    pub(crate) warnings: Warnings,
}

/// A patch, by how it is to be understood.
#[derive(Clone, Copy, Debug)]
pub enum Patch {
    /// RFC 7396.
    Merge,
    /// Kubernetes' own.
    Strategic,
}

/// What a hub has of an object, without the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `metadata.uid`; never empty.
    pub uid: String,
    /// `metadata.resourceVersion` as a number; 0 where it is none.
    pub revision: u64,
}

/// A page of a list and what it cost the link.
#[derive(Debug)]
pub struct Page {
    /// The page.
    pub list: ListPage,
    /// Bytes of its body as they were sent, compressed or not.
    pub wire_bytes: usize,
}

struct Answer {
    status: StatusCode,
    body: Bytes,
    wire_bytes: usize,
}

impl ApiClient {
    /// Waits until there is a connection.
    pub async fn connected(&mut self) {
        // An error means that the manager has ended, which happens at shutdown only; the caller is then cancelled, too.
        let is_open = |connection: &Option<Connection>| connection.as_ref().is_some_and(Connection::is_open);
        if self.connection.wait_for(is_open).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether there is a connection at this moment.
    pub fn is_connected(&self) -> bool {
        self.connection.borrow().as_ref().is_some_and(Connection::is_open)
    }

    /// The back-off of a part that needs the hub; a connection that is made ends its pauses.
    pub fn retry(&self) -> Retry {
        self.retry_by(BACKOFF)
    }

    /// The same by another law.
    pub fn retry_by(&self, law: BackoffLaw) -> Retry {
        Retry::new(law).with_wake(&self.restored)
    }

    /// What is called whenever a connection to the hub was made.
    pub fn restored(&self) -> Wake {
        self.restored.clone()
    }

    /// Address of this node's end of the connection: the one by which the hub's network knows the node.
    pub fn local_ip(&self) -> Option<std::net::IpAddr> {
        *self.local_ip.borrow()
    }

    /// The hub that was reached last, or the first of the configuration.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.borrow().clone()
    }

    /// Which connection this is, counted from 1: who has reported something to the hub compares it.
    pub fn connection_number(&self) -> u64 {
        self.connection.borrow().as_ref().map_or(0, |connection| connection.number)
    }

    /// Ends a connection that hangs; the manager dials again.
    pub fn close(&self) {
        if let Some(connection) = self.connection.borrow().as_ref() {
            connection.close.cancel();
        }
    }

    /// One object of a kind.
    ///
    /// # Errors
    /// When the hub is away, says no, or answers with anything but such an object.
    pub async fn get(&self, path: &str, kind: &str) -> Result<Object, ApiError> {
        let value = self.json(Method::GET, path, None).await?;
        Object::of_kind(value, kind).map_err(|error| ApiError::unreadable(act(&Method::GET, path), &error))
    }

    /// One page of a list of a kind.
    ///
    /// # Errors
    /// When the hub is away, says no, or answers with anything but such a list.
    pub async fn list(&self, path: &str, kind: &str) -> Result<Page, ApiError> {
        let answer = self.exchange(Method::GET, path, None).await?;
        let act = act(&Method::GET, path);
        let value = parse(&act, &answer.body)?;
        let list = ListPage::read(value, kind).map_err(|error| ApiError::unreadable(act, &error))?;
        Ok(Page { list, wire_bytes: answer.wire_bytes })
    }

    /// Creates an object; returns it as the hub has it.
    ///
    /// # Errors
    /// When the hub is away or says no.
    pub async fn create(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.json(Method::POST, path, Some(("application/json", body))).await
    }

    /// Changes an object; returns it as the hub has it.
    ///
    /// # Errors
    /// When the hub is away or says no.
    pub async fn patch(&self, path: &str, kind: Patch, body: &Value) -> Result<Value, ApiError> {
        let content_type = match kind {
            Patch::Merge => "application/merge-patch+json",
            Patch::Strategic => "application/strategic-merge-patch+json",
        };
        self.json(Method::PATCH, path, Some((content_type, body))).await
    }

    /// Merges a patch into an object of a kind, of which only the metadata is answered, in the form that costs a link least.
    ///
    /// # Errors
    /// When the hub is away, says no, or answers with anything but such an object.
    pub async fn patch_for_version(&self, path: &str, kind: &str, body: &Value) -> Result<Version, ApiError> {
        let body = Some(("application/merge-patch+json", body));
        let answer = self.exchange_for(METADATA_ONLY, Method::PATCH, path, body).await?;
        let act = act(&Method::PATCH, path);
        let name = path.rsplit('/').next().unwrap_or_default();
        partial::version(&answer.body, kind, name).map_err(|error| ApiError::unreadable(act, &error))
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// When the hub is away or says no.
    pub async fn delete(&self, path: &str, options: &Value) -> Result<Value, ApiError> {
        self.json(Method::DELETE, path, Some(("application/json", options))).await
    }

    /// Opens a watch of a kind; its first event may be long in coming.
    ///
    /// # Errors
    /// When the hub is away or says no.
    pub async fn watch(&self, path: &str, kind: &'static str) -> Result<Watch, ApiError> {
        let act = act(&Method::GET, path);
        let connection = self.connection()?;
        let (ended, health) = (connection.close.clone(), connection.health.clone());
        let response = connection.progressing(&act, connection.send(Method::GET, path, None, JSON, false)).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let answer = connection.read_answer(response, &act).await?;
            return Err(status_error(act, status, &answer.body));
        }
        let buffer = LineBuffer { bytes: BytesMut::new(), counted: 0, health };
        Ok(Watch { act, kind, ended, body: response.into_body(), buffer })
    }

    async fn json(&self, method: Method, path: &str, body: Option<(&'static str, &Value)>) -> Result<Value, ApiError> {
        let act = act(&method, path);
        let answer = self.exchange(method, path, body).await?;
        parse(&act, &answer.body)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Answer, ApiError> {
        self.exchange_for(JSON, method, path, body).await
    }

    async fn exchange_for(
        &self,
        accept: &'static str,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Answer, ApiError> {
        let act = act(&method, path);
        let connection = self.connection()?;
        let response = connection.progressing(&act, connection.send(method, path, body, accept, true)).await?;
        self.warnings.log(&act, response.headers());
        let answer = connection.read_answer(response, &act).await?;
        if !answer.status.is_success() {
            return Err(status_error(act, answer.status, &answer.body));
        }
        Ok(answer)
    }

    fn connection(&self) -> Result<Connection, ApiError> {
        self.connection.borrow().clone().filter(Connection::is_open).ok_or(ApiError::Unreachable)
    }
}

/// Method and path, for people; selectors and tokens are left out.
fn act(method: &Method, path: &str) -> String {
    format!("{method} {}", path.split('?').next().unwrap_or(path))
}

fn parse(act: &str, body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::Unreadable { act: act.to_owned(), message: error.to_string() })
}

impl Connection {
    /// Whether nobody has given it up.
    pub(crate) fn is_open(&self) -> bool {
        !self.close.is_cancelled()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
        accept: &'static str,
        may_compress: bool,
    ) -> Result<Response<Incoming>, ApiError> {
        let act = act(&method, path);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority))
            .header(ACCEPT, accept)
            .header(USER_AGENT, concat!("selvedge-kubelet/", env!("CARGO_PKG_VERSION")));
        if may_compress {
            request = request.header(ACCEPT_ENCODING, "gzip");
        }
        if let Some(token) = &self.bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let bytes = match body {
            Some((content_type, value)) => {
                request = request.header(CONTENT_TYPE, content_type);
                Bytes::from(value.to_string())
            }
            None => Bytes::new(),
        };
        let request = request
            .body(Full::new(bytes))
            .map_err(|error| ApiError::Unreadable { act: act.clone(), message: error.to_string() })?;
        let mut sender = self.sender.clone();
        let response = sender.send_request(request).await.map_err(|source| ApiError::Broken { act, source })?;
        if self.health.note(response.status().is_server_error()) {
            tracing::warn!(hub = %self.authority, "The hub answers with errors only; trying another.");
            self.close.cancel();
        }
        Ok(response)
    }

    /// Awaits one step of an answer for as long as the connection is alive and the step not hopeless.
    pub(crate) async fn progressing<T>(
        &self,
        act: &str,
        step: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let begun = Instant::now();
        let mut step = std::pin::pin!(step);
        loop {
            let silent_at = self.health.heard_at().max(begun) + SILENCE_MAX;
            let wake_at = silent_at.min(begun + PATIENCE);
            tokio::select! {
                // What has come counts, whatever became of the connection since: a kube-apiserver ends it after each answer to anonymous.
                biased;
                result = &mut step => return result,
                () = self.close.cancelled() => return Err(ApiError::Unreachable),
                () = tokio::time::sleep_until(wake_at) => {}
            }
            let is_silent = self.health.heard_at().max(begun) + SILENCE_MAX <= Instant::now();
            if is_silent {
                self.close.cancel();
            }
            if is_silent || begun.elapsed() >= PATIENCE {
                return Err(ApiError::Timeout { act: act.to_owned() });
            }
        }
    }

    async fn read_answer(&self, response: Response<Incoming>, act: &str) -> Result<Answer, ApiError> {
        let status = response.status();
        let is_gzip = response.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
        let mut body = response.into_body();
        let too_large = || ApiError::Unreadable { act: act.to_owned(), message: "it is too large".to_owned() };
        let mut bytes = BytesMut::new();
        loop {
            let frame = self.progressing(act, async { Ok(body.frame().await) }).await?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|source| ApiError::Broken { act: act.to_owned(), source })?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > ANSWER_BYTES_MAX {
                    return Err(too_large());
                }
                bytes.extend_from_slice(data);
            }
        }
        let wire_bytes = bytes.len();
        let body = if is_gzip {
            let mut plain = Vec::new();
            let limit = ANSWER_BYTES_MAX as u64 + 1;
            flate2::read::GzDecoder::new(&bytes[..]).take(limit).read_to_end(&mut plain).map_err(|error| {
                ApiError::Unreadable { act: act.to_owned(), message: format!("its gzip is damaged: {error}") }
            })?;
            if plain.len() > ANSWER_BYTES_MAX {
                return Err(too_large());
            }
            plain.into()
        } else {
            bytes.freeze()
        };
        Ok(Answer { status, body, wire_bytes })
    }
}

fn status_error(act: String, status: StatusCode, body: &[u8]) -> ApiError {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
    let causes = answer["details"]["causes"].as_array().into_iter().flatten();
    let fields = causes.filter_map(|cause| cause["field"].as_str().map(str::to_owned)).collect();
    ApiError::Status { act, code: status.as_u16(), reason: text("reason"), message: text("message"), fields }
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Added or modified: the object as it is now.
    Applied(Object),
    /// The object as it was last.
    Deleted(Object),
    /// Nothing changed up to this resource version.
    Bookmark(String),
    /// The hub ends the watch; 410 asks for a new list.
    Error {
        /// As an HTTP status.
        code: u16,
        /// For people.
        message: String,
    },
}

/// The beginning of a line whose end has not come yet, counted among those of its connection.
#[derive(Debug)]
struct LineBuffer {
    bytes: BytesMut,
    counted: usize,
    health: Arc<Health>,
}

impl LineBuffer {
    /// Adds what came; `false` when the line, or all lines of the connection together, are too long.
    fn push(&mut self, data: &[u8]) -> bool {
        self.bytes.extend_from_slice(data);
        self.count();
        self.bytes.len() <= EVENT_BYTES_MAX && self.health.buffered.load(Ordering::Relaxed) <= BUFFERED_BYTES_MAX
    }

    fn next_line(&mut self) -> Option<BytesMut> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n')?;
        let line = self.bytes.split_to(end + 1);
        self.count();
        Some(line)
    }

    fn count(&mut self) {
        let now = self.bytes.len();
        self.health.buffered.fetch_add(now, Ordering::Relaxed);
        self.health.buffered.fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = now;
    }
}

impl Drop for LineBuffer {
    fn drop(&mut self) {
        self.health.buffered.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// An open watch.
#[derive(Debug)]
pub struct Watch {
    act: String,
    kind: &'static str,
    /// The connection was given up.
    ended: CancellationToken,
    body: Incoming,
    buffer: LineBuffer,
}

impl Watch {
    /// The next event; `None` when the hub closed the watch in good order. May be dropped while it waits.
    ///
    /// # Errors
    /// When the connection ends, or the hub sends what is no event.
    pub async fn next(&mut self) -> Result<Option<Event>, ApiError> {
        loop {
            if let Some(line) = self.buffer.next_line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return parse_event(&line, self.kind).map(Some).map_err(|message| self.unreadable(message));
            }
            let frame = tokio::select! {
                biased;
                frame = self.body.frame() => frame,
                () = self.ended.cancelled() => return Err(ApiError::Unreachable),
            };
            match frame {
                None => return Ok(None),
                Some(Err(source)) => return Err(ApiError::Broken { act: self.act.clone(), source }),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref()
                        && !self.buffer.push(data)
                    {
                        return Err(self.unreadable("an event is too large".to_owned()));
                    }
                }
            }
        }
    }

    fn unreadable(&self, message: String) -> ApiError {
        ApiError::Unreadable { act: self.act.clone(), message }
    }
}

/// Reads one line of a watch. Nothing of it is trusted to be there.
pub fn parse_event(line: &[u8], kind: &str) -> Result<Event, String> {
    let event: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let Value::Object(mut event) = event else {
        return Err(Malformed::NoObject("something else").to_string());
    };
    let object = event.remove("object").unwrap_or_default();
    let read = |object| Object::of_kind(object, kind).map_err(|error| error.to_string());
    match event.get("type").and_then(Value::as_str).unwrap_or_default() {
        "ADDED" | "MODIFIED" => read(object).map(Event::Applied),
        "DELETED" => read(object).map(Event::Deleted),
        "BOOKMARK" => match object["metadata"]["resourceVersion"].as_str() {
            Some(version) if !version.is_empty() => Ok(Event::Bookmark(version.to_owned())),
            _ => Err("a bookmark has no resource version".to_owned()),
        },
        "ERROR" => Ok(Event::Error {
            code: object["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500),
            message: object["message"].as_str().unwrap_or_default().to_owned(),
        }),
        other => Err(format!("unknown event type `{other}`")),
    }
}
