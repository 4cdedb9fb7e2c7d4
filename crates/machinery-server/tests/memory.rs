//! What one body costs in memory while it is worked on, counted by an allocator of its own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use machinery_server::{Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use tower::Service as _;

/// The counters are of the whole process: one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Bytes that the process holds, and the most it has held since that was last set.
static HELD: AtomicIsize = AtomicIsize::new(0);
static MOST: AtomicIsize = AtomicIsize::new(0);

struct Counting;

fn count(bytes: isize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if bytes > 0 {
        MOST.fetch_max(held, Ordering::Relaxed);
    }
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Hub {
    server: Server,
    _dir: tempfile::TempDir,
}

impl Hub {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(dir.path(), StoreOptions::default()).expect("a new store");
        Self { server: Server::new(ServerConfig::new(store)).expect("a sound configuration"), _dir: dir }
    }

    /// The answer's code, and the most that was held beyond the body.
    async fn send(&self, method: &str, path: &str, media: &str, body: String) -> (u16, usize) {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
        let request = request.body(body).expect("a sound request");
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let mut service = self.server.in_process(Identity::controllers());
        let response = service.call(request).await.expect("in process nothing fails");
        let code = response.status().as_u16();
        response.into_body().collect().await.expect("a body in memory");
        let most = MOST.load(Ordering::Relaxed) - before;
        (code, usize::try_from(most).unwrap_or(0))
    }
}

const NODE: &str = "/api/v1/nodes/gw-1/status";
const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// `count` times the same, as the items of a list.
fn list(item: &str, count: usize) -> String {
    vec![item; count].join(",")
}

/// Values that a node may send in one body.
const VALUES: usize = 16 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn the_worst_body_that_a_node_may_send_costs_a_few_megabytes() {
    let _alone = ALONE.lock().await;
    let hub = Hub::start();
    for (path, object) in [
        ("/api/v1/namespaces", r#"{"metadata":{"name":"default"}}"#),
        ("/api/v1/nodes", r#"{"metadata":{"name":"gw-1"}}"#),
    ] {
        assert_eq!(hub.send("POST", path, JSON, object.to_owned()).await.0, 201);
    }
    let pod = |containers: String| {
        format!(r#"{{"metadata":{{"generateName":"x-"}},"spec":{{"nodeName":"gw-1","containers":[{containers}]}}}}"#)
    };
    let status = |field: &str, items: String| format!(r#"{{"status":{{"{field}":[{items}]}}}}"#);
    let conditions = (0..VALUES / 3).map(|n| format!(r#"{{"type":"t{n}","status":"True"}}"#)).collect::<Vec<_>>();
    for (what, method, path, media, body) in [
        ("containers that get defaults", "POST", PODS, JSON, pod(list("{}", VALUES / 2))),
        ("images", "PATCH", NODE, MERGE, status("images", list("{}", VALUES / 2))),
        ("numbers", "PATCH", NODE, MERGE, status("volumesInUse", list("0", VALUES))),
        ("maps in maps", "PATCH", NODE, MERGE, status("a", list(r#"{"":{}}"#, VALUES / 3))),
        ("items that are merged by key", "PATCH", NODE, STRATEGIC, status("conditions", conditions.join(","))),
        ("lines", "PUT", NODE, "application/yaml", format!("status:\n  images:\n{}", "  - {}\n".repeat(VALUES))),
    ] {
        let bytes = body.len();
        let (code, most) = hub.send(method, path, media, body).await;
        assert!(most < 24 << 20, "{what}: {code}, {most} bytes for a body of {bytes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_wait_for_the_disk_hold_little_more_than_their_bytes() {
    const CHANGES: usize = 64;
    let _alone = ALONE.lock().await;
    let hub = Hub::start();
    for n in 0..CHANGES {
        let node = format!(r#"{{"metadata":{{"name":"gw-{n}"}}}}"#);
        assert_eq!(hub.send("POST", "/api/v1/nodes", JSON, node).await.0, 201);
    }
    // Those of the second round also decode what the first has stored: more values than that are heavy, and are few.
    for bytes in [1, 2] {
        let images = list(&format!(r#"{{"sizeBytes":{bytes}}}"#), 2600);
        let body = Bytes::from(format!(r#"{{"status":{{"images":[{images}]}}}}"#));
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let changes = (0..CHANGES).map(|n| {
            let request = Request::patch(format!("/api/v1/nodes/gw-{n}/status")).header("content-type", MERGE);
            let request = request.body(Full::new(body.clone())).expect("a sound request");
            let mut service = hub.server.in_process(Identity::controllers());
            async move { service.call(request).await.expect("in process nothing fails").status().as_u16() }
        });
        let codes = futures::future::join_all(changes).await;
        assert!(codes.iter().all(|code| *code == 200), "{codes:?}");
        let most = usize::try_from(MOST.load(Ordering::Relaxed) - before).unwrap_or(0);
        // What is worked on, and what has been encoded.
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).max(2);
        assert!(most < (threads * 8 + CHANGES / 2) << 20, "{most} bytes for {CHANGES} bodies of {}", body.len());
    }
}
