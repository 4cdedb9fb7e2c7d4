//! How a Deployment's rollout depends on nodes: which of its pods it leaves out, and how its canary fares.
//!
//! **Nodes that are left out** ([`hub_runtime::rollouts::skipped`]). A pod of a former template on such a node stays; nobody evicts it, and
//! it counts as one of the replicas, as it does without a rollout: another pod beside it would read the same meter twice. So a
//! Deployment of three with one pod out of reach has two of the new template and one of the former one. Its numbers say so:
//! `updatedReplicas` is two, `kubectl rollout status` waits for the third, and the condition `NodesSkipped` says for which node. The
//! progress deadline does not count meanwhile (`Progressing` is `True` with the reason `NodesSkipped`). When the node is back, its pod has
//! its turn. A pod of the *new* template whose node is out of reach is not waited for either. With `Recreate` a rollout does not begin
//! while a pod is left out: two templates must not run at once.
//!
//! **The canary** ([`hub_runtime::rollouts::canary`]). The new set gets as many pods as the old ones have on the canary's nodes, at least one,
//! and its pods get a required node affinity to these nodes when they are created. The template does not change, so
//! the hash of the set does not either. The old sets delete their pods on these nodes first. Both is said to the sets by
//! annotations ([`marks`]), which are written before the sizes that they are about. When the canary has failed, the template of the
//! revision that most pods have is put back, as `kubectl rollout undo` does.

use std::collections::BTreeMap;
use std::time::Duration;

use api_edge::{
    ANNOTATION_CANARY, ANNOTATION_CANARY_FAILURE, ANNOTATION_CANARY_NODES, ANNOTATION_CANARY_RESULT,
    ANNOTATION_CANARY_WAIT, ANNOTATION_KEEP_ON_SKIPPED_NODES, ANNOTATION_YIELD_NODES,
};
use hub_runtime::kinds::Kind;
use hub_runtime::rollouts::canary::{
    self, Canary, CanaryNodes, CanaryPod, Ended, Expected, Health, Policy, Says, Verdict,
};
use hub_runtime::rollouts::skipped::{Skip, Skipped, leaves_out, with_skipped};
use hub_runtime::views::{PodView, condition};
use hub_runtime::writer::WriteError;
use hub_runtime::{Field, ObjectRef, ReconcileError};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::{Demand, Scale, Size};
use super::scope::{Left, Scope};
use super::status::{Waits, conditions, with_update_times};
use super::view::{Deployment, Set, Strategy};
use super::{Deployments, Sets, Step, guarded};
use crate::owner::Owner;
use crate::pods::Key;
use crate::ready::Clock;

/// What a step may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// All that is in its scope.
    #[default]
    Open,
    /// Only the pods on the nodes of this selector.
    Canary(String),
    /// No pod is updated.
    Frozen,
}

/// What is known before a step.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    pub stage: Stage,
    /// Pods that are left out, in the order of the sets.
    pub left: Vec<Left>,
    /// Which sets have pods on nodes that are left out.
    keeps: Vec<bool>,
    /// Nodes that are left out and have a pod of a former template.
    pub skipped: Skipped,
    /// What the canary's condition says.
    pub says: Says,
    pub look_again: Option<Duration>,
}

impl Outlook {
    /// What a step is about.
    pub fn scope(&self, demand: Demand, sets: &Sets) -> Scope {
        let floor = i64::from(matches!(self.stage, Stage::Canary(_)));
        Scope::new(demand, &sets.sizes(), &self.left, floor)
    }

    /// What the rollout waits for that is no lack of progress.
    pub fn waits_for(&self, scope: &Scope, new: Option<usize>, is_waiting: bool) -> Option<Waits> {
        let is_done_in_reach = || new.is_some_and(|new| scope.is_complete(new) && scope.has_left());
        match &self.stage {
            Stage::Canary(_) | Stage::Frozen => Some(Waits::Canary),
            Stage::Open if is_waiting => Some(Waits::AllNodes),
            Stage::Open => is_done_in_reach().then_some(Waits::Nodes),
        }
    }

    /// Adds the conditions to a status.
    pub fn note(&self, status: &mut Value, now: Timestamp) {
        let before = conditions(status);
        let skipped = with_skipped(&before, &self.skipped, now);
        let noted = canary::with_canary(&skipped, &self.says, now);
        status["conditions"] = with_update_times(&before, noted, now).into();
    }
}

/// One pod of a Deployment.
struct SeenPod {
    /// Index of its set.
    set: usize,
    node: Box<str>,
    uid: String,
    created: Timestamp,
    /// Whether it counts as a replica.
    is_active: bool,
    is_ready: bool,
    /// Why it is left out, if it is.
    skip: Option<Skip>,
    object: ObjectRef,
}

impl Deployments {
    /// Looks at nodes and pods as far as the rollout of these sets depends on them.
    pub(super) async fn look(
        &self,
        key: &Key,
        owner: Owner<'_>,
        deployment: &Deployment,
        sets: &Sets,
        now: Timestamp,
    ) -> Result<Step<Outlook>, ReconcileError> {
        let annotation = |name: &str| deployment.metadata.annotations.get(name).map(String::as_str);
        let policy = Policy::read(annotation(ANNOTATION_CANARY), annotation(ANNOTATION_CANARY_WAIT));
        // What rests leaves nobody out. Thousands of nodes that leave at once have it looked at over and over, and all pods would be read.
        if policy == Policy::Off && (self.skipped.is_empty() || is_at_rest(deployment, sets)) {
            return Ok(Step::Done(Outlook::default()));
        }
        let skipped = self.skipped.now();
        let pods = self.pods_of(sets, &skipped)?;
        let mut outlook = leave_out(sets, &pods);
        let held = conditions(&deployment.status);
        // What a former rollout has said stays until there is another.
        let quiet = if canary::is_rolled_back(&held) { Says::Same } else { Says::Nothing };
        outlook.says = quiet;
        let policy = match (policy, deployment.spec.strategy()) {
            (Policy::On(_), Strategy::Recreate) => Policy::Invalid(format!(
                "{ANNOTATION_CANARY}: the strategy Recreate never has two templates at once; a canary needs RollingUpdate; nothing is updated"
            )),
            (policy, _) => policy,
        };
        let canary = match policy {
            Policy::Off => {
                outlook.says = Says::Nothing;
                return Ok(Step::Done(outlook));
            }
            Policy::Invalid(why) => {
                if is_rolling(sets) {
                    outlook.stage = Stage::Frozen;
                }
                outlook.says = Says::Invalid(why);
                return Ok(Step::Done(outlook));
            }
            Policy::On(canary) => canary,
        };
        match sets.newest().and_then(result) {
            Some(Ended::Failed) => {
                let why =
                    sets.newest().and_then(|new| new.metadata.annotations.get(ANNOTATION_CANARY_FAILURE).cloned());
                outlook.says = Says::RolledBack(why.unwrap_or_default());
                return self.roll_back(owner, deployment, sets, outlook).await;
            }
            Some(Ended::Passed) => {
                // Of a template that had no canary there is nothing to say.
                if canary::is_said(&held) && !canary::is_rolled_back(&held) {
                    outlook.says = Says::Passed;
                }
                return Ok(Step::Done(outlook));
            }
            // A canary that is all there is of the Deployment is judged when nothing is left to roll.
            None if !is_rolling(sets) && !sets.newest().is_some_and(is_on_trial) => {
                // What runs needs no canary. It is noted while that can be seen: of sets without pods nobody knows which one ran.
                let Some(set) = sets.newest() else { return Ok(Step::Done(outlook)) };
                self.pass(set).await?;
                return Ok(Step::Again);
            }
            None => {}
        }
        self.look_at_canary(key, owner, deployment, sets, (&pods, &canary, outlook), now).await
    }

    /// A canary in the middle of its way.
    async fn look_at_canary(
        &self,
        key: &Key,
        owner: Owner<'_>,
        deployment: &Deployment,
        sets: &Sets,
        (pods, canary, mut outlook): (&[SeenPod], &Canary, Outlook),
        now: Timestamp,
    ) -> Result<Step<Outlook>, ReconcileError> {
        // What ran before there was a canary needs none, and can be put back however few pods it has by then.
        let is_proven = |set: &&Set| set.spec.replicas > 0 && result(set).is_none() && !is_on_trial(set);
        if let Some(set) = sets.old().find(is_proven) {
            self.pass(set).await?;
            return Ok(Step::Again);
        }
        let skipped = self.skipped.now();
        let nodes = CanaryNodes::find(canary, self.reader(), &skipped, |_| true);
        if nodes.in_reach.is_empty() {
            outlook.stage = Stage::Frozen;
            outlook.look_again = Some(canary::LOOK_AGAIN);
            outlook.says = Says::Waiting(canary::no_node(canary, nodes.count()));
            return Ok(Step::Done(outlook));
        }
        let is_on_canary = |pod: &SeenPod| pod.node.is_empty() || nodes.since(&pod.node).is_some();
        outlook.stage = Stage::Canary(canary.text.clone());
        outlook.left = sets
            .all
            .iter()
            .enumerate()
            .map(|(index, set)| {
                let of_set = || pods.iter().filter(|pod| pod.set == index && pod.is_active);
                if Some(index) == sets.new {
                    // Those on nodes that were the canary's before: labels of nodes change.
                    let off = || of_set().filter(|pod| !is_on_canary(pod));
                    let available = count(off().filter(|pod| pod.is_ready).count());
                    return Left { pods: count(off().count()), available };
                }
                let is_other = |pod: &&SeenPod| !nodes.in_reach.contains_key(&pod.node);
                let on_canary = count(of_set().filter(|pod| nodes.in_reach.contains_key(&pod.node)).count());
                Left {
                    pods: beside_canary(set.spec.replicas, count(of_set().count()), on_canary),
                    available: count(of_set().filter(is_other).filter(|pod| pod.is_ready).count()),
                }
            })
            .collect();
        let Some(new) = sets.new else {
            outlook.says = Says::Waiting(canary::not_begun(canary));
            return Ok(Step::Done(outlook));
        };
        let seen = self.canary_pods(
            key,
            pods.iter().filter(|pod| pod.set == new && is_on_canary(pod)),
            &nodes,
            &skipped,
            now,
        )?;
        let left = outlook.left.iter().fold(0_i64, |sum, left| sum.saturating_add(left.pods));
        let replicas = deployment.spec.replicas();
        let desired = usize::try_from(replicas.saturating_sub(left).max(replicas.min(1))).unwrap_or_default();
        let deadline = deployment
            .spec
            .progress_deadline()
            .map_or(canary::DEADLINE, |seconds| Duration::from_secs(seconds.max(0).unsigned_abs()));
        let set = &sets.all[new];
        let min_ready = Clock::new(now, deployment.spec.min_ready_seconds).min_ready;
        let marks = match canary::judge(canary, &seen, Expected { pods: desired, min_ready, deadline }, now) {
            Verdict::Waiting(why, next) => {
                outlook.says = Says::Waiting(why);
                outlook.look_again = Some(next);
                return Ok(Step::Done(outlook));
            }
            Verdict::Passed => {
                let message = format!(
                    "The pods of replica set {} on nodes with {} run well; the others follow",
                    set.metadata.name, canary.text
                );
                self.context.recorder.normal(Kind::Deployment, owner.target(), "CanaryPassed", message);
                json!({ANNOTATION_CANARY_RESULT: Ended::Passed.as_str(), ANNOTATION_CANARY_NODES: null})
            }
            Verdict::Failed(why) => {
                let message = format!("The canary of replica set {} has failed: {why}", set.metadata.name);
                self.context.recorder.warning(Kind::Deployment, owner.target(), "CanaryFailed", message);
                json!({ANNOTATION_CANARY_RESULT: Ended::Failed.as_str(), ANNOTATION_CANARY_FAILURE: why})
            }
        };
        let patch = json!({"metadata": guarded(&set.metadata, json!({"annotations": marks}))});
        self.merge_set(set, &patch).await?;
        Ok(Step::Again)
    }

    /// Puts the template back that most pods have; that one needs no canary.
    async fn roll_back(
        &self,
        owner: Owner<'_>,
        deployment: &Deployment,
        sets: &Sets,
        mut outlook: Outlook,
    ) -> Result<Step<Outlook>, ReconcileError> {
        let Some(to) = former(sets).map(|index| &sets.all[index]) else {
            outlook.stage = Stage::Frozen;
            return Ok(Step::Done(outlook));
        };
        if result(to).is_none() {
            self.pass(to).await?;
            return Ok(Step::Again);
        }
        // The condition is what stays of the failure when the template is another again.
        let now = self.context.clock.now();
        let before = conditions(&deployment.status);
        let noted = with_update_times(&before, canary::with_canary(&before, &outlook.says, now), now);
        if noted != before {
            let status = json!({"conditions": noted});
            self.context.writer.merge_status_of(Kind::Deployment, owner.target(), &status).await?;
            return Ok(Step::Again);
        }
        let Some(object) =
            self.reader().get(Kind::Deployment, &deployment.metadata.namespace, &deployment.metadata.name)
        else {
            return Ok(Step::Again);
        };
        let mut object = object.value()?;
        object["apiVersion"] = Kind::Deployment.api_version().into();
        object["kind"] = Kind::Deployment.name().into();
        if object["metadata"]["uid"] == deployment.metadata.uid
            && object["spec"]["template"] == deployment.spec.template
        {
            object["spec"]["template"] = to.template();
            if self.context.writer.replace(Kind::Deployment, &object).await? {
                let message =
                    format!("Rolled back deployment {:?} to revision {}", deployment.metadata.name, to.revision());
                self.context.recorder.normal(Kind::Deployment, owner.target(), "DeploymentRollback", message);
            }
        }
        Ok(Step::Again)
    }

    /// Notes that a set needs no canary.
    async fn pass(&self, set: &Set) -> Result<(), WriteError> {
        let marks = json!({"annotations": {ANNOTATION_CANARY_RESULT: Ended::Passed.as_str()}});
        self.merge_set(set, &json!({"metadata": guarded(&set.metadata, marks)})).await.map(|_| ())
    }

    /// Has the sets know which of their pods come and leave first; [`Step::Again`] when something was written.
    pub(super) async fn mark(&self, sets: &Sets, outlook: &Outlook) -> Result<Step<()>, WriteError> {
        if outlook.stage == Stage::Frozen {
            // Nothing is scaled; what was said before holds when the rollout continues.
            return Ok(Step::Done(()));
        }
        let mut is_same = true;
        for (index, set) in sets.all.iter().enumerate() {
            let marks =
                marks(&outlook.stage, Some(index) == sets.new, outlook.keeps.get(index).copied().unwrap_or_default());
            // A trial that was cut short is none that was passed.
            let keeps_trial = Some(index) != sets.new && is_on_trial(set);
            let is_due = |(name, value): &(&'static str, Option<String>)| {
                set.metadata.annotations.get(*name) != value.as_ref()
                    && !(keeps_trial && *name == ANNOTATION_CANARY_NODES)
            };
            let due: BTreeMap<&str, Option<String>> = marks.into_iter().filter(is_due).collect();
            // A set without pods has nothing to delete, and is left as it is.
            if due.is_empty() || (Some(index) != sets.new && set.spec.replicas == 0) {
                continue;
            }
            is_same = false;
            let patch = json!({"metadata": guarded(&set.metadata, json!({"annotations": due}))});
            self.merge_set(set, &patch).await?;
        }
        Ok(if is_same { Step::Done(()) } else { Step::Again })
    }

    fn pods_of(&self, sets: &Sets, skipped: &Skipped) -> Result<Vec<SeenPod>, ReconcileError> {
        let mut seen = Vec::new();
        for (index, set) in sets.all.iter().enumerate() {
            if set.spec.replicas == 0 && set.status.replicas == 0 {
                continue;
            }
            for object in self.reader().by_field(Kind::Pod, Field::OwnerUid, &set.metadata.uid) {
                let pod: PodView<'_> = object.view()?;
                if pod.metadata.is_terminating() {
                    continue;
                }
                let ready = condition(&pod.status.conditions, "Ready");
                seen.push(SeenPod {
                    set: index,
                    node: pod.spec.node_name.as_str().into(),
                    uid: pod.metadata.uid.to_string(),
                    created: pod.metadata.created(),
                    is_active: !pod.has_ended(),
                    is_ready: ready.is_some_and(|ready| ready.status == "True"),
                    skip: skipped.get(&*pod.spec.node_name).copied().filter(|skip| leaves_out(*skip, &pod)),
                    object: object.clone(),
                });
            }
        }
        Ok(seen)
    }

    fn canary_pods<'p>(
        &self,
        key: &Key,
        pods: impl Iterator<Item = &'p SeenPod>,
        nodes: &CanaryNodes,
        skipped: &Skipped,
        now: Timestamp,
    ) -> Result<Vec<CanaryPod>, ReconcileError> {
        let pods: Vec<&SeenPod> = pods.collect();
        let views = pods.iter().map(|pod| pod.object.view::<PodView<'_>>()).collect::<Result<Vec<_>, _>>()?;
        let ready = {
            let mut seen = self.seen_ready.lock();
            let given = pods.iter().zip(&views);
            let given = given.map(|(pod, view)| (&*pod.uid, condition(&view.status.conditions, "Ready"), pod.created));
            seen.entry(key.clone()).or_default().read(given, now)
        };
        let read = pods.iter().zip(ready).map(|(pod, ready_since)| {
            let health: Health<'_> = pod.object.view()?;
            let since = nodes.since(&pod.node).unwrap_or_default().max(pod.created);
            let mut read = CanaryPod::new(pod.object.name(), since, ready_since, &health);
            read.is_skipped = skipped.contains_key(&pod.node);
            Ok(read)
        });
        read.collect()
    }
}

/// The pods that a rollout leaves out because of their nodes.
fn leave_out(sets: &Sets, pods: &[SeenPod]) -> Outlook {
    let mut outlook = Outlook {
        left: vec![Left::default(); sets.all.len()],
        keeps: vec![false; sets.all.len()],
        ..Outlook::default()
    };
    for pod in pods.iter().filter(|pod| pod.is_active) {
        let Some(skip) = pod.skip else { continue };
        let is_new = Some(pod.set) == sets.new;
        // A new pod is what the owner's box has already: only what nobody hears of is not waited for.
        if is_new && skip == Skip::Held {
            continue;
        }
        outlook.left[pod.set].pods += 1;
        outlook.left[pod.set].available += i64::from(pod.is_ready);
        if !is_new && sets.all[pod.set].spec.replicas > 0 {
            outlook.keeps[pod.set] = true;
            outlook.skipped.insert(pod.node.clone(), skip);
        }
    }
    outlook
}

/// How the canary of a set's template ended.
fn result(set: &Set) -> Option<Ended> {
    Ended::read(set.metadata.annotations.get(ANNOTATION_CANARY_RESULT).map(String::as_str))
}

/// Whether a set's pods are those of a canary that has begun and not ended.
fn is_on_trial(set: &Set) -> bool {
    set.metadata.annotations.contains_key(ANNOTATION_CANARY_NODES) && result(set).is_none()
}

/// Whether the last rollout is complete and no pod of a former template is left: then nothing of it depends on nodes.
fn is_at_rest(deployment: &Deployment, sets: &Sets) -> bool {
    sets.new.is_some()
        && sets.old().all(|set| set.spec.replicas == 0 && set.status.replicas == 0)
        && super::status::was_complete(&deployment.status)
}

/// Whether pods are of another template than the newest, or would be if there were any: a size of none in between is no way past the
/// canary.
fn is_rolling(sets: &Sets) -> bool {
    let is_idle = sets.newest().is_none_or(|set| set.spec.replicas == 0);
    sets.old().any(|set| set.spec.replicas > 0 || (is_idle && result(set) == Some(Ended::Passed)))
}

/// The set of the template that runs while a canary does: the one with most pods, of those that need no canary.
pub(super) fn former(sets: &Sets) -> Option<usize> {
    let may = |set: &Set| {
        let ended = result(set);
        ended == Some(Ended::Passed) || (ended.is_none() && set.spec.replicas > 0 && !is_on_trial(set))
    };
    let old = sets.all.iter().enumerate().filter(|(index, set)| Some(*index) != sets.new && may(set));
    old.max_by_key(|(_, set)| (set.spec.replicas, set.revision())).map(|(index, _)| index)
}

/// How many pods of an old set a canary leaves as they are. The set has `active` pods, so many of them on the canary's nodes; those
/// that it has still to delete are among these, which it deletes first.
fn beside_canary(replicas: i64, active: i64, on_canary: i64) -> i64 {
    let doomed = active.saturating_sub(replicas).max(0);
    let kept = on_canary.saturating_sub(doomed).max(0);
    replicas.saturating_sub(kept).max(0)
}

/// What a set's annotations say of its pods while a rollout lasts.
pub(super) fn marks(stage: &Stage, is_new: bool, keeps: bool) -> [(&'static str, Option<String>); 3] {
    let canary = match stage {
        Stage::Canary(nodes) => Some(nodes.clone()),
        Stage::Open | Stage::Frozen => None,
    };
    let (placed, yields) = if is_new { (canary, None) } else { (None, canary) };
    [
        (ANNOTATION_CANARY_NODES, placed),
        (ANNOTATION_YIELD_NODES, yields),
        (ANNOTATION_KEEP_ON_SKIPPED_NODES, (keeps && !is_new).then(|| "true".to_owned())),
    ]
}

/// What a change of `spec.replicas` means while only a canary is updated, or nothing is: the [`former`] set gets all of it, or the largest old
/// one. The others have to give only what is more than demanded, the canary last.
pub(super) fn rescale_old(demand: Demand, sizes: &[Size], new: Option<usize>, former: Option<usize>) -> Vec<Scale> {
    let old = (0..sizes.len()).filter(|index| Some(*index) != new && sizes[*index].replicas > 0);
    let Some(largest) = former.or_else(|| old.max_by_key(|index| sizes[*index].replicas)) else {
        return super::plan::rescale(demand, sizes, new);
    };
    let others = new.into_iter().chain((0..sizes.len()).rev().filter(|index| Some(*index) != new));
    let mut left = demand.replicas;
    let mut scales = Vec::new();
    for index in others.filter(|index| *index != largest && sizes[*index].replicas > 0) {
        let kept = sizes[index].replicas.min(left);
        left -= kept;
        scales.push((index, kept));
    }
    scales.push((largest, left));
    scales.sort_unstable();
    scales
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_say_which_pods_come_and_leave_first() {
        let canary = Stage::Canary("site=pilot".to_owned());
        let said = |stage: &Stage, is_new, keeps| marks(stage, is_new, keeps).map(|(_, value)| value);
        let nodes = Some("site=pilot".to_owned());
        assert_eq!(said(&canary, true, true), [nodes.clone(), None, None]);
        assert_eq!(said(&canary, false, true), [None, nodes, Some("true".to_owned())]);
        assert_eq!(said(&Stage::Open, true, false), [None, None, None]);
        assert_eq!(said(&Stage::Frozen, false, false), [None, None, None]);
    }

    #[test]
    fn a_canary_takes_no_more_pods_while_a_set_has_some_to_delete() {
        // Three pods, one of them on the canary's nodes; then the set is scaled down, and has not deleted it yet.
        assert_eq!(beside_canary(3, 3, 1), 2);
        assert_eq!(beside_canary(2, 3, 1), 2);
        assert_eq!(beside_canary(2, 2, 0), 2);
        // One that is lost is created again somewhere.
        assert_eq!(beside_canary(3, 2, 1), 2);
        assert_eq!(beside_canary(0, 0, 0), 0);
    }

    #[test]
    fn while_only_a_canary_is_updated_the_others_are_scaled() {
        let size = |replicas| Size { replicas, present: replicas, available: replicas, max_replicas: None };
        let demand = |replicas| Demand { replicas, strategy: Strategy::Recreate, counted: 0 };
        let check_with = |replicas, sizes: &[i64], former, expected: &[Scale]| {
            let sizes: Vec<Size> = sizes.iter().copied().map(size).collect();
            assert_eq!(rescale_old(demand(replicas), &sizes, Some(sizes.len() - 1), former), expected);
        };
        let check = |replicas, sizes: &[i64], expected: &[Scale]| check_with(replicas, sizes, None, expected);
        check(6, &[3, 1], &[(0, 5), (1, 1)]);
        check(1, &[3, 2], &[(0, 0), (1, 1)]);
        check(2, &[3, 1, 2], &[(0, 0), (1, 0), (2, 2)]);
        check_with(0, &[0, 3], Some(0), &[(0, 0), (1, 0)]);
        check(6, &[1, 3, 1], &[(0, 1), (1, 4), (2, 1)]);
        check(1, &[3, 1], &[(0, 0), (1, 1)]);
        check(4, &[3, 0], &[(0, 4)]);
        check(4, &[0, 3], &[(1, 4)]);
        // None of the former template is left, since there were to be none meanwhile.
        check_with(4, &[0, 0], Some(0), &[(0, 4)]);
        check_with(4, &[0, 0, 1], Some(1), &[(1, 3), (2, 1)]);
        // A trial that was cut short gets no more.
        check_with(5, &[1, 2, 1], Some(0), &[(0, 2), (1, 2), (2, 1)]);
    }
}
