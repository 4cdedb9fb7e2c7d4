//! An API with the controllers of jobs, and what tests ask of it.

use std::sync::Arc;
use std::time::Duration;

use hub_runtime::kinds::Kind;
use hub_runtime::writer::{Target, Writer};
use hub_runtime::{Manager, Reader, Reflector, StatusRegistry, StoreReader};
use kube::api::PropagationPolicy;
use machinery_server::{Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Looks at a state, at most for a minute, this far apart.
const LOOKS: usize = 3000;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the controllers read from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    /// The store of the embedded API.
    Store,
    /// Watches, as over a real cluster.
    Watches,
}

/// Everything that the controllers read.
const READ: &[Kind] = &[Kind::Namespace, Kind::Pod, Kind::Job, Kind::CronJob];

pub(crate) struct Hub {
    source: Source,
    server: Server,
    pub(crate) store: Store,
    pub(crate) admin: Writer,
    running: Option<(Manager, CancellationToken)>,
    _dir: tempfile::TempDir,
}

impl Hub {
    pub(crate) async fn start() -> Self {
        Self::start_over(Source::Store).await
    }

    pub(crate) async fn start_over(source: Source) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let options = StoreOptions {
            indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
            index_version: machinery_server::INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::open(dir.path(), options).expect("a new store opens");
        let config = ServerConfig { garbage_collected: |_, _| true, ..ServerConfig::new(store.clone()) };
        let server = Server::new(config).expect("a new store lists");
        let admin = Writer::new(client(&server));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        admin.create(Kind::Namespace, namespace).await.expect("the API takes a namespace");
        let mut hub = Self { source, server, store, admin, running: None, _dir: dir };
        hub.start_controllers();
        hub
    }

    pub(crate) fn start_controllers(&mut self) {
        let shutdown = CancellationToken::new();
        let reader: Arc<dyn Reader> = match self.source {
            Source::Store => StoreReader::new(self.store.clone()),
            Source::Watches => Reflector::start(&client(&self.server), READ, &shutdown),
        };
        let manager = Manager::new(client(&self.server), reader, StatusRegistry::default(), shutdown.clone());
        hub_workloads::start_batch(&manager);
        self.running = Some((manager, shutdown));
    }

    pub(crate) async fn stop_controllers(&mut self) {
        let Some((manager, shutdown)) = self.running.take() else { return };
        shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(60), manager.wait()).await;
        assert!(ended.is_ok(), "the controllers end at shutdown");
    }

    /// Waits until no controller has anything to do now, and says how far the store is.
    pub(crate) async fn settled(&self) -> u64 {
        let (manager, _) = self.running.as_ref().expect("the controllers run");
        let mut last = None;
        for _ in 0..LOOKS {
            let status = manager.status().snapshot();
            let is_idle = status.iter().all(|one| one.synced && one.queue_length + one.running + one.failing == 0);
            let state = (self.store.current(), status.iter().map(|one| one.processed).sum::<u64>());
            if is_idle && last == Some(state) {
                return state.0.0;
            }
            last = Some(state);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the controllers did not come to rest: {:?}", manager.status().snapshot());
    }

    pub(crate) async fn make(&self, kind: Kind, metadata: Value, spec: Value) -> Value {
        let mut object =
            json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata, "spec": spec});
        object["metadata"]["namespace"] = json!("default");
        self.admin.create(kind, object).await.expect("the API takes it").expect("it is new")
    }

    /// Creates a job of these fields of a spec and a template.
    pub(crate) async fn job(&self, name: &str, spec: Value) -> Value {
        let mut full = json!({"template": template()});
        full.as_object_mut()
            .expect("a spec is an object")
            .extend(spec.as_object().expect("a spec is an object").clone());
        self.make(Kind::Job, json!({"name": name}), full).await
    }

    pub(crate) async fn change(&self, kind: Kind, name: &str, patch: Value) {
        let is_there = self.admin.merge(kind, ("default", name), &patch).await.expect("the API takes the change");
        assert!(is_there, "{name} is there");
    }

    /// Deletes a job as `kubectl` does; what it owns is the garbage collector's, which is not here.
    pub(crate) async fn delete_job(&self, job: &Value) {
        let uid = job["metadata"]["uid"].as_str().expect("every object has a uid");
        let target = Target { namespace: "default", name: name_of(job), uid };
        let background = Some(PropagationPolicy::Background);
        self.admin.delete_target(Kind::Job, target, None, background).await.expect("the API deletes it");
    }

    pub(crate) async fn find(&self, kind: Kind, name: &str) -> Option<Value> {
        self.admin.get_now(kind, ("default", name)).await.expect("the API answers")
    }

    /// Waits for a state of one object; says the last one seen when it does not come.
    pub(crate) async fn eventually(&self, kind: Kind, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        for _ in 0..LOOKS {
            last = self.find(kind, name).await;
            if let Some(object) = last.as_ref().filter(|object| holds(object)) {
                return object.clone();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        panic!("{} {name} did not come to be so in a minute; last seen: {last:#?}", kind.name());
    }

    /// Waits for so many pods of a job that have not ended and are not on their way out, in order of their indexes and names.
    pub(crate) async fn running(&self, job: &str, count: usize) -> Vec<Value> {
        let mut pods = Vec::new();
        for _ in 0..LOOKS {
            pods = self.pods(job).await;
            pods.retain(is_running);
            if pods.len() == count {
                return pods;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        panic!("{count} pods of {job} did not come to be in a minute; last seen: {pods:#?}");
    }

    /// All pods of a job.
    pub(crate) async fn pods(&self, job: &str) -> Vec<Value> {
        let mut pods = self.admin.list_now(Kind::Pod, "default").await.expect("the API lists");
        pods.retain(|pod| pod["metadata"]["labels"]["job-name"] == job);
        let index = |pod: &Value| pod["metadata"]["labels"][INDEX].as_str().and_then(|text| text.parse::<u32>().ok());
        pods.sort_by_key(|pod| (index(pod), name_of(pod).to_owned()));
        pods
    }

    /// What a kubelet writes of a pod that ended `ago` seconds ago.
    pub(crate) async fn ends(&self, pod: &Value, exit_code: i64, ago: i64) {
        let finished = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(ago);
        let finished = finished.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let started = "2020-01-01T00:00:00Z";
        let state = json!({"terminated": {"exitCode": exit_code, "startedAt": started, "finishedAt": finished}});
        let status = json!({
            "phase": if exit_code == 0 { "Succeeded" } else { "Failed" },
            "containerStatuses": [{
                "name": "main", "image": "main", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            }],
        });
        self.admin.merge_status(Kind::Pod, ("default", name_of(pod)), &status).await.expect("the API takes the status");
    }

    /// Whether there is an Event of an object; waits for it.
    pub(crate) async fn event(&self, name: &str, reason: &str) -> Value {
        let mut seen = Vec::new();
        for _ in 0..LOOKS {
            let events = self.admin.list_now(Kind::Event, "default").await.expect("the API lists");
            let of_object = events.into_iter().filter(|event| event["involvedObject"]["name"] == name);
            seen.clear();
            for event in of_object {
                if event["reason"] == reason {
                    return event;
                }
                seen.push(event["reason"].clone());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        panic!("no Event {reason} of {name} came in a minute, only {seen:?}");
    }
}

pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

fn client(server: &Server) -> kube::Client {
    kube::Client::new(server.in_process(Identity::new("admin", ["system:masters"])), "default")
}

pub(crate) fn template() -> Value {
    json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "main"}]}})
}

pub(crate) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("every object has a name")
}

fn is_running(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Whether a condition is true.
pub(crate) fn is(object: &Value, r#type: &str) -> bool {
    condition(object, r#type)["status"] == "True"
}

pub(crate) fn condition<'a>(object: &'a Value, r#type: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|one| one["type"] == r#type).unwrap_or(&Value::Null)
}
