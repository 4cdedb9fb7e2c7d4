//! GET …/pods/NAME/log: what a container wrote, fetched from its kubelet and passed on as it comes.

use std::time::Duration;

use base_http::Body;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyStream, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use machinery_kinds::FieldError;
use machinery_store::Key;
use serde_json::Value;

use super::write::decode_stored;
use crate::NodeAddress;
use crate::negotiate::bounded_body;
use crate::object::text_at;
use crate::outgoing::BytesKept;
use crate::request::Query;
use crate::server::Context;
use crate::status::{self, ApiError, Result};

/// Parameters that the kubelet knows as well.
const PASSED_ON: [&str; 7] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "tailLines", "timestamps", "limitBytes"];

/// A kubelet that has accepted a connection answers soon, or is stuck.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What is read of a kubelet's refusal.
const REFUSAL_BYTES_MAX: usize = 4096;

/// What is read ahead of a kubelet, and the largest head of an answer. A stolen node sends as fast as it can; without a bound
/// of its own hyper reads 400 KiB ahead, several times.
const READ_AHEAD_BYTES_MAX: usize = 16 * 1024;

/// What a log keeps while its client takes nothing: what is read ahead, a piece that was handed on, and a record of TLS, which
/// are all of that size; one more is what they take beside. It is held of the budget for what clients have not taken
/// ([`crate::outgoing`]): two thousand open logs use it up, and the next one is answered with 429.
pub(crate) const LOG_BYTES_KEPT: usize = 4 * READ_AHEAD_BYTES_MAX;

/// The kubelet's port when the Node does not say.
const KUBELET_PORT: u64 = 10250;

pub(crate) async fn log(context: &Context<'_>) -> Result<Response<Body>> {
    check_options(context)?;
    let stored = context.stored()?;
    context.authorize_object(&stored)?;
    let pod = decode_stored(context, &stored)?;
    let container = container(&pod, context.name(), context.query.get("container"))?;
    let node = text_at(&pod, "/spec/nodeName");
    if node.is_empty() {
        // It has not been anywhere where it could have written something.
        return Ok(status::no_content());
    }
    let address = node_address(context, node)?;
    let path =
        format!("/containerLogs/{}/{}/{container}{}", context.namespace(), context.name(), passed_on(&context.query));
    let response = ask(context, &address, &path).await?;
    if response.status() != StatusCode::OK {
        return Err(refusal(&address, response).await);
    }
    let shutdown = context.server.shutdown.clone();
    let stream = BodyStream::new(response.into_body())
        .filter_map(|frame| async move { frame.map(|frame| frame.into_data().ok()).transpose() })
        // A followed log has no end of its own; it must not hold up the server's.
        .take_until(async move { shutdown.cancelled().await });
    let mut answer = Response::new(Body::stream(stream));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer.extensions_mut().insert(BytesKept(LOG_BYTES_KEPT));
    Ok(answer)
}

/// Checks what a client asks of a log, before it is looked whose.
fn check_options(context: &Context<'_>) -> Result<()> {
    let query = &context.query;
    let number = |key: &str| -> Result<Option<i64>> {
        let Some((_, text)) = query.iter().find(|(found, _)| *found == key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| ApiError::bad_number("ParseInt", text))
    };
    let since = number("sinceSeconds")?;
    let (tail, limit) = (number("tailLines")?, number("limitBytes")?);
    let stream = query.get("stream").unwrap_or("All");
    let mut errors = Vec::new();
    if let Some(tail) = tail.filter(|tail| *tail < 0) {
        errors.push(FieldError::invalid("tailLines", &tail.into(), "must be greater than or equal to 0"));
    }
    if let Some(limit) = limit.filter(|limit| *limit < 1) {
        errors.push(FieldError::invalid("limitBytes", &limit.into(), "must be greater than 0"));
    }
    match since {
        Some(_) if query.get("sinceTime").is_some() => {
            let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden("[]", why));
        }
        Some(since) if since < 1 => {
            errors.push(FieldError::invalid("sinceSeconds", &since.into(), "must be greater than 0"));
        }
        _ => {}
    }
    if !matches!(stream, "All" | "Stdout" | "Stderr") {
        errors.push(FieldError::not_supported("stream", &stream.into(), &["All", "Stdout", "Stderr"]));
    }
    if stream != "All" && tail.is_some() {
        errors.push(FieldError::forbidden("[]", "`tailLines` and specific `stream` are mutually exclusive for now"));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid_kind("", "PodLogOptions", context.name(), &errors)) }
}

/// The container that is asked for, or the only one.
pub(super) fn container(pod: &Value, name: &str, asked: Option<&str>) -> Result<String> {
    let names = |kind: &str| -> Vec<&str> {
        let containers = pod.pointer(&format!("/spec/{kind}")).and_then(Value::as_array);
        containers.into_iter().flatten().map(|container| text_at(container, "/name")).collect()
    };
    let (init, main, ephemeral) = (names("initContainers"), names("containers"), names("ephemeralContainers"));
    let all = [init, main.clone(), ephemeral].concat();
    match asked {
        Some(asked) if all.contains(&asked) => Ok(asked.to_owned()),
        Some(asked) => Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}"))),
        None => match main.as_slice() {
            [only] => Ok((*only).to_owned()),
            [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {name}"))),
            _ => Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                all.join(" ")
            ))),
        },
    }
}

/// Where the node says that its kubelet is.
fn node_address(context: &Context<'_>, node: &str) -> Result<NodeAddress> {
    let object = context.server.store.get(&Key::new("/nodes", "", node));
    let object =
        object.ok_or_else(|| ApiError::unavailable(format!("the pod's node {node:?} does not exist any more")))?;
    let value: Value = serde_json::from_slice(&object.bytes)
        .map_err(|error| ApiError::internal(format!("the stored node {node:?} cannot be read: {error}")))?;
    let addresses = value.pointer("/status/addresses").and_then(Value::as_array);
    let of_kind = |kind: &str| {
        let mut found = addresses.into_iter().flatten().filter(|address| text_at(address, "/type") == kind);
        found.next().map(|address| text_at(address, "/address").to_owned()).filter(|address| !address.is_empty())
    };
    let host = ["InternalIP", "Hostname", "ExternalIP"].into_iter().find_map(of_kind);
    let host = host.ok_or_else(|| {
        ApiError::unavailable(format!("node {node:?} has not reported an address yet; is its kubelet running?"))
    })?;
    let port = value.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = u16::try_from(port.unwrap_or(KUBELET_PORT)).map_err(|_| {
        ApiError::unavailable(format!("node {node:?} reports a kubelet port above 65535; correct its status"))
    })?;
    Ok(NodeAddress { name: node.to_owned(), host, port })
}

fn passed_on(query: &Query) -> String {
    let mut text = String::new();
    for (key, value) in query.iter().filter(|(key, _)| PASSED_ON.contains(key)) {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(char::from(byte)),
                other => text.push_str(&format!("%{other:02X}")),
            }
        }
    }
    text
}

async fn ask(context: &Context<'_>, address: &NodeAddress, path: &str) -> Result<Response<Incoming>> {
    let unreachable = |error: &dyn std::fmt::Display| {
        ApiError::unavailable(format!(
            "the kubelet of node {:?} at {}:{} cannot be reached, so there is no log to show: {error}",
            address.name, address.host, address.port
        ))
    };
    let stream = context.server.node_dialer.dial(address).await.map_err(|error| unreachable(&error))?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    let handshake = builder.max_buf_size(READ_AHEAD_BYTES_MAX).handshake(TokioIo::new(stream));
    let (mut client, connection) = handshake.await.map_err(|error| unreachable(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "A connection to a kubelet ended early.");
        }
    });
    let request = Request::get(path)
        .header(header::HOST, format!("{}:{}", address.host, address.port))
        .body(Empty::<Bytes>::new())
        .map_err(|error| ApiError::bad_request(format!("the log's address cannot be built: {error}")))?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.send_request(request)).await;
    answer.map_err(|_| unreachable(&"no answer within 30 seconds"))?.map_err(|error| unreachable(&error))
}

/// The kubelet's own words, with its status where that means the same here.
async fn refusal(address: &NodeAddress, response: Response<Incoming>) -> ApiError {
    let code = response.status();
    let body = bounded_body(crate::server::boxed(response.into_body()), REFUSAL_BYTES_MAX).await;
    let text = body.map(|body| String::from_utf8_lossy(&body).trim().to_owned()).unwrap_or_default();
    let text = if text.is_empty() { code.to_string() } else { text };
    if code.is_client_error() && code != StatusCode::UNAUTHORIZED && code != StatusCode::FORBIDDEN {
        ApiError::bad_request(text)
    } else {
        ApiError::internal(format!("the kubelet of node {:?} answered {code}: {text}", address.name))
    }
}
