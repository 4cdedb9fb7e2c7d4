//! What is watched, and from what point on it is short: as in `evictionHard`, `evictionSoft` and `evictionMinimumReclaim` of upstream's
//! kubelets.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

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
    /// For how long it may be short is not said.
    #[error("`{0}` has no grace period; say how many seconds in evictionSoftGracePeriodSeconds")]
    NoGrace(String),
    /// It is said for how long something may be short that is not watched so.
    #[error("`{0}` has a grace period in evictionSoftGracePeriodSeconds, and no threshold in evictionSoft")]
    NoThreshold(String),
}

/// What may be short for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftThreshold {
    /// So much there has to be.
    pub amount: Amount,
    /// For so long there may be less.
    pub grace: Duration,
}

/// When pods are evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictionSettings {
    /// Of what there has to be how much; what is not named is not watched.
    pub hard: BTreeMap<Signal, Amount>,
    /// The same, of which there may be less for a while.
    pub soft: BTreeMap<Signal, SoftThreshold>,
    /// How much more than a threshold there has to be again before nothing more is ended for it.
    pub minimum_reclaim: BTreeMap<Signal, Amount>,
    /// What containers get at most to end by themselves when something was short for too long.
    pub max_pod_grace: Duration,
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
        Self {
            hard: hard.into(),
            soft: BTreeMap::new(),
            minimum_reclaim: BTreeMap::new(),
            max_pod_grace: Duration::ZERO,
            pressure_transition: Duration::from_secs(300),
            period: Duration::from_secs(10),
        }
    }
}

impl EvictionSettings {
    /// Reads thresholds as they are written in a kubelet's settings: each replaces its default, `0` and `0%` turn it off.
    ///
    /// # Errors
    /// All that cannot be used.
    pub fn set_hard(&mut self, thresholds: &BTreeMap<String, String>) -> Result<(), Vec<BadThreshold>> {
        for (signal, amount) in read(thresholds)? {
            match amount {
                Amount::Units(0) | Amount::Share(0) => drop(self.hard.remove(&signal)),
                amount => drop(self.hard.insert(signal, amount)),
            }
        }
        Ok(())
    }

    /// Reads thresholds that may be met for a while, and for how many seconds each; `0` and `0%` are none.
    ///
    /// # Errors
    /// All that cannot be used.
    pub fn set_soft(
        &mut self,
        thresholds: &BTreeMap<String, String>,
        grace_seconds: &BTreeMap<String, u64>,
    ) -> Result<(), Vec<BadThreshold>> {
        let amounts = read(thresholds)?;
        let missing = thresholds.keys().filter(|name| !grace_seconds.contains_key(*name));
        let needless = grace_seconds.keys().filter(|name| !thresholds.contains_key(*name));
        let mistakes: Vec<BadThreshold> = missing
            .map(|name| BadThreshold::NoGrace(name.clone()))
            .chain(needless.map(|name| match signal(name) {
                Some(_) => BadThreshold::NoThreshold(name.clone()),
                None => BadThreshold::Signal(name.clone()),
            }))
            .collect();
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let watched = amounts.into_iter().filter(|(_, amount)| !matches!(amount, Amount::Units(0) | Amount::Share(0)));
        let soft = watched.map(|(signal, amount)| {
            let seconds = grace_seconds.get(signal.name()).copied().unwrap_or_default();
            (signal, SoftThreshold { amount, grace: Duration::from_secs(seconds) })
        });
        self.soft = soft.collect();
        Ok(())
    }

    /// Reads how much more than a threshold there has to be again.
    ///
    /// # Errors
    /// All that cannot be used.
    pub fn set_minimum_reclaim(&mut self, amounts: &BTreeMap<String, String>) -> Result<(), Vec<BadThreshold>> {
        self.minimum_reclaim = read(amounts)?.into_iter().collect();
        Ok(())
    }

    /// Those of which there is too little, the most urgent first. What was met `before` is met until there is as much more as it says.
    pub(crate) fn met(&self, observed: &BTreeMap<Signal, Observation>, before: &[Threshold]) -> Vec<Threshold> {
        let hard = self.hard.iter().map(|(signal, amount)| (*signal, *amount, None));
        let soft = self.soft.iter().map(|(signal, soft)| (*signal, soft.amount, Some(soft.grace)));
        let met = hard.chain(soft).filter_map(|(signal, amount, grace)| {
            let observation = *observed.get(&signal)?;
            let threshold = Threshold { signal, threshold: amount.of(observation.capacity), observation, grace };
            let was_met = before.iter().any(|one| one.is_same(&threshold));
            let reclaim = self.minimum_reclaim.get(&signal).filter(|_| was_met);
            let needed =
                threshold.threshold.saturating_add(reclaim.map_or(0, |amount| amount.of(observation.capacity)));
            (observation.available < needed).then_some(threshold)
        });
        met.collect()
    }
}

/// Signals and amounts as they are written in settings.
fn read(given: &BTreeMap<String, String>) -> Result<Vec<(Signal, Amount)>, Vec<BadThreshold>> {
    let (mut amounts, mut mistakes) = (Vec::new(), Vec::new());
    for (name, text) in given {
        match (signal(name), parse(text)) {
            (None, _) => mistakes.push(BadThreshold::Signal(name.clone())),
            (_, None) => mistakes.push(BadThreshold::Amount { signal: name.clone(), amount: text.clone() }),
            (Some(signal), Some(amount)) => amounts.push((signal, amount)),
        }
    }
    if mistakes.is_empty() { Ok(amounts) } else { Err(mistakes) }
}

fn signal(name: &str) -> Option<Signal> {
    Signal::ALL.into_iter().find(|signal| signal.name() == name)
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
    /// For how long there may be less; `None` is for no moment.
    pub grace: Option<Duration>,
}

impl Threshold {
    /// Whether it is the same one, whatever was observed.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.signal, self.grace) == (other.signal, other.grace)
    }
}

/// Since when each threshold has been met without a break.
#[derive(Debug, Default)]
pub(crate) struct Since(Vec<(Threshold, Instant)>);

impl Since {
    /// Takes note of those that are met now, and answers the first one for which something has to be done.
    pub(crate) fn look(&mut self, met: &[Threshold], now: Instant) -> Option<Threshold> {
        let since = |threshold: &Threshold| {
            let known = self.0.iter().find(|(known, _)| known.is_same(threshold));
            known.map_or(now, |(_, since)| *since)
        };
        self.0 = met.iter().map(|threshold| (*threshold, since(threshold))).collect();
        let is_due = |(threshold, since): &&(Threshold, Instant)| {
            threshold.grace.is_none_or(|grace| now.duration_since(*since) >= grace)
        };
        self.0.iter().find(is_due).map(|(threshold, _)| *threshold)
    }

    /// Those that were met when it was looked last.
    pub(crate) fn met(&self) -> Vec<Threshold> {
        self.0.iter().map(|(threshold, _)| *threshold).collect()
    }
}

impl fmt::Display for Threshold {
    /// In upstream's words.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { signal, threshold, observation, .. } = self;
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
