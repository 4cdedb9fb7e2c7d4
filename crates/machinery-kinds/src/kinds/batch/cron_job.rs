//! CronJobs: a job at certain times.

use serde_json::{Value, json};

use super::job;
use crate::{
    kinds::core::pod,
    kit::{Read, Write},
    strategy::Strategy,
    table::{
        Printer, age_of, columns, or_none,
        printers::{name, selector},
        since,
    },
};

pub(crate) static CRON_JOB: Strategy = Strategy {
    generation: true,
    defaults,
    prepare_create: |cron_job, _| {
        drop_disabled(cron_job, &Value::Null);
        cron_job.set("status", json!({}));
    },
    prepare_update: drop_disabled,
    printer: &Printer {
        columns: columns::CRON_JOB,
        cells: |cron_job, now| {
            let (spec, status) = (cron_job.part("spec"), cron_job.part("status"));
            let job = spec.part("jobTemplate").part("spec");
            let [names, images] = pod::container_cells(job.part("template"));
            let suspend = match spec.some_flag("suspend") {
                Some(true) => "True",
                Some(false) => "False",
                None => "<unset>",
            };
            let last = match status.text("lastScheduleTime") {
                "" => "<none>".to_owned(),
                time => since(time, now),
            };
            vec![
                name(cron_job),
                spec.text("schedule").into(),
                or_none(spec.text("timeZone")).into(),
                suspend.into(),
                status.items("active").len().into(),
                last.into(),
                age_of(cron_job, now),
                names,
                images,
                selector(job.some("selector")).into(),
            ]
        },
    },
    ..Strategy::PLAIN
};

fn defaults(cron_job: &mut Value) {
    let spec = cron_job.make("spec");
    spec.default_text("concurrencyPolicy", "Allow");
    spec.default_to("suspend", false);
    spec.default_to("successfulJobsHistoryLimit", 3);
    spec.default_to("failedJobsHistoryLimit", 1);
    let template = spec.make("jobTemplate");
    template.make("metadata");
    job::default_template(template.make("spec"));
}

fn drop_disabled(cron_job: &mut Value, old: &Value) {
    let template = |object: &Value| object.part("spec").part("jobTemplate").part("spec").part("template").clone();
    let before = template(old);
    let job = cron_job.make("spec").make("jobTemplate").make("spec");
    pod::drop_disabled(job.make("template").make("spec"), before.part("spec"));
}
