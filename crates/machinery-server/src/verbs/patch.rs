//! PATCH: a change of an object, in one of four languages.

use base_http::Body;
use bytes::Bytes;
use http::Response;
use machinery_kinds::{FieldError, PatchSchema, ResourceInfo};
use machinery_merge::{Managed, PatchError};
use machinery_schema::types::Type;
use serde_json::{Value, json};

use self::shown::{Touched, patched_text};
use super::create::create_object;
use super::update::{Changed, change};
use crate::heavy::values_max;
use crate::negotiate::{content_type, yaml};
use crate::object::{metadata, name_of, text_at, uid_of};
use crate::owners::Owners;
use crate::repeats::Repeats;
use crate::request::{FieldValidation, WriteOptions};
use crate::server::Context;
use crate::status::{ApiError, Result};

mod converter;
mod shown;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
/// A patch that does not hold these bytes does not look at the owners.
const MANAGED_FIELDS: &[u8] = b"managedFields";

const APPLY_PATCH: &str = "application/apply-patch+yaml";

pub(super) enum Language {
    Json,
    Merge,
    Strategic(PatchSchema),
    Apply,
}

pub(crate) async fn patch(context: &Context<'_>, body: &Bytes) -> Result<Response<Body>> {
    let language = language(context, context.info.patch_schema())?;
    let options = WriteOptions::parse(&context.query, "PatchOptions")?;
    check_options(context, &language)?;
    if matches!(language, Language::Apply) {
        return apply(context, options, body).await;
    }
    let mut decoded = None;
    change(context, options, Vec::new(), &mut move |old, held| {
        // It is not held, decoded, while the disk is waited for; who finds that another was first decodes it anew. And it is
        // decoded after the object was found: who patches nothing learns that first.
        let patch = match decoded.take() {
            Some(patch) => patch,
            None => decode_patch(&language, options, body)?,
        };
        // The owners are part of the object that is patched, but few patches look at them.
        let is_about_owners = body.windows(MANAGED_FIELDS.len()).any(|window| window == MANAGED_FIELDS);
        let mut new = match is_about_owners {
            true => patched(&language, &patch, &with_owners(old, held))?,
            false => patched(&language, &patch, old)?,
        };
        let mut changed = Changed::to(Value::Null);
        let repeats = repeats(&language, body, &patch, options);
        read(&context.info, &language, options, repeats, &mut new, &mut changed.warnings).map_err(
            |error| match error {
                Unreadable::Refused(why) => unreadable(&context.info, &language, &patch, old, held, &why),
                Unreadable::Failed(error) => error,
            },
        )?;
        settle(context, &mut new)?;
        // A patch that leaves the revision alone does not insist on it.
        if text_at(&new, "/metadata/resourceVersion") == text_at(old, "/metadata/resourceVersion") {
            metadata(&mut new).remove("resourceVersion");
        }
        changed.object = new;
        Ok(changed)
    })
    .await
}

/// The language of a patch; `schema` is that of a strategic one, where there can be any.
pub(super) fn language(context: &Context<'_>, schema: Option<PatchSchema>) -> Result<Language> {
    match (content_type(&context.headers), schema) {
        (JSON_PATCH, _) => Ok(Language::Json),
        (MERGE_PATCH, _) => Ok(Language::Merge),
        (STRATEGIC_PATCH, Some(schema)) => Ok(Language::Strategic(schema)),
        (APPLY_PATCH, _) => Ok(Language::Apply),
        (_, schema) => {
            let strategic = if schema.is_some() { format!("{STRATEGIC_PATCH}, ") } else { String::new() };
            Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 {JSON_PATCH}, {MERGE_PATCH}, {strategic}{APPLY_PATCH}"
            )))
        }
    }
}

/// What only an apply must say, and what only it may.
pub(super) fn check_options(context: &Context<'_>, language: &Language) -> Result<()> {
    let manager = context.query.get("fieldManager").unwrap_or_default();
    let error = match language {
        Language::Apply if manager.is_empty() => FieldError::required("fieldManager", "is required for apply patch"),
        Language::Json | Language::Merge | Language::Strategic(_) if context.query.get("force").is_some() => {
            FieldError::forbidden("force", "may not be specified for non-apply patch")
        }
        _ => return Ok(()),
    };
    Err(ApiError::invalid_kind("meta.k8s.io", "PatchOptions", "", &[error]))
}

pub(super) fn decode_patch(language: &Language, options: WriteOptions, body: &Bytes) -> Result<Value> {
    let is_read_strictly = options.field_validation != FieldValidation::Ignore;
    let decoded = serde_json::from_slice(body);
    if let (Ok(Value::Array(_)), Language::Merge, true) = (&decoded, language, is_read_strictly) {
        let why = "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}";
        return Err(ApiError::bad_request(why));
    }
    decoded.map_err(|_| {
        let why = syntax_error(body);
        ApiError::bad_request(match language {
            Language::Merge if options.field_validation == FieldValidation::Ignore => "Invalid JSON Patch".to_owned(),
            Language::Json if options.field_validation == FieldValidation::Ignore => why,
            Language::Json | Language::Merge => format!("error decoding patch: {why}"),
            Language::Strategic(_) | Language::Apply => why,
        })
    })
}

/// What Go's decoder says of a text that is no JSON.
fn syntax_error(body: &Bytes) -> String {
    let rest = body.iter().position(|byte| !byte.is_ascii_whitespace()).map_or(&b""[..], |at| &body[at..]);
    let error = serde_json::from_slice::<serde::de::IgnoredAny>(rest).err();
    match (error, rest) {
        (Some(error), _) if error.is_eof() => "unexpected end of JSON input".to_owned(),
        (_, [first, ..]) => format!("invalid character '{}' looking for beginning of value", char::from(*first)),
        (_, []) => "unexpected end of JSON input".to_owned(),
    }
}

pub(super) fn with_owners(old: &Value, held: &Managed) -> Value {
    let mut whole = old.clone();
    if let Some(entries) = held.to_value() {
        metadata(&mut whole).insert("managedFields".to_owned(), entries);
    }
    whole
}

pub(super) fn patched(language: &Language, patch: &Value, old: &Value) -> Result<Value> {
    let patched = match language {
        Language::Json => machinery_merge::json_patch(old, patch),
        Language::Merge => machinery_merge::merge_patch(old, patch),
        Language::Strategic(schema) => machinery_merge::strategic_merge(old, patch, schema),
        Language::Apply => Ok(Value::Null),
    };
    patched.map_err(|error| match error {
        PatchError::BadRequest(why) => ApiError::bad_request(why),
        PatchError::TooLarge { .. } => ApiError::too_large(error.to_string()),
        PatchError::Failed(why) => ApiError::unknown(why),
        PatchError::TooDeep | PatchError::Unprocessable(_) => ApiError::patch_refused(),
    })
}

/// What a patch has twice; an apply is looked at when it was done.
pub(super) fn repeats(language: &Language, body: &Bytes, patch: &Value, options: WriteOptions) -> Repeats {
    match language {
        Language::Json => Repeats::of_json_patch(body, patch, options.field_validation),
        Language::Merge | Language::Strategic(_) => Repeats::of_json(body, patch, options.field_validation),
        Language::Apply => Repeats::default(),
    }
}

/// What is said of a configuration that has something twice, once it could be applied.
pub(super) fn applied_repeats(body: &Bytes, config: &Value, options: WriteOptions) -> Result<Vec<String>> {
    let repeats = Repeats::of_yaml(body, config, options.field_validation);
    match (options.field_validation, repeats.yaml_error()) {
        (FieldValidation::Strict, Some(why)) => {
            Err(ApiError::bad_request(format!("error strict decoding YAML: error converting YAML to JSON: {why}")))
        }
        _ => Ok(repeats.warnings(&[]).collect()),
    }
}

/// Reads what a patch made. What is wrong with it is wrong with the patch.
pub(super) fn read(
    info: &ResourceInfo,
    language: &Language,
    options: WriteOptions,
    repeats: Repeats,
    new: &mut Value,
    warnings: &mut Vec<String>,
) -> std::result::Result<(), Unreadable> {
    if let Some(why) = wrong_kind(info, language, new) {
        return Err(Unreadable::Refused(why));
    }
    if let (Language::Strategic(_), Some(of)) = (language, info.builtin_type())
        && let Some(why) = converter::misfit(of, new)
    {
        return Err(Unreadable::Refused(why));
    }
    let unknown = info.decode(new).map_err(|error| Unreadable::Refused(error.to_string()))?;
    match options.field_validation {
        FieldValidation::Strict => {
            if let Some(why) = repeats.strict_error(&unknown) {
                return Err(Unreadable::Refused(why));
            }
        }
        FieldValidation::Warn => warnings.extend(repeats.warnings(&unknown)),
        FieldValidation::Ignore => {}
    }
    info.apply_defaults(new).map_err(|error| Unreadable::Failed(ApiError::too_large(error.to_string())))
}

/// Why what a patch made cannot be read.
pub(super) enum Unreadable {
    /// It is no object of the kind; the words say why.
    Refused(String),
    Failed(ApiError),
}

/// The error of a patch that made something unreadable: it shows what.
pub(super) fn unreadable(
    info: &ResourceInfo,
    language: &Language,
    patch: &Value,
    old: &Value,
    held: &Managed,
    why: &str,
) -> ApiError {
    let shown = match language {
        Language::Strategic(_) | Language::Apply => machinery_schema::go::plain(patch),
        Language::Json | Language::Merge => {
            let touched = match language {
                Language::Json => Touched::by_operations(patch),
                _ => Touched::by_merge(patch),
            };
            match patched(language, patch, &with_owners(old, held)) {
                Ok(object) => patched_text(&object, info.builtin_type(), &touched),
                Err(error) => return error,
            }
        }
    };
    ApiError::invalid_patch(&FieldError::invalid("patch", &shown.into(), why))
}

/// What upstream says of a patch that made another kind of the object. A strategic patch is read into the kind whatever it
/// says of itself.
fn wrong_kind(info: &ResourceInfo, language: &Language, new: &mut Value) -> Option<String> {
    let own = [("apiVersion", info.api_version()), ("kind", info.kind.to_string())];
    let Some(fields) = new.as_object_mut() else {
        let found = machinery_schema::go::json_type(new);
        return Some(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type struct {{ \
             APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        ));
    };
    if let Language::Strategic(_) = language {
        fields.extend(own.map(|(field, value)| (field.to_owned(), value.into())));
        return None;
    }
    // What is left out is taken from the type that is decoded into.
    for (field, value) in own {
        let is_empty = fields.get(field).and_then(Value::as_str).is_none_or(str::is_empty);
        if is_empty {
            fields.insert(field.to_owned(), value.into());
        }
    }
    let (api_version, kind) = (text_at(new, "/apiVersion"), text_at(new, "/kind"));
    if api_version == info.api_version() && kind == &*info.kind {
        return None;
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let internal = if info.group.is_empty() { "core" } else { info.group.split('.').next().unwrap_or_default() };
    Some(if Type::of_kind(group, version, kind).is_some() {
        format!("converting ({version}.{kind}) to ({internal}.{}): unknown conversion", info.kind)
    } else {
        format!("no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:111\"")
    })
}

/// Namespace and name must be the URL's.
pub(super) fn settle(context: &Context<'_>, object: &mut Value) -> Result<()> {
    context.settle_namespace(object)?;
    context.check_name(object)
}

/// Server-side apply: the configuration is what its manager owns from now on.
async fn apply(context: &Context<'_>, options: WriteOptions, body: &Bytes) -> Result<Response<Body>> {
    let force = context.query.flag("force");
    let owners = Owners::of(context);
    let is_new = context.path.subresource.is_none() && context.server.store.get(&context.key(context.name())).is_none();
    if is_new {
        let config = decode_config(context, body)?;
        let (mut object, managed) = applied(context, &owners, None, &config, force)?;
        let warnings = applied_repeats(body, &config, options)?;
        if !uid_of(&object).is_empty() {
            let uid = uid_of(&object);
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(ApiError::conflict(&context.info, context.name(), &why));
        }
        settle(context, &mut object)?;
        context.authorize_create()?;
        // No revision can be insisted on of what is not there; upstream does not look.
        metadata(&mut object).remove("resourceVersion");
        return create_object(context, object, managed, options, warnings).await;
    }
    change(context, options, Vec::new(), &mut move |old, held| {
        let config = decode_config(context, body)?;
        let (mut object, managed) = applied(context, &owners, Some((old, held)), &config, force)?;
        let warnings = applied_repeats(body, &config, options)?;
        settle(context, &mut object)?;
        if text_at(&object, "/metadata/resourceVersion") == text_at(old, "/metadata/resourceVersion") {
            metadata(&mut object).remove("resourceVersion");
        }
        Ok(Changed { managed: Some(managed), warnings, ..Changed::to(object) })
    })
    .await
}

fn applied(
    context: &Context<'_>,
    owners: &Owners<'_>,
    old: Option<(&Value, &Managed)>,
    config: &Value,
    force: bool,
) -> Result<(Value, Managed)> {
    let applied = owners.apply(old, config, force)?;
    let mut object = applied.object;
    context.info.decode_applied(&mut object).map_err(|error| {
        let info = &context.info;
        let (namespace, name) = (text_at(config, "/metadata/namespace"), name_of(config));
        let kind = format!("{}, Kind={}", join(&info.group, &info.version), info.kind);
        ApiError::unknown(format!(
            "failed to convert new object ({namespace}/{name}; {kind}) to proper version: unable to convert \
             unstructured object to {kind}: {error}"
        ))
    })?;
    context.apply_defaults(&mut object)?;
    context.info.complete(&mut object);
    Ok((object, applied.managed))
}

fn join(group: &str, version: &str) -> String {
    format!("{group}/{version}")
}

pub(super) fn decode_config(context: &Context<'_>, body: &Bytes) -> Result<Value> {
    let decoded = yaml(body, values_max(context.identity)).map_err(|error| {
        ApiError::bad_request(format!("error decoding YAML: error converting YAML to JSON: yaml: {}", error.message()))
    })?;
    match decoded {
        Value::Null => Ok(json!({})),
        Value::Object(_) => Ok(decoded),
        other => {
            let found = machinery_schema::go::json_type(&other);
            Err(ApiError::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go \
                 value of type map[string]interface {{}}"
            )))
        }
    }
}

impl Context<'_> {
    /// Whether the caller, who may patch, may also create: an apply that finds nothing does.
    fn authorize_create(&self) -> Result<()> {
        self.server.authorize_resource(self.identity, "create", &self.path, None)
    }
}
