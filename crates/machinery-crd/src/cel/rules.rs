//! The rules of a schema, run over objects.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{
    Compiled, compile, declare_place,
    eval::{EvalError, Run},
    value::{Val, from_json},
};
use crate::{
    FieldError, FieldErrorReason,
    bounded::{PATH_BYTES_MAX, cut},
    definition::resolve_field_path,
    field_error::{ERRORS_MAX, quoted_value},
    schema::{Rule, Schema},
    structural::MapList,
};

/// What one run may cost, and all the rules for one object.
const CALL_COST_MAX: u64 = 1_000_000;
const BUDGET: u64 = 10_000_000;
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// The compiled rules of a place and of those below it; places without rules have none.
#[derive(Debug)]
pub(crate) struct Validator {
    rules: Vec<(Compiled, String)>,
    is_resource: bool,
    item: Option<Box<Validator>>,
    additional: Option<Box<Validator>>,
    properties: BTreeMap<Box<str>, Validator>,
}

impl Validator {
    /// Compiles the rules; those that are wrong are left out, for the definition was accepted without them.
    pub fn new(schema: &Schema, is_root: bool) -> Option<Self> {
        if !schema.any(|place| !place.rules.is_empty()) {
            return None;
        }
        let below = |schema: &Schema| Self::new(schema, false);
        let properties = schema.properties.iter();
        let is_resource = is_root || schema.embedded_resource;
        let decl = if schema.rules.is_empty() { None } else { declare_place(schema, is_root) };
        let read = |rule: &Rule| {
            let field_path = resolve_field_path(&rule.field_path, schema, true).map(|(path, _)| path);
            Some((compile(rule, decl.as_ref()?).ok()?, field_path.unwrap_or_default()))
        };
        let rules = schema.rules.iter().map(read);
        let is_complete = rules.clone().all(|read| read.is_some());
        let made = Self {
            // Which rule it is, is known by its place.
            rules: if is_complete { rules.flatten().collect() } else { Vec::new() },
            is_resource,
            item: schema.item().and_then(below).map(Box::new),
            additional: schema.additional_schema().and_then(below).map(Box::new),
            properties: properties.filter_map(|(name, inner)| Some((name.clone(), below(inner)?))).collect(),
        };
        let is_empty =
            made.rules.is_empty() && made.item.is_none() && made.additional.is_none() && made.properties.is_empty();
        (!is_empty).then_some(made)
    }

    /// Checks a value, and with it what it replaces. What was wrong before and has not changed is not an error.
    pub fn validate(
        &self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        ratchets: bool,
    ) -> Vec<FieldError> {
        let mut walk = Walk { budget: BUDGET, is_spent: false, ratchets, errors: Vec::new() };
        walk.place(self, schema, value, old, path);
        walk.errors
    }
}

struct Walk {
    budget: u64,
    is_spent: bool,
    ratchets: bool,
    errors: Vec<FieldError>,
}

/// A rule at its place.
struct Applied<'a> {
    compiled: &'a Compiled,
    field_path: &'a str,
    rule: &'a Rule,
    schema: &'a Schema,
    is_resource: bool,
}

impl Walk {
    fn place(&mut self, validator: &Validator, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) {
        // A value that may be null and is, is not there.
        if value.is_null() || self.is_spent || self.errors.len() >= ERRORS_MAX {
            return;
        }
        let old = old.filter(|old| !old.is_null());
        let path = cut(path, PATH_BYTES_MAX);
        for ((compiled, field_path), rule) in validator.rules.iter().zip(&schema.rules) {
            self.rule(
                &Applied { compiled, field_path, rule, schema, is_resource: validator.is_resource },
                value,
                old,
                path,
            );
            if self.is_spent {
                return;
            }
        }
        match value {
            Value::Array(items) => {
                let (Some(below), Some(item_schema)) = (&validator.item, schema.item()) else { return };
                let before = MapList::new(schema, old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice));
                for (at, item) in items.iter().enumerate() {
                    self.place(below, item_schema, item, before.get(schema, item), &format!("{path}[{at}]"));
                }
            }
            Value::Object(map) => {
                let correlates = schema.map_type.as_deref() != Some("atomic");
                let old = old.filter(|_| correlates);
                let before = |name: &str| old.and_then(|old| old.get(name));
                if let (Some(below), Some(inner)) = (&validator.additional, schema.additional_schema()) {
                    for (name, value) in map {
                        self.place(below, inner, value, before(name), &format!("{path}[{name}]"));
                    }
                }
                for (name, below) in &validator.properties {
                    let (Some(value), Some(inner)) = (map.get(&**name), schema.properties.get(name)) else { continue };
                    let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
                    self.place(below, inner, value, before(name), &path);
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, applied: &Applied<'_>, value: &Value, old: Option<&Value>, path: &str) {
        let Applied { compiled, field_path, rule, schema, is_resource } = *applied;
        let uses_old = compiled.rule.uses_old_self;
        let own = |value| from_json(value, schema, is_resource);
        let old_value = match (rule.optional_old_self == Some(true), old) {
            (true, old) => Some(Val::Optional(old.map(|old| Arc::new(own(old))))),
            (false, Some(old)) => Some(own(old)),
            // A rule about a change has nothing to say of what is new.
            (false, None) if uses_old => return,
            (false, None) => None,
        };
        let mut run = Run::new(&compiled.rule, own(value), old_value.clone(), CALL_COST_MAX);
        let result = run.value();
        let is_spent = !self.spend(run.cost);
        let schema_type = Value::from(&*schema.kind);
        if is_spent {
            let detail = "validation failed due to running out of cost budget, no further validation rules will be run";
            self.errors.push(FieldError::invalid(path, &schema_type, detail));
            self.is_spent = true;
            return;
        }
        let named = match rule.message.trim() {
            "" => rule.rule.trim(),
            message => message,
        };
        match result {
            Ok(Val::Bool(true)) => {}
            Ok(Val::Bool(false)) => {
                let is_unchanged = self.ratchets && old == Some(value) && !uses_old;
                if is_unchanged {
                    return;
                }
                let detail = match self.message(compiled, own(value), old_value) {
                    Some(message) => message,
                    None => match rule.message.trim() {
                        "" => format!("failed rule: {}", rule.rule.trim()),
                        message => message.to_owned(),
                    },
                };
                let path = match (path, field_path) {
                    (path, "") => path.to_owned(),
                    ("", field) => field.to_owned(),
                    (path, field) => format!("{path}.{field}"),
                };
                self.errors.push(failure(path, rule.reason.as_deref(), schema, value, &detail));
            }
            Ok(_) => self.evaluation(path, &schema_type, &EvalError::no_overload(), named),
            Err(error) => self.evaluation(path, &schema_type, &error, named),
        }
    }

    fn spend(&mut self, cost: u64) -> bool {
        match self.budget.checked_sub(cost) {
            Some(left) => {
                self.budget = left;
                true
            }
            None => false,
        }
    }

    /// A rule that has no result.
    fn evaluation(&mut self, path: &str, schema_type: &Value, error: &EvalError, named: &str) {
        let text = &error.0;
        let detail = if text.starts_with("no such overload") {
            format!(
                "'{text}': call arguments did not match a supported operator, function or macro signature for rule: {named}"
            )
        } else if text.starts_with("operation cancelled: actual cost limit exceeded") {
            self.is_spent = true;
            format!(
                "'{text}': no further validation rules will be run due to call cost exceeds limit for rule: {named}"
            )
        } else {
            format!("{text} evaluating rule: {named}")
        };
        self.errors.push(FieldError::invalid(path, schema_type, detail));
    }

    /// What `messageExpression` says; nothing when it fails or says what no message may be.
    fn message<'v>(&mut self, compiled: &Compiled, own: Val<'v>, old: Option<Val<'v>>) -> Option<String> {
        let message = compiled.message.as_ref()?.as_ref().ok()?;
        let mut run = Run::new(&message.expression, own, old, CALL_COST_MAX);
        let found = run.value();
        if !self.spend(run.cost) {
            self.budget = 0;
            return None;
        }
        let Ok(Val::Text(text)) = found else { return None };
        let text = text.trim();
        let is_usable = !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n');
        is_usable.then(|| text.to_owned())
    }
}

fn failure(path: String, reason: Option<&str>, schema: &Schema, value: &Value, detail: &str) -> FieldError {
    let is_large = matches!(&*schema.kind, "object" | "array");
    match reason {
        Some("FieldValueForbidden") => FieldError::forbidden(path, detail),
        Some("FieldValueRequired") => FieldError::required(path, detail),
        Some("FieldValueDuplicate") => {
            // The message is not shown for this reason.
            let message = if is_large {
                "Duplicate value".to_owned()
            } else {
                format!("Duplicate value: {}", quoted_value(value))
            };
            FieldError { path, reason: FieldErrorReason::Duplicate, message }
        }
        _ if is_large => {
            FieldError { path, reason: FieldErrorReason::Invalid, message: format!("Invalid value: {detail}") }
        }
        _ => FieldError::invalid(path, value, detail),
    }
}
