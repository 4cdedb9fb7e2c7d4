//! A schema for server-side apply from the published OpenAPI documents, so that recorded cases can be tried on objects alone.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};

use crate::{ApplyKind, ApplySchema, FieldFilter, ListType, MapType, ScalarType};

/// A file under `tests/data/kubernetes`, decompressed.
pub fn data(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/kubernetes").join(name);
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("the data is gzip");
    text
}

/// All published schemas by name.
pub fn schemas() -> &'static Map<String, Value> {
    static SCHEMAS: OnceLock<Map<String, Value>> = OnceLock::new();
    SCHEMAS.get_or_init(|| serde_json::from_str(&data("schemas-1.36.json.gz")).expect("the schemas are JSON"))
}

/// A place in them.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// A schema, and what a reference to it says of its maps.
    Known(&'static Value, Option<MapType>),
    Free(crate::Untyped),
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

impl Place {
    pub fn of(schema: &'static Value) -> Self {
        let reference = schema.get("$ref").or_else(|| {
            schema
                .get("allOf")
                .and_then(Value::as_array)
                .filter(|all| all.len() == 1)
                .and_then(|all| all[0].get("$ref"))
        });
        let map = match schema.get("x-kubernetes-map-type").and_then(Value::as_str) {
            Some("atomic") => Some(MapType::Atomic),
            Some(_) => Some(MapType::Granular),
            None => None,
        };
        match reference.and_then(Value::as_str) {
            Some(RAW_EXTENSION) => Self::Free(crate::Untyped::Atomic),
            Some(name) => Self::Known(&schemas()[name], map),
            None => Self::Known(schema, map),
        }
    }

    fn is_quantity(schema: &'static Value) -> bool {
        std::ptr::eq(schema, &schemas()[QUANTITY])
    }

    fn type_of(schema: &'static Value) -> &'static str {
        schema.get("type").and_then(Value::as_str).unwrap_or_default()
    }
}

impl ApplySchema for Place {
    fn scalar(self) -> Option<ScalarType> {
        match self {
            Self::Known(schema, _) if Self::is_quantity(schema) => Some(ScalarType::Untyped),
            Self::Known(schema, _) => match (Self::type_of(schema), schema.get("format").and_then(Value::as_str)) {
                ("", _) => Some(ScalarType::Untyped),
                ("string", None | Some("byte")) => Some(ScalarType::String),
                ("string", _) => Some(ScalarType::Untyped),
                ("boolean", _) => Some(ScalarType::Boolean),
                ("integer" | "number", _) => Some(ScalarType::Numeric),
                _ => None,
            },
            Self::Free(free) => free.scalar(),
        }
    }

    fn list(self) -> Option<ListType> {
        let schema = match self {
            Self::Known(schema, _) if !Self::is_quantity(schema) => schema,
            Self::Known(..) => return None,
            Self::Free(free) => return free.list(),
        };
        if !matches!(Self::type_of(schema), "" | "array") {
            return None;
        }
        let word = |key: &str| schema.get(key).and_then(Value::as_str);
        Some(match (word("x-kubernetes-list-type"), word("x-kubernetes-patch-strategy")) {
            (Some("set"), _) => ListType::Set,
            (Some("map"), _) => ListType::Map,
            (None, Some("merge" | "merge,retainKeys")) if word("x-kubernetes-patch-merge-key").is_some() => {
                ListType::Map
            }
            (None, Some("merge" | "merge,retainKeys")) => ListType::Set,
            _ => ListType::Atomic,
        })
    }

    fn map(self) -> Option<MapType> {
        match self {
            Self::Known(schema, _) if Self::is_quantity(schema) => None,
            Self::Known(schema, overridden) => {
                let own = match schema.get("x-kubernetes-map-type").and_then(Value::as_str) {
                    Some("atomic") => MapType::Atomic,
                    _ => MapType::Granular,
                };
                matches!(Self::type_of(schema), "" | "object").then(|| overridden.unwrap_or(own))
            }
            Self::Free(free) => free.map(),
        }
    }

    fn keys(self) -> Vec<Arc<str>> {
        let Self::Known(schema, _) = self else { return Vec::new() };
        match (schema.get("x-kubernetes-list-map-keys"), schema.get("x-kubernetes-patch-merge-key")) {
            (Some(keys), _) if schema["x-kubernetes-list-type"] == "map" => {
                keys.as_array().into_iter().flatten().filter_map(Value::as_str).map(Arc::from).collect()
            }
            (_, Some(key)) => key.as_str().map(Arc::from).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn item(self) -> Self {
        match self {
            Self::Known(schema, _) => schema.get("items").map_or(Self::Free(crate::Untyped::Atomic), Self::of),
            Self::Free(free) => Self::Free(free.item()),
        }
    }

    fn field(self, name: &str) -> Option<Self> {
        let Self::Known(schema, _) = self else { return None };
        schema.get("properties")?.get(name).map(Self::of)
    }

    fn has_fields(self) -> bool {
        matches!(self, Self::Known(schema, _) if schema.get("properties").is_some())
    }

    fn other_fields(self) -> Option<Self> {
        match self {
            Self::Known(schema, _) => match schema.get("additionalProperties") {
                None if schema.get("properties").is_some() => None,
                None | Some(Value::Bool(_)) => Some(Self::Free(crate::Untyped::Deduced)),
                Some(others) => Some(Self::of(others)),
            },
            Self::Free(free) => free.other_fields().map(Self::Free),
        }
    }

    fn field_default(self, name: &str) -> Option<Value> {
        let Self::Known(schema, _) = self else { return None };
        schema.get("properties")?.get(name)?.get("default").cloned()
    }

    fn is_deduced(self) -> bool {
        matches!(self, Self::Free(free) if free.is_deduced())
    }
}

/// A built-in kind, as far as the published documents know it.
#[derive(Debug)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
    /// By version, as objects name it.
    versions: BTreeMap<String, &'static Value>,
    filter: FieldFilter,
}

impl Kind {
    /// The kind of an object, written through a subresource.
    pub fn of(object: &Value, subresource: &str) -> Option<Self> {
        let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let mut versions = BTreeMap::new();
        for schema in schemas().values() {
            for gvk in schema.get("x-kubernetes-group-version-kind").and_then(Value::as_array).into_iter().flatten() {
                if gvk["kind"] == kind && gvk["group"] == group {
                    let version = gvk["version"].as_str()?;
                    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
                    versions.insert(name, schema);
                }
            }
        }
        versions.get(api_version)?;
        let reset: &[&str] = match (kind, subresource) {
            ("CertificateSigningRequest", "") => &["spec", "status"],
            (_, "status") => &["spec"],
            _ => &["status"],
        };
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            versions,
            filter: FieldFilter::except(reset),
        })
    }

    pub fn manager<'k>(&'k self, subresource: &'k str) -> crate::FieldManager<'k, Self> {
        crate::FieldManager {
            kind: self,
            group: &self.group,
            version: &self.version,
            kind_name: &self.kind,
            subresource,
        }
    }
}

impl ApplyKind for Kind {
    type Schema = Place;

    fn schema(&self, api_version: &str) -> Option<Place> {
        self.versions.get(api_version).copied().map(Place::of)
    }

    fn filter(&self, _: &str) -> Option<&FieldFilter> {
        Some(&self.filter)
    }

    fn empty_object(&self) -> Value {
        let api_version =
            if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) };
        let mut empty = self.versions.get(&api_version).map_or(json!({}), |schema| zero(schema));
        empty["apiVersion"] = api_version.into();
        empty["kind"] = self.kind.as_str().into();
        empty
    }
}

/// What Go writes of a struct in which nothing is set: structs within it, and what it says of lists that it must have.
fn zero(schema: &'static Value) -> Value {
    let mut object = Map::new();
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let Place::Known(target, _) = Place::of(field) else { continue };
        let is_required = required.contains(&name.as_str());
        match field.get("default") {
            Some(Value::Object(_)) if target.get("properties").is_some() => {
                object.insert(name.clone(), zero(target));
            }
            _ if is_required && matches!(Place::type_of(target), "array" | "object") => {
                object.insert(name.clone(), Value::Null);
            }
            Some(default) if is_required && !default.is_object() => {
                object.insert(name.clone(), default.clone());
            }
            _ => {}
        }
    }
    Value::Object(object)
}
