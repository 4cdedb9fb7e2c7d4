//! The `scale` subresource of workloads: three values of an object, whatever its kind.
//!
//! A server reads them into a `Scale` of its own and writes the desired number back; where they are is up to the kind.

use serde_json::Value;

use crate::{
    FieldError, ResourceInfo,
    kit::{Errors, Path, Read, Write},
    table::printers::selector_text,
};

/// What the `scale` subresource of a workload shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// `spec.replicas`: how many there should be.
    pub desired: i64,
    /// `status.replicas`: how many there are.
    pub current: i64,
    /// `status.selector`: the labels of the pods, as text.
    pub selector: String,
}

impl Scale {
    /// Reads the values of a built-in workload; `None` for kinds that are not scaled.
    pub fn of(resource: &ResourceInfo, object: &Value) -> Option<Self> {
        if resource.is_custom() {
            return None;
        }
        let (spec, status) = (object.part("spec"), object.part("status"));
        let selector = match (&*resource.group, &*resource.plural) {
            ("", "replicationcontrollers") => {
                let labels = spec.entries("selector");
                labels
                    .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                    .collect::<Vec<_>>()
                    .join(",")
            }
            ("apps", "deployments" | "replicasets" | "statefulsets") => selector_text(spec.some("selector")),
            _ => return None,
        };
        Some(Self { desired: spec.int("replicas"), current: status.int("replicas"), selector })
    }

    /// Writes how many there should be into the workload.
    pub fn write_desired(object: &mut Value, desired: i64) {
        object.make("spec").set("replicas", desired);
    }

    /// Checks a `Scale` that a client sent, beyond its metadata.
    pub fn validate(scale: &Value) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let desired = scale.part("spec").int("replicas");
        if desired < 0 {
            errors.invalid(&Path::at("spec.replicas"), desired, "must be greater than or equal to 0");
        }
        errors.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Scale;
    use crate::Registry;

    #[test]
    fn a_workload_is_scaled_whatever_its_kind() {
        let registry = Registry::builtin();
        let object = |selector| json!({"spec": {"replicas": 3, "selector": selector}, "status": {"replicas": 2}});
        let set = json!({"matchLabels": {"b": "2"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]});
        for (group, plural, selector, text) in [
            ("apps", "deployments", &set, Some("a,b=2")),
            ("apps", "replicasets", &set, Some("a,b=2")),
            ("apps", "statefulsets", &set, Some("a,b=2")),
            ("", "replicationcontrollers", &json!({"a": "1", "b": "2"}), Some("a=1,b=2")),
            ("apps", "daemonsets", &set, None),
        ] {
            let info = registry.resource(group, "v1", plural).expect("a built-in kind");
            let mut object = object(selector.clone());
            let scale = Scale::of(info, &object);
            let expected = text.map(|text| Scale { desired: 3, current: 2, selector: text.to_owned() });
            assert_eq!(scale, expected, "{plural}");
            Scale::write_desired(&mut object, 5);
            assert_eq!(object["spec"]["replicas"], 5);
        }
        let errors = Scale::validate(&json!({"spec": {"replicas": -1}}));
        assert_eq!(errors[0].to_string(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
    }
}
