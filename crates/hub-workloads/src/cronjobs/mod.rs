//! CronJobs: a job at each scheduled time.
//!
//! | module | what |
//! | --- | --- |
//! | `schedule` | how schedules are written and which times they mean |
//! | `plan` | what a CronJob needs next: a plain function of it, its jobs and the time |
//! | `zones` | time zones by their names |
//!
//! A job's name is a function of CronJob and time, so a hub that dies between creating a job and writing it down creates none twice.
//! A CronJob is looked at again when its next time comes, and once a minute at least, so a clock that jumps costs a minute.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hub_runtime::events::seconds;
use hub_runtime::kinds::Kind;
use hub_runtime::views::{AnyView, ObjectMeta, Text, time};
use hub_runtime::writer::{Target, WriteError};
use hub_runtime::{Context, Event, Expectations, Field, Next, ObjectRef, Queue, ReconcileError, Reconciler};
use jiff::SignedDuration;
use kube::api::PropagationPolicy;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

mod plan;
mod schedule;
mod zones;

use plan::{Child, Concurrency, CronJob, Plan, Reference, Start, Status};
use zones::Zones;

use hub_runtime::views::nullable;

use crate::UNSEEN_RETRY;
use crate::jobs::shared::{self, target};
use crate::jobs::views::{Ending, JobView};

/// Annotation of a job: the time that it was scheduled for.
const TIMESTAMP_ANNOTATION: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// A change of the wall clock is noticed within this time.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(60);

/// Namespace and name of a CronJob.
type Key = (Box<str>, Box<str>);

/// A CronJob.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CronJobView<'a> {
    #[serde(borrow)]
    metadata: ObjectMeta<'a>,
    #[serde(borrow)]
    spec: CronJobSpecView<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    status: CronJobStatusView<'a>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CronJobSpecView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    schedule: Text<'a>,
    #[serde(borrow)]
    time_zone: Option<Text<'a>>,
    starting_deadline_seconds: Option<i64>,
    #[serde(borrow, deserialize_with = "nullable")]
    concurrency_policy: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    suspend: bool,
    successful_jobs_history_limit: Option<i64>,
    failed_jobs_history_limit: Option<i64>,
    #[serde(borrow)]
    job_template: Option<&'a RawValue>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CronJobStatusView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    active: Vec<ReferenceView<'a>>,
    #[serde(borrow)]
    last_schedule_time: Option<Text<'a>>,
    #[serde(borrow)]
    last_successful_time: Option<Text<'a>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ReferenceView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    namespace: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    uid: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    resource_version: Text<'a>,
}

impl CronJobView<'_> {
    fn read(&self) -> CronJob {
        let spec = &self.spec;
        let number = |value: i64| value.clamp(0, i64::from(i32::MAX));
        let kept = |limit: Option<i64>| limit.map(|limit| usize::try_from(number(limit)).unwrap_or(usize::MAX));
        CronJob {
            name: self.metadata.name.to_string(),
            is_terminating: self.metadata.is_terminating(),
            created: self.metadata.created(),
            schedule: spec.schedule.to_string(),
            zone: spec.time_zone.as_ref().map(ToString::to_string),
            is_suspended: spec.suspend,
            concurrency: match &*spec.concurrency_policy {
                "Forbid" => Concurrency::Forbid,
                "Replace" => Concurrency::Replace,
                _ => Concurrency::Allow,
            },
            starting_deadline: spec.starting_deadline_seconds.map(|seconds| SignedDuration::from_secs(number(seconds))),
            kept: [
                (Ending::Complete, kept(spec.successful_jobs_history_limit)),
                (Ending::Failed, kept(spec.failed_jobs_history_limit)),
            ],
            status: self.status.read(),
        }
    }
}

impl CronJobStatusView<'_> {
    fn read(&self) -> Status {
        let reference = |one: &ReferenceView<'_>| Reference {
            namespace: one.namespace.to_string(),
            name: one.name.to_string(),
            uid: one.uid.to_string(),
            resource_version: one.resource_version.to_string(),
        };
        Status {
            active: self.active.iter().map(reference).collect(),
            last_schedule: self.last_schedule_time.as_deref().and_then(time),
            last_successful: self.last_successful_time.as_deref().and_then(time),
        }
    }
}

impl Status {
    /// The status as a merge.
    fn to_merge(&self) -> Value {
        let active = self.active.iter().map(|one| {
            json!({
                "apiVersion": Kind::Job.api_version(), "kind": Kind::Job.name(), "namespace": one.namespace,
                "name": one.name, "uid": one.uid, "resourceVersion": one.resource_version,
            })
        });
        let active: Vec<Value> = active.collect();
        json!({
            "active": if active.is_empty() { Value::Null } else { active.into() },
            "lastScheduleTime": self.last_schedule.map(seconds),
            "lastSuccessfulTime": self.last_successful.map(seconds),
        })
    }
}

/// Reads a job; `None` when another owner controls it.
fn child(object: &ObjectRef, cron_job_uid: &str) -> Result<Option<Child>, ReconcileError> {
    let job: JobView<'_> = object.view()?;
    let is_ours = job.metadata.controller().is_some_and(|owner| *owner.uid == *cron_job_uid);
    Ok(is_ours.then(|| Child {
        name: object.name().to_owned(),
        uid: job.metadata.uid.to_string(),
        is_terminating: job.metadata.is_terminating(),
        ending: job.ending().map(|(ending, _)| ending),
        start: job.status.start_time.as_deref().and_then(time),
        completion: job.status.completion_time.as_deref().and_then(time),
    }))
}

/// The controller.
pub struct CronJobs {
    context: Context,
    zones: Zones,
    expectations: Expectations<Key>,
    memory: Mutex<HashMap<Key, Memory>>,
}

/// What is remembered between runs. All of it can be lost: it only waits, or does not say a thing twice.
#[derive(Default)]
struct Memory {
    uid: String,
    /// The revision of the last status that was written.
    written: u64,
    /// What the last run had to say of what still holds.
    said: HashSet<String>,
}

impl CronJobs {
    /// The controller over what it runs on. Schedules without a zone are in UTC.
    pub fn new(context: Context) -> Self {
        Self { context, zones: Zones::default(), expectations: Expectations::new(Kind::Job), memory: Mutex::default() }
    }

    /// The CronJob's jobs.
    fn children(&self, uid: &str) -> Result<Vec<Child>, ReconcileError> {
        let owned = self.context.reader.by_field(Kind::Job, Field::OwnerUid, uid);
        owned.iter().filter_map(|object| child(object, uid).transpose()).collect()
    }

    /// Uids of active jobs that are there no more: the API itself is asked, since a reader may be behind.
    async fn absent(&self, status: &Status, children: &[Child]) -> Result<HashSet<String>, WriteError> {
        let known: HashSet<&str> = children.iter().map(|child| child.uid.as_str()).collect();
        let mut absent = HashSet::new();
        for job in status.active.iter().filter(|job| !known.contains(&*job.uid)) {
            let found = self.context.writer.get_now(Kind::Job, (&job.namespace, &job.name)).await?;
            if found.is_none_or(|found| found["metadata"]["uid"] != *job.uid) {
                absent.insert(job.uid.clone());
            }
        }
        Ok(absent)
    }

    fn report(&self, key: &Key, metadata: &ObjectMeta<'_>, plan: &Plan) {
        let mut memory = self.memory.lock();
        let memory = memory.entry(key.clone()).or_default();
        if memory.uid != *metadata.uid {
            *memory = Memory { uid: metadata.uid.to_string(), ..Memory::default() };
        }
        let mut says = HashSet::new();
        for notice in &plan.notices {
            if let Some(since) = notice.holds {
                let said = format!("{} {since} {}", notice.reason, notice.message);
                let is_old = memory.said.contains(&said);
                says.insert(said);
                if is_old {
                    continue;
                }
            }
            let (recorder, message) = (&self.context.recorder, notice.message.clone());
            match notice.is_warning {
                true => recorder.warning(Kind::CronJob, target(metadata), notice.reason, message),
                false => recorder.normal(Kind::CronJob, target(metadata), notice.reason, message),
            }
        }
        memory.said = says;
    }

    /// Deletes a job with what it owns; says so.
    async fn delete(&self, metadata: &ObjectMeta<'_>, name: &str, uid: &str) -> Result<(), WriteError> {
        let (writer, recorder) = (&self.context.writer, &self.context.recorder);
        let job = Target { namespace: &metadata.namespace, name, uid };
        let deleted = writer.delete_target(Kind::Job, job, None, Some(PropagationPolicy::Background)).await;
        match deleted {
            Ok(true) => {
                recorder.normal(Kind::CronJob, target(metadata), "SuccessfulDelete", format!("Deleted job {name}"))
            }
            Ok(false) => {}
            Err(error) => {
                let message = format!("Deleted job: {}", error.reason());
                recorder.warning(Kind::CronJob, target(metadata), "FailedDelete", message);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Creates the job of a time, or finds it created; `None` when its name is somebody else's.
    async fn start(
        &self,
        key: &Key,
        cron_job: &CronJobView<'_>,
        start: &Start,
    ) -> Result<Option<Reference>, ReconcileError> {
        let (writer, recorder, metadata) = (&self.context.writer, &self.context.recorder, &cron_job.metadata);
        let template = cron_job.spec.job_template.map_or("null", |template| template.get());
        let template: Value = serde_json::from_str(template)
            .map_err(|error| ReconcileError::Rejected(format!("the template cannot be read: {error}")))?;
        let job = job_of(metadata, &template, start);
        let created = writer.create(Kind::Job, job).await.inspect_err(|error| {
            let message = format!("Error creating job: {}", error.reason());
            recorder.warning(Kind::CronJob, target(metadata), "FailedCreate", message);
        })?;
        let job = match created {
            Some(created) => {
                let message = format!("Created job {}", start.name);
                recorder.normal(Kind::CronJob, target(metadata), "SuccessfulCreate", message);
                created
            }
            None => {
                let found = writer.get_now(Kind::Job, (&metadata.namespace, &start.name)).await?;
                let is_ours = |job: &Value| {
                    let owners = job["metadata"]["ownerReferences"].as_array();
                    owners.into_iter().flatten().any(|one| one["controller"] == true && one["uid"] == *metadata.uid)
                };
                match found.filter(is_ours) {
                    Some(found) => found,
                    None => return Ok(None),
                }
            }
        };
        let text = |field: &str| job["metadata"][field].as_str().unwrap_or_default().to_owned();
        if let Ok(revision) = text("resourceVersion").parse() {
            self.expectations.wrote(key, revision);
        }
        Ok(Some(Reference {
            namespace: metadata.namespace.to_string(),
            name: start.name.clone(),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
        }))
    }

    /// Starts the job that is due, after deleting those that it replaces.
    async fn act(
        &self,
        key: &Key,
        view: &CronJobView<'_>,
        plan: &Plan,
        status: &mut Status,
    ) -> Result<(), ReconcileError> {
        let Some(start) = &plan.start else { return Ok(()) };
        if shared::is_ending(&*self.context.reader, &key.0) {
            return Ok(());
        }
        for uid in &plan.replace {
            if let Some(job) = status.active.iter().find(|one| one.uid == *uid).cloned() {
                self.delete(&view.metadata, &job.name, &job.uid).await?;
                status.active.retain(|one| one.uid != *uid);
            }
        }
        if let Some(started) = self.start(key, view, start).await? {
            if status.active.iter().all(|one| one.uid != started.uid) {
                status.active.push(started);
            }
            status.last_schedule = Some(start.time);
        }
        Ok(())
    }
}

/// The job of a time.
fn job_of(cron_job: &ObjectMeta<'_>, template: &Value, start: &Start) -> Value {
    let mut annotations = template["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    annotations.insert(TIMESTAMP_ANNOTATION.to_owned(), start.text.as_str().into());
    let mut job = json!({
        "apiVersion": Kind::Job.api_version(), "kind": Kind::Job.name(),
        "metadata": {
            "namespace": cron_job.namespace, "name": start.name, "annotations": annotations,
            "ownerReferences": [shared::owner_reference(Kind::CronJob, cron_job)],
        },
        "spec": template["spec"],
    });
    if let labels @ Value::Object(_) = &template["metadata"]["labels"] {
        job["metadata"]["labels"] = labels.clone();
    }
    job
}

impl Reconciler for CronJobs {
    type Key = Key;

    fn name(&self) -> &'static str {
        "cronjobs"
    }

    fn sources(&self) -> &'static [Kind] {
        &[Kind::CronJob, Kind::Job]
    }

    fn observe(&self, event: &Event, queue: &Queue<Key>) {
        match event {
            Event::Listed(kind, objects) => {
                if *kind == Kind::CronJob {
                    let listed: HashSet<Key> =
                        objects.iter().map(|one| (one.namespace().into(), one.name().into())).collect();
                    self.memory.lock().retain(|key, _| listed.contains(key));
                }
                for cron_job in self.context.reader.list(Kind::CronJob, None) {
                    queue.add((cron_job.namespace().into(), cron_job.name().into()));
                }
            }
            Event::Changed(change) if change.kind == Kind::CronJob => {
                let cron_job = change.newest();
                queue.add((cron_job.namespace().into(), cron_job.name().into()));
            }
            Event::Changed(change) => {
                for job in change.versions() {
                    let Some(view) = job.view_or_log::<AnyView<'_>>() else { continue };
                    if let Some(owner) = view.metadata.controller().filter(|owner| &*owner.kind == "CronJob") {
                        queue.add((job.namespace().into(), owner.name.as_str().into()));
                    }
                }
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, ReconcileError> {
        let Some(object) = self.context.reader.get(Kind::CronJob, &key.0, &key.1) else {
            self.memory.lock().remove(key);
            self.expectations.forget(key);
            return Ok(Next::OnChange);
        };
        let view: CronJobView<'_> = object.view()?;
        let metadata = &view.metadata;
        let written = self.memory.lock().get(key).filter(|held| held.uid == *metadata.uid).map(|held| held.written);
        if written.is_some_and(|written| written > object.revision())
            || !self.expectations.are_seen(key, &*self.context.reader)
        {
            return Ok(Next::After(UNSEEN_RETRY));
        }
        let cron_job = view.read();
        let children = self.children(&metadata.uid)?;
        let absent = self.absent(&cron_job.status, &children).await?;
        let plan = plan::plan(&cron_job, &children, &absent, &|name| self.zones.find(name), self.context.clock.now());
        self.report(key, metadata, &plan);

        let mut status = plan.status.clone();
        let acted = self.act(key, &view, &plan, &mut status).await;
        let mut trimmed = Ok(());
        for child in plan.trim.iter().map(|index| &children[*index]) {
            trimmed = trimmed.and(self.delete(metadata, &child.name, &child.uid).await);
        }
        let mut next = plan.again.map_or(Next::OnChange, |again| Next::After(again.min(LOOK_AGAIN_MAX)));
        if status != cron_job.status {
            let (writer, version) = (&self.context.writer, &metadata.resource_version);
            let merge = status.to_merge();
            match shared::write_status(writer, Kind::CronJob, target(metadata), version, &merge).await? {
                Some(written) => {
                    let revision = written.parse().unwrap_or_default();
                    if let Some(memory) = self.memory.lock().get_mut(key) {
                        memory.written = revision;
                    }
                }
                None => next = Next::After(UNSEEN_RETRY),
            }
        }
        acted?;
        trimmed?;
        Ok(next)
    }
}
