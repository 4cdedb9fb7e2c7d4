//! What controllers read from: objects as encoded bytes, found by name or by a field, and their changes.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use kube::core::ApiResource;
use serde::Deserialize;
use serde_json::Value;

use crate::kinds::{CustomResource, Kind};
use crate::views::{AnyView, PodClaimsView, PodSpecView};

/// A field by whose exact value objects are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Field {
    /// `uid` of any of the object's owner references; of every kind.
    OwnerUid,
    /// `spec.nodeName` of pods and assignments.
    NodeName,
    /// `NAMESPACE/NAME` of the claims of pods, those that are created for ephemeral volumes among them.
    Claim,
}

/// The objects of an API, as controllers see them. Reading costs no request and no copy.
pub trait Reader: Send + Sync + 'static {
    /// One object; `namespace` is empty for cluster-scoped kinds.
    fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<ObjectRef>;

    /// All objects of a kind in order of namespace and name, or those of one namespace.
    fn list(&self, kind: Kind, namespace: Option<&str>) -> Box<dyn Iterator<Item = ObjectRef> + Send + '_>;

    /// Objects of a kind with this value in this field, in order of namespace and name.
    fn by_field(&self, kind: Kind, field: Field, value: &str) -> Vec<ObjectRef>;

    /// The kind's first whole list as [`Event::Listed`], then every change. Another list comes when changes were missed.
    /// What an event says is visible through the other functions when it arrives.
    fn subscribe(&self, kind: Kind) -> Subscription;

    /// The uids of objects of any resource that are deleted from now on, as far as they are noticed; `None` where nobody
    /// notices them. Some may be left out when very many come at once.
    fn deletions(&self, resource: &ApiResource) -> Option<BoxStream<'static, String>> {
        let _ = resource;
        None
    }

    /// One object of what somebody has defined. A reader that keeps the kinds of ours only shows none.
    fn get_custom(&self, resource: &CustomResource, namespace: &str, name: &str) -> Option<ObjectRef> {
        let _ = (resource, namespace, name);
        None
    }

    /// All such objects.
    fn list_custom(&self, resource: &CustomResource) -> Vec<ObjectRef> {
        let _ = resource;
        Vec::new()
    }

    /// Such objects with this uid among their owners.
    fn custom_by_owner(&self, resource: &CustomResource, uid: &str) -> Vec<ObjectRef> {
        let _ = (resource, uid);
        Vec::new()
    }

    /// All such objects, and every change after that; `None` where nobody notices them.
    fn subscribe_custom(&self, resource: &CustomResource) -> Option<BoxStream<'static, CustomEvent>> {
        let _ = resource;
        None
    }

    /// Whether the kind's first whole list is there.
    fn has_synced(&self, kind: Kind) -> bool;

    /// The revision up to which changes of the kind are visible.
    fn revision(&self, kind: Kind) -> u64;

    /// Whether it shows what is there now, and not what was there a moment ago.
    fn is_current(&self) -> bool {
        false
    }
}

/// Changes of one kind.
pub type Subscription = BoxStream<'static, Event>;

/// What a [`Subscription`] yields.
#[derive(Clone, Debug)]
pub enum Event {
    /// All objects of the kind; whatever was there before and is not among them is deleted.
    Listed(Kind, Arc<[ObjectRef]>),
    /// One object changed.
    Changed(Change),
}

/// What a subscription to what somebody has defined yields.
#[derive(Clone, Debug)]
pub enum CustomEvent {
    /// All objects; whatever was there before and is not among them is deleted.
    Listed(Arc<[ObjectRef]>),
    /// One object changed: the versions before and after.
    Changed(Option<ObjectRef>, Option<ObjectRef>),
}

/// One change of one object. At least one version is there: only `current` when it was created, only `previous` when it
/// was deleted.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object's kind.
    pub kind: Kind,
    /// The version before.
    pub previous: Option<ObjectRef>,
    /// The version now.
    pub current: Option<ObjectRef>,
}

impl Change {
    /// The newest version that is known, for its name.
    pub fn newest(&self) -> &ObjectRef {
        self.current.as_ref().or(self.previous.as_ref()).expect("a change has a version before or after it")
    }

    /// The versions before and after.
    pub fn versions(&self) -> impl Iterator<Item = &ObjectRef> {
        self.previous.iter().chain(&self.current)
    }
}

/// One version of one object, encoded and shared.
#[derive(Clone)]
pub struct ObjectRef(Repr);

#[derive(Clone)]
enum Repr {
    /// The store's own.
    Stored(Arc<machinery_store::Object>),
    /// From a watch.
    Watched(Arc<Watched>),
}

struct Watched {
    namespace: Box<str>,
    name: Box<str>,
    revision: u64,
    bytes: Bytes,
}

/// An object does not read as what its kind says.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the object {namespace}/{name}")]
pub struct ReadObjectError {
    namespace: String,
    name: String,
    #[source]
    source: serde_json::Error,
}

impl ObjectRef {
    pub(crate) fn stored(object: Arc<machinery_store::Object>) -> Self {
        Self(Repr::Stored(object))
    }

    /// A version that a watch or a test has.
    pub fn watched(namespace: &str, name: &str, revision: u64, bytes: Bytes) -> Self {
        Self(Repr::Watched(Arc::new(Watched { namespace: namespace.into(), name: name.into(), revision, bytes })))
    }

    /// `metadata.namespace`; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        match &self.0 {
            Repr::Stored(object) => &object.key.namespace,
            Repr::Watched(object) => &object.namespace,
        }
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        match &self.0 {
            Repr::Stored(object) => &object.key.name,
            Repr::Watched(object) => &object.name,
        }
    }

    /// `metadata.resourceVersion` as a number.
    pub fn revision(&self) -> u64 {
        match &self.0 {
            Repr::Stored(object) => object.revision.0,
            Repr::Watched(object) => object.revision,
        }
    }

    /// The object as JSON.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Stored(object) => &object.bytes,
            Repr::Watched(object) => &object.bytes,
        }
    }

    /// Names of the claims of a pod, those that are created for its ephemeral volumes among them.
    pub fn claims(&self) -> Vec<Box<str>> {
        match &self.0 {
            // Every change of every pod comes here: most have none, which their index says without a look at their bytes.
            Repr::Stored(object) => {
                let references = object.index.iter().filter(|(field, _)| *field == super::store_reader::REFERENCES);
                references.filter_map(|(_, to)| to.strip_prefix(super::store_reader::CLAIM)).map(Into::into).collect()
            }
            Repr::Watched(_) => {
                let pod = self.view_or_log::<PodClaimsView<'_>>();
                pod.iter().flat_map(PodClaimsView::claims).map(|(name, _)| name.into()).collect()
            }
        }
    }

    /// Reads a view that borrows from the object.
    ///
    /// # Errors
    /// When a field of the view has another type in the object.
    pub fn view<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ReadObjectError> {
        serde_json::from_slice(self.bytes()).map_err(|source| ReadObjectError {
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            source,
        })
    }

    /// Like [`view`](Self::view), for event handlers: an object that cannot be read concerns nobody.
    pub fn view_or_log<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        self.view()
            .inspect_err(|error| tracing::debug!(error = %base_observe::Chain(error), "Left out an object."))
            .ok()
    }

    /// The whole object, where it is changed and written back.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn value(&self) -> Result<Value, ReadObjectError> {
        self.view()
    }
}

impl fmt::Debug for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} at {}", self.namespace(), self.name(), self.revision())
    }
}

/// Namespace and name.
pub(crate) type Name = (Box<str>, Box<str>);

/// Objects by the values of their fields; holds names, not objects.
#[derive(Default)]
pub(crate) struct FieldIndex {
    names: HashMap<(Field, Box<str>), BTreeSet<Name>>,
}

impl FieldIndex {
    /// Takes a change in.
    pub fn apply(&mut self, kind: Kind, previous: Option<&ObjectRef>, current: Option<&ObjectRef>) {
        let before = previous.map(|object| fields_of(kind, object)).unwrap_or_default();
        let after = current.map(|object| fields_of(kind, object)).unwrap_or_default();
        if let Some(object) = previous {
            let name = name_of(object);
            for field in before.iter().filter(|field| !after.contains(field)) {
                if let Some(names) = self.names.get_mut(field) {
                    names.remove(&name);
                    if names.is_empty() {
                        self.names.remove(field);
                    }
                }
            }
        }
        if let Some(object) = current {
            for field in after.into_iter().filter(|field| !before.contains(field)) {
                self.names.entry(field).or_default().insert(name_of(object));
            }
        }
    }

    /// Names of the objects with this value.
    pub fn find(&self, field: Field, value: &str) -> Vec<Name> {
        self.names.get(&(field, value.into())).map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }
}

pub(crate) fn name_of(object: &ObjectRef) -> Name {
    (object.namespace().into(), object.name().into())
}

/// The indexed values of an object.
fn fields_of(kind: Kind, object: &ObjectRef) -> Vec<(Field, Box<str>)> {
    #[derive(Deserialize)]
    struct Placed<'a> {
        #[serde(borrow, default)]
        spec: PodSpecView<'a>,
    }
    let mut fields = Vec::new();
    if let Ok(view) = object.view::<AnyView<'_>>() {
        fields.extend(view.metadata.owner_references.iter().map(|owner| (Field::OwnerUid, owner.uid.as_str().into())));
    }
    if matches!(kind, Kind::Pod | Kind::NodeAssignment)
        && let Ok(view) = object.view::<Placed<'_>>()
        && !view.spec.node_name.is_empty()
    {
        fields.push((Field::NodeName, view.spec.node_name.as_str().into()));
    }
    if kind == Kind::Pod {
        let namespace = object.namespace();
        fields.extend(object.claims().iter().map(|claim| (Field::Claim, format!("{namespace}/{claim}").into())));
    }
    fields
}
