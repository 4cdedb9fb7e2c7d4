//! Jobs: pods that run to their end, as often as it takes, each of them counted once.
//!
//! | module | what |
//! | --- | --- |
//! | `plan` | what a job needs next: a plain function of job, pods and time |
//! | `track` | how ends of pods are counted, and what the status says when |
//! | `indexes`, `policy`, `backoff` | sets of indexes; rules about failures and successes; pauses after failures |
//! | `template`, `status`, `views` | pods as they are created; the status; what is read |
//! | `shared` | whose pod a pod is, and writes that other workloads need too |
//!
//! ```text
//! pod changed ──owner, or selector in its namespace──┐
//! job changed ───────────────────────────────────────┴──▶ Key::Job     claim → plan → delete or create
//!                                                                        → status → finalizers → status
//! pod with our finalizer and without a job under way ────▶ Key::Orphan  finalizer
//! ```
//!
//! **What may be lost.** Everything that is remembered between runs: it only saves work, or waits. How often a job failed since its
//! last success, on which the pause before the next pod depends, is taken from the pods that are still there after a restart.
//!
//! **What a view from before may do.** Nothing: a run waits until the reader shows the pods that the job created and deleted and the
//! status that it wrote; finalizers that were removed are remembered until they are seen so; a status is written as it was read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hub_runtime::batch::slow_start;
use hub_runtime::kinds::Kind;
use hub_runtime::views::PodView;
use hub_runtime::writer::{Target, WriteError, Writer};
use hub_runtime::{Context, Event, Expectations, Field, Next, ObjectRef, Queue, Reader, ReconcileError, Reconciler};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

mod backoff;
mod indexes;
mod plan;
mod policy;
pub(crate) mod shared;
mod status;
mod template;
mod track;
pub(crate) mod views;

use backoff::Record;
use plan::{Action, Job, NewPod, Outcome, Phase, Pod};
use shared::Orphans;

use crate::UNSEEN_RETRY;
use crate::claim::Claim;
use template::PodFactory;
use track::{Done, Ended, Suspension, Tracked};
use views::{JobPodView, JobView};

/// Holds a pod until its end is counted.
const TRACKING_FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation, and label, with the index of a pod of an indexed job.
const INDEX_ANNOTATION: &str = "batch.kubernetes.io/job-completion-index";
/// How often the index of a pod failed before it.
const FAILURES_ANNOTATION: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it failed without that it counted.
const IGNORED_FAILURES_ANNOTATION: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// A change of the wall clock is noticed within this time.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// A deadline is not looked at more often than this.
const DEADLINE_MIN: Duration = Duration::from_millis(100);

/// Namespace and name.
type Name = (Box<str>, Box<str>);

/// What is reconciled alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A job, by namespace and name.
    Job(Box<str>, Box<str>),
    /// A pod that may have a finalizer without a job that counts it.
    Orphan(Box<str>, Box<str>),
}

/// The controller.
pub struct Jobs {
    context: Context,
    expectations: Expectations<Name>,
    orphans: Orphans,
    memory: Mutex<HashMap<Name, Memory>>,
}

/// What is remembered of a job between runs.
struct Memory {
    uid: String,
    /// The revision of the last status that was written.
    written: u64,
    record: Record,
    /// Uids of pods whose finalizer was removed, until the reader shows them so.
    released: HashSet<String>,
}

/// What became of a pod that should be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deleted {
    /// It is, or is on its way out.
    Now,
    /// Somebody else had deleted it.
    Before,
    /// It is not: it changed since it was read.
    Changed,
}

/// A job in a run.
struct Run<'a> {
    name: Name,
    view: &'a JobView<'a>,
    job: Job,
    objects: Vec<ObjectRef>,
    pods: Vec<Pod>,
}

impl Run<'_> {
    fn target(&self) -> Target<'_> {
        shared::target(&self.view.metadata)
    }
}

/// A change of a pod's ties: no job counts it from now on.
fn untrack(_: &mut Vec<Value>, finalizers: &mut Vec<Value>) {
    finalizers.retain(|one| *one != *TRACKING_FINALIZER);
}

impl Jobs {
    /// The controller over what it runs on.
    pub fn new(context: Context) -> Self {
        let expectations = Expectations::new(Kind::Pod);
        Self { context, expectations, orphans: Orphans::default(), memory: Mutex::default() }
    }

    fn reader(&self) -> &dyn Reader {
        &*self.context.reader
    }

    fn observe_pod(&self, object: &ObjectRef, is_current: bool, queue: &Queue<Key>) {
        let Some(pod) = object.view_or_log::<PodView<'_>>() else { return };
        let is_tracked = is_current && pod.metadata.has_finalizer(TRACKING_FINALIZER);
        match pod.metadata.controller() {
            Some(owner) if &*owner.kind == "Job" => {
                queue.add(Key::Job(object.namespace().into(), owner.name.as_str().into()));
                if is_tracked && !self.is_under_way(object.namespace(), &owner.name, &owner.uid) {
                    queue.add(Key::Orphan(object.namespace().into(), object.name().into()));
                }
            }
            Some(_) => {}
            None if is_current => {
                if is_tracked {
                    queue.add(Key::Orphan(object.namespace().into(), object.name().into()));
                }
                for job in self.reader().list(Kind::Job, Some(object.namespace())) {
                    let Some(view) = job.view_or_log::<JobView<'_>>() else { continue };
                    let selector = view.spec.selector.as_ref();
                    if view.ending().is_none() && selector.is_some_and(|one| one.matches(&pod.metadata.labels)) {
                        queue.add(Key::Job(job.namespace().into(), job.name().into()));
                    }
                }
            }
            None => {}
        }
    }

    /// A job that is deleted, or over, leaves no finalizers behind.
    fn observe_job(&self, job: &ObjectRef, is_current: bool, queue: &Queue<Key>) {
        queue.add(Key::Job(job.namespace().into(), job.name().into()));
        let Some(view) = job.view_or_log::<JobView<'_>>() else { return };
        if is_current && view.ending().is_none() {
            return;
        }
        for pod in self.reader().by_field(Kind::Pod, Field::OwnerUid, &view.metadata.uid) {
            let is_tracked = |pod: &ObjectRef| {
                pod.view_or_log::<PodView<'_>>().is_some_and(|view| view.metadata.has_finalizer(TRACKING_FINALIZER))
            };
            if is_tracked(&pod) {
                queue.add(Key::Orphan(pod.namespace().into(), pod.name().into()));
            }
        }
    }

    /// Whether there is such a job which still counts its pods, or somebody else's controller does.
    fn is_under_way(&self, namespace: &str, name: &str, uid: &str) -> bool {
        let found = self.reader().get(Kind::Job, namespace, name);
        found.is_some_and(|found| {
            let job = found.view_or_log::<JobView<'_>>();
            job.is_some_and(|job| *job.metadata.uid == *uid && (job.ending().is_none() || job.is_managed_by_another()))
        })
    }

    /// Takes the finalizer off a pod that no job counts.
    async fn release_orphan(&self, namespace: &str, name: &str) -> Result<Next, ReconcileError> {
        let Some(object) = self.reader().get(Kind::Pod, namespace, name) else { return Ok(Next::OnChange) };
        let pod: PodView<'_> = object.view()?;
        if !pod.metadata.has_finalizer(TRACKING_FINALIZER) {
            return Ok(Next::OnChange);
        }
        if let Some(owner) = pod.metadata.controller() {
            let is_job = &*owner.kind == "Job" && &*owner.api_version == Kind::Job.api_version();
            if !is_job || self.is_under_way(namespace, &owner.name, &owner.uid) {
                return Ok(Next::OnChange);
            }
            // The reader may be behind: a pod that is released too early is never counted.
            let found = self.context.writer.get_now(Kind::Job, (namespace, &owner.name)).await?;
            let found = found.map(|found| found.to_string());
            let job = found.as_deref().and_then(|found| serde_json::from_str::<JobView<'_>>(found).ok());
            if job.is_some_and(|job| *job.metadata.uid == *owner.uid && job.ending().is_none()) {
                return Ok(Next::After(UNSEEN_RETRY));
            }
        }
        // As it was read: a job that adopts it meanwhile counts on the finalizer.
        if !shared::change_ties(&object, &self.context.writer, untrack).await? {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        Ok(Next::OnChange)
    }

    /// The job's pods, after adopting and releasing; `None` when a pod changed under it and must be looked at again.
    async fn claim_pods(&self, job: &JobView<'_>) -> Result<Option<Vec<ObjectRef>>, ReconcileError> {
        let (reader, writer) = (self.reader(), &self.context.writer);
        let Some(selector) = &job.spec.selector else { return Ok(Some(Vec::new())) };
        let own = reader.by_field(Kind::Pod, Field::OwnerUid, &job.metadata.uid);
        let known: HashSet<Box<str>> = own.iter().map(|object| object.name().into()).collect();
        let orphans = self.orphans.of(&job.metadata.namespace).into_iter().filter(|name| !known.contains(name));
        let orphans = orphans.filter_map(|name| reader.get(Kind::Pod, &job.metadata.namespace, &name));
        let mut claimed = Vec::with_capacity(own.len());
        let mut may_adopt = None;
        for object in own.into_iter().chain(orphans) {
            let pod: PodView<'_> = object.view()?;
            if *pod.metadata.namespace != *job.metadata.namespace {
                continue;
            }
            let (controller, labels) = (pod.metadata.controller(), &pod.metadata.labels);
            match shared::claim(&job.metadata.uid, selector, controller, labels, pod.metadata.is_terminating()) {
                Claim::Own => claimed.push(object.clone()),
                Claim::Ignore => {}
                Claim::Release => {
                    let uid = job.metadata.uid.to_string();
                    shared::change_ties(&object, writer, |owners, finalizers| {
                        owners.retain(|owner| owner["uid"] != *uid);
                        untrack(owners, finalizers);
                    })
                    .await?;
                    return Ok(None);
                }
                Claim::Adopt => {
                    let may = match may_adopt {
                        Some(may) => may,
                        None => *may_adopt.insert(shared::may_adopt(Kind::Job, &job.metadata, writer).await?),
                    };
                    if !may {
                        continue;
                    }
                    shared::change_ties(&object, writer, |owners, finalizers| {
                        owners.push(shared::owner_reference(Kind::Job, &job.metadata));
                        if finalizers.iter().all(|one| *one != *TRACKING_FINALIZER) {
                            finalizers.push(TRACKING_FINALIZER.into());
                        }
                    })
                    .await?;
                    return Ok(None);
                }
            }
        }
        Ok(Some(claimed))
    }

    /// Reads the job's pods, and brings what is remembered of the job up to date.
    fn read_pods(
        &self,
        name: &Name,
        job: &JobView<'_>,
        objects: &[ObjectRef],
        now: Timestamp,
    ) -> Result<(Vec<Pod>, Record), ReconcileError> {
        let views: Vec<JobPodView<'_>> = objects.iter().map(ObjectRef::view).collect::<Result<_, _>>()?;
        let mut all = self.memory.lock();
        let held = all.remove(name).filter(|held| *held.uid == *job.metadata.uid);
        let is_known = held.is_some();
        let mut memory = held.unwrap_or_else(|| Memory {
            uid: job.metadata.uid.to_string(),
            written: 0,
            record: Record::default(),
            released: HashSet::new(),
        });
        let shown = views.iter().filter(|view| view.metadata.is_tracked()).map(|view| view.metadata.uid.as_str());
        let shown: HashSet<&str> = shown.collect();
        memory.released.retain(|uid| shown.contains(&**uid));
        let read = |view: &JobPodView<'_>| Pod::read(view, job, memory.released.contains(&*view.metadata.uid), now);
        let pods: Vec<Pod> = views.iter().map(read).collect();
        if !is_known {
            // After a restart: those that were counted before and are still there.
            let counted = || pods.iter().filter(|pod| !pod.is_tracked && !pod.is_terminating);
            let times =
                |phase: Phase| counted().filter(|pod| pod.phase == phase).map(|pod| pod.finished).collect::<Vec<_>>();
            memory.record = Record::default().with(&times(Phase::Succeeded), &times(Phase::Failed));
        }
        let record = memory.record;
        all.insert(name.clone(), memory);
        Ok((pods, record))
    }

    fn remember(&self, name: &Name, change: impl FnOnce(&mut Memory)) {
        if let Some(memory) = self.memory.lock().get_mut(name) {
            change(memory);
        }
    }

    /// Whether the reader shows what was written last.
    fn is_shown(&self, name: &Name, object: &ObjectRef, job: &JobView<'_>) -> bool {
        let written =
            self.memory.lock().get(name).filter(|held| *held.uid == *job.metadata.uid).map(|held| held.written);
        written.is_none_or(|written| written <= object.revision()) && self.expectations.are_seen(name, self.reader())
    }

    /// Deletes pods and returns those that were. `uncounted` ones lose their finalizer first, so that they are never counted; one
    /// that changed since it was read may have ended and is left to the next run.
    async fn delete(&self, run: &Run<'_>, pods: &[usize], uncounted: bool) -> (Vec<usize>, Option<WriteError>) {
        let writer = &self.context.writer;
        let deleted = slow_start(pods.to_vec(), |index| {
            let (object, uid) = (run.objects[index].clone(), run.pods[index].uid.clone());
            let releases = uncounted && run.pods[index].is_tracked;
            let writer = writer.clone();
            async move {
                if releases && !shared::change_ties(&object, &writer, untrack).await? {
                    return Ok((index, Deleted::Changed));
                }
                let target = Target { namespace: object.namespace(), name: object.name(), uid: &uid };
                let is_there = writer.delete_target(Kind::Pod, target, None, None).await?;
                Ok::<_, WriteError>((index, if is_there { Deleted::Now } else { Deleted::Before }))
            }
        })
        .await;
        let recorder = &self.context.recorder;
        for (index, became) in &deleted.done {
            let pod = &run.pods[*index];
            if uncounted && pod.is_tracked && *became != Deleted::Changed {
                self.remember(&run.name, |memory| memory.released.extend([pod.uid.clone()]));
            }
            if *became == Deleted::Now {
                self.expectations.deleted(&run.name, &run.name.0, &pod.name, &pod.uid);
                recorder.normal(Kind::Job, run.target(), "SuccessfulDelete", format!("Deleted pod: {}", pod.name));
            }
        }
        if let Some(error) = &deleted.error {
            let message = format!("Error deleting: {}", error.reason());
            recorder.warning(Kind::Job, run.target(), "FailedDelete", message);
        }
        let done = deleted.done.into_iter().filter(|(_, became)| *became != Deleted::Changed);
        (done.map(|(index, _)| index).collect(), deleted.error)
    }

    async fn create(&self, run: &Run<'_>, pods: Vec<NewPod>) -> (i64, Option<ReconcileError>) {
        let template = run.view.spec.template.map_or("null", |template| template.get());
        let template: Value = match serde_json::from_str(template) {
            Ok(template) => template,
            Err(error) => {
                return (0, Some(ReconcileError::Rejected(format!("the template cannot be read: {error}"))));
            }
        };
        let factory = PodFactory::new(&run.view.metadata, &template, run.job.is_indexed);
        let (writer, namespace): (&Writer, Arc<str>) =
            (&self.context.writer, run.view.metadata.namespace.as_str().into());
        let job: Arc<str> = run.view.metadata.name.as_str().into();
        let created = slow_start(pods, |pod| {
            let bytes = factory.pod(&pod);
            let (writer, namespace, job) = (writer.clone(), namespace.clone(), job.clone());
            async move { writer.create_encoded(Kind::Pod, &namespace, &format!("of {job}"), bytes).await }
        })
        .await;
        let recorder = &self.context.recorder;
        let mut count = 0;
        for pod in created.done.into_iter().flatten() {
            count += 1;
            self.expectations.wrote(&run.name, pod.revision());
            recorder.normal(Kind::Job, run.target(), "SuccessfulCreate", format!("Created pod: {}", pod.name));
        }
        if let Some(error) = &created.error {
            let message = format!("Error creating: {}", error.reason());
            recorder.warning(Kind::Job, run.target(), "FailedCreate", message);
        }
        (count, created.error.map(ReconcileError::from))
    }

    /// Writes a status if it differs; `None` when the job was changed meanwhile, else the revision to continue from.
    async fn write(
        &self,
        run: &Run<'_>,
        version: String,
        from: &status::Status,
        to: &status::Status,
    ) -> Result<Option<String>, WriteError> {
        if from == to {
            return Ok(Some(version));
        }
        let written =
            shared::write_status(&self.context.writer, Kind::Job, run.target(), &version, &to.to_merge()).await?;
        if let Some(written) = written.as_deref().and_then(|written| written.parse().ok()) {
            self.remember(&run.name, |memory| memory.written = written);
        }
        Ok(written)
    }

    /// Writes the status, removes finalizers, and writes the status.
    async fn count(&self, run: &Run<'_>, tracked: &Tracked, now: Timestamp) -> Result<Next, ReconcileError> {
        let version = run.view.metadata.resource_version.to_string();
        let Some(version) = self.write(run, version, &run.job.status, &tracked.status).await? else {
            return Ok(Next::After(UNSEEN_RETRY));
        };
        self.report_suspension(run, tracked);
        let ended = |test: &dyn Fn(&Pod) -> bool| {
            let pods = tracked.release.iter().map(|pod| &run.pods[*pod]);
            let pods = pods.filter(|pod| run.job.is_valid(pod) && !run.job.is_uncounted(&pod.uid));
            pods.filter(|pod| test(pod)).map(|pod| pod.finished).collect::<Vec<_>>()
        };
        let (succeeded, failed) =
            (ended(&|pod: &Pod| pod.phase == Phase::Succeeded), ended(&|pod: &Pod| run.job.is_failed(pod)));
        self.remember(&run.name, |memory| memory.record = memory.record.with(&succeeded, &failed));

        let writer = &self.context.writer;
        let released = slow_start(tracked.release.clone(), |index| {
            let object = run.objects[index].clone();
            let (writer, uid) = (writer.clone(), run.pods[index].uid.clone());
            async move {
                let target = Target { namespace: object.namespace(), name: object.name(), uid: &uid };
                shared::remove_finalizer(&writer, target, TRACKING_FINALIZER).await.map(|()| uid)
            }
        })
        .await;
        let uids: HashSet<String> = released.done.into_iter().collect();
        self.remember(&run.name, |memory| memory.released.extend(uids.iter().cloned()));
        let held: HashSet<&str> =
            run.pods.iter().filter(|pod| pod.is_tracked && !uids.contains(&pod.uid)).map(|pod| &*pod.uid).collect();
        let (settled, ended) = tracked.settle(&run.job, &run.pods, now, |uid| held.contains(uid));
        let is_written = self.write(run, version, &tracked.status, &settled).await?.is_some();
        if let Some(error) = released.error {
            return Err(error.into());
        }
        if !is_written {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        if let Some(ended) = ended {
            self.report_end(run, &ended);
        }
        Ok(Next::OnChange)
    }

    fn report_suspension(&self, run: &Run<'_>, tracked: &Tracked) {
        let (reason, message) = match tracked.suspension {
            Some(Suspension::Suspended) => ("Suspended", "Job suspended"),
            Some(Suspension::Resumed) => ("Resumed", "Job resumed"),
            None => return,
        };
        self.context.recorder.normal(Kind::Job, run.target(), reason, message.to_owned());
    }

    fn report_end(&self, run: &Run<'_>, ended: &Ended) {
        let (recorder, target) = (&self.context.recorder, run.target());
        match ended.finish.outcome {
            Outcome::Success => {
                if ended.has_surplus {
                    let message = "Too many succeeded pods running after completion count reached";
                    recorder.warning(Kind::Job, target, "TooManySucceededPods", message.to_owned());
                }
                recorder.normal(Kind::Job, target, "Completed", "Job completed".to_owned());
            }
            Outcome::Failure => {
                recorder.warning(Kind::Job, target, &ended.finish.reason, ended.finish.message.clone());
            }
        }
    }

    async fn reconcile_job(&self, name: &Name) -> Result<Next, ReconcileError> {
        let Some(object) = self.reader().get(Kind::Job, &name.0, &name.1) else {
            self.memory.lock().remove(name);
            self.expectations.forget(name);
            return Ok(Next::OnChange);
        };
        let view: JobView<'_> = object.view()?;
        if view.is_managed_by_another() {
            return Ok(Next::OnChange);
        }
        if view.ending().is_some() {
            self.memory.lock().remove(name);
            return Ok(Next::OnChange);
        }
        if !matches!(view.spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let message = "Skipped Job sync because completion mode is unknown";
            let target = shared::target(&view.metadata);
            self.context.recorder.warning(Kind::Job, target, "UnknownCompletionMode", message.to_owned());
            return Ok(Next::OnChange);
        }
        if !self.is_shown(name, &object, &view) {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        // Its own pods would not be its own, and it would create more of them without end. The API takes no such job.
        if !view.selects_own() {
            return Err(ReconcileError::Rejected("its selector does not select its own pods".to_owned()));
        }
        let Some(objects) = self.claim_pods(&view).await? else { return Ok(Next::After(UNSEEN_RETRY)) };
        let now = self.context.clock.now();
        let (pods, record) = self.read_pods(name, &view, &objects, now)?;
        let run = Run { name: name.clone(), view: &view, job: Job::read(&view), objects, pods };
        let mut plan = plan::plan(&run.job, &run.pods, record, now);
        let mut error = None;
        let mut done = Done::default();
        match &plan.action {
            Action::Nothing => {}
            Action::End(pods) => {
                let (deleted, failed) = self.delete(&run, pods, false).await;
                (done.deleted, error) = (deleted, failed.map(ReconcileError::from));
            }
            Action::Remove(pods) => {
                let (deleted, failed) = self.delete(&run, pods, true).await;
                (done.deleted, error) = (deleted, failed.map(ReconcileError::from));
                if done.deleted.len() < pods.len() {
                    plan.again = Some(plan.again.unwrap_or(UNSEEN_RETRY).min(UNSEEN_RETRY));
                }
            }
            // Its end is the namespace's.
            Action::Create(_) if shared::is_ending(self.reader(), &name.0) => plan.action = Action::Nothing,
            Action::Create(new) => {
                (done.created, error) = self.create(&run, new.clone()).await;
                if done.created < plan::count(new.len()) {
                    // A name that was drawn twice is drawn anew.
                    plan.again = Some(plan.again.unwrap_or(UNSEEN_RETRY).min(UNSEEN_RETRY));
                }
            }
        }
        let tracked = track::track(&run.job, &run.pods, &plan, &done, now);
        // The status is true whatever became of the pods.
        let next = self.count(&run, &tracked, now).await?;
        match (error, plan.again) {
            (Some(error), _) => Err(error),
            (None, None) => Ok(next),
            (None, Some(again)) => Ok(next.or(Next::After(again.clamp(DEADLINE_MIN, DEADLINE_MAX)))),
        }
    }
}

impl Reconciler for Jobs {
    type Key = Key;

    fn name(&self) -> &'static str {
        "jobs"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::Job, Kind::Pod]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        match event {
            Event::Listed(Kind::Pod, pods) => {
                self.orphans.list(pods);
                pods.iter().for_each(|pod| self.observe_pod(pod, true, queue));
                // A deletion may have been missed.
                for job in self.reader().list(Kind::Job, None) {
                    queue.add(Key::Job(job.namespace().into(), job.name().into()));
                }
            }
            Event::Listed(_, jobs) => {
                let listed: HashSet<Name> =
                    jobs.iter().map(|job| (job.namespace().into(), job.name().into())).collect();
                self.memory.lock().retain(|name, _| listed.contains(name));
                jobs.iter().for_each(|job| self.observe_job(job, true, queue));
                // Of jobs whose deletion was missed.
                for pod in self.reader().list(Kind::Pod, None) {
                    self.observe_pod(&pod, true, queue);
                }
            }
            Event::Changed(change) if change.kind == Kind::Pod => {
                self.orphans.note(change.newest(), change.current.is_some());
                change.previous.iter().for_each(|pod| self.observe_pod(pod, false, queue));
                change.current.iter().for_each(|pod| self.observe_pod(pod, true, queue));
            }
            Event::Changed(change) => {
                if change.current.is_none() {
                    change.previous.iter().for_each(|job| self.observe_job(job, false, queue));
                }
                change.current.iter().for_each(|job| self.observe_job(job, true, queue));
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        match key {
            Key::Job(namespace, name) => self.reconcile_job(&(namespace.clone(), name.clone())).await,
            Key::Orphan(namespace, name) => self.release_orphan(namespace, name).await,
        }
    }
}
