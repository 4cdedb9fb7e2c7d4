//! What the machine itself uses and has, from `/proc` and its disks.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use jiff::Timestamp;
// What goes over these links is the pods'.
use node_network::names::HOST_LINK_PREFIX;

/// More than a page of any of these files on the largest machine.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Network interfaces that are listed: a node of many pods has a link for each of them.
const INTERFACES_MAX: usize = 64;
/// The kernel's ticks of `/proc/stat`, on all architectures that we run on.
const TICK_NANOS: u64 = 10_000_000;

/// The machine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeFigures {
    pub boot_time: Option<Timestamp>,
    /// CPU time used since the start of the machine.
    pub cpu_nanos: u64,
    pub memory: Memory,
    pub network: Vec<Interface>,
    /// Name of the interface of the default route.
    pub uplink: Option<String>,
    /// The disk of the data directory.
    pub disk: Option<Disk>,
    /// Processes and their threads.
    pub processes: u64,
    /// How many there may be.
    pub processes_max: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub total_bytes: u64,
    /// What programs can still have, as the kernel estimates it.
    pub available_bytes: u64,
    /// All that is in use, page cache included.
    pub usage_bytes: u64,
    pub working_set_bytes: u64,
    pub rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
}

/// Counters of a network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub used_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// Reads the machine. It waits for the disk.
pub(crate) fn read(data_dir: &Path) -> NodeFigures {
    let file = |path: &str| bounded(Path::new(path));
    let stat = file("/proc/stat");
    let number = |path: &str| file(path).trim().parse::<u64>().ok();
    let threads = number("/proc/sys/kernel/threads-max").unwrap_or(u64::MAX);
    NodeFigures {
        boot_time: boot_time(&stat),
        cpu_nanos: cpu_nanos(&stat),
        memory: memory(&file("/proc/meminfo"), &file("/proc/vmstat")),
        network: interfaces(&file("/proc/self/net/dev")),
        uplink: uplink(&file("/proc/self/net/route")),
        disk: disk(data_dir),
        processes: processes(&file("/proc/loadavg")),
        processes_max: number("/proc/sys/kernel/pid_max").unwrap_or(0).min(threads),
    }
}

/// What came and left over the network of a process, where that is another one than ours.
pub(crate) fn network_of(pid: Option<u32>) -> Vec<Interface> {
    let Some(pid) = pid else { return Vec::new() };
    let namespace = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/net")).ok();
    match (namespace(&pid.to_string()), namespace("self")) {
        (Some(its), Some(ours)) if its != ours => interfaces(&bounded(Path::new(&format!("/proc/{pid}/net/dev")))),
        _ => Vec::new(),
    }
}

/// The disk that a directory is on.
pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some(Disk {
        capacity_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        available_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        used_bytes: disk.f_blocks.saturating_sub(disk.f_bfree).saturating_mul(disk.f_frsize),
        inodes: disk.f_files,
        inodes_free: disk.f_ffree,
    })
}

/// The beginning of a file; nothing of one that cannot be read.
fn bounded(path: &Path) -> String {
    let mut bytes = Vec::new();
    // What was read before it failed is as good as nothing.
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    read.ok().and_then(|_| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// The number after a name in a file of lines `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', ':']))?;
    line.split_whitespace().next()?.parse().ok()
}

/// All but `idle` and `iowait`; `guest` and `guest_nice` are in `user` and `nice` already.
fn cpu_nanos(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks = line.split_whitespace().take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4));
    let ticks = ticks.map(|(_, ticks)| ticks.parse::<u64>().unwrap_or(0)).fold(0, u64::saturating_add);
    ticks.saturating_mul(TICK_NANOS)
}

fn boot_time(stat: &str) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(field(stat, "btime")?).ok()?).ok()
}

/// As upstream reads it of the root of the control groups, which not every kernel counts for.
fn memory(meminfo: &str, vmstat: &str) -> Memory {
    let bytes = |name: &str| field(meminfo, name).map(|kib| kib.saturating_mul(1024));
    let total_bytes = bytes("MemTotal").unwrap_or(0);
    let usage_bytes = total_bytes.saturating_sub(bytes("MemFree").unwrap_or(0));
    Memory {
        total_bytes,
        // Without it nothing is known to be short.
        available_bytes: bytes("MemAvailable").unwrap_or(u64::MAX),
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(bytes("Inactive(file)").unwrap_or(0)),
        rss_bytes: bytes("AnonPages").unwrap_or(0),
        page_faults: field(vmstat, "pgfault").unwrap_or(0),
        major_page_faults: field(vmstat, "pgmajfault").unwrap_or(0),
    }
}

/// The second number of `running/all`.
fn processes(loadavg: &str) -> u64 {
    let all = loadavg.split_whitespace().nth(3).and_then(|field| field.split('/').nth(1));
    all.and_then(|all| all.parse().ok()).unwrap_or(0)
}

fn interfaces(dev: &str) -> Vec<Interface> {
    let parsed = dev.lines().filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let [rx_bytes, _, rx_errors, _, _, _, _, _, tx_bytes, _, tx_errors, ..] = counters[..] else { return None };
        Some(Interface { name: name.trim().to_owned(), rx_bytes, rx_errors, tx_bytes, tx_errors })
    });
    let is_listed = |interface: &Interface| interface.name != "lo" && !interface.name.starts_with(HOST_LINK_PREFIX);
    parsed.filter(is_listed).take(INTERFACES_MAX).collect()
}

fn uplink(route: &str) -> Option<String> {
    let default = |line: &&str| line.split_whitespace().nth(1) == Some("00000000");
    route.lines().find(default).and_then(|line| line.split_whitespace().next()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_as_its_kernel_writes_it() {
        let stat = "cpu  10 1 20 1000 50 2 3 4 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\nbtime 1700000000\n";
        assert_eq!(cpu_nanos(stat), 40 * TICK_NANOS);
        assert_eq!(boot_time(stat), Timestamp::from_second(1_700_000_000).ok());
        let meminfo = "MemTotal:  1000 kB\nMemFree: 300 kB\nMemAvailable:  600 kB\nInactive(anon): 7 kB\nInactive(file): 200 kB\nAnonPages: 90 kB\n";
        let expected = Memory {
            total_bytes: 1000 << 10,
            available_bytes: 600 << 10,
            usage_bytes: 700 << 10,
            working_set_bytes: 500 << 10,
            rss_bytes: 90 << 10,
            page_faults: 5,
            major_page_faults: 2,
        };
        assert_eq!(memory(meminfo, "pgfault 5\npgmajfault 2\n"), expected);
        assert_eq!(processes("0.00 0.01 0.05 3/321 4711"), 321);
        for damaged in ["", "cpu", "cpu  x y", "0.0", "MemTotal:"] {
            assert_eq!((cpu_nanos(damaged), processes(damaged)), (0, 0), "{damaged:?}");
            assert_eq!(memory(damaged, damaged).usage_bytes, 0, "{damaged:?}");
        }
    }

    #[test]
    fn interfaces_are_those_that_lead_out() {
        let dev = "Inter-|   Receive |  Transmit\n face |bytes packets errs |bytes\n    lo: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n  \
                   eth0: 100 7 2 0 0 0 0 0 200 8 3 0 0 0 0 0\nsvp12ab: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\nbad: 1 2\n";
        let eth0 = Interface { name: "eth0".to_owned(), rx_bytes: 100, rx_errors: 2, tx_bytes: 200, tx_errors: 3 };
        assert_eq!(interfaces(dev), [eth0]);
        let route = "Iface\tDestination\tGateway\neth1\t0000A8C0\t0\neth0\t00000000\t0101A8C0\n";
        assert_eq!(uplink(route).as_deref(), Some("eth0"));
    }

    #[test]
    fn this_machine_has_figures() {
        let figures = read(Path::new("/"));
        assert!(figures.cpu_nanos > 0 && figures.memory.working_set_bytes > 0, "{figures:?}");
        assert!(figures.memory.available_bytes < figures.memory.total_bytes, "{figures:?}");
        assert!(figures.processes > 0 && figures.processes < figures.processes_max, "{figures:?}");
        let disk = figures.disk.unwrap();
        assert!(disk.available_bytes <= disk.capacity_bytes && disk.inodes_free <= disk.inodes, "{disk:?}");
        // Of the same network as ours nothing is a pod's own.
        assert_eq!(network_of(Some(std::process::id())), []);
    }
}
