//! The offline store: everything the node acts on, on disk before it is acted on.
//!
//! Keys are `format`, `pods/<uid>`, `configmaps/<ns>/<name>`, `secrets/<ns>/<name>`, `state/<uid>` (what the kubelet itself decided
//! about a pod), `tokens/<uid>` (tokens of a pod's service account), `assignment`, `addresses` and `services/<ns>/<name>`. Secrets and tokens are sealed with a key of
//! this node, so that a stolen SD card without `node/pki` says none. Calls block on the disk: callers on the runtime's threads go through `spawn_blocking`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use api_edge::services::ServiceRecord;
use base_journal::{OpenSnapshotError, SnapshotError, SnapshotOptions, SnapshotStore};
use bytes::Bytes;
use jiff::Timestamp;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::task::task_tracker::TaskTrackerToken;

use node_client::{HubState, Notice, StatusRegistry};
use node_runtime::{HostPort, PodInstance};

use crate::admission;
use crate::ballast::Ballast;
use crate::manager::STATIC_UID_PREFIX;
use crate::model::{Pod, References};
use crate::tokens::{KeptToken, TokenRef};

/// Form of the entries.
const FORMAT: u32 = 1;

/// Length of the node's store key.
const KEY_LEN: usize = 32;

/// Why the offline store could not be opened or written. What was there before stays.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store itself.
    #[error("failed to open the offline store")]
    Open(#[from] OpenSnapshotError),
    /// The key that Secrets are sealed with.
    #[error("failed to read the store key {}", path.display())]
    ReadKey {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A new key could not be kept.
    #[error("failed to keep the store key")]
    WriteKey(#[source] base_pki::WriteFileError),
    /// The system gives no randomness.
    #[error("failed to make a store key: the system gives no random numbers")]
    Random,
    /// A change could not be written.
    #[error("failed to write to the offline store; is the disk full?")]
    Write(#[from] SnapshotError),
}

/// A kind of object that pods refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectKind {
    ConfigMap,
    Secret,
    Claim,
    Volume,
}

impl ObjectKind {
    /// All of them.
    const ALL: [Self; 4] = [Self::ConfigMap, Self::Secret, Self::Claim, Self::Volume];

    /// Whether a node may read it and not watch it, as a stock control plane has it.
    pub(crate) fn is_read_only_now_and_then(self) -> bool {
        matches!(self, Self::Claim | Self::Volume)
    }

    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
            Self::Claim => "persistentvolumeclaims",
            Self::Volume => "persistentvolumes",
        }
    }

    /// As in `kind`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::Claim => "PersistentVolumeClaim",
            Self::Volume => "PersistentVolume",
        }
    }

    pub(crate) fn singular(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
            Self::Claim => "persistentvolumeclaim",
            Self::Volume => "persistentvolume",
        }
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    pub kind: ObjectKind,
    /// None of a PersistentVolume, which is the cluster's.
    pub namespace: String,
    pub name: String,
}

/// The object with the API's CA, which every namespace has and every pod refers to.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";

impl ObjectKey {
    pub(crate) fn is_root_ca(&self) -> bool {
        self.kind == ObjectKind::ConfigMap && self.name == ROOT_CA
    }

    fn key(&self) -> String {
        format!("{}/{}/{}", self.kind.plural(), self.namespace, self.name)
    }

    /// The keys of everything a pod in `namespace` refers to.
    pub(crate) fn of(references: &References, namespace: &str) -> BTreeSet<Self> {
        let key = |kind, name: &String| Self { kind, namespace: namespace.to_owned(), name: name.clone() };
        let config_maps = references.config_maps.iter().map(|name| key(ObjectKind::ConfigMap, name));
        let claims = references.claims.iter().map(|name| key(ObjectKind::Claim, name));
        config_maps.chain(references.secrets.iter().map(|name| key(ObjectKind::Secret, name))).chain(claims).collect()
    }

    /// A PersistentVolume.
    pub(crate) fn of_volume(name: &str) -> Self {
        Self { kind: ObjectKind::Volume, namespace: String::new(), name: name.to_owned() }
    }
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    /// The hub has not been asked yet.
    Unknown,
    /// The hub said that there is none.
    Absent,
    /// The object.
    Present(Value),
}

/// What the node's network had given to a pod when that was last kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptPod {
    /// The pod.
    pub uid: String,
    /// Its network namespace; `None` while it was not set up.
    pub netns: Option<PathBuf>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node's ports that lead to it: none of a pod that is over.
    pub host_ports: Vec<HostPort>,
}

/// What the kubelet itself decided about a pod, and must still know after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodState {
    /// When the kubelet took the pod up.
    pub start_time: Option<Timestamp>,
    /// Reason and message when it failed as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<(String, String)>,
    /// Whether it failed because the node could not keep it, not for a reason of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_disrupted: bool,
    /// The hub that has it no more is not the one that started it: it runs on until a person decides.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub on_hold: bool,
    /// What was last reported of it that the next start is to believe until it knows better: conditions with their times, and which
    /// containers were ready.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub reported: Value,
    /// What it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// For each container that has a `postStart` the newest attempt for which that was done.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub post_started: std::collections::BTreeMap<String, u32>,
}

/// The instance of a pod, and which attempts of its containers are in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Instance {
    /// As the runtime has set it up.
    pub instance: PodInstance,
    /// For each container the first attempt in this instance; what is older ran in one before.
    #[serde(default)]
    pub first_attempts: std::collections::BTreeMap<String, u32>,
}

/// Version of [`KeptService`].
const SERVICE_VERSION: u32 = 1;

/// A Service that concerns this node, as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptService {
    /// Version of this form.
    version: u32,
    service: ServiceRecord,
}

/// Version of [`KeptAddresses`].
const ADDRESSES_VERSION: u32 = 1;

/// Addresses that were handed out last, as they are kept.
#[derive(Serialize, Deserialize)]
struct KeptAddresses {
    /// Version of this form.
    version: u32,
    last: Vec<IpAddr>,
}

/// The offline store.
pub struct Store {
    snapshots: SnapshotStore,
    /// Space for when the disk is full.
    ballast: Ballast,
    key: LessSafeKey,
    /// What became of a damaged key.
    repair: Option<String>,
    /// Who says that the disk is read-only, and whether that was said.
    registry: Option<StatusRegistry>,
    is_read_only: AtomicBool,
    /// Held while it is decided whether a state has a pod: none outlives its own.
    states: Mutex<()>,
    /// Released after the directory is (fields are dropped in order): whoever waits for it may open the directory again. A write
    /// under way on a blocking thread outlives the task that asked for it.
    _open: TaskTrackerToken,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("entries", &self.snapshots.len()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store under `data_dir`/node, or makes one. `open` is held until the directory is free again.
    ///
    /// # Errors
    /// When it cannot be read at all, or was written by a newer program.
    pub fn open(data_dir: &Path, open: TaskTrackerToken) -> Result<Self, StoreError> {
        let (key, repair) = load_key(&data_dir.join("node/pki/store.key"))?;
        let snapshots = SnapshotStore::open(&data_dir.join("node/store"), SnapshotOptions::default())?;
        snapshots.require_format(FORMAT)?;
        let ballast = Ballast::hold(&data_dir.join("node"));
        let is_read_only = AtomicBool::new(false);
        let store = Self {
            snapshots,
            ballast,
            key,
            repair,
            registry: None,
            is_read_only,
            states: Mutex::default(),
            _open: open,
        };
        store.forget_leftovers();
        Ok(store)
    }

    /// Forgets states and tokens whose pod is forgotten: whoever was killed while forgetting it has left them. A disk that takes
    /// nothing keeps them until the next start.
    fn forget_leftovers(&self) {
        for kind in ["state/", "tokens/"] {
            for (key, _) in self.snapshots.iter_prefix(kind) {
                let is_left = key.strip_prefix(kind).is_some_and(|uid| !self.may_have_state(uid));
                if is_left && let Err(error) = self.write(|snapshots| snapshots.remove(&key)) {
                    tracing::warn!(key, %error, "Failed to forget what is left of a pod.");
                    return;
                }
            }
        }
    }

    /// Whether a pod is kept, or is a static one, which alone has a state without an object.
    fn may_have_state(&self, uid: &str) -> bool {
        uid.starts_with(STATIC_UID_PREFIX) || self.pod(uid).is_some()
    }

    /// Has the Node say when the disk is read-only: the condition `ReadonlyFilesystem`, as node-problem-detector calls it.
    pub fn report_to(&mut self, registry: StatusRegistry) {
        self.registry = Some(registry);
    }

    fn note_disk(&self, is_read_only: bool) {
        let Some(registry) = &self.registry else { return };
        if self.is_read_only.swap(is_read_only, Ordering::Relaxed) != is_read_only {
            let notice = is_read_only.then(|| Notice {
                reason: "FilesystemIsReadOnly",
                message: "the node's disk is read-only: pods run, with state and logs of new containers in memory; check the disk, and \
                          start the box again"
                    .to_owned(),
            });
            registry.set_condition("ReadonlyFilesystem", notice);
        }
    }

    /// Writes, on a full disk with the space that was kept for that.
    fn write<T>(&self, write: impl Fn(&SnapshotStore) -> Result<T, SnapshotError>) -> Result<T, StoreError> {
        let written = write(&self.snapshots);
        let refuses = |source: &std::io::Error| source.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
        self.note_disk(matches!(&written, Err(SnapshotError::Write { source, .. }) if refuses(source)));
        match written {
            Err(SnapshotError::Full { .. }) if self.ballast.give_up() => Ok(write(&self.snapshots)?),
            written => {
                let written = written?;
                self.ballast.restore();
                Ok(written)
            }
        }
    }

    /// How many entries it has.
    pub fn entries(&self) -> usize {
        self.snapshots.len()
    }

    /// What opening had to repair, as a sentence; `None` when nothing.
    pub fn repairs(&self) -> Option<String> {
        let recovery = self.snapshots.recovery();
        let repaired = (*recovery != Default::default()).then(|| format!("{recovery:?}"));
        let repairs: Vec<String> = repaired.into_iter().chain(self.repair.clone()).collect();
        (!repairs.is_empty()).then(|| repairs.join("; "))
    }

    /// Pods as JSON, with their uids.
    pub(crate) fn pods(&self) -> Vec<(String, Bytes)> {
        let strip = |(key, bytes): (String, Bytes)| Some((key.strip_prefix("pods/")?.to_owned(), bytes));
        self.snapshots.iter_prefix("pods/").into_iter().filter_map(strip).collect()
    }

    /// One pod as JSON.
    pub(crate) fn pod(&self, uid: &str) -> Option<Bytes> {
        self.snapshots.get(&format!("pods/{uid}"))
    }

    pub(crate) fn put_pod(&self, uid: &str, json: Bytes) -> Result<(), StoreError> {
        self.put(&format!("pods/{uid}"), json)
    }

    /// Keeps a pod with the next [`Store::sync`].
    pub(crate) fn put_pod_later(&self, uid: &str, json: Bytes) -> Result<(), StoreError> {
        self.write(|snapshots| snapshots.put(&format!("pods/{uid}"), json.clone()))
    }

    /// Puts on disk what was kept for later.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.write(SnapshotStore::sync)
    }

    /// What the hub was known to have when its pods were listed last.
    pub fn hub_state(&self) -> HubState {
        self.snapshots.get("hub").and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Keeps it, with the next write that is synced: one that is a little old is found to be continued all the same.
    pub(crate) fn put_hub_state(&self, state: &HubState) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(state).expect("a text and a number become JSON");
        self.write(|snapshots| snapshots.put("hub", bytes.clone()))
    }

    /// Forgets a pod and what was decided about it. The pod is first: one without its state would be started again.
    pub(crate) fn remove_pod(&self, uid: &str) -> Result<(), StoreError> {
        {
            let _states = self.states();
            self.write(|snapshots| snapshots.remove(&format!("pods/{uid}")))?;
            self.write(|snapshots| snapshots.remove(&format!("state/{uid}")))?;
        }
        self.write(|snapshots| snapshots.remove(&format!("tokens/{uid}")))?;
        self.write(SnapshotStore::sync)
    }

    fn states(&self) -> MutexGuard<'_, ()> {
        // It guards nothing that a panic could leave half done.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pod_state(&self, uid: &str) -> PodState {
        let bytes = self.snapshots.get(&format!("state/{uid}"));
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Keeps it; `is_urgent` when it must be there after a power cut. A write that comes after the pod was deleted brings nothing
    /// back.
    pub(crate) fn put_pod_state(&self, uid: &str, state: &PodState, is_urgent: bool) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(state).expect("times and texts become JSON");
        {
            let _states = self.states();
            if !self.may_have_state(uid) {
                return Ok(());
            }
            self.write(|snapshots| snapshots.put(&format!("state/{uid}"), bytes.clone()))?;
        }
        if is_urgent { self.sync() } else { Ok(()) }
    }

    /// The pods that have had addresses of their own.
    pub fn pods_with_addresses(&self) -> Vec<KeptPod> {
        let states = self.snapshots.iter_prefix("state/").into_iter();
        let kept = states.filter_map(|(key, _)| {
            let uid = key.strip_prefix("state/").filter(|uid| self.may_have_state(uid))?;
            let instance = self.pod_state(uid).instance?.instance;
            let netns = instance.namespaces.iter().find(|one| one.kind == "net").map(|one| one.path.clone());
            let pod = self.pod(uid).and_then(|json| Pod::from_json(&json).ok());
            let is_over = |pod: &Pod| matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
            let host_ports = pod.filter(|pod| !is_over(pod)).map(|pod| admission::host_ports(&pod));
            let host_ports = host_ports.unwrap_or_default();
            Some(KeptPod { uid: uid.to_owned(), netns, addresses: instance.addresses, host_ports })
        });
        kept.filter(|pod| !pod.addresses.is_empty()).collect()
    }

    /// Which addresses were handed out last.
    pub fn last_addresses(&self) -> Vec<IpAddr> {
        let kept =
            self.snapshots.get("addresses").and_then(|bytes| serde_json::from_slice::<KeptAddresses>(&bytes).ok());
        kept.filter(|kept| kept.version == ADDRESSES_VERSION).map(|kept| kept.last).unwrap_or_default()
    }

    /// Keeps which addresses were handed out last, with the next write that is synced: after a power cut no program remembers those of
    /// the moment before it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_last_addresses(&self, last: &[IpAddr]) -> Result<(), StoreError> {
        if self.last_addresses() == last {
            return Ok(());
        }
        let kept = KeptAddresses { version: ADDRESSES_VERSION, last: last.to_vec() };
        let bytes = Bytes::from(serde_json::to_vec(&kept).expect("texts and numbers become JSON"));
        self.write(|snapshots| snapshots.put("addresses", bytes.clone()))
    }

    pub(crate) fn object(&self, key: &ObjectKey) -> Known {
        let name = key.key();
        let Some(bytes) = self.snapshots.get(&name) else { return Known::Unknown };
        if bytes.is_empty() {
            return Known::Absent;
        }
        let plain = match key.kind {
            ObjectKind::ConfigMap | ObjectKind::Claim | ObjectKind::Volume => Some(bytes),
            ObjectKind::Secret => self.unseal(&name, &bytes).map(Into::into),
        };
        // What cannot be read (another key, a damaged value) is as good as never fetched.
        plain.and_then(|plain| serde_json::from_slice(&plain).ok()).map_or(Known::Unknown, Known::Present)
    }

    /// Keeps an object, or that there is none; answers whether that is news.
    pub(crate) fn put_object(&self, key: &ObjectKey, object: Option<&Value>) -> Result<bool, StoreError> {
        let news = match (self.object(key), object) {
            (Known::Present(old), Some(new)) => data_of(&old) != data_of(new),
            (Known::Absent, None) => false,
            _ => true,
        };
        if news {
            let name = key.key();
            let bytes = match object {
                None => Bytes::new(),
                Some(object) => {
                    let plain = object.to_string().into_bytes();
                    match key.kind {
                        ObjectKind::ConfigMap | ObjectKind::Claim | ObjectKind::Volume => plain.into(),
                        ObjectKind::Secret => self.seal(&name, plain)?,
                    }
                }
            };
            self.put(&name, bytes)?;
        }
        Ok(news)
    }

    /// Forgets objects that no pod refers to any more.
    pub(crate) fn retain_objects(&self, desired: &BTreeSet<ObjectKey>) -> Result<(), StoreError> {
        let desired: BTreeSet<String> = desired.iter().map(ObjectKey::key).collect();
        let mut changed = false;
        for kind in ObjectKind::ALL {
            for (key, _) in self.snapshots.iter_prefix(&format!("{}/", kind.plural())) {
                if !desired.contains(&key) {
                    changed |= self.write(|snapshots| snapshots.remove(&key))?;
                }
            }
        }
        if changed {
            self.sync()?;
        }
        Ok(())
    }

    /// Tokens that the hub has issued for a pod. What cannot be read is as good as never issued.
    pub(crate) fn tokens(&self, uid: &str) -> Vec<KeptToken> {
        let name = format!("tokens/{uid}");
        let plain = self.snapshots.get(&name).and_then(|sealed| self.unseal(&name, &sealed));
        plain.and_then(|plain| serde_json::from_slice(&plain).ok()).unwrap_or_default()
    }

    /// The one that a volume asks for.
    pub(crate) fn token(&self, of: &TokenRef) -> Option<KeptToken> {
        self.tokens(&of.pod_uid).into_iter().find(|kept| kept.is_of(of))
    }

    /// Keeps a token in the place of its predecessor. That of a pod which is forgotten meanwhile is dropped.
    pub(crate) fn put_token(&self, of: &TokenRef, token: KeptToken) -> Result<(), StoreError> {
        if self.snapshots.get(&format!("pods/{}", of.pod_uid)).is_none() {
            return Ok(());
        }
        let mut tokens = self.tokens(&of.pod_uid);
        tokens.retain(|kept| !kept.is_of(of));
        tokens.push(token);
        // The newest stay: a pod's spec names no more than these at a time.
        let surplus = tokens.len().saturating_sub(crate::tokens::TOKENS_OF_POD_MAX);
        tokens.drain(..surplus);
        let name = format!("tokens/{}", of.pod_uid);
        let plain = serde_json::to_vec(&tokens).expect("times and texts become JSON");
        let sealed = self.seal(&name, plain)?;
        self.put(&name, sealed)
    }

    /// Forgets tokens of pods that are not known, which a kubelet that was killed between two writes may have left.
    pub(crate) fn sweep_tokens(&self) -> Result<(), StoreError> {
        let mut changed = false;
        for (key, _) in self.snapshots.iter_prefix("tokens/") {
            let uid = key.strip_prefix("tokens/").unwrap_or_default();
            if self.snapshots.get(&format!("pods/{uid}")).is_none() {
                changed |= self.write(|snapshots| snapshots.remove(&key))?;
            }
        }
        if changed {
            self.sync()?;
        }
        Ok(())
    }

    /// Whether this node's assignment had entries for the edge plane when the hub was last heard; `None` when that is not known, which stops nothing.
    pub fn assignment_present(&self) -> Option<bool> {
        self.snapshots.get("assignment").map(|value| &value[..] == b"1")
    }

    /// Keeps whether this node's assignment has entries for the edge plane.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn put_assignment_present(&self, present: bool) -> Result<(), StoreError> {
        if self.assignment_present() == Some(present) {
            return Ok(());
        }
        self.put("assignment", Bytes::from_static(if present { b"1" } else { b"0" }))
    }

    /// The Services that concern this node, by namespace and name, as the hub said last. One that cannot be read is left out: the hub's
    /// next word puts it back.
    pub fn services(&self) -> Vec<ServiceRecord> {
        let kept = self.snapshots.iter_prefix("services/").into_iter().filter_map(|(_, bytes)| read_service(&bytes));
        let mut services: Vec<ServiceRecord> = kept.collect();
        services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        services
    }

    /// Keeps the Services that concern this node, and no others. Only what has changed is written.
    ///
    /// # Errors
    /// When the disk refuses; some may be kept already.
    pub fn put_services(&self, services: &[ServiceRecord]) -> Result<(), StoreError> {
        let key = |service: &ServiceRecord| format!("services/{}/{}", service.namespace, service.name);
        let mut has_changed = false;
        for service in services {
            let kept = KeptService { version: SERVICE_VERSION, service: service.clone() };
            let bytes = Bytes::from(serde_json::to_vec(&kept).expect("texts and numbers become JSON"));
            let key = key(service);
            if self.snapshots.get(&key).as_ref() != Some(&bytes) {
                self.write(|snapshots| snapshots.put(&key, bytes.clone()))?;
                has_changed = true;
            }
        }
        let keys: BTreeSet<String> = services.iter().map(key).collect();
        for (key, _) in self.snapshots.iter_prefix("services/") {
            if !keys.contains(&key) {
                has_changed |= self.write(|snapshots| snapshots.remove(&key))?;
            }
        }
        if has_changed { self.sync() } else { Ok(()) }
    }

    fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.write(|snapshots| snapshots.put(key, bytes.clone()))?;
        self.write(SnapshotStore::sync)
    }

    /// Nonce, then cipher text; bound to its key, so that two secrets cannot be swapped on disk.
    fn seal(&self, name: &str, mut plain: Vec<u8>) -> Result<Bytes, StoreError> {
        let mut nonce = [0_u8; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| StoreError::Random)?;
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name.as_bytes()), &mut plain)
            .map_err(|_| StoreError::Random)?;
        Ok([&nonce[..], &plain].concat().into())
    }

    fn unseal(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, cipher) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut cipher = cipher.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut cipher).ok()?;
        Some(plain.to_vec())
    }
}

fn read_service(bytes: &[u8]) -> Option<ServiceRecord> {
    let kept: KeptService = serde_json::from_slice(bytes).ok()?;
    (kept.version == SERVICE_VERSION).then_some(kept.service)
}

/// The parts of an object that reach a container.
fn data_of(object: &Value) -> (&Value, &Value, &Value) {
    (&object["data"], &object["binaryData"], &object["metadata"]["resourceVersion"])
}

/// Reads the key that Secrets are sealed with, or makes one. A damaged one is put aside: pods without Secrets start without it, and
/// the others get theirs from the hub again.
fn load_key(path: &Path) -> Result<(LessSafeKey, Option<String>), StoreError> {
    let mut repair = None;
    let bytes = match std::fs::read(path) {
        Ok(bytes) if bytes.len() == KEY_LEN => bytes,
        Ok(_) => {
            let aside = path.with_extension("key.damaged");
            std::fs::rename(path, &aside).map_err(|source| StoreError::ReadKey { path: path.to_owned(), source })?;
            let text = format!("the store key was damaged and is now {}; Secrets are fetched again", aside.display());
            repair = Some(text);
            new_key(path)?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => new_key(path)?,
        Err(source) => return Err(StoreError::ReadKey { path: path.to_owned(), source }),
    };
    let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| StoreError::Random)?;
    Ok((LessSafeKey::new(key), repair))
}

fn new_key(path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0_u8; KEY_LEN];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StoreError::Random)?;
    base_pki::write_private(path, &bytes).map_err(StoreError::WriteKey)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
