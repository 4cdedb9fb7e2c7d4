//! The pods of a job: what they are called and what they are made of.

use hub_runtime::kinds::Kind;
use hub_runtime::views::ObjectMeta;
use serde_json::{Map, Value, json};

use super::plan::NewPod;
use super::shared::owner_reference;
use super::{FAILURES_ANNOTATION, IGNORED_FAILURES_ANNOTATION, INDEX_ANNOTATION, TRACKING_FINALIZER};

/// Where a container finds the index of its pod.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// What the API keeps of `generateName`: five letters come behind it, and a name is a host's.
const PREFIX_CHARS_MAX: usize = 58;

/// The pods of one job; only what an index says differs among them.
pub(crate) struct PodFactory {
    job: String,
    metadata: Map<String, Value>,
    spec: Map<String, Value>,
}

impl PodFactory {
    pub fn new(job: &ObjectMeta<'_>, template: &Value, is_indexed: bool) -> Self {
        let part = |field: &str| template["metadata"][field].clone();
        let mut finalizers = part("finalizers").as_array().cloned().unwrap_or_default();
        if finalizers.iter().all(|one| *one != *TRACKING_FINALIZER) {
            finalizers.push(TRACKING_FINALIZER.into());
        }
        let mut metadata = Map::new();
        metadata.insert("namespace".to_owned(), job.namespace.to_string().into());
        metadata.insert("labels".to_owned(), part("labels"));
        metadata.insert("annotations".to_owned(), part("annotations"));
        metadata.insert("finalizers".to_owned(), finalizers.into());
        metadata.insert("ownerReferences".to_owned(), json!([owner_reference(Kind::Job, job)]));
        metadata.retain(|_, value| !value.is_null());
        let mut spec = template["spec"].as_object().cloned().unwrap_or_default();
        if is_indexed {
            for containers in ["initContainers", "containers"] {
                let containers = spec.get_mut(containers).and_then(Value::as_array_mut);
                containers.into_iter().flatten().for_each(add_index_variable);
            }
        }
        Self { job: job.name.to_string(), metadata, spec }
    }

    /// The JSON of a pod.
    pub fn pod(&self, pod: &NewPod) -> Vec<u8> {
        let (mut metadata, mut spec) = (self.metadata.clone(), self.spec.clone());
        let prefix = match pod.index {
            None => format!("{}-", self.job),
            Some(index) => {
                let text = index.to_string();
                set(&mut metadata, "annotations", INDEX_ANNOTATION, &text);
                set(&mut metadata, "labels", INDEX_ANNOTATION, &text);
                spec.insert("hostname".to_owned(), format!("{}-{text}", self.job).into());
                let appendix = format!("-{text}-");
                let kept: String = self.job.chars().take(PREFIX_CHARS_MAX.saturating_sub(appendix.len())).collect();
                kept + &appendix
            }
        };
        if let Some((failures, ignored)) = pod.failures {
            set(&mut metadata, "annotations", FAILURES_ANNOTATION, &failures.to_string());
            if ignored > 0 {
                set(&mut metadata, "annotations", IGNORED_FAILURES_ANNOTATION, &ignored.to_string());
            }
        }
        metadata.insert("generateName".to_owned(), prefix.into());
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        pod.to_string().into_bytes()
    }
}

fn set(metadata: &mut Map<String, Value>, map: &str, key: &str, value: &str) {
    let entries = metadata.entry(map).or_insert_with(|| json!({}));
    if let Some(entries) = entries.as_object_mut() {
        entries.insert(key.to_owned(), value.into());
    }
}

/// A variable of that name that the author has set stays.
fn add_index_variable(container: &mut Value) {
    let Some(container) = container.as_object_mut() else { return };
    let variables = container.entry("env").or_insert_with(|| json!([]));
    if variables.is_null() {
        *variables = json!([]);
    }
    let Some(variables) = variables.as_array_mut() else { return };
    if variables.iter().all(|variable| variable["name"] != INDEX_VARIABLE) {
        let path = format!("metadata.labels['{INDEX_ANNOTATION}']");
        variables.push(json!({"name": INDEX_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(job: &str, template: &Value, is_indexed: bool, new: &NewPod) -> Value {
        let metadata = json!({"name": job, "namespace": "n", "uid": "u"}).to_string();
        let metadata: ObjectMeta<'_> = serde_json::from_str(&metadata).unwrap();
        serde_json::from_slice(&PodFactory::new(&metadata, template, is_indexed).pod(new)).unwrap()
    }

    #[test]
    fn a_pod_is_its_template_with_an_owner_and_a_finalizer() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}});
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "generateName": "work-", "namespace": "n", "labels": {"a": "b"}, "finalizers": [TRACKING_FINALIZER],
                "ownerReferences": [{
                    "apiVersion": "batch/v1", "kind": "Job", "name": "work", "uid": "u", "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
            "spec": {"containers": [{"name": "c"}]},
        });
        assert_eq!(pod("work", &template, false, &NewPod::default()), expected);
    }

    #[test]
    fn a_pod_with_an_index_says_so_everywhere() {
        let own = json!({"name": INDEX_VARIABLE, "value": "mine"});
        let template = json!({
            "metadata": {"finalizers": [TRACKING_FINALIZER]},
            "spec": {"initContainers": [{"name": "i", "env": [own]}], "containers": [{"name": "c", "env": null}]},
        });
        let new = NewPod { index: Some(3), failures: Some((2, 1)) };
        let made = pod("work", &template, true, &new);
        let metadata = &made["metadata"];
        assert_eq!(metadata["generateName"], "work-3-");
        assert_eq!(metadata["finalizers"], json!([TRACKING_FINALIZER]));
        assert_eq!(metadata["labels"], json!({INDEX_ANNOTATION: "3"}));
        let annotations = json!({INDEX_ANNOTATION: "3", FAILURES_ANNOTATION: "2", IGNORED_FAILURES_ANNOTATION: "1"});
        assert_eq!(metadata["annotations"], annotations);
        assert_eq!(made["spec"]["hostname"], "work-3");
        assert_eq!(made["spec"]["initContainers"][0]["env"], json!([own]));
        let variable = &made["spec"]["containers"][0]["env"][0];
        let path = "metadata.labels['batch.kubernetes.io/job-completion-index']";
        assert_eq!(*variable, json!({"name": INDEX_VARIABLE, "valueFrom": {"fieldRef": {"fieldPath": path}}}));

        let name = "w".repeat(60);
        let made = pod(&name, &template, true, &NewPod { index: Some(12), failures: None });
        assert_eq!(made["metadata"]["generateName"], format!("{}-12-", "w".repeat(54)));
    }
}
