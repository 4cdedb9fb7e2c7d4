use serde_json::json;

use super::{bootstrap, rules, *};
use crate::kit::Errors;

fn lines(check: fn(&Value, &mut Errors), object: &Value) -> Vec<String> {
    let mut errors = Errors::default();
    check(object, &mut errors);
    errors.into_vec().iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_there_from_the_start_is_right_and_has_no_defaults_left() {
    assert_eq!((bootstrap::flow_schemas().len(), bootstrap::priority_levels().len()), (11, 8));
    for object in bootstrap::flow_schemas() {
        assert_eq!(lines(rules::flow_schema, &object), [""; 0], "{object}");
        let mut again = object.clone();
        (FLOW_SCHEMA.defaults)(&mut again);
        assert_eq!(again, object);
    }
    for object in bootstrap::priority_levels() {
        assert_eq!(lines(rules::priority_level, &object), [""; 0], "{object}");
        let mut again = object.clone();
        (PRIORITY_LEVEL.defaults)(&mut again);
        assert_eq!(again, object);
    }
}

#[test]
fn the_mandatory_ones_stay_as_they_are() {
    let mut level = bootstrap::priority_levels().remove(1);
    level["spec"]["exempt"]["lendablePercent"] = 50.into();
    assert_eq!(lines(rules::priority_level, &level), [""; 0]);
    let mut level = bootstrap::priority_levels().remove(0);
    level["spec"]["limited"]["lendablePercent"] = 50.into();
    assert_eq!(
        lines(rules::priority_level, &level),
        [
            r#"spec: Invalid value: {"Type":"Limited","Limited":{"NominalConcurrencyShares":5,"LimitResponse":{"Type":"Reject","Queuing":null},"LendablePercent":50,"BorrowingLimitPercent":null},"Exempt":null}: spec of 'catch-all' must equal the fixed value"#
        ]
    );
}

#[test]
fn a_schema_is_refused_with_upstreams_words() {
    let schema = json!({"metadata": {"name": "a"}, "spec": {
        "matchingPrecedence": 1, "distinguisherMethod": {"type": "ByColour"}, "rules": [
            {"subjects": [{"kind": "User", "group": {"name": "x"}}, {"kind": "Robot"}]},
            {"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": "*"}}], "resourceRules": [
                {"verbs": ["see"], "apiGroups": ["", "*"], "resources": ["pods"], "namespaces": ["A"]}
            ], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/a*"]}]},
        ],
    }});
    let found = lines(rules::flow_schema, &schema);
    let starts = [
        "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
        r#"spec.distinguisherMethod.type: Unsupported value: {"Type":"ByColour"}: supported values: "ByNamespace", "ByUser""#,
        "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
        "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
        "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
        r#"spec.rules[0].subjects[1].kind: Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User""#,
        "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
        "spec.rules[1].subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account",
        r#"spec.rules[1].resourceRules[0].verbs: Unsupported value: ["see"]: supported values: "create""#,
        r#"spec.rules[1].resourceRules[0].apiGroups: Invalid value: ["","*"]: if '*' is present, must not specify other api groups"#,
        r#"spec.rules[1].resourceRules[0].namespaces[0]: Invalid value: "A": each member of this list must be '*' or a DNS-1123 label; a lowercase"#,
        r#"spec.rules[1].nonResourceRules[0].nonResourceURLs[0]: Invalid value: "/a*": wildcard can only do suffix matching"#,
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (line, start) in found.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\n{start}");
    }
}

#[test]
fn a_level_gets_defaults_and_bounds() {
    let mut level = json!({"metadata": {"name": "a"}, "spec": {"type": "Limited", "limited": {
        "limitResponse": {"type": "Queue", "queuing": {"queues": 10_000, "handSize": 10}},
    }}});
    (PRIORITY_LEVEL.defaults)(&mut level);
    assert_eq!(level["spec"]["limited"]["nominalConcurrencyShares"], 30);
    assert_eq!(level["spec"]["limited"]["limitResponse"]["queuing"]["queueLengthLimit"], 50);
    assert_eq!(
        lines(rules::priority_level, &level),
        [
            "spec.limited.limitResponse.queuing.handSize: Invalid value: 10: required entropy bits of deckSize 10000 and handSize 10 should not be greater than 60"
        ]
    );
}
