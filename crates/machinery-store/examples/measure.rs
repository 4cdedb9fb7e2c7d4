//! What the store costs on this machine: memory an object, durable writes a second, a list by field, a start.
//!
//! `cargo run --release -p machinery-store --example measure [OBJECTS]`

use std::time::{Duration, Instant};

use machinery_store::{Durability, Encoded, Expect, IndexFields, Key, Op, Store, StoreOptions};

const PODS: &str = "/pods";
const WRITERS: usize = 64;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
}

/// Time this thread has had a processor: on a busy machine the other figure says little.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// A pod of 1.57 KB as a DaemonSet makes it, with what the server puts into the index.
fn pod(number: usize) -> Op {
    let name = format!("node-exporter-{:05}-{:05}", number % 5000, number);
    let fields = [
        ("metadata.name", name.clone()),
        ("spec.nodeName", format!("gateway-{:05}", number % 1000)),
        ("status.phase", "Running".to_owned()),
        ("metadata.ownerReferences.uid", format!("0b9f3c1e-5a57-4b39-8d3c-{:012x}", number % 50)),
        ("label:app.kubernetes.io/name", "node-exporter".to_owned()),
        ("label:controller-revision-hash", "6d5f8c9b7".to_owned()),
        ("label:pod-template-generation", "1".to_owned()),
    ];
    let index: IndexFields = fields.iter().map(|(name, value)| (name, value)).collect();
    put(&name, vec![b'p'; 1570], index)
}

fn put(name: &str, bytes: Vec<u8>, index: IndexFields) -> Op {
    let encoded = Encoded { bytes: bytes.into(), managed: None, index };
    Op::Put { key: Key::new(PODS, "monitoring", name), expect: Expect::Any, encode: Box::new(|_| encoded) }
}

fn options(window: Duration) -> StoreOptions {
    let indexed_fields = vec!["spec.nodeName", "metadata.ownerReferences.uid"];
    StoreOptions { window, indexed_fields, ..StoreOptions::default() }
}

async fn creates(store: &Store, count: usize) -> f64 {
    let started = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..count / WRITERS {
                    let op = put(&format!("w{writer}-{number}"), vec![b'x'; 4096], IndexFields::default());
                    store.commit(vec![op], Durability::Group).await.expect("the disk takes it");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no writer panics");
    }
    count as f64 / started.elapsed().as_secs_f64()
}

fn main() {
    let objects = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(50_000);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let dir = std::env::temp_dir().join(format!("machinery-store-measure-{}", std::process::id()));
    runtime.block_on(async {
        let before = resident_bytes();
        let store = Store::open(&dir, options(Duration::from_secs(600))).expect("a new store opens");
        for from in (0..objects).step_by(500) {
            store.commit((from..from + 500).map(pod).collect(), Durability::Group).await.expect("the disk takes it");
        }
        let usage = store.usage();
        println!("{objects} pods of 1,570 B: {} B each resident", (resident_bytes() - before) / objects);
        println!(
            "  by the store's account: bytes {}, index {}, window {}",
            usage.object_bytes / objects,
            usage.index_bytes / objects,
            usage.window_bytes / objects
        );
        let then = store.current();
        let started = Instant::now();
        let tries = 1000;
        for number in 0..tries {
            let node = format!("gateway-{number:05}");
            let range = store.range_where(PODS, ("spec.nodeName", &node), None, None, Some(500), None);
            assert_eq!(range.map(|range| range.items.len()).ok(), Some(objects / 1000));
        }
        println!("a node's {} pods among them: {:?}", objects / 1000, started.elapsed() / tries);
        store.commit(vec![pod(0)], Durability::Group).await.expect("the disk takes it");
        let started = Instant::now();
        let page = store.range(PODS, None, None, Some(500), Some(then)).expect("it is in the window");
        println!("first page at an older revision: {:?}, {} more", started.elapsed(), page.remaining);
        drop(page);
        drop(store);
        let (started, processor) = (Instant::now(), processor_time());
        let store = Store::open(&dir, options(Duration::from_secs(600))).expect("it opens again");
        let (elapsed, processor) = (started.elapsed(), processor_time() - processor);
        println!("opened with {} objects in {elapsed:?}, {processor:?} of a processor", store.usage().objects);
        let rate = creates(&store, 32_000).await;
        let usage = store.usage();
        let group = usage.operations as f64 / usage.commit_groups as f64;
        println!("durable 4 KiB creates, {WRITERS} writers: {rate:.0}/s, {group:.0} a commit group");
    });
    std::fs::remove_dir_all(&dir).expect("the directory is this program's");
}
