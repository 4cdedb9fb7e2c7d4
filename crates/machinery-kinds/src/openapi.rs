//! OpenAPI documents: v3, one per group version with an index, and v2, one for everything.
//!
//! kubectl reads them for `explain`, to learn which lists a patch merges, and to see (by the query parameters of a
//! PATCH) whether the server validates fields and offers dry runs; generators of clients read v2.
//!
//! ```text
//! published documents, compressed in the program ──────────────────────────────────────▶ ┐
//! definitions, compressed ──▶ paths (operations) and schemas (schema) of custom resources ▶ ┴ texts ──▶ protobuf (of v2)
//! ```
//!
//! A document is created when it is requested and not kept here, so a server that serves none pays nothing. The published ones
//! are never read into values as a whole: what belongs to custom resources is put between their paths and definitions.

mod operations;
mod protobuf;
mod schema;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write as _},
};

use serde_json::{Map, Value, json, value::RawValue};

use machinery_schema::openapi as published;

use crate::{Registry, ResourceInfo, resource::join_api_version};
use operations::{Operations, Parameters};
use schema::quoted;

/// Of a group that is in every program, and whose document is small: its kinds take what custom ones take.
const SHARED: &str = "apis__coordination.k8s.io__v1";
/// A document that has the kind of scales.
const WITH_SCALE: &str = "api__v1";

const SHARED_KINDS: [&str; 13] = [
    "DeleteOptions",
    "FieldsV1",
    "ListMeta",
    "ManagedFieldsEntry",
    "ObjectMeta",
    "OwnerReference",
    "Patch",
    "Preconditions",
    "ShardInfo",
    "Status",
    "StatusCause",
    "StatusDetails",
    "Time",
];

/// Group versions whose deletions take `DeleteOptions`: all that upstream has, whether they are served or not.
const OPTION_VERSIONS: &str = "v1 admissionregistration.k8s.io/v1 admissionregistration.k8s.io/v1alpha1 \
    admissionregistration.k8s.io/v1beta1 apps/v1 apps/v1beta1 apps/v1beta2 authentication.k8s.io/v1 \
    authentication.k8s.io/v1alpha1 authentication.k8s.io/v1beta1 authorization.k8s.io/v1 \
    authorization.k8s.io/v1beta1 autoscaling/v1 autoscaling/v2 batch/v1 batch/v1beta1 certificates.k8s.io/v1 \
    certificates.k8s.io/v1alpha1 certificates.k8s.io/v1beta1 coordination.k8s.io/v1 coordination.k8s.io/v1alpha2 \
    coordination.k8s.io/v1beta1 discovery.k8s.io/v1 discovery.k8s.io/v1beta1 events.k8s.io/v1 \
    events.k8s.io/v1beta1 extensions/v1beta1 flowcontrol.apiserver.k8s.io/v1 \
    flowcontrol.apiserver.k8s.io/v1beta1 flowcontrol.apiserver.k8s.io/v1beta2 \
    flowcontrol.apiserver.k8s.io/v1beta3 internal.apiserver.k8s.io/v1alpha1 networking.k8s.io/v1 \
    networking.k8s.io/v1beta1 node.k8s.io/v1 node.k8s.io/v1alpha1 node.k8s.io/v1beta1 policy/v1 policy/v1beta1 \
    rbac.authorization.k8s.io/v1 rbac.authorization.k8s.io/v1alpha1 rbac.authorization.k8s.io/v1beta1 \
    resource.k8s.io/v1 resource.k8s.io/v1alpha3 resource.k8s.io/v1beta1 resource.k8s.io/v1beta2 \
    scheduling.k8s.io/v1 scheduling.k8s.io/v1alpha2 scheduling.k8s.io/v1beta1 storage.k8s.io/v1 \
    storage.k8s.io/v1alpha1 storage.k8s.io/v1beta1 storagemigration.k8s.io/v1beta1";

/// Which OpenAPI a document is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

impl Form {
    /// A reference to a definition, as JSON text.
    fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => quoted(&format!("#/definitions/{name}")),
            Self::V3 => quoted(&format!("#/components/schemas/{name}")),
        }
    }
}

/// Paths or definitions by name, as texts.
type Texts<'d> = BTreeMap<String, &'d RawValue>;

/// What custom resources add to a document.
#[derive(Default)]
struct Additions {
    paths: BTreeMap<String, String>,
    definitions: BTreeMap<String, String>,
}

impl Registry {
    /// The response to `GET /openapi/v3`. An address carries a hash, so that clients may keep a document until it changes.
    pub fn openapi_index(&self) -> Value {
        let mut paths = Map::new();
        let versions = self.group_versions();
        let groups: BTreeSet<&str> = versions.iter().map(|(group, _)| group.as_str()).collect();
        // Of what lies above versions there are documents, too.
        let others = published::names().map(|name| name.replace("__", "/")).filter(|path| match path.split_once('/') {
            Some(("api", _)) => false,
            Some(("apis", group)) => groups.contains(group),
            _ => path != "index",
        });
        for path in others.chain(versions.iter().map(|(group, version)| document_path(group, version))) {
            let Some(hash) = self.openapi_hash(&path) else { continue };
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
        json!({"paths": paths})
    }

    /// The hash of the document at `api/v1` or `apis/GROUP/VERSION`, for `ETag`; it is the one in the index.
    pub fn openapi_hash(&self, path: &str) -> Option<String> {
        let (group, version) = self.documented(path)?;
        let builtin = published::hash(&path.replace('/', "__")).unwrap_or_default();
        let custom = self.custom_resources().filter(|custom| !group.is_empty() && &*custom.group == group);
        let hash = custom
            .flat_map(|custom| &custom.openapi)
            .filter(|schema| &*schema.version == version)
            .fold(builtin ^ hash(version.as_bytes()), |hash, schema| hash.rotate_left(7) ^ schema.hash);
        Some(format!("{hash:016X}"))
    }

    /// The response to `GET /openapi/v3/api/v1` and `GET /openapi/v3/apis/GROUP/VERSION` with JSON text; `None` when there
    /// is no such group version.
    pub fn openapi_document(&self, path: &str) -> Option<String> {
        let (group, version) = self.documented(path)?;
        if let Some(published) = published::document(&path.replace('/', "__")) {
            return Some(published);
        }
        let shared = published::document(SHARED)?;
        let (paths, schemas) = parts_of_v3(&shared);
        let parameters = Parameters::read(&paths);
        let resources = self.custom_schemas();
        let resources =
            resources.iter().filter(|(resource, _)| (&*resource.group, &*resource.version) == (group, version));
        let (mut additions, mut has_scale) = (Additions::default(), false);
        for (resource, schema) in resources {
            has_scale |= resource.subresources.iter().any(|subresource| &*subresource.name == "scale");
            additions.add(Form::V3, resource, schema, &parameters);
        }
        for name in SHARED_KINDS.map(|name| format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")) {
            let mut schema = schemas[&name].get().to_owned();
            if let Some(at) =
                schema.find(r#""x-kubernetes-group-version-kind":["#).filter(|_| name.ends_with("Options"))
            {
                schema.truncate(at);
                schema.push_str(&options_kinds());
            }
            additions.definitions.insert(name, schema);
        }
        if has_scale {
            let with_scale = published::document(WITH_SCALE)?;
            let (_, schemas) = parts_of_v3(&with_scale);
            for name in ["Scale", "ScaleSpec", "ScaleStatus"].map(|name| format!("io.k8s.api.autoscaling.v1.{name}")) {
                let schema = schemas[&name].get().to_owned();
                additions.definitions.insert(name, schema);
            }
        }
        let document = format!(
            r#"{{"openapi":"3.0.0","info":{{"title":"Kubernetes CRD Swagger","version":"v0.1.0"}},"paths":{},"components":{{"schemas":{}}}}}"#,
            object(&additions.paths),
            object(&additions.definitions)
        );
        Some(escape(&document))
    }

    /// The hash of the document of OpenAPI v2, for `ETag`; both of its forms have the same.
    pub fn openapi_v2_hash(&self) -> String {
        let published = published::hash(published::V2).unwrap_or_default();
        let schemas = self.custom_resources().flat_map(|custom| &custom.openapi);
        format!("{:016X}", schemas.fold(published, |hash, schema| hash.rotate_left(7) ^ schema.hash))
    }

    /// The response to `GET /openapi/v2` in JSON, gzipped.
    pub fn openapi_v2(&self) -> Vec<u8> {
        let text = published_v2();
        if self.custom_resources().next().is_none() {
            return gzipped(text.as_bytes());
        }
        let document = V2::read(&text, self);
        let mut gzip = gzip();
        let mut write = |text: &str| gzip.write_all(text.as_bytes()).expect(TAKES_ANY);
        write("{");
        for (number, key) in KEYS.into_iter().enumerate() {
            write(if number > 0 { "," } else { "" });
            write(&quoted(key));
            write(":");
            match key {
                "paths" => write_object(document.paths(), &mut write),
                "definitions" => write_object(document.definitions(), &mut write),
                other => write(document.parts[other].get()),
            }
        }
        write("}");
        gzip.finish().expect(TAKES_ANY)
    }

    /// The response to `GET /openapi/v2` in protobuf, gzipped.
    pub fn openapi_v2_protobuf(&self) -> Vec<u8> {
        let text = published_v2();
        let document = V2::read(&text, self);
        let parts = &document.parts;
        let mut out = protobuf::Document::new(parts["swagger"], parts["info"]);
        out.paths(document.paths());
        out.definitions(document.definitions());
        gzipped(&out.finish(parts["parameters"], parts["security"], parts["securityDefinitions"]))
    }

    fn group_versions(&self) -> Vec<(String, String)> {
        let of_group = |group: &str| -> Vec<(String, String)> {
            self.versions(group).into_iter().map(|version| (group.to_owned(), version.to_string())).collect()
        };
        self.groups().flat_map(|group| of_group(group)).collect()
    }

    /// The group and version of a path that has a document.
    fn documented<'p>(&self, path: &'p str) -> Option<(&'p str, &'p str)> {
        let segments: Vec<&str> = path.split('/').collect();
        let (group, version) = match segments.as_slice() {
            ["api", version] => ("", *version),
            ["apis", group, version] => (*group, *version),
            ["apis", group] => {
                self.groups().find(|known| ***known == **group)?;
                return published::hash(&path.replace('/', "__")).map(|_| (*group, ""));
            }
            ["index"] => return None,
            _ => return published::hash(&path.replace('/', "__")).map(|_| ("", "")),
        };
        self.resources_of(group, version).next()?;
        Some((group, version))
    }

    /// Every custom resource with its schema, in each version that is served.
    fn custom_schemas(&self) -> Vec<(&ResourceInfo, Value)> {
        let mut schemas = Vec::new();
        for custom in self.custom_resources() {
            for resource in &custom.resources {
                let packed = custom.openapi.iter().find(|schema| schema.version == resource.version);
                let Some(packed) = packed else { continue };
                let schema = serde_json::from_str(&inflate(&packed.bytes)).expect("it was JSON when it was packed");
                schemas.push((&**resource, schema));
            }
        }
        schemas
    }
}

impl Additions {
    fn add(&mut self, form: Form, resource: &ResourceInfo, schema: &Value, parameters: &Parameters) {
        let (name, list_name) = (model_name(resource, &resource.kind), model_name(resource, &resource.list_kind));
        self.definitions.insert(list_name.clone(), schema::of_list(form, resource, &name));
        self.definitions.insert(name.clone(), schema::of_kind(form, resource, schema));
        let operations = Operations { form, resource, parameters, name: &name, list_name: &list_name };
        self.paths.extend(operations.paths());
    }
}

/// The members of a document of v2, in their order.
const KEYS: [&str; 7] = ["swagger", "info", "paths", "definitions", "parameters", "securityDefinitions", "security"];

/// The published document of v2, cut into texts, and what custom resources add to it.
struct V2<'d> {
    parts: Texts<'d>,
    paths: Texts<'d>,
    definitions: Texts<'d>,
    additions: Additions,
}

impl<'d> V2<'d> {
    fn read(text: &'d str, registry: &Registry) -> Self {
        let parts: Texts<'d> = serde_json::from_str(text).expect("what is published is JSON");
        let (paths, definitions) = (members(parts["paths"]), members(parts["definitions"]));
        let parameters = Parameters::read(&paths);
        let mut additions = Additions::default();
        for (resource, schema) in registry.custom_schemas() {
            additions.add(Form::V2, resource, &schema, &parameters);
        }
        Self { parts, paths, definitions, additions }
    }

    fn paths(&self) -> impl Iterator<Item = (&str, &str)> {
        merged(&self.paths, &self.additions.paths)
    }

    fn definitions(&self) -> impl Iterator<Item = (&str, &str)> {
        merged(&self.definitions, &self.additions.definitions)
    }
}

/// Both by name; what is published comes first where both have a name.
fn merged<'t>(
    published: &'t Texts<'_>,
    added: &'t BTreeMap<String, String>,
) -> impl Iterator<Item = (&'t str, &'t str)> {
    let added = added.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let mut all: BTreeMap<&str, &str> = added.collect();
    all.extend(published.iter().map(|(name, raw)| (name.as_str(), raw.get())));
    all.into_iter()
}

fn write_object<'t>(members: impl Iterator<Item = (&'t str, &'t str)>, write: &mut impl FnMut(&str)) {
    write("{");
    for (number, (name, text)) in members.enumerate() {
        write(if number > 0 { "," } else { "" });
        write(&quoted(name));
        write(":");
        write(text);
    }
    write("}");
}

fn object(members: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    write_object(members.iter().map(|(name, text)| (name.as_str(), text.as_str())), &mut |text| out.push_str(text));
    out
}

/// Escapes what Go escapes in JSON that may come to stand in HTML. It does so here alone: other documents take another way.
fn escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for char in json.chars() {
        match char {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            _ => out.push(char),
        }
    }
    out
}

/// The end of the schema of `DeleteOptions`.
fn options_kinds() -> String {
    let kinds = OPTION_VERSIONS.split(' ').map(|of| {
        let (group, version) = of.split_once('/').unwrap_or(("", of));
        format!(r#"{{"group":"{group}","kind":"DeleteOptions","version":"{version}"}}"#)
    });
    format!(r#""x-kubernetes-group-version-kind":[{}]}}"#, kinds.collect::<Vec<_>>().join(","))
}

fn members(raw: &RawValue) -> Texts<'_> {
    serde_json::from_str(raw.get()).expect("what is published is JSON")
}

/// Paths and schemas of a published document of v3.
fn parts_of_v3(text: &str) -> (Texts<'_>, Texts<'_>) {
    let whole: Texts<'_> = serde_json::from_str(text).expect("what is published is JSON");
    let components = members(whole["components"]);
    (members(whole["paths"]), members(components["schemas"]))
}

/// `dev.selvedge.edge.v1alpha1.Device`: the group reversed, as upstream names schemas of custom resources.
fn model_name(resource: &ResourceInfo, kind: &str) -> String {
    let reversed: Vec<&str> = resource.group.split('.').rev().collect();
    format!("{}.{}.{kind}", reversed.join("."), resource.version)
}

/// `api/v1`, `apis/apps/v1`.
fn document_path(group: &str, version: &str) -> String {
    let prefix = if group.is_empty() { "api" } else { "apis" };
    format!("{prefix}/{}", join_api_version(group, version))
}

const TAKES_ANY: &str = "a Vec takes any bytes";

fn published_v2() -> String {
    published::document(published::V2).expect("it is part of the program")
}

fn gzip() -> flate2::write::GzEncoder<Vec<u8>> {
    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast())
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = gzip();
    gzip.write_all(bytes).expect(TAKES_ANY);
    gzip.finish().expect(TAKES_ANY)
}

/// FNV-1a: stable over builds, and good enough to distinguish two documents of one address.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

pub(crate) fn compress(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).expect(TAKES_ANY);
    encoder.finish().expect(TAKES_ANY)
}

/// Only for what this program compressed itself.
fn inflate(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::ZlibDecoder::new(bytes).read_to_string(&mut text).expect("we compressed it ourselves");
    text
}

#[cfg(test)]
mod tests;
