//! The roles and bindings that every cluster has, and how those of an older version, or that somebody has changed, are
//! brought up to them.
//!
//! `policy.jsonl` is the set that Kubernetes 1.36 publishes, one object a line, without the label and the annotation that all
//! of them have.

use serde_json::{Map, Value, json};

use super::index::GROUP;
use super::rule::{Rule, missing};
use crate::json::{items, items_at, text};

const POLICY: &str = include_str!("policy.jsonl");

/// On an object whose value is `false`, somebody has taken the object into his own hands.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// One object of the default policy, and where it is.
#[derive(Clone, Debug)]
pub(crate) struct Default {
    /// The store's name of its resource.
    pub resource: &'static str,
    /// Path of its collection in the API.
    pub collection: String,
    pub name: String,
    pub object: Value,
}

/// All of them: roles first, so that no binding refers to what is not there.
pub(crate) fn default_policy() -> Vec<Default> {
    let mut objects: Vec<Default> = POLICY
        .lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).expect("the policy is written by a program and tested");
            let (kind, name) = (text(&line, "/kind").to_owned(), text(&line, "/name").to_owned());
            let namespace = text(&line, "/namespace").to_owned();
            let fields = line.as_object_mut().expect("every line is an object");
            let mut labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
            if let Some(Value::Object(more)) = fields.remove("labels") {
                labels.as_object_mut().expect("written above").extend(more);
            }
            let mut metadata = json!({"name": name, "labels": labels, "annotations": {AUTO_UPDATE: "true"}});
            fields.remove("name");
            if fields.remove("namespace").is_some() {
                metadata["namespace"] = namespace.as_str().into();
            }
            fields.insert("metadata".to_owned(), metadata);
            fields.insert("apiVersion".to_owned(), format!("{GROUP}/v1").into());
            let (plural, resource) = match kind.as_str() {
                "ClusterRole" => ("clusterroles", "rbac.authorization.k8s.io/clusterroles"),
                "ClusterRoleBinding" => ("clusterrolebindings", "rbac.authorization.k8s.io/clusterrolebindings"),
                "Role" => ("roles", "rbac.authorization.k8s.io/roles"),
                _ => ("rolebindings", "rbac.authorization.k8s.io/rolebindings"),
            };
            let scope = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
            Default { resource, collection: format!("/apis/{GROUP}/v1{scope}/{plural}"), name, object: line }
        })
        .collect();
    objects.sort_by_key(|object| text(&object.object, "/kind").ends_with("Binding"));
    objects
}

/// What has to be written where one is stored already.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reconciled {
    Nothing,
    Update(Value),
    /// What a binding refers to cannot be changed: it is deleted and created anew.
    Recreate(Value),
}

/// Adds to a stored object what the default has and it lacks; what others added stays.
pub(crate) fn reconciled(stored: &Value, default: &Value) -> Reconciled {
    if stored.pointer("/metadata/annotations").and_then(|all| all.get(AUTO_UPDATE)) == Some(&json!("false")) {
        return Reconciled::Nothing;
    }
    let mut next = stored.clone();
    for field in ["labels", "annotations"] {
        let mut merged: Map<String, Value> =
            default["metadata"].get(field).and_then(Value::as_object).cloned().unwrap_or_default();
        merged.extend(stored["metadata"].get(field).and_then(Value::as_object).cloned().unwrap_or_default());
        next["metadata"][field] = merged.into();
    }
    if text(default, "/kind").ends_with("Binding") {
        let lacking = items(default, "subjects").iter().filter(|subject| !items(stored, "subjects").contains(subject));
        let subjects: Vec<Value> = items(stored, "subjects").iter().chain(lacking).cloned().collect();
        if !subjects.is_empty() {
            next["subjects"] = subjects.into();
        }
        if default.get("roleRef") != stored.get("roleRef") {
            return Reconciled::Recreate(default.clone());
        }
    } else {
        reconcile_rules(&mut next, stored, default);
    }
    if next == *stored { Reconciled::Nothing } else { Reconciled::Update(next) }
}

fn reconcile_rules(next: &mut Value, stored: &Value, default: &Value) {
    let held = Rule::of_role(stored);
    let lacking =
        items(default, "rules").iter().filter(|rule| !missing(&held, &[Rule::from_value(rule)]).is_empty()).cloned();
    let rules: Vec<Value> = items(stored, "rules").iter().cloned().chain(lacking).collect();
    if rules.len() > items(stored, "rules").len() {
        next["rules"] = rules.into();
    }
    let selectors = "/aggregationRule/clusterRoleSelectors";
    let lacking: Vec<&Value> = items_at(default, selectors)
        .iter()
        .filter(|selector| !items_at(stored, selectors).contains(selector))
        .collect();
    if !lacking.is_empty() {
        let all: Vec<Value> = items_at(stored, selectors).iter().chain(lacking).cloned().collect();
        next["aggregationRule"] = json!({"clusterRoleSelectors": all});
    }
    if default.get("aggregationRule").is_none()
        && let Some(fields) = next.as_object_mut()
    {
        fields.remove("aggregationRule");
    }
}
