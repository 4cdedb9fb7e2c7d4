//! OpenAPI v3 documents: one per group version, with an index.
//!
//! kubectl reads them for `explain`, to learn which lists a patch merges, and to see (by the query parameters of a
//! PATCH) whether the server validates fields and offers dry runs. A document is created when it is requested and not
//! kept here: the schemas are compressed in the program, so a hub that serves none pays nothing.

use std::io::{Read, Write as _};

use serde_json::{Map, Value, json};

use machinery_schema::types::openapi_document as published;

use crate::{Registry, ResourceInfo, resource::join_api_version};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const JSON_PATCHES: [&str; 2] = ["application/json-patch+json", "application/merge-patch+json"];
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

impl Registry {
    /// The response to `GET /openapi/v3`. An address carries a hash, so that clients may keep a document until it changes.
    pub fn openapi_index(&self) -> Value {
        let mut paths = Map::new();
        for (group, version) in self.group_versions() {
            let path = document_path(&group, &version);
            let url = format!("/openapi/v3/{path}?hash={:016X}", self.document_hash(&group, &version));
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
        json!({"paths": paths})
    }

    /// The hash of one document, for `ETag`; it is the one in the index.
    pub fn openapi_hash(&self, group: &str, version: &str) -> Option<String> {
        self.resources_of(group, version).next()?;
        Some(format!("{:016X}", self.document_hash(group, version)))
    }

    /// The response to `GET /openapi/v3/api/v1` (group `""`) and `GET /openapi/v3/apis/GROUP/VERSION` with JSON text;
    /// `None` when there is no such group version.
    pub fn openapi_document(&self, group: &str, version: &str) -> Option<String> {
        let mut resources = self.resources_of(group, version);
        if resources.next()?.definition_name().is_some() {
            return published(&file_name(group, version)).map(unzip);
        }
        // The metadata and options that all kinds share, from the document of a small group.
        let shared = published("apis__coordination.k8s.io__v1").map(unzip).unwrap_or_default();
        let shared: Value = serde_json::from_str(&shared).expect("what is published is JSON");
        let mut schemas = shared.pointer("/components/schemas").and_then(Value::as_object).cloned().unwrap_or_default();
        schemas.retain(|name, _| name.starts_with("io.k8s.apimachinery."));
        let mut paths = Map::new();
        for resource in self.resources_of(group, version) {
            add_paths(&mut paths, resource, self.schema_name(resource));
        }
        for (resource, schema) in self.custom_schemas(group, version) {
            let list = list_schema(resource, &custom_name(resource));
            schemas.insert(custom_name(resource), custom_schema(resource, &schema));
            schemas.insert(format!("{}List", custom_name(resource)), list);
        }
        let document = json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes CRD Swagger", "version": "v0.1.0"},
            "paths": paths,
            "components": {"schemas": schemas},
        });
        Some(document.to_string())
    }

    fn group_versions(&self) -> Vec<(String, String)> {
        let of_group = |group: &str| -> Vec<(String, String)> {
            self.versions(group).into_iter().map(|version| (group.to_owned(), version.to_string())).collect()
        };
        self.groups().flat_map(|group| of_group(group)).collect()
    }

    fn document_hash(&self, group: &str, version: &str) -> u64 {
        let builtin = published(&file_name(group, version)).map_or(0, hash);
        let custom = self.custom_resources().filter(|custom| &*custom.group == group);
        custom
            .flat_map(|custom| &custom.openapi)
            .filter(|schema| &*schema.version == version)
            .fold(builtin ^ hash(version.as_bytes()), |hash, schema| hash.rotate_left(7) ^ schema.hash)
    }

    fn custom_schemas(&self, group: &str, version: &str) -> Vec<(&ResourceInfo, Value)> {
        let mut schemas = Vec::new();
        for custom in self.custom_resources().filter(|custom| &*custom.group == group) {
            let Some(resource) = custom.resources.iter().find(|resource| &*resource.version == version) else {
                continue;
            };
            let Some(packed) = custom.openapi.iter().find(|schema| &*schema.version == version) else { continue };
            let schema = serde_json::from_str(&inflate(&packed.bytes)).expect("it was JSON when it was packed");
            schemas.push((&**resource, schema));
        }
        schemas
    }

    fn schema_name(&self, resource: &ResourceInfo) -> String {
        match resource.definition_name() {
            Some(name) => name.to_owned(),
            None => custom_name(resource),
        }
    }
}

/// `dev.selvedge.edge.v1alpha1.Device`: the group reversed, as upstream names schemas of custom resources.
fn custom_name(resource: &ResourceInfo) -> String {
    let reversed: Vec<&str> = resource.group.split('.').rev().collect();
    format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
}

fn custom_schema(resource: &ResourceInfo, schema: &Value) -> Value {
    let mut schema = schema.clone();
    if !schema.get("properties").is_some_and(Value::is_object) {
        schema["properties"] = json!({});
    }
    schema["properties"]["apiVersion"] = json!({"type": "string", "description": "APIVersion defines the versioned schema of this representation of an object."});
    schema["properties"]["kind"] =
        json!({"type": "string", "description": "Kind is the name of the REST resource this object represents."});
    schema["properties"]["metadata"] = json!({
        "description": "Standard object's metadata.",
        "allOf": [{"$ref": format!("#/components/schemas/{META}ObjectMeta")}],
    });
    schema["x-kubernetes-group-version-kind"] = json!([gvk(resource, &resource.kind)]);
    schema
}

fn list_schema(resource: &ResourceInfo, item: &str) -> Value {
    json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "items": {"type": "array", "items": {"$ref": format!("#/components/schemas/{item}")}},
        },
        "x-kubernetes-group-version-kind": [gvk(resource, &resource.list_kind)],
    })
}

fn add_paths(paths: &mut Map<String, Value>, resource: &ResourceInfo, schema: String) {
    let root = match &*resource.group {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let collection = if resource.namespaced {
        paths.insert(format!("{root}/{}", resource.plural), json!({"get": operation(resource, "list", &schema)}));
        format!("{root}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{root}/{}", resource.plural)
    };
    let item = format!("{collection}/{{name}}");
    let verbs = |pairs: &[(&str, &str, &str)], offered: &[&str]| -> Value {
        let offered = pairs.iter().filter(|(verb, _, _)| offered.contains(verb));
        offered
            .map(|(_, method, action)| ((*method).to_owned(), operation(resource, action, &schema)))
            .collect::<Map<_, _>>()
            .into()
    };
    let on_collection =
        [("list", "get", "list"), ("create", "post", "post"), ("deletecollection", "delete", "deletecollection")];
    let on_item =
        [("get", "get", "get"), ("update", "put", "put"), ("patch", "patch", "patch"), ("delete", "delete", "delete")];
    paths.insert(collection, verbs(&on_collection, resource.verbs));
    for subresource in &resource.subresources {
        paths.insert(format!("{item}/{}", subresource.name), verbs(&on_item, subresource.verbs));
    }
    paths.insert(item, verbs(&on_item, resource.verbs));
}

fn operation(resource: &ResourceInfo, action: &str, schema: &str) -> Value {
    let query =
        |name: &str, kind: &str| json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}});
    let body = json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}});
    let mut operation = json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(resource, &resource.kind),
        "responses": {"200": {"description": "OK", "content": body}},
    });
    match action {
        "patch" => {
            let strategic = (!resource.is_custom()).then_some(STRATEGIC_PATCH);
            let patch = json!({"schema": {"$ref": format!("#/components/schemas/{META}Patch")}});
            let kinds: Map<String, Value> =
                JSON_PATCHES.into_iter().chain(strategic).map(|kind| (kind.to_owned(), patch.clone())).collect();
            operation["requestBody"] = json!({"required": true, "content": kinds});
            let names = [
                query("dryRun", "string"),
                query("fieldManager", "string"),
                query("fieldValidation", "string"),
                query("force", "boolean"),
            ];
            operation["parameters"] = json!(names);
        }
        "post" | "put" => {
            operation["requestBody"] = json!({"required": true, "content": body});
            operation["parameters"] =
                json!([query("dryRun", "string"), query("fieldManager", "string"), query("fieldValidation", "string")]);
        }
        "delete" | "deletecollection" => {
            operation["parameters"] = json!([
                query("dryRun", "string"),
                query("gracePeriodSeconds", "integer"),
                query("propagationPolicy", "string")
            ]);
        }
        _ => {}
    }
    operation
}

fn gvk(resource: &ResourceInfo, kind: &str) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": kind})
}

/// `api/v1`, `apis/apps/v1`.
fn document_path(group: &str, version: &str) -> String {
    let prefix = if group.is_empty() { "api" } else { "apis" };
    format!("{prefix}/{}", join_api_version(group, version))
}

/// The name under which machinery-schema has a group version's document.
fn file_name(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api__{version}") } else { format!("apis__{group}__{version}") }
}

/// Only for what is part of the program.
fn unzip(packed: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).expect("it was packed when the program was made");
    text
}

/// FNV-1a: stable over builds, and good enough to distinguish two documents of one address.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

pub(crate) fn compress(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).expect("a Vec takes any bytes");
    encoder.finish().expect("a Vec takes any bytes")
}

/// Only for what this program compressed itself.
fn inflate(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::ZlibDecoder::new(bytes).read_to_string(&mut text).expect("we compressed it ourselves");
    text
}

#[cfg(test)]
mod tests;
