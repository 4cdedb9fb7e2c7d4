//! A JSON value that is kept, and looked at now and then.

use serde_json::Value;

/// A value as its text: a tree of it takes several times as many bytes, and a node has some of them for every pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packed(Box<[u8]>);

impl Packed {
    /// The value again; reading costs some microseconds for a pod's status.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.0).expect("it was made of a value")
    }
}

impl From<&Value> for Packed {
    fn from(value: &Value) -> Self {
        Self(value.to_string().into_bytes().into())
    }
}

impl Default for Packed {
    fn default() -> Self {
        Self::from(&Value::Null)
    }
}
