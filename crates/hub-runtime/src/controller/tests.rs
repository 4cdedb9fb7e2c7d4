//! Tests of `controller`: what becomes of keys that fail and panic.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{Field, ObjectRef};

/// A reader that lists one object of each kind and then is still.
struct OneEach;

impl Reader for OneEach {
    fn get(&self, _: Kind, _: &str, _: &str) -> Option<ObjectRef> {
        None
    }

    fn list(&self, _: Kind, _: Option<&str>) -> Box<dyn Iterator<Item = ObjectRef> + Send + '_> {
        Box::new(std::iter::empty())
    }

    fn by_field(&self, _: Kind, _: Field, _: &str) -> Vec<ObjectRef> {
        Vec::new()
    }

    fn subscribe(&self, kind: Kind) -> BoxStream<'static, Event> {
        let object = ObjectRef::watched("", kind.name(), 1, "{}".into());
        let listed = Event::Listed(kind, [object].into());
        futures::stream::iter([listed]).chain(futures::stream::pending()).boxed()
    }

    fn has_synced(&self, _: Kind) -> bool {
        true
    }

    fn revision(&self, _: Kind) -> u64 {
        1
    }
}

/// Panics over nodes twice, fails over pods once.
#[derive(Default)]
struct Clumsy {
    nodes: AtomicUsize,
    pods: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
}

impl Reconciler for Clumsy {
    type Key = String;

    fn name(&self) -> &'static str {
        "clumsy"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Node, Kind::Pod]
    }

    fn observe(&self, event: &Event, queue: &Queue<String>) {
        if let Event::Listed(_, objects) = event {
            objects.iter().for_each(|object| queue.add(object.name().to_owned()));
        }
    }

    async fn reconcile(&self, key: &String) -> Result<Next, ReconcileError> {
        match key.as_str() {
            "Node" => assert!(self.nodes.fetch_add(1, Ordering::SeqCst) >= 2, "too early for nodes"),
            _ if self.pods.fetch_add(1, Ordering::SeqCst) == 0 => {
                return Err(ReconcileError::Rejected("not this time".to_owned()));
            }
            _ => {}
        }
        self.done.fetch_add(1, Ordering::SeqCst);
        Ok(Next::OnChange)
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_panics_costs_no_other_key_and_is_counted() {
    let (tasks, shutdown, registry) = (TaskTracker::new(), CancellationToken::new(), StatusRegistry::default());
    let reader: Arc<dyn Reader> = Arc::new(OneEach);
    let clumsy = Clumsy::default();
    let done = clumsy.done.clone();
    spawn(clumsy, &reader, &registry, &tasks, (&CancellationToken::new(), &shutdown));
    tokio::time::timeout(Duration::from_secs(60), async {
        while done.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("both keys come to be done");
    let status = registry.snapshot().remove(0);
    assert_eq!((status.name.as_str(), status.synced), ("clumsy", true));
    assert_eq!((status.processed, status.retries, status.panics), (5, 3, 2));
    let error = status.last_error.expect("there was one");
    assert!(error.message.contains("not this time") || error.message.contains("too early"), "{error:?}");
    // The same goes over the wire, and onto the page of metrics.
    let metrics = base_observe::Metrics::new();
    registry.register_metrics(&metrics);
    let page = metrics.encode();
    for line in [
        "workqueue_retries_total{name=\"clumsy\"} 3.0",
        "selvedge_controller_runs_total{name=\"clumsy\"} 5.0",
        "selvedge_controller_panics_total{name=\"clumsy\"} 2.0",
        "selvedge_controller_failing_keys{name=\"clumsy\"} 0.0",
        "selvedge_controller_synced{name=\"clumsy\"} 1.0",
    ] {
        assert!(page.contains(line), "{line} in {page}");
    }
    assert_eq!(registry.report().controllers, registry.snapshot());
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_started_again_later_each_time() {
    let (recorded, shutdown, runs) = (Recorded::new("clumsy"), CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let began = Instant::now();
    let make = || {
        let (runs, shutdown) = (runs.clone(), shutdown.clone());
        async move {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            assert!(run >= 8, "not yet");
            shutdown.cancelled().await;
        }
    };
    let stop = async {
        while runs.load(Ordering::SeqCst) < 9 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shutdown.cancel();
    };
    tokio::join!(run_again("test-clumsy", &recorded, &shutdown, make), stop);
    let took = began.elapsed();
    assert!((Duration::from_secs(60)..Duration::from_secs(200)).contains(&took), "{took:?}");
    let registry = StatusRegistry::default();
    registry.register(Arc::new(recorded), crate::QueueLengths::default);
    let status = &registry.snapshot()[0];
    assert_eq!(status.panics, 8);
    assert_eq!(status.last_error.as_ref().expect("it has panicked").message, "panicked: not yet");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_not_started_again_at_shutdown() {
    let (recorded, shutdown) = (Recorded::new("clumsy"), CancellationToken::new());
    let make = || {
        shutdown.cancel();
        async { panic!("always") }
    };
    run_again("test-clumsy", &recorded, &shutdown, make).await;
}
