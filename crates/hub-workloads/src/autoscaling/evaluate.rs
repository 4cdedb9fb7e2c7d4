//! Looks at the metrics of an autoscaler: what each asks for, what is shown of it, and what is wrong with it, in upstream's words.

use api_kube::Quantity;
use serde_json::{Value, json};

use hub_runtime::views::{condition, time};

use crate::json::shown_selector;

use super::calculate::{self, Pod, Proposal, Samples, Situation};
use super::metrics::Metrics;
use super::views::{MetricView, NamedView, PodView, ResourceView};

/// What a metric asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Evaluated {
    pub replicas: i64,
    /// Its name for people.
    pub name: String,
    /// One of `status.currentMetrics`.
    pub status: Value,
}

/// Why a metric asks for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Of the condition and of the Event about it.
    pub reason: &'static str,
    /// What went wrong.
    pub why: String,
    /// The same as one of several metrics.
    pub summary: String,
}

/// What the metrics together ask for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// So many, by this metric; some may have failed.
    Replicas { replicas: i64, name: String },
    /// Nobody knows. The first failure, and all of them in one message.
    Unknown { first: Failure, message: String },
}

/// Puts together what each metric has said. The most that any asks for counts; should some have failed nothing is scaled down.
pub(super) fn verdict(evaluated: &[Result<Evaluated, Failure>], current: i64) -> Verdict {
    let failures: Vec<&Failure> = evaluated.iter().filter_map(|one| one.as_ref().err()).collect();
    // Of several that ask for as many the first is named.
    let best = evaluated.iter().filter_map(|one| one.as_ref().ok()).rev().max_by_key(|one| one.replicas);
    match (best, failures.first()) {
        (Some(best), first) if first.is_none() || best.replicas >= current => {
            Verdict::Replicas { replicas: best.replicas, name: best.name.clone() }
        }
        (_, Some(first)) => {
            let message = format!(
                "invalid metrics ({} invalid out of {}), first error is: {}",
                failures.len(),
                evaluated.len(),
                first.summary
            );
            Verdict::Unknown { first: (*first).clone(), message }
        }
        (_, None) => {
            let why = "there is no metric".to_owned();
            let first = Failure { reason: "InvalidMetricSourceType", why: why.clone(), summary: why.clone() };
            Verdict::Unknown { first, message: why }
        }
    }
}

/// The pods and their workload, for all metrics.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub metrics: Metrics<'a>,
    pub situation: Situation<'a>,
    /// The pods of the situation.
    pub views: &'a [PodView<'a>],
    /// `status.replicas` of the scale.
    pub existing: i64,
}

/// A pod as the calculation sees it.
pub(super) fn pod(view: &PodView<'_>) -> Pod {
    let ready = condition(&view.status.conditions, "Ready");
    Pod {
        name: view.metadata.name.to_string(),
        is_ignored: view.metadata.is_terminating() || &*view.status.phase == "Failed",
        is_pending: &*view.status.phase == "Pending",
        is_ready: &*view.status.phase == "Running" && ready.is_some_and(|ready| ready.status == "True"),
        started: view.status.start_time.as_deref().and_then(time),
        ready: ready.map(|ready| {
            let since = ready.last_transition_time.as_deref().and_then(time);
            (ready.status == "False", since.unwrap_or_default())
        }),
    }
}

impl Subject<'_> {
    /// Looks at one metric.
    pub async fn evaluate(&self, metric: &MetricView) -> Result<Evaluated, Failure> {
        let unknown = |kind: &str| {
            let why = format!("unknown metric source type {kind:?}");
            Failure { reason: "InvalidMetricSourceType", summary: why.clone(), why }
        };
        match metric.r#type.as_str() {
            "Resource" => {
                let source = metric.resource.as_ref().ok_or_else(|| unknown(""))?;
                self.resource(source, None).await.map_err(|why| Failure {
                    reason: "FailedGetResourceMetric",
                    summary: format!("failed to get {} resource metric value: {why}", source.name),
                    why,
                })
            }
            "ContainerResource" => {
                let source = metric.container_resource.as_ref().ok_or_else(|| unknown(""))?;
                self.resource(source, Some(&source.container)).await.map_err(|why| Failure {
                    reason: "FailedGetContainerResourceMetric",
                    summary: format!("failed to get {} container metric value: {why}", source.container),
                    why,
                })
            }
            "Pods" => {
                let source = metric.pods.as_ref().ok_or_else(|| unknown(""))?;
                self.pods(source).await.map_err(|why| Failure {
                    reason: "FailedGetPodsMetric",
                    summary: format!("failed to get pods metric value: {why}"),
                    why,
                })
            }
            "Object" => {
                let source = metric.object.as_ref().ok_or_else(|| unknown(""))?;
                self.object(source).await.map_err(|why| Failure {
                    reason: "FailedGetObjectMetric",
                    summary: format!("failed to get object metric value: {why}"),
                    why,
                })
            }
            "External" => {
                let source = metric.external.as_ref().ok_or_else(|| unknown(""))?;
                self.external(source).await.map_err(|why| Failure {
                    reason: "FailedGetExternalMetric",
                    summary: format!("failed to get {} external metric value: {why}", source.metric.name),
                    why,
                })
            }
            other => Err(unknown(other)),
        }
    }

    async fn resource(&self, source: &ResourceView, container: Option<&str>) -> Result<Evaluated, String> {
        let (resource, target) = (source.name.as_str(), &source.target);
        let is_cpu = resource == "cpu";
        let (proposal, name) = if let Some(average) = target.average_value {
            let failed = |why: String| format!("failed to get {resource} usage: {why}");
            let samples = self.samples(resource, container).await.map_err(failed)?;
            let proposal = calculate::by_average(self.situation, samples, average.milli_value(), is_cpu);
            (proposal.map_err(|error| failed(error.to_string()))?, format!("{resource} resource"))
        } else if let Some(percent) = target.average_utilization {
            let failed = |why: String| format!("failed to get {resource} utilization: {why}");
            let samples = self.samples(resource, container).await.map_err(failed)?;
            let requests = calculate::requests(self.views, container, resource).map_err(failed)?;
            let proposal = calculate::by_utilization(self.situation, samples, &requests, percent, is_cpu);
            let of = if container.is_some() { "container resource" } else { "resource" };
            let name = format!("{resource} {of} utilization (percentage of request)");
            (proposal.map_err(|error| failed(error.to_string()))?, name)
        } else {
            let why = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
            return Err(why.to_owned());
        };
        let Proposal { replicas, utilization, average } = proposal;
        let mut current = json!({"averageValue": Quantity::from_millis(average)});
        if let Some(utilization) = utilization {
            current["averageUtilization"] = utilization.clamp(0, i64::from(i32::MAX)).into();
        }
        let status = match container {
            None => json!({"type": "Resource", "resource": {"name": resource, "current": current}}),
            Some(container) => json!({
                "type": "ContainerResource",
                "containerResource": {"name": resource, "container": container, "current": current},
            }),
        };
        Ok(Evaluated { replicas, name, status })
    }

    async fn samples(&self, resource: &str, container: Option<&str>) -> Result<Samples, String> {
        let samples = self.metrics.of_resource(resource, container).await;
        samples.map_err(|why| format!("unable to get metrics for resource {resource}: {why}"))
    }

    async fn pods(&self, source: &NamedView) -> Result<Evaluated, String> {
        let metric = &source.metric.name;
        let samples = self.metrics.of_pods(metric, &source.metric.selector).await;
        let samples = samples.map_err(|why| format!("unable to get metric {metric}: {why}"))?;
        let target = source.target.average_value.map_or(0, |target| target.milli_value());
        let proposal =
            calculate::by_average(self.situation, samples, target, false).map_err(|error| error.to_string())?;
        let current = json!({"averageValue": Quantity::from_millis(proposal.average)});
        let status = json!({"type": "Pods", "pods": {"metric": identifier(source), "current": current}});
        Ok(Evaluated { replicas: proposal.replicas, name: format!("pods metric {metric}"), status })
    }

    async fn object(&self, source: &NamedView) -> Result<Evaluated, String> {
        let (metric, null) = (&source.metric.name, Value::Null);
        let object = source.described_object.as_ref().unwrap_or(&null);
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let (kind, name) = (text("kind"), text("name"));
        let total = self.metrics.of_object(metric, &source.metric.selector, object).await;
        let failed = |why| format!("unable to get metric {metric}: {why} on {kind} {}/{name}", self.metrics.namespace);
        let (replicas, current) =
            self.of_total(source, || async { total.map_err(failed) }).await?.ok_or_else(|| {
                "invalid object metric source: neither a value target nor an average value target was set".to_owned()
            })?;
        let status = json!({
            "type": "Object",
            "object": {"describedObject": object, "metric": identifier(source), "current": current},
        });
        Ok(Evaluated { replicas, name: format!("{kind} metric {metric}"), status })
    }

    async fn external(&self, source: &NamedView) -> Result<Evaluated, String> {
        let metric = &source.metric.name;
        let shown = shown_selector(&source.metric.selector);
        let total = async || {
            let total = self.metrics.external(metric, &source.metric.selector).await;
            total.map_err(|why| {
                let namespace = self.metrics.namespace;
                format!("unable to get external metric {namespace}/{metric}/{shown}: {why}")
            })
        };
        let (replicas, current) = self.of_total(source, total).await?.ok_or_else(|| {
            "invalid external metric source: neither a value target nor an average value target was set".to_owned()
        })?;
        let status = json!({"type": "External", "external": {"metric": identifier(source), "current": current}});
        Ok(Evaluated { replicas, name: format!("external metric {metric}({shown})"), status })
    }

    /// What an amount that belongs to all pods asks for, and how it is shown; `None` without a target.
    async fn of_total<F: Future<Output = Result<i64, String>>>(
        &self,
        source: &NamedView,
        total: impl FnOnce() -> F,
    ) -> Result<Option<(i64, Value)>, String> {
        let text = |error: calculate::CalculateError| error.to_string();
        if let Some(target) = source.target.average_value {
            let total = total().await?;
            let proposal = calculate::by_share(self.situation, self.existing, total, target.milli_value());
            let (replicas, share) = proposal.map_err(text)?;
            return Ok(Some((replicas, json!({"averageValue": Quantity::from_millis(share)}))));
        }
        let Some(target) = source.target.value else { return Ok(None) };
        let total = total().await?;
        let replicas = calculate::by_total(self.situation, total, target.milli_value()).map_err(text)?;
        Ok(Some((replicas, json!({"value": Quantity::from_millis(total)}))))
    }
}

/// Name and selector of a metric, as its status has them.
fn identifier(source: &NamedView) -> Value {
    let mut identifier = json!({"name": source.metric.name});
    if !source.metric.selector.is_null() {
        identifier["selector"] = source.metric.selector.clone();
    }
    identifier
}
