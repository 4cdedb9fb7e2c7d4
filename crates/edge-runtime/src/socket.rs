//! The status socket: `GET /status`, `GET /metrics` and `GET /readings?device=&limit=` on `DATA_DIR/run/edge.sock`.

use std::path::Path;

use api_edge::status::EdgeReport;
use base_http::query::Query;
use base_http::{Address, BindError, Body, Listener, respond};
use base_journal::Journal;
use base_observe::{METRICS_CONTENT_TYPE, Metrics};
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
    metrics: Metrics,
    shutdown: CancellationToken,
) -> JoinHandle<()> {
    let handler = move |request: Request<hyper::body::Incoming>, _peer: base_http::Peer| {
        let (journal, report, metrics) = (journal.clone(), report.clone(), metrics.clone());
        async move { answer(&request, journal, &report, &metrics).await }
    };
    base_http::serve(listener, handler, shutdown)
}

async fn answer<B>(
    request: &Request<B>,
    journal: Journal,
    report: &watch::Receiver<EdgeReport>,
    metrics: &Metrics,
) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => respond::json(StatusCode::OK, &*report.borrow()),
        (&Method::GET, "/metrics") => respond::body(StatusCode::OK, METRICS_CONTENT_TYPE, metrics.encode()),
        (&Method::GET, "/readings") => {
            let asked = Query::parse(request.uri().query());
            let asked =
                asked.and_then(|query| Ok((query.number::<usize>("limit")?, query.get("device").map(str::to_owned))));
            let (limit, device) = match asked {
                Ok((limit, device)) => (limit.unwrap_or(READINGS_DEFAULT), device),
                Err(error) => return failure(StatusCode::BAD_REQUEST, &error),
            };
            let read = move || edge_core::journal::last_readings(&journal, device.as_deref(), limit);
            match tokio::task::spawn_blocking(read).await {
                Ok(Ok(readings)) => respond::json(StatusCode::OK, &json!({"readings": readings})),
                Ok(Err(error)) => failure(StatusCode::INTERNAL_SERVER_ERROR, &error),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        _ => respond::json(
            StatusCode::NOT_FOUND,
            &json!({"message": "there are GET /status, GET /metrics and GET /readings"}),
        ),
    }
}

fn failure(status: StatusCode, error: &dyn std::error::Error) -> Response<Body> {
    respond::json(status, &json!({"message": error.to_string()}))
}
