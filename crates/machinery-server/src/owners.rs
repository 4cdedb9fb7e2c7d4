//! Who owns which fields of the objects that are written: the way from a request to `machinery-merge`.
//!
//! Owners are stored beside an object, in few bytes, and put into its `metadata.managedFields` when it is shown. Objects in
//! memory do not carry them. This program's own clients do without them: nobody here looks, and a watch of a fleet would
//! carry as many bytes again.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::USER_AGENT;
use machinery_kinds::crd::StructuralPlace;
use machinery_kinds::{Registry, ResourceInfo};
use machinery_merge::{
    Applied, ApplyError, ApplyKind, ApplySchema, BuiltinSchema, FieldFilter, FieldManager, ListType, Managed, MapType,
    ScalarType,
};
use machinery_schema::Budget;
use machinery_schema::types::Type;
use machinery_store::Object;
use serde_json::{Value, json};
use tracing::error;

use crate::GROUP_NODES;
use crate::object::{metadata, text_at, timestamp, with_managed};
use crate::server::Context;
use crate::status::{ApiError, Result};

/// Clients of this program begin their User-Agent so.
const OWN_CLIENT: &str = "selvedge";

/// What a write of one request makes of an object's owners.
pub(crate) struct Owners<'c> {
    name: Name<'c>,
    /// The resource, and those of its other versions; a scale is none.
    workload: Option<(Arc<ResourceInfo>, Registry)>,
    filter: Option<&'static FieldFilter>,
    subresource: &'c str,
    /// The request's `fieldManager`, or who its User-Agent says it is.
    manager: Cow<'c, str>,
    now: String,
}

#[derive(Clone, Copy)]
struct Name<'c> {
    group: &'c str,
    version: &'c str,
    kind: &'c str,
}

impl<'c> Name<'c> {
    fn of(info: &'c ResourceInfo) -> Self {
        Self { group: &info.group, version: &info.version, kind: &info.kind }
    }
}

impl<'c> Owners<'c> {
    /// Of a request.
    pub(crate) fn of(context: &'c Context<'_>) -> Self {
        let manager = match context.query.get("fieldManager") {
            Some(manager) if !manager.is_empty() => Cow::Borrowed(manager),
            _ => Cow::Owned(machinery_merge::manager_of_user_agent(user_agent(context))),
        };
        let subresource = context.path.subresource.as_deref().unwrap_or_default();
        let info = &context.info;
        let now = timestamp((context.server.now)());
        if subresource == "scale" {
            let name = Name { group: "autoscaling", version: "v1", kind: "Scale" };
            return Self { name, workload: None, filter: None, subresource, manager, now };
        }
        let (name, filter) = (Name::of(info), filter_of(info, subresource));
        let workload = Some((info.clone(), context.server.registry()));
        Self { name, workload, filter, subresource, manager, now }
    }

    /// The owners of a new object. Its `managedFields` are taken out of it.
    pub(crate) fn create(&self, object: &mut Value) -> Result<Managed> {
        if let Some((info, _)) = &self.workload {
            info.complete_unstored(object);
        }
        self.update(&Kind(self).empty_object(), &Managed::default(), object)
    }

    /// The owners after `new` was written over `old`; both are complete. The `managedFields` of `new` are taken out of it.
    pub(crate) fn update(&self, old: &Value, held: &Managed, new: &mut Value) -> Result<Managed> {
        set_template_generation(new);
        let mut budget = Budget::of_request();
        Kind(self)
            .fields()
            .update(old, held, new, &self.manager, &self.now, &mut budget)
            .map_err(|error| ApiError::too_large(error.to_string()))
    }

    /// What an applied configuration makes of an object, which may be none yet.
    pub(crate) fn apply(&self, old: Option<(&Value, &Managed)>, config: &Value, force: bool) -> Result<Applied> {
        let (empty, nobody) = (Kind(self).empty_object(), Managed::default());
        let (old, held) = old.unwrap_or((&empty, &nobody));
        let mut budget = Budget::of_request();
        Kind(self)
            .fields()
            .apply(old, held, config, &self.manager, force, &self.now, &mut budget)
            .map_err(|error| refused(&error))
    }
}

/// The owners of a definition after its status was written by this server itself, which is who writes it in upstream, too.
pub(crate) fn after_status(
    registry: &Registry,
    info: &Arc<ResourceInfo>,
    old: &Value,
    held: &Managed,
    new: &Value,
) -> Managed {
    let subresource = "status";
    let now = timestamp(jiff::Timestamp::now());
    let workload = Some((info.clone(), registry.clone()));
    let manager = Cow::Borrowed("kube-apiserver");
    let owners =
        Owners { name: Name::of(info), workload, filter: filter_of(info, subresource), subresource, manager, now };
    // What is too large for that keeps its owners.
    owners.update(old, held, &mut new.clone()).unwrap_or_else(|_| held.clone())
}

/// A DaemonSet's first way of counting its templates, which upstream has in each that it reads; its strategy counts on.
fn set_template_generation(new: &mut Value) {
    const ANNOTATION: &str = "deprecated.daemonset.template.generation";
    if text_at(new, "/kind") != "DaemonSet" || text_at(new, "/apiVersion") != "apps/v1" {
        return;
    }
    let annotations = metadata(new).entry("annotations").or_insert_with(|| json!({}));
    if let Value::Object(annotations) = annotations {
        annotations.entry(ANNOTATION).or_insert_with(|| "0".into());
    }
}

fn refused(error: &ApplyError) -> ApiError {
    match error {
        ApplyError::BadRequest(why) => ApiError::bad_request(why),
        ApplyError::Failed(why) => ApiError::unknown(why),
        ApplyError::TooLarge(error) => ApiError::too_large(error.to_string()),
        ApplyError::Conflicts(conflicts) => {
            let causes = conflicts.0.iter().map(|conflict| {
                json!({"reason": "FieldManagerConflict", "message": conflict.message(), "field": conflict.field()})
            });
            ApiError::apply_conflict(conflicts.to_string(), causes.collect())
        }
    }
}

fn user_agent<'c>(context: &'c Context<'_>) -> &'c str {
    context.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The owners of a stored object. What cannot be read was damaged on the disk: the object is then nobody's, which the next
/// apply mends.
pub(crate) fn owners_of(object: &Object) -> Managed {
    let Some(bytes) = &object.managed else { return Managed::default() };
    Managed::from_compact(bytes).unwrap_or_else(|error| {
        error!(key = %object.key, %error, "Failed to read the owners of an object; it has none now.");
        Managed::default()
    })
}

/// As they are stored.
pub(crate) fn compact(managed: &Managed) -> Option<Bytes> {
    (!managed.is_empty()).then(|| managed.to_compact().into())
}

impl Context<'_> {
    /// Whether the client is shown who owns which fields.
    pub(crate) fn shows_owners(&self) -> bool {
        let agent = user_agent(self);
        let is_own_node = self.identity.is_in(GROUP_NODES) && (agent.is_empty() || agent.starts_with(OWN_CLIENT));
        // Only what this process asks of itself is counted against nobody.
        self.turn.is_some() && !is_own_node
    }

    /// An encoded object with its owners, if the client is shown them.
    pub(crate) fn with_owners(&self, bytes: Bytes, managed: &Managed) -> Bytes {
        match managed.to_json().filter(|_| self.shows_owners()) {
            Some(entries) => with_managed(&bytes, &entries),
            None => bytes,
        }
    }

    /// A stored object with its owners, if the client is shown them.
    pub(crate) fn stored_bytes(&self, object: &Object) -> Bytes {
        stored_bytes(object, self.shows_owners())
    }
}

/// Puts the owners of a stored object into what was decoded of it.
pub(crate) fn insert_owners(value: &mut Value, object: &Object) {
    if let Some(entries) = owners_of(object).to_value() {
        metadata(value).insert("managedFields".to_owned(), entries);
    }
}

/// A stored object, with its owners or without.
pub(crate) fn stored_bytes(object: &Object, with_owners: bool) -> Bytes {
    let Some(compact) = object.managed.as_ref().filter(|_| with_owners) else { return object.bytes.clone() };
    match machinery_merge::compact_to_json(compact) {
        Ok(entries) => with_managed(&object.bytes, &entries),
        Err(_) => object.bytes.clone(),
    }
}

/// A kind as server-side apply sees it.
struct Kind<'k>(&'k Owners<'k>);

impl<'k> Kind<'k> {
    fn fields(&self) -> FieldManager<'_, Self> {
        let Name { group, version, kind } = self.0.name;
        FieldManager { kind: self, group, version, kind_name: kind, subresource: self.0.subresource }
    }
}

impl<'k> ApplyKind for Kind<'k> {
    type Schema = KindSchema<'k>;

    fn schema(&self, api_version: &str) -> Option<KindSchema<'k>> {
        let owners = self.0;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if group != owners.name.group {
            return None;
        }
        if let Some((info, registry)) = &owners.workload
            && info.is_custom()
        {
            let structural = registry.resource(group, version, &info.plural)?.structural()?;
            return Some(KindSchema::Custom(structural.apply_schema()));
        }
        Type::of_kind(group, version, owners.name.kind).map(|of| KindSchema::Builtin(BuiltinSchema::of(of)))
    }

    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        let (info, registry) = self.0.workload.as_ref()?;
        let resource = |api_version: &str| {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            registry.resource(group, version, &info.plural)
        };
        let from = resource(object.get("apiVersion").and_then(Value::as_str).unwrap_or_default())?;
        let to = resource(api_version)?;
        let mut converted = object.clone();
        from.convert_to_stored(&mut converted);
        to.convert_from_stored(&mut converted);
        converted.as_object_mut()?.insert("apiVersion".to_owned(), api_version.into());
        to.complete(&mut converted);
        Some(converted)
    }

    fn filter(&self, _: &str) -> Option<&FieldFilter> {
        self.0.filter
    }

    fn empty_object(&self) -> Value {
        let Name { group, version, kind } = self.0.name;
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let is_custom = self.0.workload.as_ref().is_some_and(|(info, _)| info.is_custom());
        match Type::of_kind(group, version, kind).filter(|_| !is_custom) {
            Some(of) => BuiltinSchema::empty_object(of, &api_version, kind),
            None => json!({"apiVersion": api_version, "kind": kind, "metadata": {}}),
        }
    }
}

/// A place in the schema of a kind.
#[derive(Clone, Copy, Debug)]
enum KindSchema<'k> {
    Builtin(BuiltinSchema),
    Custom(StructuralPlace<'k>),
}

impl ApplySchema for KindSchema<'_> {
    fn scalar(self) -> Option<ScalarType> {
        match self {
            Self::Builtin(schema) => schema.scalar(),
            Self::Custom(schema) => schema.scalar(),
        }
    }

    fn list(self) -> Option<ListType> {
        match self {
            Self::Builtin(schema) => schema.list(),
            Self::Custom(schema) => schema.list(),
        }
    }

    fn map(self) -> Option<MapType> {
        match self {
            Self::Builtin(schema) => schema.map(),
            Self::Custom(schema) => schema.map(),
        }
    }

    fn keys(self) -> Vec<Arc<str>> {
        match self {
            Self::Builtin(schema) => schema.keys(),
            Self::Custom(schema) => schema.keys(),
        }
    }

    fn item(self) -> Self {
        match self {
            Self::Builtin(schema) => Self::Builtin(schema.item()),
            Self::Custom(schema) => Self::Custom(schema.item()),
        }
    }

    fn field(self, name: &str) -> Option<Self> {
        match self {
            Self::Builtin(schema) => schema.field(name).map(Self::Builtin),
            Self::Custom(schema) => schema.field(name).map(Self::Custom),
        }
    }

    fn has_fields(self) -> bool {
        match self {
            Self::Builtin(schema) => schema.has_fields(),
            Self::Custom(schema) => schema.has_fields(),
        }
    }

    fn other_fields(self) -> Option<Self> {
        match self {
            Self::Builtin(schema) => schema.other_fields().map(Self::Builtin),
            Self::Custom(schema) => schema.other_fields().map(Self::Custom),
        }
    }

    fn field_default(self, name: &str) -> Option<Value> {
        match self {
            Self::Builtin(schema) => schema.field_default(name),
            Self::Custom(schema) => schema.field_default(name),
        }
    }

    fn is_deduced(self) -> bool {
        match self {
            Self::Builtin(schema) => schema.is_deduced(),
            Self::Custom(schema) => schema.is_deduced(),
        }
    }
}

/// Which fields a write owns: not those that its strategy puts back.
fn filter_of(info: &ResourceInfo, subresource: &str) -> Option<&'static FieldFilter> {
    static STATUS: LazyLock<FieldFilter> = LazyLock::new(|| FieldFilter::except(&["status"]));
    static SPEC: LazyLock<FieldFilter> = LazyLock::new(|| FieldFilter::except(&["spec"]));
    static SPEC_AND_METADATA: LazyLock<FieldFilter> = LazyLock::new(|| FieldFilter::except(&["spec", "metadata"]));
    static SPEC_AND_STATUS: LazyLock<FieldFilter> = LazyLock::new(|| FieldFilter::except(&["spec", "status"]));
    static POD_STATUS: LazyLock<FieldFilter> =
        LazyLock::new(|| FieldFilter::except(&["spec", "metadata.deletionTimestamp", "metadata.ownerReferences"]));
    static DEPLOYMENT_STATUS: LazyLock<FieldFilter> =
        LazyLock::new(|| FieldFilter::except(&["spec", "metadata.labels"]));
    static REQUEST_STATUS: LazyLock<FieldFilter> =
        LazyLock::new(|| FieldFilter::except(&["spec", "status.conditions"]));
    static APPROVAL: LazyLock<FieldFilter> = LazyLock::new(|| FieldFilter::except(&["spec", "status.certificate"]));
    Some(match (&*info.group, &*info.plural, subresource) {
        ("certificates.k8s.io", "certificatesigningrequests", "") => &SPEC_AND_STATUS,
        ("certificates.k8s.io", "certificatesigningrequests", "status") => &REQUEST_STATUS,
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => &APPROVAL,
        ("", "pods", "status") => &POD_STATUS,
        // These two put back most of the pod, and upstream's server does not know it: the writer owns what it sent.
        ("", "pods", "ephemeralcontainers" | "resize") => return None,
        ("", "namespaces", "finalize") => &STATUS,
        ("apps", "deployments", "status") => &DEPLOYMENT_STATUS,
        ("networking.k8s.io", "ingresses", "status") => &SPEC,
        (
            "apiextensions.k8s.io"
            | "apiregistration.k8s.io"
            | "admissionregistration.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "networking.k8s.io"
            | "resource.k8s.io"
            | "storage.k8s.io",
            _,
            "status",
        ) => &SPEC_AND_METADATA,
        (_, _, "status") if info.is_custom() => &SPEC_AND_METADATA,
        (_, _, "status") => &SPEC,
        (_, _, "") if info.has_status() => &STATUS,
        _ => return None,
    })
}
