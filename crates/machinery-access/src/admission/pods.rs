//! What a new pod is given and held to: priority, tolerations, its runtime class, labels of where it runs.

use std::str::FromStr as _;

use api_kube::Quantity;
use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation};
use machinery_store::Key;
use serde_json::{Map, Value, json};

use super::{creates, holds, list, part};
use crate::json::{decoded, given, items, items_at, text};

const PRIORITY_CLASSES: &str = "scheduling.k8s.io/priorityclasses";

/// How long a pod stays on a node that is not ready or cannot be reached, unless it says otherwise.
const TOLERATION_SECONDS: i64 = 300;

/// What of a node's labels its pods carry.
const TOPOLOGY_LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

fn forbidden(why: impl Into<String>) -> AdmissionError {
    AdmissionError::Forbidden(why.into())
}

/// Resolves the priority of new pods from their classes; one class at most is the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Priority;

impl Admission for Priority {
    fn mutate(&self, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<bool, AdmissionError> {
        if request.target() != ("", "pods", None) {
            return Ok(false);
        }
        match (request.operation, request.old) {
            (Operation::Create, _) => resolve(request, pod),
            (Operation::Update, Some(old)) => Ok(keep(pod, old)),
            _ => Ok(false),
        }
    }

    fn validate(&self, request: &AdmissionRequest<'_>, class: &Value) -> Result<(), AdmissionError> {
        let is_write = matches!(request.operation, Operation::Create | Operation::Update);
        let is_class = request.target() == ("scheduling.k8s.io", "priorityclasses", None);
        if !is_class || !is_write || class.get("globalDefault") != Some(&Value::Bool(true)) {
            return Ok(());
        }
        match default_class(request).map(|class| text(&class, "/metadata/name").to_owned()) {
            Some(name) if request.operation == Operation::Create || name != text(class, "/metadata/name") => {
                Err(forbidden(format!("PriorityClass {name} is already marked as default. Only one default can exist")))
            }
            _ => Ok(()),
        }
    }
}

/// A client that does not know the fields keeps them all the same.
fn keep(pod: &mut Value, old: &Value) -> bool {
    let mut is_changed = false;
    for field in ["priority", "preemptionPolicy"] {
        let held = old.get("spec").and_then(|spec| given(spec, field));
        if let Some(held) = held
            && pod.get("spec").and_then(|spec| given(spec, field)).is_none()
        {
            part(pod, "spec")[field] = held.clone();
            is_changed = true;
        }
    }
    is_changed
}

fn resolve(request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<bool, AdmissionError> {
    let before = pod.clone();
    let spec = part(pod, "spec");
    let name = text(spec, "/priorityClassName");
    let class = if name.is_empty() {
        default_class(request)
    } else {
        let class = request.store.get(&Key::new(PRIORITY_CLASSES, "", name));
        Some(
            class
                .map(|class| decoded(&class))
                .ok_or_else(|| forbidden(format!("no PriorityClass with name {name} was found")))?,
        )
    };
    let (priority, policy) = match &class {
        Some(class) => {
            let priority = class.get("value").and_then(Value::as_i64).unwrap_or_default();
            (priority, given(class, "preemptionPolicy").and_then(Value::as_str).map(str::to_owned))
        }
        None => (0, Some("PreemptLowerPriority".to_owned())),
    };
    if let Some(class) = class.filter(|_| name.is_empty()) {
        let name = text(&class, "/metadata/name").to_owned();
        spec["priorityClassName"] = name.into();
    }
    if let Some(given) = spec.get("priority").and_then(Value::as_i64).filter(|given| *given != priority) {
        return Err(forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed \
             {priority} from the given PriorityClass name"
        )));
    }
    spec["priority"] = priority.into();
    if let Some(policy) = policy {
        if let Some(given) = spec.get("preemptionPolicy").and_then(Value::as_str).filter(|given| *given != policy) {
            return Err(forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller \
                 computed {policy} from the given PriorityClass name"
            )));
        }
        spec["preemptionPolicy"] = policy.into();
    }
    Ok(*pod != before)
}

/// The class of pods that name none; of several the one with the lowest value.
fn default_class(request: &AdmissionRequest<'_>) -> Option<Value> {
    let classes = request.store.snapshot(PRIORITY_CLASSES);
    let defaults = classes
        .iter(None, None)
        .filter(|class| holds(class, "globalDefault"))
        .map(|class| decoded(class))
        .filter(|class| class.get("globalDefault") == Some(&Value::Bool(true)));
    defaults.min_by_key(|class| class.get("value").and_then(Value::as_i64).unwrap_or_default())
}

/// Lets pods stay for five minutes on a node that is not ready, unless they say otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultTolerations;

impl Admission for DefaultTolerations {
    fn mutate(&self, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<bool, AdmissionError> {
        let is_write = matches!(request.operation, Operation::Create | Operation::Update);
        if request.target() != ("", "pods", None) || !is_write {
            return Ok(false);
        }
        let held = items_at(pod, "/spec/tolerations");
        let missing: Vec<&str> = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
            .into_iter()
            .filter(|taint| {
                !held.iter().any(|toleration| {
                    let (key, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
                    (key == *taint || key.is_empty()) && matches!(effect, "NoExecute" | "")
                })
            })
            .collect();
        let is_changed = !missing.is_empty();
        for taint in missing {
            list(part(pod, "spec"), "tolerations").push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
        Ok(is_changed)
    }
}

/// Gives pods what their runtime class costs, and where it runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuntimeClasses;

impl Admission for RuntimeClasses {
    fn mutate(&self, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<bool, AdmissionError> {
        if !creates(request, "", "pods") {
            return Ok(false);
        }
        let Some(class) = runtime_class(request, pod)? else { return Ok(false) };
        let before = pod.clone();
        let spec = part(pod, "spec");
        if let Some(fixed) = overhead(&class) {
            let own = spec.get("overhead").and_then(Value::as_object).filter(|own| !own.is_empty());
            if own.is_some_and(|own| !is_same_amount(own, fixed)) {
                return Err(forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
            }
            spec["overhead"] = fixed.clone().into();
        }
        let selector = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object);
        for (key, value) in selector.into_iter().flatten() {
            let own = spec.get("nodeSelector").and_then(|selector| selector.get(key));
            if let Some(own) = own.filter(|own| *own != value) {
                let shown = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                return Err(forbidden(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    shown(value),
                    shown(own)
                )));
            }
            part(spec, "nodeSelector")[key] = value.clone();
        }
        if given(&class, "scheduling").is_some() {
            let merged = merge(items(spec, "tolerations"), items_at(&class, "/scheduling/tolerations"));
            if !merged.is_empty() {
                spec["tolerations"] = merged.into();
            }
        }
        Ok(*pod != before)
    }

    fn validate(&self, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), AdmissionError> {
        if !creates(request, "", "pods") {
            return Ok(());
        }
        let class = runtime_class(request, pod)?;
        let own = pod.pointer("/spec/overhead").and_then(Value::as_object);
        match (class.as_ref().and_then(overhead), own) {
            (Some(fixed), own) if !is_same_amount(own.unwrap_or(&Map::new()), fixed) => {
                Err(forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
            }
            (None, Some(_)) => {
                Err(forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
            }
            _ => Ok(()),
        }
    }
}

fn runtime_class(request: &AdmissionRequest<'_>, pod: &Value) -> Result<Option<Value>, AdmissionError> {
    let Some(name) = pod.pointer("/spec/runtimeClassName").and_then(Value::as_str) else { return Ok(None) };
    let class = request.store.get(&Key::new("node.k8s.io/runtimeclasses", "", name));
    let class = class.ok_or_else(|| forbidden(format!("pod rejected: RuntimeClass {name:?} not found")))?;
    Ok(Some(decoded(&class)))
}

fn overhead(class: &Value) -> Option<&Map<String, Value>> {
    given(class, "overhead")?;
    class.pointer("/overhead/podFixed").and_then(Value::as_object)
}

/// Whether two lists of resources are equal as amounts, however they are written.
fn is_same_amount(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let amount = |value: &Value| match value {
        Value::String(text) => Quantity::from_str(text).ok(),
        value => Quantity::from_str(&value.to_string()).ok(),
    };
    one.len() == other.len()
        && one.iter().all(|(name, value)| {
            other
                .get(name)
                .is_some_and(|other| value == other || (amount(value).is_some() && amount(value) == amount(other)))
        })
}

/// Two lists of tolerations as one, without those that others of it include.
fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let is_held = merged.iter().any(|held| includes(held, toleration));
        let comes = all[index + 1..].iter().any(|other| other != toleration && includes(other, toleration));
        if !is_held && !comes {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether a toleration tolerates all that another does.
fn includes(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let of = |toleration: &Value, field: &str| text(toleration, &format!("/{field}")).to_owned();
    let (key, operator, effect) = (of(wide, "key"), of(wide, "operator"), of(wide, "effect"));
    if of(narrow, "key") != key && !(key.is_empty() && operator == "Exists") {
        return false;
    }
    if of(narrow, "effect") != effect && !effect.is_empty() {
        return false;
    }
    let seconds = |toleration: &Value| toleration.get("tolerationSeconds").and_then(Value::as_i64);
    if effect == "NoExecute"
        && let Some(most) = seconds(wide)
        && seconds(narrow).is_none_or(|seconds| seconds > most)
    {
        return false;
    }
    match operator.as_str() {
        "Equal" | "" => of(narrow, "operator") == "Equal" && of(narrow, "value") == of(wide, "value"),
        "Exists" => true,
        _ => false,
    }
}

/// Copies the region and zone of a node to the pods that are bound to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct TopologyLabels;

impl Admission for TopologyLabels {
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<bool, AdmissionError> {
        if request.operation != Operation::Create {
            return Ok(false);
        }
        let node = match request.target() {
            ("", "pods", None) => text(object, "/spec/nodeName"),
            ("", "pods", Some("binding")) if text(object, "/target/kind") == "Node" => text(object, "/target/name"),
            _ => return Ok(false),
        };
        if node.is_empty() {
            return Ok(false);
        }
        // A node that is not there has no labels.
        let Some(node) = request.store.get(&Key::new("/nodes", "", node)) else { return Ok(false) };
        let mut is_changed = false;
        for label in TOPOLOGY_LABELS {
            let Some(value) = node.field(&format!("{}{label}", machinery_kinds::INDEX_LABEL_PREFIX)) else { continue };
            let labels = part(part(object, "metadata"), "labels");
            if labels.get(label).and_then(Value::as_str) != Some(value) {
                labels[label] = value.into();
                is_changed = true;
            }
        }
        Ok(is_changed)
    }
}

/// Changes of a placed pod that not every kubelet can follow, by the names under which nodes declare that they can, in
/// upstream's order.
const POD_RESIZE: &str = "InPlacePodLevelResourcesVerticalScaling";
const INIT_RESIZE: &str = "InPlacePodVerticalScalingInitContainers";

/// Refuses changes of a placed pod that its node has not declared to follow, or whose node is not there to ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeFeatures;

impl Admission for NodeFeatures {
    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), AdmissionError> {
        let is_pod = matches!(request.target(), ("", "pods", None | Some("resize")));
        let Some(old) = request.old.filter(|_| is_pod && request.operation == Operation::Update) else { return Ok(()) };
        let node = text(object, "/spec/nodeName");
        if node.is_empty() || old.pointer("/metadata/generation") == object.pointer("/metadata/generation") {
            return Ok(());
        }
        let mut needed: Vec<&str> = needs(old, object).collect();
        // Of a pod that is resized upstream asks the node in any case, but nothing that it declares.
        if needed.is_empty() && request.target().2.is_none() {
            return Ok(());
        }
        let Some(stored) = request.store.get(&Key::new("/nodes", "", node)) else {
            return Err(AdmissionError::Forbidden(format!("node {node:?} not found")));
        };
        let stored: Value = serde_json::from_slice(&stored.bytes).unwrap_or_default();
        let declared = stored.pointer("/status/declaredFeatures").and_then(Value::as_array);
        needed.retain(|feature| !declared.is_some_and(|declared| declared.iter().any(|one| one == feature)));
        if needed.is_empty() {
            return Ok(());
        }
        let needed = needed.join(", ");
        Err(AdmissionError::Forbidden(format!(
            "pod update requires features {needed} which are not available on node {node:?}"
        )))
    }
}

/// What a node has to be able to for a change of its pod.
fn needs(old: &Value, new: &Value) -> impl Iterator<Item = &'static str> {
    fn resources<'v>(of: &'v Value, path: &str) -> Option<&'v Value> {
        of.pointer(path).filter(|resources| !resources.is_null())
    }
    fn init(of: &Value) -> impl Iterator<Item = &Value> {
        of.pointer("/spec/initContainers").and_then(Value::as_array).into_iter().flatten()
    }
    let is_pod_resized = resources(old, "/spec/resources") != resources(new, "/spec/resources");
    let is_init_resized = init(old).zip(init(new)).any(|(old, new)| {
        old.get("restartPolicy").is_none_or(|policy| policy != "Always")
            && resources(old, "/resources") != resources(new, "/resources")
    });
    [(POD_RESIZE, is_pod_resized), (INIT_RESIZE, is_init_resized)]
        .into_iter()
        .filter_map(|(feature, is_needed)| is_needed.then_some(feature))
}
