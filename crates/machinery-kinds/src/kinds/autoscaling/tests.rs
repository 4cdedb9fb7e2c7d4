//! One autoscaler in two versions.

use serde_json::{Value, json};

use super::{v1, v2};

/// What a client of version 1 reads of an object of version 2.
fn as_v1(stored: Value) -> Value {
    let mut autoscaler = stored;
    (v1::STRATEGY.from_stored)(&mut autoscaler);
    autoscaler
}

fn stored() -> Value {
    let pods = json!({"type": "Pods", "pods": {
        "metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1k"}}});
    let external = json!({"type": "External", "external": {
        "metric": {"name": "q", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "Value", "value": "30"}}});
    let cpu = json!({"type": "Resource", "resource": {
        "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let mut stored = json!({
        "metadata": {"name": "a", "annotations": {"mine": "x"}},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 3,
            "metrics": [pods, external, cpu], "behavior": {"scaleUp": {"tolerance": "50m"}},
        },
    });
    (v2::STRATEGY.defaults)(&mut stored);
    stored
}

#[test]
fn what_version_1_has_no_fields_for_is_kept_in_annotations() {
    let old = as_v1(stored());
    assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 50);
    assert!(old["spec"].get("metrics").is_none() && old["spec"].get("behavior").is_none());
    let annotations = &old["metadata"]["annotations"];
    assert_eq!(annotations["mine"], "x");
    assert_eq!(
        annotations["autoscaling.alpha.kubernetes.io/metrics"],
        r#"[{"type":"Pods","pods":{"metricName":"m","targetAverageValue":"1k"}},{"type":"External","external":{"metricName":"q","metricSelector":{"matchLabels":{"a":"b"}},"targetValue":"30"}}]"#
    );
    assert_eq!(
        annotations["autoscaling.alpha.kubernetes.io/behavior"],
        r#"{"ScaleUp":{"StabilizationWindowSeconds":0,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15},{"Type":"Percent","Value":100,"PeriodSeconds":15}],"Tolerance":"50m"},"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":"Max","Policies":[{"Type":"Percent","Value":100,"PeriodSeconds":15}],"Tolerance":null}}"#
    );
}

#[test]
fn what_an_old_client_writes_back_is_what_was_stored() {
    let mut back = as_v1(stored());
    (v1::STRATEGY.to_stored)(&mut back);
    assert_eq!(back["spec"], stored()["spec"]);
    assert_eq!(back["metadata"]["annotations"], json!({"mine": "x"}));
}

#[test]
fn an_autoscaler_without_a_target_watches_the_processor() {
    let mut autoscaler = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3}});
    (v1::STRATEGY.defaults)(&mut autoscaler);
    assert!(autoscaler["spec"].get("metrics").is_none());
    (v1::STRATEGY.to_stored)(&mut autoscaler);
    assert_eq!(as_v1(autoscaler)["spec"]["targetCPUUtilizationPercentage"], 80);
}
