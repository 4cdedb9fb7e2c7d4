//! Checks values against a schema as OpenAPI means it, with the messages of the reference implementation.
//!
//! Its validator counts how many checks of a schema passed: of several alternatives (`anyOf`, `oneOf`) that all fail, the
//! errors of the one that came closest are shown. So the count is kept here, too.

mod numbers;
mod object;

use std::{collections::HashSet, ptr};

use serde_json::Value;

use super::formats;
use crate::{
    Budget, DEPTH_MAX, FieldError,
    bounded::{PATH_BYTES_MAX, push_bounded},
    field_error::ERRORS_MAX,
    go, go_regex,
    schema::{Limits, Schema},
};

/// Which of two conversions of the schema the check follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// For objects: `x-kubernetes-int-or-string` is a type, formats that do not belong to the type say nothing.
    Resource,
    /// For defaults in definitions: types and formats count as they are written.
    Default,
}

/// What an error costs to write, beside the check that found it.
const STEPS_PER_ERROR: usize = 8;

/// One mistake. Its text distinguishes it from others: the same one is reported once.
#[derive(Debug)]
struct ValueError {
    text: String,
    name: Option<String>,
    what: What,
}

#[derive(Debug)]
enum What {
    Required,
    NotSupported { value: Value, supported: Vec<String> },
    TooLong { max: i64 },
    TooMany { found: i64, max: i64 },
    Type { value: Value },
    Invalid { value: Value },
}

/// What the check of one schema has found.
#[derive(Debug, Default)]
struct Outcome {
    errors: Vec<ValueError>,
    seen: HashSet<String>,
    passed: u64,
}

impl Outcome {
    fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }

    fn add(&mut self, error: ValueError) {
        if self.errors.len() < ERRORS_MAX && self.seen.insert(error.text.clone()) {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Self) {
        other.errors.into_iter().for_each(|error| self.add(error));
        self.passed += other.passed;
    }
}

impl ValueError {
    fn invalid(name: &str, value: &Value, text: String) -> Self {
        Self { text, name: Some(name.to_owned()), what: What::Invalid { value: value.clone() } }
    }

    fn wrong_type(name: &str, expected: &str, found: &str) -> Self {
        let text = format!("{name} in body must be of type {expected}: {}", go::quoted(found));
        Self { text, name: Some(name.to_owned()), what: What::Type { value: found.into() } }
    }

    /// An error about the whole, which names no field.
    fn composite(text: String) -> Self {
        Self { text, name: None, what: What::Invalid { value: "".into() } }
    }

    fn into_field_error(self, root: &str) -> FieldError {
        let name = self.name.as_deref().unwrap_or_default();
        let below = name.strip_prefix('.').unwrap_or(name);
        let path = match (root, below) {
            ("", "") => "<nil>".to_owned(),
            (root, "") => root.to_owned(),
            ("", below) => below.to_owned(),
            (root, below) => format!("{root}.{below}"),
        };
        match self.what {
            What::Required => FieldError::required(path, ""),
            What::NotSupported { value, supported } => {
                let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
                FieldError::not_supported(path, &value, &supported)
            }
            What::TooLong { max } => FieldError::too_long(path, usize::try_from(max).unwrap_or(0)),
            What::TooMany { found, max } => {
                let count = |count: i64| usize::try_from(count).unwrap_or(0);
                FieldError::too_many(path, count(found), count(max))
            }
            What::Type { value } => FieldError::type_invalid(path, &value, self.text),
            What::Invalid { value } => FieldError::invalid(path, &value, self.text),
        }
    }
}

/// Checks a value. Each schema that applies to a value is one step: a schema may combine thousands of others, a list may
/// have a hundred thousand items, and the two together are one request. What equals its old self is not complained about.
pub(crate) fn check_values(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    root: &str,
    mode: Mode,
    budget: &mut Budget,
) -> Vec<FieldError> {
    let mut checker = Checker { mode, budget, path: String::new(), compiled: HashSet::new() };
    let outcome = checker.check_against_old(schema, value, old, 0);
    let mut errors: Vec<FieldError> = outcome.errors.into_iter().map(|error| error.into_field_error(root)).collect();
    if let Err(error) = budget.spend(0) {
        let detail = format!("it is too large to be checked against its schema: {error}");
        errors.insert(0, FieldError::forbidden(root, detail));
    }
    errors
}

struct Checker<'b> {
    mode: Mode,
    budget: &'b mut Budget,
    path: String,
    /// Places whose patterns were paid for.
    compiled: HashSet<*const Limits>,
}

impl Checker<'_> {
    /// Pays for work; `false` when it must not be done. The budget stays spent, so that everything after ends at once.
    fn may_spend(&mut self, steps: usize) -> bool {
        self.budget.spend_items(steps).is_ok()
    }

    /// The type names of a schema: none, one, or two.
    fn types<'s>(&self, schema: &'s Schema) -> &'s [&'s str] {
        const INT_OR_STRING: &[&str] = &["integer", "string"];
        match &*schema.kind {
            _ if schema.int_or_string && self.mode == Mode::Resource => INT_OR_STRING,
            "object" => &["object"],
            "array" => &["array"],
            "string" => &["string"],
            "integer" => &["integer"],
            "number" => &["number"],
            "boolean" => &["boolean"],
            _ => &[],
        }
    }

    fn format<'s>(&self, schema: &'s Schema) -> &'s str {
        let types = self.types(schema);
        let counts = match self.mode {
            Mode::Default => true,
            Mode::Resource if types.len() > 1 => formats::is_supported("", &schema.format),
            Mode::Resource => formats::is_supported(types.first().copied().unwrap_or_default(), &schema.format),
        };
        if counts { &schema.format } else { "" }
    }

    /// The check of a value that may have an old self: errors do not count when nothing has changed.
    fn check_against_old(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, depth: usize) -> Outcome {
        let outcome = self.check(schema, value, old, depth);
        if !outcome.is_valid() && old == Some(value) {
            return Outcome { passed: outcome.passed, ..Outcome::default() };
        }
        outcome
    }

    fn check(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, depth: usize) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.may_spend(1 + schema.required.len()) {
            return outcome;
        }
        if depth > DEPTH_MAX {
            outcome.add(ValueError::composite(format!("nested deeper than {DEPTH_MAX} levels")));
            return outcome;
        }
        let types = self.types(schema);
        let format = self.format(schema);
        if value.is_null() {
            outcome.passed += 1;
            if !types.is_empty() && !schema.nullable {
                outcome.add(ValueError::wrong_type(&self.path, &types.join(","), "null"));
            }
            self.check_enum(schema, value, &mut outcome);
            return outcome;
        }
        if !types.is_empty() || !format.is_empty() {
            self.check_type(types, format, value, &mut outcome);
            outcome.passed += 1;
        }
        if schema.logic.is_some() {
            let combined = self.check_logic(schema, value, old, depth);
            outcome.merge(combined);
        }
        outcome.passed += 1;
        let none = Limits::default();
        let limits = schema.limits.as_deref().unwrap_or(&none);
        match value {
            Value::String(text) => {
                self.check_text(limits, text, value, &mut outcome);
                outcome.passed += 1;
                if formats::is_known(format) {
                    if !formats::validates(format, text) {
                        outcome.add(ValueError::wrong_type(&self.path, format, text));
                    }
                    outcome.passed += 1;
                }
            }
            Value::Number(number) => {
                numbers::check(limits, types, format, number, &self.path, &mut outcome);
                outcome.passed += 1;
            }
            Value::Array(items) => {
                self.check_items(schema, limits, items, old, &mut outcome, depth);
                outcome.passed += 1;
            }
            _ => {}
        }
        self.check_enum(schema, value, &mut outcome);
        outcome.passed += 1;
        if let Value::Object(map) = value {
            self.check_object(schema, limits, map, old, &mut outcome, depth);
            outcome.passed += 1;
        }
        outcome.passed += 1;
        let found = outcome.errors.len();
        self.may_spend(found * STEPS_PER_ERROR);
        outcome
    }

    fn check_type(&self, types: &[&str], format: &str, value: &Value, outcome: &mut Outcome) {
        outcome.passed += 1;
        let (found, found_format) = match value {
            Value::Null => ("null", ""),
            Value::Bool(_) => ("boolean", ""),
            Value::Number(number) if number.is_i64() => ("integer", "int64"),
            Value::Number(_) => ("number", "float64"),
            Value::String(_) => ("string", ""),
            Value::Array(_) => ("array", ""),
            Value::Object(_) => ("object", ""),
        };
        let has = |name: &str| types.contains(&name);
        let is_sequence = value.is_string() || value.is_array();
        let is_whole_float =
            found == "number" && has("integer") && value.as_f64().is_some_and(numbers::is_json_integer);
        let is_int_for_number = found == "integer" && has("number");
        let fits = has(found) || is_whole_float || is_int_for_number;
        if !is_sequence && !format.is_empty() && !fits && format != found_format {
            outcome.add(ValueError::wrong_type(&self.path, format, found_format));
        } else if is_sequence && !(has("number") || has("integer") || format.is_empty()) {
            // A format says that it is text, and the check of the format says which.
        } else if !fits {
            outcome.add(ValueError::wrong_type(&self.path, &types.join(","), found));
        }
    }

    fn check_enum(&mut self, schema: &Schema, value: &Value, outcome: &mut Outcome) {
        if schema.allowed.is_empty() || !self.may_spend(schema.allowed.len()) {
            return;
        }
        if schema.allowed.iter().any(|allowed| !allowed.is_null() && numbers::equals(value, allowed)) {
            return;
        }
        let shown = |allowed: &Value| allowed.as_str().map_or_else(|| go::json(allowed), str::to_owned);
        let supported: Vec<String> = schema.allowed.iter().map(shown).collect();
        let text = format!("{} in body should be one of [{}]", self.path, supported.join(" "));
        let what = What::NotSupported { value: value.clone(), supported };
        outcome.add(ValueError { text, name: Some(self.path.clone()), what });
    }

    /// The first of length and pattern that does not fit.
    fn check_text(&mut self, limits: &Limits, text: &str, value: &Value, outcome: &mut Outcome) {
        let path = &self.path;
        let chars = || i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(max) = limits.length_max.filter(|max| chars() > *max) {
            let text = format!("{path} in body should be at most {max} chars long");
            outcome.add(ValueError { text, name: Some(path.clone()), what: What::TooLong { max } });
        } else if let Some(min) = limits.length_min.filter(|min| chars() < *min) {
            let text = format!("{path} in body should be at least {min} chars long");
            outcome.add(ValueError::invalid(path, value, text));
        } else if let Some(read) = &limits.pattern_bytes {
            let program = match read {
                Ok(bytes) => {
                    let Some(program) = self.program(limits, *bytes, text) else { return };
                    program
                }
                Err(error) => Err(error.as_str().into()),
            };
            let detail = match program {
                Ok(regex) if regex.is_match(text) => None,
                Ok(_) => Some(limits.pattern.to_string()),
                Err(error) => Some(format!("{}, but pattern is invalid: {error}", limits.pattern)),
            };
            if let Some(detail) = detail {
                let text = format!("{} in body should match '{detail}'", self.path);
                outcome.add(ValueError::invalid(&self.path, value, text));
            }
        }
    }

    /// The pattern, ready for a text; nothing when the budget does not last. It is paid for where it is first met, whether
    /// or not somebody else has had it compiled before: the same object has the same answer. Who meets more patterns
    /// than are kept pays for each one that is compiled again.
    fn program(&mut self, limits: &Limits, bytes: u32, text: &str) -> Option<go_regex::Program> {
        let is_first = self.compiled.insert(ptr::from_ref(limits));
        if !self.may_spend(go_regex::match_steps(bytes, text)) {
            return None;
        }
        if (is_first || !go_regex::is_compiled(&limits.pattern)) && !self.may_spend(go_regex::compile_steps(bytes)) {
            return None;
        }
        Some(go_regex::program(&limits.pattern, bytes))
    }

    fn check_logic(&mut self, schema: &Schema, value: &Value, old: Option<&Value>, depth: usize) -> Outcome {
        let mut whole = Outcome::default();
        let quoted = go::quoted(&self.path);
        if !schema.any_of().is_empty() {
            let mut best: Option<Outcome> = None;
            let mut first_success = None;
            for branch in schema.any_of() {
                let outcome = self.check(branch, value, old, depth + 1);
                if outcome.is_valid() {
                    first_success = Some(outcome);
                    break;
                }
                if best.as_ref().is_none_or(|best| outcome.passed > best.passed) {
                    best = Some(outcome);
                }
            }
            if first_success.is_none() {
                whole.add(ValueError::composite(format!("{quoted} must validate at least one schema (anyOf)")));
            }
            if let Some(outcome) = first_success.or(best) {
                whole.merge(outcome);
            }
        }
        if !schema.one_of().is_empty() {
            let mut best: Option<Outcome> = None;
            let mut first_success = None;
            let mut valid = 0;
            for branch in schema.one_of() {
                let outcome = self.check(branch, value, old, depth + 1);
                if outcome.is_valid() {
                    valid += 1;
                    best = None;
                    first_success.get_or_insert(outcome);
                } else if valid == 0 && best.as_ref().is_none_or(|best| outcome.passed > best.passed) {
                    best = Some(outcome);
                }
            }
            if valid == 1 {
                first_success.into_iter().for_each(|outcome| whole.merge(outcome));
            } else {
                let why = match valid {
                    0 => "Found none valid".to_owned(),
                    _ => format!("Found {valid} valid alternatives"),
                };
                let text = format!("{quoted} must validate one and only one schema (oneOf). {why}");
                whole.add(ValueError::composite(text));
                best.into_iter().for_each(|outcome| whole.merge(outcome));
            }
        }
        if !schema.all_of().is_empty() {
            let mut valid = 0;
            for branch in schema.all_of() {
                let outcome = self.check(branch, value, old, depth + 1);
                valid += usize::from(outcome.is_valid());
                whole.merge(outcome);
            }
            if valid != schema.all_of().len() {
                let why = if valid == 0 { ". None validated" } else { "" };
                whole.add(ValueError::composite(format!("{quoted} must validate all the schemas (allOf){why}")));
            }
        }
        if let Some(not) = schema.not()
            && self.check(not, value, old, depth + 1).is_valid()
        {
            whole.add(ValueError::composite(format!("{quoted} must not validate the schema (not)")));
        }
        whole.passed += 1;
        whole
    }

    /// Enters a name below the path; `truncate` to what this returns leaves it.
    fn enter(&mut self, name: &str) -> usize {
        let mark = self.path.len();
        if mark > 0 && mark < PATH_BYTES_MAX {
            self.path.push('.');
        }
        push_bounded(&mut self.path, name);
        mark
    }
}
