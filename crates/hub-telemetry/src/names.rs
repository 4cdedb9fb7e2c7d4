//! Names that occur in the index, each once, counted by the blocks that use it and forgotten with the last of them.
//!
//! A name costs memory as long as readings of it are kept and no longer. What one node may add is bounded, and so are all
//! together; a name beyond that is not kept, and the caller marks the block as one that may hold any name. So a node
//! that makes names up costs its own queries time, and nobody memory.

use std::collections::HashMap;
use std::sync::Arc;

/// Most device names of one node: the design knows gateways with 1,000 devices.
pub(crate) const NODE_NAMES_MAX: usize = 2_048;

/// Most bytes in the device names of one node.
pub(crate) const NODE_NAME_BYTES_MAX: usize = 64 * 1024;

/// Most bytes in all names: some hundred thousand devices.
const NAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The number of a name, as blocks hold it.
pub(crate) type NameId = u32;

/// The table of names.
#[derive(Default)]
pub(crate) struct Names {
    ids: HashMap<Arc<str>, NameId>,
    entries: Vec<Option<Entry>>,
    free: Vec<NameId>,
    bytes: usize,
    by_node: HashMap<NameId, Held>,
}

struct Entry {
    key: Arc<str>,
    uses: u32,
    /// The node whose bounds it counts in.
    node: Option<NameId>,
}

#[derive(Default)]
struct Held {
    count: usize,
    bytes: usize,
}

/// Key of a node. A node's name has no slash, so keys of different sorts are never equal.
pub(crate) fn node_key(node: &str) -> String {
    format!("n{node}")
}

/// Key of a device of a node.
pub(crate) fn device_key(node: &str, device: &str) -> String {
    format!("d{node}/{device}")
}

/// Key of "any device" of a node.
pub(crate) fn any_device_key(node: &str) -> String {
    format!("a{node}")
}

/// Key of a resource, whichever node has it.
pub(crate) fn resource_key(resource: &str) -> String {
    format!("r{resource}")
}

impl Names {
    /// The number of a key that is in use.
    pub(crate) fn find(&self, key: &str) -> Option<NameId> {
        self.ids.get(key).copied()
    }

    /// The key behind a number that is in use.
    pub(crate) fn key(&self, id: NameId) -> &str {
        self.entries.get(id as usize).and_then(Option::as_ref).map_or("", |entry| &entry.key)
    }

    /// Numbers of a device's name on whichever node.
    pub(crate) fn devices_named(&self, device: &str) -> Vec<NameId> {
        let is_it = |key: &str| {
            key.strip_prefix('d').and_then(|key| key.split_once('/')).is_some_and(|(_, name)| name == device)
        };
        self.ids.iter().filter(|(key, _)| is_it(key) || key.starts_with('a')).map(|(_, id)| *id).collect()
    }

    /// One more use of `key`; always granted, for keys that are few by nature.
    pub(crate) fn take(&mut self, key: &str) -> NameId {
        match self.find(key) {
            Some(id) => self.use_again(id),
            None => self.insert(key, None),
        }
    }

    /// One more use of `key`, within the bounds of `node` where one is given; `None` when they are reached.
    pub(crate) fn take_bounded(&mut self, key: &str, node: Option<NameId>) -> Option<NameId> {
        if let Some(id) = self.find(key) {
            return Some(self.use_again(id));
        }
        let is_node_full = node
            .and_then(|node| self.by_node.get(&node))
            .is_some_and(|held| held.count >= NODE_NAMES_MAX || held.bytes + key.len() > NODE_NAME_BYTES_MAX);
        if is_node_full || self.bytes + key.len() > NAME_BYTES_MAX {
            return None;
        }
        Some(self.insert(key, node))
    }

    fn use_again(&mut self, id: NameId) -> NameId {
        if let Some(entry) = self.entries[id as usize].as_mut() {
            entry.uses += 1;
        }
        id
    }

    fn insert(&mut self, key: &str, node: Option<NameId>) -> NameId {
        let key: Arc<str> = key.into();
        self.bytes += key.len();
        if let Some(node) = node {
            let held = self.by_node.entry(node).or_default();
            held.count += 1;
            held.bytes += key.len();
        }
        let entry = Entry { key: key.clone(), uses: 1, node };
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id as usize] = Some(entry);
                id
            }
            None => {
                self.entries.push(Some(entry));
                (self.entries.len() - 1) as NameId
            }
        };
        self.ids.insert(key, id);
        id
    }

    /// One use less; the last one forgets the name.
    pub(crate) fn release(&mut self, id: NameId) {
        let Some(entry) = self.entries.get_mut(id as usize).and_then(Option::as_mut) else { return };
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        let Some(entry) = self.entries[id as usize].take() else { return };
        self.ids.remove(&entry.key);
        self.free.push(id);
        self.bytes -= entry.key.len();
        if let Some(node) = entry.node
            && let Some(held) = self.by_node.get_mut(&node)
        {
            held.count -= 1;
            held.bytes -= entry.key.len();
            if held.count == 0 {
                self.by_node.remove(&node);
            }
        }
    }

    /// Bytes in all names.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
