//! JSON patch, RFC 6902, on JSON pointers, RFC 6901.

use serde_json::{Map, Value};

use crate::{COPIED_BYTES_MAX, OPERATIONS_MAX, PatchError, check_depth};

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
/// [`PatchError::Malformed`] for what is not a list of operations, [`PatchError::TooLarge`] past the bounds of this
/// crate, [`PatchError::NoSuchPlace`] and [`PatchError::TestFailed`] when the document is not as the patch expects.
pub fn json_patch(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::malformed("", "a JSON patch is a list of operations"));
    };
    if operations.len() > OPERATIONS_MAX {
        let why =
            format!("the allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}", operations.len());
        return Err(PatchError::TooLarge { why });
    }
    check_depth(patch)?;
    let mut patched = document.clone();
    let mut copied_bytes = 0;
    for (number, operation) in operations.iter().enumerate() {
        apply(&mut patched, operation, number, &mut copied_bytes)?;
    }
    // Copies and moves may have nested the document into itself.
    check_depth(&patched)?;
    Ok(patched)
}

fn apply(document: &mut Value, operation: &Value, number: usize, copied_bytes: &mut usize) -> Result<(), PatchError> {
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
        "add" => path.add(document, value()?.clone()),
        "remove" => path.remove(document).map(drop),
        "replace" => {
            *path.find_mut(document)? = value()?.clone();
            Ok(())
        }
        "move" => {
            let from = pointer("from")?;
            if path.is_below(&from) {
                return Err(PatchError::malformed(format!("/{number}/path"), "a value cannot move into itself"));
            }
            let value = from.remove(document)?;
            path.add(document, value)
        }
        "copy" => {
            let value = pointer("from")?.find_mut(document)?.clone();
            *copied_bytes += size(&value);
            if *copied_bytes > COPIED_BYTES_MAX {
                return Err(PatchError::TooLarge { why: format!("its copies exceed {COPIED_BYTES_MAX} bytes") });
            }
            path.add(document, value)
        }
        "test" => {
            let wanted = value()?;
            let holds = match path.find_mut(document) {
                Ok(found) => equal(found, wanted),
                Err(_) => wanted.is_null(),
            };
            if holds { Ok(()) } else { Err(PatchError::TestFailed { path: path.to_string() }) }
        }
        other => {
            let why = format!("{other:?} is no operation; use add, remove, replace, move, copy or test");
            Err(PatchError::malformed(format!("/{number}/op"), why))
        }
    }
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

    fn add(&self, document: &mut Value, value: Value) -> Result<(), PatchError> {
        let Some((last, parents)) = self.tokens.split_last() else {
            *document = value;
            return Ok(());
        };
        match self.follow(document, parents.len())? {
            Value::Object(map) => {
                map.insert(last.clone(), value);
                Ok(())
            }
            Value::Array(items) => {
                let position = if last == "-" { Some(items.len()) } else { index(last) };
                match position.filter(|position| *position <= items.len()) {
                    Some(position) => {
                        items.insert(position, value);
                        Ok(())
                    }
                    None => Err(self.missing(self.tokens.len(), &format!("the list has {} items", items.len()))),
                }
            }
            _ => Err(self.missing(parents.len(), "there is neither an object nor a list")),
        }
    }

    fn remove(&self, document: &mut Value) -> Result<Value, PatchError> {
        let Some((last, parents)) = self.tokens.split_last() else {
            return Ok(std::mem::replace(document, Value::Object(Map::new())));
        };
        let removed = match self.follow(document, parents.len())? {
            Value::Object(map) => map.remove(last),
            Value::Array(items) => index(last).filter(|index| *index < items.len()).map(|index| items.remove(index)),
            _ => None,
        };
        removed.ok_or_else(|| self.missing(self.tokens.len(), "there is nothing to remove"))
    }

    fn missing(&self, count: usize, why: &str) -> PatchError {
        let path = Self { tokens: self.tokens[..count].to_vec() }.to_string();
        PatchError::NoSuchPlace { path, why: why.to_owned() }
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

/// About what a value takes as text.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(key, value)| key.len() + size(value) + 4).sum::<usize>(),
        _ => 8,
    }
}
