//! What the kernel says of a process.

use std::fs;

/// Memory of a process in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident set size.
    pub rss_kib: u64,
    /// Proportional set size: shared pages count in parts.
    pub pss_kib: u64,
    /// What is the process's own, and no page of a file.
    pub anonymous_kib: u64,
}

/// Memory of a process; `None` when it has ended.
pub fn memory(pid: u32) -> Option<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok())
    };
    Some(Memory { rss_kib: field("Rss:")?, pss_kib: field("Pss:")?, anonymous_kib: field("Anonymous:")? })
}

/// CPU time that a process has used, its threads' together, in seconds; 0 when it has ended.
pub fn cpu_seconds(pid: u32) -> f64 {
    cpu_fields(pid, &[11, 12])
}

/// The same with the time of its children that have ended, and of theirs.
pub fn cpu_seconds_with_children(pid: u32) -> f64 {
    cpu_fields(pid, &[11, 12, 13, 14])
}

/// Sum of fields of `/proc/PID/stat` in seconds, counted from the state, which follows the name in parentheses: user time is the
/// 12th, system time the 13th, those of the children follow.
fn cpu_fields(pid: u32, indices: &[usize]) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: &usize| fields.get(*index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    // The kernel counts in hundredths of a second for user space, whatever its own clock is.
    indices.iter().map(ticks).sum::<f64>() / 100.0
}

/// The parent of a process, its parent, and so on.
pub fn ancestors(pid: u32) -> Vec<u32> {
    std::iter::successors(parent(pid), |pid| parent(*pid)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the state and the parent follow it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().filter(|parent| *parent > 0)
}

/// Processes whose command line satisfies `matches`, as (pid, words).
pub fn find(matches: impl Fn(&[String]) -> bool) -> Vec<(u32, Vec<String>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(bytes) = fs::read(entry.path().join("cmdline")) else { continue };
        let words: Vec<String> =
            bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        if matches(&words) {
            found.push((pid, words));
        }
    }
    found
}
