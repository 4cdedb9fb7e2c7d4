//! What an audit log keeps, and of whom.

use std::path::Path;
use std::time::Instant;

use super::*;
use crate::{Audit as _, AuditEvent, AuditLimits, AuditLog, GROUP_BOOTSTRAPPERS, GROUP_MASTERS};

fn node(name: &str) -> Identity {
    Identity::new(format!("system:node:{name}"), ["system:nodes"])
}

fn record(log: &AuditLog, caller: Option<&Identity>, pod: &str) {
    let uri: http::Uri = format!("/api/v1/namespaces/default/pods/{pod}").parse().unwrap();
    log.record(&AuditEvent {
        caller,
        impersonated: None,
        verb: "delete",
        uri: &uri,
        code: 200,
        source: None,
        user_agent: "",
        received: jiff::Timestamp::UNIX_EPOCH,
    });
}

/// Waits until a file has a line about a pod; the threads of a log write when they come to it.
fn wait_for(path: &Path, pod: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.contains(&format!("pods/{pod}\"")) {
            return text;
        }
        assert!(Instant::now() < end, "{} has no {pod}: {text}", path.display());
        std::thread::yield_now();
    }
}

#[test]
fn what_administrators_did_is_not_washed_away_by_anybody_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let limits = AuditLimits { bytes_max: 24_000, files_max: 3 };
    let log = AuditLog::open(&path, limits).unwrap();
    let administrator = Identity::new("selvedge-admin", [GROUP_MASTERS]);
    let controllers = Identity::controllers();
    let token = Identity::new("system:bootstrap:abcdef", [GROUP_BOOTSTRAPPERS]);
    // A name is nobody's proof of being the hub itself.
    let pretender = Identity::new(crate::USER_CONTROLLERS, ["system:nodes"]);
    record(&log, Some(&administrator), "by-the-administrator");
    record(&log, Some(&controllers), "by-a-controller");
    for _ in 0..300 {
        for caller in [Some(&node("gw-1")), Some(&token), Some(&pretender), None] {
            record(&log, caller, "refused");
        }
    }
    record(&log, Some(&node("gw-1")), "last");
    wait_for(&dir.path().join("audit-nodes.log"), "last");
    wait_for(&dir.path().join("audit-controllers.log"), "by-a-controller");
    assert!(dir.path().join("audit-nodes.log.2").exists(), "it was rotated");
    // Nor by what controllers write.
    for _ in 0..300 {
        record(&log, Some(&controllers), "made");
    }
    record(&log, Some(&controllers), "last");
    wait_for(&dir.path().join("audit-controllers.log"), "last");
    let kept = wait_for(&path, "by-the-administrator");
    assert_eq!(kept.lines().count(), 1, "{kept}");
    let bytes: u64 = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= limits.bytes_max, "{bytes}");
}

#[test]
fn the_disk_of_the_audit_log_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let log = AuditLog::open(&path, AuditLimits { bytes_max: 12_000, files_max: 3 }).unwrap();
    let administrator = Identity::new("selvedge-admin", [GROUP_MASTERS]);
    for _ in 0..100 {
        record(&log, Some(&administrator), "web");
    }
    record(&log, Some(&administrator), "last");
    wait_for(&path, "last");
    let sizes: Vec<u64> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().metadata().map_or(0, |data| data.len()))
        .filter(|size| *size > 0)
        .collect();
    assert!(sizes.len() <= 3 && sizes.iter().all(|size| *size <= 2_000), "{sizes:?}");
    let oldest = std::fs::read_to_string(dir.path().join("audit.log.2")).unwrap();
    assert!(oldest.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn files_of_a_time_with_other_bounds_make_space_from_the_oldest_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let numbered = |number: u32| dir.path().join(format!("audit.log.{number}"));
    let bytes_max = 24_000;
    // As a version left them whose single log was as large as the three are together.
    let line = "{}\n".repeat(2_000);
    for file in (1..=5).map(numbered).chain([path.clone()]) {
        std::fs::write(file, &line).unwrap();
    }
    let log = AuditLog::open(&path, AuditLimits { bytes_max, files_max: 4 }).unwrap();
    let administrator = Identity::new("selvedge-admin", [GROUP_MASTERS]);
    record(&log, Some(&administrator), "first");
    wait_for(&path, "first");
    let bytes = || (1..=5).map(numbered).chain([path.clone()]).filter_map(|file| file.metadata().ok());
    let sum = bytes().map(|file| file.len()).sum::<u64>();
    assert!(sum <= bytes_max / 2, "{sum}");
    assert_eq!(std::fs::read_to_string(numbered(1)).unwrap(), line, "the newest are kept");
    assert!(!numbered(2).exists() && !numbered(5).exists());
    // And as it continues, with files of the size that they have now.
    for _ in 0..100 {
        record(&log, Some(&administrator), "web");
    }
    record(&log, Some(&administrator), "last");
    wait_for(&path, "last");
    let sum = bytes().map(|file| file.len()).sum::<u64>();
    assert!(sum <= bytes_max / 2, "{sum}");
    assert!(numbered(3).exists(), "as many as may be");
}
