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

fn webhook() -> Value {
    json!({
        "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": "n", "namespace": "s"}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
    })
}

#[test]
fn a_webhook_gets_defaults() {
    let mut configuration = json!({"webhooks": [webhook()]});
    (MUTATING_WEBHOOKS.defaults)(&mut configuration);
    let hook = &configuration["webhooks"][0];
    assert_eq!(hook["clientConfig"]["service"]["port"], 443);
    assert_eq!(hook["rules"][0]["scope"], "*");
    assert_eq!((&hook["timeoutSeconds"], &hook["objectSelector"]), (&json!(10), &json!({})));
    assert_eq!((&hook["reinvocationPolicy"], &hook["failurePolicy"]), (&json!("Never"), &json!("Fail")));
    let before = configuration.clone();
    (MUTATING_WEBHOOKS.defaults)(&mut configuration);
    assert_eq!(configuration, before);
}

#[test]
fn a_webhook_is_refused_with_upstreams_words() {
    check(&VALIDATING_WEBHOOKS, json!({"webhooks": [webhook()]}), &[]);
    check(
        &VALIDATING_WEBHOOKS,
        json!({"webhooks": [{"name": "bad"}]}),
        &[
            r#"webhooks[0].name: Invalid value: "bad": should be a domain with at least three segments"#,
            "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
        ],
    );
    let with = |key: &str, value: Value| {
        let mut hook = webhook();
        hook[key] = value;
        json!({"webhooks": [hook]})
    };
    check(
        &VALIDATING_WEBHOOKS,
        with("clientConfig", json!({"url": "http://u:p@/x?y#z"})),
        &[
            r#"webhooks[0].clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired"#,
            r#"webhooks[0].clientConfig.url: Invalid value: "": host must be specified; desired"#,
            r#"webhooks[0].clientConfig.url: Invalid value: "u:p": user information is not permitted"#,
            r#"webhooks[0].clientConfig.url: Invalid value: "z": fragments are not permitted"#,
            r#"webhooks[0].clientConfig.url: Invalid value: "y": query parameters are not permitted"#,
        ],
    );
    check(
        &VALIDATING_WEBHOOKS,
        with("clientConfig", json!({"service": {"name": "n", "path": "/a//B"}})),
        &[
            "webhooks[0].clientConfig.service.name: Required value",
            r#"webhooks[0].clientConfig.service.path: Invalid value: "/a//B": segment[1] may not be empty"#,
            r#"webhooks[0].clientConfig.service.path: Invalid value: "/a//B": segment[2]: a lowercase"#,
        ],
    );
    let rule = json!({"operations": ["*", "X"], "apiGroups": ["*", "a"], "apiVersions": [""], "resources": ["a/*", "a/b", "*/*"], "scope": "All"});
    check(
        &VALIDATING_WEBHOOKS,
        with("rules", json!([rule])),
        &[
            r#"webhooks[0].rules[0].operations: Invalid value: ["*","X"]: if '*' is present"#,
            r#"webhooks[0].rules[0].operations[1]: Unsupported value: "X": supported values: "*", "CONNECT""#,
            r#"webhooks[0].rules[0].apiGroups: Invalid value: ["*","a"]: if '*' is present, must not specify other API groups"#,
            "webhooks[0].rules[0].apiVersions[0]: Required value",
            r#"webhooks[0].rules[0].resources[1]: Invalid value: "a/b": if 'a/*' is present, must not specify a/b"#,
            r#"webhooks[0].rules[0].resources: Invalid value: ["a/*","a/b","*/*"]: if '*/*' is present"#,
            r#"webhooks[0].rules[0].scope: Unsupported value: "All": supported values: "*", "Cluster", "Namespaced""#,
        ],
    );
}

#[test]
fn what_an_old_webhook_breaks_its_successor_may_break() {
    let mut before = json!({"webhooks": [webhook()]});
    (VALIDATING_WEBHOOKS.defaults)(&mut before);
    let mut old = before.clone();
    old["webhooks"][0]["sideEffects"] = "Some".into();
    let mut errors = Errors::default();
    webhooks::validating_update(&old, &old, &mut errors);
    assert!(errors.is_empty(), "{errors:?}");
    webhooks::validating_update(&old, &before, &mut errors);
    assert_eq!(errors.len(), 1);
}

#[test]
fn policies_are_refused_with_upstreams_words() {
    let rules = json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
    let policy = |more: Value| {
        let mut spec = json!({"matchConstraints": {"resourceRules": rules.clone()}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": "p"}, "spec": spec})
    };
    check(&VALIDATING_POLICY, policy(json!({"validations": [{"expression": "true"}]})), &[]);
    check(
        &VALIDATING_POLICY,
        policy(json!({})),
        &[
            "spec.validations: Required value: validations or auditAnnotations must contain",
            "spec.auditAnnotations: Required value: validations or auditAnnotations must contain",
        ],
    );
    check(
        &VALIDATING_POLICY,
        policy(json!({
            "paramKind": {"apiVersion": "a/b/c"}, "variables": [{"name": "a-b", "expression": "1"}, {"name": " "}],
            "validations": [{"expression": " ", "message": "a\nb", "reason": "Teapot"}],
            "auditAnnotations": [{"key": "a b"}], "matchConditions": [{"expression": ""}],
        })),
        &[
            r#"spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c"#,
            "spec.paramKind.kind: Required value",
            "spec.matchConditions[0].expression: Required value",
            "spec.matchConditions[0].name: Required value",
            r#"spec.variables[0].name: Invalid value: "a-b": must be a valid CEL identifier"#,
            "spec.variables[1].name: Required value: name is not specified",
            "spec.variables[1].expression: Required value: expression is not specified",
            "spec.validations[0].expression: Required value: expression is not specified",
            r#"spec.validations[0].message: Invalid value: "a\nb": must not contain line breaks"#,
            r#"spec.validations[0].reason: Unsupported value: "Teapot": supported values: "Forbidden", "Invalid""#,
            r#"spec.auditAnnotations[0].key: Invalid value: "p/a b": name part must consist"#,
            "spec.auditAnnotations[0].valueExpression: Required value: valueExpression is not specified",
        ],
    );
    check(
        &MUTATING_POLICY,
        policy(json!({"mutations": [{"patchType": "JSONPatch", "applyConfiguration": {"expression": "x"}}]})),
        &[
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            r#"spec.mutations[0].applyConfiguration: Invalid value: "{applyConfiguration}": must not be specified"#,
            "spec.reinvocationPolicy: Required value",
        ],
    );
}

#[test]
fn expressions_of_policies_are_checked() {
    let rules = json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]);
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": rules}, "matchConditions": [{"name": "a", "expression": "1"}],
        "variables": [{"name": "x", "expression": "'a'"}, {"name": "y", "expression": "variables.z"}],
        "validations": [
            {"expression": "variables.x == 'a' && object.spec.replicas > 1"}, {"expression": "self == 1"},
            {"expression": "true", "messageExpression": "1"},
        ],
        "auditAnnotations": [{"key": "k", "valueExpression": "1"}],
    }});
    check(
        &VALIDATING_POLICY,
        policy,
        &[
            r#"spec.matchConditions[0].expression: Invalid value: "1": must evaluate to bool but got int"#,
            "spec.variables[1].expression: Invalid value: \"variables.z\": compilation failed: ERROR: <input>:1:10: undefined field 'z'",
            "spec.validations[1].expression: Invalid value: \"self == 1\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'self'",
            r#"spec.validations[2].messageExpression: Invalid value: "1": must evaluate to string but got int"#,
            r#"spec.auditAnnotations[0].valueExpression: Invalid value: "1": must evaluate to one of [string null_type] but got int"#,
        ],
    );
}

#[test]
fn a_binding_has_a_policy_and_actions() {
    check(
        &VALIDATING_BINDING,
        json!({"spec": {"paramRef": {"name": "a", "selector": {}}, "validationActions": ["Deny", "Warn", "Deny", "X"]}}),
        &[
            "spec.policyName: Required value",
            "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.parameterNotFoundAction: Required value",
            r#"spec.validationActions[2]: Duplicate value: "Deny""#,
            r#"spec.validationActions[3]: Unsupported value: "X": supported values: "Audit", "Deny", "Warn""#,
            r#"spec.validationActions: Invalid value: ["Deny","Warn","Deny","X"]: must not contain both Deny and Warn"#,
        ],
    );
    let binding = json!({"spec": {"paramRef": {"selector": {"matchLabels": {"a": "b"}}}}});
    let cells = (VALIDATING_BINDING.printer.cells)(&binding, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(
        cells[2],
        "&LabelSelector{MatchLabels:map[string]string{a: b,},MatchExpressions:[]LabelSelectorRequirement{},}"
    );
}
