//! Deployments.

use std::time::Duration;

use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::hub::{BROKEN, Hub};
use crate::replicasets::template;

const REVISION: &str = "deployment.kubernetes.io/revision";

pub(crate) fn deployment(name: &str, replicas: i64, image: &str) -> Value {
    let selector = json!({"matchLabels": {"app": name}});
    json!({"metadata": {"name": name, "annotations": {"team": "edge"}}, "spec": {"replicas": replicas, "selector": selector, "template": template(name, image)}})
}

/// Whether `kubectl rollout status` would say that it is done.
pub(crate) fn is_rolled_out(deployment: &Value) -> bool {
    let (status, replicas) = (&deployment["status"], &deployment["spec"]["replicas"]);
    let number = |field: &str| status[field].as_i64().unwrap_or_default();
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "availableReplicas"]
            .iter()
            .all(|field| Some(number(field)) == replicas.as_i64())
}

pub(crate) async fn set_image(hub: &Hub, name: &str, image: &str) {
    let containers = json!([{"name": "main", "image": image}]);
    hub.patch(Kind::Deployment, name, json!({"spec": {"template": {"spec": {"containers": containers}}}})).await;
}

pub(crate) fn reason<'v>(object: &'v Value, r#type: &str) -> &'v str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == r#type);
    found.and_then(|condition| condition["reason"].as_str()).unwrap_or_default()
}

async fn sets(hub: &Hub) -> Vec<(i64, i64)> {
    let mut sets = hub.list(Kind::ReplicaSet).await;
    let revision = |set: &Value| {
        let text = set["metadata"]["annotations"][REVISION].as_str();
        text.and_then(|text| text.parse::<i64>().ok()).expect("a set has a revision")
    };
    sets.sort_by_key(revision);
    sets.iter().map(|set| (revision(set), set["spec"]["replicas"].as_i64().expect("a set has a size"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_brings_up_its_pods_and_rolls_to_another_template_and_back() {
    let hub = Hub::start().await;
    hub.make(Kind::Deployment, deployment("web", 4, "one")).await;
    let done = hub.with(Kind::Deployment, "web", is_rolled_out).await;
    hub.settled().await;
    assert_eq!(reason(&done, "Available"), "MinimumReplicasAvailable");
    assert_eq!(sets(&hub).await, [(1, 4)]);
    let set = &hub.list(Kind::ReplicaSet).await[0];
    let hash = set["metadata"]["labels"]["pod-template-hash"].as_str().unwrap();
    assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
    assert_eq!(set["spec"]["selector"]["matchLabels"], json!({"app": "web", "pod-template-hash": hash}));
    let annotations = &set["metadata"]["annotations"];
    assert_eq!(
        (
            &annotations["team"],
            &annotations["deployment.kubernetes.io/desired-replicas"],
            &annotations["deployment.kubernetes.io/max-replicas"]
        ),
        (&json!("edge"), &json!("4"), &json!("5"))
    );
    let web = hub.get(Kind::Deployment, "web").await;
    assert_eq!(
        (reason(&web, "Progressing"), &web["metadata"]["annotations"][REVISION]),
        ("NewReplicaSetAvailable", &json!("1"))
    );

    set_image(&hub, "web", "two").await;
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    hub.settled().await;
    assert_eq!(sets(&hub).await, [(1, 0), (2, 4)]);
    assert!(hub.pods().await.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "two"));

    // Back: the old set is the newest revision.
    set_image(&hub, "web", "one").await;
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    hub.settled().await;
    assert_eq!(sets(&hub).await, [(2, 0), (3, 4)]);
    let history: Vec<Value> = hub
        .list(Kind::ReplicaSet)
        .await
        .iter()
        .map(|set| set["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"].clone())
        .filter(|history| !history.is_null())
        .collect();
    assert_eq!(history, ["1"]);
    let events = hub.events("web").await;
    let name = set["metadata"]["name"].as_str().unwrap();
    assert_eq!(events[0], ("ScalingReplicaSet".to_owned(), format!("Scaled up replica set {name} from 0 to 4")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_never_becomes_ready_stops_at_its_limits_and_is_timed_out() {
    let hub = Hub::start().await;
    let mut web = deployment("web", 4, "one");
    web["spec"]["progressDeadlineSeconds"] = json!(2);
    web["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}});
    hub.make(Kind::Deployment, web).await;
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    set_image(&hub, "web", BROKEN).await;
    let stuck = hub.with(Kind::Deployment, "web", |web| reason(web, "Progressing") == "ProgressDeadlineExceeded").await;
    assert_eq!((&stuck["status"]["availableReplicas"], &stuck["status"]["updatedReplicas"]), (&json!(3), &json!(2)));
    let (revision, runs) = (hub.settled().await, hub.runs());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(hub.settled().await, revision, "nothing is written while nothing changes");
    assert!(hub.runs() - runs <= 2, "and nothing is looked at: {} runs", hub.runs() - runs);

    set_image(&hub, "web", "one").await;
    let web = hub.with(Kind::Deployment, "web", is_rolled_out).await;
    assert_eq!(reason(&web, "Available"), "MinimumReplicasAvailable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_no_moment_are_there_more_or_fewer_pods_than_the_limits_allow() {
    let hub = Hub::start().await;
    let mut web = deployment("web", 6, "one");
    web["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}});
    hub.make(Kind::Deployment, web).await;
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    set_image(&hub, "web", "two").await;
    for _ in 0..3000 {
        let pods = hub.pods().await;
        let ready = pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count();
        assert!(pods.len() <= 8 && ready >= 6, "{} pods, {ready} of them ready", pods.len());
        if is_rolled_out(&hub.get(Kind::Deployment, "web").await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it did not roll out: {}", hub.get(Kind::Deployment, "web").await["status"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreating_leaves_no_moment_with_pods_of_both_templates() {
    let hub = Hub::start().await;
    let mut web = deployment("web", 3, "one");
    web["spec"]["strategy"] = json!({"type": "Recreate"});
    hub.make(Kind::Deployment, web).await;
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    set_image(&hub, "web", "two").await;
    for _ in 0..3000 {
        let pods = hub.list(Kind::Pod).await;
        let of = |image: &str| pods.iter().filter(|pod| pod["spec"]["containers"][0]["image"] == image).count();
        assert!(of("one") == 0 || of("two") == 0, "{} old and {} new", of("one"), of("two"));
        if is_rolled_out(&hub.get(Kind::Deployment, "web").await) && of("two") == 3 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it did not roll out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_deployment_scales_and_does_not_roll() {
    let hub = Hub::start().await;
    hub.make(Kind::Deployment, deployment("web", 2, "one")).await;
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    hub.patch(Kind::Deployment, "web", json!({"spec": {"paused": true}})).await;
    hub.with(Kind::Deployment, "web", |web| reason(web, "Progressing") == "DeploymentPaused").await;
    set_image(&hub, "web", "two").await;
    hub.patch(Kind::Deployment, "web", json!({"spec": {"replicas": 5}})).await;
    hub.with(Kind::Deployment, "web", |web| web["status"]["availableReplicas"] == 5).await;
    hub.settled().await;
    assert_eq!(sets(&hub).await, [(1, 5)]);
    hub.patch(Kind::Deployment, "web", json!({"spec": {"paused": false}})).await;
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    hub.settled().await;
    assert_eq!(sets(&hub).await, [(1, 0), (2, 5)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_revisions_are_kept_as_far_as_the_history_goes() {
    let hub = Hub::start().await;
    let mut web = deployment("web", 1, "v0");
    web["spec"]["revisionHistoryLimit"] = json!(2);
    hub.make(Kind::Deployment, web).await;
    for version in 1..5 {
        hub.with(Kind::Deployment, "web", is_rolled_out).await;
        set_image(&hub, "web", &format!("v{version}")).await;
    }
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    hub.settled().await;
    assert_eq!(sets(&hub).await, [(3, 0), (4, 0), (5, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_gives_the_set_another() {
    let mut hub = Hub::start().await;
    hub.make(Kind::Deployment, deployment("web", 1, "one")).await;
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    hub.settled().await;
    let name = hub.list(Kind::ReplicaSet).await[0]["metadata"]["name"].clone();
    hub.stop_controllers().await;
    for kind in [Kind::Deployment, Kind::ReplicaSet] {
        for object in hub.list(kind).await {
            hub.admin.delete(kind, &object, Some(0)).await.unwrap();
        }
    }
    let selector = json!({"matchLabels": {"app": "other"}});
    hub.make(Kind::ReplicaSet, json!({"metadata": {"name": name}, "spec": {"replicas": 0, "selector": selector, "template": template("other", "one")}})).await;
    hub.make(Kind::Deployment, deployment("web", 1, "one")).await;
    hub.start_controllers().await;
    let web = hub.with(Kind::Deployment, "web", is_rolled_out).await;
    assert_eq!(web["status"]["collisionCount"], 1);
    assert_eq!(hub.list(Kind::ReplicaSet).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_of_a_rollout_doubles_nothing() {
    let mut hub = Hub::start().await;
    hub.make(Kind::Deployment, deployment("web", 8, "one")).await;
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    set_image(&hub, "web", "two").await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(15)).await;
        hub.stop_controllers().await;
        hub.start_controllers().await;
    }
    hub.with(Kind::Deployment, "web", is_rolled_out).await;
    let revision = hub.settled().await;
    assert_eq!((sets(&hub).await, hub.pods().await.len()), (vec![(1, 0), (2, 8)], 8));
    hub.stop_controllers().await;
    hub.start_controllers().await;
    assert_eq!(hub.settled().await, revision, "everything is as it should be already");
}
