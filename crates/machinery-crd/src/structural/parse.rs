//! Reads a schema and reports where it is not structural.

use regex_lite::RegexBuilder;
use serde_json::{Map, Value};

use super::{Additional, Default, Format, Limits, ListType, Logic, Node, NodeType, Pattern, Structural};
use crate::{
    Budget, DEPTH_MAX, FieldError,
    bounded::{PATH_BYTES_MAX, cut},
    field_error::ERRORS_MAX,
};

/// Schemas of real definitions have some thousands of places at most.
const NODES_MAX: usize = 50_000;

/// The longest patterns of real definitions match IPv6 addresses, in some 1,500 bytes.
const PATTERN_BYTES_MAX: usize = 4096;

/// What a pattern may take when it is compiled, in classes: the smallest that it fits into says what it costs. `(a{99}){99}`
/// is short and large, so its text says nothing.
const PATTERN_CLASSES: [usize; 3] = [8 * 1024, 64 * 1024, 512 * 1024];

/// What all patterns of one schema may take together; they stay in memory for as long as the definition is served.
const PATTERNS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Compiled patterns take about this much for each state.
const BYTES_PER_STATE: usize = 32;

struct Parser {
    errors: Vec<FieldError>,
    has_expressions: bool,
    nodes: usize,
    pattern_bytes: usize,
}

pub(super) fn parse(schema: &Value, path: &str) -> Result<Structural, Vec<FieldError>> {
    let mut parser = Parser { errors: Vec::new(), has_expressions: false, nodes: 0, pattern_bytes: 0 };
    let mut root = parser.node(schema, path, Place::Structure, 0);
    if root.kind != Some(NodeType::Object) && parser.errors.is_empty() {
        let found = schema.get("type").cloned().unwrap_or(Value::Null);
        parser.errors.push(FieldError::invalid(format!("{path}.type"), &found, "must be object at the root"));
    }
    // `metadata` has the type that all objects share; a schema may only narrow its name.
    root.properties.remove("metadata");
    root.required.retain(|name| &**name != "metadata");
    for known in ["apiVersion", "kind"] {
        root.properties.entry(known.into()).or_insert_with(|| Node { kind: Some(NodeType::String), ..Node::default() });
    }
    if parser.errors.is_empty() {
        let mut budget = Budget::of_request();
        match super::apply::complete_defaults(&mut root, &mut budget) {
            Ok(()) => parser.check_defaults(&root, path, &mut budget),
            Err(error) => {
                parser.errors.push(FieldError::forbidden(path, format!("its defaults are too large: {error}")));
            }
        }
    }
    if !parser.errors.is_empty() {
        return Err(parser.errors);
    }
    Ok(Structural { root, has_expressions: parser.has_expressions })
}

/// Where a schema is: in the structure itself, or within `allOf`, `anyOf`, `oneOf` or `not`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Structure,
    Logic,
}

impl Parser {
    fn node(&mut self, schema: &Value, path: &str, place: Place, depth: usize) -> Node {
        let Some(map) = schema.as_object() else {
            self.errors.push(FieldError::type_invalid(path, schema, "a schema must be an object"));
            return Node::default();
        };
        if depth > DEPTH_MAX {
            self.errors.push(FieldError::forbidden(path, format!("schemas may nest at most {DEPTH_MAX} levels")));
            return Node::default();
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX || self.errors.len() >= ERRORS_MAX {
            if self.nodes == NODES_MAX + 1 {
                let detail = format!("a schema may have at most {NODES_MAX} places");
                self.errors.push(FieldError::forbidden(path, detail));
            }
            return Node::default();
        }
        // Every place below adds to the path, and a property's name may be as long as the definition.
        let path = cut(path, PATH_BYTES_MAX);
        for forbidden in ["$ref", "definitions", "dependencies", "patternProperties", "additionalItems"] {
            if map.get(forbidden).is_some_and(|value| !value.is_null()) {
                self.errors.push(FieldError::forbidden(
                    format!("{path}.{forbidden}"),
                    format!("{forbidden} is not supported"),
                ));
            }
        }
        let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
        self.has_expressions |= map.get("x-kubernetes-validations").is_some_and(|rules| !rules.is_null());
        let mut node = Node {
            kind: self.kind(map, path),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag("x-kubernetes-embedded-resource"),
            required: words(map.get("required")),
            default: map.get("default").filter(|value| !value.is_null()).cloned().map(Default::of),
            allowed: map.get("enum").and_then(Value::as_array).cloned(),
            limits: self.limits(map, path),
            list_type: self.list_type(map, path),
            ..Node::default()
        };
        if place == Place::Structure && node.kind.is_none() && !node.int_or_string && !node.preserve_unknown {
            self.errors
                .push(FieldError::required(format!("{path}.type"), "must not be empty for specified object fields"));
        }
        if place == Place::Logic {
            for structural in ["default", "nullable", "x-kubernetes-preserve-unknown-fields"] {
                if map.contains_key(structural) {
                    let path = format!("{path}.{structural}");
                    self.errors.push(FieldError::forbidden(path, "must be undefined to be structural"));
                }
            }
        }
        if let Some(properties) = map.get("properties").and_then(Value::as_object) {
            for (name, inner) in properties {
                let inner = self.node(inner, &format!("{path}.properties[{name}]"), place, depth + 1);
                node.properties.insert(name.as_str().into(), inner);
            }
        }
        match map.get("additionalProperties") {
            None | Some(Value::Null) => {}
            Some(Value::Bool(allowed)) => {
                if *allowed {
                    node.additional = Some(Additional::Any);
                }
            }
            Some(inner) => {
                if !node.properties.is_empty() {
                    let path = format!("{path}.additionalProperties");
                    self.errors.push(FieldError::forbidden(path, "must not be used together with properties"));
                }
                let inner = self.node(inner, &format!("{path}.additionalProperties"), place, depth + 1);
                node.additional = Some(Additional::Schema(Box::new(inner)));
            }
        }
        match map.get("items") {
            Some(inner) if !inner.is_null() => {
                node.items = Some(Box::new(self.node(inner, &format!("{path}.items"), place, depth + 1)));
            }
            _ if node.kind == Some(NodeType::Array) && place == Place::Structure => {
                self.errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
            }
            _ => {}
        }
        node.logic = self.logic(map, path, depth);
        node
    }

    fn kind(&mut self, map: &Map<String, Value>, path: &str) -> Option<NodeType> {
        let found = map.get("type").filter(|value| !value.is_null() && value.as_str() != Some(""))?;
        let kind = match found.as_str() {
            Some("object") => NodeType::Object,
            Some("array") => NodeType::Array,
            Some("string") => NodeType::String,
            Some("integer") => NodeType::Integer,
            Some("number") => NodeType::Number,
            Some("boolean") => NodeType::Boolean,
            _ => {
                let supported = ["array", "boolean", "integer", "number", "object", "string"];
                self.errors.push(FieldError::not_supported(format!("{path}.type"), found, &supported));
                return None;
            }
        };
        Some(kind)
    }

    fn list_type(&mut self, map: &Map<String, Value>, path: &str) -> ListType {
        match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListType::Set,
            Some("map") => {
                let keys = words(map.get("x-kubernetes-list-map-keys"));
                if keys.is_empty() {
                    let path = format!("{path}.x-kubernetes-list-map-keys");
                    self.errors.push(FieldError::required(path, "must not be empty if x-kubernetes-list-type is map"));
                }
                ListType::Map(keys)
            }
            Some("atomic") | None => ListType::Atomic,
            Some(other) => {
                let path = format!("{path}.x-kubernetes-list-type");
                self.errors.push(FieldError::not_supported(path, &other.into(), &["atomic", "map", "set"]));
                ListType::Atomic
            }
        }
    }

    fn limits(&mut self, map: &Map<String, Value>, path: &str) -> Option<Box<Limits>> {
        let number = |key: &str| match map.get(key) {
            Some(Value::Number(number)) => Some(number.clone()),
            _ => None,
        };
        let count = |key: &str| map.get(key).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
        let flag = |key: &str| map.get(key) == Some(&Value::Bool(true));
        let pattern = map.get("pattern").filter(|value| !value.is_null()).and_then(|pattern| {
            let compiled = self.pattern(pattern.as_str().unwrap_or_default());
            compiled
                .map_err(|detail| {
                    self.errors.push(FieldError::invalid(format!("{path}.pattern"), pattern, detail));
                })
                .ok()
        });
        let format = match map.get("format").and_then(Value::as_str) {
            Some("date-time") => Some(Format::DateTime),
            Some("date") => Some(Format::Date),
            Some("int32") => Some(Format::Int32),
            Some("int64") => Some(Format::Int64),
            Some("byte") => Some(Format::Byte),
            Some("ipv4") => Some(Format::Ipv4),
            Some("ipv6") => Some(Format::Ipv6),
            Some("uuid") => Some(Format::Uuid),
            _ => None,
        };
        let limits = Limits {
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: map.get("multipleOf").and_then(Value::as_f64),
            length_min: count("minLength"),
            length_max: count("maxLength"),
            pattern,
            format,
            items_min: count("minItems"),
            items_max: count("maxItems"),
            unique_items: flag("uniqueItems"),
            properties_min: count("minProperties"),
            properties_max: count("maxProperties"),
        };
        (!limits.is_empty()).then(|| Box::new(limits))
    }

    /// Compiles a pattern; says what is wrong with it.
    fn pattern(&mut self, text: &str) -> Result<Pattern, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("may not be more than {PATTERN_BYTES_MAX} bytes"));
        }
        let mut result = Err(String::new());
        for bytes in PATTERN_CLASSES {
            match RegexBuilder::new(text).size_limit(bytes).build() {
                Ok(regex) => {
                    self.pattern_bytes += bytes;
                    if self.pattern_bytes > PATTERNS_BYTES_MAX {
                        return Err(format!(
                            "all patterns together take more than {PATTERNS_BYTES_MAX} bytes compiled"
                        ));
                    }
                    let steps_per_byte = u64::try_from(bytes / BYTES_PER_STATE).unwrap_or(u64::MAX);
                    return Ok(Pattern { regex, steps_per_byte });
                }
                Err(error) => result = Err(format!("must be a regular expression: {error}")),
            }
        }
        result
    }

    fn logic(&mut self, map: &Map<String, Value>, path: &str, depth: usize) -> Option<Box<Logic>> {
        let mut all = |key: &str| -> Vec<Node> {
            let branches = map.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let branches = branches.iter().enumerate();
            branches
                .map(|(n, inner)| self.node(inner, &format!("{path}.{key}[{n}]"), Place::Logic, depth + 1))
                .collect()
        };
        let (all_of, any_of, one_of) = (all("allOf"), all("anyOf"), all("oneOf"));
        let not = map.get("not").filter(|value| !value.is_null());
        let not = not.map(|inner| self.node(inner, &format!("{path}.not"), Place::Logic, depth + 1));
        if all_of.is_empty() && any_of.is_empty() && one_of.is_empty() && not.is_none() {
            return None;
        }
        Some(Box::new(Logic { all_of, any_of, one_of, not }))
    }

    /// A default that its own schema rejects would make every write fail.
    fn check_defaults(&mut self, node: &Node, path: &str, budget: &mut Budget) {
        if self.errors.len() >= ERRORS_MAX {
            return;
        }
        let path = cut(path, PATH_BYTES_MAX);
        if let Some(default) = &node.default {
            self.errors.extend(super::check::check_whole(node, &default.value, &format!("{path}.default"), budget));
        }
        for (name, inner) in &node.properties {
            self.check_defaults(inner, &format!("{path}.properties[{name}]"), budget);
        }
        if let Some(Additional::Schema(inner)) = &node.additional {
            self.check_defaults(inner, &format!("{path}.additionalProperties"), budget);
        }
        if let Some(inner) = &node.items {
            self.check_defaults(inner, &format!("{path}.items"), budget);
        }
    }
}

impl Limits {
    fn is_empty(&self) -> bool {
        let counts = [
            self.length_min,
            self.length_max,
            self.items_min,
            self.items_max,
            self.properties_min,
            self.properties_max,
        ];
        self.minimum.is_none()
            && self.maximum.is_none()
            && self.multiple_of.is_none()
            && self.pattern.is_none()
            && self.format.is_none()
            && !self.unique_items
            && counts.iter().all(Option::is_none)
    }
}

fn words(value: Option<&Value>) -> Vec<Box<str>> {
    let items = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(Value::as_str).map(Into::into).collect()
}
