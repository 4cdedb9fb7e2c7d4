use serde_json::json;

use super::*;
use crate::kit::Errors;

fn lines(strategy: &Strategy, object: &Value) -> Vec<String> {
    let mut object = object.clone();
    (strategy.defaults)(&mut object);
    let mut errors = Errors::default();
    (strategy.validate)(&object, &mut errors);
    errors.into_vec().iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(strategy: &Strategy, object: Value, expected: &[&str]) {
    let found = lines(strategy, &object);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (line, start) in found.iter().zip(expected) {
        assert!(line.starts_with(start), "{line}\n{start}");
    }
}

#[test]
fn a_claim_asks_for_one_device_unless_it_says_more() {
    let mut claim = json!({"spec": {"devices": {"requests": [
        {"name": "a", "exactly": {"deviceClassName": "c"}},
        {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "c", "allocationMode": "All"}]},
    ]}}});
    (CLAIM.defaults)(&mut claim);
    let requests = &claim["spec"]["devices"]["requests"];
    assert_eq!(requests[0]["exactly"], json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1}));
    assert_eq!(requests[1]["firstAvailable"][0].get("count"), None);
    check(&CLAIM, claim, &[]);
}

#[test]
fn a_claim_is_refused_with_upstreams_words() {
    check(
        &CLAIM,
        json!({"spec": {"devices": {
            "requests": [
                {"name": "A"}, {"name": "b", "exactly": {"allocationMode": "Some", "selectors": [{}], "tolerations": [{"operator": "Is", "effect": "Away"}]}},
                {"name": "b", "exactly": {"deviceClassName": "c"}},
            ],
            "constraints": [{"requests": ["b", "z"], "matchAttribute": "plain"}],
            "config": [{"requests": ["b/x"]}, {"opaque": {"driver": "D.x", "parameters": []}}],
        }}}),
        &[
            r#"spec.devices.requests[0].name: Invalid value: "A": a lowercase RFC 1123 label"#,
            "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            "spec.devices.requests[1].exactly.deviceClassName: Required value",
            "spec.devices.requests[1].exactly.selectors[0].cel: Required value",
            r#"spec.devices.requests[1].exactly.allocationMode: Unsupported value: "Some": supported values: "All", "ExactCount""#,
            r#"spec.devices.requests[1].exactly.tolerations[0].operator: Unsupported value: "Is""#,
            r#"spec.devices.requests[1].exactly.tolerations[0].effect: Unsupported value: "Away": supported values: "NoExecute", "NoSchedule", "None""#,
            r#"spec.devices.requests[2]: Duplicate value: "b""#,
            r#"spec.devices.constraints[0].requests[1]: Invalid value: "z": must be the name of a request in the claim"#,
            r#"spec.devices.constraints[0].matchAttribute: Invalid value: "plain": a fully qualified name must be"#,
            r#"spec.devices.config[0].requests[0]: Invalid value: "b/x": must be the name of a request in the claim"#,
            "spec.devices.config[0].opaque: Required value",
            r#"spec.devices.config[1].opaque.parameters: Invalid value: "<value omitted>": must be a valid JSON object"#,
        ],
    );
}

#[test]
fn a_status_speaks_of_allocated_devices() {
    let claim = json!({"spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "c"}}]}}});
    let mut new = claim.clone();
    new["status"] = json!({
        "allocation": {"devices": {"results": [{"request": "a", "driver": "d.x", "pool": "p", "device": "one"}]}},
        "reservedFor": [{"resource": "pods", "name": "p", "uid": "1"}, {"uid": "1"}],
        "devices": [{"driver": "d.x", "pool": "p", "device": "one"}, {"driver": "d.x", "pool": "p", "device": "two"}],
    });
    let mut errors = Errors::default();
    claims::status(&new, &claim, &mut errors);
    let found: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "status.reservedFor[1].resource: Required value",
            "status.reservedFor[1].name: Required value",
            r#"status.reservedFor[1]: Duplicate value: "1""#,
            r#"status.devices[1]: Invalid value: {"Driver":"d.x","Pool":"p","Device":"two","ShareID":""}: must be an allocated device in the claim"#,
        ]
    );
    // What is no longer allocated is no longer reported.
    let mut freed = new.clone();
    freed["status"].unset("allocation");
    drop_deallocated(&mut freed, &new);
    assert_eq!(freed["status"]["devices"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_slice_is_refused_with_upstreams_words() {
    check(
        &SLICE,
        json!({"spec": {"driver": "d.x", "pool": {"name": "p", "resourceSliceCount": 1}, "nodeName": "n", "devices": [
            {"name": "a", "attributes": {"model": {"string": "x"}, "d.x/v": {"version": "1.0.0-rc.1+b"}}, "capacity": {"m": {"value": "1Gi"}}},
        ]}}),
        &[],
    );
    check(
        &SLICE,
        json!({"spec": {"driver": "", "pool": {"name": "P", "generation": -1}, "allNodes": false, "devices": [
            {"name": "a", "attributes": {"v": {"version": "1.0"}, "w": {"int": 1, "bool": true}, "x-y": {}},
             "capacity": {"m": {"value": "1Gi", "requestPolicy": {"default": "2Gi", "validRange": {"min": "1"}}}},
             "taints": [{"key": "", "effect": "Away"}], "nodeName": "n", "bindingConditions": ["b"]},
            {"name": "a", "allowMultipleAllocations": true, "capacity": {"m": {"value": "1Gi", "requestPolicy": {"validValues": ["2Gi", "1Gi"], "default": "3"}}}},
        ]}}),
        &[
            "spec.driver: Required value",
            r#"spec.pool.name: Invalid value: "P": a lowercase RFC 1123 subdomain"#,
            "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
            "spec.pool.generation: Invalid value: -1: must be greater than or equal to zero",
            "spec.allNodes: Invalid value: false: must be either unset or set to true",
            "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection`",
            r#"spec.devices[0].attributes[v].version: Invalid value: "1.0": must be a string compatible with semver.org"#,
            r#"spec.devices[0].attributes[w]: Invalid value: {"IntValue":1,"BoolValue":true,"StringValue":null,"#,
            r#"spec.devices[0].attributes: Invalid value: "x-y": a valid C identifier must start"#,
            r#"spec.devices[0].attributes[x-y]: Invalid value: "": exactly one value must be specified"#,
            "spec.devices[0].capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must be true",
            r#"spec.devices[0].taints[0].key: Invalid value: "": name part must be non-empty"#,
            r#"spec.devices[0].taints[0].key: Invalid value: "": name part must consist"#,
            r#"spec.devices[0].taints[0].effect: Unsupported value: "Away""#,
            "spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set",
            "spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required",
            r#"spec.devices[1].capacity[m].requestPolicy.validValues[1]: Invalid value: "1Gi": values must be sorted"#,
            r#"spec.devices[1].capacity[m].requestPolicy.validValues[0]: Invalid value: "2Gi": option is larger than capacity value: 1Gi"#,
            r#"spec.devices[1].capacity[m].requestPolicy.validValues: Invalid value: "3": default value is not valid"#,
            r#"spec.devices[1]: Duplicate value: "a""#,
        ],
    );
}
