//! JSON patch, RFC 6902, on JSON pointers, RFC 6901, as `evanphx/json-patch` reads them.
//!
//! **Invariant:** before and after every operation the document nests at most [`DEPTH_MAX`] levels. A `copy` of a value into
//! its own deepest place doubles the depth: seventeen of them make 65,000 levels out of a few hundred bytes, and whatever
//! then walks the document (a copy, a drop, the encoder) ends the process for want of stack. So the depth is checked
//! where a value is put, not at the end.

use machinery_schema::Budget;
use serde_json::Value;

use crate::{COPIED_BYTES_MAX, DEPTH_MAX, OPERATIONS_MAX, PatchError, go, walk};

/// List items that are moved up or down in the time of one step: they are a few machine words each, and lie side by side.
const SHIFTED_ITEMS_PER_STEP: usize = 16;

/// Applies operations one after the other; when one fails, none holds.
///
/// As in the library that kube-apiserver uses, which goes beyond RFC 6902: a `test` for null also holds where nothing is, a
/// `replace` of a field that is not there adds it, a negative index counts from the end, a value that is left out is null.
///
/// ```
/// use serde_json::json;
/// let patch = json!([{"op": "test", "path": "/a", "value": 1}, {"op": "add", "path": "/b/-", "value": 3}]);
/// assert_eq!(machinery_merge::json_patch(&json!({"a": 1, "b": [2]}), &patch), Ok(json!({"a": 1, "b": [2, 3]})));
/// ```
///
/// # Errors
/// [`PatchError::BadRequest`] for what is not a list of operations, [`PatchError::TooLarge`] and [`PatchError::TooDeep`]
/// past the bounds of this crate, [`PatchError::Unprocessable`] when the document is not as the patch expects.
pub fn json_patch(document: &Value, patch: &Value) -> Result<Value, PatchError> {
    json_patch_within(document, patch, &mut Budget::of_request())
}

/// The same on the budget of a request.
///
/// # Errors
/// As [`json_patch`]; [`PatchError::TooLarge`] also when the budget does not last.
pub fn json_patch_within(document: &Value, patch: &Value, budget: &mut Budget) -> Result<Value, PatchError> {
    let operations = operations(patch)?;
    if operations.len() > OPERATIONS_MAX {
        let why =
            format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}", operations.len());
        return Err(PatchError::TooLarge { why });
    }
    walk::check_whole(patch, budget)?;
    walk::check_whole(document, budget)?;
    let mut run = Run { document: document.clone(), copied_bytes: 0, budget };
    operations.iter().try_for_each(|operation| run.apply(operation))?;
    Ok(run.document)
}

/// The operations of a patch, of the form that Go decodes.
fn operations(patch: &Value) -> Result<&[Value], PatchError> {
    let refused = |value: &Value, place: &str| {
        let found = go::json_type(value);
        Err(PatchError::BadRequest(format!("error decoding patch: json: cannot unmarshal {found} into Go {place}")))
    };
    let operations = match patch {
        Value::Array(operations) => operations.as_slice(),
        Value::Null => &[],
        other => return refused(other, "value of type []handlers.jsonPatchOp"),
    };
    for operation in operations {
        let Value::Object(fields) = operation else {
            if operation.is_null() {
                continue;
            }
            return refused(operation, "value of type handlers.jsonPatchOp");
        };
        for field in ["op", "path", "from"] {
            match fields.get(field) {
                None | Some(Value::Null | Value::String(_)) => {}
                Some(other) => return refused(other, &format!("struct field jsonPatchOp.{field} of type string")),
            }
        }
    }
    Ok(operations)
}

/// A patch on its way: the document as the operations so far have left it.
struct Run<'b> {
    document: Value,
    copied_bytes: usize,
    budget: &'b mut Budget,
}

impl Run<'_> {
    fn apply(&mut self, operation: &Value) -> Result<(), PatchError> {
        let text = |key: &str| operation.get(key).and_then(Value::as_str);
        let pointer = |key: &str| match text(key).map(Pointer::parse) {
            Some(pointer) => Ok(pointer),
            None => Err(PatchError::unprocessable(format!("operation missing {key} field: missing value"))),
        };
        let value = || operation.get("value").unwrap_or(&Value::Null);
        match text("op").unwrap_or("unknown") {
            "add" => {
                let path = pointer("path")?;
                self.check_fits(&path, value())?;
                self.put(&path, value().clone())
            }
            "remove" => self.take(&pointer("path")?).map(drop),
            "replace" => {
                let path = pointer("path")?;
                self.check_fits(&path, value())?;
                path.replace(&mut self.document, value().clone())
            }
            "move" => {
                let (from, path) = (pointer("from")?, pointer("path")?);
                // On its way up, or on its level, a value cannot become too deep, and need not be walked.
                if path.depth() > from.depth() {
                    let value = from.find(&self.document)?.unwrap_or(&Value::Null);
                    walk::check(value, levels_left(&path)?, self.budget)?;
                }
                let value = self.take(&from)?;
                self.put(&path, value)
            }
            "copy" => {
                let (from, path) = (pointer("from")?, pointer("path")?);
                let value = from.find(&self.document)?.unwrap_or(&Value::Null);
                walk::check(value, levels_left(&path)?, self.budget)?;
                self.copied_bytes = self.copied_bytes.saturating_add(walk::text_bytes(value));
                if self.copied_bytes > COPIED_BYTES_MAX {
                    return Err(PatchError::TooLarge { why: format!("its copies exceed {COPIED_BYTES_MAX} bytes") });
                }
                let value = value.clone();
                self.put(&path, value)
            }
            "test" => {
                let path = pointer("path")?;
                let found = if path.depth() == 0 { Some(&self.document) } else { path.find(&self.document)? };
                if found.unwrap_or(&Value::Null) == value() {
                    Ok(())
                } else {
                    Err(PatchError::unprocessable(format!("testing value {path} failed: test failed")))
                }
            }
            other => Err(PatchError::unprocessable(format!("Unexpected kind: {other}"))),
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

/// A parsed JSON pointer. What is before its first slash says nothing, as in the library: `a/b` is `/b`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pointer {
    tokens: Vec<String>,
}

impl Pointer {
    fn parse(text: &str) -> Self {
        Self { tokens: text.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~")).collect() }
    }

    /// How many levels below the document's top the value is.
    fn depth(&self) -> usize {
        self.tokens.len()
    }

    /// The last step, and what it is a step of. The document itself is no step of anything.
    fn parent<'d>(&self, document: &'d Value) -> Result<(&'d Value, &str), PatchError> {
        let (last, parents) = self.tokens.split_last().ok_or_else(|| self.missing())?;
        let parent = parents.iter().try_fold(document, |value, token| match value {
            Value::Object(map) => map.get(token),
            Value::Array(items) => items.get(index(token, items.len())?),
            _ => None,
        });
        Ok((parent.filter(|parent| is_container(parent)).ok_or_else(|| self.missing())?, last))
    }

    fn parent_mut<'d>(&self, document: &'d mut Value) -> Result<(&'d mut Value, &str), PatchError> {
        let (last, parents) = self.tokens.split_last().ok_or_else(|| self.missing())?;
        let parent = parents.iter().try_fold(document, |value, token| match value {
            Value::Object(map) => map.get_mut(token),
            Value::Array(items) => {
                let index = index(token, items.len())?;
                items.get_mut(index)
            }
            _ => None,
        });
        Ok((parent.filter(|parent| is_container(parent)).ok_or_else(|| self.missing())?, last))
    }

    /// The value there; `None` where an object has no such field. A list without such an item is an error.
    fn find<'d>(&self, document: &'d Value) -> Result<Option<&'d Value>, PatchError> {
        match self.parent(document)? {
            (Value::Array(items), last) => {
                index(last, items.len()).and_then(|index| items.get(index)).map(Some).ok_or_else(|| self.missing())
            }
            (parent, last) => Ok(parent.get(last)),
        }
    }

    /// Puts a value in the place of another, or of nothing.
    fn replace(&self, document: &mut Value, value: Value) -> Result<(), PatchError> {
        if self.tokens.is_empty() {
            if !is_container(&value) {
                let why = "replace operation value must be object or array";
                return Err(PatchError::unprocessable(why));
            }
            *document = value;
            return Ok(());
        }
        match self.parent_mut(document)? {
            (Value::Object(map), last) => drop(map.insert(last.to_owned(), value)),
            (Value::Array(items), last) => {
                let index = index(last, items.len()).filter(|index| *index < items.len());
                items[index.ok_or_else(|| self.missing())?] = value;
            }
            _ => return Err(self.missing()),
        }
        Ok(())
    }

    /// Puts a value in; returns how many list items made way for it.
    fn add(&self, document: &mut Value, value: Value) -> Result<usize, PatchError> {
        match self.parent_mut(document)? {
            (Value::Object(map), last) => {
                map.insert(last.to_owned(), value);
                Ok(0)
            }
            (Value::Array(items), last) => {
                // A negative index counts from behind the last item.
                let position = if last == "-" { Some(items.len()) } else { index(last, items.len() + 1) };
                let position = position.filter(|position| *position <= items.len()).ok_or_else(|| self.missing())?;
                items.insert(position, value);
                Ok(items.len() - position)
            }
            _ => Err(self.missing()),
        }
    }

    /// Takes a value out; returns it, and how many list items closed the gap.
    fn remove(&self, document: &mut Value) -> Result<(Value, usize), PatchError> {
        let removed = match self.parent_mut(document)? {
            (Value::Object(map), last) => map.remove(last).map(|value| (value, 0)),
            (Value::Array(items), last) => index(last, items.len())
                .filter(|index| *index < items.len())
                .map(|index| (items.remove(index), items.len() - index)),
            _ => None,
        };
        removed.ok_or_else(|| self.missing())
    }

    fn missing(&self) -> PatchError {
        PatchError::unprocessable(format!("doc is missing path: \"{self}\": missing value"))
    }
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.tokens.iter().try_for_each(|token| write!(f, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

fn is_container(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

/// A place in a list as Go reads a number; one below zero counts from the end. It may be behind the last item.
fn index(token: &str, len: usize) -> Option<usize> {
    let digits = token.strip_prefix(['+', '-']).unwrap_or(token);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: usize = digits.parse().ok()?;
    if token.starts_with('-') && number > 0 { len.checked_sub(number) } else { Some(number) }
}
