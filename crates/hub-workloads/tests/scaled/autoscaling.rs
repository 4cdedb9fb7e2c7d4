//! Autoscalers: a workload follows what is measured of its pods.

use std::sync::Arc;

use hub_runtime::kinds::Kind;
use serde_json::{Value, json};

use crate::hub::{Added, Hub, condition, stateful_set};

fn autoscaler(name: &str, target: &str, metric: Value) -> Value {
    let rules = json!({
        "stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 100, "periodSeconds": 15}],
    });
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": target},
            "minReplicas": 1, "maxReplicas": 5, "metrics": [metric],
            "behavior": {"scaleUp": rules, "scaleDown": rules},
        },
    })
}

fn cpu(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn parallel(name: &str, replicas: i64) -> Value {
    let mut set = stateful_set(name, replicas);
    set["spec"]["podManagementPolicy"] = json!("Parallel");
    set
}

impl Hub {
    fn used(&self, pods: &[(&str, i64)]) {
        let used = pods.iter().map(|(pod, millis)| ((*pod).to_owned(), *millis));
        self.metrics.0.lock().expect("no test panics with it").0 = used.collect();
    }

    /// Another spec that means the same is looked at at once.
    async fn look_again(&self, name: &str, marker: i64) {
        let policy = json!([{"type": "Pods", "value": 100 + marker, "periodSeconds": 15}]);
        let patch = json!({"spec": {"behavior": {"scaleUp": {"policies": policy}}}});
        self.patch(Kind::HorizontalPodAutoscaler, name, patch).await;
    }
}

fn reason(object: &Value, r#type: &str) -> (String, String) {
    let condition = condition(object, r#type);
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_grows_and_shrinks_with_what_its_pods_use() {
    let hub = Hub::start().await;
    hub.make(Kind::StatefulSet, parallel("web", 2)).await;
    hub.play_kubelet_until(&["web-0+", "web-1+"]).await;
    hub.ready(&["web-0", "web-1"]).await;
    hub.with(Kind::StatefulSet, "web", |set| set["status"]["readyReplicas"] == 2).await;
    // Each requests 100 millicores and should use half of it.
    hub.used(&[("web-0", 90), ("web-1", 110)]);
    hub.make(Kind::HorizontalPodAutoscaler, autoscaler("web", "web", cpu(50))).await;
    let grown = hub.with(Kind::HorizontalPodAutoscaler, "web", |one| one["status"]["desiredReplicas"] == 4).await;
    let status = &grown["status"];
    assert_eq!(status["currentReplicas"], 2);
    let current = json!({"averageUtilization": 100, "averageValue": "100m"});
    assert_eq!(
        status["currentMetrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}])
    );
    assert!(status["lastScaleTime"].is_string());
    assert_eq!(reason(&grown, "AbleToScale"), is("True", "SucceededRescale"));
    assert_eq!(reason(&grown, "ScalingActive"), is("True", "ValidMetricFound"));
    assert_eq!(reason(&grown, "ScalingLimited"), is("False", "DesiredWithinRange"));
    let name = "cpu resource utilization (percentage of request)";
    let message = format!("the HPA was able to successfully calculate a replica count from {name}");
    assert_eq!(condition(&grown, "ScalingActive")["message"], message);
    let event = hub.event_of("web", "SuccessfulRescale").await;
    assert_eq!(event["message"], format!("New size: 4; reason: {name} above target"));
    let asked = hub.metrics.0.lock().unwrap().1[0].clone();
    assert!(asked.ends_with("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dweb"), "{asked}");

    let all = ["web-0+", "web-1+", "web-2+", "web-3+"];
    hub.play_kubelet_until(&all).await;
    hub.ready(&["web-0", "web-1", "web-2", "web-3"]).await;
    // Close enough.
    hub.used(&[("web-0", 52), ("web-1", 52), ("web-2", 52), ("web-3", 52)]);
    hub.look_again("web", 1).await;
    let same = hub
        .with(Kind::HorizontalPodAutoscaler, "web", |one| reason(one, "AbleToScale") == is("True", "ReadyForNewScale"))
        .await;
    assert_eq!((&same["status"]["currentReplicas"], &same["status"]["desiredReplicas"]), (&json!(4), &json!(4)));
    assert_eq!(same["status"]["lastScaleTime"], grown["status"]["lastScaleTime"]);
    hub.settled().await;
    let before = hub.revision().await;
    hub.look_again("web", 2).await;
    hub.settled().await;
    assert_eq!(hub.revision().await.0, before.0 + 1, "but for the spec nothing was written");

    hub.used(&[("web-0", 10), ("web-1", 10), ("web-2", 10), ("web-3", 10)]);
    hub.look_again("web", 3).await;
    hub.with(Kind::StatefulSet, "web", |set| set["spec"]["replicas"] == 1).await;
    hub.play_kubelet_until(&["web-0+"]).await;
    let shrunk = hub.with(Kind::HorizontalPodAutoscaler, "web", |one| one["status"]["desiredReplicas"] == 1).await;
    assert_eq!(reason(&shrunk, "AbleToScale"), is("True", "SucceededRescale"));

    // More than there may be, whatever is measured.
    hub.used(&[("web-0", 5000)]);
    hub.ready(&["web-0"]).await;
    hub.look_again("web", 4).await;
    let limited = hub.with(Kind::HorizontalPodAutoscaler, "web", |one| one["status"]["desiredReplicas"] == 5).await;
    assert_eq!(reason(&limited, "ScalingLimited"), is("True", "TooManyReplicas"));
    // And what is beyond the bounds is brought back at once.
    hub.patch(Kind::HorizontalPodAutoscaler, "web", json!({"spec": {"maxReplicas": 3}})).await;
    hub.with(Kind::StatefulSet, "web", |set| set["spec"]["replicas"] == 3).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_autoscaler_says_what_is_wrong() {
    let hub = Hub::start().await;
    let kind = Kind::HorizontalPodAutoscaler;
    hub.make(Kind::StatefulSet, parallel("web", 2)).await;
    hub.play_kubelet_until(&["web-0+", "web-1+"]).await;

    hub.make(kind, autoscaler("lost", "nowhere", cpu(50))).await;
    let lost = hub.with(kind, "lost", |one| reason(one, "AbleToScale") == is("False", "FailedGetScale")).await;
    let message =
        "the HPA controller was unable to get the target's current scale: statefulsets.apps \"nowhere\" not found";
    assert_eq!(condition(&lost, "AbleToScale")["message"], message);

    let mut strange = autoscaler("strange", "web", cpu(50));
    strange["spec"]["scaleTargetRef"] = json!({"apiVersion": "example.org/v1", "kind": "Gadget", "name": "g"});
    hub.make(kind, strange).await;
    let strange = hub.with(kind, "strange", |one| reason(one, "AbleToScale") == is("False", "FailedGetScale")).await;
    let message = "the HPA controller was unable to get the target's current scale: no matches for kind \"Gadget\" in group \"example.org\"";
    assert_eq!(condition(&strange, "AbleToScale")["message"], message);

    let pods = json!({"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "10"}});
    let object = json!({
        "metric": {"name": "hits"}, "target": {"type": "Value", "value": "10"},
        "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "front"},
    });
    let external = json!({"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "10"}});
    for (metric, expected, why) in [
        (
            cpu(50),
            "FailedGetResourceMetric",
            "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API",
        ),
        (
            json!({"type": "Pods", "pods": pods}),
            "FailedGetPodsMetric",
            "unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered",
        ),
        (
            json!({"type": "Object", "object": object}),
            "FailedGetObjectMetric",
            "unable to get metric hits: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered on Service default/front",
        ),
        (
            json!({"type": "External", "external": external}),
            "FailedGetExternalMetric",
            "unable to get external metric default/queue/nil: unable to fetch metrics from external metrics API: the server could not find the requested resource (get queue.external.metrics.k8s.io)",
        ),
    ] {
        hub.make(kind, autoscaler("web", "web", metric)).await;
        let failed = hub.with(kind, "web", |one| reason(one, "ScalingActive").0 == "False").await;
        assert_eq!(reason(&failed, "ScalingActive"), is("False", expected));
        let message = format!("the HPA was unable to compute the replica count: {why}");
        assert_eq!(condition(&failed, "ScalingActive")["message"], message);
        assert_eq!(reason(&failed, "AbleToScale"), is("True", "SucceededGetScale"));
        assert_eq!(failed["status"]["currentReplicas"], 2);
        hub.event_of("web", expected).await;
        hub.delete(kind, "web", None).await;
        hub.settled().await;
    }
    let event = hub.event_of("web", "FailedComputeMetricsReplicas").await;
    let text = event["message"].as_str().unwrap_or_default();
    assert!(
        text.starts_with(
            "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: "
        ),
        "{text}"
    );

    // Two of one workload would each undo what the other does.
    hub.ready(&["web-0", "web-1"]).await;
    hub.used(&[("web-0", 50), ("web-1", 50)]);
    hub.make(kind, autoscaler("one", "web", cpu(50))).await;
    hub.with(kind, "one", |one| reason(one, "ScalingActive") == is("True", "ValidMetricFound")).await;
    hub.make(kind, autoscaler("two", "web", cpu(50))).await;
    let two = hub.with(kind, "two", |one| reason(one, "ScalingActive") == is("False", "AmbiguousSelector")).await;
    let message = "pods by selector app=web are controlled by multiple HPAs: [default/one default/two]";
    assert_eq!(condition(&two, "ScalingActive")["message"], message);

    hub.patch(Kind::StatefulSet, "web", json!({"spec": {"replicas": 0}})).await;
    hub.look_again("one", 1).await;
    let off = hub.with(kind, "one", |one| reason(one, "ScalingActive") == is("False", "ScalingDisabled")).await;
    assert!(off["status"]["currentReplicas"].is_null(), "none is left out: {off}");
    hub.settled().await;
    let before = hub.revision().await;
    hub.look_again("one", 2).await;
    hub.settled().await;
    assert_eq!(hub.revision().await.0, before.0 + 1, "but for the spec nothing was written");
    hub.stop().await;
}

/// Of pods, of an object, and of what is outside.
fn custom(path: &str) -> Option<Value> {
    const VALUES: &str = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/";
    if path.ends_with("/apis/custom.metrics.k8s.io") {
        return Some(json!({"kind": "APIGroup", "preferredVersion": {"version": "v1beta2"}}));
    }
    let value = |name: &str, value: &str| {
        json!({
            "describedObject": {"kind": "Pod", "name": name}, "metric": {"name": "hits"},
            "timestamp": "2026-01-01T00:00:00Z", "value": value,
        })
    };
    let items = match path.split_once(VALUES)?.1 {
        "pods/%2A/hits?labelSelector=app%3Dweb&metricLabelSelector=verb%3DGET" => {
            json!([value("web-0", "10"), value("web-1", "20")])
        }
        "services/front/hits?" => json!([value("front", "1500m")]),
        _ => return None,
    };
    Some(json!({"kind": "MetricValueList", "items": items}))
}

fn external(path: &str) -> Option<Value> {
    const VALUES: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/";
    let path = path.split_once(VALUES)?.1;
    let value = |value: &str| json!({"metricName": "queue", "value": value});
    (path == "queue?labelSelector=")
        .then(|| json!({"kind": "ExternalMetricValueList", "items": [value("7"), value("8")]}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_measure_counts_as_well() {
    let added = |prefix, respond| Arc::new(Added { prefix, respond }) as Arc<dyn machinery_server::Extension>;
    let extensions =
        vec![added("/apis/custom.metrics.k8s.io", custom), added("/apis/external.metrics.k8s.io", external)];
    let mut hub = Hub::with_extensions(extensions).await;
    hub.start_controllers().await;
    let kind = Kind::HorizontalPodAutoscaler;
    hub.make(Kind::StatefulSet, parallel("web", 2)).await;
    hub.play_kubelet_until(&["web-0+", "web-1+"]).await;
    let selector = json!({"matchLabels": {"verb": "GET"}});
    let metric = json!({"name": "hits", "selector": selector});
    let target = |value: &str| json!({"type": "AverageValue", "averageValue": value});
    let front = json!({"apiVersion": "v1", "kind": "Service", "name": "front"});
    let total = json!({"type": "Value", "value": "1"});
    for (metric, replicas, status, name) in [
        (
            json!({"type": "Pods", "pods": {"metric": metric, "target": target("10")}}),
            3,
            json!({"type": "Pods", "pods": {"metric": metric, "current": {"averageValue": "15"}}}),
            "pods metric hits",
        ),
        (
            json!({"type": "Object", "object": {"metric": {"name": "hits"}, "target": total, "describedObject": front}}),
            3,
            json!({
                "type": "Object",
                "object": {"metric": {"name": "hits"}, "current": {"value": "1500m"}, "describedObject": front},
            }),
            "Service metric hits",
        ),
        (
            json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": target("4")}}),
            4,
            json!({"type": "External", "external": {"metric": {"name": "queue"}, "current": {"averageValue": "7500m"}}}),
            "external metric queue(nil)",
        ),
    ] {
        hub.make(kind, autoscaler("web", "web", metric)).await;
        let scaled = hub.with(kind, "web", |one| !condition(one, "ScalingActive").is_null()).await;
        let message = format!("the HPA was able to successfully calculate a replica count from {name}");
        assert_eq!(condition(&scaled, "ScalingActive")["message"], message);
        assert_eq!(scaled["status"]["currentMetrics"], json!([status]));
        assert_eq!(scaled["status"]["desiredReplicas"], replicas);
        hub.delete(kind, "web", None).await;
        hub.patch(Kind::StatefulSet, "web", json!({"spec": {"replicas": 2}})).await;
        hub.play_kubelet_until(&["web-0+", "web-1+"]).await;
    }
    hub.stop().await;
}
