//! The kinds that every Kubernetes API serves: their types as static tables, their defaults, their rules.

mod patch;
mod types;

use serde_json::Value;

pub use patch::{ListStrategy, PatchField, PatchSchema};
pub use types::{enter, enter_item, is_base64, validate_types};

use crate::FieldError;

/// A named object type.
#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    /// Sorted by name. Empty for types that are anything but an object with known fields.
    pub fields: &'static [Field],
}

/// A field of a [`Definition`].
#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub required: bool,
    pub shape: Shape,
}

/// What a value may look like.
#[derive(Debug)]
pub enum Shape {
    Text,
    Base64,
    Time,
    /// A time with six digits of a fraction.
    MicroTime,
    Boolean,
    Integer32,
    Integer64,
    Number,
    IntOrString,
    Quantity,
    /// An object of which nothing is known.
    AnyObject,
    /// Any JSON at all.
    Any,
    /// Number of a [`Definition`].
    Object(u16),
    Map(&'static Shape),
    List(&'static List),
}

/// What is known of a list.
#[derive(Debug)]
pub struct List {
    pub items: Shape,
    /// Whether a strategic merge patch adds to it; otherwise it is replaced.
    pub merge: bool,
    pub merge_key: Option<&'static str>,
}

/// The compressed `components.schemas` of one group version's OpenAPI document.
pub struct Components {
    pub group: &'static str,
    pub version: &'static str,
    /// Changes when the text does.
    pub hash: u64,
    pub bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/tables.rs"));

impl Definition {
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        let position = self.fields.binary_search_by(|field| field.name.cmp(name)).ok()?;
        Some(&self.fields[position])
    }
}

/// The definition with the given full name, such as `io.k8s.api.core.v1.Pod`.
pub fn definition(name: &str) -> Option<&'static Definition> {
    let position = DEFINITIONS.binary_search_by(|definition| definition.name.cmp(name)).ok()?;
    Some(&DEFINITIONS[position])
}

pub fn definition_at(number: u16) -> &'static Definition {
    &DEFINITIONS[usize::from(number)]
}

/// The type of `metadata`, which custom resources share.
pub fn object_meta() -> &'static Definition {
    definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("every served kind has metadata")
}

/// Removes unknown fields and nulls; returns the paths of the first hundred unknown fields.
pub fn prune(definition: &'static Definition, object: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    types::prune_object(definition, object, &mut String::new(), &mut unknown, 0);
    unknown.sort();
    unknown
}

/// Types first: `rules`, those of the kind, are only applied when they can be read.
pub fn validate(
    definition: &'static Definition,
    rules: fn(&Value) -> Vec<FieldError>,
    object: &Value,
) -> Vec<FieldError> {
    let mut errors = validate_types(definition, object, "");
    // The metadata of every kind is checked in one place, `crate::metadata`.
    errors.retain(|error| !error.path.starts_with("metadata"));
    if errors.is_empty() { rules(object) } else { errors }
}

/// Removes unknown fields and nulls from the `metadata` of any object; paths begin with `metadata`.
pub fn prune_metadata(metadata: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    types::prune_object(object_meta(), metadata, &mut "metadata".to_owned(), &mut unknown, 0);
    unknown
}
