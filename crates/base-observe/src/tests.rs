//! What logs, metrics and status pages show.

use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::logging::parse_filter;
use crate::printable::LineWriter;
use crate::{
    Chain, Metrics, Printable, RecentErrors, Sample, SampleKind, TaskCounts, spawn_blocking_named, spawn_detached,
    spawn_in_set, spawn_named, spawn_vital, task_counts,
};

#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Layer {
    text: &'static str,
    #[source]
    source: Option<Box<Layer>>,
}

fn check_chain(texts: &[&'static str], expected: &str) {
    let error = texts.iter().rev().fold(None, |source, text| Some(Box::new(Layer { text, source })));
    assert_eq!(Chain(&*error.expect("at least one text")).to_string(), expected);
}

#[test]
fn what_comes_from_outside_stays_on_its_line() {
    let text = "M\u{1b}[2J\u{1b}]0;pwn\u{7}\r\nok fake-node\u{9b}31m\u{202e}x\0";
    let shown = Printable(text).to_string();
    assert_eq!(shown, "M\\u{1b}[2J\\u{1b}]0;pwn\\u{7}\\r\\nok fake-node\\u{9b}31m\\u{202e}x\\u{0}");
    assert_eq!(Printable("Grüße, 世界: 21 °C").to_string(), "Grüße, 世界: 21 °C");
}

fn written(event: &str, colours: bool) -> String {
    use std::io::Write as _;
    let mut writer = LineWriter { inner: Vec::new(), colours };
    writer.write_all(event.as_bytes()).unwrap();
    String::from_utf8(writer.inner).unwrap()
}

#[test]
fn an_event_is_one_line_of_the_log() {
    let event = "INFO joined node=a\n2026 ERROR hub: FAKE\u{1b}[31m\n";
    assert_eq!(written(event, false), "INFO joined node=a\\n2026 ERROR hub: FAKE\\u{1b}[31m\n");
    // On a terminal the colours of the line itself stay, and whatever else a terminal obeys does not.
    let event = "\u{1b}[2mINFO\u{1b}[0m \u{1b}[2J\u{1b}[1;31mx\u{1b}[\n";
    assert_eq!(written(event, true), "\u{1b}[2mINFO\u{1b}[0m \\u{1b}[2J\u{1b}[1;31mx\\u{1b}[\n");
}

#[test]
fn causes_are_printed_in_one_line() {
    check_chain(&["failed to load rules"], "failed to load rules");
    check_chain(
        &["failed to load rules", "failed to read a.sql", "denied"],
        "failed to load rules: failed to read a.sql: denied",
    );
}

#[test]
fn a_cause_that_was_printed_already_is_left_out() {
    check_chain(&["failed to connect: refused", "refused"], "failed to connect: refused");
}

#[test]
fn the_newest_ten_failures_are_kept() {
    let errors = RecentErrors::new();
    for number in 0..12 {
        errors.push(format!("failure {number}"));
    }
    let messages = errors.messages();
    assert_eq!(messages.len(), 10);
    assert_eq!(messages[0], "failure 11");
    assert_eq!(messages[9], "failure 2");
}

#[test]
fn the_same_failure_in_a_row_is_counted() {
    let errors = RecentErrors::new();
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
    errors.push_at(SystemTime::UNIX_EPOCH, "hub is away");
    errors.clone().push_at(later, "hub is away");
    assert_eq!(errors.messages(), ["hub is away (2 times)"]);
    assert_eq!(errors.list()[0].at, later);
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let errors = RecentErrors::new();
    errors.push("ü".repeat(2000));
    assert!(errors.messages()[0].len() < 1100);
}

#[test]
fn a_wrong_filter_is_rejected_by_name() {
    assert!(parse_filter("info,node_kubelet=debug").is_ok());
    assert!(parse_filter("inof").unwrap_err().to_string().contains("`inof`"));
    let error = parse_filter("info,node_kubelet=loud").unwrap_err();
    assert!(error.to_string().contains("node_kubelet=loud"), "{error}");
}

#[test]
fn a_library_does_not_report_what_its_caller_does() {
    let quiet = "kube_client::client::builder=off";
    for (text, is_quiet) in [("info", true), ("debug,node_kubelet=trace", true), ("info,kube_client=debug", false)] {
        let filter = parse_filter(text).unwrap().to_string();
        assert_eq!(filter.contains(quiet), is_quiet, "{text}");
        assert!(filter.contains("h2=error"), "{text}");
    }
}

fn counts(name: &str) -> TaskCounts {
    task_counts().into_iter().find(|(known, _)| *known == name).map(|(_, counts)| counts).unwrap_or_default()
}

#[tokio::test]
async fn a_panic_is_counted_under_the_name_of_its_task_and_seen_by_its_handle() {
    let tracker = TaskTracker::new();
    let well = spawn_named(&tracker, "test-well", async { 7 });
    let ill = spawn_named(&tracker, "test-ill", async { assert_eq!(1 + 1, 3, "of course not") });
    assert_eq!(well.await.expect("it ends"), 7);
    assert!(ill.await.expect_err("it panics").is_panic());
    assert_eq!(counts("test-well"), TaskCounts { running: 0, panicked: 0 });
    assert_eq!(counts("test-ill"), TaskCounts { running: 0, panicked: 1 });
    tracker.close();
    tracker.wait().await;
}

#[tokio::test]
async fn the_panic_of_a_vital_task_is_known_beyond_its_handle() {
    let (tracker, failed) = (TaskTracker::new(), CancellationToken::new());
    spawn_vital(&tracker, "test-vital", &failed, async {}).await.expect("it ends");
    assert!(!failed.is_cancelled(), "it has ended well");
    let ill = spawn_vital(&tracker, "test-vital", &failed, async { assert_eq!(1 + 1, 3, "of course not") });
    failed.cancelled().await;
    assert!(ill.await.expect_err("it panics").is_panic());
    assert_eq!(counts("test-vital"), TaskCounts { running: 0, panicked: 1 });
}

#[tokio::test]
async fn blocking_work_and_tasks_of_a_set_are_named_too() {
    let blocking = spawn_blocking_named("test-blocking", || -> u8 { panic!("no") });
    assert!(blocking.await.expect_err("it panics").is_panic());
    assert_eq!(counts("test-blocking").panicked, 1);
    let mut set = tokio::task::JoinSet::new();
    spawn_in_set(&mut set, "test-set", async { panic!("no") });
    let joined: Result<(), _> = set.join_next().await.expect("one task");
    assert!(joined.expect_err("it panics").is_panic());
    assert_eq!(counts("test-set").panicked, 1);
}

#[tokio::test]
async fn an_aborted_task_no_longer_runs() {
    let handle = spawn_detached("test-aborted", std::future::pending::<()>());
    assert_eq!(counts("test-aborted").running, 1);
    handle.abort();
    assert!(handle.await.expect_err("it was aborted").is_cancelled());
    assert_eq!(counts("test-aborted"), TaskCounts { running: 0, panicked: 0 });
}

/// The page without the figures of the process, which differ from run to run.
fn page(metrics: &Metrics) -> String {
    let is_ours = |line: &&str| !line.contains("process_") && !line.contains("selvedge_task");
    metrics.encode().lines().filter(is_ours).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_page_is_open_metrics_in_order_of_names() {
    let metrics = Metrics::new();
    metrics.build_info("hub", "0.1.0");
    metrics.gauge("selvedge_queue_length", "Keys that wait").set(3);
    let requests = metrics.counters("apiserver_request", "Requests by verb and status");
    requests.get_or_create(&[("verb", "GET".to_owned()), ("code", "200".to_owned())]).inc_by(2);
    metrics.collect("selvedge_commits", "Commits on disk", SampleKind::Counter, || vec![Sample::whole(5)]);
    expect_test::expect![[r#"
        # HELP apiserver_request Requests by verb and status.
        # TYPE apiserver_request counter
        apiserver_request_total{verb="GET",code="200"} 2
        # HELP selvedge_build_info The program that runs.
        # TYPE selvedge_build_info gauge
        selvedge_build_info{role="hub",version="0.1.0"} 1.0
        # HELP selvedge_commits Commits on disk.
        # TYPE selvedge_commits counter
        selvedge_commits_total 5.0
        # HELP selvedge_queue_length Keys that wait.
        # TYPE selvedge_queue_length gauge
        selvedge_queue_length 3
        # EOF
    "#]]
    .assert_eq(&page(&metrics));
}

#[test]
fn a_metric_registered_again_replaces_the_first() {
    let metrics = Metrics::new();
    let first = metrics.counter("selvedge_runs", "Runs");
    first.inc();
    let second = metrics.clone().counter("selvedge_runs", "Runs");
    second.inc_by(5);
    let page = page(&metrics);
    assert_eq!(page.matches("# TYPE selvedge_runs counter").count(), 1, "{page}");
    assert!(page.contains("selvedge_runs_total 5\n"), "{page}");
}

#[test]
fn a_label_value_cannot_break_out_of_its_quotes() {
    let metrics = Metrics::new();
    metrics.collect("selvedge_odd", "Odd", SampleKind::Gauge, || vec![Sample::new(0.5).with("name", "a\"} 9\n\\")]);
    let page = page(&metrics);
    assert!(page.contains(r#"selvedge_odd{name="a\"} 9\n\\"} 0.5"#), "{page}");
}

#[test]
fn the_process_shows_its_memory_time_and_files() {
    let page = Metrics::new().encode();
    let value = |name: &str| -> f64 {
        let line = page.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{page}"));
        line.rsplit_once(' ').expect("name and value").1.parse().expect("a number")
    };
    assert!(value("process_resident_memory_bytes") > 500_000.0);
    assert!(value("process_cpu_seconds_total") >= 0.0);
    assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") <= value("process_max_fds"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let age = now - value("process_start_time_seconds");
    assert!((-2.0..3600.0).contains(&age), "started {age} s ago");
}
