//! What the attributes of a host resource mean.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value as Json;

/// One thing that can be read from the machine, as `attributes.source` names it.
///
/// Percentages are from 0 to 100, sizes in bytes, temperatures in degrees Celsius. Counters start at 0 when the machine
/// does. Sources that measure processor time speak of the time since the resource was read last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sensor {
    /// `cpu.usage`: share of time in which the processors did anything.
    CpuUsage,
    /// `cpu.user`: share of time in programs.
    CpuUser,
    /// `cpu.system`: share of time in the kernel.
    CpuSystem,
    /// `cpu.iowait`: share of time in which they only waited for disks.
    CpuIoWait,
    /// `cpu.count`: number of processors.
    CpuCount,
    /// `load.1`, `load.5`, `load.15`: load average of so many minutes; the field is the column in `/proc/loadavg`.
    Load(usize),
    /// `processes.running`: threads that run or could.
    ProcessesRunning,
    /// `processes.total`: threads there are.
    ProcessesTotal,
    /// `memory.total`.
    MemoryTotal,
    /// `memory.available`: what programs could still get without swapping.
    MemoryAvailable,
    /// `memory.used`: total less available.
    MemoryUsed,
    /// `memory.usage`: used in percent of total.
    MemoryUsage,
    /// `swap.total`.
    SwapTotal,
    /// `swap.used`.
    SwapUsed,
    /// `disk.total`, `disk.used`, `disk.available`, `disk.usage`: the file system that holds `path` (default `/`).
    Disk {
        /// Any path on it.
        path: PathBuf,
        /// Which figure.
        figure: DiskFigure,
    },
    /// `network.received-bytes`, `network.sent-bytes`, `network.received-packets`, `network.sent-packets`,
    /// `network.received-errors`, `network.sent-errors`: of `interface`, or of all but the loopback when it is absent.
    Network {
        /// Such as `eth0`.
        interface: Option<String>,
        /// Column in `/proc/net/dev`.
        column: usize,
    },
    /// `uptime`: seconds since the machine started.
    Uptime,
    /// `thermal.temperature`: of `zone`, the name (`thermal_zone0`) or type (`cpu-thermal`) of a sensor in
    /// `/sys/class/thermal`; the first when it is absent.
    Temperature {
        /// Name or type.
        zone: Option<String>,
    },
    /// `system.hostname`: the machine's name, as text.
    Hostname,
    /// `system.kernel`: release of the kernel, as text.
    Kernel,
}

/// What is wanted of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFigure {
    /// Its size.
    Total,
    /// What is taken.
    Used,
    /// What a program that is not root could still write.
    Available,
    /// Used in percent of used and available, as `df` shows it.
    Usage,
}

/// Every value of `source`, for error messages and documentation.
pub const SOURCES: &[&str] = &[
    "cpu.usage",
    "cpu.user",
    "cpu.system",
    "cpu.iowait",
    "cpu.count",
    "load.1",
    "load.5",
    "load.15",
    "processes.running",
    "processes.total",
    "memory.total",
    "memory.available",
    "memory.used",
    "memory.usage",
    "swap.total",
    "swap.used",
    "disk.total",
    "disk.used",
    "disk.available",
    "disk.usage",
    "network.received-bytes",
    "network.sent-bytes",
    "network.received-packets",
    "network.sent-packets",
    "network.received-errors",
    "network.sent-errors",
    "uptime",
    "thermal.temperature",
    "system.hostname",
    "system.kernel",
];

/// A mistake in the attributes of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeError {
    /// The attribute, such as `attributes.source`.
    pub place: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Sensor {
    /// Reads the attributes of a resource.
    ///
    /// # Errors
    /// `AttributeError` for a source that does not exist, or an attribute that the source does not take.
    pub fn parse(attributes: &BTreeMap<String, Json>) -> Result<Sensor, AttributeError> {
        let error = |place: &str, problem: String| AttributeError { place: format!("attributes.{place}"), problem };
        let source = attributes.get("source").ok_or_else(|| {
            error("source", format!("is missing; it says what to read, one of {}", SOURCES.join(", ")))
        })?;
        let source = source.as_str().ok_or_else(|| error("source", "is not text".to_owned()))?;
        let text = |key: &str| match attributes.get(key) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(error(key, format!("`{other}` is not text"))),
        };
        let (sensor, parameter) = match source {
            "cpu.usage" => (Sensor::CpuUsage, None),
            "cpu.user" => (Sensor::CpuUser, None),
            "cpu.system" => (Sensor::CpuSystem, None),
            "cpu.iowait" => (Sensor::CpuIoWait, None),
            "cpu.count" => (Sensor::CpuCount, None),
            "load.1" => (Sensor::Load(0), None),
            "load.5" => (Sensor::Load(1), None),
            "load.15" => (Sensor::Load(2), None),
            "processes.running" => (Sensor::ProcessesRunning, None),
            "processes.total" => (Sensor::ProcessesTotal, None),
            "memory.total" => (Sensor::MemoryTotal, None),
            "memory.available" => (Sensor::MemoryAvailable, None),
            "memory.used" => (Sensor::MemoryUsed, None),
            "memory.usage" => (Sensor::MemoryUsage, None),
            "swap.total" => (Sensor::SwapTotal, None),
            "swap.used" => (Sensor::SwapUsed, None),
            "disk.total" => (disk(text("path")?, DiskFigure::Total), Some("path")),
            "disk.used" => (disk(text("path")?, DiskFigure::Used), Some("path")),
            "disk.available" => (disk(text("path")?, DiskFigure::Available), Some("path")),
            "disk.usage" => (disk(text("path")?, DiskFigure::Usage), Some("path")),
            "network.received-bytes" => (network(text("interface")?, 0), Some("interface")),
            "network.received-packets" => (network(text("interface")?, 1), Some("interface")),
            "network.received-errors" => (network(text("interface")?, 2), Some("interface")),
            "network.sent-bytes" => (network(text("interface")?, 8), Some("interface")),
            "network.sent-packets" => (network(text("interface")?, 9), Some("interface")),
            "network.sent-errors" => (network(text("interface")?, 10), Some("interface")),
            "uptime" => (Sensor::Uptime, None),
            "thermal.temperature" => (Sensor::Temperature { zone: text("zone")? }, Some("zone")),
            "system.hostname" => (Sensor::Hostname, None),
            "system.kernel" => (Sensor::Kernel, None),
            other => {
                return Err(error("source", format!("`{other}` is unknown; use one of {}", SOURCES.join(", "))));
            }
        };
        match attributes.keys().find(|key| *key != "source" && Some(key.as_str()) != parameter) {
            None => Ok(sensor),
            Some(unknown) => {
                let takes = parameter.map_or("no other attribute".to_owned(), |name| format!("`{name}` only"));
                Err(error(unknown, format!("is unknown; source `{source}` takes {takes}")))
            }
        }
    }

    /// Whether the value is text; all others are numbers.
    pub fn is_text(&self) -> bool {
        matches!(self, Sensor::Hostname | Sensor::Kernel)
    }
}

fn disk(path: Option<String>, figure: DiskFigure) -> Sensor {
    Sensor::Disk { path: path.map_or_else(|| PathBuf::from("/"), PathBuf::from), figure }
}

fn network(interface: Option<String>, column: usize) -> Sensor {
    Sensor::Network { interface, column }
}
