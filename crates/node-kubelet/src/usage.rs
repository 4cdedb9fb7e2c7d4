//! Sends the hub what this node and its pods use, for `kubectl top`: when it has changed, at most every 15 seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use api_edge::usage::{
    ContainerUsage, PodUsage, USAGE_BYTES_MAX, USAGE_PATH, USAGE_PERIOD_S_MAX, USAGE_PODS_MAX, USAGE_VERSION, Usage,
    UsageReport,
};
use node_client::{ApiClient, chain, seconds};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::stats::{Sample, Stats};

/// What changes less than this is no news: a hundredth of a core, a mebibyte.
const CPU_STEP_NANO_CORES: u64 = 10_000_000;
const MEMORY_STEP_BYTES: u64 = 1 << 20;

/// Sends reports until the shutdown.
pub(crate) async fn run(mut hub: ApiClient, stats: Stats, period: Duration, shutdown: CancellationToken) {
    let mut sent: Option<(Instant, u64, Shape)> = None;
    // A cluster that takes no reports is not asked again on the same connection.
    let mut refused_by = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = hub.connected() => {}
        }
        let connection = hub.connection_number();
        if refused_by != Some(connection) {
            let Ok(sample) = stats.sample().await else { return };
            let report = report_of(&sample, period);
            let shape = shape_of(&report);
            let is_due = sent.as_ref().is_none_or(|(at, of, before)| {
                *of != connection
                    || *before != shape
                    || at.elapsed() + period >= Duration::from_secs(USAGE_PERIOD_S_MAX)
            });
            if is_due {
                match send(&hub, &report).await {
                    Ok(()) => sent = Some((Instant::now(), connection, shape)),
                    Err(error) => {
                        debug!(error = %chain(&error), "The hub takes no report of what is used.");
                        refused_by = (!error.is_outage()).then_some(connection);
                    }
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
    }
}

async fn send(hub: &ApiClient, report: &UsageReport) -> Result<(), node_client::ApiError> {
    let body: Value = serde_json::to_value(report).expect("texts and numbers become JSON");
    hub.create(USAGE_PATH, &body).await.map(drop)
}

/// What of a report has to differ for it to be sent.
type Shape = BTreeMap<(String, String, String), (u64, u64)>;

fn shape_of(report: &UsageReport) -> Shape {
    let step = |usage: &Usage| (usage.cpu_nano_cores / CPU_STEP_NANO_CORES, usage.memory_bytes / MEMORY_STEP_BYTES);
    let of_pods = report.pods.iter().flat_map(|pod| {
        let key = |container: &str| (pod.namespace.clone(), pod.name.clone(), container.to_owned());
        pod.containers.iter().map(move |one| (key(&one.name), step(&one.usage)))
    });
    let of_node = ((String::new(), String::new(), String::new()), step(&report.node));
    of_pods.chain([of_node]).collect()
}

fn report_of(sample: &Sample, period: Duration) -> UsageReport {
    let pods = sample.pods.iter().filter(|pod| !pod.outline.is_over).map(|pod| {
        let containers = pod.containers.iter().filter_map(|container| {
            let usage = container.usage?;
            let usage =
                Usage { cpu_nano_cores: usage.nano_cores.unwrap_or(0), memory_bytes: usage.stats.working_set_bytes };
            Some(ContainerUsage { name: container.id.container.clone(), usage })
        });
        PodUsage {
            namespace: pod.outline.namespace.clone(),
            name: pod.outline.name.clone(),
            containers: containers.collect(),
        }
    });
    let mut report = UsageReport {
        version: USAGE_VERSION,
        time: seconds(sample.time),
        window_seconds: u32::try_from(period.as_secs()).unwrap_or(u32::MAX),
        node: Usage {
            cpu_nano_cores: sample.nano_cores.unwrap_or(0),
            memory_bytes: sample.node.memory.working_set_bytes,
        },
        // What uses nothing that is counted is no use to anybody.
        pods: pods.filter(|pod| !pod.containers.is_empty()).take(USAGE_PODS_MAX).collect(),
    };
    while serde_json::to_vec(&report).is_ok_and(|bytes| bytes.len() > USAGE_BYTES_MAX) {
        report.pods.truncate(report.pods.len() / 2);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_more_or_less_is_no_news() {
        let report = |cpu_nano_cores, memory_bytes| {
            let usage = Usage { cpu_nano_cores, memory_bytes };
            let containers = vec![ContainerUsage { name: "a".to_owned(), usage }];
            let pods = vec![PodUsage { namespace: "d".to_owned(), name: "web".to_owned(), containers }];
            UsageReport { version: 1, time: String::new(), window_seconds: 15, node: Usage::default(), pods }
        };
        let shape = |cpu, memory| shape_of(&report(cpu, memory));
        let before = shape(20_000_000, 5 << 20);
        assert_eq!(shape(29_999_999, (6 << 20) - 1), before);
        assert_ne!(shape(30_000_000, 5 << 20), before);
        assert_ne!(shape(20_000_000, 6 << 20), before);
        assert_ne!(shape_of(&UsageReport { pods: Vec::new(), ..report(0, 0) }), before);
    }
}
