//! What the kernel says of this process, read from `/proc` at each scrape, under the names that Prometheus' clients use.

use std::fs;

use crate::{Metrics, Sample, SampleKind};

/// Registers the metrics of the process. One that cannot be read is left out of the page, not shown as zero.
pub(crate) fn register(metrics: &Metrics) {
    let gauge = |name, help, read: fn() -> Option<f64>| {
        metrics.collect(name, help, SampleKind::Gauge, move || read().map(Sample::new).into_iter().collect());
    };
    gauge("process_resident_memory_bytes", "Resident memory size in bytes", resident_bytes);
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes", || Some(stat()?.virtual_bytes));
    gauge("process_open_fds", "Number of open file descriptors", open_files);
    gauge("process_max_fds", "Maximum number of open file descriptors", files_max);
    gauge("process_threads", "Number of threads", || Some(stat()?.threads));
    gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds", start_time);
    metrics.collect(
        "process_cpu_seconds",
        "Total user and system CPU time spent in seconds",
        SampleKind::Counter,
        || stat().map(|stat| Sample::new(stat.cpu_ticks / ticks_per_second())).into_iter().collect(),
    );
}

/// Fields of `/proc/self/stat`, `proc_pid_stat(5)`.
struct Stat {
    cpu_ticks: f64,
    threads: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_pages: f64,
}

fn stat() -> Option<Stat> {
    parse_stat(&fs::read_to_string("/proc/self/stat").ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The second field is the program's name in brackets, and may hold spaces and brackets itself.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The first field after the name is number 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Stat {
        cpu_ticks: field(14)? + field(15)?,
        threads: field(20)?,
        start_ticks: field(22)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a page and a tick are small numbers")]
fn resident_bytes() -> Option<f64> {
    Some(stat()?.resident_pages * rustix::param::page_size() as f64)
}

#[expect(clippy::cast_precision_loss, reason = "a page and a tick are small numbers")]
fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

#[expect(clippy::cast_precision_loss, reason = "a process has far fewer than 2^53 files open")]
fn open_files() -> Option<f64> {
    // The directory being read is one of them, and closed again when the number is shown.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

#[expect(clippy::cast_precision_loss, reason = "a limit that large is no limit")]
fn files_max() -> Option<f64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.map(|limit| limit as f64)
}

fn start_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + stat()?.start_ticks / ticks_per_second())
}

#[cfg(test)]
mod tests {
    use super::parse_stat;

    #[test]
    fn a_program_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = parse_stat("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 5 18 19 20 21\n").expect("it parses");
        assert_eq!((stat.cpu_ticks, stat.threads, stat.start_ticks), (23.0, 5.0, 19.0));
        assert_eq!((stat.virtual_bytes, stat.resident_pages), (20.0, 21.0));
        assert!(parse_stat("7 (a S 1").is_none());
    }
}
