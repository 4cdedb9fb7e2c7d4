//! A workload as the owner of what it creates.

use hub_runtime::kinds::Kind;
use hub_runtime::views::ObjectMeta;
use hub_runtime::writer::Target;
use serde_json::{Value, json};

/// A workload by its kind and metadata.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub kind: Kind,
    pub meta: &'a ObjectMeta<'a>,
}

impl<'a> Owner<'a> {
    pub fn new(kind: Kind, meta: &'a ObjectMeta<'a>) -> Self {
        Self { kind, meta }
    }

    /// The reference by which it controls what it creates.
    pub fn reference(self) -> Value {
        json!({
            "apiVersion": self.kind.api_version(), "kind": self.kind.name(),
            "name": self.meta.name, "uid": self.meta.uid,
            "controller": true, "blockOwnerDeletion": true,
        })
    }

    pub fn target(self) -> Target<'a> {
        Target { namespace: &self.meta.namespace, name: &self.meta.name, uid: &self.meta.uid }
    }
}
