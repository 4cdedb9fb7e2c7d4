//! What each runtime does with each field of a pod: honours it, need not, or rejects it.
//!
//! A pod that is half understood is worse than one that is rejected: whoever writes `readOnlyRootFilesystem` relies on it. So
//! there is one table, [`TABLES`], with a row for every field of the published schema, and what has no row is rejected. Both
//! sides use it: of the runtimes that are ours alone the hub rejects a pod, or a template of pods, when it is applied, where a person
//! reads it; a node rejects what reached it from a control plane that knows nothing of these runtimes, and pods of images.
//!
//! ```
//! use api_pod::{Runtime, unsupported};
//! let spec = serde_json::json!({"hostPID": true, "containers": [{"name": "a", "image": "file:///bin/true"}]});
//! let found = unsupported(&spec, "spec", Runtime::Process);
//! assert_eq!(found[0].path, "spec.hostPID");
//! assert!(found[0].message.starts_with("selvedge-process "));
//! ```
//!
//! - **Where is it?** The rows are in `tables`, for people in `docs/reference/pod-fields.md`, which is generated from them.
//! - **May I touch it?** A row becomes [`Does::Honoured`] in the commit that makes the runtime honour it. A test walks the
//!   schema and fails for a field without a row.
//! - **What breaks?** A row that promises too much is a pod that runs otherwise than its author thinks, and says nothing.

mod reference;
mod tables;

use serde_json::Value;

pub use reference::reference;
pub use tables::TABLES;

/// A spec with more faults than this is not going to be mended by a longer list.
const UNSUPPORTED_MAX: usize = 64;

/// The runtimes that this version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Images: pods of no class.
    Container,
    /// Programs that lie on the node.
    Process,
    /// WebAssembly modules that lie on the node.
    Wasm,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Container, Self::Process, Self::Wasm];

    /// The runtime of a class, as in `spec.runtimeClassName`; of an empty one that of images. Pods of another class are none of
    /// ours.
    pub fn of_class(class: &str) -> Option<Self> {
        match class {
            "" => Some(Self::Container),
            class => [Self::Process, Self::Wasm].into_iter().find(|runtime| runtime.name() == class),
        }
    }

    /// The runtime that a node has under this name: all but those that are ours alone make the containers of images.
    pub fn of_handler(handler: &str) -> Self {
        [Self::Process, Self::Wasm].into_iter().find(|runtime| runtime.name() == handler).unwrap_or(Self::Container)
    }

    /// The runtime of a pod with this spec.
    pub fn of_spec(spec: &Value) -> Option<Self> {
        Self::of_class(spec.get("runtimeClassName").and_then(Value::as_str).unwrap_or_default())
    }

    /// Its name, which is that of its class if it has one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => api_edge::RUNTIME_CONTAINER,
            Self::Process => api_edge::RUNTIME_CLASS_PROCESS,
            Self::Wasm => api_edge::RUNTIME_CLASS_WASM,
        }
    }
}

/// What a runtime does with a field. Sentences begin after the name of the runtime.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// It does what the field says.
    Honoured,
    /// The field has fields, each with a row of its own, in the table of this type.
    Fields(&'static str),
    /// Nothing, and nothing is lost by it: the reason.
    Harmless(&'static str),
    /// It honours these values, or loses nothing by them; the sentence for others. Texts are as written, flags as `true` and
    /// `false`.
    Only(&'static [&'static str], &'static str),
    /// It honours these keys of a map; the sentence for others.
    Keys(&'static [&'static str], &'static str),
    /// It honours what this function lets pass; what that is, and the sentence for the rest.
    Judged(fn(&Place<'_>) -> bool, &'static str, &'static str),
    /// It cannot: the sentence, which says what to do instead.
    Rejected(&'static str),
}

/// A value, and where it is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The value.
    pub value: &'a Value,
    /// The object whose field it is.
    pub parent: &'a Value,
    /// Its path, from the spec on.
    pub path: &'a str,
}

/// One field of a type.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name in JSON.
    pub field: &'static str,
    /// What is done with it in pods of images.
    pub container: Does,
    /// What `selvedge-process` does with it.
    pub process: Does,
    /// What `selvedge-wasm` does with it.
    pub wasm: Does,
}

impl Row {
    /// What a runtime does with it.
    pub fn does(&self, runtime: Runtime) -> Does {
        match runtime {
            Runtime::Container => self.container,
            Runtime::Process => self.process,
            Runtime::Wasm => self.wasm,
        }
    }
}

/// Something in a spec that its runtime does not honour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Where it is.
    pub path: String,
    /// Why it is rejected, and what to do: a sentence that names the runtime.
    pub message: String,
    /// The value, where another one would do.
    pub value: Option<Value>,
}

/// Everything in a pod's spec that a runtime does not honour, in the order of the spec's fields; the first 64. `path` is where
/// the spec is: `spec`, or `spec.template.spec`.
pub fn unsupported(spec: &Value, path: &str, runtime: Runtime) -> Vec<Unsupported> {
    let mut walk = Walk { runtime, found: Vec::new() };
    walk.fields("PodSpec", spec, path);
    walk.found
}

/// The rows of a type.
pub fn rows(r#type: &str) -> Option<&'static [Row]> {
    TABLES.iter().find(|(name, _)| *name == r#type).map(|(_, rows)| *rows)
}

struct Walk {
    runtime: Runtime,
    found: Vec<Unsupported>,
}

impl Walk {
    fn fields(&mut self, r#type: &str, object: &Value, path: &str) {
        let rows = rows(r#type).unwrap_or_default();
        for (field, value) in object.as_object().into_iter().flatten() {
            let path = format!("{path}.{field}");
            match rows.iter().find(|row| row.field == field) {
                Some(row) => self.field(row.does(self.runtime), &Place { value, parent: object, path: &path }),
                None if is_unset(value) => {}
                None => self.reject(&path, "does not know this field; leave it out", None),
            }
        }
    }

    fn field(&mut self, does: Does, place: &Place<'_>) {
        let Place { value, path, .. } = *place;
        match does {
            Does::Honoured | Does::Harmless(_) => {}
            Does::Fields(r#type) => match value {
                Value::Array(items) => {
                    for (number, item) in items.iter().enumerate() {
                        self.fields(r#type, item, &format!("{path}[{number}]"));
                    }
                }
                value => self.fields(r#type, value, path),
            },
            Does::Only(allowed, sentence) => {
                let is_allowed = match value {
                    Value::String(text) => text.is_empty() || allowed.contains(&text.as_str()),
                    Value::Bool(flag) => allowed.contains(&if *flag { "true" } else { "false" }),
                    value => is_unset(value),
                };
                if !is_allowed {
                    self.reject(path, sentence, Some(value));
                }
            }
            Does::Keys(allowed, sentence) => {
                for key in value.as_object().into_iter().flat_map(|map| map.keys()) {
                    if !allowed.contains(&key.as_str()) {
                        self.reject(&format!("{path}[{key}]"), sentence, None);
                    }
                }
            }
            Does::Judged(..) | Does::Rejected(_) if is_unset(value) => {}
            Does::Judged(is_fine, _, sentence) => {
                if !is_fine(place) {
                    self.reject(path, sentence, Some(value));
                }
            }
            Does::Rejected(sentence) => self.reject(path, sentence, None),
        }
    }

    fn reject(&mut self, path: &str, sentence: &str, value: Option<&Value>) {
        if self.found.len() < UNSUPPORTED_MAX {
            let message = format!("{} {sentence}", self.runtime.name());
            self.found.push(Unsupported { path: path.to_owned(), message, value: value.cloned() });
        }
    }
}

/// Whether a value says no more than an absent one.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests;
