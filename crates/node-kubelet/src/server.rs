//! The kubelet's own API: logs, pods and metrics, over TLS, for those whom [`Callers`] lets in; and the status socket for
//! `selvedge status`, for the owner of the data directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base_http::query::decode_segment;
use base_http::respond::{self, text};
use base_http::{Body, Peer};
use base_observe::{METRICS_CONTENT_TYPE, Metrics};
use base_retry::{Notice, Wake};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use jiff::Timestamp;
use node_client::StatusRegistry;
use node_pods::{LogPlace, LogQuery, LogReader, Pods, Stopping};
use node_runtime::{ContainerId, ContainerState, NodeImages};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::callers::Callers;
use crate::images;
use crate::stats::{self, Sample, Stats, exposition, summary};

/// How often a followed log is looked at for more: soon enough for a person who watches.
const FOLLOW_PERIOD: Duration = Duration::from_millis(250);
/// Every how many looks at the log it is asked whether the container still runs.
const RUNNING_LOOKS: u32 = 4;
/// Pieces of a log that wait for a slow reader.
const PIECES_MAX: usize = 8;

/// What the kubelet's API shows.
#[derive(Clone)]
pub(crate) struct Served {
    pub node: String,
    pub callers: Callers,
    pub pods: Pods,
    pub metrics: Metrics,
    pub stats: Stats,
    pub images: Option<Arc<NodeImages>>,
}

/// Answers requests to the kubelet's API.
pub(crate) async fn answer(request: Request<Incoming>, peer: Peer, served: Served) -> Response<Body> {
    let path = request.uri().path().trim_end_matches('/').to_owned();
    if path == "/healthz" {
        return text(StatusCode::OK, "ok");
    }
    // As upstream: what has a name of its own may be granted alone, or with all the rest.
    let parts = match path.as_str() {
        path if path == "/metrics" || path.starts_with("/metrics/") => &["metrics"][..],
        path if path == "/stats" || path.starts_with("/stats/") => &["stats"],
        "/pods" => &["pods", "proxy"],
        _ => &["proxy"],
    };
    if let Err((status, why)) = served.callers.check(&peer, request.headers(), request.method(), parts).await {
        return text(status, why);
    }
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here");
    }
    let segments: Option<Vec<_>> = path.split('/').skip(1).map(decode_segment).collect();
    let Some(segments) = segments else {
        return text(StatusCode::BAD_REQUEST, "the path is not percent-encoded UTF-8");
    };
    match segments.iter().map(AsRef::as_ref).collect::<Vec<&str>>()[..] {
        ["metrics"] => metrics_page(&served.metrics),
        ["metrics", "resource"] => usage_page(&served.stats, exposition::resource).await,
        ["metrics", "cadvisor"] => usage_page(&served.stats, exposition::cadvisor).await,
        ["stats", "summary"] => summary_page(&served, request.uri().query().unwrap_or_default()).await,
        ["pods"] => list(&served.pods).await,
        ["containerLogs", namespace, pod, container] => {
            let query = LogQuery::parse(request.uri().query(), Timestamp::now());
            match query {
                Ok(query) => logs(&served.pods, namespace, pod, container, query).await,
                Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "not served by this kubelet"),
    }
}

/// What the status socket shows and does.
#[derive(Clone)]
pub(crate) struct StatusSocket {
    pub registry: StatusRegistry,
    pub metrics: Metrics,
    pub restored: Wake,
    pub pods: Pods,
    /// Or why there are none.
    pub images: Result<Arc<NodeImages>, String>,
    pub shutdown: CancellationToken,
}

/// Answers requests to the status socket, which only the owner of the data directory can open.
pub(crate) async fn answer_status(request: Request<Incoming>, socket: StatusSocket) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => respond::json(StatusCode::OK, &socket.registry.report()),
        (&Method::GET, "/metrics") => metrics_page(&socket.metrics),
        (&Method::GET, "/connections") => {
            connections(socket.restored.notice(), socket.registry.report().connected, socket.shutdown)
        }
        (&Method::POST, "/accept-hub") => match socket.pods.accept_hub().await {
            Ok(stopped) => respond::json(StatusCode::OK, &json!({"stopped": stopped})),
            Err(Stopping) => stopping(),
        },
        (_, path) if path.starts_with(images::PATH) => {
            images::answer(request, socket.images.as_ref().map_err(String::as_str), &socket.shutdown).await
        }
        _ => text(StatusCode::NOT_FOUND, "try GET /status, /metrics, /connections or /images, or POST /accept-hub"),
    }
}

/// A line for the connection to the hub that there is, and one for each that is made from now on.
fn connections(notice: Notice, is_connected: bool, shutdown: CancellationToken) -> Response<Body> {
    let lines = futures::stream::unfold((notice, is_connected), move |(mut notice, is_due)| {
        let shutdown = shutdown.clone();
        async move {
            if !is_due {
                // It ends with the kubelet, else it would hold up the drain.
                shutdown.run_until_cancelled(notice.called()).await?;
            }
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"connected\n")), (notice, false)))
        }
    });
    Response::new(Body::stream(lines))
}

fn metrics_page(metrics: &Metrics) -> Response<Body> {
    respond::body(StatusCode::OK, METRICS_CONTENT_TYPE, metrics.encode())
}

async fn usage_page(stats: &Stats, render: fn(&Sample) -> String) -> Response<Body> {
    match stats.sample().await {
        Ok(sample) => respond::body(StatusCode::OK, exposition::CONTENT_TYPE, render(&sample)),
        Err(Stopping) => stopping(),
    }
}

async fn summary_page(served: &Served, query: &str) -> Response<Body> {
    let Ok(sample) = served.stats.sample().await else { return stopping() };
    // The disk is not looked at for whoever asks for no more.
    let is_short = query.split('&').any(|field| field == "only_cpu_and_memory=true");
    let of_pods = if is_short { Arc::default() } else { served.stats.disks(&sample).await };
    let images = served.images.clone().filter(|_| !is_short);
    let images = tokio::task::spawn_blocking(move || {
        let used_bytes = images.as_ref()?.list().iter().map(|image| image.size_bytes).sum();
        Some((stats::machine::disk(&images?.dir())?, used_bytes))
    });
    let images = images.await.ok().flatten();
    let mut page = summary::summary(&served.node, &sample, &summary::Disks { of_pods: &of_pods, images });
    if is_short {
        summary::cpu_and_memory_only(&mut page);
    }
    respond::json(StatusCode::OK, &page)
}

async fn list(pods: &Pods) -> Response<Body> {
    let Ok(pods) = pods.list().await else { return stopping() };
    let items: Vec<Value> = pods.iter().filter_map(|json| serde_json::from_slice(json).ok()).collect();
    respond::json(StatusCode::OK, &json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

async fn logs(pods: &Pods, namespace: &str, pod: &str, container: &str, query: LogQuery) -> Response<Body> {
    let place = match pods.logs(namespace, pod, container).await {
        Ok(Ok(place)) => place,
        Ok(Err(message)) => return text(StatusCode::NOT_FOUND, message),
        Err(Stopping) => return stopping(),
    };
    let (path, attempt) = match log_file(&place, query.previous).await {
        Some(found) => found,
        None if query.previous => {
            let message = format!(
                "previous terminated container \"{}\" in pod \"{}\" of namespace \"{}\" not found",
                place.container, place.pod, place.namespace
            );
            return text(StatusCode::BAD_REQUEST, message);
        }
        None => {
            let why = place.waiting.map(|reason| format!(": {reason}")).unwrap_or_default();
            let message =
                format!("container \"{}\" in pod \"{}\" is waiting to start{why}", place.container, place.pod);
            return text(StatusCode::BAD_REQUEST, message);
        }
    };
    let reader = match LogReader::open(&path, &query).await {
        Ok(reader) => reader,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, format!("failed to open the log: {error}")),
    };
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    let id = ContainerId { pod_uid: place.uid.clone(), container: place.container.clone(), attempt };
    tokio::spawn(pump(reader, query.follow.then(|| pods.clone()), place, id, pieces));
    let stream = futures::stream::unfold(body, |mut body| async move { Some((body.recv().await?, body)) });
    let mut response = Response::new(Body::stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

/// Reads a log to its end, or follows it while its container runs and the kubelet does.
async fn pump(
    mut reader: LogReader,
    follow: Option<Pods>,
    place: LogPlace,
    id: ContainerId,
    pieces: mpsc::Sender<std::io::Result<Bytes>>,
) {
    let mut looks = 0_u32;
    let mut is_last = follow.is_none();
    loop {
        match reader.next().await {
            Ok(Some(piece)) => {
                if pieces.send(Ok(piece)).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                debug!(%error, "Reading a log failed.");
                // The reader may be deleted, too.
                let _ = pieces.send(Err(error)).await;
                return;
            }
        }
        if is_last || reader.is_full() || follow.as_ref().is_none_or(Pods::is_stopped) {
            return;
        }
        // Asked less often than the log is read; what was written before the end is read once more after it.
        looks += 1;
        if looks.is_multiple_of(RUNNING_LOOKS) {
            is_last = !still_runs(&place, &id).await;
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_PERIOD) => {}
            () = pieces.closed() => return,
        }
    }
}

async fn still_runs(place: &LogPlace, id: &ContainerId) -> bool {
    let Some(runtime) = &place.runtime else { return false };
    runtime.status(id).await.is_ok_and(|status| !matches!(status.state, ContainerState::Exited(_)))
}

/// A container's newest log and whose attempt it is; or that of the last attempt that has ended, as the pod's status says which.
async fn log_file(place: &LogPlace, previous: bool) -> Option<(PathBuf, u32)> {
    let mut logs = logs_in(&place.dir);
    // On a disk that takes no file a log is where its runtime has put it.
    let containers = match &place.runtime {
        Some(runtime) => runtime.list().await.unwrap_or_default(),
        None => Vec::new(),
    };
    // What waits to start again has its newest attempt behind it.
    let mut waits_since = None;
    for status in containers {
        if status.id.pod_uid == place.uid && status.id.container == place.container && status.log_path.exists() {
            if place.is_between_starts(&status.state) {
                waits_since = waits_since.max(Some(status.id.attempt));
            }
            logs.insert(status.id.attempt, status.log_path);
        }
    }
    choose(logs, previous, waits_since)
}

/// Of a container's logs the newest, or the one of the attempt that the pod's status has as its last state: what waits to start again
/// since the newest attempt has that one behind it.
fn choose(logs: BTreeMap<u32, PathBuf>, previous: bool, waits_since: Option<u32>) -> Option<(PathBuf, u32)> {
    let is_newest_over = waits_since.is_some_and(|attempt| logs.keys().next_back() == Some(&attempt));
    let back = usize::from(previous && !is_newest_over);
    logs.into_iter().rev().nth(back).map(|(attempt, path)| (path, attempt))
}

/// The logs in a container's directory, by attempt.
fn logs_in(dir: &Path) -> BTreeMap<u32, PathBuf> {
    let logs = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        Some((name.strip_suffix(".log")?.parse::<u32>().ok()?, dir.join(name)))
    });
    logs.collect()
}

fn stopping() -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, "the kubelet is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_before_is_that_of_the_last_state() {
        let check = |attempts: &[u32], previous, waits_since, expected| {
            let logs = attempts.iter().map(|attempt| (*attempt, PathBuf::from("log"))).collect();
            let chosen = choose(logs, previous, waits_since).map(|(_, attempt)| attempt);
            assert_eq!(chosen, expected, "{attempts:?} {previous} {waits_since:?}");
        };
        check(&[3, 4], false, None, Some(4));
        check(&[3, 4], true, None, Some(3));
        // In CrashLoopBackOff.
        check(&[3, 4], false, Some(4), Some(4));
        check(&[3, 4], true, Some(4), Some(4));
        check(&[0], true, Some(0), Some(0));
        // It has started meanwhile.
        check(&[3, 4], true, Some(3), Some(3));
        check(&[0], true, None, None);
    }

    #[tokio::test]
    async fn the_newest_log_is_found_and_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let place = LogPlace {
            runtime: None,
            uid: "u".into(),
            dir: dir.path().to_owned(),
            namespace: "default".into(),
            pod: "p".into(),
            container: "c".into(),
            waiting: None,
            restarts: [true, true],
        };
        assert_eq!(log_file(&place, false).await, None);
        for name in ["2.log", "10.log", "10.log.1", "x.log", "9.log"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(log_file(&place, false).await, Some((dir.path().join("10.log"), 10)));
        assert_eq!(log_file(&place, true).await, Some((dir.path().join("9.log"), 9)));
    }
}
