//! Input that never becomes good is looked at now and then, not all the time, and upstream's words say what is wrong with it.
//!
//! Each case has a hub of its own, so that the runs of a controller are those of the objects that the case is about.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::api::{NAMESPACE, Who};
use crate::truth::{is_terminating, number, text};
use crate::user::path;
use crate::world::World;

/// For so long each case is watched.
const WATCHED: Duration = Duration::from_secs(20 * 60);
/// Runs of an object in a second, on average. Readiness, back-off and resyncs are all slower than that.
const RUNS_PER_SECOND_MAX: f64 = 0.5;
/// Runs that come at the start, when everything is new.
const RUNS_AT_ONCE_MAX: f64 = 150.0;

const TODAY: &str = "2026-03-01T00:00:00Z";
const WITHOUT_A_CLOCK: &str = "1970-01-01T00:00:00Z";

/// A case in simulated time.
fn simulate(start: &str, case: impl AsyncFnOnce(&mut World)) {
    fastrand::seed(7);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be made").block_on(async {
        let mut world = World::new(0, start.parse().expect("it is a time")).await;
        world.kubelets.do_crash = false;
        for node in ["gw-0", "gw-1", "gw-2"] {
            world.kubelets.join(node, &json!({}));
        }
        case(&mut world).await;
        world.stop_hub().await.expect("the controllers end");
    });
}

impl World {
    fn make(&self, kind: Kind, name: &str, spec: Value) -> Value {
        let metadata = json!({"name": name, "namespace": NAMESPACE});
        let object = json!({"apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata, "spec": spec});
        self.api.must(Who::User, Method::POST, &kind.path(NAMESPACE), Some(&object))
    }

    fn read(&self, kind: Kind, name: &str) -> Value {
        self.api.send(Who::User, Method::GET, &path(kind, name), None).1
    }

    /// Runs of each controller so far.
    fn runs(&self) -> BTreeMap<String, u64> {
        let hub = self.hub.as_ref().expect("the hub runs");
        let all = hub.managers.iter().flat_map(|manager| manager.status().snapshot());
        all.map(|status| (status.name, status.processed)).collect()
    }

    /// Watches so many objects for a while: no controller looks at them more often than it may.
    async fn watch(&mut self, objects: u32) {
        let before = self.runs();
        self.advance(WATCHED).await;
        self.check_runs(&before, objects, WATCHED);
    }

    fn check_runs(&self, before: &BTreeMap<String, u64>, objects: u32, watched: Duration) {
        for (name, runs) in self.runs() {
            let runs = runs - before.get(&name).copied().unwrap_or(0);
            let most = RUNS_AT_ONCE_MAX + f64::from(objects) * RUNS_PER_SECOND_MAX * watched.as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "a test's controllers run thousands of times, not 2^53")]
            let is_bounded = runs as f64 <= most;
            assert!(is_bounded, "{name} ran {runs} times in {watched:?} for {objects} objects");
        }
    }

    /// Whether an Event of this reason was written, and says so.
    fn says(&self, reason: &str, message: &str) -> bool {
        let written = self.api.written.lock();
        written.iter().any(|line| line.contains(reason) && line.contains(message))
    }
}

fn template(app: &str, behaviour: &str, restart_policy: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app, "behaviour": behaviour}},
        "spec": {
            "restartPolicy": restart_policy,
            "containers": [{"name": "main", "image": "registry.example/app:1"}],
        },
    })
}

fn set(app: &str, behaviour: &str) -> Value {
    json!({
        "replicas": 3, "selector": {"matchLabels": {"app": app}}, "template": template(app, behaviour, "Always"),
    })
}

fn condition<'o>(object: &'o Value, r#type: &str) -> &'o Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|one| one["type"] == r#type).unwrap_or(&Value::Null)
}

#[test]
fn templates_that_never_become_ready_are_waited_for() {
    simulate(TODAY, async |world| {
        let mut deployment = set("web", "never");
        deployment["progressDeadlineSeconds"] = 60.into();
        world.make(Kind::Deployment, "web", deployment);
        world.make(Kind::ReplicaSet, "plain", set("plain", "never"));
        let mut peers = set("peers", "never");
        peers["serviceName"] = "peers".into();
        world.make(Kind::StatefulSet, "peers", peers);
        let every =
            json!({"selector": {"matchLabels": {"app": "every"}}, "template": template("every", "never", "Always")});
        world.make(Kind::DaemonSet, "every", every);
        let job = json!({"backoffLimit": 3, "template": template("job", "failing", "Never")});
        world.make(Kind::Job, "job", job);
        world.watch(6).await;
        let web = world.read(Kind::Deployment, "web");
        let progressing = condition(&web, "Progressing");
        assert_eq!(
            (&progressing["status"], &progressing["reason"]),
            (&json!("False"), &json!("ProgressDeadlineExceeded"))
        );
        assert!(text(progressing, "/message").ends_with("has timed out progressing."), "{progressing}");
        assert_eq!(number(&world.read(Kind::StatefulSet, "peers"), "/status/replicas"), 1, "one after another");
        assert_eq!(number(&world.read(Kind::DaemonSet, "every"), "/status/numberUnavailable"), 3);
        let failed = world.read(Kind::Job, "job");
        let failed = condition(&failed, "Failed");
        let said = (&failed["reason"], &failed["message"]);
        assert_eq!(said, (&json!("BackoffLimitExceeded"), &json!("Job has reached the specified backoff limit")));
    });
}

#[test]
fn workloads_whose_selectors_match_each_others_pods_keep_their_own() {
    simulate(TODAY, async |world| {
        for name in ["one", "other"] {
            world.make(Kind::ReplicaSet, name, set("shared", "fine"));
            world.make(Kind::Deployment, &format!("{name}-web"), set("shared", "fine"));
            let mut peers = set("shared", "fine");
            peers["serviceName"] = name.into();
            world.make(Kind::StatefulSet, &format!("{name}-peers"), peers);
            let budget = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "shared"}}});
            world.make(Kind::PodDisruptionBudget, &format!("{name}-budget"), budget);
            let autoscaler = json!({
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "one-web"}, "maxReplicas": 4,
                "metrics": [{
                    "type": "Resource", "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "1"}},
                }],
            });
            world.make(Kind::HorizontalPodAutoscaler, &format!("{name}-scaler"), autoscaler);
        }
        world.watch(12).await;
        let truth = world.api.truth.lock();
        for kind in [Kind::ReplicaSet, Kind::StatefulSet] {
            for set in truth.all(kind) {
                let pods = truth.pods_of(text(set, "/metadata/uid")).count();
                let asked = usize::try_from(number(set, "/spec/replicas")).expect("it is no negative number");
                assert_eq!(pods, asked, "{}", text(set, "/metadata/name"));
            }
        }
        drop(truth);
        let scaler = world.read(Kind::HorizontalPodAutoscaler, "one-scaler");
        assert_eq!(condition(&scaler, "ScalingActive")["reason"], "AmbiguousSelector", "{scaler}");
        let pod = world.api.truth.lock().in_order(Kind::Pod)[0]["metadata"]["name"].clone();
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
        let at = format!("{}/eviction", path(Kind::Pod, pod.as_str().expect("it has a name")));
        let (code, said) = world.api.send(Who::User, Method::POST, &at, Some(&eviction));
        let message =
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        assert_eq!((code.as_u16(), &said["message"]), (500, &json!(message)));
    });
}

#[test]
fn owners_in_loops_are_left_alone_and_can_be_deleted() {
    simulate(TODAY, async |world| {
        let owner = |object: &Value, is_controller: bool| {
            json!({
                "apiVersion": object["apiVersion"], "kind": object["kind"], "name": object["metadata"]["name"],
                "uid": object["metadata"]["uid"], "controller": is_controller, "blockOwnerDeletion": true,
            })
        };
        let own = |world: &World, kind: Kind, name: &str, owner: Value| {
            let patch = json!({"metadata": {"ownerReferences": [owner]}});
            world.api.must(Who::User, Method::PATCH, &path(kind, name), Some(&patch));
        };
        // Two sets that own each other, a set that owns itself, and a Deployment that its own ReplicaSet owns.
        let (one, other) = (
            world.make(Kind::ReplicaSet, "one", set("one", "fine")),
            world.make(Kind::ReplicaSet, "other", set("other", "fine")),
        );
        own(world, Kind::ReplicaSet, "one", owner(&other, true));
        own(world, Kind::ReplicaSet, "other", owner(&one, true));
        let itself = world.make(Kind::ReplicaSet, "itself", set("itself", "fine"));
        own(world, Kind::ReplicaSet, "itself", owner(&itself, true));
        world.make(Kind::Deployment, "web", set("web", "fine"));
        world.advance(Duration::from_secs(30)).await;
        let of_web = {
            let truth = world.api.truth.lock();
            truth
                .in_order(Kind::ReplicaSet)
                .into_iter()
                .find(|set| set["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("web-")))
                .cloned()
        };
        own(world, Kind::Deployment, "web", owner(&of_web.expect("the Deployment has a set"), false));
        world.watch(5).await;
        for (kind, name) in [(Kind::ReplicaSet, "one"), (Kind::ReplicaSet, "itself"), (Kind::Deployment, "web")] {
            assert!(!is_terminating(&world.read(kind, name)), "{name} was left alone");
            let options = json!({"propagationPolicy": "Foreground"});
            world.api.must(Who::User, Method::DELETE, &path(kind, name), Some(&options));
        }
        world.watch(5).await;
        let truth = world.api.truth.lock();
        let left: Vec<String> = [Kind::Deployment, Kind::ReplicaSet, Kind::Pod]
            .into_iter()
            .flat_map(|kind| truth.all(kind))
            .map(|object| format!("{} {}", text(object, "/metadata/name"), object["metadata"]))
            .collect();
        assert!(left.is_empty(), "what was in loops is still there: {left:#?}");
    });
}

/// A CronJob of every minute that last ran then.
fn missed(world: &World, name: &str, last: &str) {
    let job = json!({"spec": {"template": template(name, "fine", "Never")}});
    let spec = json!({"schedule": "* * * * *", "concurrencyPolicy": "Allow", "suspend": true, "jobTemplate": job});
    world.make(Kind::CronJob, name, spec);
    let status = json!({"status": {"lastScheduleTime": last}});
    world.api.must(Who::User, Method::PATCH, &format!("{}/status", path(Kind::CronJob, name)), Some(&status));
    let awake = json!({"spec": {"suspend": false}});
    world.api.must(Who::User, Method::PATCH, &path(Kind::CronJob, name), Some(&awake));
}

#[test]
fn a_year_of_missed_times_is_one_job_and_a_warning() {
    simulate(TODAY, async |world| {
        missed(world, "year", "2025-03-01T00:00:00Z");
        missed(world, "since-1970", "1970-01-01T00:00:00Z");
        let began = std::time::Instant::now();
        world.advance(Duration::from_secs(50)).await;
        assert!(began.elapsed() < Duration::from_secs(20), "years of minutes are not walked through");
        let jobs = world.api.truth.lock().all(Kind::Job).count();
        assert_eq!(jobs, 2, "each has the latest of its missed times");
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        assert!(world.says("TooManyMissedTimes", message), "{:#?}", world.api.written.lock());
        world.watch(2 + 20).await;
    });
}

#[test]
fn a_hub_without_a_clock_goes_by_the_one_it_has() {
    simulate(WITHOUT_A_CLOCK, async |world| {
        missed(world, "later", "2026-03-01T00:00:00Z");
        let mut web = set("web", "fine");
        web["minReadySeconds"] = 10.into();
        world.make(Kind::Deployment, "web", web);
        world.make(
            Kind::Job,
            "job",
            json!({"ttlSecondsAfterFinished": 60, "template": template("job", "fine", "Never")}),
        );
        world.watch(4).await;
        assert_eq!(number(&world.read(Kind::Deployment, "web"), "/status/availableReplicas"), 3);
        let jobs = world.api.truth.lock().all(Kind::Job).count();
        assert!(
            (1..=4).contains(&jobs),
            "a time that was never true keeps nothing waiting, and old ones are deleted: {jobs}"
        );
        assert!(world.api.truth.lock().get(Kind::Job, "job").is_none(), "it was deleted after its time");
    });
}

#[test]
fn nodes_that_flap_cost_a_bounded_number_of_runs() {
    simulate(TODAY, async |world| {
        world.make(Kind::Deployment, "web", set("web", "fine"));
        let every =
            json!({"selector": {"matchLabels": {"app": "every"}}, "template": template("every", "fine", "Always")});
        world.make(Kind::DaemonSet, "every", every);
        world.advance(Duration::from_secs(60)).await;
        let pods = world.api.truth.lock().all(Kind::Pod).count();
        let (before, mut random) = (world.runs(), fastrand::Rng::with_seed(3));
        let began = tokio::time::Instant::now();
        for _ in 0..120 {
            let node = format!("gw-{}", random.u32(0..3));
            let is_linked = !world.kubelets.nodes[&node].is_linked;
            world.kubelets.set_link(&node, is_linked);
            world.advance(Duration::from_secs(random.u64(5..60))).await;
        }
        world.check_runs(&before, 3, began.elapsed());
        let truth = world.api.truth.lock();
        assert_eq!(truth.all(Kind::Pod).count(), pods, "no pod was replaced");
        assert!(truth.violations.is_empty(), "{:?}", truth.violations);
    });
}
