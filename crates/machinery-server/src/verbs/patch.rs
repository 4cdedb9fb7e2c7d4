//! PATCH: a change of an object, in one of three languages.

use base_http::Body;
use bytes::Bytes;
use http::Response;
use machinery_kinds::FieldError;
use machinery_merge::PatchError;
use serde_json::Value;

use super::update::change;
use crate::negotiate::{content_type, json};
use crate::object::{metadata, name_of, text_at};
use crate::request::WriteOptions;
use crate::server::Context;
use crate::status::{ApiError, Result};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCHES: [&str; 2] = ["application/apply-patch+yaml", "application/apply-patch+cbor"];

enum Language {
    Json,
    Merge,
    Strategic(machinery_kinds::PatchSchema),
}

pub(crate) async fn patch(context: &Context<'_>, body: &Bytes) -> Result<Response<Body>> {
    let options = WriteOptions::parse(&context.query, "PatchOptions")?;
    let language = language(context)?;
    let mut decoded = Some(json(body)?);
    change(context, options, Vec::new(), move |old| {
        // It is not held, decoded, while the disk is waited for; who finds that another was first decodes it anew.
        let patch = match decoded.take() {
            Some(patch) => patch,
            None => json(body)?,
        };
        let patched = match &language {
            Language::Json => machinery_merge::json_patch(old, &patch),
            Language::Merge => machinery_merge::merge_patch(old, &patch),
            Language::Strategic(schema) => machinery_merge::strategic_merge(old, &patch, schema),
        };
        let mut new = patched.map_err(|error| refused(context, &error))?;
        finish(context, options, &mut new, old)
    })
    .await
}

fn language(context: &Context<'_>) -> Result<Language> {
    match content_type(&context.headers) {
        JSON_PATCH => Ok(Language::Json),
        MERGE_PATCH => Ok(Language::Merge),
        media if APPLY_PATCHES.contains(&media) => Err(ApiError::unsupported_media_type(
            "server-side apply is not served by this version; use client-side apply: `kubectl apply` without --server-side",
        )),
        media => match (media, context.info.patch_schema()) {
            (STRATEGIC_PATCH, Some(schema)) => Ok(Language::Strategic(schema)),
            (_, schema) => {
                let strategic = if schema.is_some() { format!(", {STRATEGIC_PATCH}") } else { String::new() };
                Err(ApiError::unsupported_media_type(format!(
                    "the body of the request was in an unknown format ({media}) - accepted media types include: \
                     {JSON_PATCH}, {MERGE_PATCH}{strategic}"
                )))
            }
        },
    }
}

/// What a patch may not do, and what it need not say.
fn finish(context: &Context<'_>, options: WriteOptions, new: &mut Value, old: &Value) -> Result<(Value, Vec<String>)> {
    if !new.is_object() {
        return Err(ApiError::bad_request("the patch leaves no object"));
    }
    let mut warnings = Vec::new();
    context.read(new, options.field_validation, &mut warnings)?;
    context.settle_namespace(new)?;
    if name_of(new) != context.name() {
        let error = FieldError::invalid("metadata.name", &name_of(new).into(), "field is immutable");
        return Err(ApiError::invalid(&context.info, context.name(), &[error]));
    }
    // A patch that leaves the revision alone does not insist on it.
    if text_at(new, "/metadata/resourceVersion") == text_at(old, "/metadata/resourceVersion") {
        metadata(new).remove("resourceVersion");
    }
    Ok((new.take(), warnings))
}

fn refused(context: &Context<'_>, error: &PatchError) -> ApiError {
    match error {
        PatchError::BadRequest(why) => ApiError::bad_request(why),
        PatchError::TooLarge { .. } => ApiError::too_large(error.to_string()),
        PatchError::Failed(why) => ApiError::internal(why),
        PatchError::TooDeep | PatchError::Unprocessable(_) => {
            ApiError::unprocessable(&context.info, context.name(), &error.to_string())
        }
    }
}
