//! What every cluster has, made once in a process.
//!
//! Namespaces, levels of priority and fairness, and 130 roles and bindings go through the whole server when they are created,
//! which takes ten times as long as everything else that a start does; and a test wants a server of its own. So the
//! first server in memory leaves its objects here, before anybody else could write any.

use std::sync::OnceLock;

use machinery_store::{Object, Store};

static IMAGE: OnceLock<Vec<Kept>> = OnceLock::new();

struct Kept {
    object: Object,
    /// Where in its bytes its uid is.
    uid_at: Option<usize>,
}

/// Keeps the objects of a store to which nothing but the bootstrap has written.
pub(crate) fn keep(store: &Store) {
    IMAGE.get_or_init(|| store.objects().iter().map(|object| Kept::of(object)).collect());
}

/// What was kept, with other uids.
pub(crate) fn get() -> Option<impl Iterator<Item = Object>> {
    IMAGE.get().map(|image| image.iter().map(Kept::renewed))
}

impl Kept {
    fn of(object: &Object) -> Self {
        let value: serde_json::Value = serde_json::from_slice(&object.bytes).unwrap_or_default();
        let uid = value["metadata"]["uid"].as_str().filter(|uid| uid.len() == uuid::fmt::Hyphenated::LENGTH);
        // It is random, and is nowhere else.
        let uid_at = uid.and_then(|uid| object.bytes.windows(uid.len()).position(|window| window == uid.as_bytes()));
        Self { object: object.clone(), uid_at }
    }

    fn renewed(&self) -> Object {
        let mut object = self.object.clone();
        if let Some(at) = self.uid_at {
            let mut bytes = object.bytes.to_vec();
            uuid::Uuid::new_v4().hyphenated().encode_lower(&mut bytes[at..at + uuid::fmt::Hyphenated::LENGTH]);
            object.bytes = bytes.into();
        }
        object
    }
}
