//! What a StatefulSet's update is about: all ordinals, or those of a canary first.
//!
//! Which ordinals a canary has is decided once, when it begins: those whose pods are on its nodes. They are noted on the revision, so
//! that an ordinal which is missing is known to be one of them after a restart of the hub. They are placed on the canary's
//! nodes again. With pods on none of these nodes nothing is updated, and the condition says so.

use std::collections::BTreeSet;
use std::time::Duration;

use api_edge::{
    ANNOTATION_CANARY, ANNOTATION_CANARY_FAILURE, ANNOTATION_CANARY_ORDINALS, ANNOTATION_CANARY_RESULT,
    ANNOTATION_CANARY_WAIT,
};
use hub_runtime::kinds::Kind;
use hub_runtime::rollouts::canary::{
    self, Canary, CanaryNodes, CanaryPod, Ended, Expected, Health, Policy, Says, Verdict,
};
use hub_runtime::{Next, ObjectRef, ReconcileError};
use serde_json::{Value, json};

use super::StatefulSets;
use super::plan::{Pod, Scope, Set, Update};
use super::views::PodView;
use crate::UNSEEN_RETRY;
use crate::history::History;
use crate::owner::Owner;
use crate::ready::Clock;

/// More ordinals than a canary has use for; the highest come first.
const ORDINALS_MAX: usize = 100;

/// What is known of an update before it takes a step.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    /// The ordinals that it is about; `None` for all.
    pub ordinals: Option<BTreeSet<i64>>,
    /// Where these are placed.
    pub canary: Option<Canary>,
    /// What the canary's condition says.
    pub says: Says,
    pub next: Option<Duration>,
    /// Something was written that brings the next run.
    pub is_stale: bool,
}

impl Outlook {
    fn frozen(says: Says) -> Self {
        Self { ordinals: Some(BTreeSet::new()), says, ..Self::default() }
    }

    fn written(says: Says) -> Self {
        Self { is_stale: true, next: Some(UNSEEN_RETRY), ..Self::frozen(says) }
    }

    pub fn scope(&self) -> Scope<'_> {
        self.ordinals.as_ref().map_or(Scope::All, Scope::Only)
    }

    pub fn next(&self) -> Next {
        self.next.map_or(Next::OnChange, Next::After)
    }
}

impl StatefulSets {
    /// Looks at the canary of a set's update, and takes what follows from its end.
    pub(super) async fn look(
        &self,
        owner: Owner<'_>,
        (set, tree): (&Set<'_>, &Value),
        history: &History,
        (pods, objects): (&[Pod], &[ObjectRef]),
        clock: Clock,
    ) -> Result<Outlook, ReconcileError> {
        let annotation = |name: &str| tree["metadata"]["annotations"][name].as_str();
        let policy = Policy::read(annotation(ANNOTATION_CANARY), annotation(ANNOTATION_CANARY_WAIT));
        let Update::Rolling { partition } = set.update else { return Ok(Outlook::default()) };
        let conditions = tree["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        let quiet = if canary::is_rolled_back(conditions) { Says::Same } else { Says::Nothing };
        let is_updating = set.current != set.updated;
        let canary = match policy {
            Policy::Off => return Ok(Outlook::default()),
            Policy::Invalid(why) if is_updating => return Ok(Outlook::frozen(Says::Invalid(why))),
            Policy::Invalid(why) => return Ok(Outlook { says: Says::Invalid(why), ..Outlook::default() }),
            Policy::On(canary) => canary,
        };
        let new = history.current();
        match new.canary.ended {
            Some(Ended::Passed) => {
                let says = if quiet == Says::Same { quiet } else { Says::Passed };
                return Ok(Outlook { says, ..Outlook::default() });
            }
            _ if !is_updating => return Ok(Outlook { says: quiet, ..Outlook::default() }),
            Some(Ended::Failed) => return self.roll_back(owner, set, tree, history).await,
            None => {}
        }
        let nodes = CanaryNodes::find(&canary, &*self.context.reader, &self.skipped.now(), |_| true);
        if nodes.in_reach.is_empty() {
            let says = Says::Waiting(canary::no_node(&canary, nodes.count()));
            return Ok(Outlook { next: Some(canary::LOOK_AGAIN), ..Outlook::frozen(says) });
        }
        let views = objects.iter().map(ObjectRef::view::<PodView<'_>>).collect::<Result<Vec<_>, _>>()?;
        let Some(ordinals) = &new.canary.ordinals else {
            let first = set.start.saturating_add(partition.unwrap_or(0).max(0));
            let is_first = |(pod, view): &(&Pod, &PodView<'_>)| {
                set.has(pod.ordinal) && pod.ordinal >= first && nodes.in_reach.contains_key(&*view.spec.node_name)
            };
            let mut found: Vec<i64> = pods.iter().zip(&views).filter(is_first).map(|(pod, _)| pod.ordinal).collect();
            found.sort_unstable_by(|one, other| other.cmp(one));
            found.truncate(ORDINALS_MAX);
            if found.is_empty() {
                let why = format!("no pod of the set is on a node with {}; nothing is updated", canary.text);
                return Ok(Outlook { next: Some(canary::LOOK_AGAIN), ..Outlook::frozen(Says::Waiting(why)) });
            }
            let list = found.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
            new.annotate(owner, json!({ANNOTATION_CANARY_ORDINALS: list}), &self.context.writer).await?;
            return Ok(Outlook::written(Says::Waiting(canary::not_begun(&canary))));
        };
        let mut seen = Vec::new();
        for ((pod, view), object) in pods.iter().zip(&views).zip(objects) {
            if pod.is_terminating || pod.revision != set.updated || !ordinals.contains(&pod.ordinal) {
                continue;
            }
            let health: Health<'_> = object.view()?;
            let back = nodes.in_reach.get(&*view.spec.node_name).copied();
            let since = back.unwrap_or_default().max(view.metadata.created());
            let mut read = CanaryPod::new(&view.metadata.name, since, pod.ready_since, &health);
            read.is_skipped = pod.skip.is_some();
            seen.push(read);
        }
        let ordinals: BTreeSet<i64> = ordinals.iter().copied().filter(|ordinal| set.has(*ordinal)).collect();
        let name = &new.name;
        let expected = Expected { pods: ordinals.len(), min_ready: clock.min_ready, deadline: canary::DEADLINE };
        match canary::judge(&canary, &seen, expected, clock.now) {
            Verdict::Waiting(why, next) => Ok(Outlook {
                ordinals: Some(ordinals),
                canary: Some(canary),
                says: Says::Waiting(why),
                next: Some(next),
                is_stale: false,
            }),
            Verdict::Passed => {
                new.annotate(owner, json!({ANNOTATION_CANARY_RESULT: Ended::Passed.as_str()}), &self.context.writer)
                    .await?;
                let message =
                    format!("The pods of revision {name} on nodes with {} run well; the others follow", canary.text);
                self.context.recorder.normal(Kind::StatefulSet, owner.target(), "CanaryPassed", message);
                Ok(Outlook::written(Says::Passed))
            }
            Verdict::Failed(why) => {
                let message = format!("The canary of revision {name} has failed: {why}");
                self.context.recorder.warning(Kind::StatefulSet, owner.target(), "CanaryFailed", message);
                let marks = json!({ANNOTATION_CANARY_RESULT: Ended::Failed.as_str(), ANNOTATION_CANARY_FAILURE: why});
                new.annotate(owner, marks, &self.context.writer).await?;
                Ok(Outlook::written(Says::RolledBack(why)))
            }
        }
    }

    /// Puts the template back that the set had before the update.
    async fn roll_back(
        &self,
        owner: Owner<'_>,
        set: &Set<'_>,
        tree: &Value,
        history: &History,
    ) -> Result<Outlook, ReconcileError> {
        let says = Says::RolledBack(history.current().canary.failure.clone());
        let Some(to) = history.named(set.current).filter(|to| to.canary.ended != Some(Ended::Failed)) else {
            return Ok(Outlook::frozen(says));
        };
        let mut object = tree.clone();
        object["apiVersion"] = Kind::StatefulSet.api_version().into();
        object["kind"] = Kind::StatefulSet.name().into();
        object["spec"]["template"] = to.template.clone();
        // The condition is written before: it is what stays of the failure.
        let conditions = tree["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        if canary::is_rolled_back(conditions) && self.context.writer.replace(Kind::StatefulSet, &object).await? {
            let message = format!("Put the template of revision {} back", to.name);
            self.context.recorder.normal(Kind::StatefulSet, owner.target(), "RolledBack", message);
        }
        Ok(Outlook::written(says))
    }
}
