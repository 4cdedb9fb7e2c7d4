//! A schema as its author wrote it: every keyword that `openAPIV3Schema` may have.
//!
//! One tree serves for everything: the rules for definitions look at it ([`crate::definition`]), objects are pruned, filled
//! and checked with it ([`crate::structural`]), and CEL takes its types from it ([`crate::cel`]). What a wrong type or an
//! unknown keyword means was decided when the definition was decoded; here such a value counts as absent.

mod shown;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{DEPTH_MAX, go_regex};
pub(crate) use shown::{show_rule, show_schema, show_versions};

/// Schemas of real definitions have some thousands of places at most.
const NODES_MAX: usize = 50_000;

/// Each is read whenever its schema is. Real definitions have some dozens.
const PATTERNS_MAX: usize = 2_000;

/// One place in a schema.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schema {
    /// `object`, `array`, …; empty when there is none.
    pub kind: Box<str>,
    pub nullable: bool,
    pub default: Option<Value>,
    pub format: Box<str>,
    pub allowed: Vec<Value>,
    pub required: Vec<Box<str>>,
    pub properties: BTreeMap<Box<str>, Schema>,
    pub additional: Option<SchemaOrBool>,
    pub items: Option<Items>,
    pub int_or_string: bool,
    pub embedded_resource: bool,
    pub preserve_unknown: Option<bool>,
    pub list_type: Option<Box<str>>,
    pub list_map_keys: Vec<Box<str>>,
    pub map_type: Option<Box<str>>,
    pub rules: Vec<Rule>,
    /// Bounds of the value; most places have none.
    pub limits: Option<Box<Limits>>,
    /// Schemas that also apply to the value.
    pub logic: Option<Box<Logic>>,
    /// Words for people.
    pub words: Option<Box<Words>>,
    /// Keywords that JSON Schema has and structural schemas may not have.
    pub unsupported: Option<Box<Unsupported>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub length_max: Option<i64>,
    pub length_min: Option<i64>,
    pub pattern: Box<str>,
    pub items_max: Option<i64>,
    pub items_min: Option<i64>,
    pub unique_items: bool,
    pub multiple_of: Option<f64>,
    pub properties_max: Option<i64>,
    pub properties_min: Option<i64>,
    /// About how many bytes the pattern takes when it is compiled ([`go_regex::weigh`]), or what is wrong with it.
    pub pattern_bytes: Option<Result<u32, String>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Logic {
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    pub description: Box<str>,
    pub title: Box<str>,
    pub external_docs: Option<Value>,
    pub example: Option<Value>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Unsupported {
    pub id: Box<str>,
    pub schema: Box<str>,
    pub reference: Option<Box<str>>,
    pub pattern_properties: BTreeMap<Box<str>, Schema>,
    pub dependencies: Option<BTreeMap<Box<str>, Dependency>>,
    pub additional_items: Option<SchemaOrBool>,
    pub definitions: BTreeMap<Box<str>, Schema>,
}

#[derive(Clone, Debug)]
pub(crate) enum Dependency {
    Schema(Box<Schema>),
    Property(Vec<Box<str>>),
}

/// What keys besides `properties` may hold.
#[derive(Clone, Debug)]
pub(crate) enum SchemaOrBool {
    Bool(bool),
    Schema(Box<Schema>),
}

#[derive(Clone, Debug)]
pub(crate) enum Items {
    One(Box<Schema>),
    Many(Vec<Schema>),
}

/// One entry of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rule {
    pub rule: Box<str>,
    pub message: Box<str>,
    pub message_expression: Box<str>,
    pub reason: Option<Box<str>>,
    pub field_path: Box<str>,
    pub optional_old_self: Option<bool>,
}

/// The schema is larger than what this program takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooLarge {
    #[error("schemas may nest at most {DEPTH_MAX} levels")]
    Depth,
    #[error("a schema may have at most {NODES_MAX} places")]
    Nodes,
    #[error("a schema may have at most {PATTERNS_MAX} patterns")]
    Patterns,
}

struct Reader {
    nodes: usize,
    patterns: usize,
}

impl Schema {
    /// Reads `openAPIV3Schema`. Its patterns are read and not compiled: that is left to the first text that meets one.
    pub fn read(value: &Value) -> Result<Self, TooLarge> {
        let mut reader = Reader { nodes: 0, patterns: 0 };
        let empty = Map::new();
        reader.schema(value.as_object().unwrap_or(&empty), 0)
    }

    /// The one schema of all items.
    pub fn item(&self) -> Option<&Schema> {
        match &self.items {
            Some(Items::One(item)) => Some(item),
            _ => None,
        }
    }

    /// The schema of further keys.
    pub fn additional_schema(&self) -> Option<&Schema> {
        match self.additional.as_ref() {
            Some(SchemaOrBool::Schema(schema)) => Some(schema),
            _ => None,
        }
    }

    pub fn preserves_unknown(&self) -> bool {
        self.preserve_unknown == Some(true)
    }

    pub fn description(&self) -> &str {
        self.words.as_deref().map_or("", |words| &words.description)
    }

    pub fn title(&self) -> &str {
        self.words.as_deref().map_or("", |words| &words.title)
    }

    pub fn pattern(&self) -> &str {
        self.limits.as_deref().map_or("", |limits| &limits.pattern)
    }

    pub fn items_max(&self) -> Option<i64> {
        self.limits.as_deref().and_then(|limits| limits.items_max)
    }

    pub fn length_max(&self) -> Option<i64> {
        self.limits.as_deref().and_then(|limits| limits.length_max)
    }

    pub fn properties_max(&self) -> Option<i64> {
        self.limits.as_deref().and_then(|limits| limits.properties_max)
    }

    pub fn all_of(&self) -> &[Schema] {
        self.logic.as_deref().map_or(&[], |logic| &logic.all_of)
    }

    pub fn any_of(&self) -> &[Schema] {
        self.logic.as_deref().map_or(&[], |logic| &logic.any_of)
    }

    pub fn one_of(&self) -> &[Schema] {
        self.logic.as_deref().map_or(&[], |logic| &logic.one_of)
    }

    pub fn not(&self) -> Option<&Schema> {
        self.logic.as_deref().and_then(|logic| logic.not.as_deref())
    }

    /// Calls `visit` with this place and every one below it, combined schemas included.
    pub fn each<'s>(&'s self, visit: &mut dyn FnMut(&'s Schema)) {
        visit(self);
        let items: &[Schema] = match &self.items {
            Some(Items::One(item)) => std::slice::from_ref(item),
            Some(Items::Many(items)) => items,
            None => &[],
        };
        let logic = [self.all_of(), self.any_of(), self.one_of()];
        let nested = items.iter().chain(logic.into_iter().flatten()).chain(self.not()).chain(self.properties.values());
        for schema in nested.chain(self.additional_schema()) {
            schema.each(visit);
        }
        if let Some(unsupported) = &self.unsupported {
            let maps = unsupported.pattern_properties.values().chain(unsupported.definitions.values());
            for schema in maps {
                schema.each(visit);
            }
            if let Some(SchemaOrBool::Schema(schema)) = unsupported.additional_items.as_ref() {
                schema.each(visit);
            }
            for dependency in unsupported.dependencies.iter().flat_map(BTreeMap::values) {
                if let Dependency::Schema(schema) = dependency {
                    schema.each(visit);
                }
            }
        }
    }

    /// About how many bytes all patterns take when they are compiled.
    pub fn pattern_bytes(&self) -> u64 {
        let mut bytes = 0_u64;
        self.each(&mut |place| {
            let found = place.limits.as_deref().and_then(|limits| limits.pattern_bytes.as_ref());
            bytes =
                bytes.saturating_add(found.and_then(|found| found.as_ref().ok()).map_or(0, |found| u64::from(*found)));
        });
        bytes
    }

    /// Whether this place or one below has what `is` looks for.
    pub fn any(&self, mut is: impl FnMut(&Schema) -> bool) -> bool {
        let mut found = false;
        self.each(&mut |schema| found = found || is(schema));
        found
    }
}

impl Reader {
    fn schema(&mut self, map: &Map<String, Value>, depth: usize) -> Result<Schema, TooLarge> {
        if depth > DEPTH_MAX {
            return Err(TooLarge::Depth);
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(TooLarge::Nodes);
        }
        let below = depth + 1;
        let given = |key: &str| map.get(key).filter(|value| !value.is_null());
        let rules = given("x-kubernetes-validations").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        Ok(Schema {
            kind: text(map, "type"),
            nullable: flag(map, "nullable"),
            default: given("default").cloned(),
            format: text(map, "format"),
            allowed: given("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            required: texts(map, "required"),
            properties: self.map(map, "properties", below)?,
            additional: self.schema_or_bool(given("additionalProperties"), below)?,
            items: match given("items") {
                Some(Value::Object(item)) => Some(Items::One(Box::new(self.schema(item, below)?))),
                Some(Value::Array(items)) => Some(Items::Many(self.list(items, below)?)),
                _ => None,
            },
            int_or_string: flag(map, "x-kubernetes-int-or-string"),
            embedded_resource: flag(map, "x-kubernetes-embedded-resource"),
            preserve_unknown: given("x-kubernetes-preserve-unknown-fields").and_then(Value::as_bool),
            list_type: given("x-kubernetes-list-type").and_then(Value::as_str).map(Into::into),
            list_map_keys: texts(map, "x-kubernetes-list-map-keys"),
            map_type: given("x-kubernetes-map-type").and_then(Value::as_str).map(Into::into),
            rules: rules.iter().filter_map(Value::as_object).map(rule).collect(),
            limits: self.limits(map)?,
            logic: self.logic(map, below)?,
            words: words(map),
            unsupported: self.unsupported(map, below)?,
        })
    }

    fn map(
        &mut self,
        map: &Map<String, Value>,
        key: &str,
        depth: usize,
    ) -> Result<BTreeMap<Box<str>, Schema>, TooLarge> {
        let entries = map.get(key).and_then(Value::as_object);
        let entries = entries.into_iter().flatten().filter_map(|(name, inner)| Some((name, inner.as_object()?)));
        entries.map(|(name, inner)| Ok((name.as_str().into(), self.schema(inner, depth)?))).collect()
    }

    fn list(&mut self, items: &[Value], depth: usize) -> Result<Vec<Schema>, TooLarge> {
        items.iter().filter_map(Value::as_object).map(|inner| self.schema(inner, depth)).collect()
    }

    fn schema_or_bool(&mut self, value: Option<&Value>, depth: usize) -> Result<Option<SchemaOrBool>, TooLarge> {
        Ok(match value {
            Some(Value::Bool(allows)) => Some(SchemaOrBool::Bool(*allows)),
            Some(Value::Object(inner)) => Some(SchemaOrBool::Schema(Box::new(self.schema(inner, depth)?))),
            _ => None,
        })
    }

    fn limits(&mut self, map: &Map<String, Value>) -> Result<Option<Box<Limits>>, TooLarge> {
        let number = |key: &str| map.get(key).and_then(Value::as_f64);
        let count = |key: &str| map.get(key).and_then(Value::as_i64);
        let pattern = text(map, "pattern");
        let mut limits = Limits {
            maximum: number("maximum"),
            exclusive_maximum: flag(map, "exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: flag(map, "exclusiveMinimum"),
            length_max: count("maxLength"),
            length_min: count("minLength"),
            items_max: count("maxItems"),
            items_min: count("minItems"),
            unique_items: flag(map, "uniqueItems"),
            multiple_of: number("multipleOf"),
            properties_max: count("maxProperties"),
            properties_min: count("minProperties"),
            pattern,
            pattern_bytes: None,
        };
        if limits == Limits::default() {
            return Ok(None);
        }
        if !limits.pattern.is_empty() {
            self.patterns += 1;
            if self.patterns > PATTERNS_MAX {
                return Err(TooLarge::Patterns);
            }
            limits.pattern_bytes = Some(go_regex::weigh(&limits.pattern));
        }
        Ok(Some(Box::new(limits)))
    }

    fn logic(&mut self, map: &Map<String, Value>, depth: usize) -> Result<Option<Box<Logic>>, TooLarge> {
        let mut all = |key: &str| -> Result<Vec<Schema>, TooLarge> {
            let branches = map.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            self.list(branches, depth)
        };
        let (all_of, any_of, one_of) = (all("allOf")?, all("anyOf")?, all("oneOf")?);
        let not = match map.get("not").and_then(Value::as_object) {
            Some(inner) => Some(Box::new(self.schema(inner, depth)?)),
            None => None,
        };
        let is_empty = all_of.is_empty() && any_of.is_empty() && one_of.is_empty() && not.is_none();
        Ok((!is_empty).then(|| Box::new(Logic { all_of, any_of, one_of, not })))
    }

    fn unsupported(&mut self, map: &Map<String, Value>, depth: usize) -> Result<Option<Box<Unsupported>>, TooLarge> {
        const KEYS: [&str; 7] =
            ["id", "$schema", "$ref", "patternProperties", "dependencies", "additionalItems", "definitions"];
        if KEYS.iter().all(|key| map.get(*key).is_none_or(Value::is_null)) {
            return Ok(None);
        }
        let dependencies = match map.get("dependencies").and_then(Value::as_object) {
            None => None,
            Some(entries) => {
                let mut dependencies = BTreeMap::new();
                for (name, inner) in entries {
                    let dependency = match inner {
                        Value::Object(inner) => Dependency::Schema(Box::new(self.schema(inner, depth)?)),
                        other => {
                            let names = other.as_array().into_iter().flatten().filter_map(Value::as_str);
                            Dependency::Property(names.map(Into::into).collect())
                        }
                    };
                    dependencies.insert(name.as_str().into(), dependency);
                }
                Some(dependencies)
            }
        };
        Ok(Some(Box::new(Unsupported {
            id: text(map, "id"),
            schema: text(map, "$schema"),
            reference: map.get("$ref").and_then(Value::as_str).map(Into::into),
            pattern_properties: self.map(map, "patternProperties", depth)?,
            dependencies,
            additional_items: self.schema_or_bool(map.get("additionalItems"), depth)?,
            definitions: self.map(map, "definitions", depth)?,
        })))
    }
}

fn rule(map: &Map<String, Value>) -> Rule {
    Rule {
        rule: text(map, "rule"),
        message: text(map, "message"),
        message_expression: text(map, "messageExpression"),
        reason: map.get("reason").and_then(Value::as_str).map(Into::into),
        field_path: text(map, "fieldPath"),
        optional_old_self: map.get("optionalOldSelf").and_then(Value::as_bool),
    }
}

fn words(map: &Map<String, Value>) -> Option<Box<Words>> {
    let words = Words {
        description: text(map, "description"),
        title: text(map, "title"),
        external_docs: map.get("externalDocs").filter(|docs| docs.is_object()).cloned(),
        example: map.get("example").filter(|example| !example.is_null()).cloned(),
    };
    let is_empty = words.description.is_empty()
        && words.title.is_empty()
        && words.external_docs.is_none()
        && words.example.is_none();
    (!is_empty).then(|| Box::new(words))
}

fn text(map: &Map<String, Value>, key: &str) -> Box<str> {
    map.get(key).and_then(Value::as_str).unwrap_or_default().into()
}

fn texts(map: &Map<String, Value>, key: &str) -> Vec<Box<str>> {
    let items = map.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(Value::as_str).map(Into::into).collect()
}

fn flag(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key) == Some(&Value::Bool(true))
}
