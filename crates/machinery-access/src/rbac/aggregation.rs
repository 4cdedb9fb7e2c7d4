//! ClusterRoles that are made of others: `admin`, `edit`, `view` and those that people define.
//!
//! As kube-controller-manager does, the rules of all roles that a selector of the aggregation rule finds, in order of their
//! names, each rule once.

use api_kube::selector::LabelSelectorSpec;
use machinery_store::Store;
use serde_json::Value;

use crate::json::{decoded, items, items_at, text};

/// The aggregated ClusterRoles whose rules are not what they should be, by name, with the rules that they should have.
pub(crate) fn aggregate_roles(store: &Store) -> Vec<(String, Vec<Value>)> {
    let snapshot = store.snapshot("rbac.authorization.k8s.io/clusterroles");
    let roles: Vec<Value> = snapshot.iter(None, None).map(|role| decoded(role)).collect();
    roles
        .iter()
        .filter(|role| role.get("aggregationRule").is_some_and(Value::is_object))
        .filter_map(|role| {
            let rules = rules_for(role, &roles)?;
            (rules != items(role, "rules")).then(|| (text(role, "/metadata/name").to_owned(), rules))
        })
        .collect()
}

/// `None` when a selector cannot be read: then nothing is changed.
fn rules_for(role: &Value, roles: &[Value]) -> Option<Vec<Value>> {
    let mut rules: Vec<Value> = Vec::new();
    for selector in items_at(role, "/aggregationRule/clusterRoleSelectors") {
        let selector: LabelSelectorSpec = serde_json::from_value(selector.clone()).ok()?;
        let selector = selector.to_selector().ok()?;
        for other in roles {
            let label = |key: &str| other.pointer("/metadata/labels")?.get(key)?.as_str();
            if text(other, "/metadata/name") == text(role, "/metadata/name") || !selector.matches(label) {
                continue;
            }
            for rule in items(other, "rules") {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}
