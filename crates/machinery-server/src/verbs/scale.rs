//! `…/scale` of Kubernetes' own workloads: how many, as a kind of its own that is the same for all of them.
//!
//! Nothing of it is stored. It is read from the workload, and what is written to it becomes the workload's `spec.replicas`, by
//! the way of every change of the workload.

use base_http::Body;
use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use machinery_kinds::{FieldError, IncludeObject};
use serde_json::{Map, Value, json};

use super::update::{Changed, change};
use super::write::decode_stored;
use crate::heavy::values_max;
use crate::negotiate::{Arity, Form, MetaVersion, Output, PLAIN, content_type};
use crate::object::{metadata, name_of, text_at, uid_of};
use crate::request::WriteOptions;
use crate::server::Context;
use crate::status::{self, ApiError, Result};
use crate::typed;

const SCALE: typed::Kind<'static> = typed::Kind { group: "autoscaling", version: "v1", kind: "Scale" };

/// Where a workload selects its pods, and whether that is a map of labels alone.
const WORKLOADS: [(&str, &str, bool); 4] = [
    ("apps", "deployments", false),
    ("apps", "replicasets", false),
    ("apps", "statefulsets", false),
    ("", "replicationcontrollers", true),
];

/// Whether the request is about the scale of one of Kubernetes' own workloads.
pub(crate) fn is_scale(context: &Context<'_>) -> bool {
    context.path.subresource.as_deref() == Some("scale") && workload(context).is_some()
}

fn workload(context: &Context<'_>) -> Option<bool> {
    let found = WORKLOADS
        .iter()
        .find(|(group, plural, _)| (*group, *plural) == (context.path.group.as_str(), context.path.plural.as_str()));
    found.map(|(_, _, selects_labels)| *selects_labels)
}

pub(crate) fn get(context: &Context<'_>) -> Result<Response<Body>> {
    let stored = context.stored()?;
    context.authorize_object(&stored)?;
    let scale = scale_of(context, &decode_stored(context, &stored)?);
    show(context, &scale, context.output).map(status::ok)
}

pub(crate) async fn update(context: &Context<'_>, body: &Bytes) -> Result<Response<Body>> {
    let options = WriteOptions::parse(&context.query, "UpdateOptions")?;
    let mut sent = typed::decode(&context.headers, body, values_max(context.identity), SCALE.kind)?;
    typed::check_kind(&context.server.registry(), SCALE, &mut sent)?;
    check_types(&sent).map_err(|why| {
        let kind = SCALE.kind;
        ApiError::bad_request(format!("{kind} in version {:?} cannot be handled as a {kind}: {why}", SCALE.version))
    })?;
    match name_of(&sent) {
        name if name.is_empty() || name == context.name() => {}
        name => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                context.name()
            )));
        }
    }
    context.settle_namespace(&mut sent)?;
    write(context, options, |_| Ok(sent.clone())).await
}

pub(crate) async fn patch(context: &Context<'_>, body: &Bytes) -> Result<Response<Body>> {
    let options = WriteOptions::parse(&context.query, "PatchOptions")?;
    let patch = crate::negotiate::json(body)?;
    write(context, options, |scale| {
        let patched = match content_type(&context.headers) {
            "application/json-patch+json" => machinery_merge::json_patch(scale, &patch),
            // It has no lists, so both languages say the same.
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                machinery_merge::merge_patch(scale, &patch)
            }
            _ => return Err(ApiError::unrouted_media_type()),
        };
        let mut new = patched.map_err(|error| ApiError::bad_request(error.to_string()))?;
        if let Err(why) = check_types(&new) {
            let error = FieldError::invalid("patch", &Value::from(as_go_writes(&new)), why);
            return Err(ApiError::invalid_kind("", "", "", &[error]));
        }
        typed::check_kind(&context.server.registry(), SCALE, &mut new)?;
        if text_at(&new, "/metadata/resourceVersion") == text_at(scale, "/metadata/resourceVersion") {
            metadata(&mut new).remove("resourceVersion");
        }
        Ok(new)
    })
    .await
}

/// Changes the workload as a new scale says, and answers with its scale.
async fn write(
    context: &Context<'_>,
    options: WriteOptions,
    mut compute: impl FnMut(&Value) -> Result<Value>,
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
    let changed = change(&whole, options, Vec::new(), |old, _| {
        let scale = compute(&scale_of(context, old))?;
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or_default();
        if replicas < 0 {
            let error = FieldError::invalid("spec.replicas", &replicas.into(), "must be greater than or equal to 0");
            return Err(ApiError::invalid_kind(SCALE.group, SCALE.kind, context.name(), &[error]));
        }
        let (uid, held) = (uid_of(&scale), uid_of(old));
        if !uid.is_empty() && uid != held {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {held}");
            let plural = format!("{}/scale", context.info.plural);
            return Err(ApiError::conflict_kind(&context.info.group, &plural, context.name(), &why));
        }
        let mut new = old.clone();
        if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("replicas".to_owned(), replicas.into());
        }
        match text_at(&scale, "/metadata/resourceVersion") {
            "" => drop(metadata(&mut new).remove("resourceVersion")),
            revision => drop(metadata(&mut new).insert("resourceVersion".to_owned(), revision.into())),
        }
        Ok(Changed::to(new))
    })
    .await?;
    let (head, body) = changed.into_parts();
    let bytes = body.collect().await.map_err(|error| ApiError::internal(error.to_string()))?.to_bytes();
    let object: Value = serde_json::from_slice(&bytes).map_err(|error| ApiError::internal(error.to_string()))?;
    let shown = show(context, &scale_of(context, &object), context.output)?;
    Ok(Response::from_parts(head, Body::from(shown)))
}

/// The text of a scale with its members in the order of Go's types.
fn as_go_writes(scale: &Value) -> String {
    let ordered = |value: &Value, names: &[&str]| -> String {
        let member = |name: &&str| Some(format!("{}:{}", Value::from(*name), value.get(*name)?));
        format!("{{{}}}", names.iter().filter_map(member).collect::<Vec<_>>().join(","))
    };
    let metadata = ordered(&scale["metadata"], &["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]);
    let status = ordered(&scale["status"], &["replicas", "selector"]);
    let (version, kind) = (&scale["apiVersion"], &scale["kind"]);
    let spec = scale.get("spec").unwrap_or(&Value::Null);
    format!(r#"{{"apiVersion":{version},"kind":{kind},"metadata":{metadata},"spec":{spec},"status":{status}}}"#)
}

/// What Go says of a scale whose values have other types than its fields.
fn check_types(scale: &Value) -> std::result::Result<(), String> {
    let type_of = |value: &Value| match value {
        Value::Null => None,
        Value::Object(_) => Some("object"),
        Value::Array(_) => Some("array"),
        Value::String(_) => Some("string"),
        Value::Bool(_) => Some("bool"),
        Value::Number(_) => Some("number"),
    };
    match scale.get("spec") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(_)) => {}
        Some(other) => {
            let what = type_of(other).unwrap_or_default();
            return Err(format!("json: cannot unmarshal {what} into Go struct field Scale.spec of type v1.ScaleSpec"));
        }
    }
    let replicas = scale.pointer("/spec/replicas").unwrap_or(&Value::Null);
    if replicas.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) || replicas.is_null() {
        return Ok(());
    }
    let what = match replicas {
        Value::Number(number) => format!("number {number}"),
        other => type_of(other).unwrap_or_default().to_owned(),
    };
    Err(format!("json: cannot unmarshal {what} into Go struct field ScaleSpec.spec.replicas of type int32"))
}

fn scale_of(context: &Context<'_>, object: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default();
    let mut spec = Map::new();
    if number("/spec/replicas") != 0 {
        spec.insert("replicas".to_owned(), number("/spec/replicas").into());
    }
    let mut status = json!({"replicas": number("/status/replicas")});
    let selector = selector(object, workload(context).unwrap_or_default());
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": SCALE.kind, "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// The selector of a workload as text, its keys in order.
fn selector(object: &Value, selects_labels: bool) -> String {
    let selector = object.pointer("/spec/selector").cloned().unwrap_or_default();
    let selector = if selects_labels { json!({"matchLabels": selector}) } else { selector };
    let spec: api_kube::LabelSelectorSpec = serde_json::from_value(selector).unwrap_or_default();
    let Ok(selector) = spec.to_selector() else { return String::new() };
    let mut requirements = selector.requirements().to_vec();
    requirements.sort_by(|left, right| left.key().cmp(right.key()));
    api_kube::LabelSelector::new(requirements).to_string()
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
            let definitions = machinery_kinds::column_definitions(&context.info);
            let description = |name: &str| {
                let found = definitions.iter().find(|column| column["name"] == name);
                found.map(|column| column["description"].clone()).unwrap_or_default()
            };
            let column = |name: &str, kind: &str, description: Value| json!({"name": name, "type": kind, "format": "", "description": description, "priority": 0});
            let now = jiff::Timestamp::now();
            let created = text_at(scale, "/metadata/creationTimestamp").parse::<jiff::Timestamp>();
            let age = created.map_or_else(
                |_| "<unknown>".to_owned(),
                |created| machinery_kinds::human_duration(now.as_second() - created.as_second()),
            );
            let desired = scale.pointer("/spec/replicas").cloned().unwrap_or_else(|| 0.into());
            let object = match include {
                IncludeObject::None => Value::Null,
                IncludeObject::Metadata => partial(version),
                IncludeObject::Object => scale.clone(),
            };
            json!({
                "kind": "Table",
                "apiVersion": version.api_version(),
                "metadata": {"resourceVersion": text_at(scale, "/metadata/resourceVersion")},
                "columnDefinitions": [
                    column("Name", "string", description("Name")),
                    column("Desired", "integer", "replicas is the desired number of instances for the scaled object.".into()),
                    column(
                        "Available",
                        "integer",
                        "replicas is the actual number of observed instances of the scaled object.".into(),
                    ),
                    column("Age", "string", description("Age")),
                ],
                "rows": [{"cells": [name_of(scale), desired, scale["status"]["replicas"], age], "object": object}],
            })
        }
    };
    Ok(shown.to_string().into())
}
