//! One manifest for boxes of several kinds: what of a pod depends on the node that it is placed on.
//!
//! ```yaml
//! metadata:
//!   annotations:
//!     selvedge.dev/variants: |
//!       [{"name": "jetson", "nodeSelector": {"accelerator": "orin"}, "runtimeClassName": "nvidia",
//!         "containers": [{"name": "main", "image": "registry.example/vision:1-cuda", "env": [{"name": "DEVICE", "value": "cuda"}],
//!                         "resources": {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}}]},
//!        {"nodeSelector": {"kubernetes.io/arch": "arm64"},
//!         "containers": [{"name": "main", "image": "registry.example/vision:1-arm64"}]}]
//! ```
//!
//! The annotation is one of the pod, so it is written into a workload's pod template. It is JSON. The first variant whose selector the
//! node's labels match is applied when the pod gets its node; where none does, the pod stays as it is written. An image and
//! resources take the place of the container's, variables are added to it or take the place of those of their names, and a
//! `runtimeClassName` takes the place of the pod's. Containers are found by name among all kinds of them.
//!
//! A list is bounded, and a field that is not known is a mistake: what is misspelt must not be left out in silence.

use std::collections::BTreeMap;

use api_kube::Quantity;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Bytes of the annotation.
pub const BYTES_MAX: usize = 32 * 1024;
/// Variants of one pod.
pub const VARIANTS_MAX: usize = 32;
/// Containers of one variant.
const CONTAINERS_MAX: usize = 64;
/// Variables of one container of a variant.
const ENV_MAX: usize = 256;

/// What a pod is on some nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Variant {
    /// What the pod's annotation `selvedge.dev/variant` says of it; its number in the list where it has none.
    pub name: Option<String>,
    /// Labels that a node must have; one that demands none matches every node, and is the last of its list.
    pub node_selector: BTreeMap<String, String>,
    /// The pod's `runtimeClassName`; empty for none.
    pub runtime_class_name: Option<String>,
    /// What containers are.
    pub containers: Vec<ContainerVariant>,
}

/// What a container is on some nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ContainerVariant {
    /// The container's name.
    pub name: String,
    /// Its image.
    pub image: Option<String>,
    /// Its resources, all of them.
    pub resources: Option<ResourcesVariant>,
    /// Variables, as a container has them.
    pub env: Vec<EnvVariant>,
}

/// The resources of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesVariant {
    /// `requests`.
    pub requests: BTreeMap<String, Value>,
    /// `limits`.
    pub limits: BTreeMap<String, Value>,
}

/// A variable with its value. What is taken from other objects is written in the template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnvVariant {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What is wrong with a list, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// As in `[0].containers[1].image`; empty for the list.
    pub path: String,
    /// A sentence without its end.
    pub message: String,
}

impl Mistake {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Reads the annotation.
///
/// # Errors
/// With all that is wrong with it, as far as that can be said without the pod.
pub fn parse(text: &str) -> Result<Vec<Variant>, Vec<Mistake>> {
    if text.len() > BYTES_MAX {
        return Err(vec![Mistake::new("", format!("it has {} bytes; {BYTES_MAX} are allowed", text.len()))]);
    }
    let items: Vec<Value> = serde_json::from_str(text)
        .map_err(|error| vec![Mistake::new("", format!("it is no JSON list of variants: {error}"))])?;
    if items.len() > VARIANTS_MAX {
        return Err(vec![Mistake::new("", format!("it has {} variants; {VARIANTS_MAX} are allowed", items.len()))]);
    }
    let (mut variants, mut mistakes) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, item) in items.into_iter().enumerate() {
        match serde_json::from_value::<Variant>(item) {
            Ok(variant) => {
                check(index, &variant, &mut mistakes);
                variants.push(variant);
            }
            Err(error) => mistakes.push(Mistake::new(format!("[{index}]"), error.to_string())),
        }
    }
    let last = variants.len().saturating_sub(1);
    for (index, _) in variants.iter().enumerate().filter(|(index, one)| *index < last && one.node_selector.is_empty()) {
        let path = format!("[{index}].nodeSelector");
        mistakes.push(Mistake::new(path, "it matches every node, so those after it are never applied"));
    }
    if mistakes.is_empty() { Ok(variants) } else { Err(mistakes) }
}

fn check(index: usize, variant: &Variant, mistakes: &mut Vec<Mistake>) {
    let at = |rest: &str| format!("[{index}].{rest}");
    if variant.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > 63) {
        mistakes.push(Mistake::new(at("name"), "it has 1 to 63 characters"));
    }
    for (key, value) in &variant.node_selector {
        let requirement =
            api_kube::selector::Requirement::new(key, api_kube::selector::Operator::In(vec![value.clone()]));
        if let Err(error) = requirement {
            mistakes.push(Mistake::new(at("nodeSelector"), error.to_string()));
        }
    }
    if variant.containers.len() > CONTAINERS_MAX {
        mistakes.push(Mistake::new(at("containers"), format!("{CONTAINERS_MAX} are allowed")));
    }
    for (number, container) in variant.containers.iter().enumerate() {
        let at = |rest: &str| format!("[{index}].containers[{number}].{rest}");
        let is_twice = variant.containers[..number].iter().any(|other| other.name == container.name);
        if container.name.is_empty() || is_twice {
            mistakes.push(Mistake::new(at("name"), "it names one container, and each once"));
        }
        let is_image = |image: &String| !image.is_empty() && image.trim() == image;
        if container.image.as_ref().is_some_and(|image| !is_image(image)) {
            mistakes.push(Mistake::new(at("image"), "it is an image without spaces around it"));
        }
        if container.env.len() > ENV_MAX {
            mistakes.push(Mistake::new(at("env"), format!("{ENV_MAX} are allowed")));
        }
        if container.env.iter().any(|one| one.name.is_empty() || one.name.contains('=')) {
            mistakes.push(Mistake::new(at("env"), "a variable has a name, without `=`"));
        }
        if let Some(resources) = &container.resources {
            check_resources(resources, &at("resources"), mistakes);
        }
    }
}

fn check_resources(resources: &ResourcesVariant, path: &str, mistakes: &mut Vec<Mistake>) {
    let quantity = |value: &Value| match value {
        Value::String(text) => text.parse::<Quantity>().ok(),
        Value::Number(number) => number.to_string().parse::<Quantity>().ok(),
        _ => None,
    };
    for (list, amounts) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, value) in amounts {
            if quantity(value).is_none() {
                mistakes.push(Mistake::new(format!("{path}.{list}.{name}"), "it is no quantity such as 500m or 128Mi"));
            }
        }
    }
    for (name, request) in &resources.requests {
        let limit = resources.limits.get(name).and_then(quantity);
        if limit.zip(quantity(request)).is_some_and(|(limit, request)| request > limit) {
            mistakes.push(Mistake::new(format!("{path}.requests.{name}"), "it must not be more than the limit"));
        }
    }
}

/// Where containers of variants are not among those of a pod's spec.
pub fn unknown_containers(variants: &[Variant], spec: &Value) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (index, variant) in variants.iter().enumerate() {
        for (number, container) in variant.containers.iter().enumerate() {
            let is_there = LISTS.iter().any(|list| {
                let containers = spec.get(*list).and_then(Value::as_array);
                containers.is_some_and(|all| all.iter().any(|one| one["name"] == *container.name))
            });
            if !is_there {
                let path = format!("[{index}].containers[{number}].name");
                mistakes.push(Mistake::new(path, format!("the pod has no container {:?}", container.name)));
            }
        }
    }
    mistakes
}

/// The variant that a node with these labels gets, with its number.
pub fn find(variants: &[Variant], labels: impl Fn(&str) -> Option<String>) -> Option<(usize, &Variant)> {
    let matches =
        |variant: &Variant| variant.node_selector.iter().all(|(key, value)| labels(key).as_ref() == Some(value));
    variants.iter().enumerate().find(|(_, variant)| matches(variant))
}

/// Lists of containers in a pod's spec.
const LISTS: [&str; 2] = ["containers", "initContainers"];

impl Variant {
    /// What the pod's annotation says of it.
    pub fn label(&self, index: usize) -> String {
        self.name.clone().unwrap_or_else(|| index.to_string())
    }

    /// Makes a pod's spec what it is on the variant's nodes. Doing it twice changes nothing.
    pub fn apply(&self, spec: &mut Map<String, Value>) {
        match self.runtime_class_name.as_deref() {
            None => {}
            Some("") => drop(spec.remove("runtimeClassName")),
            Some(class) => drop(spec.insert("runtimeClassName".to_owned(), class.into())),
        }
        for list in LISTS {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let of_name = self.containers.iter().find(|one| container["name"] == *one.name);
                if let (Some(variant), Some(container)) = (of_name, container.as_object_mut()) {
                    variant.apply(container);
                }
            }
        }
    }
}

/// A quantity as the API stores it: a number in a manifest is text there.
fn as_written(amount: &Value) -> Value {
    if amount.is_number() { amount.to_string().into() } else { amount.clone() }
}

impl ContainerVariant {
    fn apply(&self, container: &mut Map<String, Value>) {
        if let Some(image) = &self.image {
            container.insert("image".to_owned(), image.as_str().into());
        }
        if let Some(ResourcesVariant { requests, limits }) = &self.resources {
            let written = |(name, amount): (&String, &Value)| (name.clone(), as_written(amount));
            let limits: BTreeMap<String, Value> = limits.iter().map(written).collect();
            // As the API defaults it: what has a limit and no request requests as much.
            let mut all = limits.clone();
            all.extend(requests.iter().map(written));
            let requests = all;
            container.insert("resources".to_owned(), json!({"requests": requests, "limits": limits}));
        }
        if self.env.is_empty() {
            return;
        }
        let held = container.entry("env").or_insert_with(|| json!([]));
        if held.is_null() {
            *held = json!([]);
        }
        let Some(held) = held.as_array_mut() else { return };
        for EnvVariant { name, value } in &self.env {
            let variable = json!({"name": name, "value": value});
            match held.iter_mut().find(|one| one["name"] == *name) {
                Some(one) => *one = variable,
                None => held.push(variable),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[
        {"name": "jetson", "nodeSelector": {"accelerator": "orin"}, "runtimeClassName": "nvidia",
         "containers": [{"name": "main", "image": "app:cuda", "env": [{"name": "DEVICE", "value": "cuda"}],
                         "resources": {"limits": {"nvidia.com/gpu": "1", "memory": "2Gi"}, "requests": {"memory": "1Gi"}}}]},
        {"nodeSelector": {"kubernetes.io/arch": "arm64"}, "containers": [{"name": "setup", "image": "setup:arm64"}]}
    ]"#;

    fn spec() -> Value {
        json!({
            "runtimeClassName": "old", "nodeSelector": {"a": "b"},
            "initContainers": [{"name": "setup", "image": "setup:amd64"}],
            "containers": [{"name": "main", "image": "app:amd64", "env": [{"name": "DEVICE", "value": "cpu"}, {"name": "A", "value": "1"}],
                            "resources": {"requests": {"cpu": "1"}}}, {"name": "side", "image": "side:1"}],
        })
    }

    fn applied(labels: &[(&str, &str)]) -> Option<(String, Value)> {
        let variants = parse(LIST).unwrap();
        let label = |key: &str| labels.iter().find(|(held, _)| *held == key).map(|(_, value)| (*value).to_owned());
        let (index, variant) = find(&variants, label)?;
        let mut spec = spec();
        variant.apply(spec.as_object_mut().unwrap());
        let once = spec.clone();
        variant.apply(spec.as_object_mut().unwrap());
        assert_eq!(once, spec, "doing it twice changes nothing");
        Some((variant.label(index), spec))
    }

    #[test]
    fn the_first_variant_that_a_nodes_labels_match_is_applied() {
        let (name, spec) = applied(&[("accelerator", "orin"), ("kubernetes.io/arch", "arm64")]).unwrap();
        assert_eq!((name.as_str(), &spec["runtimeClassName"]), ("jetson", &json!("nvidia")));
        let main = &spec["containers"][0];
        assert_eq!(main["image"], "app:cuda");
        assert_eq!(main["env"], json!([{"name": "DEVICE", "value": "cuda"}, {"name": "A", "value": "1"}]));
        assert_eq!(
            main["resources"],
            json!({"limits": {"nvidia.com/gpu": "1", "memory": "2Gi"}, "requests": {"nvidia.com/gpu": "1", "memory": "1Gi"}})
        );
        assert_eq!(spec["containers"][1], super::tests::spec()["containers"][1]);
        let (name, spec) = applied(&[("kubernetes.io/arch", "arm64")]).unwrap();
        assert_eq!((name.as_str(), &spec["initContainers"][0]["image"]), ("1", &json!("setup:arm64")));
        assert_eq!(spec["containers"], super::tests::spec()["containers"]);
        assert!(applied(&[("kubernetes.io/arch", "amd64")]).is_none());
    }

    #[test]
    fn a_mistake_is_named_where_it_is() {
        let check = |text: &str, path: &str, message: &str| {
            let mistakes = parse(text).expect_err(text);
            let found = mistakes.iter().any(|one| one.path == path && one.message.contains(message));
            assert!(found, "{text}: {mistakes:?}");
        };
        check("{}", "", "no JSON list");
        check(r#"[{"nodeselector": {}}]"#, "[0]", "unknown field `nodeselector`");
        check(r#"[{"containers": [{"name": "a", "command": ["x"]}]}]"#, "[0]", "unknown field `command`");
        check(r#"[{"containers": [{"name": "a"}, {"name": "a"}]}]"#, "[0].containers[1].name", "each once");
        check(r#"[{"containers": [{"image": "x"}]}]"#, "[0].containers[0].name", "names one");
        check(r#"[{"containers": [{"name": "a", "image": " x"}]}]"#, "[0].containers[0].image", "without spaces");
        check(r#"[{"containers": [{"name": "a", "env": [{"name": "A=B"}]}]}]"#, "[0].containers[0].env", "without `=`");
        let resources = |lists: &str| format!(r#"[{{"containers": [{{"name": "a", "resources": {lists}}}]}}]"#);
        check(
            &resources(r#"{"requests": {"cpu": "lots"}}"#),
            "[0].containers[0].resources.requests.cpu",
            "no quantity",
        );
        check(
            &resources(r#"{"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}"#),
            "[0].containers[0].resources.requests.cpu",
            "more than the limit",
        );
        check(r#"[{"nodeSelector": {"a b": "c"}}]"#, "[0].nodeSelector", "not a label key");
        check(r#"[{}, {"nodeSelector": {"a": "b"}}]"#, "[0].nodeSelector", "every node");
        check(&" ".repeat(BYTES_MAX + 1), "", "bytes");
        check(&format!("[{}]", [r#"{"nodeSelector": {"a": "b"}}"#; VARIANTS_MAX + 1].join(",")), "", "variants");
        let unknown = unknown_containers(&parse(r#"[{"containers": [{"name": "other"}]}]"#).unwrap(), &spec());
        assert_eq!(unknown[0].path, "[0].containers[0].name");
        assert!(unknown_containers(&parse(LIST).unwrap(), &spec()).is_empty());
    }
}
