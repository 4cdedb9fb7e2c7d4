//! Makes and deletes the volumes of classes whose provisioner is `selvedge.dev/local`: directories of nodes.
//!
//! ```text
//! claim with a selected node ──▶ PersistentVolume (local, of that node, finalizer) ──▶ the node makes the directory when a pod uses it
//! claim deleted ──▶ volume Released ──▶ volume deleted here ──▶ the node removes the directory ──▶ the node takes the finalizer away
//! ```
//!
//! The hub never touches a directory, and the object of a volume outlives it: a node that is away for months finds its volumes
//! released when it comes back. Two volumes have nobody to wait for: one that is retained, whose data is its administrator's
//! from then on, and one whose Node was deleted. Their directories stay where they are.
//!
//! A node has as much storage to give as its disk is large, less what its volumes were promised. What the disk holds beside them
//! is measured by the node itself, which evicts pods when it runs short.

use std::time::Duration;

use api_edge::LABEL_NODE;
use api_edge::volumes::{ANNOTATION_DIRECTORY, FINALIZER, LABEL_HOSTNAME, PROVISIONER};
use api_kube::Quantity;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use hub_runtime::kinds::Kind;
use hub_runtime::{Context, Event, Field, Next, ObjectRef, Queue, ReconcileError, Reconciler};

use crate::binder::Key;
use crate::views::{Claim, Class, Node, PodView, Volume};
use api_edge::volumes::PROVISIONED_BY;
use hub_runtime::volumes::{PROVISIONER_OF_CLAIM, SELECTED_NODE};

/// What cannot be made now is tried again after this time: an administrator sets something right, a node reports more.
const FAILED_RETRY: Duration = Duration::from_secs(15);
/// After a write that met another.
const CONFLICT_RETRY: Duration = Duration::from_millis(100);
/// Longest directory that a node may offer.
const DIRECTORY_BYTES_MAX: usize = 1024;

/// The controller.
pub(crate) struct Provisioner {
    context: Context,
    /// One volume is made at a time: two that are must not be promised the same space.
    making: Mutex<()>,
}

/// Why a volume is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    /// Not on this node: the scheduler is to choose another.
    Node(String),
    /// Nowhere, as the claim or its class is.
    Claim(String),
}

/// Bytes that a node has promised to its volumes, those among `volumes` that are directories of it.
fn promised(volumes: impl Iterator<Item = Value>, node: &str) -> Quantity {
    let own = volumes.filter(|volume| api_edge::volumes::node_of(volume) == Some(node));
    let sizes = own.filter_map(|volume| volume["spec"]["capacity"]["storage"].as_str()?.parse::<Quantity>().ok());
    sizes.fold(Quantity::ZERO, Quantity::saturating_add)
}

/// Where a node keeps its volumes, as it says itself.
fn directory<'n>(node: &'n Node<'_>) -> Result<&'n str, Refusal> {
    let name = &*node.metadata.name;
    let Some(directory) = node.annotations.get(ANNOTATION_DIRECTORY) else {
        return Err(Refusal::Node(format!("node {name:?} offers no directory for volumes")));
    };
    let is_path = directory.starts_with('/')
        && directory.len() <= DIRECTORY_BYTES_MAX
        && directory.split('/').all(|part| part != "..")
        && !directory.contains(|character: char| character.is_control());
    match is_path {
        true => Ok(directory.trim_end_matches('/')),
        false => Err(Refusal::Node(format!("node {name:?} offers a directory for volumes that is no absolute path"))),
    }
}

/// Whether a claim is one that a directory of a node can serve.
fn check_claim(claim: &Claim<'_>, class: &Class<'_>) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(Refusal::Claim(why.to_owned()));
    if &*claim.spec.volume_mode == "Block" {
        return refuse("a directory of a node is no block device; leave volumeMode out");
    }
    let is_of_one_node = |mode: &str| matches!(mode, "ReadWriteOnce" | "ReadWriteOncePod");
    if claim.spec.access_modes.is_empty() || !claim.spec.access_modes.iter().all(|mode| is_of_one_node(mode)) {
        return refuse("a directory of a node supports the access modes ReadWriteOnce and ReadWriteOncePod only");
    }
    if claim.spec.selector.is_some() {
        return refuse("claim.spec.selector is not supported: a new volume has no labels");
    }
    if claim.spec.data_source.is_some() || claim.spec.data_source_ref.is_some() {
        return refuse("a directory of a node begins empty; leave dataSource out");
    }
    if claim.request() <= Quantity::ZERO {
        return refuse("it requests no storage");
    }
    if !class.mount_options.is_empty() {
        return refuse("a directory of a node is not mounted; leave mountOptions out of the class");
    }
    if let Some((parameter, _)) = class.parameters.iter().next() {
        return refuse(&format!("the class has a parameter that is unknown to {PROVISIONER}: {parameter:?}"));
    }
    Ok(())
}

/// The volume for a claim on a node, whose volumes have been promised so much.
fn volume_for(claim: &Claim<'_>, class: &Class<'_>, node: &Node<'_>, promised: Quantity) -> Result<Value, Refusal> {
    check_claim(claim, class)?;
    let directory = directory(node)?;
    let node_name = &*node.metadata.name;
    if node.metadata.labels.get(LABEL_HOSTNAME) != Some(node_name) {
        let why = format!("label {LABEL_HOSTNAME} of node {node_name:?} is not its name");
        return Err(Refusal::Node(why));
    }
    let disk = node.status.allocatable.get("ephemeral-storage").copied().unwrap_or(Quantity::ZERO);
    // A node that does not say how large its disk is takes what comes.
    if !disk.is_zero() && promised.saturating_add(claim.request()) > disk {
        return Err(Refusal::Node(format!(
            "node {node_name:?} did not have enough free storage: {} requested, {promised} of {disk} promised already",
            claim.request()
        )));
    }
    let metadata = &claim.metadata;
    let name = volume_name(&metadata.uid);
    let policy = if class.reclaim_policy.is_empty() { "Delete" } else { &*class.reclaim_policy };
    let on_node = json!({"key": LABEL_HOSTNAME, "operator": "In", "values": [node_name]});
    Ok(json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": name, "annotations": {PROVISIONED_BY: PROVISIONER}, "finalizers": [FINALIZER],
            "labels": {LABEL_NODE: node_name},
        },
        "spec": {
            "accessModes": claim.spec.access_modes,
            "capacity": {"storage": claim.request()},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": metadata.namespace,
                "name": metadata.name, "uid": metadata.uid,
            },
            "local": {"path": format!("{directory}/{name}")},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": claim.class(),
            "volumeMode": "Filesystem",
        },
    }))
}

/// The name of a claim's volume, as every provisioner has it: no two claims have one.
fn volume_name(claim_uid: &str) -> String {
    format!("pvc-{claim_uid}")
}

/// What a volume of ours needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VolumeNeed {
    Nothing,
    /// To be deleted: its claim is, and so shall be the data.
    Delete,
    /// Nobody will remove its directory: it does not wait for that.
    Release,
    /// The label by which its node finds it.
    Label,
}

/// What a volume needs that is a directory of `node`, which exists or not.
fn volume_need(volume: &Volume<'_>, node: &str, has_node: bool) -> VolumeNeed {
    let is_deleting_data = &*volume.spec.persistent_volume_reclaim_policy == "Delete";
    let is_released = &*volume.status.phase == "Released";
    match volume.metadata.is_terminating() {
        false if is_released && is_deleting_data => VolumeNeed::Delete,
        true if volume.metadata.has_finalizer(FINALIZER) && (!is_deleting_data || (is_released && !has_node)) => {
            VolumeNeed::Release
        }
        _ if volume.metadata.labels.get(LABEL_NODE) != Some(node) => VolumeNeed::Label,
        _ => VolumeNeed::Nothing,
    }
}

impl Provisioner {
    pub fn new(context: Context) -> Self {
        Self { context, making: Mutex::default() }
    }

    async fn reconcile_claim(&self, namespace: &str, name: &str) -> Result<Next, ReconcileError> {
        let Context { reader, writer, recorder, .. } = &self.context;
        let Some(object) = reader.get(Kind::PersistentVolumeClaim, namespace, name) else { return Ok(Next::OnChange) };
        let claim: Claim<'_> = object.view()?;
        if !claim.spec.volume_name.is_empty() || claim.metadata.is_terminating() || claim.class().is_empty() {
            return Ok(Next::OnChange);
        }
        let Some(class_object) = reader.get(Kind::StorageClass, "", claim.class()) else { return Ok(Next::OnChange) };
        let class: Class<'_> = class_object.view()?;
        // The binder names on the claim who is to make its volume, once it has found none that is there.
        let is_ours = PROVISIONER_OF_CLAIM.iter().any(|key| claim.annotations.get(key) == Some(PROVISIONER));
        if &*class.provisioner != PROVISIONER || !is_ours {
            return Ok(Next::OnChange);
        }
        let Some(selected) = claim.annotations.get(SELECTED_NODE) else {
            if !class.waits() {
                let why = "no node was selected; set volumeBindingMode: WaitForFirstConsumer in the class";
                self.refuse(&claim, why);
                return Ok(Next::After(FAILED_RETRY));
            }
            return Ok(Next::OnChange);
        };
        let _making = self.making.lock().await;
        let volume_name = volume_name(&claim.metadata.uid);
        if reader.get(Kind::PersistentVolume, "", &volume_name).is_some() {
            // The binder does the rest.
            return Ok(Next::OnChange);
        }
        let node_object = reader.get(Kind::Node, "", selected);
        let node: Option<Node<'_>> = node_object.as_ref().map(ObjectRef::view).transpose()?;
        let made = match &node {
            None => Err(Refusal::Node(format!("node {selected:?} not found"))),
            Some(node) => {
                let volumes = reader.list(Kind::PersistentVolume, None);
                // A volume that cannot be read is none of ours: nothing was promised to it.
                // Most are of other nodes, which their bytes say before they are read.
                let names_node =
                    |volume: &ObjectRef| std::str::from_utf8(volume.bytes()).is_ok_and(|text| text.contains(selected));
                let volumes = volumes.filter(names_node).filter_map(|volume| volume.value().ok());
                let promised = promised(volumes, selected);
                volume_for(&claim, &class, node, promised)
            }
        };
        match made {
            Ok(volume) => {
                let of = format!("{namespace}/{name}");
                let message = format!("External provisioner is provisioning volume for claim {of:?}");
                recorder.normal(Kind::PersistentVolumeClaim, claim.target(), "Provisioning", message);
                writer.create(Kind::PersistentVolume, volume).await?;
                let message = format!("Successfully provisioned volume {volume_name}");
                recorder.normal(Kind::PersistentVolumeClaim, claim.target(), "ProvisioningSucceeded", message);
                Ok(Next::OnChange)
            }
            Err(Refusal::Claim(why)) => {
                self.refuse(&claim, &why);
                Ok(Next::After(FAILED_RETRY))
            }
            Err(Refusal::Node(why)) => {
                self.refuse(&claim, &why);
                let patch = json!({"metadata": {
                    "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
                    "annotations": {SELECTED_NODE: null},
                }});
                // Its scheduler chooses again; the binder does for pods that nobody schedules.
                match self.is_scheduled(&claim) {
                    true => match writer.merge(Kind::PersistentVolumeClaim, (namespace, name), &patch).await? {
                        true => Ok(Next::OnChange),
                        false => Ok(Next::After(CONFLICT_RETRY)),
                    },
                    false => Ok(Next::After(FAILED_RETRY)),
                }
            }
        }
    }

    /// Whether a scheduler may still choose another node for the claim: none of its pods is placed.
    fn is_scheduled(&self, claim: &Claim<'_>) -> bool {
        let of = format!("{}/{}", &*claim.metadata.namespace, &*claim.metadata.name);
        let pods = self.context.reader.by_field(Kind::Pod, Field::Claim, &of);
        !pods.iter().any(|pod| {
            let view: Option<PodView<'_>> = pod.view_or_log();
            view.is_some_and(|pod| pod.is_live() && pod.is_placed())
        })
    }

    fn refuse(&self, claim: &Claim<'_>, why: &str) {
        let message = format!("failed to provision volume with StorageClass {:?}: {why}", claim.class());
        self.context.recorder.warning(Kind::PersistentVolumeClaim, claim.target(), "ProvisioningFailed", message);
    }

    async fn reconcile_volume(&self, name: &str) -> Result<Next, ReconcileError> {
        let Context { reader, writer, .. } = &self.context;
        let Some(object) = reader.get(Kind::PersistentVolume, "", name) else { return Ok(Next::OnChange) };
        let whole = object.value()?;
        let Some(node) = api_edge::volumes::node_of(&whole) else { return Ok(Next::OnChange) };
        let volume: Volume<'_> = object.view()?;
        let has_node = reader.get(Kind::Node, "", node).is_some();
        let metadata = &volume.metadata;
        let is_written = match volume_need(&volume, node, has_node) {
            VolumeNeed::Nothing => true,
            VolumeNeed::Delete => {
                let propagation = kube::api::PropagationPolicy::Background;
                let version = &metadata.resource_version;
                writer.delete_unchanged(Kind::PersistentVolume, volume.target(), version, propagation).await?
            }
            VolumeNeed::Label => {
                let patch = json!({"metadata": {"uid": metadata.uid, "labels": {LABEL_NODE: node}}});
                writer.merge(Kind::PersistentVolume, ("", name), &patch).await?
            }
            VolumeNeed::Release => {
                let left: Vec<&str> =
                    metadata.finalizers.iter().map(|one| &**one).filter(|one| *one != FINALIZER).collect();
                let patch = json!({"metadata": {
                    "uid": metadata.uid, "resourceVersion": metadata.resource_version, "finalizers": left,
                }});
                writer.merge(Kind::PersistentVolume, ("", name), &patch).await?
            }
        };
        Ok(if is_written { Next::OnChange } else { Next::After(CONFLICT_RETRY) })
    }
}

impl Reconciler for Provisioner {
    type Key = Key;

    fn name(&self) -> &'static str {
        "local-provisioner"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::PersistentVolumeClaim, Kind::PersistentVolume, Kind::StorageClass, Kind::Node]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        let reader = &self.context.reader;
        let add = |kind: Kind, object: &ObjectRef| match kind {
            Kind::PersistentVolume => queue.add(Key::Volume(object.name().into())),
            _ => queue.add(Key::Claim(object.namespace().into(), object.name().into())),
        };
        let all = |kind: Kind| reader.list(kind, None).for_each(|object| add(kind, &object));
        match event {
            Event::Listed(Kind::PersistentVolumeClaim | Kind::PersistentVolume, _) => {
                all(Kind::PersistentVolumeClaim);
                all(Kind::PersistentVolume);
            }
            Event::Listed(Kind::StorageClass, _) => all(Kind::PersistentVolumeClaim),
            // Nodes that were deleted unseen: their volumes wait for nobody.
            Event::Listed(..) => all(Kind::PersistentVolume),
            Event::Changed(change) => match (change.kind, &change.current) {
                (Kind::Node, None) => all(Kind::PersistentVolume),
                // What a node reports all the time concerns nobody.
                (Kind::Node, Some(_)) => {}
                (Kind::StorageClass, _) => all(Kind::PersistentVolumeClaim),
                (_, None) => {}
                (kind, Some(object)) => add(kind, object),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: &Value) -> String {
        let mut whole = json!({
            "storageClassName": "local", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}},
        });
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        json!({"metadata": {"namespace": "d", "name": "data", "uid": "c"}, "spec": whole}).to_string()
    }

    fn node(annotations: &Value, hostname: &str) -> String {
        json!({
            "metadata": {"name": "gw-1", "annotations": annotations, "labels": {LABEL_HOSTNAME: hostname}},
            "status": {"allocatable": {"ephemeral-storage": "20Gi"}},
        })
        .to_string()
    }

    fn offer() -> Value {
        json!({ANNOTATION_DIRECTORY: "/var/lib/selvedge/node/volumes/"})
    }

    fn made(of_claim: Value, class: Value, node: &str, promised: &str) -> Result<Value, Refusal> {
        let (claim, class) = (claim(&of_claim), class.to_string());
        let (claim, class) = (serde_json::from_str(&claim).unwrap(), serde_json::from_str(&class).unwrap());
        volume_for(&claim, &class, &serde_json::from_str(node).unwrap(), promised.parse().unwrap())
    }

    #[test]
    fn a_claim_gets_a_directory_of_its_node() {
        let volume = made(json!({}), json!({"reclaimPolicy": "Retain"}), &node(&offer(), "gw-1"), "0").unwrap();
        assert_eq!(volume["metadata"]["name"], "pvc-c");
        assert_eq!(volume["metadata"]["finalizers"], json!([FINALIZER]));
        assert_eq!(volume["spec"]["local"]["path"], "/var/lib/selvedge/node/volumes/pvc-c");
        assert_eq!(volume["spec"]["capacity"], json!({"storage": "5Gi"}));
        assert_eq!(volume["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(volume["spec"]["claimRef"]["uid"], "c");
        assert_eq!(api_edge::volumes::node_of(&volume), Some("gw-1"));
    }

    #[test]
    fn what_a_node_cannot_have_is_refused_there_and_what_no_node_can_everywhere() {
        let usual = || node(&offer(), "gw-1");
        let whole = || json!({"resources": {"requests": {"storage": "20Gi"}}});
        assert!(made(whole(), json!({}), &usual(), "0").is_ok(), "all of the disk");
        for (what, claim, class, node, promised, of_node) in [
            (
                "more than the disk",
                json!({"resources": {"requests": {"storage": "21Gi"}}}),
                json!({}),
                usual(),
                "0",
                true,
            ),
            ("more than is left", json!({}), json!({}), usual(), "16Gi", true),
            ("no directory", json!({}), json!({}), node(&json!({}), "gw-1"), "0", true),
            ("no path", json!({}), json!({}), node(&json!({ANNOTATION_DIRECTORY: "volumes"}), "gw-1"), "0", true),
            ("a way out", json!({}), json!({}), node(&json!({ANNOTATION_DIRECTORY: "/a/../etc"}), "gw-1"), "0", true),
            ("another host name", json!({}), json!({}), node(&offer(), "other"), "0", true),
            ("a block device", json!({"volumeMode": "Block"}), json!({}), usual(), "0", false),
            ("many nodes", json!({"accessModes": ["ReadWriteMany"]}), json!({}), usual(), "0", false),
            ("a selector", json!({"selector": {"matchLabels": {"a": "b"}}}), json!({}), usual(), "0", false),
            ("a snapshot", json!({"dataSource": {"name": "s"}}), json!({}), usual(), "0", false),
            ("options", json!({}), json!({"mountOptions": ["noatime"]}), usual(), "0", false),
            ("parameters", json!({}), json!({"parameters": {"fsType": "xfs"}}), usual(), "0", false),
        ] {
            match made(claim, class, &node, promised) {
                Err(Refusal::Node(why)) => assert!(of_node, "{what}: {why}"),
                Err(Refusal::Claim(why)) => assert!(!of_node, "{what}: {why}"),
                Ok(volume) => panic!("{what}: {volume}"),
            }
        }
    }

    #[test]
    fn what_a_nodes_volumes_were_promised_adds_up() {
        let on = |node: &str, by: &str, storage: Value| {
            let term = json!({"matchExpressions": [{"key": LABEL_HOSTNAME, "operator": "In", "values": [node]}]});
            json!({
                "metadata": {"annotations": {PROVISIONED_BY: by}},
                "spec": {
                    "capacity": {"storage": storage}, "local": {},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
                },
            })
        };
        let volumes = [
            on("gw-1", PROVISIONER, json!("1Gi")),
            on("gw-1", PROVISIONER, json!("1024Mi")),
            on("gw-2", PROVISIONER, json!("1Gi")),
            on("gw-1", "x.io/other", json!("1Gi")),
            on("gw-1", PROVISIONER, json!({})),
        ];
        assert_eq!(promised(volumes.into_iter(), "gw-1").to_string(), "2Gi");
    }

    #[test]
    fn a_released_volume_is_deleted_and_waits_for_its_node_alone() {
        let need = |policy: &str, phase: &str, terminating: bool, has_node: bool| {
            let deleted = terminating.then_some("2026-01-01T00:00:00Z");
            let text = json!({
                "metadata": {
                    "deletionTimestamp": deleted, "finalizers": [FINALIZER], "labels": {LABEL_NODE: "gw-1"},
                },
                "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase},
            })
            .to_string();
            assert_eq!(volume_need(&Volume::default(), "gw-1", true), VolumeNeed::Label);
            volume_need(&serde_json::from_str(&text).unwrap(), "gw-1", has_node)
        };
        for (policy, phase, terminating, has_node, expected) in [
            ("Delete", "Bound", false, true, VolumeNeed::Nothing),
            ("Delete", "Released", false, true, VolumeNeed::Delete),
            ("Delete", "Released", true, true, VolumeNeed::Nothing),
            ("Delete", "Released", true, false, VolumeNeed::Release),
            ("Delete", "Bound", true, false, VolumeNeed::Nothing),
            ("Retain", "Released", false, true, VolumeNeed::Nothing),
            ("Retain", "Released", true, true, VolumeNeed::Release),
        ] {
            assert_eq!(
                need(policy, phase, terminating, has_node),
                expected,
                "{policy} {phase} {terminating} {has_node}"
            );
        }
    }
}
