//! DELETE: an object goes at once, or begins to go and stays until those who hold it let it.

use base_http::Body;
use bytes::Bytes;
use http::Response;
use machinery_kinds::FieldError;
use machinery_store::{CommitError, Durability, Expect, Object, Op};
use serde::Deserialize;
use serde_json::Value;
use tracing::info;

use super::read::{Page, listed, page, selection};
use super::write::{PutError, decode_stored, remove};
use crate::admission::Operation;
use crate::crd;
use crate::heavy::values_max;
use crate::negotiate::{Output, decode_body};
use crate::object::{
    Encoded, OWNER_UID_FIELD, is_terminating, metadata, name_of, text_at, timestamp, uid_of, with_revision,
};
use crate::request::{ListOptions, WriteOptions};
use crate::server::{Context, warn};
use crate::status::{self, ApiError, Result};

/// Without them the hub does not work: nodes have their leases there, tokens their Secrets.
const BUILTIN_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// How often a delete looks again when others write the object in between.
const TRIES: usize = 10;

/// Finalizers that a garbage collector serves and that a deletion sets, as kube-apiserver does: the object stays until its
/// dependents have lost their references to it, or are deleted.
const FINALIZER_ORPHAN: &str = "orphan";
const FINALIZER_FOREGROUND: &str = "foregroundDeletion";

/// Objects that are deleted in one step when their kind goes.
const BATCH: usize = 500;

/// What a client says about a deletion, in the body or the query.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteOptions {
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
enum Outcome {
    /// It is deleted; its uid.
    Deleted(String),
    /// It waits for its deletion.
    Waiting(Bytes),
}

pub(crate) async fn delete(context: &Context<'_>, body: &Bytes) -> Result<Response<Body>> {
    let (options, write) = options(context, body)?;
    let stored = context.stored()?;
    let outcome = delete_one(context, &options, write, stored.key.name.as_ref()).await?;
    let mut response = match outcome {
        Outcome::Deleted(uid) => status::ok_json(&status::success(&context.info, context.name(), &uid)),
        Outcome::Waiting(bytes) => {
            let response = context.show(bytes, false, &[])?;
            // The clients that know this field know this answer; to all others upstream says 200.
            if options.orphan_dependents == Some(false) { status::accepted(response) } else { response }
        }
    };
    if !is_collected(context) && options.propagation_policy.as_deref() == Some("Foreground") {
        let kind = &context.info.kind;
        warn(
            &mut response,
            &[format!("foreground deletion is not served for {kind}; dependents are deleted afterwards")],
        );
    }
    Ok(response)
}

pub(crate) async fn delete_collection(
    context: &Context<'_>,
    list: &ListOptions,
    body: &Bytes,
) -> Result<Response<Body>> {
    let (options, write) = options(context, body)?;
    let page = page(context, list, &selection(context, list)?).await?;
    let mut deleted = Vec::with_capacity(page.items.len());
    for object in &page.items {
        match delete_one(context, &options, write, &object.key.name).await {
            Ok(_) => deleted.push(object.clone()),
            // Somebody else deleted it, which is what was asked for.
            Err(error) if error.reason() == status::Reason::NotFound => {}
            Err(error) => return Err(error),
        }
        // A namespace's worth of objects is one request: others get their turn between two of them.
        tokio::task::yield_now().await;
    }
    Ok(listed(context, Page { items: deleted, ..page }, Output::Json))
}

impl DeleteOptions {
    /// What the client says; if it says nothing, what the object's finalizers do.
    fn propagation(&self, object: &Value) -> Propagation {
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
                said.unwrap_or(Propagation::Background)
            }
        }
    }
}

/// Whether somebody takes the finalizers of a deletion away from objects of this kind.
fn is_collected(context: &Context<'_>) -> bool {
    (context.server.garbage_collected)(&context.info.group, &context.info.kind, context.info.is_custom())
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
    let mut options = DeleteOptions::default();
    if !body.iter().all(u8::is_ascii_whitespace) {
        let decoded = decode_body(&context.headers, body, values_max(context.identity))?;
        if !decoded.is_null() {
            options = serde_json::from_value(decoded)
                .map_err(|error| ApiError::bad_request(format!("error decoding DeleteOptions: {error}")))?;
        }
    }
    let query = &context.query;
    if let Some(text) = query.get("gracePeriodSeconds") {
        let seconds = text
            .parse()
            .map_err(|_| ApiError::bad_request(format!("invalid value {text:?} for parameter gracePeriodSeconds")))?;
        options.grace_period_seconds = Some(seconds);
    }
    if let Some(policy) = query.get("propagationPolicy") {
        options.propagation_policy = Some(policy.to_owned());
    }
    if query.get("orphanDependents").is_some() {
        options.orphan_dependents = Some(query.flag("orphanDependents"));
    }
    let mut errors = Vec::new();
    if options.grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        let value = options.grace_period_seconds.unwrap_or_default().into();
        errors.push(FieldError::invalid("gracePeriodSeconds", &value, "must be greater than or equal to 0"));
    }
    if let Some(policy) = options.propagation_policy.as_deref()
        && !matches!(policy, "Orphan" | "Background" | "Foreground")
    {
        let supported = ["Background", "Foreground", "Orphan"];
        errors.push(FieldError::not_supported("propagationPolicy", &policy.into(), &supported));
    }
    if let Some(policy) = options.propagation_policy.as_deref()
        && options.orphan_dependents.is_some()
    {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid("propagationPolicy", &policy.into(), why));
    }
    let mut write = WriteOptions::parse(query, "DeleteOptions")?;
    for value in options.dry_run.iter().flatten() {
        write.dry_run = true;
        if value != "All" {
            errors.push(FieldError::not_supported("dryRun", &value.as_str().into(), &["All"]));
        }
    }
    if errors.is_empty() {
        Ok((options, write))
    } else {
        Err(ApiError::invalid_kind("meta.k8s.io", "DeleteOptions", "", &errors))
    }
}

async fn delete_one(
    context: &Context<'_>,
    options: &DeleteOptions,
    write: WriteOptions,
    name: &str,
) -> Result<Outcome> {
    if is_namespace(&context.info) && BUILTIN_NAMESPACES.contains(&name) {
        return Err(ApiError::forbidden(&context.info, name, "this namespace may not be deleted"));
    }
    let is_crd = crd::is_crd(&context.info);
    let _guard = if is_crd { Some(context.server.crd_writes.lock().await) } else { None };
    let insists = options.preconditions.as_ref().is_some_and(|held| held.resource_version.is_some());
    for _ in 0..TRIES {
        let stored = context.server.store.get(&context.key(name));
        let stored = stored.ok_or_else(|| ApiError::not_found(&context.info, name))?;
        context.authorize_object(&stored)?;
        let old = decode_stored(context, &stored)?;
        check_preconditions(context, options, &stored, &old, name)?;
        context.validate(Operation::Delete, &old, Some(&old), write, &mut Vec::new())?;
        let uid = uid_of(&old).to_owned();
        let attempt = match waiting(context, options, &old) {
            Some(new) if write.dry_run => return Ok(Outcome::Waiting(Context::dry(&new))),
            Some(new) if new == old => return Ok(Outcome::Waiting(stored.bytes.clone())),
            Some(new) => context.put(new, Expect::Revision(stored.revision)).await.map(Outcome::Waiting),
            None if write.dry_run => return Ok(Outcome::Deleted(uid)),
            None => {
                if options.propagation(&old) == Propagation::Orphan && !is_collected(context) {
                    orphan_dependents(context, &uid).await?;
                }
                let removed =
                    async { remove(context, &stored, stored.bytes.clone()).await.map(|()| Outcome::Deleted(uid)) };
                if is_crd { undefine(context, &old, removed).await } else { removed.await }
            }
        };
        match attempt {
            Ok(outcome) => return Ok(outcome),
            Err(PutError::Raced) if insists => break,
            Err(PutError::Raced) => {}
            Err(PutError::Refused(error)) => return Err(error),
        }
    }
    Err(ApiError::modified(&context.info, name))
}

fn check_preconditions(
    context: &Context<'_>,
    options: &DeleteOptions,
    stored: &Object,
    old: &Value,
    name: &str,
) -> Result<()> {
    let Some(expected) = &options.preconditions else { return Ok(()) };
    let pairs = [
        ("UID", expected.uid.clone(), uid_of(old).to_owned()),
        ("ResourceVersion", expected.resource_version.clone(), stored.revision.to_string()),
    ];
    for (what, expected, held) in pairs {
        if let Some(expected) = expected.filter(|expected| *expected != held) {
            let why = format!("Precondition failed: {what} in precondition: {expected}, {what} in object meta: {held}");
            return Err(ApiError::conflict(&context.info, name, &why));
        }
    }
    Ok(())
}

/// The object as it waits for its deletion; `None` when nothing holds it.
fn waiting(context: &Context<'_>, options: &DeleteOptions, old: &Value) -> Option<Value> {
    let grace = match context.info.grace_seconds(old) {
        Some(own) => options.grace_period_seconds.unwrap_or(own).max(0),
        None => 0,
    };
    let before = old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let mut new = old.clone();
    // While its kubelet has time to end it, a second delete may only shorten that time.
    let is_ending = is_terminating(old) && before.is_some_and(|before| before > 0 && grace >= before);
    if is_collected(context) && !is_ending {
        set_finalizer(&mut new, options.propagation(old));
    }
    if grace == 0 && !context.info.is_held(&new) {
        return None;
    }
    if !is_terminating(old) || before.is_some_and(|before| grace < before) {
        let end =
            jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(jiff::Timestamp::MAX);
        let fields = metadata(&mut new);
        fields.insert("deletionTimestamp".to_owned(), timestamp(end).into());
        fields.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
        if let Some(generation) = fields.get("generation").and_then(Value::as_i64) {
            fields.insert("generation".to_owned(), (generation + 1).into());
        }
    }
    context.info.begin_deletion(&mut new);
    Some(new)
}

fn is_namespace(info: &machinery_kinds::ResourceInfo) -> bool {
    &*info.kind == "Namespace" && info.group.is_empty()
}

/// Does `remove`, which takes a definition away, when its resource is served no more and its objects are deleted. When that
/// fails the resource is served again. The caller holds the lock of definitions.
pub(crate) async fn undefine<T>(
    context: &Context<'_>,
    definition: &Value,
    remove: impl Future<Output = Result<T, PutError>>,
) -> Result<T, PutError> {
    let served = context.server.registry();
    crd::withdraw(context.server, name_of(definition));
    let removed = match delete_all(context, &crd::resource_of(definition)).await {
        Ok(()) => remove.await,
        Err(error) => Err(PutError::Refused(error)),
    };
    match removed {
        // A create that was under way may have come in between; from now on none can.
        Ok(_) => delete_all(context, &crd::resource_of(definition)).await.map_err(PutError::Refused)?,
        Err(_) => crd::publish(context.server, served),
    }
    removed
}

/// Everything of a resource whose definition goes.
async fn delete_all(context: &Context<'_>, resource: &str) -> Result<()> {
    let store = &context.server.store;
    let mut count = 0;
    loop {
        let range = store.range(resource, None, None, Some(BATCH), None);
        let items = range.map_err(|error| ApiError::internal(error.to_string()))?.items;
        if items.is_empty() {
            break;
        }
        count += items.len();
        let deletes = items
            .into_iter()
            .map(|object| {
                let last = object.bytes.clone();
                Op::Delete {
                    key: object.key.clone(),
                    expect: Expect::Any,
                    final_bytes: Box::new(move |revision| with_revision(&last, revision)),
                }
            })
            .collect();
        match store.commit(deletes, Durability::Group).await {
            // An object that others deleted meanwhile: look again.
            Ok(_) | Err(CommitError::NotFound | CommitError::Conflict { .. }) => {}
            Err(error) => return Err(ApiError::commit(&error)),
        }
    }
    if count > 0 {
        info!(resource, count, "Deleted the objects of a resource with its definition.");
    }
    Ok(())
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
