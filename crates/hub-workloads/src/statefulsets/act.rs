//! Takes the steps of a plan, and says so with upstream's reasons and messages.

use serde_json::{Value, json};

use hub_runtime::batch::slow_start;
use hub_runtime::kinds::Kind;
use hub_runtime::rollouts::canary::Canary;
use hub_runtime::views::AnyView;
use hub_runtime::writer::{Created, Target, WriteError, Writer};
use hub_runtime::{Next, ObjectRef, ReconcileError};

use super::claims::{self, OfPod, Owners, Retention};
use super::plan::{Pod, Set, Step, Which};
use super::pods::{self, NewPod};
use super::views::{PodView, SetView};
use super::{Key, STALE_RETRY, StatefulSets};
use crate::UNSEEN_RETRY;
use crate::claim::{self, Claim};
use crate::history::Revision;
use crate::owner::Owner;

/// What the steps are about.
pub(super) struct Acts<'a> {
    pub sets: &'a StatefulSets,
    pub key: &'a Key,
    pub set: &'a SetView<'a>,
    pub plan_set: &'a Set<'a>,
    /// `spec.selector.matchLabels`.
    pub selects: &'a Value,
    /// `spec.volumeClaimTemplates`.
    pub templates: &'a [Value],
    pub objects: &'a [ObjectRef],
    /// In the order of `objects`.
    pub pods: &'a [Pod],
    /// Where pods of an update are placed while it is about some alone.
    pub canary: Option<&'a Canary>,
}

/// A pod with the claims that must be there before it.
struct Creation {
    pod: String,
    object: Vec<u8>,
    claims: Vec<Value>,
}

/// What became of a [`Creation`].
struct Outcome {
    pod: String,
    claims: Vec<String>,
    /// Why it ended early: the claim, if it was one, and the error.
    failed: Option<(Option<String>, WriteError)>,
    /// `None` when the pod's name is taken.
    created: Option<Created>,
}

impl Acts<'_> {
    /// Takes all steps: first what corrects pods and claims, then what creates, then what deletes.
    pub async fn take<'r>(
        &self,
        steps: &[Step],
        revision: impl Fn(Which) -> Option<&'r Revision>,
    ) -> Result<Next, ReconcileError> {
        let mut next = Next::OnChange;
        for step in steps {
            let is_done = match *step {
                Step::Claims(index) => self.create_claims(index).await? && self.own_claims(index).await?,
                Step::Owners(index) => self.own_claims(index).await?,
                Step::Correct(index) => self.correct(index).await?,
                Step::Create { .. } | Step::Delete(_) | Step::Replace(_) => true,
            };
            if !is_done {
                next = next.or(Next::After(UNSEEN_RETRY));
            }
        }
        let created = steps.iter().filter_map(|step| match *step {
            Step::Create { ordinal, revision: which } => revision(which).map(|revision| (ordinal, revision)),
            _ => None,
        });
        next = next.or(self.create(created.collect()).await?);
        let deleted = steps.iter().filter_map(|step| match *step {
            Step::Delete(index) | Step::Replace(index) => Some(index),
            _ => None,
        });
        Ok(next.or(self.delete(deleted.collect()).await?))
    }

    fn owner(&self) -> Owner<'_> {
        Owner { kind: Kind::StatefulSet, meta: &self.set.metadata }
    }

    fn writer(&self) -> &Writer {
        &self.sets.context.writer
    }

    fn normal(&self, reason: &str, message: String) {
        self.sets.context.recorder.normal(Kind::StatefulSet, self.owner().target(), reason, message);
    }

    fn warning(&self, reason: &str, message: String) {
        self.sets.context.recorder.warning(Kind::StatefulSet, self.owner().target(), reason, message);
    }

    fn pod_failed(&self, verb: &str, reason: &str, pod: &str, error: &str) {
        self.warning(
            reason,
            format!("{verb} Pod {pod} in StatefulSet {} failed error: {error}", self.set.metadata.name),
        );
    }

    fn pod_succeeded(&self, verb: &str, reason: &str, pod: &str) {
        self.normal(reason, format!("{verb} Pod {pod} in StatefulSet {} successful", self.set.metadata.name));
    }

    fn claim_succeeded(&self, claim: &str, pod: &str) {
        let set = &self.set.metadata.name;
        self.normal("SuccessfulCreate", format!("Create Claim {claim} Pod {pod} in StatefulSet {set} success"));
    }

    fn claim_failed(&self, claim: &str, pod: &str, error: &str) {
        let set = &self.set.metadata.name;
        let message = format!("Create Claim {claim} for Pod {pod} in StatefulSet {set} failed error: {error}");
        self.warning("FailedCreate", message);
    }

    fn owners<'o>(&'o self, name: &'o str, uid: &'o str, ordinal: i64) -> Owners<'o> {
        Owners {
            set: self.owner(),
            pod: OfPod { name, uid, is_scaled_away: !self.plan_set.has(ordinal) },
            retention: Retention::of(&self.set.spec.persistent_volume_claim_retention_policy),
        }
    }

    /// The claims of a pod that do not exist; an error when one is on its way out, which no pod must use any more.
    fn missing_claims(&self, name: &str, uid: &str, ordinal: i64) -> Result<Vec<Value>, String> {
        let owners = self.owners(name, uid, ordinal);
        let mut missing = Vec::new();
        for template in self.templates {
            let claim = claims::claim_name(template, &self.set.metadata.name, ordinal);
            match self.sets.claim(&self.set.metadata.namespace, &claim) {
                None => missing.push(claims::new_claim(template, owners, self.selects, ordinal)),
                Some(found) => {
                    let is_ending = |view: AnyView<'_>| view.metadata.is_terminating();
                    if found.view_or_log::<AnyView<'_>>().is_some_and(is_ending) {
                        return Err(format!("pvc {claim} is being deleted"));
                    }
                }
            }
        }
        Ok(missing)
    }

    /// Creates the claims of a pod that exists.
    async fn create_claims(&self, index: usize) -> Result<bool, ReconcileError> {
        let pod: PodView<'_> = self.objects[index].view()?;
        let name = &*pod.metadata.name;
        let missing = self.missing_claims(name, &pod.metadata.uid, self.pods[index].ordinal);
        for claim in missing.map_err(ReconcileError::Rejected)? {
            let claim_name = claim["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            match self.writer().create(Kind::PersistentVolumeClaim, claim).await {
                Ok(Some(_)) => self.claim_succeeded(&claim_name, name),
                // The reader does not show it yet.
                Ok(None) => {}
                Err(error) => {
                    self.claim_failed(&claim_name, name, &error.reason());
                    return Err(error.into());
                }
            }
        }
        Ok(true)
    }

    /// Gives the claims of a pod the owners of the retention policy; `false` when one was changed meanwhile.
    async fn own_claims(&self, index: usize) -> Result<bool, ReconcileError> {
        let pod: PodView<'_> = self.objects[index].view()?;
        let owners = self.owners(&pod.metadata.name, &pod.metadata.uid, self.pods[index].ordinal);
        for template in self.templates {
            let name = claims::claim_name(template, &self.set.metadata.name, self.pods[index].ordinal);
            let Some(object) = self.sets.claim(&self.set.metadata.namespace, &name) else { continue };
            let claim: AnyView<'_> = object.view()?;
            let references = &claim.metadata.owner_references;
            if owners.are_right(references) {
                continue;
            }
            let is_foreign = owners.is_foreign(references);
            if is_foreign {
                let message = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a managing controller, the retention policy is ignored for this claim"
                );
                self.warning("ConflictingController", message);
            }
            let change = |references: &mut Vec<Value>| owners.corrected(references, is_foreign);
            match claim::change_owners(Kind::PersistentVolumeClaim, &object, self.writer(), change).await {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => {
                    let why = format!("could not update claim {name} for delete policy ownerRefs: {}", error.reason());
                    self.pod_failed("Update", "FailedUpdate", &pod.metadata.name, &why);
                    return Err(error.into());
                }
            }
        }
        Ok(true)
    }

    /// Corrects labels, volumes and claims of a pod; `false` when something was changed meanwhile.
    async fn correct(&self, index: usize) -> Result<bool, ReconcileError> {
        let (object, ordinal) = (&self.objects[index], self.pods[index].ordinal);
        let pod: PodView<'_> = object.view()?;
        if !self.own_claims(index).await? {
            return Ok(false);
        }
        if self.pods[index].is_right {
            return Ok(true);
        }
        let (namespace, name) = (&*self.set.metadata.namespace, &*pod.metadata.name);
        let labels: serde_json::Map<String, Value> = pods::identity(name, ordinal).into_iter().collect();
        let mut patch = json!({"metadata": {
            "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version, "labels": labels,
        }});
        if !pods::has_storage(&pod, &self.set.metadata.name, self.templates, ordinal) {
            self.create_claims(index).await?;
            let volumes = object.value()?["spec"]["volumes"].take();
            patch["spec"]["volumes"] = pods::volumes(&self.set.metadata.name, self.templates, ordinal, &volumes);
        }
        match self.writer().merge(Kind::Pod, (namespace, name), &patch).await {
            Ok(is_done) => {
                if is_done {
                    self.pod_succeeded("Update", "SuccessfulUpdate", name);
                }
                Ok(is_done)
            }
            Err(error) => {
                self.pod_failed("Update", "FailedUpdate", name, &error.reason());
                Err(error.into())
            }
        }
    }

    async fn create(&self, pods: Vec<(i64, &Revision)>) -> Result<Next, ReconcileError> {
        let mut rejected = None;
        let mut creations = Vec::with_capacity(pods.len());
        for (ordinal, revision) in pods {
            let name = pods::pod_name(&self.set.metadata.name, ordinal);
            match self.missing_claims(&name, "", ordinal) {
                Ok(claims) => creations.push(self.creation(name, claims, ordinal, revision)),
                Err(why) => {
                    self.pod_failed("Create", "FailedCreate", &name, &why);
                    rejected.get_or_insert(why);
                }
            }
        }
        let namespace = self.set.metadata.namespace.to_string();
        let outcome =
            slow_start(creations, |creation| create_pod(creation, self.writer().clone(), namespace.clone())).await;
        let (mut next, mut error) = (Next::OnChange, None);
        for mut outcome in outcome.done.into_iter().chain(outcome.error.map(|failed| *failed)) {
            for claim in &outcome.claims {
                self.claim_succeeded(claim, &outcome.pod);
            }
            match (outcome.failed.take(), &outcome.created) {
                (Some((claim, why)), _) => {
                    let mut reason = why.reason();
                    if let Some(claim) = claim {
                        self.claim_failed(&claim, &outcome.pod, &reason);
                        reason = format!("failed to create PVC {claim}: {reason}");
                    }
                    self.pod_failed("Create", "FailedCreate", &outcome.pod, &reason);
                    error.get_or_insert(why);
                }
                (None, Some(created)) => {
                    self.sets.expectations.wrote(self.key, created.revision());
                    self.pod_succeeded("Create", "SuccessfulCreate", &outcome.pod);
                }
                (None, None) => next = next.or(self.look_at_taken(&outcome.pod).await?),
            }
        }
        match (error, rejected) {
            (Some(error), _) => Err(error.into()),
            (None, Some(why)) => Err(ReconcileError::Rejected(why)),
            (None, None) => Ok(next),
        }
    }

    fn creation(&self, pod: String, claims: Vec<Value>, ordinal: i64, revision: &Revision) -> Creation {
        let new = NewPod {
            set: self.owner(),
            template: &revision.template,
            revision: &revision.name,
            service: &self.set.spec.service_name,
            claims: self.templates,
            ordinal,
        };
        let mut object = new.object();
        if let (Some(canary), true) = (self.canary, revision.name == self.plan_set.updated) {
            canary.confine(&mut object["spec"]);
        }
        Creation { pod, object: object.to_string().into_bytes(), claims }
    }

    /// A pod's name is taken: by the set's own pod that the reader does not show yet, or by somebody else's, for whose end the
    /// set waits.
    async fn look_at_taken(&self, name: &str) -> Result<Next, ReconcileError> {
        let meta = &self.set.metadata;
        let Some(found) = self.writer().get_now(Kind::Pod, (&meta.namespace, name)).await? else {
            return Ok(Next::After(UNSEEN_RETRY));
        };
        let found = found.to_string();
        let pod: AnyView<'_> = serde_json::from_str(&found)
            .map_err(|error| ReconcileError::Rejected(format!("the pod {name} cannot be read: {error}")))?;
        let matches = self.set.spec.selector.as_ref().is_some_and(|selector| selector.matches(&pod.metadata.labels));
        if claim::claim(meta, matches, &pod.metadata) != Claim::Ignore {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        if !pod.metadata.is_terminating() {
            let why = format!("pods \"{name}\" already exists");
            self.pod_failed("Create", "FailedCreate", name, &why);
            // Its end may never come, and nothing says so: the set is tried again later each time.
            return Err(ReconcileError::Rejected(why));
        }
        Ok(Next::After(STALE_RETRY))
    }

    async fn delete(&self, indexes: Vec<usize>) -> Result<Next, ReconcileError> {
        let mut doomed = Vec::with_capacity(indexes.len());
        for index in indexes {
            let pod: AnyView<'_> = self.objects[index].view()?;
            doomed.push((pod.metadata.name.to_string(), pod.metadata.uid.to_string()));
        }
        let namespace = self.set.metadata.namespace.to_string();
        let deleted = slow_start(doomed, |(name, uid)| {
            let (writer, namespace) = (self.writer().clone(), namespace.clone());
            async move {
                let target = Target { namespace: &namespace, name: &name, uid: &uid };
                let deleted = writer.delete_target(Kind::Pod, target, None, None).await;
                match deleted {
                    Ok(is_deleted) => Ok((name, uid, is_deleted)),
                    Err(error) => Err((name, error)),
                }
            }
        })
        .await;
        let mut next = Next::OnChange;
        for (name, uid, is_deleted) in deleted.done {
            if is_deleted {
                self.sets.expectations.deleted(self.key, &self.set.metadata.namespace, &name, &uid);
                self.pod_succeeded("Delete", "SuccessfulDelete", &name);
            } else {
                // Deleted by somebody else, or met by another write: nothing is to be expected of it.
                next = Next::After(UNSEEN_RETRY);
            }
        }
        match deleted.error {
            None => Ok(next),
            Some((name, error)) => {
                self.pod_failed("Delete", "FailedDelete", &name, &error.reason());
                Err(error.into())
            }
        }
    }
}

/// Creates the claims of a pod, then the pod.
async fn create_pod(creation: Creation, writer: Writer, namespace: String) -> Result<Outcome, Box<Outcome>> {
    let mut outcome = Outcome { pod: creation.pod, claims: Vec::new(), failed: None, created: None };
    for claim in creation.claims {
        let name = claim["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match writer.create(Kind::PersistentVolumeClaim, claim).await {
            Ok(Some(_)) => outcome.claims.push(name),
            // The reader does not show it yet.
            Ok(None) => {}
            Err(error) => {
                outcome.failed = Some((Some(name), error));
                return Err(Box::new(outcome));
            }
        }
    }
    match writer.create_encoded(Kind::Pod, &namespace, &outcome.pod, creation.object).await {
        Ok(created) => Ok(Outcome { created, ..outcome }),
        Err(error) => {
            outcome.failed = Some((None, error));
            Err(Box::new(outcome))
        }
    }
}
