//! An API with the workload controllers in the test's own process, and a stand-in for the kubelets.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt as _;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{PodView, condition};
use hub_runtime::writer::Writer;
use hub_runtime::{Event, Manager, ObjectRef, Reader};
use hub_testing::Source;
use jiff::Timestamp;
use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation, ServerConfig};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The image of containers that never become ready.
pub(crate) const BROKEN: &str = "broken";

/// The app whose pods the API rejects, as a quota or a policy would.
pub(crate) const REJECTED: &str = "rejected";

/// Rejects and counts them.
#[derive(Clone, Default)]
struct RejectPods(Arc<AtomicUsize>);

impl Admission for RejectPods {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let is_created = &*request.info.kind == "Pod" && request.operation == Operation::Create;
        if is_created && object["metadata"]["labels"]["app"] == REJECTED {
            self.0.fetch_add(1, Ordering::SeqCst);
            return Err(AdmissionError::Forbidden("not this one".to_owned()));
        }
        Ok(())
    }
}

/// One API, and what runs on it.
pub(crate) struct Hub {
    hub: hub_testing::Hub,
    kubelets: CancellationToken,
    rejected: RejectPods,
}

impl Deref for Hub {
    type Target = hub_testing::Hub;

    fn deref(&self) -> &Self::Target {
        &self.hub
    }
}

impl DerefMut for Hub {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.hub
    }
}

impl Hub {
    pub(crate) async fn start() -> Self {
        let rejected = RejectPods::default();
        let hub = hub_testing::Hub::new(|config| ServerConfig {
            admission: vec![Arc::new(rejected.clone())],
            garbage_collected: hub_controllers::collects,
            ..config
        });
        hub_controllers::bootstrap(&hub.client()).await.expect("a new hub takes what it needs");
        hub.make_service_account().await;
        let kubelets = CancellationToken::new();
        let run = run_kubelets(hub.reader(&[Kind::Pod], &kubelets), hub.admin.clone(), kubelets.clone());
        base_observe::spawn_detached("kubelets", run);
        let mut hub = Self { hub, kubelets, rejected };
        hub.start_controllers().await;
        hub
    }

    pub(crate) async fn start_controllers(&mut self) {
        let start = async |manager: &Manager| hub_workloads::start_replicated(manager);
        self.hub.run(Source::Store, &[hub_workloads::READ], start).await;
    }

    /// How many pods the API has rejected.
    pub(crate) fn rejected(&self) -> usize {
        self.rejected.0.load(Ordering::SeqCst)
    }

    /// Pods that nobody has deleted.
    pub(crate) async fn pods(&self) -> Vec<Value> {
        let mut pods = self.list(Kind::Pod).await;
        pods.retain(hub_testing::is_alive);
        pods
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.kubelets.cancel();
    }
}

/// Brings every pod up at once, but for those whose image is broken, and ends those that are to be deleted.
async fn run_kubelets(reader: Arc<dyn Reader>, admin: Writer, shutdown: CancellationToken) {
    let mut events = reader.subscribe(Kind::Pod);
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.next() => event,
        };
        let pods: Arc<[ObjectRef]> = match event {
            None => return,
            Some(Event::Listed(_, pods)) => pods,
            Some(Event::Changed(change)) => change.current.into_iter().collect(),
        };
        for pod in pods.iter() {
            tend(&admin, pod).await;
        }
    }
}

async fn tend(admin: &Writer, object: &ObjectRef) {
    let Ok(pod) = object.view::<PodView<'_>>() else { return };
    let value = object.value().expect("a pod is JSON");
    if pod.metadata.is_terminating() {
        drop(admin.delete(Kind::Pod, &value, Some(0)).await);
        return;
    }
    let is_broken = value["spec"]["containers"][0]["image"] == BROKEN;
    let is_ready = condition(&pod.status.conditions, "Ready").is_some();
    if is_ready || is_broken || pod.has_ended() {
        return;
    }
    let now = seconds(Timestamp::now());
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
    let status = json!({"phase": "Running", "conditions": [ready], "startTime": now});
    drop(admin.merge_status(Kind::Pod, (object.namespace(), object.name()), &status).await);
}
