//! The revisions of a DaemonSet's template: for `kubectl rollout history`, and to know which pods are of the template.
//!
//! A revision is found by what its template *means*, not by its bytes: a version of the API that adds a default to every
//! pod template would otherwise roll the whole fleet. When no revision has the template's hash, the older ones whose
//! templates the new one contains are put through the API's defaults in a dry run and compared.

use std::collections::BTreeSet;

use api_edge::{ANNOTATION_CANARY_FAILURE, ANNOTATION_CANARY_NODES, ANNOTATION_CANARY_RESULT};
use serde_json::{Value, json};

use super::template::{REVISION_LABEL, owner_reference, revision_hash};
use hub_runtime::kinds::Kind;
use hub_runtime::rollouts::canary::Ended;
use hub_runtime::views::{DaemonSetView, ObjectMeta};
use hub_runtime::writer::{Target, WriteError, Writer};
use hub_runtime::{Field, Reader};

/// As upstream's default.
const HISTORY_LIMIT: i64 = 10;

/// One stored revision.
#[derive(Clone, Debug)]
pub(crate) struct Revision {
    pub name: String,
    pub uid: String,
    /// Under which hash its template is kept.
    pub hash: String,
    pub number: i64,
    pub template: Value,
    /// How its canary ended, if it has.
    pub ended: Option<Ended>,
    /// Why its canary failed.
    pub failure: String,
    /// Whether its canary has begun.
    has_begun: bool,
}

impl Revision {
    fn read(mut object: Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut template = object["data"]["spec"]["template"].take();
        if let Some(fields) = template.as_object_mut() {
            fields.remove("$patch");
        }
        Self {
            name: text(&object["metadata"]["name"]),
            uid: text(&object["metadata"]["uid"]),
            hash: text(&object["metadata"]["labels"][REVISION_LABEL]),
            number: object["revision"].as_i64().unwrap_or_default(),
            template,
            ended: Ended::read(object["metadata"]["annotations"][ANNOTATION_CANARY_RESULT].as_str()),
            failure: text(&object["metadata"]["annotations"][ANNOTATION_CANARY_FAILURE]),
            has_begun: object["metadata"]["annotations"][ANNOTATION_CANARY_NODES].is_string(),
        }
    }

    /// Whether its canary has begun and not ended.
    pub fn is_on_trial(&self) -> bool {
        self.has_begun && self.ended.is_none()
    }
}

/// The revisions of a set, the oldest first.
pub(crate) fn stored(meta: &ObjectMeta<'_>, reader: &dyn Reader) -> Vec<Revision> {
    let stored = reader.by_field(Kind::ControllerRevision, Field::OwnerUid, &meta.uid);
    let mut revisions: Vec<Revision> = stored
        .iter()
        .filter(|object| object.namespace() == &*meta.namespace)
        .filter_map(|object| object.value().ok())
        .map(Revision::read)
        .collect();
    revisions.sort_by_key(|revision| revision.number);
    revisions
}

/// What became of keeping the template's revision.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is stored under this hash.
    As(String),
    /// Its name is taken by another object: a further collision gives it another.
    Collision,
}

/// Makes sure that the set's template is kept as a revision, that it is the newest, and that there are not too many.
/// `in_use` are the hashes of pods.
pub(crate) async fn keep(
    set: &DaemonSetView<'_>,
    template: &Value,
    collisions: i64,
    in_use: &BTreeSet<String>,
    reader: &dyn Reader,
    writer: &Writer,
) -> Result<Kept, WriteError> {
    let meta = &set.metadata;
    let revisions = stored(meta, reader);
    let newest = revisions.last().map_or(0, |revision| revision.number);
    let hash = revision_hash(template, collisions);
    let current = match revisions.iter().position(|revision| revision.hash == hash) {
        Some(index) => Some(index),
        None => find_same(meta, &revisions, template, writer).await?,
    };
    let hash = match current {
        None => {
            if create(meta, template, &hash, newest + 1, writer).await? == Kept::Collision {
                return Ok(Kept::Collision);
            }
            hash
        }
        Some(index) => {
            let revision = &revisions[index];
            // Going back to an old template makes it the newest revision.
            if revision.number < newest {
                let patch = json!({"metadata": {"uid": revision.uid}, "revision": newest + 1});
                writer.merge(Kind::ControllerRevision, (&meta.namespace, &revision.name), &patch).await?;
            }
            revision.hash.clone()
        }
    };
    let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(HISTORY_LIMIT)).unwrap_or(0);
    let old: Vec<&Revision> =
        revisions.iter().filter(|revision| revision.hash != hash && !in_use.contains(&revision.hash)).collect();
    for revision in old.iter().take(old.len().saturating_sub(limit)) {
        let target = Target { namespace: &meta.namespace, name: &revision.name, uid: &revision.uid };
        writer.delete_target(Kind::ControllerRevision, target, None, None).await?;
    }
    Ok(Kept::As(hash))
}

async fn create(
    meta: &ObjectMeta<'_>,
    template: &Value,
    hash: &str,
    number: i64,
    writer: &Writer,
) -> Result<Kept, WriteError> {
    let kind = Kind::ControllerRevision;
    let name = format!("{}-{hash}", meta.name);
    // kubectl finds revisions by the set's own labels, and goes back by a patch that must replace, not merge.
    let mut labels = template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(REVISION_LABEL.to_owned(), hash.into());
    let mut data = template.clone();
    data["$patch"] = json!("replace");
    let object = json!({
        "apiVersion": kind.api_version(), "kind": kind.name(),
        "metadata": {
            "name": name, "namespace": meta.namespace, "labels": labels, "ownerReferences": [owner_reference(meta)],
        },
        "data": {"spec": {"template": data}},
        "revision": number,
    });
    if writer.create(kind, object).await?.is_some() {
        return Ok(Kept::As(hash.to_owned()));
    }
    let Some(mut found) = writer.get_now(kind, (&meta.namespace, &name)).await? else {
        // It was deleted in between: the next run creates it.
        return Ok(Kept::As(hash.to_owned()));
    };
    let owners = found["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    if owners.iter().any(|owner| owner["uid"] == *meta.uid) {
        return Ok(Kept::As(hash.to_owned()));
    }
    if owners.iter().any(|owner| owner["controller"] == true) || Revision::read(found.clone()).template != *template {
        return Ok(Kept::Collision);
    }
    // Left by a set that was deleted without its dependents: adopt it.
    found["metadata"]["ownerReferences"] = owners.into_iter().chain([owner_reference(meta)]).collect();
    found["revision"] = number.into();
    writer.replace(kind, &found).await?;
    Ok(Kept::As(hash.to_owned()))
}

/// A revision whose template means the same as `template`, though it is written otherwise.
async fn find_same(
    meta: &ObjectMeta<'_>,
    revisions: &[Revision],
    template: &Value,
    writer: &Writer,
) -> Result<Option<usize>, WriteError> {
    for (index, revision) in revisions.iter().enumerate().rev() {
        if revision.template == *template {
            return Ok(Some(index));
        }
        // Defaults only add. Whatever takes away or changes is meant by somebody.
        if !contains(template, &revision.template) {
            continue;
        }
        let trial = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": format!("{}-trial", meta.name), "namespace": meta.namespace},
            "spec": {
                "selector": {"matchLabels": revision.template["metadata"]["labels"]},
                "template": revision.template,
            },
        });
        match writer.dry_create(Kind::DaemonSet, trial).await {
            Ok(defaulted) if defaulted["spec"]["template"] == *template => return Ok(Some(index)),
            Ok(_) => {}
            // A template that is valid no more is not the one that the set has now.
            Err(error) if error.code().is_some_and(|code| (400..500).contains(&code)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Whether `have` says all that `less` says.
pub(super) fn contains(have: &Value, less: &Value) -> bool {
    match (have, less) {
        (Value::Object(have), Value::Object(less)) => {
            less.iter().all(|(field, less)| have.get(field).is_some_and(|have| contains(have, less)))
        }
        (Value::Array(have), Value::Array(less)) => {
            have.len() == less.len() && have.iter().zip(less).all(|(have, less)| contains(have, less))
        }
        (have, less) => have == less,
    }
}
