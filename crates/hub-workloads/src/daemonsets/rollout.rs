//! What a rollout is about: which nodes it leaves out, and which come first.
//!
//! Nodes out of reach, and those whose owners hold updates, are left out ([`hub_runtime::rollouts::skipped`]). With a canary
//! ([`hub_runtime::rollouts::canary`]) all nodes are left out that are not the canary's, until its pods have run well for long
//! enough. What is missing on such a node meanwhile is created from the revision that most pods have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api_edge::{
    ANNOTATION_CANARY, ANNOTATION_CANARY_FAILURE, ANNOTATION_CANARY_NODES, ANNOTATION_CANARY_RESULT,
    ANNOTATION_CANARY_WAIT,
};
use serde_json::{Value, json};

use hub_runtime::kinds::Kind;
use hub_runtime::rollouts::canary::{self, CanaryNodes, CanaryPod, Ended, Expected, Health, Policy, Says, Verdict};
use hub_runtime::selector::Fit;
use hub_runtime::views::{DaemonSetView, PodView};
use hub_runtime::writer::{WriteError, Writer};
use hub_runtime::{ObjectRef, ReconcileError};

use super::plan::Pod;
use super::template::REVISION_LABEL;
use super::{DaemonSets, owner};
use crate::UNSEEN_RETRY;
use crate::history::{self, Revision};
use crate::ready::Clock;

/// What is known of a rollout before it takes a step.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    /// Nodes that it leaves out beside those that cannot or should not be changed.
    pub others: BTreeSet<Box<str>>,
    /// What is created on these.
    pub former: Option<Revision>,
    /// What the canary's condition says.
    pub says: Says,
    pub look_again: Option<Duration>,
    /// Something was written that brings the next run; nothing is changed before.
    pub is_stale: bool,
}

/// A set and what is known of it.
pub(super) struct Known<'a> {
    pub set: &'a DaemonSetView<'a>,
    pub object: &'a ObjectRef,
    /// Under which hash its template is kept.
    pub hash: &'a str,
    pub nodes: &'a BTreeMap<Box<str>, Fit>,
    pub pods: &'a [Pod],
    /// In the order of `pods`.
    pub objects: &'a [ObjectRef],
}

impl Known<'_> {
    /// Nothing is updated.
    fn frozen(&self, former: Option<Revision>, says: Says) -> Outlook {
        let others = self.nodes.keys().cloned().collect();
        Outlook { others, former, says, look_again: Some(canary::LOOK_AGAIN), is_stale: false }
    }

    fn written(&self, former: Option<Revision>, says: Says) -> Outlook {
        Outlook { is_stale: true, look_again: Some(UNSEEN_RETRY), ..self.frozen(former, says) }
    }
}

impl DaemonSets {
    /// Looks at the canary of a rollout, and takes what follows from its end.
    pub(super) async fn look(&self, known: &Known<'_>, clock: Clock) -> Result<Outlook, ReconcileError> {
        let tree = known.object.value()?;
        let annotation = |name: &str| tree["metadata"]["annotations"][name].as_str();
        let policy = Policy::read(annotation(ANNOTATION_CANARY), annotation(ANNOTATION_CANARY_WAIT));
        if policy == Policy::Off || &*known.set.spec.update_strategy.r#type == "OnDelete" {
            self.end_trials(known).await?;
            return Ok(Outlook::default());
        }
        let quiet = if canary::is_rolled_back(&known.set.status.conditions) { Says::Same } else { Says::Nothing };
        let is_rolling = known.pods.iter().any(|pod| !pod.is_updated && !pod.is_terminating);
        let revisions = history::stored(&known.set.metadata, REVISION_LABEL, self.reader());
        let former = || former(&revisions, known);
        let canary = match policy {
            Policy::On(canary) => canary,
            Policy::Invalid(why) if is_rolling => return Ok(known.frozen(former(), Says::Invalid(why))),
            Policy::Invalid(why) => return Ok(Outlook { says: Says::Invalid(why), ..Outlook::default() }),
            Policy::Off => return Ok(Outlook::default()),
        };
        let Some(new) = revisions.iter().find(|revision| revision.hash == known.hash) else {
            // It was kept a moment ago.
            return Ok(known.written(former(), quiet));
        };
        match new.canary.ended {
            Some(Ended::Passed) => {
                let says = if quiet == Says::Same { quiet } else { Says::Passed };
                return Ok(Outlook { says, ..Outlook::default() });
            }
            // A canary on all nodes of the set is judged when nothing is left to roll.
            None if !is_rolling && !new.canary.is_on_trial() => {
                return Ok(Outlook { says: quiet, ..Outlook::default() });
            }
            Some(Ended::Failed) => return self.roll_back(known, tree, new, former()).await,
            None => {}
        }
        let is_of_set = |node: &str| known.nodes.get(node) == Some(&Fit::Run);
        let nodes = CanaryNodes::find(&canary, self.reader(), &self.skipped.now(), is_of_set);
        if nodes.in_reach.is_empty() {
            return Ok(known.frozen(former(), Says::Waiting(canary::no_node(&canary, nodes.count()))));
        }
        let nodes = nodes.in_reach;
        if !new.canary.is_on_trial() {
            // What the others have needs no canary: whoever goes back to it in the middle of this one has it at once.
            if let Some(former) = former() {
                prove(known, &former, &self.context.writer).await?;
            }
            new.annotate(owner(known.set), json!({ANNOTATION_CANARY_NODES: canary.text}), &self.context.writer).await?;
            return Ok(known.written(former(), Says::Waiting(canary::not_begun(&canary))));
        }
        let mut seen = Vec::new();
        for (pod, object) in known.pods.iter().zip(known.objects) {
            let Some(back) = nodes.get(pod.node.as_str()) else { continue };
            if pod.is_terminating || !pod.is_updated {
                continue;
            }
            let (view, health): (PodView<'_>, Health<'_>) = (object.view()?, object.view()?);
            let since = (*back).max(view.metadata.created());
            seen.push(CanaryPod::new(&pod.name, since, pod.ready_since, &health));
        }
        let set = owner(known.set).target();
        let expected = Expected { pods: nodes.len(), min_ready: clock.min_ready, deadline: canary::DEADLINE };
        match canary::judge(&canary, &seen, expected, clock.now) {
            Verdict::Waiting(why, next) => {
                let others = known.nodes.keys().filter(|name| !nodes.contains_key(*name)).cloned().collect();
                let says = Says::Waiting(why);
                Ok(Outlook { others, former: former(), says, look_again: Some(next), is_stale: false })
            }
            Verdict::Passed => {
                prove(known, new, &self.context.writer).await?;
                let message = format!(
                    "The pods of revision {} on nodes with {} run well; the others follow",
                    new.name, canary.text
                );
                self.context.recorder.normal(Kind::DaemonSet, set, "CanaryPassed", message);
                Ok(known.written(former(), Says::Passed))
            }
            Verdict::Failed(why) => {
                let message = format!("The canary of revision {} has failed: {why}", new.name);
                self.context.recorder.warning(Kind::DaemonSet, set, "CanaryFailed", message);
                let marks = json!({ANNOTATION_CANARY_RESULT: Ended::Failed.as_str(), ANNOTATION_CANARY_FAILURE: why});
                new.annotate(owner(known.set), marks, &self.context.writer).await?;
                Ok(known.written(former(), Says::RolledBack(why)))
            }
        }
    }

    /// Whoever takes the canary's annotation away while one waits has decided that the others follow.
    async fn end_trials(&self, known: &Known<'_>) -> Result<(), ReconcileError> {
        if known.set.status.conditions.iter().any(|condition| condition["type"] == canary::CANARY) {
            let revisions = history::stored(&known.set.metadata, REVISION_LABEL, self.reader());
            for revision in revisions.iter().filter(|revision| revision.canary.is_on_trial()) {
                revision
                    .annotate(owner(known.set), json!({ANNOTATION_CANARY_NODES: null}), &self.context.writer)
                    .await?;
            }
        }
        Ok(())
    }

    /// Puts the template back that most pods have; that one needs no canary.
    async fn roll_back(
        &self,
        known: &Known<'_>,
        mut tree: Value,
        failed: &Revision,
        former: Option<Revision>,
    ) -> Result<Outlook, ReconcileError> {
        let says = Says::RolledBack(failed.canary.failure.clone());
        let Some(to) = former else { return Ok(known.frozen(None, says)) };
        if prove(known, &to, &self.context.writer).await? {
            return Ok(known.written(Some(to), says));
        }
        tree["apiVersion"] = Kind::DaemonSet.api_version().into();
        tree["kind"] = Kind::DaemonSet.name().into();
        tree["spec"]["template"] = to.template.clone();
        // The condition is written before: it is what stays of the failure.
        if canary::is_rolled_back(&known.set.status.conditions)
            && self.context.writer.replace(Kind::DaemonSet, &tree).await?
        {
            let message = format!("Put the template of revision {} back", to.name);
            self.context.recorder.normal(Kind::DaemonSet, owner(known.set).target(), "RolledBack", message);
        }
        Ok(known.written(Some(to), says))
    }
}

/// Notes that a revision needs no canary; whether that was new.
async fn prove(known: &Known<'_>, revision: &Revision, writer: &Writer) -> Result<bool, WriteError> {
    if revision.canary.ended.is_some() {
        return Ok(false);
    }
    let passed = json!({ANNOTATION_CANARY_RESULT: Ended::Passed.as_str()});
    revision.annotate(owner(known.set), passed, writer).await?;
    Ok(true)
}

/// The revision that most pods have, of those that pods have or a canary has proven.
fn former(revisions: &[Revision], known: &Known<'_>) -> Option<Revision> {
    let mut pods: BTreeMap<String, usize> = BTreeMap::new();
    for object in known.objects {
        let Some(view) = object.view_or_log::<PodView<'_>>() else { continue };
        if let Some(hash) = view.metadata.labels.get(REVISION_LABEL) {
            *pods.entry(hash.to_owned()).or_default() += 1;
        }
    }
    let count = |revision: &Revision| pods.get(&revision.hash).copied().unwrap_or_default();
    let may = |revision: &&Revision| match revision.canary.ended {
        _ if revision.hash == known.hash => false,
        Some(Ended::Passed) => true,
        Some(Ended::Failed) => false,
        None => count(revision) > 0 && !revision.canary.is_on_trial(),
    };
    revisions.iter().filter(may).max_by_key(|revision| (count(revision), revision.number)).cloned()
}
