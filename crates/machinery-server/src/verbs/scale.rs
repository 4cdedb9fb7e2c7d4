//! `…/scale` of a workload: how many, as a kind of its own that is the same for Kubernetes' workloads and for custom resources.
//!
//! Nothing of it is stored. It is read from the workload, and what is written to it becomes the workload's number, by the way of
//! every change of the workload. Who owns the one owns the other: an owner of the number is shown as one of the scale's, and what
//! a write makes of the scale's owners is brought back.

use base_http::Body;
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use machinery_kinds::{FieldError, IncludeObject, Registry, ResourceInfo, Scale};
use machinery_merge::{Managed, PathElement};
use serde_json::{Map, Value, json};

use super::patch::{self, Language, Unreadable};
use super::update::{Changed, change};
use super::write::decode_stored;
use crate::heavy::values_max;
use crate::negotiate::{Arity, Form, MetaVersion, Output, PLAIN};
use crate::object::{metadata, name_of, text_at, uid_of};
use crate::owners::Owners;
use crate::repeats::Repeats;
use crate::request::{FieldValidation, WriteOptions};
use crate::server::Context;
use crate::status::{self, ApiError, Result};
use crate::typed;

/// What a patch sees in place of a number that the object does not have; upstream's clients see it, too, in an error that shows
/// the scale.
const NO_REPLICAS: i64 = i32::MIN as i64;

/// Whether the request is about the scale of a workload.
pub(crate) fn is_scale(context: &Context<'_>) -> bool {
    context.path.subresource.as_deref() == Some("scale") && Scale::path(&context.info).is_some()
}

pub(crate) fn get(context: &Context<'_>) -> Result<Response<Body>> {
    let stored = context.stored()?;
    context.authorize_object(&stored)?;
    let object = decode_stored(context, &stored)?;
    let scale = Scale::of(&context.info, &object).map_err(ApiError::unknown)?;
    if scale.desired.is_none() {
        return Err(ApiError::internal(format!("the spec replicas field {:?} does not exist", path_text(context))));
    }
    show(context, &value_of(&scale, &object), context.output).map(status::ok)
}

pub(crate) async fn update(context: &Context<'_>, body: &Bytes) -> Result<Response<Body>> {
    let options = WriteOptions::parse(&context.query, "UpdateOptions")?;
    let mut warnings = Vec::new();
    let mut sent = decode(context, body, options.field_validation, &mut warnings).map_err(|error| {
        // Upstream looks the kind up among those of the definition when it words any of these errors.
        let is_worded = context.info.is_custom() && error.status()["code"] == 400;
        if is_worded { ApiError::bad_request(UNWORDED) } else { error }
    })?;
    context.check_name(&sent)?;
    context.settle_namespace(&mut sent)?;
    write(context, options, |owners, old, held| {
        let mut scale = sent.clone();
        let managed = owners.update(old, held, &mut scale)?;
        Ok(Written { scale, managed, warnings: warnings.clone() })
    })
    .await
}

/// What upstream says of a scale of a custom object that it cannot read.
const UNWORDED: &str = "no kind is registered for the type v1.Scale in scheme \"pkg/runtime/scheme.go:111\"";

fn decode(
    context: &Context<'_>,
    body: &Bytes,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value> {
    let info = Scale::resource();
    let mut sent = typed::decode(&context.headers, body, values_max(context.identity), &info.kind)?;
    let repeats = Repeats::of(&context.headers, body, &sent, validation);
    typed::check_kind(&context.server.registry(), typed::Kind::of(info), &mut sent)?;
    super::write::decode_as(info, &mut sent, repeats, validation, warnings)?;
    info.complete(&mut sent);
    Ok(sent)
}

pub(crate) async fn patch(context: &Context<'_>, body: &Bytes) -> Result<Response<Body>> {
    let info = Scale::resource();
    let language = patch::language(context, info.patch_schema().filter(|_| !context.info.is_custom()))?;
    let options = WriteOptions::parse(&context.query, "PatchOptions")?;
    patch::check_options(context, &language)?;
    if matches!(language, Language::Apply) {
        return apply(context, options, body).await;
    }
    write(context, options, |owners, old, held| {
        let decoded = patch::decode_patch(&language, options, body)?;
        let mut scale = patch::patched(&language, &decoded, &patch::with_owners(old, held))?;
        let mut warnings = Vec::new();
        let repeats = patch::repeats(&language, body, &decoded, options);
        patch::read(info, &language, options, repeats, &mut scale, &mut warnings).map_err(|error| match error {
            Unreadable::Refused(why) => patch::unreadable(info, &language, &decoded, old, held, &why),
            Unreadable::Failed(error) => error,
        })?;
        settle(context, old, &mut scale)?;
        let managed = owners.update(old, held, &mut scale)?;
        Ok(Written { scale, managed, warnings })
    })
    .await
}

/// Server-side apply. Of a custom object upstream refuses it with an internal error, because it tries to convert the scale by the
/// definition; here it does what it does for every other workload.
async fn apply(context: &Context<'_>, options: WriteOptions, body: &Bytes) -> Result<Response<Body>> {
    let info = Scale::resource();
    let force = context.query.flag("force");
    write(context, options, |owners, old, held| {
        let config = patch::decode_config(context, body)?;
        let applied = owners.apply(Some((old, held)), &config, force)?;
        let mut scale = applied.object;
        info.decode(&mut scale).map_err(|error| ApiError::unknown(error.to_string()))?;
        settle(context, old, &mut scale)?;
        let warnings = patch::applied_repeats(body, &config, options)?;
        Ok(Written { scale, managed: applied.managed, warnings })
    })
    .await
}

/// Name and namespace of a patched scale must be the URL's; a revision that the patch left alone is not insisted on.
fn settle(context: &Context<'_>, old: &Value, scale: &mut Value) -> Result<()> {
    Scale::resource().complete(scale);
    patch::settle(context, scale)?;
    if text_at(scale, "/metadata/resourceVersion") == text_at(old, "/metadata/resourceVersion") {
        metadata(scale).remove("resourceVersion");
    }
    Ok(())
}

/// A scale as a request wants it, with its owners.
struct Written {
    scale: Value,
    managed: Managed,
    warnings: Vec<String>,
}

/// Changes the workload as a new scale says, and answers with its scale.
async fn write(
    context: &Context<'_>,
    options: WriteOptions,
    mut compute: impl FnMut(&Owners<'_>, &Value, &Managed) -> Result<Written> + Send,
) -> Result<Response<Body>> {
    let whole = Context {
        server: context.server,
        identity: context.identity,
        verb: context.verb,
        info: context.info.clone(),
        path: context.path.clone(),
        query: context.query.clone(),
        headers: context.headers.clone(),
        output: PLAIN,
        turn: context.turn.clone(),
    };
    let (info, owners, registry) = (&context.info, Owners::of(context), context.server.registry());
    let replicas = |api_version: &str| replicas_path(&registry, info, api_version);
    let changed = change(&whole, options, Vec::new(), &mut |old, held| {
        let shown = Scale::of(info, old).map_err(ApiError::unknown)?;
        let shown = Scale { desired: Some(shown.desired.unwrap_or(NO_REPLICAS)), ..shown };
        let Written { scale, managed, warnings } = compute(&owners, &value_of(&shown, old), &held.to_scale(&replicas))?;
        let desired = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or_default();
        check(context, &scale, old, desired)?;
        let mut new = old.clone();
        Scale::write_desired(info, &mut new, desired).map_err(ApiError::unknown)?;
        match text_at(&scale, "/metadata/resourceVersion") {
            "" => drop(metadata(&mut new).remove("resourceVersion")),
            revision => drop(metadata(&mut new).insert("resourceVersion".to_owned(), revision.into())),
        }
        let managed = held.with_scale(&managed, &info.api_version(), &replicas);
        Ok(Changed { managed: Some(managed), warnings, ..Changed::to(new) })
    })
    .await?;
    let (head, body) = changed.into_parts();
    let bytes = body.collect().await.map_err(|error| ApiError::internal(error.to_string()))?.to_bytes();
    let object: Value = serde_json::from_slice(&bytes).map_err(|error| ApiError::internal(error.to_string()))?;
    let scale = Scale::of(info, &object).map_err(ApiError::bad_request)?;
    let shown = show(context, &value_of(&scale, &object), context.output)?;
    Ok(Response::from_parts(head, Body::from(shown)))
}

/// Checks what a scale says before the workload is changed. What a custom object may have there is up to its definition.
fn check(context: &Context<'_>, scale: &Value, old: &Value, desired: i64) -> Result<()> {
    let (info, kind) = (&context.info, Scale::resource());
    if desired == NO_REPLICAS {
        let path = path_text(context);
        return Err(ApiError::bad_request(format!("the spec replicas field {path:?} cannot be empty")));
    }
    if desired < 0 && !info.is_custom() {
        let error = FieldError::invalid("spec.replicas", &desired.into(), "must be greater than or equal to 0");
        return Err(ApiError::invalid_kind(&kind.group, &kind.kind, context.name(), &[error]));
    }
    let (uid, held) = (uid_of(scale), uid_of(old));
    if uid.is_empty() || uid == held {
        return Ok(());
    }
    if info.is_custom() {
        return Err(ApiError::uid_conflict(info, (context.namespace(), context.name()), (uid, held), false));
    }
    let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {held}");
    let plural = format!("{}/scale", info.plural);
    Err(ApiError::conflict_kind(&info.group, &plural, context.name(), &why))
}

/// Where the number is, as the definition writes it.
fn path_text(context: &Context<'_>) -> String {
    context.info.custom_scale().map(|scale| scale.spec_path.to_string()).unwrap_or_default()
}

/// Where a version of the workload has the number; see [`machinery_merge::ReplicasPath`].
fn replicas_path(registry: &Registry, info: &ResourceInfo, api_version: &str) -> Option<Vec<PathElement>> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let info = registry.resource(group, version, &info.plural).filter(|_| *group == *info.group)?;
    Some(Scale::path(info).unwrap_or_default().into_iter().map(PathElement::field).collect())
}

/// A scale as clients see it.
fn value_of(scale: &Scale, object: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut spec = Map::new();
    if let Some(desired) = scale.desired.filter(|desired| *desired != 0) {
        spec.insert("replicas".to_owned(), desired.into());
    }
    let mut status = json!({"replicas": scale.current});
    if !scale.selector.is_empty() {
        status["selector"] = scale.selector.as_str().into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

fn show(context: &Context<'_>, scale: &Value, output: Output) -> Result<Bytes> {
    let partial = |version: MetaVersion| json!({"kind": "PartialObjectMetadata", "apiVersion": version.api_version(), "metadata": scale["metadata"]});
    let shown = match output.form {
        Form::Object => scale.clone(),
        Form::Partial(version, Arity::One) => partial(version),
        Form::Partial(_, Arity::List) => {
            let why =
                "you requested PartialObjectMetadataList, but the requested object is not a list (*autoscaling.Scale)";
            return Err(ApiError::no_such_form(why));
        }
        Form::Table(version, include) => {
            let now = (context.server.now)();
            let created = text_at(scale, "/metadata/creationTimestamp").parse::<jiff::Timestamp>();
            let age = created.map_or_else(
                |_| "<unknown>".to_owned(),
                |created| machinery_kinds::human_duration(now.as_second() - created.as_second()),
            );
            let desired = match scale.pointer("/spec/replicas") {
                Some(desired) => desired.clone(),
                // A custom column shows what is written, and a number of none is not.
                None if context.info.is_custom() => Value::Null,
                None => 0.into(),
            };
            let object = match include {
                IncludeObject::None => Value::Null,
                IncludeObject::Metadata => partial(version),
                IncludeObject::Object => scale.clone(),
            };
            json!({
                "kind": "Table",
                "apiVersion": version.api_version(),
                "metadata": {"resourceVersion": text_at(scale, "/metadata/resourceVersion")},
                "columnDefinitions": Scale::columns(&context.info),
                "rows": [{"cells": [name_of(scale), desired, scale["status"]["replicas"], age], "object": object}],
            })
        }
    };
    Ok(shown.to_string().into())
}
