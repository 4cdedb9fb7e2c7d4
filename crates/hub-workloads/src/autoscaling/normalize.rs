//! What becomes of a proposed number: not too soon, not too fast, and within bounds.
//!
//! Without a `behavior` pods leave only when none of the last five minutes' recommendations was for more, and at most double (or
//! become four) at a time. With one, each direction has its window, in which the most cautious recommendation holds, and policies
//! that bound the change within a period.

use std::time::Duration;

use tokio::time::Instant;

use super::views::{BehaviorView, RulesView};

/// The window of scaling down where nothing else is said.
const DOWN_WINDOW: Duration = Duration::from_secs(300);
/// As the API has it at most.
const WINDOW_MAX_S: i64 = 3600;
const PERIOD_MAX_S: i64 = 1800;
/// Without a behaviour pods become twice as many at a time, or so many if that is more.
const UP_FACTOR: i64 = 2;
const UP_MIN: i64 = 4;

/// What was recommended and done lately. It can be lost: then nothing is scaled down for a window.
#[derive(Debug, Default)]
pub(super) struct History {
    recommendations: Vec<(Instant, i64)>,
    /// By how many pods, and when.
    added: Vec<(Instant, i64)>,
    removed: Vec<(Instant, i64)>,
}

impl History {
    /// The number that a workload is found with counts as the first recommendation.
    pub fn begin(&mut self, current: i64, now: Instant) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// Notes that a workload was scaled, for the policies.
    pub fn scaled(&mut self, behavior: Option<&Behavior>, before: i64, after: i64, now: Instant) {
        let Some(behavior) = behavior else { return };
        let (events, change) = match after > before {
            true => (&mut self.added, after - before),
            false => (&mut self.removed, before - after),
        };
        // The policies of either direction look at what was done in both.
        let policies = behavior.up.policies.iter().chain(&behavior.down.policies);
        let longest = policies.map(|policy| policy.period).max().unwrap_or_default();
        events.retain(|(at, _)| now.duration_since(*at) <= longest);
        events.push((now, change));
    }

    fn recommend(&mut self, desired: i64, window: Duration, now: Instant) {
        self.recommendations.retain(|(at, _)| now.duration_since(*at) <= window);
        self.recommendations.push((now, desired));
    }

    /// The pods that there were a period ago, by what was done since.
    fn before(&self, period: Duration, current: i64, now: Instant) -> i64 {
        let sum = |events: &[(Instant, i64)]| {
            let recent = events.iter().filter(|(at, _)| now.duration_since(*at) < period);
            recent.fold(0_i64, |sum, (_, change)| sum.saturating_add(*change))
        };
        current.saturating_sub(sum(&self.added)).saturating_add(sum(&self.removed))
    }
}

/// How a workload may be scaled.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Behavior {
    pub up: Rules,
    pub down: Rules,
}

/// How it may be scaled in one direction.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rules {
    pub window: Duration,
    pub select: Select,
    pub policies: Vec<Policy>,
}

/// Which policy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Select {
    /// The one that allows the largest change.
    Max,
    /// The one that allows the smallest change.
    Min,
    /// None: the workload is not scaled in this direction.
    Disabled,
}

/// How much may change in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub is_percent: bool,
    pub value: i64,
    pub period: Duration,
}

impl Behavior {
    pub fn read(view: &BehaviorView) -> Self {
        Self { up: Rules::read(view.scale_up.as_ref(), true), down: Rules::read(view.scale_down.as_ref(), false) }
    }
}

impl Rules {
    /// The API has set all defaults but the window of scaling down; should there be no policies, all may change.
    fn read(view: Option<&RulesView>, is_up: bool) -> Self {
        let default = if is_up { Duration::ZERO } else { DOWN_WINDOW };
        let seconds = |value: i64, max: i64| Duration::from_secs(u64::try_from(value.clamp(0, max)).unwrap_or(0));
        let window = view.and_then(|view| view.stabilization_window_seconds);
        let policies = view.map_or(&[][..], |view| &view.policies).iter().map(|policy| Policy {
            is_percent: policy.r#type == "Percent",
            value: policy.value.clamp(0, i64::from(i32::MAX)),
            period: seconds(policy.period_seconds, PERIOD_MAX_S),
        });
        Self {
            window: window.map_or(default, |window| seconds(window, WINDOW_MAX_S)),
            select: match view.map_or("", |view| &view.select_policy) {
                "Min" => Select::Min,
                "Disabled" => Select::Disabled,
                _ => Select::Max,
            },
            policies: policies.collect(),
        }
    }
}

/// Reason and message of a condition.
pub(super) type Why = (&'static str, &'static str);

/// A number that a workload may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Normalized {
    pub replicas: i64,
    /// Of `AbleToScale`, which is True.
    pub able: Why,
    /// Of `ScalingLimited`, and whether it is.
    pub limited: Why,
    pub is_limited: bool,
}

/// Between what a workload's number must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub min: i64,
    pub max: i64,
}

const READY: Why = ("ReadyForNewScale", "recommended size matches current size");
const DOWN_STABILIZED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const WITHIN: Why = ("DesiredWithinRange", "the desired count is within the acceptable range");
const UP_LIMIT: Why = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: Why =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");
const TOO_MANY: Why = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: Why = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");

/// Decides, and notes the recommendation.
pub(super) fn normalize(
    history: &mut History,
    behavior: Option<&Behavior>,
    current: i64,
    desired: i64,
    bounds: Bounds,
    now: Instant,
) -> Normalized {
    let (stabilized, why) = match behavior {
        None => (stabilize_down(history, desired, now), DOWN_STABILIZED),
        Some(behavior) => {
            let why = if desired >= current { UP_STABILIZED } else { DOWN_STABILIZED };
            (stabilize(history, behavior, current, desired, now), why)
        }
    };
    let (replicas, limited) = match behavior {
        None => limit(current, stabilized, bounds),
        Some(behavior) => limit_rate(history, behavior, current, stabilized, bounds, now),
    };
    let able = if stabilized == desired { READY } else { why };
    Normalized { replicas, able, limited, is_limited: replicas != stabilized }
}

/// The highest recommendation of the window.
fn stabilize_down(history: &mut History, desired: i64, now: Instant) -> i64 {
    let recent = history.recommendations.iter().filter(|(at, _)| now.duration_since(*at) <= DOWN_WINDOW);
    let highest = recent.map(|(_, replicas)| *replicas).max().unwrap_or(desired).max(desired);
    history.recommend(desired, DOWN_WINDOW, now);
    highest
}

/// The number nearest to the current one that lies between the lowest recommendation of the one window and the highest of the
/// other.
fn stabilize(history: &mut History, behavior: &Behavior, current: i64, desired: i64, now: Instant) -> i64 {
    let within = |window: Duration| {
        let recent = history.recommendations.iter().filter(move |(at, _)| now.duration_since(*at) < window);
        recent.map(|(_, replicas)| *replicas)
    };
    let lowest = within(behavior.up.window).min().unwrap_or(desired).min(desired);
    let highest = within(behavior.down.window).max().unwrap_or(desired).max(desired);
    history.recommend(desired, behavior.up.window.max(behavior.down.window), now);
    current.max(lowest).min(highest)
}

fn limit(current: i64, desired: i64, bounds: Bounds) -> (i64, Why) {
    let up = current.saturating_mul(UP_FACTOR).max(UP_MIN);
    let (max, why) = if bounds.max > up { (up, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
    if desired < bounds.min {
        (bounds.min, TOO_FEW)
    } else if desired > max {
        (max, why)
    } else {
        (desired, WITHIN)
    }
}

fn limit_rate(
    history: &History,
    behavior: &Behavior,
    current: i64,
    desired: i64,
    bounds: Bounds,
    now: Instant,
) -> (i64, Why) {
    if desired > current {
        let up = up_limit(history, &behavior.up, current, now).max(current);
        let (max, why) = if bounds.max > up { (up, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
        if desired > max {
            return (max, why);
        }
    } else if desired < current {
        let down = down_limit(history, &behavior.down, current, now).min(current);
        let (min, why) = if bounds.min < down { (down, DOWN_LIMIT) } else { (bounds.min, TOO_FEW) };
        if desired < min {
            return (min, why);
        }
    }
    (desired, WITHIN)
}

fn up_limit(history: &History, rules: &Rules, current: i64, now: Instant) -> i64 {
    let limits = rules.policies.iter().map(|policy| {
        let before = history.before(policy.period, current, now);
        match policy.is_percent {
            false => before.saturating_add(policy.value),
            // Rounded up: a share of few pods would otherwise never be one.
            true => (before as f64 * (1.0 + policy.value as f64 / 100.0)).ceil() as i64,
        }
    });
    match rules.select {
        Select::Disabled => current,
        Select::Min => limits.min().unwrap_or(i64::MAX),
        Select::Max => limits.max().unwrap_or(i64::MAX),
    }
}

fn down_limit(history: &History, rules: &Rules, current: i64, now: Instant) -> i64 {
    let limits = rules.policies.iter().map(|policy| {
        let before = history.before(policy.period, current, now);
        match policy.is_percent {
            false => before.saturating_sub(policy.value),
            true => (before as f64 * (1.0 - policy.value as f64 / 100.0)) as i64,
        }
    });
    match rules.select {
        Select::Disabled => current,
        // The smallest change leaves the most.
        Select::Min => limits.max().unwrap_or(0),
        Select::Max => limits.min().unwrap_or(0),
    }
}
