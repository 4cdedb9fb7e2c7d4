//! Whether a value fits its schema, in upstream's words.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::{Duplicates, Items};
use crate::fields::PathElement;
use crate::go;
use crate::schema::{ApplySchema, Form, ListType, ScalarType, field_of, form};

/// Beyond this many mistakes nobody reads on, and the response would grow without bound.
const ERRORS_MAX: usize = 64;

/// Everything about a value that does not fit its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationErrors(Vec<(String, String)>);

impl fmt::Display for ValidationErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |(path, message): &(String, String)| {
            if path.is_empty() { message.clone() } else { format!("{path}: {message}") }
        };
        match self.0.as_slice() {
            [one] => f.write_str(&line(one)),
            many => {
                f.write_str("errors:")?;
                many.iter().try_for_each(|error| write!(f, "\n  {}", line(error)))
            }
        }
    }
}

impl std::error::Error for ValidationErrors {}

pub(super) fn validate<S: ApplySchema>(
    value: &Value,
    schema: S,
    duplicates: Duplicates,
) -> Result<(), ValidationErrors> {
    let mut walk = Walk { errors: Vec::new(), path: Vec::new(), duplicates };
    walk.visit(value, Some(schema));
    if walk.errors.is_empty() { Ok(()) } else { Err(ValidationErrors(walk.errors)) }
}

struct Walk {
    errors: Vec<(String, String)>,
    path: Vec<PathElement>,
    duplicates: Duplicates,
}

impl Walk {
    fn report(&mut self, message: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push((crate::fields::path_text(&self.path), message));
        }
    }

    fn below<S: ApplySchema>(&mut self, element: PathElement, value: &Value, schema: Option<S>) {
        self.path.push(element);
        self.visit(value, schema);
        self.path.pop();
    }

    fn visit<S: ApplySchema>(&mut self, value: &Value, schema: Option<S>) {
        let Some(here) = schema else { return self.report("schema error: invalid atom: inlined".to_owned()) };
        match (form(schema, Some(value)), value) {
            (_, Value::Null) => {}
            (Form::Map(_), Value::Object(map)) => {
                for (key, value) in map {
                    let field = field_of(here, key);
                    if field.is_none() {
                        self.path.push(PathElement::field(key));
                        self.report("field not declared in schema".to_owned());
                        self.path.pop();
                        return;
                    }
                    self.below(PathElement::field(key), value, field);
                }
            }
            (Form::List(list), Value::Array(items)) => self.visit_items(items, here, list),
            (Form::Scalar(scalar), value) => {
                if let Some(message) = misfit(scalar, value) {
                    self.report(message);
                }
            }
            (Form::Map(_), other) => self.report(format!("expected map, got &{{{}}}", go::plain(other))),
            (Form::List(_), other) => self.report(format!("expected list, got &{{{}}}", go::plain(other))),
            (Form::Unknown, _) => self.report("schema error: invalid atom: inlined".to_owned()),
        }
    }

    fn visit_items<S: ApplySchema>(&mut self, items: &[Value], schema: S, list: ListType) {
        let Some(named) = Items::of(schema, list) else {
            for (index, item) in (0_i64..).zip(items) {
                self.below(PathElement::Index(index), item, Some(schema.item()));
            }
            return;
        };
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let element = match named.element(item) {
                Ok(element) => element,
                Err(why) => return self.report(format!("element {index}: {why}")),
            };
            if !seen.insert(element.clone()) && self.duplicates == Duplicates::Rejected {
                self.report(format!("duplicate entries for key {element}"));
            }
            self.below(element, item, Some(named.item()));
        }
    }
}

/// What is wrong with a plain value; null fits every type.
fn misfit(scalar: ScalarType, value: &Value) -> Option<String> {
    let fits = match scalar {
        ScalarType::Numeric => value.is_number(),
        ScalarType::String => value.is_string(),
        ScalarType::Boolean => value.is_boolean(),
        ScalarType::Untyped => !value.is_array() && !value.is_object(),
    };
    if fits {
        return None;
    }
    Some(match scalar {
        ScalarType::Numeric => format!("expected numeric (int or float), got {}", go::type_name(value)),
        ScalarType::String => format!("expected string, got &value.valueUnstructured{{Value:{}}}", go::source(value)),
        ScalarType::Boolean => format!("expected boolean, got &{{{}}}", go::plain(value)),
        ScalarType::Untyped => format!("expected any scalar, got &{{{}}}", go::plain(value)),
    })
}
