//! Reads `/proc`, `/sys` and `statvfs`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api_edge::edgex::{Device, DeviceProfile, DeviceResource, Value, ValueType};
use edge_device_sdk::{BoxFuture, DeviceSession, Driver, DriverError, ResourceError, SessionError, WriteFailure};

use super::config::{DiskFigure, Sensor};

/// The kernel counts processor time in hundredths of a second; below this many, a share would be noise.
const CPU_TICKS_MIN: u64 = 5;

/// How long the first reading of a processor share measures, as there is nothing to compare with yet.
const FIRST_MEASUREMENT: Duration = Duration::from_millis(100);

/// Largest file of `/proc` or `/sys` that is read; `/proc/net/dev` of a box with 1,000 interfaces has 120 KB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads the machine it runs on.
#[derive(Clone, Debug)]
pub struct HostDriver {
    proc: PathBuf,
    sys: PathBuf,
}

impl HostDriver {
    /// The real machine.
    pub fn new() -> Self {
        Self::with_roots("/proc", "/sys")
    }

    /// A machine whose `/proc` and `/sys` are elsewhere: mounted from outside of a container, or made by a test.
    pub fn with_roots(proc: impl Into<PathBuf>, sys: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), sys: sys.into() }
    }
}

impl Default for HostDriver {
    fn default() -> Self {
        Self::new()
    }
}

impl Driver for HostDriver {
    fn name(&self) -> &'static str {
        "host"
    }

    fn validate(&self, _: &Device, profile: &DeviceProfile) -> Result<(), DriverError> {
        for resource in &profile.device_resources {
            let wrong = |place: String, problem: String| DriverError::Profile {
                profile: profile.name.clone(),
                resource: resource.name.clone(),
                place,
                problem,
            };
            let sensor = Sensor::parse(&resource.attributes).map_err(|error| wrong(error.place, error.problem))?;
            let value_type = resource.properties.value_type;
            let is_number =
                value_type.integer_range().is_some() || matches!(value_type, ValueType::Float32 | ValueType::Float64);
            let suits = if sensor.is_text() { value_type == ValueType::String } else { is_number };
            if !suits {
                let wanted = if sensor.is_text() { "String" } else { "a number, such as Float64 or Uint64" };
                let problem = format!("{value_type} does not suit this source; use {wanted}");
                return Err(wrong("properties.valueType".to_owned(), problem));
            }
            if resource.properties.read_write.can_write() {
                let problem = "a host resource can only be read; use R".to_owned();
                return Err(wrong("properties.readWrite".to_owned(), problem));
            }
        }
        Ok(())
    }

    fn open<'a>(
        &'a self,
        _: &'a Device,
        _: &'a DeviceProfile,
    ) -> BoxFuture<'a, Result<Box<dyn DeviceSession>, DriverError>> {
        Box::pin(async move {
            let proc = &self.proc;
            let first = CpuTimes::read(proc).map_err(|error| DriverError::Unreachable {
                address: proc.display().to_string(),
                problem: error.to_string(),
                next_step: "check that /proc is mounted".to_owned(),
            })?;
            Ok(Box::new(HostSession { host: self.clone(), opened: first, cpu: HashMap::new() })
                as Box<dyn DeviceSession>)
        })
    }
}

struct HostSession {
    host: HostDriver,
    opened: CpuTimes,
    /// Processor times at the last reading, by resource: each measures its own interval.
    cpu: HashMap<String, CpuTimes>,
}

impl DeviceSession for HostSession {
    fn read<'a>(
        &'a mut self,
        resources: &'a [&'a DeviceResource],
    ) -> BoxFuture<'a, Result<Vec<Result<Value, ResourceError>>, SessionError>> {
        Box::pin(async move {
            let mut values = Vec::with_capacity(resources.len());
            for resource in resources {
                let value = self.read_one(resource).await;
                values.push(value.map_err(|problem| ResourceError::new(&resource.name, problem)));
            }
            Ok(values)
        })
    }

    fn write<'a>(&'a mut self, values: &'a [(&'a DeviceResource, Value)]) -> BoxFuture<'a, Result<(), WriteFailure>> {
        Box::pin(async move {
            match values.first() {
                None => Ok(()),
                Some((resource, _)) => {
                    Err(ResourceError::new(&resource.name, "a host resource can only be read").into())
                }
            }
        })
    }
}

impl HostSession {
    async fn read_one(&mut self, resource: &DeviceResource) -> Result<Value, String> {
        let sensor =
            Sensor::parse(&resource.attributes).map_err(|error| format!("{}: {}", error.place, error.problem))?;
        let proc = self.host.proc.clone();
        match sensor {
            Sensor::CpuUsage => self.cpu_share(resource, |times| times.busy).await,
            Sensor::CpuUser => self.cpu_share(resource, |times| times.user).await,
            Sensor::CpuSystem => self.cpu_share(resource, |times| times.system).await,
            Sensor::CpuIoWait => self.cpu_share(resource, |times| times.iowait).await,
            Sensor::Disk { path, figure } => {
                // A network file system that is gone blocks for minutes; that must not hold the runtime's thread.
                let read = tokio::task::spawn_blocking(move || read_disk(&path, figure));
                read.await.map_err(|error| error.to_string())?
            }
            Sensor::CpuCount => read_text(&proc.join("stat")).map(|text| Value::Uint(count_cpus(&text))),
            Sensor::Load(column) => field(&read_text(&proc.join("loadavg"))?, column).and_then(parse_float),
            Sensor::ProcessesRunning => processes(&read_text(&proc.join("loadavg"))?).map(|(running, _)| running),
            Sensor::ProcessesTotal => processes(&read_text(&proc.join("loadavg"))?).map(|(_, total)| total),
            Sensor::Uptime => field(&read_text(&proc.join("uptime"))?, 0).and_then(parse_float),
            Sensor::MemoryTotal => self.memory(|memory| memory.bytes("MemTotal")),
            Sensor::MemoryAvailable => self.memory(Memory::available),
            Sensor::MemoryUsed => self.memory(Memory::used),
            Sensor::SwapTotal => self.memory(|memory| memory.bytes("SwapTotal")),
            Sensor::SwapUsed => {
                self.memory(|memory| Ok(memory.bytes("SwapTotal")?.saturating_sub(memory.bytes("SwapFree")?)))
            }
            Sensor::MemoryUsage => {
                let memory = Memory(read_text(&proc.join("meminfo"))?);
                Ok(Value::Float(percent(memory.used()?, memory.bytes("MemTotal")?)))
            }
            Sensor::Network { interface, column } => {
                network(&read_text(&proc.join("net/dev"))?, interface.as_deref(), column).map(Value::Uint)
            }
            Sensor::Temperature { zone } => temperature(&self.host.sys.join("class/thermal"), zone.as_deref()),
            Sensor::Hostname => {
                read_text(&proc.join("sys/kernel/hostname")).map(|text| Value::String(text.trim().to_owned()))
            }
            Sensor::Kernel => {
                read_text(&proc.join("sys/kernel/osrelease")).map(|text| Value::String(text.trim().to_owned()))
            }
        }
    }

    fn memory(&self, figure: impl FnOnce(&Memory) -> Result<u64, String>) -> Result<Value, String> {
        figure(&Memory(read_text(&self.host.proc.join("meminfo"))?)).map(Value::Uint)
    }

    /// Percentage of processor time since the last reading of this resource.
    async fn cpu_share(&mut self, resource: &DeviceResource, part: fn(&CpuTimes) -> u64) -> Result<Value, String> {
        let before = *self.cpu.get(&resource.name).unwrap_or(&self.opened);
        let read = || CpuTimes::read(&self.host.proc).map_err(|error| error.to_string());
        let mut now = read()?;
        if now.total.saturating_sub(before.total) < CPU_TICKS_MIN {
            tokio::time::sleep(FIRST_MEASUREMENT).await;
            now = read()?;
        }
        self.cpu.insert(resource.name.clone(), now);
        let total = now.total.saturating_sub(before.total);
        // Some kernels let iowait go backwards.
        let share = part(&now).saturating_sub(part(&before)).min(total);
        Ok(Value::Float(percent(share, total)))
    }
}

fn percent(part: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { part as f64 * 100.0 / total as f64 }
}

/// Processor time since the machine started, all processors together, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CpuTimes {
    pub total: u64,
    pub busy: u64,
    pub user: u64,
    pub system: u64,
    pub iowait: u64,
}

impl CpuTimes {
    fn read(proc: &Path) -> io::Result<Self> {
        let text = read_bounded(&proc.join("stat"))?;
        Self::parse(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the line `cpu` of /proc/stat is missing"))
    }

    /// Reads the line `cpu user nice system idle iowait irq softirq steal guest guest_nice`. Guest time is part of user
    /// time already.
    pub fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find(|line| line.starts_with("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().skip(1).map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
        if ticks.len() < 4 {
            return None;
        }
        let total: u64 = ticks.iter().take(8).fold(0, |sum, ticks| sum.saturating_add(*ticks));
        Some(Self {
            total,
            busy: total.saturating_sub(at(3)).saturating_sub(at(4)),
            user: at(0).saturating_add(at(1)),
            system: at(2).saturating_add(at(5)).saturating_add(at(6)),
            iowait: at(4),
        })
    }
}

fn count_cpus(stat: &str) -> u64 {
    let is_cpu =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    stat.lines().filter(is_cpu).count() as u64
}

/// The text of `/proc/meminfo`.
struct Memory(String);

impl Memory {
    fn bytes(&self, name: &str) -> Result<u64, String> {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let line = line.ok_or_else(|| format!("/proc/meminfo has no line `{name}`"))?;
        let kilobytes: u64 =
            field(line, 0)?.parse().map_err(|_| format!("line `{name}` of /proc/meminfo is no number"))?;
        Ok(kilobytes.saturating_mul(1024))
    }

    fn available(&self) -> Result<u64, String> {
        // Kernels before 3.14 do not tell; free and cache together come near.
        self.bytes("MemAvailable").or_else(|_| Ok(self.bytes("MemFree")?.saturating_add(self.bytes("Cached")?)))
    }

    fn used(&self) -> Result<u64, String> {
        Ok(self.bytes("MemTotal")?.saturating_sub(self.available()?))
    }
}

fn processes(loadavg: &str) -> Result<(Value, Value), String> {
    let (running, total) = field(loadavg, 3)?.split_once('/').ok_or("/proc/loadavg has no process counts")?;
    let number =
        |text: &str| text.parse().map(Value::Uint).map_err(|_| format!("`{text}` in /proc/loadavg is no number"));
    Ok((number(running)?, number(total)?))
}

/// A column of `/proc/net/dev`: of one interface, or of all but the loopback.
pub(super) fn network(dev: &str, interface: Option<&str>, column: usize) -> Result<u64, String> {
    let mut sum = 0u64;
    let mut names = Vec::new();
    for line in dev.lines().skip(2) {
        let Some((name, counters)) = line.split_once(':') else { continue };
        let name = name.trim();
        names.push(name);
        let is_wanted = interface.map_or(name != "lo", |wanted| wanted == name);
        if is_wanted {
            let counter = field(counters, column)?;
            let counter: u64 = counter.parse().map_err(|_| format!("`{counter}` in /proc/net/dev is no number"))?;
            sum = sum.saturating_add(counter);
        }
    }
    match interface {
        Some(wanted) if !names.contains(&wanted) => {
            Err(format!("there is no network interface `{wanted}`; this machine has {}", names.join(", ")))
        }
        _ => Ok(sum),
    }
}

fn temperature(thermal: &Path, wanted: Option<&str>) -> Result<Value, String> {
    let entries = fs::read_dir(thermal);
    let mut zones: Vec<PathBuf> =
        entries.map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    zones.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("thermal_zone")));
    // By number, so that zone 10 comes after zone 2.
    zones.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let kind = |path: &Path| read_text(&path.join("type")).map(|text| text.trim().to_owned()).unwrap_or_default();
    let zone = match wanted {
        None => zones.first(),
        Some(wanted) => zones.iter().find(|path| name(path) == wanted || kind(path) == wanted),
    };
    let Some(zone) = zone else {
        let known: Vec<String> = zones.iter().map(|path| format!("{} ({})", name(path), kind(path))).collect();
        return Err(match (wanted, known.is_empty()) {
            (Some(wanted), false) => {
                format!("there is no temperature sensor `{wanted}`; this machine has {}", known.join(", "))
            }
            _ => format!("this machine has no temperature sensor in {}", thermal.display()),
        });
    };
    let millidegrees = read_text(&zone.join("temp"))?;
    let millidegrees: i64 =
        millidegrees.trim().parse().map_err(|_| format!("sensor {} gives no number", zone.display()))?;
    Ok(Value::Float(millidegrees as f64 / 1000.0))
}

fn read_disk(path: &Path, figure: DiskFigure) -> Result<Value, String> {
    let disk = rustix::fs::statvfs(path).map_err(|error| {
        format!("failed to ask for the file system of {}: {}", path.display(), io::Error::from(error))
    })?;
    let total = disk.f_blocks.saturating_mul(disk.f_frsize);
    let used = disk.f_blocks.saturating_sub(disk.f_bfree).saturating_mul(disk.f_frsize);
    let available = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(match figure {
        DiskFigure::Total => Value::Uint(total),
        DiskFigure::Used => Value::Uint(used),
        DiskFigure::Available => Value::Uint(available),
        DiskFigure::Usage => Value::Float(percent(used, used.saturating_add(available))),
    })
}

fn field(text: &str, column: usize) -> Result<&str, String> {
    text.split_whitespace().nth(column).ok_or_else(|| format!("column {column} of `{}` is missing", text.trim()))
}

fn parse_float(text: &str) -> Result<Value, String> {
    text.parse().map(Value::Float).map_err(|_| format!("`{text}` is no number"))
}

fn read_text(path: &Path) -> Result<String, String> {
    read_bounded(path).map_err(|error| format!("failed to read {}: {error}", path.display()))
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
