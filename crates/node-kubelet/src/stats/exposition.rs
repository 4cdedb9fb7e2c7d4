//! A sample as Prometheus reads it: upstream's `/metrics/resource`, which metrics-server lives on, and those of `/metrics/cadvisor`
//! that dashboards ask for most.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{ContainerSample, Interface, PodSample, Sample};

/// What the pages are.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const NANOS: f64 = 1e9;

/// `/metrics/resource`.
pub(crate) fn resource(sample: &Sample) -> String {
    let mut page = Page::new(sample.time);
    let containers = || sample.pods.iter().flat_map(|pod| pod.containers.iter().map(move |one| (pod, one)));
    page.family(
        "container_cpu_usage_seconds_total",
        COUNTER,
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    for (pod, container) in containers() {
        let usage = container.usage.map(|usage| cores(usage.stats.cpu_nanos));
        page.sample(&of_container(pod, container), usage);
    }
    page.family("container_memory_working_set_bytes", GAUGE, "[STABLE] Current working set of the container in bytes");
    for (pod, container) in containers() {
        page.sample(&of_container(pod, container), container.usage.map(|usage| usage.stats.working_set_bytes as f64));
    }
    page.family(
        "container_start_time_seconds",
        GAUGE,
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    for (pod, container) in containers() {
        page.sample(&of_container(pod, container), Some(container.started_at.as_millisecond() as f64 / 1000.0));
    }
    page.family(
        "node_cpu_usage_seconds_total",
        COUNTER,
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    page.sample(&[], Some(cores(sample.node.cpu_nanos)));
    page.family("node_memory_working_set_bytes", GAUGE, "[STABLE] Current working set of the node in bytes");
    page.sample(&[], Some(sample.node.memory.working_set_bytes as f64));
    page.family(
        "pod_cpu_usage_seconds_total",
        COUNTER,
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for pod in &sample.pods {
        page.sample(&of_pod(pod), pod.usage.map(|usage| cores(usage.stats.cpu_nanos)));
    }
    page.family("pod_memory_working_set_bytes", GAUGE, "[STABLE] Current working set of the pod in bytes");
    for pod in &sample.pods {
        page.sample(&of_pod(pod), pod.usage.map(|usage| usage.stats.working_set_bytes as f64));
    }
    page.family(
        "resource_scrape_error",
        GAUGE,
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    page.sample_now(&[], 0.0);
    page.text
}

/// `/metrics/cadvisor`.
pub(crate) fn cadvisor(sample: &Sample) -> String {
    type Read = fn(&node_runtime::ContainerStats) -> f64;
    let families: [(&str, &str, &str, Read); 6] = [
        ("container_cpu_usage_seconds_total", COUNTER, "Cumulative cpu time consumed in seconds.", |stats| {
            cores(stats.cpu_nanos)
        }),
        (
            "container_memory_usage_bytes",
            GAUGE,
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |stats| stats.memory_bytes as f64,
        ),
        ("container_memory_working_set_bytes", GAUGE, "Current working set in bytes.", |stats| {
            stats.working_set_bytes as f64
        }),
        ("container_memory_rss", GAUGE, "Size of RSS in bytes.", |stats| stats.rss_bytes as f64),
        ("container_processes", GAUGE, "Number of processes running inside the container.", |stats| stats.pids as f64),
        (
            "container_memory_major_page_faults_total",
            COUNTER,
            "Cumulative count of page faults that read from a disk.",
            |stats| stats.major_page_faults as f64,
        ),
    ];
    let mut page = Page::new(sample.time);
    for (name, kind, help, read) in families {
        page.family(name, kind, help);
        for pod in &sample.pods {
            // As upstream, the pod as a whole has an empty container.
            let [namespace, name] = of_pod(pod);
            let whole = [("container", ""), ("image", ""), ("name", ""), namespace, name];
            page.sample(&whole, pod.usage.map(|usage| read(&usage.stats)));
            for container in &pod.containers {
                let id = container.id.to_string();
                let labels = [
                    ("container", container.id.container.as_str()),
                    ("image", &container.image),
                    ("name", &id),
                    namespace,
                    name,
                ];
                page.sample(&labels, container.usage.map(|usage| read(&usage.stats)));
            }
        }
    }
    type Count = fn(&Interface) -> u64;
    let counters: [(&str, &str, Count); 4] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", |one| one.rx_bytes),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |one| {
            one.rx_errors
        }),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |one| one.tx_bytes),
        (
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting",
            |one| one.tx_errors,
        ),
    ];
    for (name, help, count) in counters {
        page.family(name, COUNTER, help);
        for pod in &sample.pods {
            for interface in &pod.network {
                let [namespace, name] = of_pod(pod);
                let labels = [("container", ""), ("interface", interface.name.as_str()), namespace, name];
                page.sample(&labels, Some(count(interface) as f64));
            }
        }
    }
    page.text
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

fn cores(nanos: u64) -> f64 {
    nanos as f64 / NANOS
}

fn of_pod(pod: &PodSample) -> [(&'static str, &str); 2] {
    [("namespace", pod.outline.namespace.as_str()), ("pod", pod.outline.name.as_str())]
}

fn of_container<'a>(pod: &'a PodSample, container: &'a ContainerSample) -> [(&'static str, &'a str); 3] {
    let [namespace, name] = of_pod(pod);
    [("container", container.id.container.as_str()), namespace, name]
}

/// A page under construction. Each value has the time at which it was measured, as metrics-server requires.
struct Page {
    text: String,
    name: String,
    time_ms: i64,
}

impl Page {
    fn new(time: Timestamp) -> Self {
        Self { text: String::new(), name: String::new(), time_ms: time.as_millisecond() }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        name.clone_into(&mut self.name);
        // A String takes whatever is written.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: Option<f64>) {
        let Some(value) = value else { return };
        self.labelled(labels, value);
        let _ = writeln!(self.text, " {}", self.time_ms);
    }

    fn sample_now(&mut self, labels: &[(&str, &str)], value: f64) {
        self.labelled(labels, value);
        self.text.push('\n');
    }

    fn labelled(&mut self, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(&self.name);
        for (index, (name, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.text, "{}{name}=\"{value}\"", if index == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = write!(self.text, " {value}");
    }
}
