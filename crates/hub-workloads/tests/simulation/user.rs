//! What people do to their workloads, drawn from the seed.

use std::sync::Arc;

use http::Method;
use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::api::{Api, NAMESPACE, Who};
use crate::truth::{controller, has_ended, is_terminating, text};

/// Names of each kind that a simulation has at a time.
const SLOTS: &[(Kind, usize)] = &[
    (Kind::Deployment, 3),
    (Kind::ReplicaSet, 1),
    (Kind::ReplicationController, 1),
    (Kind::StatefulSet, 2),
    (Kind::DaemonSet, 1),
    (Kind::Job, 4),
    (Kind::CronJob, 1),
    (Kind::PodDisruptionBudget, 2),
    (Kind::HorizontalPodAutoscaler, 1),
];

/// Somebody with a keyboard and no patience.
pub(crate) struct User {
    api: Arc<Api>,
    random: fastrand::Rng,
    version: u64,
}

/// The path of an object.
pub(crate) fn path(kind: Kind, name: &str) -> String {
    format!("{}/{name}", kind.path(NAMESPACE))
}

fn slot_name(kind: Kind, slot: usize) -> String {
    format!("{}-{slot}", kind.name().to_lowercase())
}

impl User {
    pub(crate) fn new(api: Arc<Api>, seed: u64) -> Self {
        Self { api, random: fastrand::Rng::with_seed(seed ^ 0x7573_6572), version: 0 }
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.random.usize(0..of.len())].clone()
    }

    fn find(&self, kind: Kind, name: &str) -> Option<Value> {
        self.api.truth.lock().get(kind, name).cloned()
    }

    fn send(&self, method: Method, path: &str, body: &Value) -> bool {
        let (status, response) = self.api.send(Who::User, method.clone(), path, Some(body));
        // What was changed or deleted a moment ago, a budget that allows nothing, and rules that a drawn change breaks.
        let is_expected = status.is_success()
            || matches!(status.as_u16(), 404 | 409 | 422 | 429)
            || (status == http::StatusCode::INTERNAL_SERVER_ERROR && path.ends_with("/eviction"));
        assert!(is_expected, "{method} {path} {body}: {status} {response}");
        status.is_success()
    }

    /// Something happens to some workload.
    pub(crate) fn act(&mut self) -> String {
        let (kind, slots) = self.one_of(SLOTS);
        let name = slot_name(kind, self.random.usize(0..slots));
        match self.find(kind, &name) {
            None => {
                let object = self.draw(kind, &name);
                let is_created = self.send(Method::POST, &kind.path(NAMESPACE), &object);
                format!("create {name}: {is_created} {}", object["spec"])
            }
            Some(object) if is_terminating(&object) => format!("{name} is terminating"),
            Some(object) => self.change(kind, &name, &object),
        }
    }

    fn change(&mut self, kind: Kind, name: &str, object: &Value) -> String {
        let drawn = self.random.u32(0..100);
        if drawn < 12 || (kind == Kind::Job && drawn < 35 && !object["status"]["completionTime"].is_null()) {
            return self.delete(kind, name);
        }
        let patch = match kind {
            Kind::Deployment | Kind::ReplicaSet | Kind::ReplicationController | Kind::StatefulSet if drawn < 50 => {
                json!({"spec": {"replicas": self.random.i64(0..6)}})
            }
            Kind::Deployment if drawn < 58 => json!({"spec": {"paused": object["spec"]["paused"] != true}}),
            Kind::Deployment if drawn < 66 => self.strategy(),
            Kind::StatefulSet if drawn < 60 => {
                let partition = self.random.i64(0..4);
                json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}}})
            }
            Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet | Kind::ReplicaSet | Kind::ReplicationController => {
                let template = self.template(name, "Always");
                json!({"spec": {"template": template}})
            }
            Kind::Job if drawn < 50 => json!({"spec": {"suspend": object["spec"]["suspend"] != true}}),
            Kind::Job if drawn < 75 => json!({"spec": {"parallelism": self.random.i64(0..4)}}),
            Kind::Job => return self.delete(kind, name),
            Kind::CronJob if drawn < 60 => json!({"spec": {"suspend": object["spec"]["suspend"] != true}}),
            Kind::CronJob => json!({"spec": {"concurrencyPolicy": self.one_of(&["Allow", "Forbid", "Replace"])}}),
            Kind::PodDisruptionBudget => json!({"spec": self.budget()}),
            _ => json!({"spec": {"maxReplicas": self.random.i64(3..6)}}),
        };
        let is_done = self.send(Method::PATCH, &path(kind, name), &patch);
        format!("change {name}: {is_done} {patch}")
    }

    fn delete(&mut self, kind: Kind, name: &str) -> String {
        let policy = self.one_of(&["Background", "Background", "Foreground", "Orphan"]);
        let is_done = self.send(Method::DELETE, &path(kind, name), &json!({"propagationPolicy": policy}));
        format!("delete {name} {policy}: {is_done}")
    }

    fn draw(&mut self, kind: Kind, name: &str) -> Value {
        let mut metadata = json!({"name": name, "namespace": NAMESPACE});
        if self.random.u32(0..100) < 25 {
            metadata["annotations"] = json!({"selvedge.dev/replace-when-unreachable": "2m"});
        }
        let labels = json!({"app": name});
        let spec = match kind {
            Kind::Deployment => {
                let mut spec = json!({
                    "replicas": self.random.i64(0..6), "selector": {"matchLabels": labels},
                    "minReadySeconds": self.one_of(&[0, 0, 5, 15]),
                    "progressDeadlineSeconds": self.one_of(&[60, 120, 600]),
                    "revisionHistoryLimit": self.random.i64(0..4),
                    "template": self.template(name, "Always"),
                });
                spec["strategy"] = self.strategy()["spec"]["strategy"].take();
                spec
            }
            Kind::ReplicaSet => json!({
                "replicas": self.random.i64(0..6), "selector": {"matchLabels": labels},
                "minReadySeconds": self.one_of(&[0, 5]), "template": self.template(name, "Always"),
            }),
            Kind::ReplicationController => json!({
                "replicas": self.random.i64(0..5), "selector": labels, "template": self.template(name, "Always"),
            }),
            Kind::StatefulSet => json!({
                "replicas": self.random.i64(0..6), "serviceName": name, "selector": {"matchLabels": labels},
                "podManagementPolicy": self.one_of(&["OrderedReady", "Parallel"]),
                "minReadySeconds": self.one_of(&[0, 0, 5]),
                "updateStrategy": {"type": self.one_of(&["RollingUpdate", "RollingUpdate", "OnDelete"])},
                "template": self.template(name, "Always"),
            }),
            Kind::DaemonSet => json!({
                "selector": {"matchLabels": labels}, "template": self.template(name, "Always"),
                "updateStrategy": {"type": self.one_of(&["RollingUpdate", "OnDelete"])},
            }),
            Kind::Job => self.job(name),
            Kind::CronJob => json!({
                "schedule": self.one_of(&["* * * * *", "*/5 * * * *"]),
                "concurrencyPolicy": self.one_of(&["Allow", "Forbid", "Replace"]),
                "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
                "startingDeadlineSeconds": self.one_of(&[Value::Null, json!(200)]),
                "jobTemplate": {"spec": self.job(name)},
            }),
            Kind::PodDisruptionBudget => {
                let mut spec = self.budget();
                let of = self.one_of(&["deployment-0", "statefulset-0", "deployment-1"]);
                spec["selector"] = json!({"matchLabels": {"app": of}});
                spec
            }
            _ => json!({
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "deployment-2"},
                "minReplicas": 1, "maxReplicas": self.random.i64(3..6),
                "metrics": [{
                    "type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}},
                }],
            }),
        };
        json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata, "spec": spec})
    }

    fn strategy(&mut self) -> Value {
        let rolling = match self.random.u32(0..5) {
            0 => return json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}),
            1 => json!({"maxSurge": 0, "maxUnavailable": 1}),
            2 => json!({"maxSurge": 1, "maxUnavailable": 0}),
            3 => json!({"maxSurge": 2, "maxUnavailable": 1}),
            _ => json!({"maxSurge": "25%", "maxUnavailable": "25%"}),
        };
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}})
    }

    fn budget(&mut self) -> Value {
        match self.random.u32(0..3) {
            0 => json!({"minAvailable": 1, "maxUnavailable": null}),
            1 => json!({"maxUnavailable": 1, "minAvailable": null}),
            _ => json!({"minAvailable": "50%", "maxUnavailable": null}),
        }
    }

    fn job(&mut self, name: &str) -> Value {
        let is_indexed = self.random.bool();
        let completions = self.random.i64(1..6);
        json!({
            "completions": completions, "parallelism": self.random.i64(1..4),
            "completionMode": if is_indexed { "Indexed" } else { "NonIndexed" },
            "backoffLimit": self.random.i64(0..5),
            "activeDeadlineSeconds": self.one_of(&[Value::Null, Value::Null, json!(120)]),
            "ttlSecondsAfterFinished": self.one_of(&[Value::Null, json!(60)]),
            "podReplacementPolicy": self.one_of(&["TerminatingOrFailed", "Failed"]),
            "template": self.template(name, "Never"),
        })
    }

    fn template(&mut self, name: &str, restart_policy: &str) -> Value {
        self.version = (self.version + 1) % 4;
        let behaviour = match self.random.u32(0..20) {
            0 => "never",
            1 => "crashing",
            2 => "failing",
            _ => "fine",
        };
        let restart_policy = match restart_policy {
            "Never" => self.one_of(&["Never", "OnFailure"]),
            other => other,
        };
        json!({
            "metadata": {"labels": {"app": name, "behaviour": behaviour}},
            "spec": {
                "restartPolicy": restart_policy,
                // With 0 the API removes pods that still run, and nothing can be said of them.
                "terminationGracePeriodSeconds": self.one_of(&[1, 10, 30]),
                "containers": [{
                    "name": "main", "image": "registry.example/app:1",
                    "env": [{"name": "VERSION", "value": self.version.to_string()}],
                    "resources": {"requests": {"cpu": "100m"}},
                }],
            },
        })
    }

    /// Something happens to one pod that no controller asked for.
    pub(crate) fn meddle(&mut self) -> String {
        let pods: Vec<Value> = {
            let truth = self.api.truth.lock();
            truth.in_order(Kind::Pod).into_iter().filter(|pod| !has_ended(pod)).cloned().collect()
        };
        if pods.is_empty() {
            return "no pod to meddle with".to_owned();
        }
        let pod = &pods[self.random.usize(0..pods.len())];
        let name = text(pod, "/metadata/name").to_owned();
        let at = path(Kind::Pod, &name);
        let (what, method, path, body) = match self.random.u32(0..100) {
            0..35 => ("delete", Method::DELETE, at, json!({})),
            35..45 => ("force", Method::DELETE, at, json!({"gracePeriodSeconds": 0})),
            45..65 => {
                let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
                ("evict", Method::POST, format!("{at}/eviction"), eviction)
            }
            65..80 => ("strip labels of", Method::PATCH, at, json!({"metadata": {"labels": {"app": null}}})),
            80..90 => ("take the owner of", Method::PATCH, at, json!({"metadata": {"ownerReferences": null}})),
            _ => ("annotate", Method::PATCH, at, json!({"metadata": {"annotations": {"sim/note": "seen"}}})),
        };
        let is_done = self.send(method, &path, &body);
        format!("{what} pod {name}: {is_done}")
    }

    /// What would never come to rest by itself comes to rest.
    pub(crate) fn settle(&mut self) {
        let (cron_jobs, loads) = {
            let truth = self.api.truth.lock();
            let names = |kind| -> Vec<String> {
                truth.in_order(kind).iter().map(|one| text(one, "/metadata/name").to_owned()).collect()
            };
            (names(Kind::CronJob), names(Kind::Deployment))
        };
        for name in cron_jobs {
            self.send(Method::PATCH, &path(Kind::CronJob, &name), &json!({"spec": {"suspend": true}}));
        }
        for name in loads {
            if self.find(Kind::Deployment, &name).is_some_and(|one| one["spec"]["paused"] == true) {
                self.send(Method::PATCH, &path(Kind::Deployment, &name), &json!({"spec": {"paused": null}}));
            }
        }
        // Pods without an owner are nobody's: people delete them. Those without a label are about to lose theirs, and keep a name from it.
        let lost: Vec<String> = {
            let truth = self.api.truth.lock();
            let pods = truth.in_order(Kind::Pod).into_iter();
            let is_lost = |pod: &&Value| controller(pod).is_none() || pod["metadata"]["labels"]["app"].is_null();
            let lost = pods.filter(|pod| is_lost(pod) && !is_terminating(pod));
            lost.map(|pod| text(pod, "/metadata/name").to_owned()).collect()
        };
        for name in lost {
            self.send(Method::DELETE, &path(Kind::Pod, &name), &json!({}));
        }
    }
}
