//! Creates the vendored definitions: what is left of Kubernetes' published definitions when only the kinds that we
//! serve, and what they refer to, are kept.
//!
//! Used by `examples/vendor_definitions.rs` and by the test that compares the vendored file with its origin.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The kinds we serve (their `List`s are kept too) and the shapes of requests and responses around them.
const ROOTS: &[&str] = &[
    "io.k8s.api.apps.v1.ControllerRevision",
    "io.k8s.api.apps.v1.DaemonSet",
    "io.k8s.api.certificates.v1.CertificateSigningRequest",
    "io.k8s.api.coordination.v1.Lease",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.Event",
    "io.k8s.api.core.v1.Namespace",
    "io.k8s.api.core.v1.Node",
    "io.k8s.api.core.v1.Pod",
    "io.k8s.api.core.v1.Secret",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.core.v1.ServiceAccount",
    "io.k8s.api.node.v1.RuntimeClass",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Patch",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent",
];

/// Keeps the definitions that the served kinds reach. `published` is the whole file (`$defs` at its top).
///
/// # Errors
/// Names a definition that is referred to but not there.
pub fn reachable_definitions(published: &Value) -> Result<Value, MissingDefinition> {
    let definitions = published
        .get("$defs")
        .and_then(Value::as_object)
        .ok_or_else(|| MissingDefinition { name: "$defs".to_owned() })?;
    let mut open: Vec<String> = Vec::new();
    for root in ROOTS {
        open.push((*root).to_owned());
        let list = format!("{root}List");
        if definitions.contains_key(&list) {
            open.push(list);
        }
    }
    let mut kept = BTreeSet::new();
    while let Some(name) = open.pop() {
        if kept.contains(&name) {
            continue;
        }
        let definition = definitions.get(&name).ok_or_else(|| MissingDefinition { name: name.clone() })?;
        collect_references(definition, &mut open);
        kept.insert(name);
    }
    let kept: Map<String, Value> = kept.into_iter().map(|name| (name.clone(), definitions[&name].clone())).collect();
    Ok(Value::Object(kept))
}

/// The published file refers to a definition that it does not hold.
#[derive(Debug, thiserror::Error)]
#[error("definition {name} is missing from the published definitions; is the file complete?")]
pub struct MissingDefinition {
    name: String,
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            // A property may be called `$ref` too; then its value is a schema, not a string.
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|text| text.rsplit('/').next()) {
                found.push(name.to_owned());
            }
            map.values().for_each(|inner| collect_references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| collect_references(inner, found)),
        _ => {}
    }
}
