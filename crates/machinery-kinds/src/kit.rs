//! What rules are written with: places, a list of errors, and a way to read objects.
//!
//! An object is a [`Value`] whose types are right (decoding sees to that), so reading it never fails: what is absent, or
//! null, is Go's zero value. A place is a list on the stack that becomes text only when there is something to say.
//!
//! ```ignore
//! fn validate(service: &Value, errors: &mut Errors) {
//!     let (root, spec) = (Path::ROOT, service.part("spec"));
//!     let at = root.field("spec");
//!     for (number, port) in spec.items("ports").iter().enumerate() {
//!         if port.int("port") == 0 {
//!             errors.required(&at.field("ports").index(number).field("port"), "");
//!         }
//!     }
//! }
//! ```

use std::fmt;

use serde_json::{Map, Value};

use crate::{FieldError, field_error::ERRORS_MAX};

/// A place in an object, such as `spec.ports[0].name`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'p> {
    before: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    Root,
    Field(&'p str),
    Index(usize),
    Key(&'p str),
}

impl<'p> Path<'p> {
    /// The object itself.
    pub(crate) const ROOT: Path<'static> = Path { before: None, step: Step::Root };

    /// A place given as text, to begin others with.
    pub(crate) const fn at(path: &'p str) -> Self {
        Self { before: None, step: Step::Field(path) }
    }

    /// A field below; `name` may have dots.
    pub(crate) const fn field<'n>(&'n self, name: &'n str) -> Path<'n> {
        Path { before: Some(self), step: Step::Field(name) }
    }

    /// An item of a list.
    pub(crate) const fn index<'n>(&'n self, index: usize) -> Path<'n> {
        Path { before: Some(self), step: Step::Index(index) }
    }

    /// An entry of a map, `[key]`.
    pub(crate) const fn key<'n>(&'n self, key: &'n str) -> Path<'n> {
        Path { before: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut next = Some(self);
        while let Some(path) = next {
            steps.push(path.step);
            next = path.before;
        }
        let mut is_first = true;
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => continue,
                Step::Field(name) if is_first => out.write_str(name)?,
                Step::Field(name) => write!(out, ".{name}")?,
                Step::Index(index) => write!(out, "[{index}]")?,
                Step::Key(key) => write!(out, "[{key}]")?,
            }
            is_first = false;
        }
        Ok(())
    }
}

/// What is wrong with an object: the first of it. Further errors are counted as found and not kept.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<FieldError>);

/// All messages together. Values are shown whole, and a body may have many that are long and wrong.
const MESSAGES_BYTES_MAX: usize = 256 * 1024;

impl Errors {
    /// Whether nothing is wrong so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many errors are kept. Two calls say whether something was found in between.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no more errors are kept, so that loops can end.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= ERRORS_MAX
    }

    /// The errors, in the order in which they were found.
    pub(crate) fn into_vec(self) -> Vec<FieldError> {
        self.0
    }

    /// Adds one.
    pub(crate) fn push(&mut self, error: FieldError) {
        let bytes: usize = self.0.iter().map(|error| error.message.len()).sum();
        if !self.is_full() && (self.0.is_empty() || bytes + error.message.len() <= MESSAGES_BYTES_MAX) {
            self.0.push(error);
        }
    }

    /// Adds many.
    pub(crate) fn extend(&mut self, errors: impl IntoIterator<Item = FieldError>) {
        errors.into_iter().for_each(|error| self.push(error));
    }

    /// `Required value`.
    pub(crate) fn required(&mut self, path: &Path<'_>, detail: &str) {
        if !self.is_full() {
            self.push(FieldError::required(path.to_string(), detail));
        }
    }

    /// `Invalid value: …`.
    pub(crate) fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl AsRef<str>) {
        if !self.is_full() {
            self.push(FieldError::invalid(path.to_string(), &value.into(), detail));
        }
    }

    /// `Invalid value: …` with the value as this text; see [`FieldError::invalid_as`].
    pub(crate) fn invalid_as(&mut self, path: &Path<'_>, shown: &str, detail: impl AsRef<str>) {
        if !self.is_full() {
            self.push(FieldError::invalid_as(path.to_string(), shown, detail));
        }
    }

    /// `Unsupported value: …: supported values: …`.
    pub(crate) fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        if !self.is_full() {
            self.push(FieldError::not_supported(path.to_string(), &value.into(), supported));
        }
    }

    /// `Unsupported value: …` with the value as this text; see [`FieldError::invalid_as`].
    pub(crate) fn not_supported_as(&mut self, path: &Path<'_>, shown: &str, supported: &[&str]) {
        if !self.is_full() {
            self.push(FieldError::not_supported_as(path.to_string(), shown, supported));
        }
    }

    /// `Duplicate value: …`.
    pub(crate) fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        if !self.is_full() {
            self.push(FieldError::duplicate(path.to_string(), &value.into()));
        }
    }

    /// `Duplicate value: …` with the value as this text; see [`FieldError::invalid_as`].
    pub(crate) fn duplicate_as(&mut self, path: &Path<'_>, shown: &str) {
        if !self.is_full() {
            self.push(FieldError::duplicate_as(path.to_string(), shown));
        }
    }

    /// `Duplicate value: …: …`, where upstream says more.
    pub(crate) fn duplicate_with(&mut self, path: &Path<'_>, shown: &str, detail: &str) {
        if !self.is_full() {
            let mut error = FieldError::duplicate_as(path.to_string(), shown);
            error.message.push_str(": ");
            error.message.push_str(detail);
            self.push(error);
        }
    }

    /// `Forbidden: …`.
    pub(crate) fn forbidden(&mut self, path: &Path<'_>, detail: impl AsRef<str>) {
        if !self.is_full() {
            self.push(FieldError::forbidden(path.to_string(), detail));
        }
    }

    /// `Too long: may not be more than N bytes`.
    pub(crate) fn too_long(&mut self, path: &Path<'_>, bytes_max: usize) {
        if !self.is_full() {
            self.push(FieldError::too_long(path.to_string(), bytes_max));
        }
    }

    /// `Too many: N: must have at most M items`.
    pub(crate) fn too_many(&mut self, path: &Path<'_>, items: usize, items_max: usize) {
        if !self.is_full() {
            self.push(FieldError::too_many(path.to_string(), items, items_max));
        }
    }

    /// `Not found: …`.
    pub(crate) fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        if !self.is_full() {
            self.push(FieldError::not_found(path.to_string(), &value.into()));
        }
    }

    /// The same with a detail: what the value should be among.
    pub(crate) fn not_found_because(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: &str) {
        if !self.is_full() {
            self.push(FieldError::not_found_because(path.to_string(), &value.into(), detail));
        }
    }
}

static NULL: Value = Value::Null;

/// Reads an object as Go reads its struct: what is absent is zero.
pub(crate) trait Read {
    /// The field, or null.
    fn part(&self, key: &str) -> &Value;

    /// Whether the field is there: a pointer, list or map that is not nil.
    fn has(&self, key: &str) -> bool {
        !self.part(key).is_null()
    }

    /// The field, if it is there.
    fn some(&self, key: &str) -> Option<&Value> {
        Some(self.part(key)).filter(|value| !value.is_null())
    }

    /// A text; empty when it is absent.
    fn text(&self, key: &str) -> &str {
        self.part(key).as_str().unwrap_or_default()
    }

    /// A whole number, if it is there.
    fn some_int(&self, key: &str) -> Option<i64> {
        self.part(key).as_i64()
    }

    /// A whole number; zero when it is absent.
    fn int(&self, key: &str) -> i64 {
        self.some_int(key).unwrap_or_default()
    }

    /// A flag, if it is there.
    fn some_flag(&self, key: &str) -> Option<bool> {
        self.part(key).as_bool()
    }

    /// A flag; false when it is absent.
    fn flag(&self, key: &str) -> bool {
        self.some_flag(key).unwrap_or_default()
    }

    /// The items of a list; none when it is absent.
    fn items(&self, key: &str) -> &[Value] {
        self.part(key).as_array().map_or(&[], Vec::as_slice)
    }

    /// The texts in a list.
    fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        self.items(key).iter().map(|item| item.as_str().unwrap_or_default())
    }

    /// The entries of a map, by key; none when it is absent.
    fn entries(&self, key: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.part(key).as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }
}

impl Read for Value {
    fn part(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&NULL)
    }
}

impl Read for Map<String, Value> {
    fn part(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&NULL)
    }
}

/// Changes an object, for defaults and for what is not up to its author.
pub(crate) trait Write {
    /// The object's fields; an object is made of anything else.
    fn fields(&mut self) -> &mut Map<String, Value>;

    /// Sets a field that is absent.
    fn default_to(&mut self, key: &str, value: impl Into<Value>) {
        let fields = self.fields();
        if fields.get(key).is_none_or(Value::is_null) {
            fields.insert(key.to_owned(), value.into());
        }
    }

    /// Sets a text that is absent or empty.
    fn default_text(&mut self, key: &str, text: &str) {
        let fields = self.fields();
        if fields.get(key).and_then(Value::as_str).unwrap_or_default().is_empty() {
            fields.insert(key.to_owned(), text.into());
        }
    }

    /// Sets a field.
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.fields().insert(key.to_owned(), value.into());
    }

    /// Takes a field away.
    fn unset(&mut self, key: &str) -> Option<Value> {
        self.fields().remove(key)
    }

    /// The struct at a field, made when it is absent: for structs that are no pointers in Go.
    fn make(&mut self, key: &str) -> &mut Value {
        let slot = self.fields().entry(key).or_insert(Value::Null);
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        slot
    }

    /// The struct at a field, if it is there.
    fn some_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.fields().get_mut(key).filter(|value| !value.is_null())
    }

    /// The items of a list.
    fn items_mut(&mut self, key: &str) -> &mut [Value] {
        self.fields().get_mut(key).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
    }

    /// Puts a field to what it is in another version of the object, absent or not.
    fn restore(&mut self, key: &str, from: &Value) {
        match from.some(key) {
            Some(value) => self.set(key, value.clone()),
            None => drop(self.unset(key)),
        }
    }
}

impl Write for Value {
    fn fields(&mut self) -> &mut Map<String, Value> {
        if !self.is_object() {
            *self = Value::Object(Map::new());
        }
        self.as_object_mut().expect("made an object above")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_place_is_written_as_upstream_writes_it() {
        let (root, key) = (Path::ROOT, "a.b/c".to_owned());
        let labels = root.field("metadata");
        let labels = labels.field("labels");
        assert_eq!(labels.key(&key).to_string(), "metadata.labels[a.b/c]");
        let spec = Path::at("spec");
        let ports = spec.field("ports");
        assert_eq!(ports.index(3).field("name").to_string(), "spec.ports[3].name");
    }

    #[test]
    fn what_is_absent_or_null_is_zero() {
        let object = json!({"a": null, "b": 2, "c": ["x"]});
        assert!(!object.has("a") && object.items("a").is_empty() && object.text("z").is_empty());
        assert_eq!((object.int("b"), object.int("a"), object.some_int("z")), (2, 0, None));
        assert_eq!(object.texts("c").collect::<Vec<_>>(), ["x"]);
    }
}
