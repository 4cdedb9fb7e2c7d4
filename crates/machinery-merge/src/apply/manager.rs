//! One write of one client, from the request's words to the object's owners.

use std::sync::LazyLock;

use machinery_schema::Budget;
use serde_json::Value;

use super::cap::cap_update_managers;
use super::updater::{Updater, UpdaterError};
use super::{Conflicts, Managed, ManagerId, Operation, VersionedSet, last_applied};
use crate::fields::{FieldFilter, FieldSet};
use crate::schema::ApplySchema;
use crate::typed::{Duplicates, Typed, TypedError};
use crate::{PatchError, go};

/// What server-side apply asks about a kind.
pub trait ApplyKind {
    /// How the schema of an object is walked.
    type Schema: ApplySchema;

    /// The schema of the kind at a version (`apps/v1`); `None` for a version that is not served.
    fn schema(&self, api_version: &str) -> Option<Self::Schema>;

    /// An object at another version; `None` when that is not served. By default versions differ in their name alone.
    fn convert(&self, object: &Value, api_version: &str) -> Option<Value> {
        self.schema(api_version)?;
        let mut converted = object.clone();
        converted.as_object_mut()?.insert("apiVersion".to_owned(), api_version.into());
        Some(converted)
    }

    /// Which fields a write through the request's subresource may own; `None`: all.
    fn filter(&self, api_version: &str) -> Option<&FieldFilter>;

    /// An object of the kind in which nothing is set, as it would be encoded: structs that are always there are empty.
    fn empty_object(&self) -> Value;
}

/// Why a configuration was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The configuration is not one for this object. Answer: 400.
    #[error("{0}")]
    BadRequest(String),
    /// Others own what it changes. Answer: 409.
    #[error("{0}")]
    Conflicts(#[source] Conflicts),
    /// It does not fit the kind. kube-apiserver's answer is 500 without a reason.
    #[error("{0}")]
    Failed(String),
    /// It is too large or too deep.
    #[error(transparent)]
    TooLarge(#[from] PatchError),
}

/// What became of an applied configuration.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The object, not yet defaulted; the live one when the configuration changed nothing.
    pub object: Value,
    /// Its owners, who may have changed all the same.
    pub managed: Managed,
}

/// Writes objects of one kind through one version and subresource.
///
/// ```
/// use machinery_merge::{ApplyKind, FieldFilter, FieldManager, Managed, Untyped};
/// use machinery_schema::Budget;
/// use serde_json::{Value, json};
///
/// struct Free;
/// impl ApplyKind for Free {
///     type Schema = Untyped;
///     fn schema(&self, api_version: &str) -> Option<Untyped> {
///         (api_version == "example.com/v1").then_some(Untyped::Deduced)
///     }
///     fn filter(&self, _: &str) -> Option<&FieldFilter> {
///         None
///     }
///     fn empty_object(&self) -> Value {
///         json!({"metadata": {}})
///     }
/// }
///
/// let writes = FieldManager { kind: &Free, group: "example.com", version: "v1", kind_name: "Thing", subresource: "" };
/// let config = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"size": 1}});
/// let now = "2026-11-26T12:00:00Z";
/// let applied = writes
///     .apply(&Free.empty_object(), &Managed::default(), &config, "one", false, now, &mut Budget::of_request())
///     .expect("nobody owns anything yet");
/// assert_eq!(applied.object["spec"]["size"], 1);
/// let owners = applied.managed.to_json().unwrap_or_default();
/// assert!(owners.contains(r#""fieldsV1":{"f:spec":{".":{},"f:size":{}}}"#));
///
/// let other = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"size": 2}});
/// let error = writes
///     .apply(&applied.object, &applied.managed, &other, "two", false, now, &mut Budget::of_request())
///     .expect_err("another owns the size");
/// assert_eq!(error.to_string(), r#"Apply failed with 1 conflict: conflict with "one": .spec.size"#);
/// ```
#[derive(Debug)]
pub struct FieldManager<'k, K> {
    /// The kind.
    pub kind: &'k K,
    /// Its group; empty for the core group.
    pub group: &'k str,
    /// The version of the request.
    pub version: &'k str,
    /// The kind's name.
    pub kind_name: &'k str,
    /// The subresource of the request; empty for the object itself.
    pub subresource: &'k str,
}

/// As many bytes as the name of a manager may have.
pub const MANAGER_BYTES_MAX: usize = 128;

/// Nobody owns what identifies an object, or what the server alone writes.
static NEVER_OWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_fields(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

/// Who wrote what was there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The name that an update has until it is over, so that what it changed is known from what its manager had before.
const CURRENT_OPERATION: &str = "current-operation";

impl<K: ApplyKind> FieldManager<'_, K> {
    /// The version as objects name it.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The owners after an object was created, updated or patched.
    ///
    /// `live` is [`ApplyKind::empty_object`] for one that is created. The `managedFields` of `new` are taken out of it: a
    /// client may set them to what it likes (`[]` and `[{}]` clear them), but not through a subresource.
    ///
    /// # Errors
    /// When an object is too large or too deep. Whatever else goes wrong leaves no owners, as upstream has it: a write
    /// does not fail for them.
    pub fn update(
        &self,
        live: &Value,
        live_managed: &Managed,
        new: &mut Value,
        manager: &str,
        now: &str,
        budget: &mut Budget,
    ) -> Result<Managed, PatchError> {
        let sent =
            new.get_mut("metadata").and_then(Value::as_object_mut).and_then(|fields| fields.remove("managedFields"));
        let sent = sent.filter(|sent| !sent.is_null());
        let managed = match &sent {
            Some(_) if !self.subresource.is_empty() => live_managed.clone(),
            Some(sent) if is_reset(sent) => Managed::default(),
            sent => match Managed::decode(sent.as_ref()) {
                Ok(managed) if !managed.is_empty() => managed,
                _ => live_managed.clone(),
            },
        };
        let is_created = text_at(live, "/metadata/uid").is_empty();
        if managed.is_empty() && !is_created {
            // Owners that were cleared stay cleared until somebody applies.
            return Ok(managed);
        }
        match self.update_tracked(live, new, managed, manager, now, budget) {
            Ok(managed) => Ok(managed),
            Err(UpdaterError::Budget(error)) => Err(error),
            Err(UpdaterError::Failed(_) | UpdaterError::Conflicts(_)) => Ok(Managed::default()),
        }
    }

    fn update_tracked(
        &self,
        live: &Value,
        new: &Value,
        managed: Managed,
        manager: &str,
        now: &str,
        budget: &mut Budget,
    ) -> Result<Managed, UpdaterError> {
        let api_version = self.api_version();
        let writer = self.id(manager, Operation::Update);
        let current = ManagerId { manager: CURRENT_OPERATION.to_owned(), ..writer.clone() };
        let updater = Updater { kind: self.kind, api_version: &api_version };
        let Managed { fields, mut times } = managed;
        let mut fields = updater.update(live, new, fields, &current, budget)?;
        if let Some(changed) = fields.remove(&current) {
            let set = changed.set.difference(&NEVER_OWNED);
            if !set.is_empty() {
                let before = fields.get(&writer).map(|entry| &entry.set);
                let set = before.map_or_else(|| set.clone(), |before| set.union(before));
                fields.insert(writer.clone(), VersionedSet { set, api_version });
                times.insert(writer, now.to_owned());
            }
        }
        let mut managed = Managed { fields, times };
        cap_update_managers(&mut managed);
        Ok(managed)
    }

    /// The object and its owners after a configuration was applied.
    ///
    /// `live` is [`ApplyKind::empty_object`] for one that is created.
    ///
    /// # Errors
    /// See [`ApplyError`]. The object stays as it is.
    #[expect(clippy::too_many_arguments, reason = "an apply has that many parts, and each has another type or meaning")]
    pub fn apply(
        &self,
        live: &Value,
        live_managed: &Managed,
        config: &Value,
        manager: &str,
        force: bool,
        now: &str,
        budget: &mut Budget,
    ) -> Result<Applied, ApplyError> {
        let (group, version, kind) = kind_of(config);
        if (group, version, kind) != (self.group, self.version, self.kind_name) {
            return Err(ApplyError::BadRequest(format!("invalid object type: {group}/{version}, Kind={kind}")));
        }
        let api_version = self.api_version();
        let mut managed = live_managed.clone();
        if managed.is_empty() {
            let empty = self.kind.empty_object();
            managed =
                self.update_tracked(&empty, live, managed, BEFORE_FIRST_APPLY, now, budget).map_err(
                    |error| match error {
                        UpdaterError::Budget(error) => ApplyError::TooLarge(error),
                        UpdaterError::Failed(why) => {
                            ApplyError::Failed(format!("failed to create manager for existing fields: {why}"))
                        }
                        UpdaterError::Conflicts(conflicts) => ApplyError::Conflicts(conflicts),
                    },
                )?;
        }
        if config.pointer("/metadata/managedFields").is_some_and(Value::is_array) {
            return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
        }
        let schema = self
            .kind
            .schema(&api_version)
            .ok_or_else(|| ApplyError::Failed(format!("no corresponding type for {}", self.type_text())))?;
        let config_typed = Typed::new(config, schema, Duplicates::Rejected, budget)
            .map_err(|error| self.typed_error("patch", config, error))?;
        let live_typed = Typed::new(live, schema, Duplicates::Allowed, budget)
            .map_err(|error| self.typed_error("live", live, error))?;
        let writer = self.id(manager, Operation::Apply);
        let updater = Updater { kind: self.kind, api_version: &api_version };
        let apply = |force| updater.apply(live_typed, config_typed, managed.fields.clone(), &writer, force);
        let mut result = apply(force);
        if let Err(UpdaterError::Conflicts(conflicts)) = &mut result
            && manager == last_applied::MANAGER
            && let Some(allowed) = last_applied::owned_by_client_side_apply(live_typed, &api_version, budget)
        {
            // What `kubectl apply` on the client's side wrote is not lost to `kubectl apply --server-side`.
            conflicts.0.retain(|conflict| !allowed.has(&conflict.path));
            if conflicts.0.is_empty() {
                result = apply(true);
            }
        }
        let (new, mut fields) = result.map_err(|error| match error {
            UpdaterError::Conflicts(conflicts) => ApplyError::Conflicts(conflicts),
            UpdaterError::Failed(why) => ApplyError::Failed(why),
            UpdaterError::Budget(error) => ApplyError::TooLarge(error),
        })?;
        if let Some(entry) = fields.get_mut(&writer) {
            entry.set = entry.set.difference(&NEVER_OWNED);
            if entry.set.is_empty() {
                fields.remove(&writer);
            }
        }
        let mut times = managed.times;
        let mut object = match new {
            Some(new) => {
                times.insert(writer, now.to_owned());
                new
            }
            None => live.clone(),
        };
        if manager == last_applied::MANAGER {
            last_applied::follow(&mut object, config);
        }
        Ok(Applied { object, managed: Managed { fields, times } })
    }

    fn id(&self, manager: &str, operation: Operation) -> ManagerId {
        ManagerId {
            manager: if manager.is_empty() { "unknown" } else { manager }.to_owned(),
            operation,
            api_version: if operation == Operation::Apply { String::new() } else { self.api_version() },
            subresource: self.subresource.to_owned(),
        }
    }

    fn type_text(&self) -> String {
        format!("{}/{}, Kind={}", self.group, self.version, self.kind_name)
    }

    fn typed_error(&self, which: &str, object: &Value, error: TypedError) -> ApplyError {
        match error {
            TypedError::TooLarge(error) => ApplyError::TooLarge(error),
            TypedError::Invalid(errors) => {
                let (namespace, name) = (text_at(object, "/metadata/namespace"), text_at(object, "/metadata/name"));
                let kind = self.type_text();
                ApplyError::Failed(format!(
                    "failed to create typed {which} object ({namespace}/{name}; {kind}): {errors}"
                ))
            }
        }
    }
}

/// Group, version and kind of an applied configuration, as far as they can be read.
fn kind_of(config: &Value) -> (&str, &str, &str) {
    let kind = config.get("kind").and_then(Value::as_str).unwrap_or_default();
    match config.get("apiVersion").and_then(Value::as_str).unwrap_or_default().split('/').collect::<Vec<_>>().as_slice()
    {
        [version] => ("", version, kind),
        [group, version] => (group, version, kind),
        _ => ("", "", ""),
    }
}

/// The manager of a request that names none: the first word of its User-Agent, cut where a name must end.
///
/// ```
/// assert_eq!(machinery_merge::manager_of_user_agent("kubectl/v1.36.3 (linux/amd64)"), "kubectl");
/// ```
pub fn manager_of_user_agent(user_agent: &str) -> String {
    let mut name = String::new();
    for char in user_agent.split('/').next().unwrap_or_default().chars().filter(|char| go::is_printed(*char)) {
        if name.len() + char.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        name.push(char);
    }
    name
}

/// Whether the client cleared the owners: an empty list, or one with an empty entry.
fn is_reset(sent: &Value) -> bool {
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([entry]) => entry.as_object().is_some_and(serde_json::Map::is_empty),
        _ => false,
    }
}

fn text_at<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
