//! What the scheduler writes: bindings, conditions, and the ends of pods whose place is taken.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use hub_runtime::Context;
use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::volumes::SELECTED_NODE;
use hub_runtime::writer::{Target, WriteError, Writer, absent_is_false};
use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::pod::Pod;
use crate::volumes::{ClaimPlan, parse_claim, parse_volume};

/// How long claims may take to be bound, as upstream has it.
const CLAIMS_BOUND_WITHIN: Duration = Duration::from_secs(600);
/// How often they are looked at meanwhile, in memory.
const CLAIMS_PERIOD: Duration = Duration::from_millis(100);

/// Why a decision could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarryOutError {
    /// The API rejected it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The pod is deleted, or has a node already.
    #[error("the pod is deleted or has a node")]
    Superseded,
    /// A claim is deleted, or is to be bound for another node.
    #[error("the claim {0} is not bound for this node any more")]
    Claim(Box<str>),
    /// Nobody has bound the claims.
    #[error("timed out waiting for the condition")]
    ClaimsTimeout,
    /// A task ended as none should.
    #[error("a task of the scheduler panicked")]
    Panicked,
}

pub(crate) fn target(pod: &Pod) -> Target<'_> {
    Target { namespace: pod.namespace(), name: &pod.name, uid: &pod.uid }
}

/// Binds the pod's claims and then the pod.
pub(crate) async fn bind(
    context: Context,
    pod: Arc<Pod>,
    node: Box<str>,
    plan: ClaimPlan,
) -> Result<(), CarryOutError> {
    if !plan.is_empty() {
        bind_claims(&context, &pod, &node, &plan).await?;
    }
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.name, "namespace": pod.namespace(), "uid": pod.uid},
        "target": {"kind": "Node", "name": node},
    });
    let act = || format!("bind the pod {}/{} to {node}", pod.namespace(), pod.name);
    let request = http::Request::builder()
        .method(Method::POST)
        .uri(format!("{}/{}/binding", Kind::Pod.path(pod.namespace()), pod.name))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())
        .map_err(|error| Writer::failed(act())(kube::Error::HttpError(error)))?;
    let done = context.writer.client().request::<IgnoredAny>(request).await;
    if absent_is_false(done.map(|_| ()), act)? { Ok(()) } else { Err(CarryOutError::Superseded) }
}

async fn bind_claims(context: &Context, pod: &Pod, node: &str, plan: &ClaimPlan) -> Result<(), CarryOutError> {
    let Context { reader, writer, .. } = context;
    let namespace = pod.namespace();
    let lost = |claim: &str| CarryOutError::Claim(claim.into());
    let claim_now = |name: &str| {
        let object = reader.get(Kind::PersistentVolumeClaim, namespace, name)?;
        parse_claim(object.bytes()).ok()
    };
    for (claim, volume) in &plan.bind {
        let uid = claim_now(claim).ok_or_else(|| lost(claim))?.uid;
        let object = reader.get(Kind::PersistentVolume, "", volume).ok_or_else(|| lost(claim))?;
        let found = parse_volume(object.bytes()).map_err(|_| lost(claim))?;
        let is_free = found.claim.as_ref().is_none_or(|(of, name, of_uid)| {
            (&**of, &**name) == (namespace, &**claim) && (of_uid.is_empty() || *of_uid == uid)
        });
        if !is_free {
            return Err(lost(claim));
        }
        let reference = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": claim, "uid": uid,
        });
        // Only the volume that was looked at: somebody else may be about to have it.
        let metadata = json!({
            "resourceVersion": object.revision().to_string(),
            "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
        });
        let patch = json!({"metadata": metadata, "spec": {"claimRef": reference}});
        if !writer.merge(Kind::PersistentVolume, ("", volume), &patch).await? {
            return Err(lost(claim));
        }
    }
    for claim in &plan.provision {
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        if !writer.merge(Kind::PersistentVolumeClaim, (namespace, claim), &patch).await? {
            return Err(lost(claim));
        }
    }
    let wait = async {
        let (mut asked, mut tick) = (false, tokio::time::interval(CLAIMS_PERIOD));
        loop {
            tick.tick().await;
            let mut are_bound = true;
            for name in plan.provision.iter().chain(plan.bind.iter().map(|(claim, _)| claim)) {
                let claim = claim_now(name).ok_or_else(|| lost(name))?;
                are_bound &= claim.is_bound && claim.volume.is_some();
                // A provisioner that cannot serve this node takes the annotation away.
                let is_asked = claim.selected_node.as_deref() == Some(node) || !plan.provision.contains(name);
                if asked && !is_asked && !claim.is_bound {
                    return Err(lost(name));
                }
                asked |= is_asked && plan.provision.contains(name);
            }
            if are_bound {
                return Ok(());
            }
        }
    };
    tokio::time::timeout(CLAIMS_BOUND_WITHIN, wait).await.map_err(|_| CarryOutError::ClaimsTimeout)?
}

/// What a pod's status shall say of its scheduling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// `reason` and `message` of the condition `PodScheduled`; the condition stays as it is where there is none.
    pub condition: Option<(Box<str>, Box<str>)>,
    /// Whether the condition was there and `False` before: then its time does not change.
    pub was_unscheduled: bool,
    /// `nominatedNodeName`; empty for none.
    pub nominated: Option<Box<str>>,
}

/// Writes what a pod's status shall say, if it is still the same pod.
pub(crate) async fn write_verdict(context: Context, pod: Arc<Pod>, verdict: Verdict) -> Result<(), CarryOutError> {
    let mut status = json!({});
    if let Some((reason, message)) = &verdict.condition {
        let since = (!verdict.was_unscheduled).then(|| context.clock.now());
        status["conditions"] = json!([condition(&pod, ("PodScheduled", "False"), reason, message, since)]);
    }
    if let Some(nominated) = &verdict.nominated {
        status["nominatedNodeName"] = if nominated.is_empty() { Value::Null } else { json!(nominated) };
    }
    patch_status(&context.writer, target(&pod), &status).await?;
    Ok(())
}

fn condition(
    pod: &Pod,
    (r#type, status): (&str, &str),
    reason: &str,
    message: &str,
    since: Option<Timestamp>,
) -> Value {
    let mut condition = json!({
        "type": r#type, "status": status, "reason": reason, "message": message, "lastProbeTime": null,
        "observedGeneration": pod.generation,
    });
    if let Some(since) = since {
        condition["lastTransitionTime"] = seconds(since).into();
    }
    condition
}

/// Merges into a pod's status with conditions kept by their type; `Ok(false)` when the pod is another one by now.
async fn patch_status(writer: &Writer, pod: Target<'_>, status: &Value) -> Result<bool, WriteError> {
    let api: Api<DynamicObject> = Api::namespaced_with(writer.client().clone(), pod.namespace, &Kind::Pod.resource());
    let patch = json!({"metadata": {"uid": pod.uid}, "status": status});
    let done = api.patch_status(pod.name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
    absent_is_false(done.map(|_| ()), || format!("change the status of the pod {}", pod.name))
}

/// Ends the pods whose place a pod takes, and says so on them.
pub(crate) async fn end_victims(
    context: Context,
    preemptor: Arc<Pod>,
    node: Box<str>,
    victims: Vec<Pod>,
) -> Result<(), CarryOutError> {
    let message = format!("{}: preempting to accommodate a higher priority pod", crate::pod::SCHEDULER_NAME);
    for victim in &victims {
        let target = target(victim);
        let condition = condition(
            victim,
            ("DisruptionTarget", "True"),
            "PreemptionByScheduler",
            &message,
            Some(context.clock.now()),
        );
        if !patch_status(&context.writer, target, &json!({"conditions": [condition]})).await? {
            continue;
        }
        if context.writer.delete_target(Kind::Pod, target, None, None).await? {
            let message = format!("Preempted by pod {} on node {node}", preemptor.uid);
            context.recorder.normal(Kind::Pod, target, "Preempted", message);
        }
    }
    Ok(())
}
