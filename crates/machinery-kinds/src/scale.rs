//! The `scale` subresource of workloads: three values of an object, whatever its kind.
//!
//! A server reads them into a `Scale` of its own and writes the desired number back. Where they are is up to the kind: Kubernetes'
//! own workloads have them in `replicas`, a CustomResourceDefinition names the paths.

use std::sync::{Arc, LazyLock};

use machinery_schema::types::Type;
use serde_json::{Value, json};

use crate::{
    ResourceInfo,
    catalogue::VERBS_VIEW,
    kinds,
    kit::{Read, Write},
    resource::{Columns, Schema},
    table::{
        columns::{AGE_DESCRIPTION, NAME_DESCRIPTION},
        printers::selector_text,
    },
};

/// What the `scale` subresource of a workload shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// How many there should be; `None` where the object does not say.
    pub desired: Option<i64>,
    /// How many there are.
    pub current: i64,
    /// The labels of the pods, as text.
    pub selector: String,
}

impl Scale {
    /// The kind of scales, whatever they are of. It is served below other resources alone, so no registry lists it.
    pub fn resource() -> &'static Arc<ResourceInfo> {
        static RESOURCE: LazyLock<Arc<ResourceInfo>> = LazyLock::new(|| {
            let of = Type::of_kind("autoscaling", "v1", "Scale").expect("it is a published kind");
            let strategy = kinds::strategy("autoscaling", "v1", "Scale");
            Arc::new(ResourceInfo {
                group: "autoscaling".into(),
                version: "v1".into(),
                storage_version: "v1".into(),
                kind: "Scale".into(),
                list_kind: "ScaleList".into(),
                plural: "scales".into(),
                singular: "scale".into(),
                short_names: Vec::new(),
                categories: Vec::new(),
                namespaced: true,
                verbs: VERBS_VIEW,
                subresources: Vec::new(),
                selectable_fields: Vec::new(),
                storage_key: "".into(),
                storage_hash: "".into(),
                strategy,
                schema: Schema::Builtin(of),
                columns: Columns::Builtin(strategy.printer),
            })
        });
        &RESOURCE
    }

    /// Where a workload has the number that there should be; `None` for kinds that are not scaled.
    pub fn path(resource: &ResourceInfo) -> Option<Vec<&str>> {
        if resource.is_custom() {
            return resource.custom_scale().map(|scale| scale.spec_fields().collect());
        }
        matches!(
            (&*resource.group, &*resource.plural),
            ("", "replicationcontrollers") | ("apps", "deployments" | "replicasets" | "statefulsets")
        )
        .then(|| vec!["spec", "replicas"])
    }

    /// Reads the values of a workload.
    ///
    /// # Errors
    /// When what a definition names is of another type: the schema has changed since the object was written. And for kinds
    /// that are not scaled.
    pub fn of(resource: &ResourceInfo, object: &Value) -> Result<Self, String> {
        if let Some(scale) = resource.custom_scale() {
            return Ok(Self {
                desired: scale.spec_replicas(object)?,
                current: scale.status_replicas(object)?.unwrap_or_default(),
                selector: scale.selector(object)?.to_owned(),
            });
        }
        let (spec, status) = (object.part("spec"), object.part("status"));
        let selector = match (&*resource.group, &*resource.plural) {
            ("", "replicationcontrollers") => {
                let labels = spec.entries("selector");
                let mut labels: Vec<String> =
                    labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
                labels.sort();
                labels.join(",")
            }
            ("apps", "deployments" | "replicasets" | "statefulsets") => selector_text(spec.some("selector")),
            _ => return Err(format!("{} are not scaled", resource.plural)),
        };
        Ok(Self { desired: Some(spec.int("replicas")), current: status.int("replicas"), selector })
    }

    /// The columns of a table of a scale: upstream describes those of its own workloads and of custom resources in two places.
    pub fn columns(resource: &ResourceInfo) -> Value {
        let (name_format, desired, current, age_kind) = if resource.is_custom() {
            ("name", "Number of desired replicas", "Number of actual replicas", "date")
        } else {
            (
                "",
                "replicas is the desired number of instances for the scaled object.",
                "replicas is the actual number of observed instances of the scaled object.",
                "string",
            )
        };
        json!([
            {"name": "Name", "type": "string", "format": name_format, "description": NAME_DESCRIPTION, "priority": 0},
            {"name": "Desired", "type": "integer", "format": "", "description": desired, "priority": 0},
            {"name": "Available", "type": "integer", "format": "", "description": current, "priority": 0},
            {"name": "Age", "type": age_kind, "format": "", "description": AGE_DESCRIPTION, "priority": 0},
        ])
    }

    /// Writes how many there should be into the workload.
    ///
    /// # Errors
    /// When the way to it is blocked by another value, which a definition's schema may allow.
    pub fn write_desired(resource: &ResourceInfo, object: &mut Value, desired: i64) -> Result<(), String> {
        match resource.custom_scale() {
            Some(scale) => scale.set_spec_replicas(object, desired),
            None => {
                object.make("spec").set("replicas", desired);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Scale;
    use crate::Registry;

    #[test]
    fn a_workload_is_scaled_whatever_its_kind() {
        let registry = Registry::builtin();
        let object =
            |selector: &Value| json!({"spec": {"replicas": 3, "selector": selector}, "status": {"replicas": 2}});
        let set = json!({"matchLabels": {"b": "2"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]});
        for (group, plural, selector, text) in [
            ("apps", "deployments", &set, "a,b=2"),
            ("apps", "replicasets", &set, "a,b=2"),
            ("apps", "statefulsets", &set, "a,b=2"),
            ("", "replicationcontrollers", &json!({"b": "2", "a": "1"}), "a=1,b=2"),
        ] {
            let info = registry.resource(group, "v1", plural).expect("a built-in kind");
            let mut object = object(selector);
            let scale = Scale::of(info, &object);
            assert_eq!(scale, Ok(Scale { desired: Some(3), current: 2, selector: text.to_owned() }), "{plural}");
            Scale::write_desired(info, &mut object, 5).expect("nothing is in the way");
            assert_eq!(object["spec"]["replicas"], 5);
            assert_eq!(Scale::path(info), Some(vec!["spec", "replicas"]));
        }
        let info = registry.resource("apps", "v1", "daemonsets").expect("a built-in kind");
        assert_eq!(Scale::path(info), None);
        assert!(Scale::of(info, &object(&set)).is_err());
    }

    #[test]
    fn a_custom_object_is_scaled_by_the_paths_of_its_definition() {
        let mut registry = Registry::builtin();
        let paths = json!({"specReplicasPath": ".spec.deep.size", "statusReplicasPath": ".status.size",
            "labelSelectorPath": ".status.selector"});
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "widgets.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
                "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"scale": paths}, "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
            },
        });
        registry.install_crd(&crd).expect("the definition is right");
        let info = registry.resource("example.com", "v1", "widgets").expect("it is installed");
        let mut object = json!({"status": {"size": 2, "selector": "a=b"}});
        let expected = Scale { desired: None, current: 2, selector: "a=b".to_owned() };
        assert_eq!(Scale::of(info, &object), Ok(expected));
        Scale::write_desired(info, &mut object, 5).expect("nothing is in the way");
        assert_eq!(object["spec"]["deep"]["size"], 5);
        assert_eq!(Scale::path(info), Some(vec!["spec", "deep", "size"]));
        object["spec"] = "in the way".into();
        assert!(Scale::write_desired(info, &mut object, 5).is_err());
        assert!(Scale::of(info, &object).is_err());
    }
}
