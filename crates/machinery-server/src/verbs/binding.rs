//! What is created on a pod and never stored: its binding to a node, and its eviction.

use base_http::Body;
use bytes::Bytes;
use http::Response;
use machinery_kinds::FieldError;
use machinery_store::{Expect, Key, Object, Op};
use serde_json::{Value, json};

use super::delete::{DeleteOptions, delete_one};
use super::write::{PutError, decode_stored};
use crate::admission::Operation;
use crate::heavy::values_max;
use crate::negotiate::PLAIN;
use crate::object::{self, Encoded, is_terminating, metadata, name_of, text_at, timestamp, uid_of};
use crate::owners::owners_of;
use crate::request::{FieldValidation, WriteOptions};
use crate::selector::LabelSelector;
use crate::server::Context;
use crate::status::{self, ApiError, Result};
use crate::typed;

/// How often a write is tried again when others write the same object in between.
const TRIES: usize = 10;

/// More evictions than this wait for nobody: their budget's controller has stopped confirming them.
const DISRUPTED_PODS_MAX: usize = 2000;

/// When a client should come again whose pod's budget has not been looked at yet.
const RETRY_SECONDS: u32 = 10;

const BINDING: typed::Kind<'static> = typed::Kind { group: "", version: "v1", kind: "Binding" };
const EVICTION: typed::Kind<'static> = typed::Kind { group: "policy", version: "v1", kind: "Eviction" };

/// What a create is about.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    Bind,
    Evict,
}

/// The act of a create at a path, if it is one of these.
pub(crate) fn act(context: &Context<'_>) -> Option<Act> {
    let path = &context.path;
    match (path.group.as_str(), path.plural.as_str(), path.subresource.as_deref()) {
        ("", "pods", Some("binding")) | ("", "bindings", None) => Some(Act::Bind),
        ("", "pods", Some("eviction")) => Some(Act::Evict),
        _ => None,
    }
}

pub(crate) async fn create(context: &Context<'_>, act: Act, body: &Bytes) -> Result<Response<Body>> {
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let kind = match act {
        Act::Bind => BINDING,
        Act::Evict => EVICTION,
    };
    let mut sent = typed::decode(&context.headers, body, values_max(context.identity), kind.kind)?;
    if matches!(act, Act::Evict) && text_at(&sent, "/apiVersion") == "policy/v1beta1" {
        sent["apiVersion"] = "policy/v1".into();
    }
    typed::check_kind(&context.server.registry(), kind, &mut sent)?;
    typed::check_fields(kind, &mut sent)?;
    context.settle_namespace(&mut sent)?;
    match act {
        Act::Bind => bind(context, &sent, options).await?,
        Act::Evict => evict(context, &sent, options).await?,
    }
    Ok(status::created(done().to_string()))
}

fn done() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

/// The request as one about the pod itself.
fn of_pod<'a>(context: &Context<'a>, name: &str) -> Result<Context<'a>> {
    let registry = context.server.registry();
    let info = registry.resource("", "v1", "pods").cloned().ok_or_else(ApiError::no_such_path)?;
    let mut path = context.path.clone();
    path.plural = "pods".to_owned();
    path.name = Some(name.to_owned());
    path.subresource.get_or_insert_with(|| "binding".to_owned());
    Ok(Context {
        server: context.server,
        identity: context.identity,
        verb: context.verb,
        info,
        path,
        query: context.query.clone(),
        headers: context.headers.clone(),
        output: PLAIN,
        turn: context.turn.clone(),
    })
}

async fn bind(context: &Context<'_>, binding: &Value, options: WriteOptions) -> Result<()> {
    let name = name_of(binding);
    if context.path.name.as_deref().is_some_and(|of_url| of_url != name) {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    let mut errors = Vec::new();
    let (kind, node) = (text_at(binding, "/target/kind"), text_at(binding, "/target/name"));
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported("target.kind", &kind.into(), &["Node", "<empty>"]));
    }
    if node.is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    if !errors.is_empty() {
        return Err(ApiError::unknown(machinery_kinds::join_field_errors(&errors)));
    }
    let pods = of_pod(context, name)?;
    pods.validate(Operation::Create, binding, None, options, &mut Vec::new())?;
    let conflict = |why: &str| ApiError::conflict_kind("", "pods/binding", name, why);
    for _ in 0..TRIES {
        let stored = pods.stored()?;
        pods.authorize_object(&stored)?;
        let mut pod = decode_stored(&pods, &stored)?;
        check_held(binding, &stored, &pod).map_err(|why| conflict(&why))?;
        if is_terminating(&pod) {
            return Err(conflict(&format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        let bound = text_at(&pod, "/spec/nodeName");
        if !bound.is_empty() {
            return Err(conflict(&format!("pod {name} is already assigned to node {bound:?}")));
        }
        let gates = pod.pointer("/spec/schedulingGates").and_then(Value::as_array);
        if gates.is_some_and(|gates| !gates.is_empty()) {
            return Err(conflict(&format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        pod["spec"]["nodeName"] = node.into();
        if let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) {
            status.remove("nominatedNodeName");
        }
        for field in ["annotations", "labels"] {
            let given = binding.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
            let Some(given) = given.filter(|given| !given.is_empty()) else { continue };
            let held = metadata(&mut pod).entry(field).or_insert_with(|| json!({}));
            if let Some(held) = held.as_object_mut() {
                held.extend(given.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
        }
        pods.place(node, &mut pod, options)?;
        set_condition(&mut pod, json!({"type": "PodScheduled", "status": "True"}), (context.server.now)());
        if options.dry_run {
            return Ok(());
        }
        match pods.put(pod, &owners_of(&stored), Expect::Revision(stored.revision)).await {
            Ok(_) => return Ok(()),
            Err(PutError::Raced) => {}
            Err(PutError::Refused(error)) => return Err(error),
        }
    }
    Err(ApiError::modified(&pods.info, name))
}

/// Whether the pod is the one that the binding is about.
fn check_held(binding: &Value, stored: &Object, pod: &Value) -> Result<(), String> {
    let pairs = [
        ("UID", uid_of(binding), uid_of(pod).to_owned()),
        ("ResourceVersion", text_at(binding, "/metadata/resourceVersion"), stored.revision.to_string()),
    ];
    for (what, expected, held) in pairs {
        if !expected.is_empty() && expected != held {
            return Err(format!(
                "Precondition failed: {what} in precondition: {expected}, {what} in object meta: {held}"
            ));
        }
    }
    Ok(())
}

/// Sets a condition of a pod's status; its time changes with its status alone.
fn set_condition(pod: &mut Value, mut condition: Value, now: jiff::Timestamp) {
    let now = timestamp(now);
    condition["lastProbeTime"] = Value::Null;
    condition["lastTransitionTime"] = now.into();
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    let conditions =
        pod["status"].as_object_mut().expect("made above").entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|held| held["type"] == condition["type"]) {
        Some(held) => {
            if held["status"] == condition["status"] && held["lastTransitionTime"].is_string() {
                condition["lastTransitionTime"] = held["lastTransitionTime"].clone();
            }
            *held = condition;
        }
        None => conditions.push(condition),
    }
}

async fn evict(context: &Context<'_>, eviction: &Value, options: WriteOptions) -> Result<()> {
    let name = context.name();
    if name_of(eviction) != name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let given = eviction.get("deleteOptions").filter(|given| !given.is_null()).cloned().unwrap_or_else(|| json!({}));
    let mut delete = DeleteOptions::of_typed(given).map_err(ApiError::bad_request)?;
    let stages = delete.stages();
    if !stages.is_empty() && options.dry_run && stages != ["All"] {
        return Err(ApiError::unknown(format!(
            "Non-matching dry-run options in request and content: [All] and [{}]",
            stages.join(" ")
        )));
    }
    let is_dry = options.dry_run || !stages.is_empty();
    let write = WriteOptions { dry_run: is_dry, field_validation: FieldValidation::Warn };
    context.validate(Operation::Create, eviction, None, write, &mut Vec::new())?;
    let pods = of_pod(context, name)?;
    let stored = pods.stored()?;
    pods.authorize_object(&stored)?;
    let pod = decode_stored(&pods, &stored)?;
    let is_over = matches!(text_at(&pod, "/status/phase"), "Succeeded" | "Failed") || is_terminating(&pod);
    if is_over || text_at(&pod, "/status/phase") == "Pending" {
        // It serves nobody, or nobody any more: no budget is asked.
        if !is_over && !delete.has_revision() {
            delete.insist(&stored.revision.to_string());
        }
        return mark_and_delete(&pods, &mut delete, write).await;
    }
    let budgets = budgets(context, &pod);
    let budget = match budgets.as_slice() {
        [] => return mark_and_delete(&pods, &mut delete, write).await,
        [one] => one,
        _ => {
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(ApiError::unknown(why));
        }
    };
    let policy = text_at(&budget.1, "/spec/unhealthyPodEvictionPolicy");
    let number = |name: &str| number(&budget.1, name);
    let is_spare = policy == "AlwaysAllow"
        || (number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0);
    if !is_ready(&pod) && is_spare {
        let insists = delete.has_revision();
        if !insists {
            delete.insist(&stored.revision.to_string());
        }
        return match mark_and_delete(&pods, &mut delete, write).await {
            Err(error) if !insists && error.reason() == status::Reason::Conflict => {
                Err(unprocessed_budget(&budget.0.key.name))
            }
            done => done,
        };
    }
    spend(context, &budget.0.key, name, is_dry).await?;
    mark_and_delete(&pods, &mut delete, write).await
}

fn number(budget: &Value, name: &str) -> i64 {
    budget.pointer(&format!("/status/{name}")).and_then(Value::as_i64).unwrap_or_default()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

const BUDGETS: &str = "policy/poddisruptionbudgets";

/// The budgets that a pod counts in.
fn budgets(context: &Context<'_>, pod: &Value) -> Vec<(std::sync::Arc<Object>, Value)> {
    let snapshot = context.server.store.snapshot(BUDGETS);
    let label = |key: &str| pod.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str);
    let counted = |object: &std::sync::Arc<Object>| {
        let budget: Value = serde_json::from_slice(&object.bytes).ok()?;
        let selector = match budget.pointer("/spec/selector").filter(|selector| !selector.is_null()) {
            None => LabelSelector::nothing(),
            Some(selector) => {
                let spec: api_kube::LabelSelectorSpec = serde_json::from_value(selector.clone()).ok()?;
                spec.to_selector().ok()?
            }
        };
        selector.matches(label).then(|| (object.clone(), budget))
    };
    snapshot.iter(Some(context.namespace()), None).filter_map(counted).collect()
}

fn unprocessed_budget(name: &str) -> ApiError {
    ApiError::disruption(
        &format!("The disruption budget {name} is still being processed by the server."),
        Some(RETRY_SECONDS),
    )
}

/// Takes one disruption of a budget, if it has one.
async fn spend(context: &Context<'_>, key: &Key, pod: &str, is_dry: bool) -> Result<()> {
    let registry = context.server.registry();
    let info = registry.resource("policy", "v1", "poddisruptionbudgets").cloned().ok_or_else(ApiError::no_such_path)?;
    for _ in 0..TRIES {
        let stored = context.server.store.get(key).ok_or_else(|| ApiError::not_found(&info, &key.name))?;
        let mut budget = object::decode(&info, &stored)?;
        check_budget(&budget)?;
        let left = number(&budget, "disruptionsAllowed") - 1;
        budget["status"]["disruptionsAllowed"] = left.into();
        if left == 0 {
            set_disallowed(&mut budget, (context.server.now)());
        }
        if is_dry {
            return Ok(());
        }
        let now = timestamp((context.server.now)());
        let disrupted =
            budget["status"].as_object_mut().map(|status| status.entry("disruptedPods").or_insert_with(|| json!({})));
        if let Some(disrupted) = disrupted {
            disrupted[pod] = now.into();
        }
        let encoded = Encoded::new(&budget);
        let index = object::index_fields(&info, &budget);
        let managed = stored.managed.clone();
        let put = Op::Put {
            key: key.clone(),
            expect: Expect::Revision(stored.revision),
            encode: Box::new(move |revision| machinery_store::Encoded { bytes: encoded.at(revision), managed, index }),
        };
        match context.server.store.commit(vec![put], crate::kinds::durability(&info)).await {
            Ok(_) => return Ok(()),
            Err(machinery_store::CommitError::Conflict { .. }) => {}
            Err(error) => return Err(ApiError::commit(&error)),
        }
    }
    Err(ApiError::too_many_conflicts(&key.name, RETRY_SECONDS))
}

/// Whether a budget allows one more disruption.
fn check_budget(budget: &Value) -> Result<()> {
    let name = name_of(budget);
    let number = |field: &str| number(budget, field);
    let generation = budget.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
    if number("observedGeneration") < generation {
        return Err(unprocessed_budget(name));
    }
    let forbid = |why: &str| ApiError::forbidden_resource("policy", "poddisruptionbudget", name, why);
    if number("disruptionsAllowed") < 0 {
        return Err(forbid("pdb disruptions allowed is negative"));
    }
    let disrupted = budget.pointer("/status/disruptedPods").and_then(Value::as_object);
    if disrupted.is_some_and(|disrupted| disrupted.len() > DISRUPTED_PODS_MAX) {
        return Err(forbid("DisruptedPods map too big - too many evictions not confirmed by PDB controller"));
    }
    if number("disruptionsAllowed") > 0 {
        return Ok(());
    }
    let conditions = budget.pointer("/status/conditions").and_then(Value::as_array);
    let condition = conditions.into_iter().flatten().find(|one| one["type"] == "DisruptionAllowed");
    let condition = condition.filter(|one| one["status"] == "False" && !text_at(one, "/message").is_empty());
    let (current, desired) = (number("currentHealthy"), number("desiredHealthy"));
    let why = match condition.map(|one| (text_at(one, "/reason"), text_at(one, "/message"))) {
        Some(("SyncFailed", message)) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        ),
        _ if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        Some((reason, message)) => {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    };
    Err(ApiError::disruption(&why, None))
}

fn set_disallowed(budget: &mut Value, now: jiff::Timestamp) {
    let generation = budget.pointer("/status/observedGeneration").cloned().unwrap_or_default();
    let condition = json!({
        "type": "DisruptionAllowed", "status": "False", "observedGeneration": generation,
        "lastTransitionTime": timestamp(now), "reason": "InsufficientPods", "message": "",
    });
    let Some(status) = budget.get_mut("status").and_then(Value::as_object_mut) else { return };
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    match conditions.iter_mut().find(|one| one["type"] == "DisruptionAllowed") {
        Some(held) if held["status"] == "False" => {
            held["reason"] = condition["reason"].clone();
            held["observedGeneration"] = condition["observedGeneration"].clone();
        }
        Some(held) => *held = condition,
        None => conditions.push(condition),
    }
}

/// Notes on the pod why it ends, and deletes it.
async fn mark_and_delete(pods: &Context<'_>, delete: &mut DeleteOptions, write: WriteOptions) -> Result<()> {
    if !write.dry_run {
        mark(pods, delete).await?;
    }
    delete_one(pods, delete, write, pods.name()).await.map(drop)
}

async fn mark(pods: &Context<'_>, delete: &mut DeleteOptions) -> Result<()> {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
    });
    for _ in 0..TRIES {
        let stored = pods.stored()?;
        let mut pod = decode_stored(pods, &stored)?;
        delete.check(&pods.info, &stored, &pod, pods.name(), "Pod")?;
        set_condition(&mut pod, condition.clone(), (pods.server.now)());
        match pods.put(pod, &owners_of(&stored), Expect::Revision(stored.revision)).await {
            Ok(bytes) => {
                if delete.has_revision() {
                    let written: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                    delete.insist(text_at(&written, "/metadata/resourceVersion"));
                }
                return Ok(());
            }
            Err(PutError::Raced) => {}
            Err(PutError::Refused(error)) => return Err(error),
        }
    }
    Err(ApiError::modified(&pods.info, pods.name()))
}
