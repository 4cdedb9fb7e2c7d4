//! Reads a CustomResourceDefinition: its rules, and the resources that it brings.

use std::{collections::BTreeSet, sync::Arc};

use api_kube::names::{is_dns_label, is_dns_subdomain};
use serde_json::Value;

use crate::{
    FieldError, ResourceInfo, Structural,
    catalogue::{VERBS, VERBS_VIEW},
    jsonpath::JsonPath,
    resource::{Columns, Schema, SelectableField, Subresource, storage_key},
    strategy,
    table::PrinterColumn,
};

/// What an installation brought.
#[derive(Clone, Debug)]
pub struct InstalledCrd {
    /// One per served version.
    pub resources: Vec<Arc<ResourceInfo>>,
    /// What the definition requests and this server does not serve; for `Warning` headers.
    pub warnings: Vec<String>,
}

/// A definition that is in service.
#[derive(Debug)]
pub(crate) struct CustomResource {
    /// `plural.group`.
    pub name: Arc<str>,
    pub group: Arc<str>,
    pub resources: Vec<Arc<ResourceInfo>>,
    /// The schema of each served version as OpenAPI documents carry it, compressed: descriptions are large and rarely read.
    pub openapi: Vec<OpenApiSchema>,
    pub warnings: Vec<String>,
}

/// A compressed `openAPIV3Schema`.
#[derive(Debug)]
pub(crate) struct OpenApiSchema {
    pub version: Arc<str>,
    pub hash: u64,
    pub bytes: Vec<u8>,
}

/// Definitions with the longest history have some ten versions; each has a schema of its own in memory.
const VERSIONS_MAX: usize = 64;

/// Columns of one table: each is evaluated for each row.
const COLUMNS_MAX: usize = 64;

/// Everything that is wrong with a definition; empty when it can be installed (but for names that others hold).
pub(crate) fn validate(crd: &Value, errors: &mut crate::kit::Errors) {
    errors.extend(read(crd).err().unwrap_or_default());
}

/// Reads a definition.
pub(crate) fn read(crd: &Value) -> Result<CustomResource, Vec<FieldError>> {
    let mut reader = Reader { errors: Vec::new() };
    let spec = crd.get("spec").unwrap_or(&Value::Null);
    let group = reader.name(spec, "group", "spec.group", is_dns_subdomain);
    let names = spec.get("names").unwrap_or(&Value::Null);
    let plural = reader.name(names, "plural", "spec.names.plural", is_dns_label);
    let kind = reader.name(names, "kind", "spec.names.kind", |kind| is_dns_label(&kind.to_lowercase()));
    let name = crd.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if name != format!("{plural}.{group}") {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        reader.errors.push(FieldError::invalid("metadata.name", &Value::from(name), detail));
    }
    let namespaced = match text(spec, "scope") {
        "Namespaced" => true,
        "Cluster" => false,
        "" => {
            reader.errors.push(FieldError::required("spec.scope", ""));
            false
        }
        other => {
            let error = FieldError::not_supported("spec.scope", &other.into(), &["Cluster", "Namespaced"]);
            reader.errors.push(error);
            false
        }
    };
    if spec.pointer("/conversion/strategy").and_then(Value::as_str).is_some_and(|strategy| strategy != "None") {
        let found = spec.pointer("/conversion/strategy").unwrap_or(&Value::Null);
        reader.errors.push(FieldError::not_supported("spec.conversion.strategy", found, &["None"]));
    }
    let versions = items(spec, "versions");
    reader.check_versions(versions);

    let storage = versions.iter().find(|version| version.get("storage") == Some(&Value::Bool(true)));
    let storage_version: Arc<str> = storage.map_or("", |version| text(version, "name")).into();
    let or_derived = |key: &str, derived: String| match text(names, key) {
        "" => Arc::from(derived),
        given => Arc::from(given),
    };
    let words =
        |key: &str| items(names, key).iter().filter_map(Value::as_str).map(Arc::from).collect::<Vec<Arc<str>>>();
    let mut resources = Vec::new();
    let mut openapi = Vec::new();
    let mut warnings = Vec::new();
    for (number, version) in versions.iter().enumerate().take(VERSIONS_MAX) {
        let path = format!("spec.versions[{number}]");
        let Some(schema) = version.pointer("/schema/openAPIV3Schema").filter(|schema| !schema.is_null()) else {
            reader.errors.push(FieldError::required(format!("{path}.schema.openAPIV3Schema"), "schemas are required"));
            continue;
        };
        let structural = match Structural::parse(schema, &format!("{path}.schema.openAPIV3Schema")) {
            Ok(structural) => structural,
            Err(errors) => {
                reader.errors.extend(errors);
                continue;
            }
        };
        if structural.has_expressions {
            warnings.push(format!("{path}.schema: x-kubernetes-validations are kept but not evaluated by this server"));
        }
        let columns = reader.columns(version, &path);
        let selectable_fields = items(version, "selectableFields")
            .iter()
            .filter_map(|field| text(field, "jsonPath").strip_prefix('.'))
            .map(SelectableField::new)
            .collect();
        if version.get("served") != Some(&Value::Bool(true)) {
            continue;
        }
        let version_name: Arc<str> = text(version, "name").into();
        openapi.push(OpenApiSchema::new(Arc::clone(&version_name), schema));
        let mut subresources = Vec::new();
        if version.pointer("/subresources/status").is_some() {
            subresources.push(Subresource {
                name: "status".into(),
                group: "".into(),
                version: "".into(),
                kind: kind.as_str().into(),
                verbs: VERBS_VIEW,
            });
        }
        if version.pointer("/subresources/scale").is_some() {
            warnings.push(format!("{path}.subresources.scale is not served"));
        }
        resources.push(Arc::new(ResourceInfo {
            group: group.as_str().into(),
            version: version_name,
            storage_version: Arc::clone(&storage_version),
            kind: kind.as_str().into(),
            list_kind: or_derived("listKind", format!("{kind}List")),
            plural: plural.as_str().into(),
            singular: or_derived("singular", kind.to_lowercase()),
            short_names: words("shortNames"),
            categories: words("categories"),
            namespaced,
            verbs: VERBS,
            subresources,
            selectable_fields,
            storage_key: storage_key(&group, &plural),
            storage_hash: format!(
                "{:016x}",
                crate::openapi::hash(format!("{group}/{storage_version}/{kind}").as_bytes())
            )
            .into(),
            strategy: &strategy::CUSTOM,
            schema: Schema::Custom(Arc::new(structural)),
            columns: Columns::Custom(columns),
        }));
    }
    if !reader.errors.is_empty() {
        return Err(reader.errors);
    }
    Ok(CustomResource { name: name.into(), group: group.into(), resources, openapi, warnings })
}

struct Reader {
    errors: Vec<FieldError>,
}

impl Reader {
    fn name(&mut self, within: &Value, key: &str, path: &str, is_good: impl Fn(&str) -> bool) -> String {
        let name = text(within, key);
        if name.is_empty() {
            self.errors.push(FieldError::required(path, ""));
        } else if !is_good(name) {
            self.errors.push(FieldError::invalid(path, &Value::from(name), "must be a lower case DNS name"));
        }
        name.to_owned()
    }

    fn check_versions(&mut self, versions: &[Value]) {
        if versions.is_empty() {
            self.errors.push(FieldError::required("spec.versions", "must have at least one version"));
            return;
        }
        if versions.len() > VERSIONS_MAX {
            self.errors.push(FieldError::too_many("spec.versions", versions.len(), VERSIONS_MAX));
            return;
        }
        let mut names = BTreeSet::new();
        for (number, version) in versions.iter().enumerate() {
            let path = format!("spec.versions[{number}].name");
            let name = text(version, "name");
            if !is_dns_label(name) {
                self.errors.push(FieldError::invalid(path, &Value::from(name), "must be a DNS label such as v1alpha1"));
            } else if !names.insert(name) {
                self.errors.push(FieldError::duplicate(path, &Value::from(name)));
            }
        }
        let storages = versions.iter().filter(|version| version.get("storage") == Some(&Value::Bool(true))).count();
        if storages != 1 {
            let detail = "must have exactly one version marked as storage version";
            self.errors.push(FieldError::invalid("spec.versions", &Value::from(names.len()), detail));
        }
    }

    fn columns(&mut self, version: &Value, path: &str) -> Vec<PrinterColumn> {
        let mut columns = Vec::new();
        let count = items(version, "additionalPrinterColumns").len();
        if count > COLUMNS_MAX {
            self.errors.push(FieldError::too_many(format!("{path}.additionalPrinterColumns"), count, COLUMNS_MAX));
            return columns;
        }
        for (number, column) in items(version, "additionalPrinterColumns").iter().enumerate() {
            let path = format!("{path}.additionalPrinterColumns[{number}]");
            let name = text(column, "name");
            if name.is_empty() {
                self.errors.push(FieldError::required(format!("{path}.name"), ""));
            }
            let kind = text(column, "type");
            let kinds = ["boolean", "date", "integer", "number", "string"];
            if !kinds.contains(&kind) {
                self.errors.push(FieldError::not_supported(format!("{path}.type"), &kind.into(), &kinds));
            }
            let json_path = text(column, "jsonPath");
            match JsonPath::parse(json_path) {
                Ok(parsed) => columns.push(PrinterColumn {
                    name: name.into(),
                    kind: kind.into(),
                    format: text(column, "format").into(),
                    description: text(column, "description").into(),
                    priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
                    path: parsed,
                }),
                Err(error) => {
                    let error = FieldError::invalid(format!("{path}.jsonPath"), &json_path.into(), error.to_string());
                    self.errors.push(error);
                }
            }
        }
        columns
    }
}

impl OpenApiSchema {
    fn new(version: Arc<str>, schema: &Value) -> Self {
        let text = schema.to_string();
        Self { version, hash: crate::openapi::hash(text.as_bytes()), bytes: crate::openapi::compress(&text) }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
