//! JSON patch, RFC 6902, on JSON pointers, RFC 6901.
//!
//! **Invariant:** before and after every operation the document nests at most [`DEPTH_MAX`] levels. A `copy` of a value into
//! its own deepest place doubles the depth: seventeen of them make 65,000 levels out of a few hundred bytes, and whatever
//! then walks the document (a copy, a drop, the encoder) ends the process for want of stack. So the depth is checked
//! where a value is put, not at the end.

use machinery_schema::Budget;
use serde_json::{Map, Value};

use crate::{COPIED_BYTES_MAX, DEPTH_MAX, OPERATIONS_MAX, PatchError, walk};

/// List items that are moved up or down in the time of one step: they are a few machine words each, and lie side by side.
const SHIFTED_ITEMS_PER_STEP: usize = 16;

/// Applies operations one after the other; when one fails, none holds.
///
/// As in the reference implementation, a `test` for null also holds where nothing is.
///
/// ```
/// use serde_json::json;
/// let patch = json!([{"op": "test", "path": "/a", "value": 1}, {"op": "add", "path": "/b/-", "value": 3}]);
/// assert_eq!(machinery_merge::json_patch(&json!({"a": 1, "b": [2]}), &patch), Ok(json!({"a": 1, "b": [2, 3]})));
/// ```
///
/// # Errors
/// [`PatchError::Malformed`] for what is not a list of operations, [`PatchError::TooLarge`] and [`PatchError::TooDeep`]
/// past the bounds of this crate, [`PatchError::NoSuchPlace`] and [`PatchError::TestFailed`] when the document is not as the patch expects.
pub fn json_patch(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    json_patch_within(document, patch, &mut Budget::of_request())
}

/// The same on the budget of a request.
///
/// # Errors
/// As [`json_patch`]; [`PatchError::TooLarge`] also when the budget does not last.
pub fn json_patch_within(document: &Value, patch: &Value, budget: &mut Budget) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::malformed("", "a JSON patch is a list of operations"));
    };
    if operations.len() > OPERATIONS_MAX {
        let why =
            format!("the allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}", operations.len());
        return Err(PatchError::TooLarge { why });
    }
    walk::check_whole(patch, budget)?;
    walk::check_whole(document, budget)?;
    let mut run = Run { document: document.clone(), copied_bytes: 0, budget };
    for (number, operation) in operations.iter().enumerate() {
        run.apply(operation, number)?;
    }
    Ok(run.document)
}

/// A patch on its way: the document as the operations so far have left it.
struct Run<'b> {
    document: Value,
    copied_bytes: usize,
    budget: &'b mut Budget,
}

impl Run<'_> {
    fn apply(&mut self, operation: &Value, number: usize) -> Result<(), PatchError> {
        let text = |key: &str| {
            let place = format!("/{number}/{key}");
            match operation.get(key) {
                Some(Value::String(text)) => Ok(text.as_str()),
                Some(_) => Err(PatchError::malformed(place, "must be text")),
                None => Err(PatchError::malformed(place, "is missing")),
            }
        };
        let pointer = |key: &str| {
            let text = text(key)?;
            Pointer::parse(text)
                .ok_or_else(|| PatchError::malformed(format!("/{number}/{key}"), "must be empty or begin with /"))
        };
        let value = || {
            let value = operation.get("value");
            value.ok_or_else(|| PatchError::malformed(format!("/{number}/value"), "is missing"))
        };
        let path = pointer("path")?;
        match text("op")? {
            "add" => {
                self.check_fits(&path, value()?)?;
                self.put(&path, value()?.clone())
            }
            "remove" => self.take(&path).map(drop),
            "replace" => {
                self.check_fits(&path, value()?)?;
                *path.find_mut(&mut self.document)? = value()?.clone();
                Ok(())
            }
            "move" => {
                let from = pointer("from")?;
                if path.is_below(&from) {
                    return Err(PatchError::malformed(format!("/{number}/path"), "a value cannot move into itself"));
                }
                // On its way up, or on its level, a value cannot become too deep, and need not be walked.
                if path.depth() > from.depth() {
                    let value = from.find(&self.document)?;
                    walk::check(value, levels_left(&path)?, self.budget)?;
                }
                let value = self.take(&from)?;
                self.put(&path, value)
            }
            "copy" => {
                let value = pointer("from")?.find(&self.document)?;
                walk::check(value, levels_left(&path)?, self.budget)?;
                self.copied_bytes = self.copied_bytes.saturating_add(walk::text_bytes(value));
                if self.copied_bytes > COPIED_BYTES_MAX {
                    return Err(PatchError::TooLarge { why: format!("its copies exceed {COPIED_BYTES_MAX} bytes") });
                }
                let value = value.clone();
                self.put(&path, value)
            }
            "test" => {
                let expected = value()?;
                let holds = match path.find(&self.document) {
                    Ok(found) => equal(found, expected),
                    Err(_) => expected.is_null(),
                };
                if holds { Ok(()) } else { Err(PatchError::TestFailed { path: crate::shown(path.to_string()) }) }
            }
            other => {
                let why = format!("{other:?} is no operation; use add, remove, replace, move, copy or test");
                Err(PatchError::malformed(format!("/{number}/op"), why))
            }
        }
    }

    /// Rejects a value that would nest too deep at this place.
    fn check_fits(&mut self, path: &Pointer, value: &Value) -> Result<(), PatchError> {
        walk::check(value, levels_left(path)?, self.budget)
    }

    fn put(&mut self, path: &Pointer, value: Value) -> Result<(), PatchError> {
        let shifted = path.add(&mut self.document, value)?;
        Ok(self.budget.spend_items(1 + shifted / SHIFTED_ITEMS_PER_STEP)?)
    }

    fn take(&mut self, path: &Pointer) -> Result<Value, PatchError> {
        let (value, shifted) = path.remove(&mut self.document)?;
        self.budget.spend_items(1 + shifted / SHIFTED_ITEMS_PER_STEP)?;
        Ok(value)
    }
}

/// How many levels a value may have at this place.
fn levels_left(path: &Pointer) -> Result<usize, PatchError> {
    DEPTH_MAX.checked_sub(path.depth()).ok_or(PatchError::TooDeep)
}

/// A parsed JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pointer {
    tokens: Vec<String>,
}

impl Pointer {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self { tokens: Vec::new() });
        }
        let tokens = text.strip_prefix('/')?.split('/');
        Some(Self { tokens: tokens.map(|token| token.replace("~1", "/").replace("~0", "~")).collect() })
    }

    fn is_below(&self, other: &Self) -> bool {
        self.tokens.len() > other.tokens.len() && self.tokens.starts_with(&other.tokens)
    }

    /// How many levels below the document's top the value is.
    fn depth(&self) -> usize {
        self.tokens.len()
    }

    fn find<'d>(&self, document: &'d Value) -> Result<&'d Value, PatchError> {
        let mut value = document;
        for (position, token) in self.tokens.iter().enumerate() {
            let next = match value {
                Value::Object(map) => map.get(token),
                Value::Array(items) => index(token).and_then(|index| items.get(index)),
                _ => None,
            };
            value = next.ok_or_else(|| self.missing(position + 1, "there is nothing"))?;
        }
        Ok(value)
    }

    fn find_mut<'d>(&self, document: &'d mut Value) -> Result<&'d mut Value, PatchError> {
        self.follow(document, self.tokens.len())
    }

    /// The value that the first `count` tokens lead to.
    fn follow<'d>(&self, document: &'d mut Value, count: usize) -> Result<&'d mut Value, PatchError> {
        let mut value = document;
        for (position, token) in self.tokens[..count].iter().enumerate() {
            let next = match value {
                Value::Object(map) => map.get_mut(token),
                Value::Array(items) => index(token).and_then(|index| items.get_mut(index)),
                _ => None,
            };
            value = next.ok_or_else(|| self.missing(position + 1, "there is nothing"))?;
        }
        Ok(value)
    }

    /// Puts a value in; returns how many list items made way for it.
    fn add(&self, document: &mut Value, value: Value) -> Result<usize, PatchError> {
        let Some((last, parents)) = self.tokens.split_last() else {
            *document = value;
            return Ok(0);
        };
        match self.follow(document, parents.len())? {
            Value::Object(map) => {
                map.insert(last.clone(), value);
                Ok(0)
            }
            Value::Array(items) => {
                let position = if last == "-" { Some(items.len()) } else { index(last) };
                match position.filter(|position| *position <= items.len()) {
                    Some(position) => {
                        items.insert(position, value);
                        Ok(items.len() - position)
                    }
                    None => Err(self.missing(self.tokens.len(), &format!("the list has {} items", items.len()))),
                }
            }
            _ => Err(self.missing(parents.len(), "there is neither an object nor a list")),
        }
    }

    /// Takes a value out; returns it, and how many list items closed the gap.
    fn remove(&self, document: &mut Value) -> Result<(Value, usize), PatchError> {
        let Some((last, parents)) = self.tokens.split_last() else {
            return Ok((std::mem::replace(document, Value::Object(Map::new())), 0));
        };
        let removed = match self.follow(document, parents.len())? {
            Value::Object(map) => map.remove(last).map(|value| (value, 0)),
            Value::Array(items) => {
                index(last).filter(|index| *index < items.len()).map(|index| (items.remove(index), items.len() - index))
            }
            _ => None,
        };
        removed.ok_or_else(|| self.missing(self.tokens.len(), "there is nothing to remove"))
    }

    fn missing(&self, count: usize, why: &str) -> PatchError {
        let path = Self { tokens: self.tokens[..count].to_vec() }.to_string();
        PatchError::NoSuchPlace { path: crate::shown(path), why: why.to_owned() }
    }
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.tokens.iter().try_for_each(|token| write!(f, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

/// List positions have no sign and no leading zeros.
fn index(token: &str) -> Option<usize> {
    let is_plain = token.bytes().all(|byte| byte.is_ascii_digit()) && (token == "0" || !token.starts_with('0'));
    if is_plain { token.parse().ok() } else { None }
}

/// Numbers are equal when their values are: 1 and 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || ((x.is_f64() || y.is_f64()) && x.as_f64() == y.as_f64()),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, value)| y.get(key).is_some_and(|other| equal(value, other)))
        }
        _ => a == b,
    }
}
