//! What is in use is not deleted before its last user: claims that pods have, volumes that are bound, and the classes of both,
//! as upstream's controllers for the protection of PersistentVolumeClaims, PersistentVolumes and VolumeAttributesClasses.
//!
//! Admission gives each of them a finalizer; here it is taken away once the object waits for its deletion and nobody uses
//! it. One that came without it, as from before there was that plug-in, gets it here.
//!
//! A pod uses its claims from when it is placed until it is deleted, also after it has ended: only then is it sure that its
//! node has released them. A pod that was never placed uses none: no kubelet starts a pod whose claim waits for its deletion.
//!
//! Pods are found by their claims, and a change of a pod concerns its own claims only when these are about to be deleted.

use serde_json::json;

use hub_runtime::Context;
use hub_runtime::ReconcileError;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{AnyView, ClaimView, ObjectMeta, PodClaimsView, VolumeView};
use hub_runtime::writer::Writer;
use hub_runtime::{Event, Field, Next, ObjectRef, Queue, Reader, Reconciler};

/// After a write that met another.
const CONFLICT_RETRY: std::time::Duration = std::time::Duration::from_millis(200);

/// What is protected.
const PROTECTED: &[Kind] = &[Kind::PersistentVolumeClaim, Kind::PersistentVolume, Kind::VolumeAttributesClass];

fn finalizer(kind: Kind) -> &'static str {
    match kind {
        Kind::PersistentVolumeClaim => "kubernetes.io/pvc-protection",
        Kind::PersistentVolume => "kubernetes.io/pv-protection",
        _ => "kubernetes.io/vac-protection",
    }
}

/// What is looked at alone: kind, namespace and name.
type Key = (Kind, Box<str>, Box<str>);

/// The controller.
pub(crate) struct Protection {
    context: Context,
}

/// What an object needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// The finalizer, before somebody deletes it.
    Finalizer,
    /// To be released when nobody uses it.
    Release,
}

fn need(kind: Kind, metadata: &ObjectMeta<'_>) -> Need {
    match (metadata.is_terminating(), metadata.has_finalizer(finalizer(kind))) {
        (false, false) => Need::Finalizer,
        (true, true) => Need::Release,
        _ => Need::Nothing,
    }
}

impl Protection {
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    fn observe_protected(kind: Kind, object: &ObjectRef, queue: &Queue<Key>) {
        if let Some(view) = object.view_or_log::<AnyView<'_>>()
            && need(kind, &view.metadata) != Need::Nothing
        {
            queue.add((kind, object.namespace().into(), object.name().into()));
        }
    }

    /// What somebody has used may be released now.
    fn look_at(&self, kind: Kind, namespace: &str, name: &str, queue: &Queue<Key>) {
        let object = self.context.reader.get(kind, namespace, name);
        object.iter().for_each(|object| Self::observe_protected(kind, object, queue));
    }

    /// A pod's claims, when it has just ceased to use them.
    fn observe_pod(&self, previous: Option<&ObjectRef>, current: Option<&ObjectRef>, queue: &Queue<Key>) {
        let Some(pod) = current.or(previous) else { return };
        let claims = pod.claims();
        let is_over = || {
            current
                .is_none_or(|pod| pod.view_or_log::<PodClaimsView<'_>>().is_none_or(|pod| is_shut_down(&pod.metadata)))
        };
        if !claims.is_empty() && is_over() {
            claims.iter().for_each(|claim| self.look_at(Kind::PersistentVolumeClaim, pod.namespace(), claim, queue));
        }
    }

    /// Classes that a claim or a volume has ceased to use.
    fn observe_user(&self, kind: Kind, previous: Option<&ObjectRef>, current: Option<&ObjectRef>, queue: &Queue<Key>) {
        let classes = |object: Option<&ObjectRef>| object.map(|object| classes_of(kind, object)).unwrap_or_default();
        let now = classes(current);
        for class in classes(previous).iter().filter(|class| !now.contains(class)) {
            self.look_at(Kind::VolumeAttributesClass, "", class, queue);
        }
    }

    async fn is_used(&self, kind: Kind, object: &ObjectRef) -> Result<bool, ReconcileError> {
        match kind {
            Kind::PersistentVolumeClaim => is_claim_used(&*self.context.reader, &self.context.writer, object).await,
            Kind::PersistentVolume => Ok(object.view::<VolumeView<'_>>()?.status.phase == *"Bound"),
            _ => {
                // Classes are few and are hardly ever deleted: what uses them is looked for among all.
                let mut users = [Kind::PersistentVolumeClaim, Kind::PersistentVolume].into_iter().flat_map(|kind| {
                    let all = self.context.reader.list(kind, None);
                    all.map(move |user| classes_of(kind, &user))
                });
                Ok(users.any(|classes| classes.iter().any(|class| **class == *object.name())))
            }
        }
    }
}

/// Whether a pod that is placed has the claim.
async fn is_claim_used(reader: &dyn Reader, writer: &Writer, object: &ObjectRef) -> Result<bool, ReconcileError> {
    let claim: ClaimView<'_> = object.view()?;
    let (namespace, name) = (object.namespace(), object.name());
    let pods = reader.by_field(Kind::Pod, Field::Claim, &format!("{namespace}/{name}"));
    for pod in pods {
        // One that cannot be read may use it.
        if uses(&pod.view()?, name, &claim.metadata) {
            return Ok(true);
        }
    }
    if reader.is_current() {
        return Ok(false);
    }
    // A reader may be behind a pod that has just been placed, and the claim would be deleted under it.
    for pod in writer.list_now(Kind::Pod, namespace).await? {
        let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let pod = ObjectRef::watched(namespace, pod_name, 0, pod.to_string().into());
        if uses(&pod.view()?, name, &claim.metadata) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a pod has a claim of this name. That of an ephemeral volume is the pod's own: another one of that name is not meant,
/// and it may go before the pod does, which might wait for it.
fn uses(pod: &PodClaimsView<'_>, name: &str, claim: &ObjectMeta<'_>) -> bool {
    let is_own = claim.controller().is_some_and(|owner| *owner.uid == *pod.metadata.uid);
    let is_used = |(claim, is_ephemeral): (String, bool)| {
        claim == name && (!is_ephemeral || (is_own && !is_shut_down(&pod.metadata)))
    };
    !pod.spec.node_name.is_empty() && pod.claims().any(is_used)
}

/// Whether a pod's kubelet is done with it, or nobody waits for the kubelet any more: only finalizers keep it.
fn is_shut_down(pod: &ObjectMeta<'_>) -> bool {
    pod.is_terminating() && pod.deletion_grace_period_seconds == Some(0)
}

/// The classes that a claim or a volume has, had, or is about to have.
fn classes_of(kind: Kind, object: &ObjectRef) -> Vec<Box<str>> {
    let mut classes: Vec<Box<str>> = Vec::new();
    let mut add = |class: &str| {
        if !class.is_empty() {
            classes.push(class.into());
        }
    };
    if kind == Kind::PersistentVolume {
        if let Some(volume) = object.view_or_log::<VolumeView<'_>>() {
            add(&volume.spec.volume_attributes_class_name);
        }
    } else if let Some(claim) = object.view_or_log::<ClaimView<'_>>() {
        add(&claim.spec.volume_attributes_class_name);
        add(&claim.status.current_volume_attributes_class_name);
        add(&claim.status.modify_volume_status.target_volume_attributes_class_name);
    }
    classes
}

impl Reconciler for Protection {
    type Key = Key;

    fn name(&self) -> &'static str {
        "protection"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::PersistentVolumeClaim, Kind::PersistentVolume, Kind::VolumeAttributesClass, Kind::Pod]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        match event {
            // Users may have been deleted unseen.
            Event::Listed(..) => {
                for kind in PROTECTED {
                    let all = self.context.reader.list(*kind, None);
                    all.for_each(|object| Self::observe_protected(*kind, &object, queue));
                }
            }
            Event::Changed(change) => {
                let (previous, current) = (change.previous.as_ref(), change.current.as_ref());
                if change.kind == Kind::Pod {
                    return self.observe_pod(previous, current, queue);
                }
                current.iter().for_each(|object| Self::observe_protected(change.kind, object, queue));
                if change.kind != Kind::VolumeAttributesClass {
                    self.observe_user(change.kind, previous, current, queue);
                }
            }
        }
    }

    async fn reconcile(&self, (kind, namespace, name): &Key) -> Result<Next, ReconcileError> {
        let Context { reader, writer, .. } = &self.context;
        let Some(object) = reader.get(*kind, namespace, name) else { return Ok(Next::OnChange) };
        let metadata = object.view::<AnyView<'_>>()?.metadata;
        let own = finalizer(*kind);
        let mut finalizers: Vec<&str> = metadata.finalizers.iter().map(|one| &**one).collect();
        match need(*kind, &metadata) {
            Need::Nothing => return Ok(Next::OnChange),
            Need::Finalizer => finalizers.push(own),
            // Its last user's end brings the next run.
            Need::Release if self.is_used(*kind, &object).await? => return Ok(Next::OnChange),
            Need::Release => finalizers.retain(|one| *one != own),
        }
        // As it was read: finalizers of others come and go as well.
        let patch = json!({"metadata": {
            "uid": metadata.uid, "resourceVersion": metadata.resource_version, "finalizers": finalizers,
        }});
        match writer.merge(*kind, (namespace, name), &patch).await? {
            true => Ok(Next::OnChange),
            false => Ok(Next::After(CONFLICT_RETRY)),
        }
    }
}

#[cfg(test)]
mod tests;
