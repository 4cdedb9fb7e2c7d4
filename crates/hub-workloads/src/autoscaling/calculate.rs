//! How many pods a metric asks for: plain functions of the pods, what was measured, and the time.
//!
//! As upstream's replica calculator: the ratio of what is used and what should be used says how many pods there should be, unless
//! it is close enough to 1. What is not measured makes it cautious. A pod without a metric counts as one that uses nothing when
//! pods would be added, and as one that uses all that it should when they would be removed; a pod that is not ready counts only
//! when pods would be added, as one that uses nothing. Should that turn the direction round, nothing changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::views::PodView;

/// As upstream's flags have it by default: for so long after its start a pod's processor may be busy with starting,
const CPU_INITIALIZATION: Duration = Duration::from_secs(5 * 60);
/// and a pod that becomes not ready so soon after its start has never been ready.
const INITIAL_READINESS_DELAY: Duration = Duration::from_secs(30);
/// A tenth more or less is close enough.
pub(super) const TOLERANCE: f64 = 0.1;

/// What was measured of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    /// In thousandths.
    pub value: i64,
    pub at: Timestamp,
    pub window: Duration,
}

/// By the pods' names.
pub(super) type Samples = BTreeMap<String, Sample>;

/// How far from 1 a ratio may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tolerances {
    pub up: f64,
    pub down: f64,
}

impl Tolerances {
    fn has(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// One pod that is scaled.
#[derive(Clone, Debug, Default)]
pub(super) struct Pod {
    pub name: String,
    pub is_ignored: bool,
    pub is_pending: bool,
    /// Whether it is running and ready.
    pub is_ready: bool,
    pub started: Option<Timestamp>,
    /// Whether its condition Ready is False, and since when it is what it is.
    pub ready: Option<(bool, Timestamp)>,
}

/// Why a metric says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CalculateError {
    #[error("no pods returned by selector while calculating replica count")]
    NoPods,
    #[error("did not receive metrics for targeted pods (pods might be unready)")]
    NoneMeasured,
    #[error("no metrics returned matched known pods")]
    NoneKnown,
    #[error("the target is not more than nothing")]
    NoTarget,
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub replicas: i64,
    /// Percent of what is requested, where that was looked at.
    pub utilization: Option<i64>,
    /// In thousandths, of a pod on average.
    pub average: i64,
}

/// The situation in which all metrics are looked at.
#[derive(Clone, Copy)]
pub(super) struct Situation<'a> {
    pub current: i64,
    pub pods: &'a [Pod],
    pub tolerances: Tolerances,
    pub now: Timestamp,
}

/// Pods by what their metrics are worth.
#[derive(Debug, Default, PartialEq, Eq)]
struct Groups {
    ready: usize,
    /// They are not ready: what they use says nothing yet.
    unready: BTreeSet<String>,
    /// Nothing was measured.
    missing: BTreeSet<String>,
    /// They are on their way out.
    ignored: BTreeSet<String>,
}

fn group(situation: Situation<'_>, samples: &Samples, is_cpu: bool) -> Groups {
    let mut groups = Groups::default();
    for pod in situation.pods {
        let name = pod.name.clone();
        if pod.is_ignored {
            groups.ignored.insert(name);
        } else if pod.is_pending {
            groups.unready.insert(name);
        } else {
            match samples.get(&name) {
                None => drop(groups.missing.insert(name)),
                Some(sample) if is_cpu && is_unready(pod, *sample, situation.now) => {
                    groups.unready.insert(name);
                }
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// Whether a pod's use of its processor says nothing of its work yet.
fn is_unready(pod: &Pod, sample: Sample, now: Timestamp) -> bool {
    let (Some((is_false, since)), Some(started)) = (pod.ready, pod.started) else { return true };
    let after = |time: Timestamp, span: Duration| time.saturating_add(span).unwrap_or(Timestamp::MAX);
    if after(started, CPU_INITIALIZATION) > now {
        // One window must have passed since it became ready.
        is_false || sample.at < after(since, sample.window)
    } else {
        is_false && after(started, INITIAL_READINESS_DELAY) > since
    }
}

/// The pods that make up for a share of what they request; `requests` are in thousandths, of every pod.
pub(super) fn by_utilization(
    situation: Situation<'_>,
    samples: Samples,
    requests: &BTreeMap<String, i64>,
    target: i64,
    is_cpu: bool,
) -> Result<Proposal, CalculateError> {
    if target <= 0 {
        return Err(CalculateError::NoTarget);
    }
    let ratio = |samples: &Samples| {
        let (mut used, mut requested, mut count) = (0_i128, 0_i128, 0_i128);
        for (name, sample) in samples {
            let Some(request) = requests.get(name) else { continue };
            used += i128::from(sample.value);
            requested += i128::from(*request);
            count += 1;
        }
        if requested <= 0 {
            return Err(CalculateError::NoneKnown);
        }
        let percent = clamped(used * 100 / requested);
        Ok(Ratio { ratio: percent as f64 / target as f64, utilization: Some(percent), average: clamped(used / count) })
    };
    // A pod that would be more than busy enough is taken for as busy as it should be, so that it keeps nothing from leaving.
    let busy = |name: &str| {
        requests.get(name).map_or(0, |request| clamped(i128::from(*request) * i128::from(target.max(100)) / 100))
    };
    propose(situation, samples, is_cpu, ratio, busy)
}

/// The pods among which an amount is so much on average; the target is in thousandths.
pub(super) fn by_average(
    situation: Situation<'_>,
    samples: Samples,
    target: i64,
    is_cpu: bool,
) -> Result<Proposal, CalculateError> {
    if target <= 0 {
        return Err(CalculateError::NoTarget);
    }
    let ratio = |samples: &Samples| {
        let used: i128 = samples.values().map(|sample| i128::from(sample.value)).sum();
        let count = i128::try_from(samples.len()).unwrap_or(i128::MAX).max(1);
        let average = clamped(used / count);
        Ok(Ratio { ratio: average as f64 / target as f64, utilization: None, average })
    };
    propose(situation, samples, is_cpu, ratio, |_| target)
}

struct Ratio {
    ratio: f64,
    utilization: Option<i64>,
    average: i64,
}

/// `busy` is what a pod would use if it were as busy as it should be.
fn propose(
    situation: Situation<'_>,
    mut samples: Samples,
    is_cpu: bool,
    ratio: impl Fn(&Samples) -> Result<Ratio, CalculateError>,
    busy: impl Fn(&str) -> i64,
) -> Result<Proposal, CalculateError> {
    let Situation { current, pods, tolerances, now } = situation;
    if pods.is_empty() {
        return Err(CalculateError::NoPods);
    }
    let groups = group(situation, &samples, is_cpu);
    samples.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if samples.is_empty() {
        return Err(CalculateError::NoneMeasured);
    }
    let measured = ratio(&samples)?;
    let proposal = |replicas| Proposal { replicas, utilization: measured.utilization, average: measured.average };
    let counts_unready = !groups.unready.is_empty() && measured.ratio > 1.0;
    if !counts_unready && groups.missing.is_empty() {
        let replicas = if tolerances.has(measured.ratio) { current } else { ceil(measured.ratio, groups.ready) };
        return Ok(proposal(replicas));
    }
    let sample = |value| Sample { value, at: now, window: Duration::ZERO };
    // Where nothing should change what is missing changes nothing.
    for name in groups.missing.into_iter().filter(|_| measured.ratio != 1.0) {
        let value = if measured.ratio < 1.0 { busy(&name) } else { 0 };
        samples.insert(name, sample(value));
    }
    if counts_unready {
        samples.extend(groups.unready.into_iter().map(|name| (name, sample(0))));
    }
    let cautious = ratio(&samples)?.ratio;
    let turns = (measured.ratio < 1.0 && cautious > 1.0) || (measured.ratio > 1.0 && cautious < 1.0);
    if tolerances.has(cautious) || turns {
        return Ok(proposal(current));
    }
    let replicas = ceil(cautious, samples.len());
    let turns = (cautious < 1.0 && replicas > current) || (cautious > 1.0 && replicas < current);
    Ok(proposal(if turns { current } else { replicas }))
}

/// The pods among which one amount that belongs to all of them is as it should be.
pub(super) fn by_total(situation: Situation<'_>, total: i64, target: i64) -> Result<i64, CalculateError> {
    if target <= 0 {
        return Err(CalculateError::NoTarget);
    }
    let ratio = total as f64 / target as f64;
    if situation.current == 0 {
        return Ok(ceil(ratio, 1));
    }
    if situation.tolerances.has(ratio) {
        return Ok(situation.current);
    }
    if situation.pods.is_empty() {
        return Err(CalculateError::NoPods);
    }
    Ok(ceil(ratio, situation.pods.iter().filter(|pod| pod.is_ready).count()))
}

/// The pods of which each has its share of an amount; `existing` are there. With it the share that each has now.
pub(super) fn by_share(
    situation: Situation<'_>,
    existing: i64,
    total: i64,
    target: i64,
) -> Result<(i64, i64), CalculateError> {
    if target <= 0 {
        return Err(CalculateError::NoTarget);
    }
    let ratio = total as f64 / (target as f64 * existing as f64);
    let replicas = if situation.tolerances.has(ratio) { existing } else { ceil(total as f64 / target as f64, 1) };
    let share = if existing > 0 { ceil(total as f64 / existing as f64, 1) } else { total };
    Ok((replicas, share))
}

fn clamped(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

/// A number of things, rounded up; not less than none. A float becomes the nearest number there is.
fn ceil(ratio: f64, of: usize) -> i64 {
    ((ratio * of as f64).ceil() as i64).max(0)
}

/// What pods request of a resource, in thousandths, or what one of their containers does.
///
/// # Errors
/// When a container does not say, in upstream's words.
pub(super) fn requests(
    pods: &[PodView<'_>],
    container: Option<&str>,
    resource: &str,
) -> Result<BTreeMap<String, i64>, String> {
    pods.iter().map(|pod| Ok((pod.metadata.name.to_string(), request(pod, container, resource)?))).collect()
}

fn request(pod: &PodView<'_>, container: Option<&str>, resource: &str) -> Result<i64, String> {
    let name = &pod.metadata.name;
    if container.is_none()
        && let Some(request) = pod.spec.resources.request(resource)
    {
        return Ok(request);
    }
    let sidecars = pod.spec.init_containers.iter().filter(|one| &*one.restart_policy == "Always");
    let meant = |one: &&super::views::ContainerView<'_>| container.is_none_or(|container| container == &*one.name);
    let mut sum = None::<i64>;
    for one in pod.spec.containers.iter().chain(sidecars).filter(meant) {
        let missing = || format!("missing request for {resource} in container {} of Pod {name}", one.name);
        let request = one.resources.request(resource).ok_or_else(missing)?;
        sum = Some(sum.unwrap_or(0).saturating_add(request));
    }
    match (sum, container) {
        (Some(sum), _) => Ok(sum),
        (None, Some(container)) => Err(format!("container {container} not found in Pod {name}")),
        (None, None) => Ok(0),
    }
}
