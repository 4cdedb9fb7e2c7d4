//! Turns the vendored Kubernetes definitions into static tables, so that nothing is parsed when the hub runs.
//!
//! Two things come out: `tables.rs`, the shape of every definition for validation and patches, and one compressed
//! `components` text per group version for OpenAPI documents, whose descriptions are needed only for `kubectl explain`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

const DEFINITIONS: &str = "definitions/kubernetes-1.36.json.gz";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Group, version, and the prefix of its definitions' names.
const GROUP_VERSIONS: &[(&str, &str, &str)] = &[
    ("", "v1", "io.k8s.api.core.v1."),
    ("apiextensions.k8s.io", "v1", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."),
    ("apps", "v1", "io.k8s.api.apps.v1."),
    ("certificates.k8s.io", "v1", "io.k8s.api.certificates.v1."),
    ("coordination.k8s.io", "v1", "io.k8s.api.coordination.v1."),
    ("node.k8s.io", "v1", "io.k8s.api.node.v1."),
];

type Definitions = BTreeMap<String, Value>;

fn main() {
    println!("cargo::rerun-if-changed={DEFINITIONS}");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let definitions = read_definitions(Path::new(DEFINITIONS));

    let mut code = tables(&definitions);
    code.push_str("pub static COMPONENTS: &[Components] = &[\n");
    for (number, (group, version, prefix)) in GROUP_VERSIONS.iter().enumerate() {
        let text = components(&definitions, |name| name.starts_with(prefix)).to_string();
        writeln!(
            code,
            "Components {{ group: {group:?}, version: {version:?}, hash: {:#x}, bytes: include_bytes!({:?}) }},",
            fnv1a(text.as_bytes()),
            write_compressed(&out, &format!("components-{number}.z"), &text),
        )
        .expect("a String takes any text");
    }
    code.push_str("];\n");
    // Documents of custom resources refer to these.
    let meta = components(&definitions, |name| name == format!("{META}ObjectMeta")).to_string();
    writeln!(
        code,
        "pub static META_COMPONENTS: &[u8] = include_bytes!({:?});",
        write_compressed(&out, "components-meta.z", &meta)
    )
    .expect("a String takes any text");
    fs::write(out.join("tables.rs"), code).expect("OUT_DIR is writable");
}

fn read_definitions(path: &Path) -> Definitions {
    let packed = fs::read(path).expect("the vendored definitions are part of the crate");
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice())
        .read_to_string(&mut text)
        .expect("the vendored definitions are gzip");
    serde_json::from_str(&text).expect("the vendored definitions are JSON")
}

fn write_compressed(out: &Path, name: &str, text: &str) -> PathBuf {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(text.as_bytes()).expect("a Vec takes any bytes");
    let path = out.join(name);
    fs::write(&path, encoder.finish().expect("a Vec takes any bytes")).expect("OUT_DIR is writable");
    path
}

// ---- tables ------------------------------------------------------------------------------------------------------

fn tables(definitions: &Definitions) -> String {
    let numbers: BTreeMap<&str, usize> =
        definitions.keys().enumerate().map(|(number, name)| (name.as_str(), number)).collect();
    let mut code = String::from("pub static DEFINITIONS: &[Definition] = &[\n");
    for (name, definition) in definitions {
        write!(code, "Definition {{ name: {name:?}, fields: &[").expect("a String takes any text");
        let required: BTreeSet<&str> = strings(definition.get("required")).into_iter().collect();
        if let Some(properties) = definition.get("properties").and_then(Value::as_object) {
            for (field, schema) in properties {
                write!(
                    code,
                    "Field {{ name: {field:?}, required: {}, shape: {} }}, ",
                    required.contains(field.as_str()),
                    shape(&numbers, schema)
                )
                .expect("a String takes any text");
            }
        }
        code.push_str("] },\n");
    }
    code.push_str("];\n");
    code
}

/// The Rust expression for the shape of one schema.
fn shape(numbers: &BTreeMap<&str, usize>, schema: &Value) -> String {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str).map(last_part) {
        return match last_name(name) {
            "IntOrString" => "Shape::IntOrString".to_owned(),
            "Quantity" => "Shape::Quantity".to_owned(),
            "Time" => "Shape::Time".to_owned(),
            "MicroTime" => "Shape::MicroTime".to_owned(),
            "RawExtension" | "FieldsV1" => "Shape::AnyObject".to_owned(),
            "JSON" | "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray" => {
                "Shape::Any".to_owned()
            }
            // A JSON Schema is checked as a whole, when its CustomResourceDefinition is installed.
            "JSONSchemaProps" => "Shape::AnyObject".to_owned(),
            _ => format!("Shape::Object({})", numbers[name]),
        };
    }
    let inner = |key: &str| schema.get(key).map(|inner| shape(numbers, inner));
    match (type_of(schema), schema.get("format").and_then(Value::as_str)) {
        (Some("string"), Some("byte")) => "Shape::Base64".to_owned(),
        (Some("string"), Some("date-time")) => "Shape::Time".to_owned(),
        (Some("string"), _) => "Shape::Text".to_owned(),
        (Some("boolean"), _) => "Shape::Boolean".to_owned(),
        (Some("integer"), Some("int32")) => "Shape::Integer32".to_owned(),
        (Some("integer"), _) => "Shape::Integer64".to_owned(),
        (Some("number"), _) => "Shape::Number".to_owned(),
        (Some("array"), _) => {
            let strategy = schema.get("x-kubernetes-patch-strategy").and_then(Value::as_str).unwrap_or_default();
            let merge = strategy.split(',').any(|word| word == "merge");
            let merge_key = schema.get("x-kubernetes-patch-merge-key").and_then(Value::as_str);
            format!(
                "Shape::List(&List {{ items: {}, merge: {merge}, merge_key: {merge_key:?} }})",
                inner("items").expect("an array has items"),
            )
        }
        (Some("object"), _) => match inner("additionalProperties") {
            Some(values) => format!("Shape::Map(&{values})"),
            None => "Shape::AnyObject".to_owned(),
        },
        _ => "Shape::Any".to_owned(),
    }
}

/// The definitions write `["string", "null"]` where OpenAPI says `string`.
fn type_of(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::String(name) => Some(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

fn strings(value: Option<&Value>) -> Vec<&str> {
    value.and_then(Value::as_array).map(|items| items.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

fn last_part(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

fn last_name(definition: &str) -> &str {
    definition.rsplit('.').next().unwrap_or(definition)
}

// ---- OpenAPI components ------------------------------------------------------------------------------------------

/// `components.schemas` with every definition that the chosen ones reach.
fn components(definitions: &Definitions, is_root: impl Fn(&str) -> bool) -> Value {
    let mut open: Vec<&str> = definitions.keys().map(String::as_str).filter(|name| is_root(name)).collect();
    for name in ["DeleteOptions", "Patch", "Status", "WatchEvent"] {
        let name = format!("{META}{name}");
        open.push(definitions.get_key_value(&name).expect("requests and answers are vendored").0);
    }
    let mut schemas = Map::new();
    while let Some(name) = open.pop() {
        if !schemas.contains_key(name) {
            schemas.insert(
                name.to_owned(),
                openapi(&definitions[name], &mut |reference| {
                    open.push(definitions.get_key_value(reference).expect("references are vendored").0);
                }),
            );
        }
    }
    Value::Object(schemas)
}

/// One schema as OpenAPI 3.0 writes it.
fn openapi(schema: &Value, refer: &mut dyn FnMut(&str)) -> Value {
    let Some(map) = schema.as_object() else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in map {
        match key.as_str() {
            "$ref" => {
                let name = last_part(value.as_str().expect("a reference is text"));
                refer(name);
                // Next to a reference, OpenAPI 3.0 ignores everything; `allOf` lets the description stand.
                out.insert("allOf".to_owned(), json!([{"$ref": format!("#/components/schemas/{name}")}]));
            }
            "type" => {
                out.insert(key.clone(), json!(type_of(schema)));
            }
            // Only the JSON Schema form has these: apiVersion and kind of each definition.
            "enum" => {}
            "properties" => {
                let properties = value.as_object().expect("properties are an object");
                let properties: Map<String, Value> =
                    properties.iter().map(|(name, inner)| (name.clone(), openapi(inner, refer))).collect();
                out.insert(key.clone(), Value::Object(properties));
            }
            "items" | "additionalProperties" => {
                out.insert(key.clone(), openapi(value, refer));
            }
            "oneOf" => {
                let kinds = value.as_array().expect("oneOf is a list");
                out.insert(key.clone(), kinds.iter().map(|inner| openapi(inner, refer)).collect());
            }
            _ => {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    if out.len() == 1
        && let Some(Value::Array(all)) = out.get("allOf")
    {
        return all[0].clone();
    }
    if out.get("oneOf").is_some_and(|kinds| kinds.to_string().contains("integer")) {
        out.insert("format".to_owned(), json!("int-or-string"));
    }
    Value::Object(out)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
