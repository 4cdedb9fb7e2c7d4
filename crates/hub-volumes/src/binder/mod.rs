//! Binds claims to volumes, and says of both how far they are.
//!
//! ```text
//! claim   Pending ──volume found or made──▶ Bound ──its volume is deleted──▶ Lost
//! volume  Available ──claim found──▶ Bound ──claim deleted──▶ Released ──▶ (its provisioner deletes it), or Failed
//! ```
//!
//! A binding is four writes: the volume names the claim, the volume is Bound, the claim names the volume, the claim is Bound.
//! Each is made only where it is missing, and the first and third only on the version that was read, so a binding that was cut
//! short anywhere is completed by the next run, and of two that meet one comes again.
//!
//! A claim whose class waits for its first pod is bound by the scheduler's choice of a node. A pod that has a node without the
//! scheduler, of a DaemonSet or by hand, has chosen it: its claim is treated as if a scheduler had.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use hub_runtime::kinds::Kind;
use hub_runtime::writer::Target;
use hub_runtime::{Context, Event, Field, Next, ObjectRef, Queue, ReconcileError, Reconciler};

use crate::views::{Claim, Class, Node, PodView, Volume};
use hub_runtime::volumes::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONER_OF_CLAIM, SELECTED_NODE};

mod plan;

use plan::{ClaimFacts, ClaimOf, ClaimStep, Said, VolumeStep, claim_step, volume_step};

/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(100);
/// A claim that waits says so again, as Events are not kept for long.
const SAY_AGAIN: Duration = Duration::from_secs(15 * 60);

/// What is looked at alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    /// A claim, by namespace and name.
    Claim(Box<str>, Box<str>),
    /// A volume, by name.
    Volume(Box<str>),
}

/// The controller.
pub(crate) struct Binder {
    context: Context,
    /// Claims that wait for a volume, a class or a pod; a new one of these concerns them all.
    waiting: Mutex<BTreeSet<Key>>,
}

impl Binder {
    pub fn new(context: Context) -> Self {
        Self { context, waiting: Mutex::default() }
    }

    fn wake_waiting(&self, queue: &Queue<Key>) {
        self.waiting.lock().iter().for_each(|key| queue.add(key.clone()));
    }

    fn observe_claim(&self, claim: &ObjectRef, is_deleted: bool, queue: &Queue<Key>) {
        queue.add(Key::Claim(claim.namespace().into(), claim.name().into()));
        let Some(view) = claim.view_or_log::<Claim<'_>>() else { return };
        if !view.spec.volume_name.is_empty() {
            queue.add(Key::Volume((&*view.spec.volume_name).into()));
        } else if is_deleted {
            // A binding may have been cut short: the volume names the claim, and not the other way round.
            for volume in self.context.reader.list(Kind::PersistentVolume, None) {
                if volume.view_or_log::<Volume<'_>>().is_some_and(|volume| volume.is_for(&view)) {
                    queue.add(Key::Volume(volume.name().into()));
                }
            }
        }
    }

    fn observe_volume(&self, volume: &ObjectRef, queue: &Queue<Key>) {
        queue.add(Key::Volume(volume.name().into()));
        let Some(view) = volume.view_or_log::<Volume<'_>>() else { return };
        match &view.spec.claim_ref {
            Some(claim) => queue.add(Key::Claim((&*claim.namespace).into(), (&*claim.name).into())),
            None => self.wake_waiting(queue),
        }
    }

    fn observe_pod(&self, pod: &ObjectRef, queue: &Queue<Key>) {
        let claims = pod.claims();
        if claims.is_empty() {
            return;
        }
        let waiting = self.waiting.lock();
        let keys = claims.into_iter().map(|claim| Key::Claim(pod.namespace().into(), claim));
        keys.filter(|key| waiting.contains(key)).for_each(|key| queue.add(key));
    }

    fn say(&self, kind: Kind, target: Target<'_>, said: &Said) {
        let message = said.message.clone();
        match said.is_warning {
            true => self.context.recorder.warning(kind, target, said.reason, message),
            false => self.context.recorder.normal(kind, target, said.reason, message),
        }
    }

    async fn reconcile_claim(&self, namespace: &str, name: &str) -> Result<Next, ReconcileError> {
        let Context { reader, writer, .. } = &self.context;
        let key = Key::Claim(namespace.into(), name.into());
        let Some(object) = reader.get(Kind::PersistentVolumeClaim, namespace, name) else {
            self.waiting.lock().remove(&key);
            return Ok(Next::OnChange);
        };
        let claim: Claim<'_> = object.view()?;
        // Before anything is read that it waits for: what comes meanwhile wakes it.
        self.waiting.lock().insert(key.clone());
        let step = self.claim_step(&claim)?;
        if !matches!(step, ClaimStep::Wait { .. }) {
            self.waiting.lock().remove(&key);
        }
        let place = (namespace, name);
        let patch = |annotations: Value, spec: Value| json!({"metadata": version(&claim.metadata.uid, &claim.metadata.resource_version, annotations), "spec": spec});
        let is_written = match step {
            ClaimStep::Keep => true,
            ClaimStep::SetClass(class) => {
                let patch = patch(json!({}), json!({"storageClassName": class}));
                writer.merge(Kind::PersistentVolumeClaim, place, &patch).await?
            }
            ClaimStep::SelectNode(node) => {
                let patch = patch(json!({SELECTED_NODE: node}), json!({}));
                writer.merge(Kind::PersistentVolumeClaim, place, &patch).await?
            }
            ClaimStep::Bind(volume) => self.bind(&claim, &volume).await?,
            ClaimStep::Lose(said) => {
                if &*claim.status.phase != "Lost" && self.set_unbound(&claim, "Lost").await? {
                    self.say(Kind::PersistentVolumeClaim, claim.target(), &said);
                }
                true
            }
            ClaimStep::Wait { said, provisioner } => {
                if let Some(said) = said {
                    self.say(Kind::PersistentVolumeClaim, claim.target(), &said);
                }
                if let Some(provisioner) = provisioner
                    && PROVISIONER_OF_CLAIM.iter().any(|key| claim.annotations.get(key) != Some(&provisioner))
                {
                    let annotations = PROVISIONER_OF_CLAIM.map(|key| (key.to_owned(), provisioner.clone().into()));
                    let patch = patch(Value::Object(annotations.into_iter().collect()), json!({}));
                    if !writer.merge(Kind::PersistentVolumeClaim, place, &patch).await? {
                        return Ok(Next::After(CONFLICT_RETRY));
                    }
                }
                if &*claim.status.phase != "Pending" {
                    self.set_unbound(&claim, "Pending").await?;
                }
                return Ok(Next::After(SAY_AGAIN));
            }
        };
        Ok(if is_written { Next::OnChange } else { Next::After(CONFLICT_RETRY) })
    }

    /// Reads what the claim's next step depends on, and as little as that: most claims are bound.
    fn claim_step(&self, claim: &Claim<'_>) -> Result<ClaimStep, ReconcileError> {
        let reader = &self.context.reader;
        let named = match &*claim.spec.volume_name {
            "" => None,
            name => reader.get(Kind::PersistentVolume, "", name),
        };
        let named: Option<Volume<'_>> = named.as_ref().map(ObjectRef::view).transpose()?;
        let is_searching =
            claim.spec.volume_name.is_empty() && !claim.is_bind_completed() && !claim.metadata.is_terminating();
        let facts =
            ClaimFacts { named: named.as_ref(), volumes: &[], class: None, default_class: None, pods: &[], node: None };
        if !is_searching {
            return Ok(claim_step(claim, &facts));
        }
        let class = match claim.class() {
            "" => None,
            class => reader.get(Kind::StorageClass, "", class),
        };
        let class: Option<Class<'_>> = class.as_ref().map(ObjectRef::view).transpose()?;
        let default_class = if claim.named_class().is_none() { self.default_class() } else { None };
        let volumes: Vec<ObjectRef> = reader.list(Kind::PersistentVolume, None).collect();
        // A volume that cannot be read is nobody's, and holds up no claim.
        let volumes: Vec<Volume<'_>> = volumes.iter().filter_map(ObjectRef::view_or_log).collect();
        let of_claim = format!("{}/{}", &*claim.metadata.namespace, &*claim.metadata.name);
        let pods = reader.by_field(Kind::Pod, Field::Claim, &of_claim);
        let pods: Vec<PodView<'_>> = pods.iter().filter_map(ObjectRef::view_or_log).collect();
        let placed = pods.iter().find(|pod| pod.is_live() && pod.is_placed());
        let node = placed.and_then(|pod| reader.get(Kind::Node, "", &pod.spec.node_name));
        let node: Option<Node<'_>> = node.as_ref().map(ObjectRef::view).transpose()?;
        let facts = ClaimFacts {
            volumes: &volumes,
            class: class.as_ref(),
            default_class: default_class.as_deref(),
            pods: &pods,
            node: node.as_ref(),
            ..facts
        };
        Ok(claim_step(claim, &facts))
    }

    /// The newest of the classes that are marked as the default; of several of one second the first by name.
    fn default_class(&self) -> Option<String> {
        let classes = self.context.reader.list(Kind::StorageClass, None);
        let defaults = classes.filter_map(|object| {
            let class = object.view_or_log::<Class<'_>>()?;
            let created = class.metadata.created();
            class.is_default().then(|| (created, std::cmp::Reverse(object.name().to_owned())))
        });
        defaults.max().map(|(_, name)| name.0)
    }

    async fn set_unbound(&self, claim: &Claim<'_>, phase: &str) -> Result<bool, ReconcileError> {
        let status = json!({"phase": phase, "accessModes": null, "capacity": null});
        Ok(self.context.writer.merge_status_of(Kind::PersistentVolumeClaim, claim.target(), &status).await?)
    }

    /// Completes the binding of a claim to a volume; `false` when somebody else has changed one of them meanwhile.
    async fn bind(&self, claim: &Claim<'_>, volume: &str) -> Result<bool, ReconcileError> {
        let Context { reader, writer, .. } = &self.context;
        let Some(object) = reader.get(Kind::PersistentVolume, "", volume) else { return Ok(false) };
        let found: Volume<'_> = object.view()?;
        if !found.is_for(claim) && found.spec.claim_ref.is_some() {
            return Ok(false);
        }
        let metadata = &claim.metadata;
        if found.spec.claim_ref.as_ref().is_none_or(|of| of.uid != metadata.uid) {
            let annotations = match found.is_for(claim) {
                true => json!({}),
                false => json!({BOUND_BY_CONTROLLER: "yes"}),
            };
            let reference = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": metadata.namespace,
                "name": metadata.name, "uid": metadata.uid,
            });
            let of = version(&found.metadata.uid, &found.metadata.resource_version, annotations);
            let patch = json!({"metadata": of, "spec": {"claimRef": reference}});
            if !writer.merge(Kind::PersistentVolume, ("", volume), &patch).await? {
                return Ok(false);
            }
        }
        if &*found.status.phase != "Bound" {
            let status = json!({"phase": "Bound", "message": null});
            writer.merge_status_of(Kind::PersistentVolume, found.target(), &status).await?;
        }
        let is_named = claim.spec.volume_name == *volume;
        if !is_named || !claim.is_bind_completed() {
            let mut annotations = json!({BIND_COMPLETED: "yes"});
            if !is_named {
                annotations[BOUND_BY_CONTROLLER] = "yes".into();
            }
            let of = version(&metadata.uid, &metadata.resource_version, annotations);
            let patch = json!({"metadata": of, "spec": {"volumeName": volume}});
            if !writer.merge(Kind::PersistentVolumeClaim, (&metadata.namespace, &metadata.name), &patch).await? {
                return Ok(false);
            }
        }
        if &*claim.status.phase != "Bound" || claim.status.access_modes != found.spec.access_modes {
            let mut status = json!({"phase": "Bound", "accessModes": found.spec.access_modes});
            // A claim that was bound before may have grown since.
            if &*claim.status.phase != "Bound" || claim.status.capacity.is_none() {
                status["capacity"] = json!(found.spec.capacity);
            }
            writer.merge_status_of(Kind::PersistentVolumeClaim, claim.target(), &status).await?;
        }
        Ok(true)
    }

    async fn reconcile_volume(&self, name: &str) -> Result<Next, ReconcileError> {
        let Context { reader, writer, .. } = &self.context;
        let Some(object) = reader.get(Kind::PersistentVolume, "", name) else { return Ok(Next::OnChange) };
        let volume: Volume<'_> = object.view()?;
        let reference = volume.spec.claim_ref.as_ref().map(|claim| (&*claim.namespace, &*claim.name));
        let found = reference.and_then(|(namespace, name)| reader.get(Kind::PersistentVolumeClaim, namespace, name));
        let claim: Option<Claim<'_>> = found.as_ref().map(ObjectRef::view).transpose()?;
        let claim = claim.as_ref().map_or(ClaimOf::Deleted, ClaimOf::Found);
        let step = volume_step(&volume, claim);
        match step {
            VolumeStep::Keep => {}
            VolumeStep::Phase(phase, _) if *volume.status.phase == *phase.name() => {}
            VolumeStep::Phase(phase, said) => {
                let is_end = matches!(phase, plan::VolumePhase::Released | plan::VolumePhase::Failed);
                if is_end && self.has_claim_now(&volume).await? {
                    return Ok(Next::After(CONFLICT_RETRY));
                }
                let message = said.as_ref().map(|said| said.message.as_str());
                let status = json!({"phase": phase.name(), "message": message});
                let is_written = writer.merge_status_of(Kind::PersistentVolume, volume.target(), &status).await?;
                if let Some(said) = said.filter(|_| is_written) {
                    self.say(Kind::PersistentVolume, volume.target(), &said);
                }
            }
            VolumeStep::Unbind { forgets_claim } => {
                let metadata = &volume.metadata;
                let (annotations, claim) = match forgets_claim {
                    true => (json!({BOUND_BY_CONTROLLER: null}), Value::Null),
                    false => (json!({}), json!({"uid": null})),
                };
                let of = version(&metadata.uid, &metadata.resource_version, annotations);
                let patch = json!({"metadata": of, "spec": {"claimRef": claim}});
                if !writer.merge(Kind::PersistentVolume, ("", name), &patch).await? {
                    return Ok(Next::After(CONFLICT_RETRY));
                }
            }
        }
        Ok(Next::OnChange)
    }

    /// Whether a reader that may be behind has missed the claim: its data is not to be deleted for that.
    async fn has_claim_now(&self, volume: &Volume<'_>) -> Result<bool, ReconcileError> {
        let Some(of) = volume.spec.claim_ref.as_ref().filter(|_| !self.context.reader.is_current()) else {
            return Ok(false);
        };
        let found = self.context.writer.get_now(Kind::PersistentVolumeClaim, (&of.namespace, &of.name)).await?;
        let is_it = |claim: Value| {
            claim["metadata"]["uid"] == *of.uid
                && (claim["spec"]["volumeName"] == *volume.metadata.name || claim["spec"]["volumeName"].is_null())
        };
        Ok(found.is_some_and(is_it))
    }
}

/// The metadata of a patch that is for the version that was read, and for no other.
fn version(uid: &str, resource_version: &str, annotations: Value) -> Value {
    json!({"uid": uid, "resourceVersion": resource_version, "annotations": annotations})
}

impl Reconciler for Binder {
    type Key = Key;

    fn name(&self) -> &'static str {
        "persistentvolume-binder"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::PersistentVolumeClaim, Kind::PersistentVolume, Kind::StorageClass, Kind::Pod]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        match event {
            Event::Listed(Kind::PersistentVolumeClaim, claims) => {
                // Their volumes learn of claims that were deleted unseen.
                for volume in self.context.reader.list(Kind::PersistentVolume, None) {
                    queue.add(Key::Volume(volume.name().into()));
                }
                claims.iter().for_each(|claim| queue.add(Key::Claim(claim.namespace().into(), claim.name().into())));
            }
            Event::Listed(Kind::PersistentVolume, volumes) => {
                for claim in self.context.reader.list(Kind::PersistentVolumeClaim, None) {
                    queue.add(Key::Claim(claim.namespace().into(), claim.name().into()));
                }
                volumes.iter().for_each(|volume| queue.add(Key::Volume(volume.name().into())));
            }
            Event::Listed(..) => self.wake_waiting(queue),
            Event::Changed(change) => match change.kind {
                Kind::PersistentVolumeClaim => {
                    let is_deleted = change.current.is_none();
                    change.versions().for_each(|claim| self.observe_claim(claim, is_deleted, queue));
                }
                Kind::PersistentVolume => change.versions().for_each(|volume| self.observe_volume(volume, queue)),
                Kind::Pod => self.observe_pod(change.newest(), queue),
                _ => self.wake_waiting(queue),
            },
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        match key {
            Key::Claim(namespace, name) => self.reconcile_claim(namespace, name).await,
            Key::Volume(name) => self.reconcile_volume(name).await,
        }
    }
}
