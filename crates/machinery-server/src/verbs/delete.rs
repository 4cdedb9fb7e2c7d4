//! DELETE: an object goes at once, or begins to go and stays until those who hold it let it.

use base_http::Body;
use bytes::Bytes;
use http::Response;
use machinery_kinds::{FieldError, ResourceInfo};
use machinery_store::{CommitError, Durability, Expect, Object, Op};
use serde::Deserialize;
use serde_json::Value;

use super::read::{listed, page, selection};
use super::write::{PutError, decode_stored, remove};
use crate::admission::Operation;
use crate::crd;
use crate::heavy::values_max;
use crate::object::{Encoded, OWNER_UID_FIELD, is_terminating, metadata, text_at, timestamp, uid_of, with_revision};
use crate::owners::owners_of;
use crate::request::{FieldValidation, ListOptions, Query, WriteOptions, check_dry_run, switch};
use crate::server::{Context, warn};
use crate::status::{self, ApiError, Result};
use crate::typed;

/// Without them the server does not work: nodes have their leases there, tokens their Secrets.
const BUILTIN_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// How often a delete looks again when others write the object in between.
const TRIES: usize = 10;

/// Finalizers that a garbage collector serves and that a deletion sets, as kube-apiserver does: the object stays until its
/// dependents have lost their references to it, or are deleted.
const FINALIZER_ORPHAN: &str = "orphan";
const FINALIZER_FOREGROUND: &str = "foregroundDeletion";

/// What a client says about a deletion, in the body or the query.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    propagation_policy: Option<String>,
    orphan_dependents: Option<bool>,
    dry_run: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// What becomes of the objects that name the deleted one as their owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Propagation {
    /// They stay, without an owner.
    Orphan,
    /// They are deleted first.
    Foreground,
    /// They are deleted afterwards.
    Background,
}

/// What became of an object.
pub(crate) enum Outcome {
    /// It is deleted; its uid, and the object as it was last.
    Deleted(String, Bytes),
    /// It waits for its deletion.
    Waiting(Bytes),
}

/// The next step of a deletion.
enum Step {
    /// Nothing: it is under way already.
    Leave,
    /// The object is written as it waits.
    Wait(Value),
    /// The object is written as it is last seen, then removed.
    MarkAndRemove(Value),
    /// The object is removed as it is.
    Remove,
}

pub(crate) async fn delete(context: &Context<'_>, body: &Bytes) -> Result<Response<Body>> {
    let (options, write) = options(context, body)?;
    // The warning is about what was asked, whatever becomes of it.
    let warnings = options.warnings(context);
    let warned = |error: ApiError| error.with_warnings(&warnings);
    let stored = context.stored().map_err(warned)?;
    let outcome = delete_one(context, &options, write, stored.key.name.as_ref()).await.map_err(warned)?;
    let mut response = match outcome {
        Outcome::Deleted(_, last) if shows_deleted(&context.info) => context.show(last, false, &[])?,
        Outcome::Deleted(uid, _) => status::ok_json(&status::success(&context.info, context.name(), &uid)),
        Outcome::Waiting(bytes) => {
            let response = context.show(bytes, false, &[])?;
            // The clients that know this field know this answer; to all others upstream says 200.
            if options.orphan_dependents == Some(false) { status::accepted(response) } else { response }
        }
    };
    warn(&mut response, &warnings);
    Ok(response)
}

pub(crate) async fn delete_collection(
    context: &Context<'_>,
    list: &ListOptions,
    body: &Bytes,
) -> Result<Response<Body>> {
    let (options, write) = options(context, body)?;
    let page = page(context, list, &selection(context, list)?).await?;
    for object in &page.items {
        match delete_one(context, &options, write, &object.key.name).await {
            Ok(_) => {}
            // Somebody else deleted it, which is what was asked for.
            Err(error) if error.reason() == status::Reason::NotFound => {}
            Err(error) => return Err(error),
        }
        // A namespace's worth of objects is one request: others get their turn between two of them.
        tokio::task::yield_now().await;
    }
    let mut response = listed(context, page)?;
    warn(&mut response, &options.warnings(context));
    Ok(response)
}

/// Whether upstream answers the deletion of an object of this kind with the object, and not with a `Status`.
fn shows_deleted(info: &ResourceInfo) -> bool {
    match &*info.group {
        "" => matches!(
            &*info.plural,
            "resourcequotas"
                | "persistentvolumes"
                | "serviceaccounts"
                | "persistentvolumeclaims"
                | "namespaces"
                | "pods"
                | "services"
                | "podtemplates"
        ),
        "resource.k8s.io" => true,
        "storage.k8s.io" => &*info.plural != "csistoragecapacities",
        _ => false,
    }
}

impl DeleteOptions {
    /// Takes options whose fields have been checked; see [`typed`].
    pub(crate) fn of_typed(value: Value) -> std::result::Result<Self, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// The stages of a dry run that are asked for.
    pub(crate) fn stages(&self) -> Vec<&str> {
        self.dry_run.iter().flatten().map(String::as_str).collect()
    }

    /// Whether the object must have a revision.
    pub(crate) fn has_revision(&self) -> bool {
        self.preconditions.as_ref().is_some_and(|held| held.resource_version.is_some())
    }

    /// Has the object deleted at this revision only.
    pub(crate) fn insist(&mut self, revision: &str) {
        self.preconditions.get_or_insert_default().resource_version = Some(revision.to_owned());
    }

    /// Checks that the object is the one that is meant; `kind` is how it is said in a message.
    pub(crate) fn check(
        &self,
        info: &ResourceInfo,
        stored: &Object,
        object: &Value,
        name: &str,
        kind: &str,
    ) -> Result<()> {
        let Some(expected) = &self.preconditions else { return Ok(()) };
        let pairs = [
            ("UID", &expected.uid, uid_of(object).to_owned(), "deleted and then recreated"),
            ("ResourceVersion", &expected.resource_version, stored.revision.to_string(), "modified"),
        ];
        for (what, expected, held, cause) in pairs {
            let Some(expected) = expected.as_ref().filter(|expected| **expected != held) else { continue };
            if is_namespace(info) {
                let why =
                    format!("Precondition failed: {what} in precondition: {expected}, {what} in object meta: {held}");
                return Err(ApiError::conflict(info, name, &why));
            }
            let why = format!(
                "the {what} in the precondition ({expected}) does not match the {what} in record ({held}). \
                 The object might have been {cause}"
            );
            return Err(ApiError::conflict_kind(&info.group, kind, name, &why));
        }
        Ok(())
    }

    /// What the client says; if it says nothing, what the object's finalizers do, or the kind.
    fn propagation(&self, info: &ResourceInfo, object: &Value) -> Propagation {
        let kind = (&*info.group, &*info.kind);
        if matches!(kind, ("" | "events.k8s.io", "Event")) {
            return Propagation::Background;
        }
        match (self.orphan_dependents, self.propagation_policy.as_deref()) {
            (Some(true), _) | (_, Some("Orphan")) => Propagation::Orphan,
            (_, Some("Foreground")) => Propagation::Foreground,
            (Some(false), _) | (_, Some("Background")) => Propagation::Background,
            _ => {
                let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
                let said = finalizers.into_iter().flatten().find_map(|finalizer| match finalizer.as_str() {
                    Some(FINALIZER_ORPHAN) => Some(Propagation::Orphan),
                    Some(FINALIZER_FOREGROUND) => Some(Propagation::Foreground),
                    _ => None,
                });
                said.unwrap_or(if orphans(info) { Propagation::Orphan } else { Propagation::Background })
            }
        }
    }

    fn says_nothing(&self) -> bool {
        self.orphan_dependents.is_none() && self.propagation_policy.is_none()
    }

    fn warnings(&self, context: &Context<'_>) -> Vec<String> {
        let kind = &context.info.kind;
        if (&*context.info.group, &**kind) == ("batch", "Job") && self.says_nothing() {
            return vec![JOB_WARNING.to_owned()];
        }
        if !is_collected(context) && self.propagation_policy.as_deref() == Some("Foreground") {
            return vec![format!("foreground deletion is not served for {kind}; dependents are deleted afterwards")];
        }
        Vec::new()
    }
}

/// What upstream says to those who delete a job and do not say what becomes of its pods.
const JOB_WARNING: &str = "child pods are preserved by default when jobs are deleted; \
    set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// Kinds whose dependents stay when nothing is said, as it was when nobody could say it.
fn orphans(info: &ResourceInfo) -> bool {
    matches!((&*info.group, &*info.version, &*info.kind), ("batch", "v1", "Job") | ("", "v1", "ReplicationController"))
}

/// Whether somebody takes the finalizers of a deletion away from objects of this kind.
fn is_collected(context: &Context<'_>) -> bool {
    (context.server.garbage_collected)(&context.info.group, &context.info.kind)
}

/// Leaves the finalizer that makes a garbage collector do this, and neither of them where nothing has to wait.
fn set_finalizer(object: &mut Value, propagation: Propagation) {
    let fields = metadata(object);
    let mut finalizers: Vec<Value> =
        fields.get("finalizers").and_then(Value::as_array).into_iter().flatten().cloned().collect();
    finalizers.retain(|finalizer| finalizer != FINALIZER_ORPHAN && finalizer != FINALIZER_FOREGROUND);
    match propagation {
        Propagation::Orphan => finalizers.push(FINALIZER_ORPHAN.into()),
        Propagation::Foreground => finalizers.push(FINALIZER_FOREGROUND.into()),
        Propagation::Background => {}
    }
    if finalizers.is_empty() {
        fields.remove("finalizers");
    } else {
        fields.insert("finalizers".to_owned(), finalizers.into());
    }
}

fn options(context: &Context<'_>, body: &Bytes) -> Result<(DeleteOptions, WriteOptions)> {
    // Upstream reads the query of those alone who send no body.
    let options = if body.is_empty() { options_of_query(&context.query)? } else { options_of_body(context, body)? };
    let mut errors = Vec::new();
    if let Some(policy) = options.propagation_policy.as_deref() {
        if options.orphan_dependents.is_some() {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid("propagationPolicy", &policy.into(), why));
        }
        if !matches!(policy, "Orphan" | "Background" | "Foreground") {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported("propagationPolicy", &policy.into(), &supported));
        }
    }
    let stages = options.stages();
    errors.extend(check_dry_run(&stages));
    if errors.is_empty() {
        let write = WriteOptions { dry_run: !stages.is_empty(), field_validation: FieldValidation::Warn };
        drop(stages);
        Ok((options, write))
    } else {
        Err(ApiError::invalid_kind("meta.k8s.io", "DeleteOptions", "", &errors))
    }
}

fn options_of_body(context: &Context<'_>, body: &Bytes) -> Result<DeleteOptions> {
    let decoded = typed::decode_options(&context.headers, body, values_max(context.identity), "DeleteOptions")?;
    DeleteOptions::of_typed(decoded).map_err(ApiError::bad_request)
}

fn options_of_query(query: &Query) -> Result<DeleteOptions> {
    let first = |key: &str| query.iter().find(|(found, _)| *found == key).map(|(_, value)| value);
    let dry_run: Vec<String> =
        query.iter().filter(|(key, _)| *key == "dryRun").map(|(_, value)| value.to_owned()).collect();
    Ok(DeleteOptions {
        grace_period_seconds: first("gracePeriodSeconds")
            .map(|text| text.parse().map_err(|_| ApiError::bad_number("ParseInt", text)))
            .transpose()?,
        preconditions: None,
        propagation_policy: first("propagationPolicy").map(str::to_owned),
        orphan_dependents: switch(query, "orphanDependents"),
        dry_run: Some(dry_run),
    })
}

pub(crate) async fn delete_one(
    context: &Context<'_>,
    options: &DeleteOptions,
    write: WriteOptions,
    name: &str,
) -> Result<Outcome> {
    check_deletable(&context.info, name)?;
    let is_crd = crd::is_crd(&context.info);
    let _guard = if is_crd { Some(context.server.crd_writes.lock().await) } else { None };
    let insists = options.has_revision();
    // What it was when this very request has marked it, which makes it another revision: its uid, and how it is shown.
    let mut marked: Option<(String, Bytes)> = None;
    for _ in 0..TRIES {
        let Some(stored) = context.server.store.get(&context.key(name)) else {
            // A node that saw the mark may be the first to remove a pod: that is what was asked for.
            let (uid, last) = marked.ok_or_else(|| ApiError::not_found(&context.info, name))?;
            let outcome = Outcome::Deleted(uid, last);
            finish(context, name, is_crd, &outcome).await;
            return Ok(outcome);
        };
        context.authorize_object(&stored)?;
        let old = decode_stored(context, &stored)?;
        if let Some((uid, last)) = marked.take_if(|(uid, _)| *uid != uid_of(&old)) {
            // Another of its name is there already, which nobody asked to delete.
            return Ok(Outcome::Deleted(uid, last));
        }
        if marked.is_none() {
            options.check(&context.info, &stored, &old, name, &context.info.kind)?;
            context.validate(Operation::Delete, &old, Some(&old), write, &mut Vec::new())?;
        }
        let uid = uid_of(&old).to_owned();
        let managed = owners_of(&stored);
        let show = |bytes: Bytes| context.with_owners(bytes, &managed);
        let attempt = match next_step(context, options, &old) {
            Step::Leave => return Ok(Outcome::Waiting(show(stored.bytes.clone()))),
            Step::Wait(new) if write.dry_run => return Ok(Outcome::Waiting(show(Context::dry(&new)))),
            Step::Wait(new) if new == old => Ok(Outcome::Waiting(show(stored.bytes.clone()))),
            Step::Wait(new) => {
                let put = context.put(new, &managed, Expect::Revision(stored.revision)).await;
                put.map(|bytes| Outcome::Waiting(show(bytes)))
            }
            Step::MarkAndRemove(new) if write.dry_run => return Ok(Outcome::Deleted(uid, show(Context::dry(&new)))),
            Step::MarkAndRemove(new) => match context.put(new, &managed, Expect::Revision(stored.revision)).await {
                // The next round finds it marked, and removes it.
                Ok(bytes) => {
                    marked = Some((uid, show(bytes)));
                    continue;
                }
                Err(error) => Err(error),
            },
            Step::Remove if write.dry_run => return Ok(Outcome::Deleted(uid, show(stored.bytes.clone()))),
            Step::Remove => {
                if options.propagation(&context.info, &old) == Propagation::Orphan && !is_collected(context) {
                    orphan_dependents(context, &uid).await?;
                }
                let removed = async {
                    let revision = remove(context, &stored, stored.bytes.clone()).await?;
                    Ok(Outcome::Deleted(uid, show(with_revision(&stored.bytes, revision))))
                };
                if is_crd {
                    crd::undefine(context.server, &old, removed, PutError::Refused).await
                } else {
                    removed.await
                }
            }
        };
        match attempt {
            Ok(outcome) => {
                finish(context, name, is_crd, &outcome).await;
                return Ok(outcome);
            }
            Err(PutError::Raced) if insists && marked.is_none() => break,
            Err(PutError::Raced) => {}
            Err(PutError::Refused(error)) if marked.is_some() && error.reason() == status::Reason::NotFound => {}
            Err(PutError::Refused(error)) => return Err(error),
        }
    }
    Err(ApiError::modified(&context.info, name))
}

/// Some objects are part of every cluster.
fn check_deletable(info: &ResourceInfo, name: &str) -> Result<()> {
    if is_namespace(info) && BUILTIN_NAMESPACES.contains(&name) {
        return Err(ApiError::forbidden(info, name, "this namespace may not be deleted"));
    }
    let is_class = (&*info.group, &*info.kind) == ("scheduling.k8s.io", "PriorityClass");
    if is_class && matches!(name, "system-node-critical" | "system-cluster-critical") {
        let why = "this is a system priority class and cannot be deleted";
        return Err(ApiError::forbidden(info, name, why));
    }
    Ok(())
}

/// What follows a deletion: the objects of a definition go with it, and a definition goes when the last of them has.
async fn finish(context: &Context<'_>, name: &str, is_crd: bool, outcome: &Outcome) {
    match outcome {
        Outcome::Waiting(_) if is_crd => {
            if let Err(error) = crd::terminate(context.server, name).await {
                tracing::warn!(crd = name, %error, "Failed to delete the objects of a definition; a second delete tries again.");
            }
        }
        Outcome::Deleted(..) if !is_crd => crd::finish_termination(context.server, &context.info).await,
        _ => {}
    }
}

/// What is to be done with an object that shall be deleted.
fn next_step(context: &Context<'_>, options: &DeleteOptions, old: &Value) -> Step {
    let now = (context.server.now)();
    let mut new = old.clone();
    if is_namespace(&context.info) {
        if is_terminating(old) && !context.info.is_held(old) {
            return Step::Remove;
        }
        if is_terminating(old) {
            return Step::Leave;
        }
        metadata(&mut new).insert("deletionTimestamp".to_owned(), timestamp(now).into());
        if is_collected(context) {
            set_finalizer(&mut new, options.propagation(&context.info, old));
        }
        context.info.begin_deletion(&mut new);
        return Step::Wait(new);
    }
    let grace = match graceful(context, options, old, now) {
        Grace::Pending => return Step::Leave,
        Grace::None => None,
        Grace::Ends { at, seconds } => {
            let fields = metadata(&mut new);
            fields.insert("deletionTimestamp".to_owned(), timestamp(at).into());
            fields.insert("deletionGracePeriodSeconds".to_owned(), seconds.into());
            if !is_terminating(old) {
                raise_generation(&mut new);
            }
            Some(seconds)
        }
    };
    if is_collected(context) {
        set_finalizer(&mut new, options.propagation(&context.info, old));
    }
    let is_held = context.info.is_held(&new);
    match grace {
        None if is_held => {
            let is_crd = crd::is_crd(&context.info);
            if !is_terminating(old) && !is_crd {
                raise_generation(&mut new);
            }
            let fields = metadata(&mut new);
            let ends = old.pointer("/metadata/deletionTimestamp").and_then(Value::as_str);
            if ends.and_then(|text| text.parse::<jiff::Timestamp>().ok()).is_none_or(|ends| ends > now) {
                fields.insert("deletionTimestamp".to_owned(), timestamp(now).into());
            }
            // A definition waits for its objects, which takes no grace.
            if !is_crd {
                fields.insert("deletionGracePeriodSeconds".to_owned(), 0.into());
            }
            context.info.begin_deletion(&mut new);
            Step::Wait(new)
        }
        None => Step::Remove,
        Some(0) if !is_held => Step::MarkAndRemove(new),
        Some(_) => Step::Wait(new),
    }
}

fn raise_generation(object: &mut Value) {
    let fields = metadata(object);
    if let Some(generation) = fields.get("generation").and_then(Value::as_i64).filter(|generation| *generation > 0) {
        fields.insert("generation".to_owned(), generation.saturating_add(1).into());
    }
}

/// Whether somebody is given time to end what the object describes.
enum Grace {
    /// Nobody.
    None,
    /// Somebody has been given it, and it cannot be made longer.
    Pending,
    /// Until then.
    Ends { at: jiff::Timestamp, seconds: i64 },
}

fn graceful(context: &Context<'_>, options: &DeleteOptions, old: &Value, now: jiff::Timestamp) -> Grace {
    // Below zero is as little as there can be.
    let positive = |seconds: i64| if seconds < 0 { 1 } else { seconds };
    let later = |from: jiff::Timestamp, seconds: i64| {
        from.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(jiff::Timestamp::MAX)
    };
    if (&*context.info.group, &*context.info.kind) != ("", "Pod") {
        return Grace::None;
    }
    let asked = options.grace_period_seconds.map(positive);
    if is_terminating(old) {
        let before = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        let before = positive(before);
        return match asked {
            _ if before == 0 => Grace::None,
            Some(asked) if asked < before => {
                let ends = text_at(old, "/metadata/deletionTimestamp").parse().unwrap_or(now);
                let at = later(later(ends, -before), asked);
                match (at < now, asked) {
                    (false, seconds) => Grace::Ends { at, seconds },
                    (true, 0) => Grace::Ends { at: now, seconds: 0 },
                    (true, _) => Grace::Ends { at: now, seconds: 1 },
                }
            }
            _ => Grace::Pending,
        };
    }
    let seconds = match context.info.grace_seconds(old) {
        // No node holds it.
        None => 0,
        Some(own) => positive(asked.unwrap_or(own)),
    };
    Grace::Ends { at: later(now, seconds), seconds }
}

fn is_namespace(info: &ResourceInfo) -> bool {
    &*info.kind == "Namespace" && info.group.is_empty()
}

/// Takes an owner's uid out of the owner references of all that names it, so that garbage collection leaves them.
async fn orphan_dependents(context: &Context<'_>, uid: &str) -> Result<()> {
    let server = context.server;
    for info in server.registry().resources() {
        let resource = info.storage_key.to_string();
        let namespace = context.path.namespace.as_deref();
        let owned = server.store.range_where(&resource, (OWNER_UID_FIELD, uid), namespace, None, None, None);
        for object in owned.map_err(|error| ApiError::internal(error.to_string()))?.items {
            orphan(context, info, &object, uid).await?;
        }
    }
    Ok(())
}

async fn orphan(context: &Context<'_>, info: &machinery_kinds::ResourceInfo, object: &Object, uid: &str) -> Result<()> {
    let store = &context.server.store;
    for _ in 0..TRIES {
        let Some(stored) = store.get(&object.key) else { return Ok(()) };
        let mut value = crate::object::decode(info, &stored)?;
        let Some(owners) = value.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        let before = owners.len();
        owners.retain(|owner| text_at(owner, "/uid") != uid);
        if owners.len() == before {
            return Ok(());
        }
        let encoded = Encoded::new(&value);
        let index = crate::object::index_fields(info, &value);
        let managed = stored.managed.clone();
        let put = Op::Put {
            key: object.key.clone(),
            expect: Expect::Revision(stored.revision),
            encode: Box::new(move |revision| machinery_store::Encoded { bytes: encoded.at(revision), managed, index }),
        };
        match store.commit(vec![put], Durability::Group).await {
            Ok(_) | Err(CommitError::NotFound) => return Ok(()),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(ApiError::commit(&error)),
        }
    }
    Err(ApiError::conflict(info, &object.key.name, "it is written too often to be orphaned; try again"))
}
