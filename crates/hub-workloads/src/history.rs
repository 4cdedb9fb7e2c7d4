//! The revisions of a workload's template: for `kubectl rollout history` and `undo`, and to know which pods are of which template.
//!
//! A revision is found by what its template *means*, not by its bytes: a version of the API that adds a default to every
//! pod template would otherwise roll the whole fleet. When no revision has the template itself, the older ones are compared by
//! [`meaning`].

use std::collections::BTreeSet;

use api_edge::{
    ANNOTATION_CANARY_FAILURE, ANNOTATION_CANARY_NODES, ANNOTATION_CANARY_ORDINALS, ANNOTATION_CANARY_RESULT,
};
use serde_json::{Value, json};

use hub_runtime::kinds::Kind;
use hub_runtime::rollouts::canary::Ended;
use hub_runtime::views::ObjectMeta;
use hub_runtime::writer::{Target, WriteError, Writer};
use hub_runtime::{Field, Reader};

use crate::hash::short_hash;
use crate::meaning;
use crate::owner::Owner;

/// As upstream's default.
const HISTORY_LIMIT: i64 = 10;

/// One stored revision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Revision {
    pub name: String,
    pub uid: String,
    /// Under which hash its template is kept.
    pub hash: String,
    pub number: i64,
    pub template: Value,
    /// What its annotations say of its canary.
    pub canary: RevisionCanary,
}

/// How the canary of a revision fares, as the hub notes it on the revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RevisionCanary {
    /// How it ended, if it has.
    pub ended: Option<Ended>,
    /// Why it failed.
    pub failure: String,
    /// The ordinals that are updated first, once that is decided.
    pub ordinals: Option<BTreeSet<i64>>,
    /// Whether it has begun on the nodes that are updated first.
    has_begun: bool,
}

/// More ordinals than a canary has use for.
const ORDINALS_MAX: usize = 1000;

impl RevisionCanary {
    fn read(annotations: &Value) -> Self {
        let text = |name: &str| annotations[name].as_str();
        let ordinals = text(ANNOTATION_CANARY_ORDINALS)
            .map(|list| list.split(',').filter_map(|one| one.trim().parse().ok()).take(ORDINALS_MAX).collect());
        Self {
            ended: Ended::read(text(ANNOTATION_CANARY_RESULT)),
            failure: text(ANNOTATION_CANARY_FAILURE).unwrap_or_default().to_owned(),
            ordinals,
            has_begun: text(ANNOTATION_CANARY_NODES).is_some(),
        }
    }

    /// Whether it has begun on its nodes and not ended.
    pub fn is_on_trial(&self) -> bool {
        self.has_begun && self.ended.is_none()
    }
}

impl Revision {
    fn read(mut object: Value, hash_label: &str) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut template = object["data"]["spec"]["template"].take();
        if let Some(fields) = template.as_object_mut() {
            fields.remove("$patch");
        }
        Self {
            name: text(&object["metadata"]["name"]),
            uid: text(&object["metadata"]["uid"]),
            hash: text(&object["metadata"]["labels"][hash_label]),
            number: object["revision"].as_i64().unwrap_or_default(),
            template,
            canary: RevisionCanary::read(&object["metadata"]["annotations"]),
        }
    }

    /// Changes annotations of the revision; one that is `null` is taken away.
    pub async fn annotate(&self, owner: Owner<'_>, annotations: Value, writer: &Writer) -> Result<(), WriteError> {
        let patch = json!({"metadata": {"uid": self.uid, "annotations": annotations}});
        writer.merge(Kind::ControllerRevision, (&owner.meta.namespace, &self.name), &patch).await.map(|_| ())
    }
}

/// The revisions of a workload, the oldest first. `hash_label` is the label that has their hash.
pub(crate) fn stored(meta: &ObjectMeta<'_>, hash_label: &str, reader: &dyn Reader) -> Vec<Revision> {
    let stored = reader.by_field(Kind::ControllerRevision, Field::OwnerUid, &meta.uid);
    let mut revisions: Vec<Revision> = stored
        .iter()
        .filter(|object| object.namespace() == &*meta.namespace)
        .filter_map(|object| object.value().ok())
        .map(|object| Revision::read(object, hash_label))
        .collect();
    revisions.sort_by(|one, other| (one.number, &one.name).cmp(&(other.number, &other.name)));
    revisions
}

/// A workload's revisions, the oldest first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct History {
    revisions: Vec<Revision>,
    current: usize,
}

impl History {
    /// All of them.
    pub fn revisions(&self) -> &[Revision] {
        &self.revisions
    }

    /// The one that the template is kept as.
    pub fn current(&self) -> &Revision {
        &self.revisions[self.current]
    }

    /// Whether the canary of a revision has failed.
    pub fn has_failed(&self, name: &str) -> bool {
        self.named(name).is_some_and(|revision| revision.canary.ended == Some(Ended::Failed))
    }

    /// One by its name.
    pub fn named(&self, name: &str) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.name == name)
    }

    /// Those that exceed the limit, the oldest first; `live` are names of revisions that are in use. A negative limit keeps all.
    fn superfluous(&self, live: &BTreeSet<&str>, limit: Option<i64>) -> impl Iterator<Item = &Revision> {
        let limit = limit.unwrap_or(HISTORY_LIMIT);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let is_old =
            |revision: &&Revision| revision.name != self.current().name && !live.contains(revision.name.as_str());
        let old: Vec<&Revision> = self.revisions.iter().filter(is_old).collect();
        let count = old.len().saturating_sub(limit);
        old.into_iter().take(count)
    }
}

/// What became of keeping a template.
#[derive(Debug, PartialEq)]
pub(crate) enum Kept {
    /// It is stored.
    As(History),
    /// Its name is taken by another object: a further collision gives it another.
    Collision,
}

/// A template that is to be kept.
pub(crate) struct Template<'a> {
    pub owner: Owner<'a>,
    /// `spec.template`.
    pub template: &'a Value,
    /// Annotations that the revision has as well: the workload's, which say why it was changed.
    pub annotations: &'a Value,
    /// `status.collisionCount`.
    pub collisions: i64,
    /// The label of a revision that has its hash.
    pub hash_label: &'static str,
}

impl Template<'_> {
    /// Makes sure that the template is kept as a revision, and that it is the newest. `known` names the revision that it was
    /// found to be before, which saves comparing it again.
    pub async fn keep(&self, known: Option<&str>, reader: &dyn Reader, writer: &Writer) -> Result<Kept, WriteError> {
        let meta = self.owner.meta;
        let mut revisions = stored(meta, self.hash_label, reader);
        let newest = revisions.last().map_or(0, |revision| revision.number);
        let known = known.and_then(|known| revisions.iter().position(|revision| revision.name == known));
        let found = match known {
            Some(index) => Some(index),
            None => self.find_same(&revisions, writer).await?,
        };
        let current = match found {
            None => match self.create(newest.saturating_add(1), writer).await? {
                None => return Ok(Kept::Collision),
                Some(revision) => revision,
            },
            Some(index) => {
                let mut revision = revisions.remove(index);
                // Going back to an old template makes it the newest revision.
                if revision.number < newest {
                    revision.number = newest.saturating_add(1);
                    let patch = json!({"metadata": {"uid": revision.uid}, "revision": revision.number});
                    writer.merge(Kind::ControllerRevision, (&meta.namespace, &revision.name), &patch).await?;
                }
                revision
            }
        };
        revisions.push(current);
        Ok(Kept::As(History { current: revisions.len() - 1, revisions }))
    }

    /// Stores the template; `None` when its name is taken by something else.
    async fn create(&self, number: i64, writer: &Writer) -> Result<Option<Revision>, WriteError> {
        let (kind, meta) = (Kind::ControllerRevision, self.owner.meta);
        let hash = template_hash(self.template, self.collisions);
        let name = format!("{}-{hash}", meta.name);
        // kubectl finds revisions by the workload's own labels, and goes back by a patch that must replace, not merge.
        let mut labels = self.template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        labels.insert(self.hash_label.to_owned(), hash.as_str().into());
        let mut data = self.template.clone();
        data["$patch"] = json!("replace");
        let mut metadata = json!({
            "name": name, "namespace": meta.namespace, "labels": labels, "ownerReferences": [self.owner.reference()],
        });
        if let Some(annotations) = self.annotations.as_object().filter(|annotations| !annotations.is_empty()) {
            let of_hub = [
                ANNOTATION_CANARY_RESULT,
                ANNOTATION_CANARY_FAILURE,
                ANNOTATION_CANARY_NODES,
                ANNOTATION_CANARY_ORDINALS,
            ];
            let handed_on = annotations.iter().filter(|(name, _)| !of_hub.contains(&name.as_str()));
            metadata["annotations"] = handed_on.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
        let object = json!({
            "apiVersion": kind.api_version(), "kind": kind.name(), "metadata": metadata,
            "data": {"spec": {"template": data}}, "revision": number,
        });
        if let Some(created) = writer.create(kind, object).await? {
            return Ok(Some(Revision::read(created, self.hash_label)));
        }
        let Some(mut found) = writer.get_now(kind, (&meta.namespace, &name)).await? else {
            // It was deleted in between: the next run creates it.
            let template = self.template.clone();
            let canary = RevisionCanary::default();
            return Ok(Some(Revision { name, uid: String::new(), hash, number, template, canary }));
        };
        let revision = Revision::read(found.clone(), self.hash_label);
        if revision.template != *self.template {
            return Ok(None);
        }
        let owners = found["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        if owners.iter().any(|owner| owner["uid"] == *meta.uid) {
            return Ok(Some(revision));
        }
        if owners.iter().any(|owner| owner["controller"] == true) {
            return Ok(None);
        }
        // Left by a workload that was deleted without its dependents: adopt it.
        found["metadata"]["ownerReferences"] = owners.into_iter().chain([self.owner.reference()]).collect();
        found["revision"] = number.into();
        writer.replace(kind, &found).await?;
        Ok(Some(Revision { number, ..revision }))
    }

    /// A revision with the template, or one whose template means the same though it is written otherwise.
    async fn find_same(&self, revisions: &[Revision], writer: &Writer) -> Result<Option<usize>, WriteError> {
        if let Some(index) = revisions.iter().rposition(|revision| revision.template == *self.template) {
            return Ok(Some(index));
        }
        for (index, revision) in revisions.iter().enumerate().rev() {
            if meaning::is_same(self.owner, &revision.template, self.template, writer).await? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
}

/// Deletes the revisions that exceed the limit; `live` are names of revisions that are in use.
pub(crate) async fn truncate(
    owner: Owner<'_>,
    history: &History,
    live: &BTreeSet<&str>,
    limit: Option<i64>,
    writer: &Writer,
) -> Result<(), WriteError> {
    for revision in history.superfluous(live, limit) {
        let target = Target { namespace: &owner.meta.namespace, name: &revision.name, uid: &revision.uid };
        writer.delete_target(Kind::ControllerRevision, target, None, None).await?;
    }
    Ok(())
}

/// The hash of a template: short, stable, and fit for a name. A collision gives it another one.
pub(crate) fn template_hash(template: &Value, collisions: i64) -> String {
    match collisions {
        0 => short_hash(template.to_string().as_bytes(), 10),
        _ => short_hash(format!("{template}{collisions}").as_bytes(), 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_revisions_end_that_nobody_uses() {
        let names = ["a", "b", "c", "d", "e"];
        let revision = |(number, name): (usize, &&str)| Revision {
            name: (*name).to_owned(),
            uid: String::new(),
            hash: String::new(),
            number: i64::try_from(number).unwrap(),
            template: Value::Null,
            canary: RevisionCanary::default(),
        };
        let history = History { revisions: names.iter().enumerate().map(revision).collect(), current: 4 };
        for (limit, live, expected) in [
            (None, &[][..], &[][..]),
            (Some(-1), &[], &[]),
            (Some(2), &[], &["a", "b"]),
            (Some(2), &["a"], &["b"]),
            (Some(0), &["c"], &["a", "b", "d"]),
        ] {
            let live = live.iter().copied().collect();
            let ended: Vec<&str> = history.superfluous(&live, limit).map(|revision| revision.name.as_str()).collect();
            assert_eq!(ended, expected, "{limit:?} {live:?}");
        }
    }
}
