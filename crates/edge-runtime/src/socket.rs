//! The status socket: `GET /status` and `GET /readings?device=&limit=` on `DATA_DIR/run/edge.sock`.

use std::path::Path;

use api_edge::status::EdgeReport;
use base_http::{Address, BindError, Body, Listener};
use base_journal::Journal;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Readings in an answer when nothing is said.
const READINGS_DEFAULT: usize = 20;

/// Binds the socket, so that a second edge plane on the same folder fails before it has acted.
pub fn bind(path: &Path) -> Result<Listener, BindError> {
    Listener::bind("edge", Address::Unix(path.to_owned()))
}

/// Serves until `shutdown`.
pub fn serve(
    listener: Listener,
    journal: Journal,
    report: watch::Receiver<EdgeReport>,
    shutdown: CancellationToken,
) -> JoinHandle<()> {
    let handler = move |request: Request<hyper::body::Incoming>, _peer: base_http::Peer| {
        let (journal, report) = (journal.clone(), report.clone());
        async move { answer(&request, journal, &report).await }
    };
    base_http::serve(listener, handler, shutdown)
}

async fn answer<B>(request: &Request<B>, journal: Journal, report: &watch::Receiver<EdgeReport>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => json_response(StatusCode::OK, &*report.borrow()),
        (&Method::GET, "/readings") => {
            let parameter = |name: &str| {
                let pairs = request.uri().query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
                pairs.filter(|(key, _)| *key == name).map(|(_, value)| percent_decode(value)).next()
            };
            let limit = match parameter("limit").map(|limit| limit.parse::<usize>()) {
                None => READINGS_DEFAULT,
                Some(Ok(limit)) => limit,
                Some(Err(_)) => {
                    return json_response(StatusCode::BAD_REQUEST, &json!({"message": "`limit` is not a number"}));
                }
            };
            let device = parameter("device").filter(|device| !device.is_empty());
            let read = move || edge_core::journal::last_readings(&journal, device.as_deref(), limit);
            match tokio::task::spawn_blocking(read).await {
                Ok(Ok(readings)) => json_response(StatusCode::OK, &json!({"readings": readings})),
                Ok(Err(error)) => {
                    json_response(StatusCode::INTERNAL_SERVER_ERROR, &json!({"message": error.to_string()}))
                }
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        _ => json_response(StatusCode::NOT_FOUND, &json!({"message": "there are GET /status and GET /readings"})),
    }
}

fn json_response(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("reports hold text and numbers only");
    let mut response = Response::new(Body::pieces([Bytes::from(bytes)]));
    *response.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
