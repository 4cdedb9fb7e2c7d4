//! An API with the controllers of jobs, and what tests do with jobs.

use std::ops::{Deref, DerefMut};

use hub_runtime::Manager;
use hub_runtime::kinds::Kind;
use hub_runtime::writer::Target;
use kube::api::PropagationPolicy;
use machinery_server::ServerConfig;
use serde_json::{Value, json};

pub(crate) use hub_testing::{Source, condition, name_of};

/// Everything that the controllers read.
const READ: &[Kind] = &[Kind::Namespace, Kind::Pod, Kind::Job, Kind::CronJob];

pub(crate) struct Hub {
    hub: hub_testing::Hub,
    source: Source,
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
        Self::start_over(Source::Store).await
    }

    pub(crate) async fn start_over(source: Source) -> Self {
        let hub = hub_testing::Hub::new(|config| ServerConfig { garbage_collected: |_, _| true, ..config });
        hub.make(Kind::Namespace, json!({"metadata": {"name": "default"}})).await;
        let mut hub = Self { hub, source };
        hub.start_controllers().await;
        hub
    }

    pub(crate) async fn start_controllers(&mut self) {
        let start = async |manager: &Manager| hub_workloads::start_batch(manager);
        self.hub.run(self.source, &[READ], start).await;
    }

    /// Creates a job of these fields of a spec and a template.
    pub(crate) async fn job(&self, name: &str, spec: Value) -> Value {
        let mut full = json!({"template": template()});
        full.as_object_mut()
            .expect("a spec is an object")
            .extend(spec.as_object().expect("a spec is an object").clone());
        self.make(Kind::Job, json!({"metadata": {"name": name}, "spec": full})).await
    }

    /// Deletes a job as `kubectl` does; what it owns is the garbage collector's, which is not here.
    pub(crate) async fn delete_job(&self, job: &Value) {
        let uid = job["metadata"]["uid"].as_str().expect("every object has a uid");
        let target = Target { namespace: "default", name: name_of(job), uid };
        let background = Some(PropagationPolicy::Background);
        self.admin.delete_target(Kind::Job, target, None, background).await.expect("the API deletes it");
    }

    /// Waits for so many pods of a job that have not ended and are not on their way out, in order of their indexes and names.
    pub(crate) async fn running(&self, job: &str, count: usize) -> Vec<Value> {
        let look = async || {
            let mut pods = self.pods(job).await;
            pods.retain(is_running);
            if pods.len() == count { Ok(pods) } else { Err(pods) }
        };
        let running = hub_testing::until(look).await;
        running.unwrap_or_else(|last| panic!("{count} pods of {job} did not come to be; last seen: {last:#?}"))
    }

    /// All pods of a job.
    pub(crate) async fn pods(&self, job: &str) -> Vec<Value> {
        let mut pods = self.list(Kind::Pod).await;
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
}

pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

pub(crate) fn template() -> Value {
    json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "main"}]}})
}

fn is_running(pod: &Value) -> bool {
    hub_testing::is_alive(pod) && !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Whether a condition is true.
pub(crate) fn is(object: &Value, r#type: &str) -> bool {
    condition(object, r#type)["status"] == "True"
}
