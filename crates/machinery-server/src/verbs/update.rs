//! PUT: another version of an object; and the way that every change of an object takes, patches included.

use base_http::Body;
use bytes::Bytes;
use http::Response;
use machinery_kinds::services::service_numbers;
use machinery_kinds::{FieldError, Registry, dedup_owner_references};
use machinery_merge::Managed;
use machinery_store::{Expect, Object, Revision};
use serde_json::{Value, json};
use tracing::warn;

use super::create::create_object;
use super::write::{PutError, decode_stored, remove};
use crate::admission::Operation;
use crate::crd;
use crate::object::{is_terminating, metadata, text_at, uid_of};
use crate::owners::{Owners, owners_of};
use crate::reindex::{reindex_all, reselected};
use crate::repeats::Repeats;
use crate::request::WriteOptions;
use crate::server::Context;
use crate::services::{self, Reservation};
use crate::status::{ApiError, Result};

/// How often a change is computed anew when others write the same object in between.
const TRIES: usize = 10;

pub(crate) async fn update(context: &Context<'_>, body: &Bytes) -> Result<Response<Body>> {
    let options = WriteOptions::parse(&context.query, "UpdateOptions")?;
    let mut sent = context.decode_body(body)?;
    let mut warnings = Vec::new();
    let repeats = Repeats::of(&context.headers, body, &sent, options.field_validation);
    context.read(&mut sent, repeats, options.field_validation, &mut warnings)?;
    context.check_name(&sent)?;
    context.settle_namespace(&mut sent)?;
    warnings.extend(dedup_owner_references(&mut sent, false));
    let is_new = context.path.subresource.is_none()
        && context.info.creates_on_update()
        && context.server.store.get(&context.key(context.name())).is_none();
    if is_new {
        // Whoever names a uid means the object that had it, and not another one in its place.
        let uid = uid_of(&sent);
        if !uid.is_empty() {
            let at = (context.namespace(), context.name());
            return Err(ApiError::uid_conflict(&context.info, at, (uid, ""), options.dry_run).with_warnings(&warnings));
        }
        let managed = Owners::of(context).create(&mut sent)?;
        return create_object(context, sent, managed, options, warnings).await;
    }
    let is_unconditional = matches!(text_at(&sent, "/metadata/resourceVersion"), "" | "0");
    let said = warnings.clone();
    change(context, options, warnings, &mut |old, _| {
        let uid = uid_of(&sent);
        let is_another = !uid.is_empty() && uid != uid_of(old);
        // That it is another object is said first.
        if !is_another && is_unconditional && !context.info.takes_unconditional_update() {
            let error = FieldError::invalid("metadata.resourceVersion", &0.into(), "must be specified for an update");
            let (group, plural) = (&context.info.group, &context.info.plural);
            return Err(ApiError::invalid_kind(group, plural, context.name(), &[error]));
        }
        Ok(Changed { is_insisting_on_uid: true, ..Changed::to(sent.clone()) })
    })
    .await
    .map_err(|error| error.with_warnings(&said))
}

/// A new version of an object, as a request wants it.
pub(crate) struct Changed {
    pub(crate) object: Value,
    /// Its owners, when they are known already.
    pub(crate) managed: Option<Managed>,
    pub(crate) warnings: Vec<String>,
    /// Whether another uid is a conflict; else it is an attempt to change it.
    pub(crate) is_insisting_on_uid: bool,
}

impl Changed {
    pub(crate) fn to(object: Value) -> Self {
        Self { object, managed: None, warnings: Vec::new(), is_insisting_on_uid: false }
    }
}

/// Changes the object of the request: `compute` makes the new version from the stored one (already read), and is called
/// again when somebody else was faster, unless the client insists on a revision.
pub(crate) async fn change(
    context: &Context<'_>,
    options: WriteOptions,
    warnings: Vec<String>,
    compute: &mut (dyn FnMut(&Value, &Managed) -> Result<Changed> + Send),
) -> Result<Response<Body>> {
    let is_crd = crd::is_crd(&context.info);
    let _guard = if is_crd { Some(context.server.crd_writes.lock().await) } else { None };
    let owners = Owners::of(context);
    for _ in 0..TRIES {
        let stored = context.stored()?;
        context.authorize_object(&stored)?;
        let (old, held) = (decode_stored(context, &stored)?, owners_of(&stored));
        let changed = compute(&old, &held)?;
        let mut new = changed.object;
        let mut warnings = warnings.clone();
        warnings.extend(changed.warnings);
        if new.pointer("/metadata/managedFields").is_some_and(|fields| fields.as_array().is_some_and(Vec::is_empty)) {
            // No owners at all are asked for, as by one empty entry; what is empty is left out of a complete object.
            metadata(&mut new).insert("managedFields".to_owned(), json!([{}]));
        }
        // From here on both versions are in the form in which objects are stored, so that they can be compared.
        context.info.complete(&mut new);
        let managed = match changed.managed {
            Some(managed) => managed,
            None => owners.update(&old, &held, &mut new)?,
        };
        let insists =
            check_preconditions(context, &stored, (&new, &old), changed.is_insisting_on_uid, options.dry_run)?;
        let (registry, reservation) = settle(context, options, &mut new, &old, &mut warnings)?;
        metadata(&mut new).insert("resourceVersion".to_owned(), stored.revision.to_string().into());
        if options.dry_run {
            return context.show(context.with_owners(Context::dry(&new), &managed), false, &warnings);
        }
        if new == old && managed.is_same_but_for_times(&held) {
            // Nothing changed: no revision is spent, and no watcher is woken.
            return context.show(context.stored_bytes(&stored), false, &warnings);
        }
        let reselected =
            registry.as_ref().map(|registry| reselected(&context.server.registry(), registry)).unwrap_or_default();
        if !reselected.is_empty() {
            // Before the definition is written: if it ends in between, the next start does the rest.
            context.server.store.begin_reindex().await.map_err(|error| ApiError::commit(&error))?;
        }
        let is_removed = context.info.may_be_removed(&new);
        let written = if is_removed {
            let last = Context::dry(&new);
            let removed = async { remove(context, &stored, last.clone()).await.map(|_| last) };
            if is_crd { crd::undefine(context.server, &new, removed, PutError::Refused).await } else { removed.await }
        } else {
            let numbers = reservation.as_ref().map(|_| (service_numbers(&old), service_numbers(&new)));
            drop(old);
            let written = context.put(new, &managed, Expect::Revision(stored.revision)).await;
            if let (Ok(_), Some(reservation), Some((before, now))) = (&written, reservation, numbers) {
                reservation.confirm(&before, &now);
            }
            written
        };
        match written {
            Ok(bytes) => {
                if is_crd && let Err(error) = crd::settle(context.server, context.name()).await {
                    warn!(crd = context.name(), %error, "A changed definition is stored and not served yet.");
                }
                reindex_all(context.server, &reselected).await;
                if is_removed {
                    crd::finish_termination(context.server, &context.info).await;
                }
                return context.show(context.with_owners(bytes, &managed), false, &warnings);
            }
            Err(PutError::Raced) if insists => break,
            Err(PutError::Raced) => {}
            Err(PutError::Refused(error)) => return Err(error),
        }
    }
    Err(ApiError::modified(&context.info, context.name()))
}

/// Checks revision and uid that the client sent along; returns whether it sent a revision.
fn check_preconditions(
    context: &Context<'_>,
    stored: &Object,
    (new, old): (&Value, &Value),
    is_insisting_on_uid: bool,
    is_dry: bool,
) -> Result<bool> {
    let (uid, held) = (uid_of(new), uid_of(old));
    if is_insisting_on_uid && !uid.is_empty() && uid != held {
        let at = (context.namespace(), context.name());
        return Err(ApiError::uid_conflict(&context.info, at, (uid, held), is_dry));
    }
    match text_at(new, "/metadata/resourceVersion") {
        "" | "0" => Ok(false),
        text if text.parse() == Ok(stored.revision) => Ok(true),
        text if text.parse::<Revision>().is_err() => {
            let error = FieldError::invalid("metadata.resourceVersion", &text.into(), "must be a whole number");
            Err(ApiError::invalid(&context.info, context.name(), &[error]))
        }
        _ => Err(ApiError::modified(&context.info, context.name())),
    }
}

/// Brings a new version into its final form and checks it; gives the registry that it brings, for a definition, and what is
/// reserved for it, for a Service.
fn settle<'c>(
    context: &'c Context<'_>,
    options: WriteOptions,
    new: &mut Value,
    old: &Value,
    warnings: &mut Vec<String>,
) -> Result<(Option<Registry>, Option<Reservation<'c>>)> {
    // What is written to a scale is the spec of its object.
    let subresource = context.path.subresource.as_deref().filter(|part| *part != "scale");
    context.mutate(Operation::Update, new, Some(old), options, warnings)?;
    warnings.extend(dedup_owner_references(new, true));
    context.apply_defaults(new)?;
    let reservation = match subresource.is_none() && services::are_services(&context.info) {
        true => Some(context.server.services.begin_update(&context.info, new, old)?),
        false => None,
    };
    context.info.prepare_update(subresource, new, old);
    context.info.complete(new);
    let errors = context.info.validate_update(subresource, new, old);
    if !errors.is_empty() {
        return Err(ApiError::invalid(&context.info, context.name(), &errors));
    }
    if subresource.is_none() {
        warnings.extend(context.info.warnings(new, Some(old)));
    }
    context.validate(Operation::Update, new, Some(old), options, warnings)?;
    if crd::is_crd(&context.info) && !is_terminating(new) {
        return Ok((crd::stage(context.server, new), reservation));
    }
    Ok((None, reservation))
}
