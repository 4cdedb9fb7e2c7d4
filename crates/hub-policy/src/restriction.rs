//! What a node that speaks with its key, or somebody who wants to become one, may write *into* an object: more than
//! Kubernetes' NodeRestriction asks, which is asked as well.
//!
//! Names and fields of a body are not known when a request is authorised; here they are, beside the stored object.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use api_edge::ANNOTATION_HOLD_UPDATES;
use api_kube::base64_text;
use machinery_kinds::FieldError;
use machinery_server::{Admission, AdmissionError, AdmissionRequest, GROUP_BOOTSTRAPPERS, Operation, Union};
use machinery_store::Key;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::authorizer::{NODE_LEASE_NAMESPACE, has_key};
use crate::references::{refers_to_any, text_at};
use crate::{labels, names};

/// A request for a certificate has a few hundred bytes; this leaves space for many names and none for abuse.
const CSR_BYTES_MAX: usize = 16 * 1024;

/// Annotations and labels of a request for a certificate; ours has none.
const CSR_NOTES_BYTES_MAX: usize = 1024;

/// Certificates that one node, or one token for one name, may request in [`CSR_PERIOD`]. A node needs two at a join and two a year.
const CSRS_MAX: u32 = 30;
/// Certificates that one token may request in [`CSR_PERIOD`] in all: many boxes may share it, and one of them whose name is taken
/// tries again all the time.
const TOKEN_CSRS_MAX: u32 = 300;
const CSR_PERIOD: Duration = Duration::from_secs(600);

/// Callers that are counted at a time. When there are more, counting begins anew.
const COUNTED_MAX: usize = 65_536;

/// Restricts nodes to what is their own, and keeps requests for certificates small and few.
pub struct NodeRestriction {
    hub_names: Vec<String>,
    upstream: machinery_access::NodeRestriction,
    requests: Mutex<HashMap<String, (Instant, u32)>>,
}

impl NodeRestriction {
    /// A plug-in for a hub that is reached by these names, which no node may bear; `authorizer` decides about audiences.
    pub fn new(hub_names: Vec<String>, authorizer: Union) -> Self {
        let upstream = machinery_access::NodeRestriction::new(authorizer);
        Self { hub_names, upstream, requests: Mutex::default() }
    }
}

type Checked = Result<(), AdmissionError>;

impl Admission for NodeRestriction {
    fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<bool, AdmissionError> {
        if self.is_upstreams(request) {
            return self.upstream.mutate(request, object);
        }
        if request.target() != ("", "nodes", None) || request.operation != Operation::Create {
            return Ok(false);
        }
        let Some(node) = request.identity.node_name().filter(|_| has_key(request.identity)) else { return Ok(false) };
        let bound = crate::binding(request.store, node);
        let registration = bound.map(|(bound, _)| bound.labels).unwrap_or_default();
        // Labels that a node may not set on itself are left out rather than rejected: a node whose configuration names
        // some would never come up, and nobody would see why but on its own screen.
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return Ok(false) };
        let labels = metadata.entry("labels").or_insert_with(|| Value::Object(Map::new()));
        if labels.is_null() {
            *labels = Value::Object(Map::new());
        }
        let Some(labels) = labels.as_object_mut() else { return Ok(false) };
        let before = labels.clone();
        let is_foreign = |(key, value): &(&String, &Value)| {
            !labels::is_nodes_own(node, key, value) && registration.get(*key).is_none_or(|given| *value != given)
        };
        let dropped: Vec<String> = labels.iter().filter(is_foreign).map(|(key, _)| key.clone()).collect();
        for key in &dropped {
            labels.remove(key);
            request.warn(format!(
                "label {key} is not a node's to set, it is left out; set it with kubectl label or with the join token (selvedge token create --label)"
            ));
        }
        // Those of the token are the administrator's word.
        labels.extend(registration.into_iter().map(|(key, value)| (key, Value::String(value))));
        Ok(*labels != before)
    }

    fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Checked {
        match request.target() {
            ("", "nodes", None) if request.operation == Operation::Create => self.check_name(object)?,
            ("certificates.k8s.io", "certificatesigningrequests", None) if request.operation == Operation::Create => {
                self.check_csr(request, object)?;
            }
            _ => {}
        }
        if matches!(request.target(), ("", "nodes", _)) && request.operation == Operation::Update {
            check_hold(request, object)?;
        }
        let Some(node) = request.identity.node_name() else { return Ok(()) };
        if has_key(request.identity) {
            restrict(node, request, object)?;
        } else if request.target() == ("", "nodes", None) && request.operation == Operation::Create {
            crate::bindings::admit_registration(node, request)?;
        }
        match self.is_upstreams(request) {
            true => self.upstream.validate(request, object),
            false => Ok(()),
        }
    }
}

impl NodeRestriction {
    /// Whether upstream's rules are asked too. Of Nodes and mirror pods of those who have a key ours ask for all of it, in
    /// their own way: foreign labels are left out rather than rejected, and a mirror pod may come before its Node.
    fn is_upstreams(&self, request: &AdmissionRequest<'_>) -> bool {
        !(has_key(request.identity) && matches!(request.target(), ("", "nodes" | "pods", _)))
    }

    fn check_name(&self, node: &Value) -> Checked {
        let name = text_at(node, "/metadata/name");
        match names::rejection(name, &self.hub_names) {
            Some(why) => Err(AdmissionError::Invalid(vec![FieldError::invalid("metadata.name", &name.into(), why)])),
            None => Ok(()),
        }
    }

    fn check_csr(&self, request: &AdmissionRequest<'_>, csr: &Value) -> Checked {
        let encoded = text_at(csr, "/spec/request");
        if encoded.len() > CSR_BYTES_MAX.div_ceil(3) * 4 {
            return Err(AdmissionError::Invalid(vec![FieldError::too_long("spec.request", CSR_BYTES_MAX)]));
        }
        let pem = base64_text::decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        // What cannot be read is the signer's to reject, with its reason in the request's status.
        let node =
            base_pki::parse_csr(&pem).ok().and_then(|info| info.cn.strip_prefix("system:node:").map(str::to_owned));
        if let Some(why) = node.as_deref().and_then(|node| names::rejection(node, &self.hub_names)) {
            return Err(AdmissionError::Forbidden(why));
        }
        let is_bootstrapper = request.identity.is_in(GROUP_BOOTSTRAPPERS);
        if !is_bootstrapper && request.identity.node_name().is_none() {
            return Ok(());
        }
        check_csr_metadata(csr)?;
        let user = request.identity.user.as_str();
        match is_bootstrapper {
            _ if request.dry_run => Ok(()),
            true => {
                let for_node = format!("{user} for node {}", node.unwrap_or_default());
                self.count(&[(user, TOKEN_CSRS_MAX), (&for_node, CSRS_MAX)], Instant::now())
            }
            false => self.count(&[(user, CSRS_MAX)], Instant::now()),
        }
    }

    /// Counts a request for each of these, unless one of them has had as many as it may.
    fn count(&self, senders: &[(&str, u32)], now: Instant) -> Checked {
        let mut requests = self.requests.lock();
        for (sender, max) in senders {
            let is_full = requests
                .get(*sender)
                .is_some_and(|(since, count)| now.duration_since(*since) < CSR_PERIOD && count >= max);
            if is_full {
                let minutes = CSR_PERIOD.as_secs() / 60;
                return Err(AdmissionError::TooMany(format!(
                    "{sender:?} has requested {max} certificates within {minutes} minutes; try again later"
                )));
            }
        }
        if requests.len() + senders.len() > COUNTED_MAX {
            requests.retain(|_, (since, _)| now.duration_since(*since) < CSR_PERIOD);
            if requests.len() + senders.len() > COUNTED_MAX {
                requests.clear();
            }
        }
        for (sender, _) in senders {
            let (since, count) = requests.entry((*sender).to_owned()).or_insert((now, 0));
            if now.duration_since(*since) >= CSR_PERIOD {
                (*since, *count) = (now, 0);
            }
            *count += 1;
        }
        Ok(())
    }
}

/// Whether updates of a box are held is its owner's word, which only the node repeats: nobody at the hub takes it back.
fn check_hold(request: &AdmissionRequest<'_>, node: &Value) -> Checked {
    let name = text_at(node, "/metadata/name");
    let said = |node: Option<&Value>| {
        let annotations = node.and_then(|node| node.pointer("/metadata/annotations"));
        annotations.and_then(|all| all.get(ANNOTATION_HOLD_UPDATES)).cloned()
    };
    let is_own = request.identity.node_name() == Some(name) && has_key(request.identity);
    if is_own || said(request.old) == said(Some(node)) {
        return Ok(());
    }
    Err(AdmissionError::Forbidden(format!(
        "annotation {ANNOTATION_HOLD_UPDATES} is the word of the owner of the box {name:?}: it changes with `selvedge node hold-updates` and `selvedge node release-updates` there"
    )))
}

/// A request is deleted when it is done, and keeps nothing for whoever sent it.
fn check_csr_metadata(csr: &Value) -> Checked {
    let invalid = |error| Err(AdmissionError::Invalid(vec![error]));
    for field in ["finalizers", "ownerReferences"] {
        if held(Some(csr), field).is_some() {
            let why = "whoever requests a certificate may not set this; leave it out";
            return invalid(FieldError::forbidden(format!("metadata.{field}"), why));
        }
    }
    let bytes = |field: &str| {
        let notes = held(Some(csr), field).and_then(Value::as_object);
        notes.into_iter().flatten().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum::<usize>()
    };
    if bytes("annotations") + bytes("labels") > CSR_NOTES_BYTES_MAX {
        return invalid(FieldError::too_long("metadata.annotations", CSR_NOTES_BYTES_MAX));
    }
    Ok(())
}

/// What an object's metadata holds under a key; an empty list is nothing.
fn held<'a>(object: Option<&'a Value>, field: &str) -> Option<&'a Value> {
    let value = object?.get("metadata")?.get(field)?;
    (!value.is_null() && value.as_array().is_none_or(|items| !items.is_empty())).then_some(value)
}

/// What keeps an object after its deletion, or deletes it with another, is not a node's to change: the garbage collector
/// would do for it what it may not do itself. What is its own may end with its own Node, as its Lease does.
fn check_ties(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Checked {
    let reject = |what: &str| Err(AdmissionError::Forbidden(format!("node {node:?} is not allowed to {what}")));
    if held(request.old, "finalizers") != held(Some(object), "finalizers") {
        return reject("set finalizers");
    }
    let owners = held(Some(object), "ownerReferences");
    if owners == held(request.old, "ownerReferences") {
        return Ok(());
    }
    if (&*request.info.group, &*request.info.plural) == ("", "nodes") {
        return reject("modify ownerReferences");
    }
    let stored = request.store.get(&Key::new("/nodes", "", node));
    let own: Option<Value> = stored.and_then(|stored| serde_json::from_slice(&stored.bytes).ok());
    let uid = own.as_ref().map(|own| text_at(own, "/metadata/uid")).unwrap_or_default();
    let is_own = |owner: &Value| {
        let at = |field| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        (at("apiVersion"), at("kind"), at("name"), at("uid")) == ("v1", "Node", node, uid)
    };
    match owners.and_then(Value::as_array).is_none_or(|owners| owners.iter().all(is_own)) {
        true => Ok(()),
        false => reject("set ownerReferences to anything but its own Node"),
    }
}

fn restrict(node: &str, request: &AdmissionRequest<'_>, object: &Value) -> Checked {
    let reject = |what: String| Err(AdmissionError::Forbidden(format!("node {node:?} is not allowed to {what}")));
    let name = text_at(object, "/metadata/name");
    let is_create = request.operation == Operation::Create;
    if request.target() == ("", "persistentvolumes", None) {
        return match request.old.filter(|_| request.operation == Operation::Update) {
            Some(old) if is_confirmed_removal(node, old, object) => Ok(()),
            _ => reject(format!(
                "change a volume, but to take the finalizer {} from one that it has removed",
                api_edge::volumes::FINALIZER
            )),
        };
    }
    if is_create || request.operation == Operation::Update {
        check_ties(node, request, object)?;
    }
    match (request.target(), request.old) {
        (("", "nodes", _), old) => {
            if name != node {
                return reject(format!("write the Node {name:?}"));
            }
            let Some(old) = old else { return crate::bindings::admit_registration(node, request) };
            // Taints and labels say what may run on a node: what it says of itself must not decide that.
            if old.pointer("/spec/taints") != object.pointer("/spec/taints") {
                return reject("modify taints".to_owned());
            }
            // Upstream lets a node cordon itself, and nobody change addresses that its pods have already.
            for field in ["podCIDR", "podCIDRs"] {
                let (before, after) = (old["spec"].get(field), object["spec"].get(field));
                if before.is_some() && before != after {
                    return reject(format!("modify spec.{field}"));
                }
            }
            match labels::foreign_changes(node, old, object).as_slice() {
                [] => Ok(()),
                keys => reject(format!("modify the labels {}", keys.join(", "))),
            }
        }
        (("coordination.k8s.io", "leases", _), _) if name != node || request.namespace != NODE_LEASE_NAMESPACE => {
            reject(format!("write the Lease {name:?} in {:?}", request.namespace))
        }
        (("", "pods", None), _) if is_create => mirror_pod(node, object),
        // Before and after a change: neither may it be another's, nor become one.
        (("", "events", _), old) => {
            old.map_or(Ok(()), |old| event(node, request, old)).and_then(|()| event(node, request, object))
        }
        _ => Ok(()),
    }
}

/// Whether all that changes is that a node has removed the directory of a volume of its own, which the hub had asked it to.
fn is_confirmed_removal(node: &str, old: &Value, new: &Value) -> bool {
    // What the API server itself writes with each change is nobody's statement.
    let rest = |volume: &Value| {
        let mut rest = volume.clone();
        if let Some(metadata) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["finalizers", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        rest
    };
    let finalizers = |volume: &Value| -> Vec<String> {
        let all = volume.pointer("/metadata/finalizers").and_then(Value::as_array);
        all.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut expected = finalizers(old);
    expected.retain(|finalizer| finalizer != api_edge::volumes::FINALIZER);
    api_edge::volumes::is_removal_requested(old, node) && finalizers(new) == expected && rest(old) == rest(new)
}

/// A node creates pods only to show its static pods, and those must not open anything to it.
fn mirror_pod(node: &str, pod: &Value) -> Checked {
    let reject = |what: &str| Err(AdmissionError::Forbidden(format!("node {node:?} is not allowed to {what}")));
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if !crate::pods::is_mirror(pod) {
        return reject("create pods that are not mirror pods of its static pods");
    }
    if text_at(spec, "/nodeName") != node {
        return reject("create pods for other nodes");
    }
    // As upstream's static pods are named. Names of other pods follow from what a node may know, and whoever takes one keeps
    // the pod from where it belongs.
    let stem = text_at(pod, "/metadata/name").strip_suffix(node).and_then(|stem| stem.strip_suffix('-'));
    if stem.is_none_or(str::is_empty) {
        return reject(&format!("create mirror pods whose names do not end in \"-{node}\""));
    }
    // One without a controller is adopted by the first workload whose selector fits, and takes the place of a pod of it.
    let owners = held(Some(pod), "ownerReferences").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let [owner] = owners else { return reject("create mirror pods without its own Node as their one owner") };
    let says = |field: &str| owner.get(field) == Some(&Value::Bool(true));
    if !says("controller") {
        return reject("create mirror pods whose controller is not its own Node");
    }
    if says("blockOwnerDeletion") {
        return reject("set blockOwnerDeletion on an owner reference");
    }
    // A service account's token would be a key to whatever that account may do.
    if !matches!(text_at(spec, "/serviceAccountName"), "" | "default")
        || spec.get("serviceAccount").is_some_and(|name| name != "default" && name != "")
    {
        return reject("create pods that use a service account");
    }
    if refers_to_any(spec) {
        return reject("create pods that refer to secrets or config maps");
    }
    Ok(())
}

/// An event says who reports it, and a node reports only as itself, and of no other node or other node's pod. Upstream
/// lets every node write every event; here nobody can put words into another's mouth.
fn event(node: &str, request: &AdmissionRequest<'_>, event: &Value) -> Checked {
    let reject = |what: &str| Err(AdmissionError::Forbidden(format!("node {node:?} is not allowed to {what}")));
    let reporters = [text_at(event, "/source/host"), text_at(event, "/reportingInstance")];
    if !reporters.contains(&node) || reporters.iter().any(|reporter| !reporter.is_empty() && *reporter != node) {
        return reject("write events that it does not report itself (source.host and reportingInstance are its name)");
    }
    let references = ["involvedObject", "regarding", "related"].map(|field| event.get(field).unwrap_or(&Value::Null));
    match references.iter().all(|about| about.is_null() || is_own(node, request, about)) {
        true => Ok(()),
        false => reject("write events about what is not its own: events of a node are about its Node and its pods"),
    }
}

/// Whether a reference is to a node itself or to a pod of its. Kinds have one spelling: a reader that forgives another, as
/// tables do, must not show what would have been rejected under its own.
fn is_own(node: &str, request: &AdmissionRequest<'_>, about: &Value) -> bool {
    let at = |field: &str| about.get(field).and_then(Value::as_str).unwrap_or_default();
    if !matches!(at("apiVersion"), "" | "v1") {
        return false;
    }
    match at("kind") {
        "Node" => at("name") == node,
        "Pod" if at("namespace").is_empty() || at("namespace") == request.namespace => {
            let pod = request.store.get(&Key::new("/pods", request.namespace, at("name")));
            // The last events of a pod come when it is deleted already.
            pod.is_none_or(|pod| pod.field("spec.nodeName") == Some(node))
        }
        _ => false,
    }
}
