//! What lies where: one entry for some 256 KiB of stored batches, so that the index of a full disk stays small.
//!
//! A block knows which (node, device) pairs occur in it and from when to when. Pairs are numbered once, so a block costs four
//! bytes for each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::batch::Head;

/// A query reads whole blocks: smaller ones cost memory, larger ones reading in vain.
const BLOCK_BYTES: u64 = 256 * 1024;

/// The index of all stored batches.
#[derive(Default)]
pub(crate) struct Index {
    /// By the offset at which they begin.
    blocks: BTreeMap<u64, Block>,
    pairs: Pairs,
}

#[derive(Default)]
struct Pairs {
    numbers: HashMap<String, HashMap<String, u32>>,
    count: u32,
}

#[derive(Clone, Debug, Default)]
struct Block {
    bytes: u64,
    events: u64,
    span: Option<(i64, i64)>,
    pairs: BTreeSet<u32>,
}

/// A block as the checkpoint keeps it.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredBlock {
    bytes: u64,
    events: u64,
    span: Option<(i64, i64)>,
    nodes: BTreeMap<String, Vec<String>>,
}

/// Which blocks a query has to read.
pub(crate) struct Filter<'q> {
    pub(crate) node: Option<&'q str>,
    pub(crate) device: Option<&'q str>,
    pub(crate) from: Option<i64>,
    pub(crate) to: Option<i64>,
}

impl Filter<'_> {
    /// Whether readings from `span` may be wanted; `from` is inclusive, `to` exclusive.
    pub(crate) fn meets(&self, span: Option<(i64, i64)>) -> bool {
        span.is_some_and(|(first, last)| {
            self.from.is_none_or(|from| last >= from) && self.to.is_none_or(|to| first < to)
        })
    }
}

impl Pairs {
    fn number(&mut self, node: &str, device: &str) -> u32 {
        let devices = match self.numbers.get_mut(node) {
            Some(devices) => devices,
            None => self.numbers.entry(node.to_owned()).or_default(),
        };
        if let Some(number) = devices.get(device) {
            return *number;
        }
        let number = self.count;
        self.count += 1;
        devices.insert(device.to_owned(), number);
        number
    }

    /// The pairs that a filter names; `None` when it names none, which means all.
    fn matching(&self, filter: &Filter) -> Option<BTreeSet<u32>> {
        match (filter.node, filter.device) {
            (None, None) => None,
            (Some(node), None) => Some(self.numbers.get(node).into_iter().flat_map(|d| d.values().copied()).collect()),
            (Some(node), Some(device)) => {
                Some(self.numbers.get(node).and_then(|devices| devices.get(device)).copied().into_iter().collect())
            }
            (None, Some(device)) => Some(self.numbers.values().filter_map(|d| d.get(device).copied()).collect()),
        }
    }
}

impl Index {
    /// Adds the batch stored at `offset`. Batches of different nodes may come out of order.
    pub(crate) fn add(&mut self, offset: u64, bytes: u64, head: &Head) {
        let numbers: Vec<u32> = head.devices.iter().map(|device| self.pairs.number(&head.node, device)).collect();
        let newest = self.blocks.last_key_value();
        if newest.is_none_or(|(start, block)| offset > *start && block.bytes >= BLOCK_BYTES)
            || self.blocks.range(..=offset).next_back().is_none()
        {
            self.blocks.insert(offset, Block::default());
        }
        let (_, block) = self.blocks.range_mut(..=offset).next_back().expect("a block begins at or before the offset");
        block.bytes += bytes;
        block.events += head.events as u64;
        block.span = match (block.span, head.span) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
        block.pairs.extend(numbers);
    }

    /// Forgets blocks that end before `first`, and names their offsets.
    pub(crate) fn trim(&mut self, first: u64) -> Vec<u64> {
        let starts: Vec<u64> = self.blocks.range(..=first).map(|(start, _)| *start).collect();
        // The last of them may reach beyond `first`.
        let gone = starts[..starts.len().saturating_sub(1)].to_vec();
        for start in &gone {
            self.blocks.remove(start);
        }
        gone
    }

    /// Offset at which the newest block begins: it may still grow.
    pub(crate) fn open_block(&self) -> Option<u64> {
        self.blocks.last_key_value().map(|(start, _)| *start)
    }

    /// Where the block begins that a batch at `offset` belongs to.
    pub(crate) fn block_of(&self, offset: u64) -> u64 {
        self.blocks.range(..=offset).next_back().map_or(offset, |(start, _)| *start)
    }

    /// Blocks in the range `[from, to)` of their beginnings, as the checkpoint keeps them.
    pub(crate) fn store(&self, from: u64, to: u64) -> Vec<(u64, StoredBlock)> {
        if from >= to {
            return Vec::new();
        }
        let mut names = vec![("", ""); self.pairs.count as usize];
        for (node, devices) in &self.pairs.numbers {
            for (device, number) in devices {
                names[*number as usize] = (node, device);
            }
        }
        let blocks = self.blocks.range(from..to).map(|(start, block)| {
            let mut nodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (node, device) in block.pairs.iter().map(|number| names[*number as usize]) {
                nodes.entry(node.to_owned()).or_default().push(device.to_owned());
            }
            (*start, StoredBlock { bytes: block.bytes, events: block.events, span: block.span, nodes })
        });
        blocks.collect()
    }

    /// Takes a block from the checkpoint over.
    pub(crate) fn restore(&mut self, start: u64, stored: StoredBlock) {
        let mut pairs = BTreeSet::new();
        for (node, devices) in &stored.nodes {
            pairs.extend(devices.iter().map(|device| self.pairs.number(node, device)));
        }
        let block = Block { bytes: stored.bytes, events: stored.events, span: stored.span, pairs };
        self.blocks.insert(start, block);
    }

    /// The first block at or after the one that holds `offset` which may hold what `filter` wants: its range of offsets;
    /// the newest one has no end.
    pub(crate) fn find(&self, offset: u64, filter: &Filter) -> Option<(u64, Option<u64>)> {
        let begin = self.blocks.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        let wanted = self.pairs.matching(filter);
        let mut blocks = self.blocks.range(begin..).peekable();
        while let Some((start, block)) = blocks.next() {
            let end = blocks.peek().map(|(next, _)| **next);
            let has_pair = wanted.as_ref().is_none_or(|wanted| !wanted.is_disjoint(&block.pairs));
            if has_pair && filter.meets(block.span) {
                return Some((*start, end));
            }
        }
        None
    }

    /// Events in all blocks.
    pub(crate) fn events(&self) -> u64 {
        self.blocks.values().map(|block| block.events).sum()
    }
}
