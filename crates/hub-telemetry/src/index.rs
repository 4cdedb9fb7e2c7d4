//! What lies where: one entry for some 256 KiB of stored batches, so that the index of a full disk stays small.
//!
//! A block knows which nodes, devices and resources occur in it, from when to when, and how many bytes of it are whose.
//! Blocks are ordered by the numbers of their batches: the offsets at which they were stored first. A block never spans two
//! segments of the journal, so it is dropped with its segment; or it lies in a pack ([`crate::pack`]), which has a place of
//! its own. Names are kept as long as a block uses them ([`crate::names`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::batch::Head;
use crate::names::{NameId, Names, any_device_key, device_key, node_key, resource_key};

/// A query reads whole blocks: smaller ones cost memory, larger ones reading in vain.
pub(crate) const BLOCK_BYTES: u64 = 256 * 1024;

/// Most devices that a block names; beyond it a node's part of the block may hold any device.
const BLOCK_DEVICES_MAX: usize = 4_096;

/// Most resources that a block names; beyond it the block may hold any.
const BLOCK_RESOURCES_MAX: usize = 256;

/// Blocks that are looked at while the index is locked once.
const LOOK_MAX: usize = 4_096;

/// The index of all stored batches.
#[derive(Default)]
pub(crate) struct Index {
    /// By the number of the first batch.
    blocks: BTreeMap<u64, Block>,
    names: Names,
    /// Bytes of each node, by the number of its name.
    held: HashMap<NameId, u64>,
    events: u64,
    /// Blocks that are not in the checkpoint as they are.
    changed: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Block {
    /// Number after its last batch.
    end: u64,
    /// Where the pack is; batches of a block without one are at the offsets of their numbers.
    pack: Option<u64>,
    /// Offset at which its segment begins.
    segment: u64,
    bytes: u64,
    events: u64,
    span: Option<(i64, i64)>,
    /// Ascending.
    nodes: Vec<(NameId, u64)>,
    /// Devices with their node, and nodes that may have any device here; ascending.
    devices: Vec<NameId>,
    /// Ascending.
    resources: Vec<NameId>,
    has_other_resources: bool,
}

/// A block as the checkpoint keeps it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StoredBlock {
    end: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pack: Option<u64>,
    segment: u64,
    bytes: u64,
    events: u64,
    span: Option<(i64, i64)>,
    nodes: BTreeMap<String, StoredNode>,
    resources: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_other_resources: bool,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredNode {
    bytes: u64,
    devices: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_other_devices: bool,
}

impl StoredBlock {
    /// The offset in the journal from which on it is there.
    pub(crate) fn location(&self, start: u64) -> u64 {
        self.pack.unwrap_or(start)
    }
}

/// Which blocks a query has to read.
pub(crate) struct Filter<'q> {
    pub(crate) node: Option<&'q str>,
    pub(crate) device: Option<&'q str>,
    pub(crate) resource: Option<&'q str>,
    pub(crate) from: Option<i64>,
    pub(crate) to: Option<i64>,
}

impl Filter<'_> {
    /// Whether readings from `span` may be asked for; `from` is inclusive, `to` exclusive.
    pub(crate) fn meets(&self, span: Option<(i64, i64)>) -> bool {
        span.is_some_and(|(first, last)| {
            self.from.is_none_or(|from| last >= from) && self.to.is_none_or(|to| first < to)
        })
    }

    /// Whether a batch may hold what is asked for.
    pub(crate) fn meets_head(&self, head: &Head) -> bool {
        self.node.is_none_or(|node| node == head.node)
            && self.device.is_none_or(|device| head.devices.may_hold(device))
            && self.resource.is_none_or(|resource| head.resources.may_hold(resource))
            && self.meets(head.span)
    }
}

/// In which order readings come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were stored.
    #[default]
    Oldest,
    /// What was stored last comes first.
    Newest,
}

/// A block to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Numbers of its batches.
    pub(crate) numbers: Range<u64>,
    /// Where its pack is; without one the numbers are the offsets.
    pub(crate) pack: Option<u64>,
}

/// The blocks that [`Index::find`] came upon.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    pub(crate) blocks: Vec<Found>,
    /// Where to look further; none at the end.
    pub(crate) resume: Option<u64>,
}

/// A filter with the numbers of its names.
struct Resolved<'f, 'q> {
    filter: &'f Filter<'q>,
    node: Option<Option<NameId>>,
    devices: Option<Vec<NameId>>,
    resource: Option<Option<NameId>>,
}

impl Resolved<'_, '_> {
    fn matches(&self, block: &Block) -> bool {
        let has = |ids: &[NameId], id: &NameId| ids.binary_search(id).is_ok();
        self.node.is_none_or(|id| id.is_some_and(|id| block.nodes.binary_search_by_key(&id, |node| node.0).is_ok()))
            && self.devices.as_ref().is_none_or(|ids| ids.iter().any(|id| has(&block.devices, id)))
            && self
                .resource
                .is_none_or(|id| block.has_other_resources || id.is_some_and(|id| has(&block.resources, &id)))
            && self.filter.meets(block.span)
    }
}

fn insert_sorted(ids: &mut Vec<NameId>, id: NameId) -> bool {
    match ids.binary_search(&id) {
        Ok(_) => false,
        Err(at) => {
            ids.insert(at, id);
            true
        }
    }
}

impl Block {
    fn location(&self, start: u64) -> u64 {
        self.pack.unwrap_or(start)
    }

    /// Takes a name in, if it is new here and the bounds allow it; false when they do not.
    fn name_device(&mut self, names: &mut Names, key: &str, node: NameId) -> bool {
        if names.find(key).is_some_and(|id| self.devices.binary_search(&id).is_ok()) {
            return true;
        }
        if self.devices.len() >= BLOCK_DEVICES_MAX {
            return false;
        }
        let Some(id) = names.take_bounded(key, Some(node)) else { return false };
        insert_sorted(&mut self.devices, id)
    }

    fn name_any_device(&mut self, names: &mut Names, node: &str) {
        let key = any_device_key(node);
        if names.find(&key).is_none_or(|id| self.devices.binary_search(&id).is_err()) {
            insert_sorted(&mut self.devices, names.take(&key));
        }
    }

    fn name_resource(&mut self, names: &mut Names, resource: &str) {
        let key = resource_key(resource);
        if names.find(&key).is_some_and(|id| self.resources.binary_search(&id).is_ok()) {
            return;
        }
        let taken = (self.resources.len() < BLOCK_RESOURCES_MAX).then(|| names.take_bounded(&key, None)).flatten();
        match taken {
            Some(id) => drop(insert_sorted(&mut self.resources, id)),
            None => self.has_other_resources = true,
        }
    }

    /// Adds bytes of a node and answers the number of its name.
    fn name_node(&mut self, names: &mut Names, node: &str, bytes: u64) -> NameId {
        let key = node_key(node);
        let known = names.find(&key).and_then(|id| self.nodes.binary_search_by_key(&id, |node| node.0).ok());
        match known {
            Some(at) => {
                self.nodes[at].1 += bytes;
                self.nodes[at].0
            }
            None => {
                let id = names.take(&key);
                let at = self.nodes.partition_point(|node| node.0 < id);
                self.nodes.insert(at, (id, bytes));
                id
            }
        }
    }

    fn add(&mut self, names: &mut Names, number: u64, bytes: u64, head: &Head) -> NameId {
        let node = self.name_node(names, &head.node, bytes);
        let mut has_others = head.devices.and_others;
        for device in &head.devices.names {
            has_others |= !self.name_device(names, &device_key(&head.node, device), node);
        }
        if has_others {
            self.name_any_device(names, &head.node);
        }
        for resource in &head.resources.names {
            self.name_resource(names, resource);
        }
        self.has_other_resources |= head.resources.and_others;
        self.end = self.end.max(number + 1);
        self.bytes += bytes;
        self.events = self.events.saturating_add(head.events as u64);
        self.span = match (self.span, head.span) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
        node
    }
}

impl Index {
    /// Adds the batch stored at `number`, in the segment that begins at `segment`. Batches of different nodes may come out of
    /// order.
    pub(crate) fn add(&mut self, number: u64, segment: u64, bytes: u64, head: &Head) {
        let newest = self.blocks.last_key_value().map(|(start, _)| *start);
        let before = self.blocks.range(..=number).next_back();
        let start = before.filter(|(start, block)| {
            let is_finished = Some(**start) == newest && block.bytes >= BLOCK_BYTES && number >= block.end;
            block.pack.is_none() && block.segment == segment && !is_finished
        });
        let start = start.map_or(number, |(start, _)| *start);
        let block = self.blocks.entry(start).or_insert_with(|| Block { segment, ..Block::default() });
        let node = block.add(&mut self.names, number, bytes, head);
        *self.held.entry(node).or_default() += bytes;
        self.events = self.events.saturating_add(head.events as u64);
        self.changed.insert(start);
    }

    /// Adds a pack stored at `offset`: its numbers, and length and head of each batch.
    pub(crate) fn add_pack(&mut self, numbers: Range<u64>, offset: u64, segment: u64, batches: &[(u64, u64, Head)]) {
        let mut block = Block { pack: Some(offset), segment, ..Block::default() };
        for (number, bytes, head) in batches {
            let node = block.add(&mut self.names, *number, *bytes, head);
            *self.held.entry(node).or_default() += bytes;
            self.events = self.events.saturating_add(head.events as u64);
        }
        block.end = block.end.max(numbers.end);
        self.remove(numbers.start);
        self.blocks.insert(numbers.start, block);
        self.changed.insert(numbers.start);
    }

    fn remove(&mut self, start: u64) {
        let Some(block) = self.blocks.remove(&start) else { return };
        for (node, bytes) in &block.nodes {
            if let Some(held) = self.held.get_mut(node) {
                *held = held.saturating_sub(*bytes);
                if *held == 0 {
                    self.held.remove(node);
                }
            }
        }
        self.events = self.events.saturating_sub(block.events);
        for id in block.devices.iter().chain(&block.resources).chain(block.nodes.iter().map(|(id, _)| id)) {
            self.names.release(*id);
        }
        self.changed.insert(start);
    }

    /// Forgets blocks whose segment lies before `first`.
    pub(crate) fn drop_before(&mut self, first: u64) {
        let dropped = self.blocks.iter().filter(|(start, block)| block.location(**start) < first);
        let dropped: Vec<u64> = dropped.map(|(start, _)| *start).collect();
        dropped.into_iter().for_each(|start| self.remove(start));
    }

    /// Where the newest block begins that may still grow.
    pub(crate) fn open_block(&self) -> Option<u64> {
        self.blocks.last_key_value().filter(|(_, block)| block.pack.is_none()).map(|(start, _)| *start)
    }

    /// Where the block begins that a batch at `offset` belongs to.
    pub(crate) fn block_of(&self, offset: u64) -> u64 {
        let before = self.blocks.range(..=offset).next_back().filter(|(_, block)| block.pack.is_none());
        before.map_or(offset, |(start, _)| *start)
    }

    /// Where the pack at `offset` begins, if the index knows it.
    pub(crate) fn has_pack(&self, from: u64, offset: u64) -> bool {
        self.blocks.get(&from).is_some_and(|block| block.pack == Some(offset))
    }

    /// Whether any block lies in a pack.
    #[cfg(test)]
    pub(crate) fn has_packs(&self) -> bool {
        self.blocks.values().any(|block| block.pack.is_some())
    }

    /// Whether a block that is not of the segment at `segment` lies between two numbers.
    pub(crate) fn is_parted(&self, after: u64, before: u64, segment: u64) -> bool {
        after + 1 < before && self.blocks.range(after + 1..before).any(|(_, block)| block.segment != segment)
    }

    /// Bytes of each node in the segment that begins at `segment`, and in all.
    pub(crate) fn shares(&self, segment: u64) -> Vec<(String, u64, u64)> {
        let mut here: HashMap<NameId, u64> = HashMap::new();
        for block in self.blocks.values().filter(|block| block.segment == segment) {
            for (node, bytes) in &block.nodes {
                *here.entry(*node).or_default() += bytes;
            }
        }
        let all = |id: &NameId| self.held.get(id).copied().unwrap_or(0);
        here.iter().map(|(id, bytes)| (self.names.key(*id)[1..].to_owned(), *bytes, all(id))).collect()
    }

    /// Nodes of which anything is held.
    pub(crate) fn nodes(&self) -> usize {
        self.held.len()
    }

    /// Takes out what differs from the checkpoint: blocks whose place is before `mark`, and blocks that went (`None`).
    pub(crate) fn take_changed(&mut self, mark: u64) -> Vec<(u64, Option<StoredBlock>)> {
        let starts = std::mem::take(&mut self.changed);
        let mut taken = Vec::new();
        for start in starts {
            match self.blocks.get(&start) {
                Some(block) if block.location(start) >= mark => drop(self.changed.insert(start)),
                Some(block) => taken.push((start, Some(self.store(block)))),
                None => taken.push((start, None)),
            }
        }
        taken
    }

    /// Blocks that the checkpoint did not take after all, or does not need.
    pub(crate) fn mark_changed(&mut self, starts: impl IntoIterator<Item = u64>) {
        self.changed.extend(starts);
    }

    fn store(&self, block: &Block) -> StoredBlock {
        let mut nodes: BTreeMap<String, StoredNode> = BTreeMap::new();
        for (id, bytes) in &block.nodes {
            nodes.entry(self.names.key(*id)[1..].to_owned()).or_default().bytes = *bytes;
        }
        for key in block.devices.iter().map(|id| self.names.key(*id)) {
            match (key.strip_prefix('a'), key[1..].split_once('/')) {
                (Some(node), _) => nodes.entry(node.to_owned()).or_default().has_other_devices = true,
                (None, Some((node, device))) => {
                    nodes.entry(node.to_owned()).or_default().devices.push(device.to_owned());
                }
                (None, None) => {}
            }
        }
        let resources = block.resources.iter().map(|id| self.names.key(*id)[1..].to_owned()).collect();
        StoredBlock {
            end: block.end,
            pack: block.pack,
            segment: block.segment,
            bytes: block.bytes,
            events: block.events,
            span: block.span,
            nodes,
            resources,
            has_other_resources: block.has_other_resources,
        }
    }

    /// Takes a block from the checkpoint over.
    pub(crate) fn restore(&mut self, start: u64, stored: StoredBlock) {
        let StoredBlock { end, pack, segment, bytes, events, span, nodes, resources, has_other_resources } = stored;
        let mut block = Block { end, pack, segment, bytes, events, span, has_other_resources, ..Block::default() };
        for (name, node) in &nodes {
            let id = block.name_node(&mut self.names, name, node.bytes);
            let held = self.held.entry(id).or_default();
            *held = held.saturating_add(node.bytes);
            let mut has_others = node.has_other_devices;
            for device in &node.devices {
                has_others |= !block.name_device(&mut self.names, &device_key(name, device), id);
            }
            if has_others {
                block.name_any_device(&mut self.names, name);
            }
        }
        for resource in &resources {
            block.name_resource(&mut self.names, resource);
        }
        self.events = self.events.saturating_add(events);
        self.blocks.insert(start, block);
    }

    /// Blocks that may hold what `filter` wants, some at a time: those with numbers from `at` on, or from `at` back.
    pub(crate) fn find(&self, order: Order, at: u64, filter: &Filter, blocks_max: usize) -> Finding {
        let resolved = self.resolve(filter);
        let mut finding = Finding::default();
        let begin = match order {
            Order::Oldest => self.blocks.range(..=at).next_back().map_or(at, |(start, _)| *start),
            Order::Newest => 0,
        };
        let blocks: Box<dyn Iterator<Item = (&u64, &Block)>> = match order {
            Order::Oldest => Box::new(self.blocks.range(begin..).filter(|(_, block)| block.end > at)),
            Order::Newest => Box::new(self.blocks.range(..=at).rev()),
        };
        let mut looked = 0;
        for (start, block) in blocks {
            looked += 1;
            if resolved.matches(block) {
                finding.blocks.push(Found { numbers: *start..block.end, pack: block.pack });
            }
            if finding.blocks.len() >= blocks_max || looked >= LOOK_MAX {
                finding.resume = match order {
                    Order::Oldest => Some(block.end),
                    Order::Newest => start.checked_sub(1),
                };
                break;
            }
        }
        finding
    }

    fn resolve<'f, 'q>(&self, filter: &'f Filter<'q>) -> Resolved<'f, 'q> {
        let names = &self.names;
        let devices = match (filter.node, filter.device) {
            (_, None) => None,
            (Some(node), Some(device)) => {
                let keys = [device_key(node, device), any_device_key(node)];
                Some(keys.iter().filter_map(|key| names.find(key)).collect())
            }
            (None, Some(device)) => Some(names.devices_named(device)),
        };
        Resolved {
            filter,
            node: filter.node.map(|node| names.find(&node_key(node))),
            devices,
            resource: filter.resource.map(|resource| names.find(&resource_key(resource))),
        }
    }

    /// Events in all blocks.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// Bytes of names in memory.
    pub(crate) fn name_bytes(&self) -> usize {
        self.names.bytes()
    }
}
