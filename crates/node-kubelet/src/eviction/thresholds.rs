//! What is watched, and from what point on it is short: as in `evictionHard` of upstream's kubelets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use api_kube::Quantity;

use crate::stats::{Disk, NodeFigures};

/// Something that a node can run short of, in the order in which it is reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory that programs can still have.
    MemoryAvailable,
    /// Space on the disk of the data directory.
    NodeFsAvailable,
    /// Inodes there.
    NodeFsInodesFree,
    /// Space on the disk of the images, where that is another one.
    ImageFsAvailable,
    /// Process ids.
    PidAvailable,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::MemoryAvailable,
        Self::NodeFsAvailable,
        Self::NodeFsInodesFree,
        Self::ImageFsAvailable,
        Self::PidAvailable,
    ];

    /// As it is written in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodeFsAvailable => "nodefs.available",
            Self::NodeFsInodesFree => "nodefs.inodesFree",
            Self::ImageFsAvailable => "imagefs.available",
            Self::PidAvailable => "pid.available",
        }
    }

    /// As it is called in messages.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodeFsAvailable | Self::ImageFsAvailable => "ephemeral-storage",
            Self::NodeFsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    pub(crate) fn is_disk(self) -> bool {
        matches!(self, Self::NodeFsAvailable | Self::NodeFsInodesFree | Self::ImageFsAvailable)
    }

    /// So much of it as it is written in messages.
    pub(crate) fn quantity(self, amount: u64) -> Quantity {
        match self {
            Self::NodeFsInodesFree | Self::PidAvailable => {
                Quantity::from_units(i64::try_from(amount).unwrap_or(i64::MAX))
            }
            Self::MemoryAvailable | Self::NodeFsAvailable | Self::ImageFsAvailable => Quantity::from_bytes(amount),
        }
    }
}

/// How much has to be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes, inodes or process ids.
    Units(u64),
    /// So many hundredths of a per cent of all there is.
    Share(u32),
    /// The smaller of the two.
    Lesser(u64, u32),
}

/// A share in hundredths of a per cent: all of it.
const WHOLE: u32 = 10_000;

impl Amount {
    fn of(self, capacity: u64) -> u64 {
        let share = |share: u32| {
            let part = u128::from(capacity) * u128::from(share) / u128::from(WHOLE);
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        match self {
            Self::Units(units) => units,
            Self::Share(part) => share(part),
            Self::Lesser(units, part) => units.min(share(part)),
        }
    }
}

/// Why a threshold cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadThreshold {
    /// Nothing is watched under this name.
    #[error(
        "`{0}` is not watched; use one of memory.available, nodefs.available, nodefs.inodesFree, imagefs.available, pid.available"
    )]
    Signal(String),
    /// It is no amount.
    #[error("`{signal}`: {amount:?} is neither a quantity such as 100Mi nor a part such as 10%")]
    Amount {
        /// Of what.
        signal: String,
        /// As it was given.
        amount: String,
    },
}

/// When pods are evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictionSettings {
    /// Of what there has to be how much; what is not named is not watched.
    pub hard: BTreeMap<Signal, Amount>,
    /// How long a condition of the Node holds after it was seen to hold last.
    pub pressure_transition: Duration,
    /// How often it is looked.
    pub period: Duration,
}

impl Default for EvictionSettings {
    /// Upstream's, but for memory on a machine of less than 1 GiB: 100 MiB would be pressure from the start.
    fn default() -> Self {
        let hard = [
            (Signal::MemoryAvailable, Amount::Lesser(100 << 20, 1000)),
            (Signal::NodeFsAvailable, Amount::Share(1000)),
            (Signal::NodeFsInodesFree, Amount::Share(500)),
            (Signal::ImageFsAvailable, Amount::Share(1500)),
        ];
        Self { hard: hard.into(), pressure_transition: Duration::from_secs(300), period: Duration::from_secs(10) }
    }
}

impl EvictionSettings {
    /// Reads thresholds as they are written in a kubelet's settings: each replaces its default, `0` and `0%` turn it off.
    ///
    /// # Errors
    /// All that cannot be used.
    pub fn set_hard(&mut self, thresholds: &BTreeMap<String, String>) -> Result<(), Vec<BadThreshold>> {
        let mut mistakes = Vec::new();
        for (name, text) in thresholds {
            let Some(signal) = Signal::ALL.into_iter().find(|signal| signal.name() == name) else {
                mistakes.push(BadThreshold::Signal(name.clone()));
                continue;
            };
            match parse(text) {
                Some(Amount::Units(0) | Amount::Share(0)) => drop(self.hard.remove(&signal)),
                Some(amount) => drop(self.hard.insert(signal, amount)),
                None => mistakes.push(BadThreshold::Amount { signal: name.clone(), amount: text.clone() }),
            }
        }
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
    }

    /// Those of which there is too little, in the order of signals.
    pub(crate) fn met(&self, observed: &BTreeMap<Signal, Observation>) -> Vec<Threshold> {
        let met = self.hard.iter().filter_map(|(signal, amount)| {
            let observation = *observed.get(signal)?;
            let threshold = amount.of(observation.capacity);
            (observation.available < threshold).then_some(Threshold { signal: *signal, threshold, observation })
        });
        met.collect()
    }
}

fn parse(text: &str) -> Option<Amount> {
    if let Some(part) = text.strip_suffix('%') {
        let part: f64 = part.parse().ok()?;
        let is_part = (0.0..=100.0).contains(&part);
        return is_part.then(|| Amount::Share((part * 100.0).round() as u32));
    }
    let quantity: Quantity = text.parse().ok()?;
    (!quantity.is_negative()).then(|| Amount::Units(quantity.value().unsigned_abs()))
}

/// How much there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    pub available: u64,
    pub capacity: u64,
}

/// Something of which there is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threshold {
    pub signal: Signal,
    /// So much there has to be.
    pub threshold: u64,
    pub observation: Observation,
}

impl fmt::Display for Threshold {
    /// In upstream's words.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { signal, threshold, observation } = self;
        write!(
            formatter,
            "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
            signal.resource(),
            signal.quantity(*threshold),
            signal.quantity(observation.available)
        )
    }
}

/// What there is of each; nothing of what the machine does not say.
pub(crate) fn observe(figures: &NodeFigures, images: Option<Disk>) -> BTreeMap<Signal, Observation> {
    let mut observed = BTreeMap::new();
    let mut put = |signal, available, capacity| {
        if capacity > 0 {
            observed.insert(signal, Observation { available, capacity });
        }
    };
    put(Signal::MemoryAvailable, figures.memory.available_bytes, figures.memory.total_bytes);
    if let Some(disk) = figures.disk {
        put(Signal::NodeFsAvailable, disk.available_bytes, disk.capacity_bytes);
        // Some file systems make them as they need them, and say that there are none.
        put(Signal::NodeFsInodesFree, disk.inodes_free, disk.inodes);
    }
    if let Some(disk) = images {
        put(Signal::ImageFsAvailable, disk.available_bytes, disk.capacity_bytes);
    }
    let processes_left = figures.processes_max.saturating_sub(figures.processes);
    put(Signal::PidAvailable, processes_left, figures.processes_max);
    observed
}
