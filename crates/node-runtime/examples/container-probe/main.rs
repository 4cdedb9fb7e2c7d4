//! Says what a program in a container sees of itself and of the node: one JSON object of plain facts, after a marker.
//!
//! The differential suite runs it under our shim, runc and crun, in the same image. Two runs of one pod spec differ where the
//! runtimes do, so facts are written without what differs by chance: ids of processes, inodes, times, sizes in use.
//!
//! It has no start-up code of Rust's, which would ignore SIGPIPE and set handlers before anybody could look.

#![no_main]

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

mod calls;

/// In front of the facts: without it nothing has been shown.
const MARKER: &str = "SELVEDGE-PROBE ";

type Facts = BTreeMap<String, String>;

/// `container-probe [stay|FILE]`: with `stay` it continues to run, for commands to be run beside it, and those write into a file, since
/// what is kept of a command's output is too short.
#[unsafe(no_mangle)]
extern "C" fn main(_count: i32, _words: *const *const libc::c_char) -> i32 {
    let mut facts = Facts::new();
    // What looking changes comes first.
    signals_and_status(&mut facts);
    descriptors(&mut facts);
    process(&mut facts);
    environment(&mut facts);
    namespaces(&mut facts);
    mounts(&mut facts);
    paths(&mut facts);
    devices(&mut facts);
    groups(&mut facts);
    calls::verdicts(&mut facts);
    let text = serde_json::to_string(&facts).unwrap_or_default();
    let line = format!("{MARKER}{text}\n");
    match std::env::args().nth(1).as_deref() {
        None => print!("{line}"),
        Some("stay") => {
            print!("{line}");
            loop {
                // SAFETY: pause waits for a signal and touches no memory.
                unsafe { libc::pause() };
            }
        }
        Some(file) => return i32::from(fs::write(file, line).is_err()),
    }
    0
}

fn note(facts: &mut Facts, key: impl Into<String>, value: impl ToString) {
    facts.insert(key.into(), value.to_string());
}

fn error_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".to_owned(),
        Some(libc::EACCES) => "EACCES".to_owned(),
        Some(libc::EROFS) => "EROFS".to_owned(),
        Some(libc::ENOENT) => "ENOENT".to_owned(),
        Some(libc::ENXIO) => "ENXIO".to_owned(),
        Some(libc::ENODEV) => "ENODEV".to_owned(),
        Some(libc::ENOSYS) => "ENOSYS".to_owned(),
        number => format!("error {number:?}"),
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| error_name(&error))
}

/// Lines of `/proc/self/status` that another run repeats.
fn signals_and_status(facts: &mut Facts) {
    const BY_CHANCE: [&str; 9] =
        ["State", "FDSize", "Vm", "Hugetlb", "Rss", "voluntary", "nonvoluntary", "Tgid", "Kthread"];
    for line in read("/proc/self/status").lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if BY_CHANCE.iter().any(|start| name.starts_with(start)) {
            continue;
        }
        let value = value.trim();
        // A command in a container has the next number; and a parent is outside, or one that differs by chance.
        let is_id = ["Pid", "PPid", "NStgid", "NSpid", "NSpgid", "NSsid"].contains(&name);
        let first = if name == "PPid" { "0" } else { "1" };
        match name {
            "SigQ" => note(facts, "status/SigQ", value.split('/').nth(1).unwrap_or_default()),
            _ if is_id && value != first => note(facts, format!("status/{name}"), "another"),
            _ => note(facts, format!("status/{name}"), value),
        }
    }
    for line in read("/proc/self/limits").lines().skip(1) {
        let (name, values) = line.split_at(line.len().min(26));
        note(facts, format!("limit/{}", name.trim()), values.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

/// What is open, as kinds; the directory that is being listed is open too, and has the highest number.
fn descriptors(facts: &mut Facts) {
    let mut numbers: Vec<i32> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.pop();
    for number in numbers {
        let target = fs::read_link(format!("/proc/self/fd/{number}"));
        let target = target.map_or_else(|error| error_name(&error), |target| target.to_string_lossy().into_owned());
        let kind = target.split_once(":[").map_or(target.clone(), |(kind, _)| kind.to_owned());
        // SAFETY: fcntl with F_GETFL takes plain numbers.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFL) } & (libc::O_ACCMODE | libc::O_PATH | libc::O_APPEND);
        note(facts, format!("descriptor/{number}"), format!("{kind} flags={flags:o}"));
    }
    // The mount that the standard input comes from: one of the node's is no mount of the container's.
    let info = read("/proc/self/fdinfo/0");
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default().trim().to_owned();
    let is_ours = read("/proc/self/mountinfo").lines().any(|line| line.split(' ').next() == Some(&mount));
    note(facts, "descriptor/0/mount", if is_ours { "the container's" } else { "from outside" });
}

fn process(facts: &mut Facts) {
    let cwd = std::env::current_dir().map_or_else(|error| error_name(&error), |path| path.display().to_string());
    note(facts, "process/cwd", cwd);
    note(facts, "process/oom_score_adj", read("/proc/self/oom_score_adj").trim());
    note(facts, "process/coredump_filter", read("/proc/self/coredump_filter").trim());
    note(facts, "process/uid_map", read("/proc/self/uid_map").split_whitespace().collect::<Vec<_>>().join(" "));
    note(facts, "process/gid_map", read("/proc/self/gid_map").split_whitespace().collect::<Vec<_>>().join(" "));
    note(facts, "process/setgroups", read("/proc/self/setgroups").trim());
    note(facts, "process/timerslack", read("/proc/self/timerslack_ns").trim());
    note(facts, "process/personality", read("/proc/self/personality").trim());
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count();
    // On the node there are many, and never the same number.
    note(facts, "process/visible", pids.min(3));
    for name in ["hostname", "domainname", "osrelease"] {
        note(facts, format!("process/{name}"), read(format!("/proc/sys/kernel/{name}")).trim());
    }
    for (name, option) in [
        ("dumpable", libc::PR_GET_DUMPABLE),
        ("keep capabilities", libc::PR_GET_KEEPCAPS),
        ("secure bits", libc::PR_GET_SECUREBITS),
        ("THP disabled", libc::PR_GET_THP_DISABLE),
    ] {
        // SAFETY: prctl with these options takes plain numbers.
        note(facts, format!("process/{name}"), unsafe { libc::prctl(option, 0, 0, 0, 0) });
    }
    for (name, option) in [("parent death signal", libc::PR_GET_PDEATHSIG), ("subreaper", libc::PR_GET_CHILD_SUBREAPER)]
    {
        let mut value = 0i32;
        // SAFETY: the kernel writes one number to the address.
        unsafe { libc::prctl(option, &raw mut value, 0, 0, 0) };
        note(facts, format!("process/{name}"), value);
    }
    // SAFETY: these take plain numbers, or ask for the calling process by 0.
    unsafe {
        note(facts, "process/nice", libc::getpriority(libc::PRIO_PROCESS, 0));
        note(facts, "process/scheduler", libc::sched_getscheduler(0));
        note(facts, "process/leads session", libc::getsid(0) == libc::getpid());
        const SESSION_KEYRING: i32 = -3;
        let keyring = libc::syscall(libc::SYS_keyctl, 0, SESSION_KEYRING, 0);
        let keyring = if keyring < 0 { error_name(&io::Error::last_os_error()) } else { keyring.to_string() };
        note(facts, "process/keyring", keyring);
    }
    note(facts, "process/terminal", outcome("/dev/tty", libc::O_RDWR));
    note(facts, "process/secure mode", auxiliary(libc::AT_SECURE));
}

fn auxiliary(kind: libc::c_ulong) -> u64 {
    // SAFETY: getauxval takes a plain number.
    unsafe { libc::getauxval(kind) }
}

fn environment(facts: &mut Facts) {
    for (name, value) in std::env::vars_os() {
        note(facts, format!("env/{}", name.to_string_lossy()), value.to_string_lossy());
    }
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    note(facts, "process/argv", words.first().cloned().unwrap_or_default());
}

fn namespaces(facts: &mut Facts) {
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let link = fs::read_link(format!("/proc/self/ns/{name}"));
        note(facts, format!("ns/{name}"), link.map_or_else(|e| error_name(&e), |link| link.display().to_string()));
    }
    for name in
        ["net/ipv4/ip_forward", "net/ipv4/ping_group_range", "net/ipv4/ip_unprivileged_port_start", "kernel/shmmax"]
    {
        note(facts, format!("sysctl/{name}"), read(format!("/proc/sys/{name}")).trim());
    }
    for name in ["passwd", "group", "hosts", "resolv.conf", "hostname", "mtab"] {
        note(facts, format!("etc/{name}"), kind_of(Path::new("/etc").join(name).as_path()));
    }
}

/// `/proc/self/mountinfo` by target. Where several are at one target, the last is the one that is seen.
fn mounts(facts: &mut Facts) {
    /// Of a file system as such; what is left out are places, inodes and limits of the machine.
    const OPTIONS: [&str; 9] = ["ro", "rw", "mode=", "size=", "gid=", "uid=", "ptmxmode=", "nr_inodes=", "hidepid="];
    for line in read("/proc/self/mountinfo").lines() {
        let (own, of_system) = line.split_once(" - ").unwrap_or_default();
        let (own, of_system): (Vec<&str>, Vec<&str>) = (own.split(' ').collect(), of_system.split(' ').collect());
        let ([_, _, _, root, target, flags, optional @ ..], [kind, _, options]) = (&own[..], &of_system[..]) else {
            continue;
        };
        // When access times are written keeps nobody from anything.
        let mut flags: Vec<&str> = flags.split(',').filter(|flag| !flag.ends_with("atime")).collect();
        flags.sort_unstable();
        let mut options: Vec<&str> =
            options.split(',').filter(|one| OPTIONS.iter().any(|known| one.starts_with(known))).collect();
        options.sort_unstable();
        let spread = optional.iter().filter_map(|one| one.split(':').next()).collect::<Vec<_>>().join(",");
        let is_part = if *root == "/" { "whole" } else { "part" };
        let mut key = format!("mount{target}");
        while facts.contains_key(&key) {
            key.push('+');
        }
        let value = format!("{kind} {is_part} {} ({}) [{spread}]", flags.join(","), options.join(","));
        note(facts, key, value);
    }
}

fn kind_of(path: &Path) -> String {
    let data = match fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) => return error_name(&error),
    };
    let kind = data.file_type();
    let name = match kind {
        _ if kind.is_symlink() => return format!("link {}", fs::read_link(path).unwrap_or_default().display()),
        _ if kind.is_dir() => "directory",
        _ if kind.is_file() => "file",
        _ if kind.is_char_device() => "character device",
        _ if kind.is_block_device() => "block device",
        _ if kind.is_fifo() => "pipe",
        _ => "another",
    };
    format!("{name} {:o} {}:{}", data.mode() & 0o7777, data.uid(), data.gid())
}

/// What can be read and written.
fn paths(facts: &mut Facts) {
    const PATHS: [&str; 49] = [
        "/",
        "/etc",
        "/tmp",
        "/data",
        "/data/inner",
        "/ro",
        "/etc/config",
        "/private",
        "/sub",
        "/run",
        "/made/new",
        "/dev",
        "/dev/shm",
        "/dev/pts",
        "/dev/mqueue",
        "/sys",
        "/sys/fs",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/memory",
        "/sys/kernel",
        "/sys/kernel/debug",
        "/sys/kernel/security",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
        "/sys/devices/system/cpu/cpu0/thermal_throttle",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/proc",
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/self/oom_score_adj",
        "/proc/1/root",
        "/proc/driver",
        "/proc/config.gz",
    ];
    for path in PATHS {
        let written = access(path, libc::W_OK);
        let read = if Path::new(path).is_dir() {
            fs::read_dir(path).map_or_else(
                |error| error_name(&error),
                |entries| match entries.count() {
                    0 => "empty".to_owned(),
                    _ => "entries".to_owned(),
                },
            )
        } else {
            first_bytes(path)
        };
        note(facts, format!("path{path}"), format!("{} read={read} write={written}", kind_of(Path::new(path))));
    }
}

fn access(path: &str, mode: i32) -> String {
    let Ok(path) = CString::new(path) else { return String::new() };
    // SAFETY: the path is a C string that outlives the call.
    match unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) } {
        0 => "yes".to_owned(),
        _ => error_name(&io::Error::last_os_error()),
    }
}

fn first_bytes(path: &str) -> String {
    use std::io::Read as _;
    let read = || -> io::Result<usize> { fs::File::open(path)?.read(&mut [0; 64]) };
    match read() {
        Ok(0) => "nothing".to_owned(),
        Ok(_) => "something".to_owned(),
        Err(error) => error_name(&error),
    }
}

/// What is in `/dev`, and which numbers the kernel lets this process open whatever is there.
fn devices(facts: &mut Facts) {
    let mut left = vec![Path::new("/dev").to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(data) = entry.metadata() else { continue };
            let number = match data.file_type() {
                kind if kind.is_char_device() || kind.is_block_device() => {
                    format!(" {}:{}", libc::major(data.rdev()), libc::minor(data.rdev()))
                }
                _ => String::new(),
            };
            note(facts, format!("device{}", path.display()), kind_of(&path) + &number);
            let is_own = ["/dev/pts", "/dev/shm", "/dev/mqueue"].iter().any(|own| path == Path::new(own));
            if data.is_dir() && !is_own {
                left.push(path);
            }
        }
    }
    let character = [
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (1, 11),
        (4, 0),
        (4, 1),
        (4, 64),
        (5, 0),
        (5, 1),
        (5, 2),
        (10, 200),
        (10, 229),
        (10, 232),
        (10, 237),
        (13, 63),
        (89, 0),
        (136, 0),
        (136, 9),
        (195, 0),
        (254, 0),
    ];
    let block = [(7, 0), (8, 0), (252, 0), (253, 0), (254, 0), (259, 0)];
    for (kind, name, numbers) in [(libc::S_IFCHR, "c", &character[..]), (libc::S_IFBLK, "b", &block[..])] {
        for (major, minor) in numbers {
            let verdict = open_number(kind, *major, *minor);
            note(facts, format!("number/{name} {major}:{minor}"), verdict);
        }
    }
    let master = outcome("/dev/ptmx", libc::O_RDWR);
    note(facts, "number/new terminal", master);
}

fn open_number(kind: libc::mode_t, major: u32, minor: u32) -> String {
    let path = "/dev/.probe";
    // SAFETY: the path is a C string.
    let made = unsafe { libc::mknod(c"/dev/.probe".as_ptr(), kind | 0o666, libc::makedev(major, minor)) };
    if made != 0 {
        return format!("not made: {}", error_name(&io::Error::last_os_error()));
    }
    let opened = [("read", libc::O_RDONLY), ("write", libc::O_WRONLY)].map(|(name, mode)| {
        // Nothing is written to a disk by that, but nobody needs to try.
        if kind == libc::S_IFBLK && mode != libc::O_RDONLY {
            return String::new();
        }
        format!("{name}={} ", outcome(path, mode))
    });
    let _ = fs::remove_file(path);
    opened.concat()
}

fn outcome(path: &str, mode: i32) -> String {
    use std::os::unix::fs::OpenOptionsExt as _;
    let write = mode != libc::O_RDONLY;
    let read = mode != libc::O_WRONLY;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    match fs::OpenOptions::new().read(read).write(write).custom_flags(flags).open(path) {
        Ok(file) if file.as_raw_fd() >= 0 => "opened".to_owned(),
        Ok(_) => String::new(),
        // The kernel lets it through to a driver that is not there, or does not want to.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV | libc::EBUSY | libc::EIO)) => {
            "let through".to_owned()
        }
        Err(error) => error_name(&error),
    }
}

/// Membership in control groups, and the limits as the program finds them.
fn groups(facts: &mut Facts) {
    for line in read("/proc/self/cgroup").lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(names), Some(group)) = (fields.next(), fields.next()) else { continue };
        note(facts, format!("cgroup/{names}"), if group == "/" { "its root" } else { "a group" });
    }
    for file in [
        "memory/memory.limit_in_bytes",
        "memory/memory.memsw.limit_in_bytes",
        "memory/memory.swappiness",
        "memory/memory.oom_control",
        "cpu/cpu.cfs_quota_us",
        "cpu/cpu.cfs_period_us",
        "cpu/cpu.shares",
        "pids/pids.max",
        "cpuset/cpuset.cpus",
        "devices/devices.list",
        "blkio/blkio.weight",
        "memory.max",
        "memory.swap.max",
        "cpu.max",
        "cpu.weight",
        "pids.max",
    ] {
        let mut lines: Vec<String> = read(Path::new("/sys/fs/cgroup").join(file)).lines().map(str::to_owned).collect();
        lines.retain(|line| !line.starts_with("oom_kill "));
        lines.sort();
        note(facts, format!("cgroup file/{file}"), lines.join(", "));
    }
}
