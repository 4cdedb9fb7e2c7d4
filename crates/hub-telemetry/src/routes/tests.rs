//! What the hub's port promises to many senders at once.

use std::path::Path;
use std::sync::Arc;

use api_edge::telemetry::BATCH_CONTENT_TYPE;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use super::*;
use crate::{AssignedExports, TelemetryOptions};

fn routes(dir: &Path, options: TelemetryOptions) -> Arc<TelemetryRoutes> {
    Arc::new(TelemetryRoutes::new(Telemetry::open(dir, options).expect("a new store")))
}

fn batch(from: u64) -> Bytes {
    let line = crate::tests::line("a", from as i64, &["count"]);
    let header = crate::tests::header(from, from + 1, 1);
    format!("{}\n{line}\n", serde_json::to_string(&header).expect("a header")).into()
}

fn post(body: RequestBody) -> Request<RequestBody> {
    let request = Request::post(BATCHES_PATH).header(header::CONTENT_TYPE, BATCH_CONTENT_TYPE);
    request.body(body).expect("a sound request")
}

fn whole(bytes: Bytes) -> RequestBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body that begins and never ends.
fn stalled() -> RequestBody {
    let first = futures::stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"{")))]);
    StreamBody::new(first.chain(futures::stream::pending())).boxed_unsync()
}

/// The same of a batch that says how small it is.
fn stalled_and_small() -> RequestBody {
    http_body_util::Limited::new(stalled(), SMALL_BATCH_BYTES).boxed_unsync()
}

async fn text(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body in memory").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

async fn send(routes: &TelemetryRoutes, user: &str, body: RequestBody) -> (u16, String) {
    text(routes.call(post(body), Sender { user, groups: &[] }).await).await
}

#[tokio::test]
async fn bodies_of_one_node_that_do_not_come_hold_up_no_other_node() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let routes = routes(dir.path(), TelemetryOptions::default());
    let stalled: Vec<_> = (0..SENDER_WAITING_MAX)
        .map(|_| {
            let routes = routes.clone();
            tokio::spawn(async move { send(&routes, "system:node:gw-1", stalled()).await })
        })
        .collect();
    while routes.senders.open.lock().expect("no panic").get("system:node:gw-1").is_none_or(|(n, _)| *n < stalled.len())
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(send(&routes, "system:node:gw-2", whole(batch(0))).await.0, 200);
    // The node itself is rejected, and not kept waiting for its own bodies.
    let (status, message) = send(&routes, "system:node:gw-1", whole(batch(0))).await;
    assert_eq!(status, 429, "{message}");
    for task in stalled {
        task.abort();
        drop(task.await);
    }
    // What was held is given back, to the last entry.
    assert!(routes.senders.open.lock().expect("no panic").is_empty());
    assert_eq!(routes.large.bodies.bytes_held(), 0);
    assert_eq!(send(&routes, "system:node:gw-1", whole(batch(0))).await.0, 200);
}

#[tokio::test]
async fn a_node_that_sends_more_than_its_quota_learns_when_to_come_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let telemetry = Telemetry::open(dir.path(), TelemetryOptions::default()).expect("a new store");
    let of_one = batch(0).len() as u32;
    let quota = crate::QuotaLimits { bytes_per_second: 1, burst_bytes: of_one + 100 };
    let routes = TelemetryRoutes::with_quota(telemetry, quota);
    for from in [0, 1] {
        // The second is more than what is left, and nobody knows before it was read.
        assert_eq!(send(&routes, "system:node:gw-1", whole(batch(from))).await.0, 200);
    }
    let response = routes.call(post(whole(batch(2))), Sender { user: "system:node:gw-1", groups: &[] }).await;
    let after: u64 = response.headers()[header::RETRY_AFTER].to_str().expect("a number").parse().expect("a number");
    let owed = u64::from(of_one) - 100;
    assert!((owed - 5..=owed + 2).contains(&after), "{after} s for {owed} bytes at 1 B/s");
    let (status, message) = text(response).await;
    assert_eq!(status, 429);
    assert!(message.contains("quota of bytes"), "{message}");
    assert_eq!(send(&routes, "system:node:gw-2", whole(batch(0))).await.0, 200, "others have their own");
    assert_eq!(routes.telemetry.usage().over_quota, 1);
}

#[tokio::test]
async fn a_node_waits_behind_its_own_requests_and_nobody_elses() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let routes = routes(dir.path(), TelemetryOptions::default());
    let begin = |body| {
        let routes = routes.clone();
        tokio::spawn(async move { send(&routes, "system:node:gw-1", body).await.0 })
    };
    let mut stalled: Vec<_> = (0..SENDER_REQUESTS_MAX).map(|_| begin(stalled_and_small())).collect();
    let are_all_taken = || {
        let open = routes.senders.open.lock().expect("nobody panics");
        open.get("system:node:gw-1").is_some_and(|(_, slots)| slots.all.available_permits() == 0)
    };
    let wait = async {
        while !are_all_taken() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.expect("the stalled requests take all places");
    let waiting = begin(whole(batch(0)));
    assert_eq!(send(&routes, "system:node:gw-2", whole(batch(0))).await.0, 200);
    assert!(!waiting.is_finished(), "it has its turn after the others of its node");
    stalled.pop().expect("one of them").abort();
    assert_eq!(waiting.await.expect("no panic"), 200);
    stalled.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn large_batches_that_wait_take_no_turns_of_their_senders_small_ones() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let routes = routes(dir.path(), TelemetryOptions::default());
    let large: Vec<_> = (0..SENDER_REQUESTS_MAX)
        .map(|_| {
            let routes = routes.clone();
            tokio::spawn(async move { send(&routes, "system:node:gw-1", stalled()).await.0 })
        })
        .collect();
    let are_open = || {
        let open = routes.senders.open.lock().expect("nobody panics");
        open.get("system:node:gw-1").is_some_and(|(count, _)| *count == SENDER_REQUESTS_MAX)
    };
    while !are_open() {
        tokio::task::yield_now().await;
    }
    assert_eq!(send(&routes, "system:node:gw-1", whole(batch(0))).await.0, 200);
    assert!(large.iter().all(|task| !task.is_finished()), "it waited for none of them");
    large.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn large_batches_of_any_number_of_nodes_are_bounded_and_small_ones_pass_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let routes = routes(dir.path(), TelemetryOptions::default());
    // Nothing large is stored meanwhile, as when a disk is slow.
    let slots = routes.large.slots.clone().acquire_many_owned(LARGE_BATCHES_IN_FLIGHT_MAX as u32).await;
    let slots = slots.expect("nobody closes it");
    let large = Bytes::from(vec![b'x'; BATCH_BYTES_MAX]);
    let senders: Vec<_> = (0..40)
        .map(|n| {
            let (routes, large) = (routes.clone(), large.clone());
            tokio::spawn(async move { send(&routes, &format!("system:node:bad-{}", n / 4), whole(large)).await.0 })
        })
        .collect();
    let full = async {
        // Ten nodes with two at a time want 80 MiB; they hold what there is, and who finds none is rejected.
        while routes.large.bodies.bytes_held() < LARGE_BODIES.bytes_max
            || !senders.iter().any(|sender| sender.is_finished())
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), full).await.expect("the large bodies fill their budget");
    assert_eq!(send(&routes, "system:node:gw-2", whole(batch(0))).await.0, 200);
    assert_eq!(send(&routes, "system:node:bad-1", whole(batch(0))).await.0, 200, "it has turns beside its large ones");
    drop(slots);
    let mut codes = std::collections::BTreeMap::new();
    for sender in senders {
        *codes.entry(sender.await.expect("no panic")).or_insert(0) += 1;
    }
    // No header in them: who had its turn learns that, the others come again.
    assert_eq!(codes.keys().copied().collect::<Vec<_>>(), [400, 429], "{codes:?}");
    assert_eq!(routes.large.bodies.bytes_held(), 0);
}

#[tokio::test]
async fn metrics_show_what_is_held() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let routes = routes(dir.path(), TelemetryOptions::default());
    let metrics = base_observe::Metrics::new();
    crate::metrics::register(&metrics, &routes.telemetry);
    assert_eq!(send(&routes, "system:node:gw-1", whole(batch(0))).await.0, 200);
    let page = metrics.encode();
    for line in
        ["selvedge_telemetry_events 1", "selvedge_telemetry_nodes 1", "selvedge_telemetry_epoch_conflicts_total 0"]
    {
        assert!(page.contains(line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn many_nodes_at_once_all_have_their_turn() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let routes = routes(dir.path(), TelemetryOptions::default());
    let senders = (0..4 * BATCHES_IN_FLIGHT_MAX).map(|node| {
        let routes = routes.clone();
        tokio::spawn(async move { send(&routes, &format!("system:node:gw-{node}"), whole(batch(0))).await.0 })
    });
    for sender in senders.collect::<Vec<_>>() {
        assert_eq!(sender.await.expect("no panic"), 200);
    }
}

struct Nothing;

impl AssignedExports for Nothing {
    fn is_assigned(&self, _node: &str, _export: &str) -> bool {
        false
    }
}

#[tokio::test]
async fn an_export_that_is_not_assigned_is_rejected_in_a_way_that_is_tried_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let routes = routes(dir.path(), TelemetryOptions { assigned: Arc::new(Nothing), ..TelemetryOptions::default() });
    let (status, message) = send(&routes, "system:node:gw-1", whole(batch(0))).await;
    // 400, 413 and 422 would make the node leave the events out for good (`judge` in edge-runtime).
    assert_eq!(status, 403);
    let message: serde_json::Value = serde_json::from_str(&message).expect("a Status");
    let message = message["message"].as_str().expect("a text");
    assert!(message.contains("export default/all is not assigned to node gw-1"), "{message}");
}

#[tokio::test]
async fn who_may_not_send_is_rejected_before_the_body_is_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let routes = routes(dir.path(), TelemetryOptions::default());
    assert_eq!(send(&routes, "bob", stalled()).await.0, 403);
    assert_eq!(send(&routes, "system:node:gw-1", whole(Bytes::from(vec![b' '; BATCH_BYTES_MAX + 1]))).await.0, 413);
}
