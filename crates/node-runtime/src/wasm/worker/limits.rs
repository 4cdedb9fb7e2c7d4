//! What a module may allocate of the node, all its memories and tables together.
//!
//! A pod's memory limit is held by its control group, which kills; the engine counts as well, so that `memory.grow` fails as
//! the specification has it and a program can handle that. A pod that names no limit would be held by nothing: a table of
//! references alone grows to gigabytes in seconds. So there is a default, which a limit of the pod's own replaces.

use wasmtime::ResourceLimiter;

/// Linear memory of a module whose pod names no limit.
pub const MEMORY_BYTES_DEFAULT: usize = 256 << 20;

/// Elements of all tables of such a module: ten times what large programs have as functions to be called by reference.
pub const TABLE_ELEMENTS_DEFAULT: usize = 100_000;

/// What the engine spends on one element.
const ELEMENT_BYTES: usize = 16;

/// Instances, tables and memories of one component. Languages' tools produce some ten of each.
const PARTS_MAX: usize = 1000;

/// Counts what is allocated.
#[derive(Debug)]
pub struct Allowance {
    memory_bytes_max: usize,
    table_elements_max: usize,
    is_default: bool,
    memory_bytes: usize,
    table_elements: usize,
    denied: Option<&'static str>,
}

impl Allowance {
    /// Of a module whose pod has this memory limit.
    pub fn new(memory_bytes_max: Option<usize>) -> Self {
        let elements = memory_bytes_max.map_or(0, |bytes| bytes / ELEMENT_BYTES);
        Self {
            memory_bytes_max: memory_bytes_max.unwrap_or(MEMORY_BYTES_DEFAULT),
            table_elements_max: elements.max(TABLE_ELEMENTS_DEFAULT),
            is_default: memory_bytes_max.is_none(),
            memory_bytes: 0,
            table_elements: 0,
            denied: None,
        }
    }

    /// Which limit the module has met: what people need to know when it fails afterwards.
    pub fn note(&self) -> Option<String> {
        let (amount, what) = match self.denied? {
            MEMORY => (self.memory_bytes_max >> 20, "MiB of memory"),
            _ => (self.table_elements_max, "table elements"),
        };
        let which = if self.is_default {
            "a module's default; set `resources.limits.memory` for another one"
        } else {
            "by the container's `resources.limits.memory`"
        };
        Some(format!("it had asked for more than {amount} {what}, its limit ({which})"))
    }
}

const MEMORY: &str = "memory";
const TABLE: &str = "table";

impl ResourceLimiter for Allowance {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        Ok(take(total, self.memory_bytes_max, &mut self.memory_bytes) || deny(&mut self.denied, MEMORY))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        Ok(take(total, self.table_elements_max, &mut self.table_elements) || deny(&mut self.denied, TABLE))
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

fn take(total: usize, max: usize, taken: &mut usize) -> bool {
    let fits = total <= max;
    if fits {
        *taken = total;
    }
    fits
}

fn deny(denied: &mut Option<&'static str>, what: &'static str) -> bool {
    *denied = Some(what);
    false
}
