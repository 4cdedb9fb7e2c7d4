//! Makes the resources that a CustomResourceDefinition brings.
//!
//! A definition has been checked ([`machinery_crd::definition`]) and settled when it comes here: its status says under which
//! names it is served. What it means for objects is in `machinery-crd`; here is how that meets what all objects share.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    sync::{Arc, LazyLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use machinery_crd::{MetadataRules, Scale, Structural};
use machinery_schema::{decode, types::Type};
use serde_json::Value;

use crate::{
    FieldError, ResourceInfo,
    catalogue::VERBS_VIEW,
    checks,
    jsonpath::JsonPath,
    kit::{Errors, Path, Read as _},
    metadata::NameRule,
    registry::compare_versions,
    resource::{Columns, Schema, SelectableField, Subresource, storage_key},
    strategy,
    table::PrinterColumn,
};

/// Verbs of custom resources, in the order in which discovery lists them.
const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// What an installation brought.
#[derive(Clone, Debug)]
pub struct InstalledCrd {
    /// One per served version.
    pub resources: Vec<Arc<ResourceInfo>>,
}

/// A definition that is in service.
#[derive(Debug)]
pub(crate) struct CustomResource {
    /// `plural.group`.
    pub name: Arc<str>,
    pub group: Arc<str>,
    pub resources: Vec<Arc<ResourceInfo>>,
    /// Of all that [`read`] looks at.
    pub digest: u64,
    /// The schema of each served version as its author wrote it, compressed: descriptions are large and rarely read.
    pub openapi: Vec<OpenApiSchema>,
}

/// A compressed `openAPIV3Schema`.
#[derive(Debug)]
pub(crate) struct OpenApiSchema {
    pub version: Arc<str>,
    /// Of all that a document shows of this version.
    pub hash: u64,
    pub bytes: Vec<u8>,
}

/// What a resource is beyond its names when a definition brought it.
#[derive(Debug)]
pub(crate) struct Custom {
    pub structural: Structural,
    /// The selectable fields of all versions: an object is found through each of them, whichever it was written through.
    pub indexed: Arc<[SelectableField]>,
    /// What each client of a deprecated version is warned of.
    pub deprecation: Option<Arc<str>>,
    /// Whether objects may be stored in another form than clients see: the schema has changed, or there are several.
    pub is_reshaped: bool,
    /// Whether the definition waits for its deletion.
    pub is_terminating: bool,
}

/// Everything that is wrong with a new definition, or with a new version of one.
pub(crate) fn validate(new: &Value, old: Option<&Value>, errors: &mut Errors) {
    errors.extend(machinery_crd::definition::validate(new, old));
}

/// Identifies what a definition says of its resources: one whose labels or conditions change says the same, and need not be
/// read again. The hash has a key that nobody knows, so that nobody finds two definitions that have the same.
pub(crate) fn digest(crd: &Value) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    let status = crd.part("status");
    let metadata = crd.part("metadata");
    let changing = (metadata.has("deletionTimestamp"), metadata.int("generation") > 1, metadata.text("name"));
    KEY.hash_one((crd.part("spec").to_string(), status.part("acceptedNames").to_string(), changing))
}

/// Reads a definition that was checked.
///
/// # Errors
/// When it was not, or by other rules than those of this program.
pub(crate) fn read(crd: &Value) -> Result<CustomResource, Vec<FieldError>> {
    let spec = crd.part("spec");
    let accepted = crd.part("status").part("acceptedNames");
    // A definition that nobody has settled yet is served as it is written.
    let names = if accepted.text("plural").is_empty() { spec.part("names") } else { accepted };
    let (group, plural, kind) = (spec.text("group"), names.text("plural"), names.text("kind"));
    for (path, value) in [("spec.group", group), ("spec.names.plural", plural), ("spec.names.kind", kind)] {
        if value.is_empty() {
            return Err(vec![FieldError::required(path, "")]);
        }
    }
    let versions = spec.items("versions");
    let storage = versions.iter().find(|version| version.flag("storage"));
    let storage_version: Arc<str> = storage.map_or("", |version| version.text("name")).into();
    let or_derived = |key: &str, derived: String| match names.text(key) {
        "" => Arc::from(derived),
        given => Arc::from(given),
    };
    let words = |key: &str| names.items(key).iter().filter_map(Value::as_str).map(Arc::from).collect::<Vec<Arc<str>>>();
    let is_terminating = crd.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    let is_reshaped = versions.len() > 1 || crd.part("metadata").int("generation") > 1;
    let mut indexed: Vec<SelectableField> = Vec::new();
    for field in versions.iter().flat_map(selectable_fields) {
        if !indexed.contains(&field) {
            indexed.push(field);
        }
    }
    let indexed: Arc<[SelectableField]> = indexed.into();
    let mut resources = Vec::new();
    let mut openapi = Vec::new();
    for (number, version) in versions.iter().enumerate().filter(|(_, version)| version.flag("served")) {
        let path = format!("spec.versions[{number}].schema.openAPIV3Schema");
        let schema = version.part("schema").part("openAPIV3Schema");
        let scale = Scale::read(version.part("subresources"));
        let structural =
            Structural::read(schema, scale).map_err(|error| vec![FieldError::forbidden(path, base_chain(&error))])?;
        let name: Arc<str> = version.text("name").into();
        openapi.push(OpenApiSchema::new(Arc::clone(&name), schema, version, spec));
        resources.push(Arc::new(ResourceInfo {
            group: group.into(),
            version: name,
            storage_version: Arc::clone(&storage_version),
            kind: kind.into(),
            list_kind: or_derived("listKind", format!("{kind}List")),
            plural: plural.into(),
            singular: or_derived("singular", kind.to_lowercase()),
            short_names: words("shortNames"),
            categories: words("categories"),
            namespaced: spec.text("scope") == "Namespaced",
            verbs: VERBS,
            subresources: subresources(version, kind),
            selectable_fields: selectable_fields(version).collect(),
            storage_key: storage_key(group, plural),
            storage_hash: storage_hash(group, &storage_version, kind),
            strategy: &strategy::CUSTOM,
            schema: Schema::Custom(Arc::new(Custom {
                structural,
                indexed: Arc::clone(&indexed),
                deprecation: deprecation(version, spec, kind),
                is_reshaped,
                is_terminating,
            })),
            columns: Columns::Custom(columns(version)),
        }));
    }
    let name = crd.part("metadata").text("name").into();
    Ok(CustomResource { name, group: group.into(), resources, digest: digest(crd), openapi })
}

/// What clients of a version may select its objects by.
fn selectable_fields(version: &Value) -> impl Iterator<Item = SelectableField> {
    let paths = version.items("selectableFields").iter().map(|field| field.text("jsonPath"));
    paths.filter_map(|path| path.strip_prefix('.')).map(SelectableField::new)
}

fn base_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn subresources(version: &Value, kind: &str) -> Vec<Subresource> {
    let given = version.part("subresources");
    let mut subresources = Vec::new();
    if given.has("status") {
        subresources.push(Subresource {
            name: "status".into(),
            group: "".into(),
            version: "".into(),
            kind: kind.into(),
            verbs: VERBS_VIEW,
        });
    }
    if given.has("scale") {
        subresources.push(Subresource {
            name: "scale".into(),
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            verbs: VERBS_VIEW,
        });
    }
    subresources
}

/// Columns up to the first whose path cannot be read, as upstream shows them.
fn columns(version: &Value) -> Vec<PrinterColumn> {
    let mut columns = Vec::new();
    for column in version.items("additionalPrinterColumns") {
        let json_path = column.text("jsonPath");
        let Ok(path) = JsonPath::parse(json_path) else { break };
        let description = match column.text("description") {
            "" => format!("Custom resource definition column (in JSONPath format): {json_path}"),
            given => given.to_owned(),
        };
        columns.push(PrinterColumn {
            name: column.text("name").into(),
            kind: column.text("type").into(),
            format: column.text("format").into(),
            description: description.into(),
            priority: column.int("priority"),
            path,
        });
    }
    columns
}

/// What clients of a deprecated version are warned of: its author's words, or which version to use.
fn deprecation(version: &Value, spec: &Value, kind: &str) -> Option<Arc<str>> {
    if !version.flag("deprecated") {
        return None;
    }
    if version.has("deprecationWarning") {
        return Some(version.text("deprecationWarning").into());
    }
    let (group, name) = (spec.text("group"), version.text("name"));
    let mut warning = format!("{group}/{name} {kind} is deprecated");
    let mut newer: Vec<&str> = spec
        .items("versions")
        .iter()
        .filter(|other| other.flag("served") && !other.flag("deprecated"))
        .map(|other| other.text("name"))
        .filter(|other| compare_versions(other, name).is_lt())
        .collect();
    newer.sort_by(|a, b| compare_versions(a, b));
    if let Some(best) = newer.first() {
        warning.push_str(&format!("; use {group}/{best} {kind}"));
    }
    Some(warning.into())
}

/// What discovery says of the form in which objects are stored: eight bytes of a digest in base64, as upstream's look.
fn storage_hash(group: &str, version: &str, kind: &str) -> Arc<str> {
    let hash = crate::openapi::hash(format!("{group}/{version}/{kind}").as_bytes());
    STANDARD.encode(hash.to_be_bytes()).into()
}

impl OpenApiSchema {
    fn new(name: Arc<str>, schema: &Value, version: &Value, spec: &Value) -> Self {
        // Documents show names and scope as well.
        let shown = [version, spec.part("names"), spec.part("scope"), spec.part("group")].map(Value::to_string);
        let hash = crate::openapi::hash(shown.concat().as_bytes());
        Self { version: name, hash, bytes: crate::openapi::compress(&schema.to_string()) }
    }
}

impl ResourceInfo {
    /// What each client of this version is warned of, for `Warning` headers: that it is deprecated.
    pub fn deprecation(&self) -> Option<&str> {
        self.custom().and_then(|custom| custom.deprecation.as_deref())
    }

    /// Whether the definition of a custom resource waits for its deletion, so that nothing is created.
    pub fn is_terminating(&self) -> bool {
        self.custom().is_some_and(|custom| custom.is_terminating)
    }

    /// Whether objects may be stored in another form than clients see; [`Self::reshape`] brings them into that form.
    pub fn is_reshaped(&self) -> bool {
        self.custom().is_some_and(|custom| custom.is_reshaped)
    }

    /// Brings an object that was stored under an earlier form of its definition into the form that clients see now.
    pub fn reshape(&self, object: &mut Value) {
        if let Some(custom) = self.custom().filter(|custom| custom.is_reshaped) {
            custom.structural.refresh(object, &mut crate::Budget::of_request());
        }
    }

    /// The fields that its objects are found by: what clients of this version may select by, and of a custom resource what
    /// those of its other versions may.
    pub fn indexed_fields(&self) -> &[SelectableField] {
        self.custom().map_or(&self.selectable_fields, |custom| &custom.indexed)
    }

    /// Where the scale of a custom object is, when its definition says so.
    pub fn custom_scale(&self) -> Option<&Scale> {
        self.custom().and_then(|custom| custom.structural.scale())
    }

    fn custom(&self) -> Option<&Custom> {
        match &self.schema {
            Schema::Custom(custom) => Some(custom),
            Schema::Builtin(_) => None,
        }
    }
}

/// The rules for the metadata of resources within resources: those of all objects, but for names.
pub(crate) struct EmbeddedMetadata;

impl MetadataRules for EmbeddedMetadata {
    fn decode(&self, metadata: &mut Value) -> Result<Vec<String>, String> {
        let unknown = decode::decode(Type::object_meta(), metadata).map_err(|error| error.to_string())?;
        decode::complete(Type::object_meta(), metadata);
        if let Some(fields) = metadata.as_object_mut()
            && fields.get("creationTimestamp").is_some_and(Value::is_null)
        {
            fields.remove("creationTimestamp");
        }
        Ok(unknown)
    }

    fn validate(&self, metadata: &Value, path: &str) -> Vec<FieldError> {
        let mut errors = Errors::default();
        let place = Path::at(path);
        for (key, is_prefix) in [("generateName", true), ("name", false)] {
            let name = metadata.text(key);
            if !name.is_empty() {
                errors.invalid_each(&place.field(key), name, NameRule::PathSegment.messages(name, is_prefix));
            }
        }
        checks::whole_metadata(metadata, !metadata.text("namespace").is_empty(), &place, &mut errors);
        errors.into_vec()
    }
}

/// Finalizers whose names may meet those of others.
pub(crate) fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    const STANDARD: [&str; 3] = ["orphan", "foregroundDeletion", "kubernetes"];
    let finalizers = |object: &Value| -> Vec<String> {
        let given = object.part("metadata").items("finalizers").iter();
        given.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let before = old.map(finalizers).unwrap_or_default();
    let mut added = finalizers(new);
    added.retain(|finalizer| !before.contains(finalizer));
    added.sort();
    added.dedup();
    let mut warnings = Vec::new();
    for finalizer in added {
        for why in checks::qualified_name(&finalizer) {
            warnings.push(format!("metadata.finalizers: {finalizer:?}: {why}"));
        }
        if !finalizer.contains('/') && !STANDARD.contains(&finalizer.as_str()) {
            let including = if finalizer.contains('.') { " including a path (/)" } else { "" };
            warnings.push(format!(
                "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name{including} to avoid accidental \
                 conflicts with other finalizer writers"
            ));
        }
    }
    warnings
}
