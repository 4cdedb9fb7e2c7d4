//! Turns what Kubernetes publishes of its types into static tables, so that nothing is parsed when the server runs.
//!
//! `types-1.36.json.gz` says what Go makes of each type (names, what is left out when empty, protobuf tags, patch
//! strategies), the OpenAPI documents what the server publishes of it (list types, map keys, defaults). The tables hold
//! numbers alone: every name is an offset into one text, so the program has no relocations for them.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    fmt::Write as _,
    fs,
    io::Read as _,
    ops::Range,
    path::{Path, PathBuf},
};

use serde_json::Value;

const TYPES: &str = "definitions/types-1.36.json.gz";
const OPENAPI: &str = "definitions/openapi.zst";
/// The document in it that is of OpenAPI v2.
const OPENAPI_V2: &str = "openapi-v2";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// What is decoded besides the kinds: options, answers, and parts of them.
const OTHERS: [&str; 8] = [
    "DeleteOptions",
    "ListOptions",
    "ObjectMeta",
    "ListMeta",
    "Status",
    "WatchEvent",
    "PartialObjectMetadata",
    "PartialObjectMetadataList",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={TYPES}");
    println!("cargo::rerun-if-changed={OPENAPI}");
    let published = read(Path::new(TYPES));
    let archive = unpacked(Path::new(OPENAPI));
    let documents = documents(&archive);
    let mut schemas: BTreeMap<String, Value> = BTreeMap::new();
    for (_, range) in documents.iter().filter(|(name, _)| **name != OPENAPI_V2) {
        let document: Value = serde_json::from_str(&archive[range.clone()]).expect("the documents are JSON");
        if let Some(found) = document.pointer("/components/schemas").and_then(Value::as_object) {
            schemas.extend(found.iter().map(|(name, schema)| (name.clone(), schema.clone())));
        }
    }

    let mut tables = Tables::new(&published["types"], schemas);
    let mut kinds = Vec::new();
    for kind in array(&published["kinds"]) {
        let (group, version) = (text(&kind["group"]), text(&kind["version"]));
        let document = if group.is_empty() { format!("api__{version}") } else { format!("apis__{group}__{version}") };
        if documents.contains_key(document.as_str()) {
            tables.number(text(&kind["type"]));
            kinds.push((group, version, text(&kind["kind"]), text(&kind["type"])));
        }
    }
    for name in OTHERS {
        tables.number(&format!("{META}.{name}"));
    }
    let mut code = tables.finish();
    kinds.sort();
    code.push_str("static KINDS: &[KindRow] = &[\n");
    for (group, version, kind, name) in kinds {
        let number = tables.final_number(name);
        let (group, version, kind) = (tables.intern(group), tables.intern(version), tables.intern(kind));
        writeln!(code, "KindRow {{ group: {group}, version: {version}, kind: {kind}, of: {number} }},").expect(TEXT);
    }
    code.push_str("];\n");
    writeln!(code, "static TEXT: &str = {:?};", tables.text).expect(TEXT);
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    fs::write(out.join("tables.rs"), code).expect("OUT_DIR is writable");
    let mut code = String::from("static DOCUMENTS: &[Document] = &[\n");
    for (name, Range { start, end }) in documents {
        let hash = fnv(&archive.as_bytes()[start..end]);
        let row = format!("name: {name:?}, start: {start}, length: {}, hash: {hash:#x}", end - start);
        writeln!(code, "Document {{ {row} }},").expect(TEXT);
    }
    code.push_str("];\n");
    // Copied, because a build directory may be kept for a checkout in another place.
    fs::copy(OPENAPI, out.join("openapi.zst")).expect("OUT_DIR is writable");
    fs::write(out.join("documents.rs"), code).expect("OUT_DIR is writable");
}

const TEXT: &str = "a String takes any text";

/// The rows of the tables, as they are found.
struct Tables<'p> {
    published: &'p Value,
    schemas: BTreeMap<String, Value>,
    /// Every name once.
    text: String,
    offsets: HashMap<String, String>,
    /// Types by name, and those that are still to be read.
    numbers: BTreeMap<String, usize>,
    open: Vec<String>,
    shapes: Vec<String>,
    shape_numbers: HashMap<String, usize>,
}

impl<'p> Tables<'p> {
    fn new(published: &'p Value, schemas: BTreeMap<String, Value>) -> Self {
        Self {
            published,
            schemas,
            text: String::new(),
            offsets: HashMap::new(),
            numbers: BTreeMap::new(),
            open: Vec::new(),
            shapes: Vec::new(),
            shape_numbers: HashMap::new(),
        }
    }

    /// The expression for a piece of the text.
    fn intern(&mut self, piece: &str) -> String {
        if let Some(known) = self.offsets.get(piece) {
            return known.clone();
        }
        let expression = format!("Text({}, {})", self.text.len(), piece.len());
        self.text.push_str(piece);
        self.offsets.insert(piece.to_owned(), expression.clone());
        expression
    }

    /// The number of a type, which is read later.
    fn number(&mut self, name: &str) -> usize {
        let next = self.numbers.len();
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        assert!(self.published[name].is_object(), "{name} is a published type");
        self.numbers.insert(name.to_owned(), next);
        self.open.push(name.to_owned());
        next
    }

    fn final_number(&self, name: &str) -> usize {
        self.numbers[name]
    }

    /// The number of a shape; equal ones are one.
    fn shape(&mut self, shape: &Value, schema: &Value, go: &str) -> usize {
        let (kind, of) = match shape {
            Value::String(name) => (scalar(name), 0),
            Value::Object(map) if map.contains_key("ref") => ("Struct", self.number(text(&map["ref"]))),
            Value::Object(map) if map.contains_key("list") => {
                ("List", self.shape(&map["list"], &schema["items"], text(&map["type"])))
            }
            Value::Object(map) if map.contains_key("map") => {
                ("Map", self.shape(&map["map"], &schema["additionalProperties"], text(&map["type"])))
            }
            other => panic!("a shape of an unknown form: {other}"),
        };
        let keys: Vec<&str> = array(&schema["x-kubernetes-list-map-keys"]).iter().map(text).collect();
        let keys = self.intern(&keys.join(","));
        let list = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => "ListType::Set",
            Some("map") => "ListType::Map",
            _ => "ListType::Atomic",
        };
        // A field may say otherwise of the struct that it refers to, either way.
        let is_atomic = match (schema["x-kubernetes-map-type"].as_str(), shape.get("ref")) {
            (Some(word), _) => word == "atomic",
            (None, Some(name)) => {
                self.schemas.get(text(name)).is_some_and(|schema| schema["x-kubernetes-map-type"] == "atomic")
            }
            (None, None) => false,
        };
        let in_go = self.intern(go);
        let row = format!(
            "ShapeRow {{ kind: ShapeKind::{kind}, of: {of}, go: {in_go}, list: {list}, keys: {keys}, is_atomic: {is_atomic} }}"
        );
        let next = self.shapes.len();
        let number = *self.shape_numbers.entry(row.clone()).or_insert(next);
        if number == next {
            self.shapes.push(row);
        }
        number
    }

    /// Reads all types that were found and writes the tables of types, fields and shapes.
    fn finish(&mut self) -> String {
        let mut types: BTreeMap<usize, String> = BTreeMap::new();
        let mut fields = String::new();
        let mut first = 0;
        while let Some(name) = self.open.pop() {
            let number = self.numbers[&name];
            let published = &self.published[&name];
            let schema = self.schemas.get(&name).cloned().unwrap_or_default();
            let mut own: Vec<&Value> = array(&published["fields"]).iter().collect();
            own.sort_by_key(|field| text(&field["name"]));
            for field in &own {
                self.field(field, &schema["properties"][text(&field["name"])], &mut fields);
            }
            let is_atomic = schema["x-kubernetes-map-type"] == "atomic";
            let (name, go) = (self.intern(&name), self.intern(text(&published["go"])));
            let count = own.len();
            types.insert(
                number,
                format!("TypeRow {{ name: {name}, go: {go}, first: {first}, count: {count}, is_atomic: {is_atomic} }}"),
            );
            first += count;
        }
        let mut code = String::from("static TYPES: &[TypeRow] = &[\n");
        for row in types.values() {
            writeln!(code, "{row},").expect(TEXT);
        }
        writeln!(code, "];\nstatic FIELDS: &[FieldRow] = &[\n{fields}];\nstatic SHAPES: &[ShapeRow] = &[").expect(TEXT);
        for row in &self.shapes {
            writeln!(code, "{row},").expect(TEXT);
        }
        code.push_str("];\nstatic TYPES_BY_NAME: &[u16] = &[");
        for number in self.numbers.values() {
            write!(code, "{number}, ").expect(TEXT);
        }
        code.push_str("];\n");
        code
    }

    fn field(&mut self, field: &Value, schema: &Value, rows: &mut String) {
        let shape = self.shape(&field["shape"], schema, text(&field["type"]));
        let (name, go) = (self.intern(text(&field["name"])), self.intern(text(&field["go"])));
        let key = self.intern(text(&field["key"]));
        let default = match &schema["default"] {
            Value::Null => String::new(),
            value => value.to_string(),
        };
        let default = self.intern(&default);
        let strategy = text(&field["strategy"]);
        let has = |word: &str| strategy.split(',').any(|found| found == word);
        let omit = match text(&field["omit"]) {
            "empty" => "Omit::Empty",
            "zero" => "Omit::Zero",
            _ => "Omit::Never",
        };
        let wire = match text(&field["wire"]) {
            "varint" => "Wire::Varint",
            "fixed64" => "Wire::Fixed64",
            "" | "bytes" => "Wire::Bytes",
            other => panic!("a wire type that is not known: {other}"),
        };
        writeln!(
            rows,
            "FieldRow {{ name: {name}, go: {go}, shape: {shape}, is_pointer: {}, omit: {omit}, tag: {}, via: {}, wire: {wire}, \
             merges: {}, retains_keys: {}, key: {key}, default: {default} }},",
            field["pointer"] == true,
            field["tag"].as_u64().unwrap_or(0),
            field["via"].as_u64().unwrap_or(0),
            has("merge"),
            has("retainKeys"),
        )
        .expect(TEXT);
    }
}

fn scalar(name: &str) -> &'static str {
    match name {
        "bool" => "Bool",
        "int32" => "Int32",
        "int64" => "Int64",
        "float64" => "Float",
        "string" => "String",
        "bytes" => "Bytes",
        "time" => "Time",
        "microtime" => "MicroTime",
        "duration" => "Duration",
        "quantity" => "Quantity",
        "intorstring" => "IntOrString",
        "rawextension" => "RawExtension",
        "fieldsv1" => "FieldsV1",
        "json" | "any" => "Json",
        "schemaorarray" => "SchemaOrArray",
        "schemaorbool" => "SchemaOrBool",
        "schemaorstrings" => "SchemaOrStrings",
        other => panic!("a type of an unknown form: {other}"),
    }
}

fn read(path: &Path) -> Value {
    let packed = fs::read(path).expect("the vendored documents are part of the crate");
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("the documents are gzip");
    serde_json::from_str(&text).expect("the documents are JSON")
}

fn unpacked(path: &Path) -> String {
    let packed = fs::read(path).expect("the vendored documents are part of the crate");
    let mut text = String::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed.as_slice()).expect("the archive is zstd");
    decoder.read_to_string(&mut text).expect("the archive is whole");
    text
}

/// Where each document of the archive is, by name.
fn documents(archive: &str) -> BTreeMap<&str, Range<usize>> {
    let mut found = BTreeMap::new();
    let mut at = 0;
    for line in archive.lines() {
        let (name, _) = line.split_once('\t').expect("each line is a name, a tab and a document");
        found.insert(name, at + name.len() + 1..at + line.len());
        at += line.len() + 1;
    }
    found
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
