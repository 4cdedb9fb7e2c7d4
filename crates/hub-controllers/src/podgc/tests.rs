//! Tests of `podgc`: its decisions, as data.

use super::*;

#[test]
fn a_pod_goes_only_when_nobody_answers_for_it() {
    let long = QUARANTINE;
    for (node, is_terminating, exists, absent_for, expected) in [
        ("gw-1", false, true, Duration::ZERO, Verdict::Keep),
        ("gw-1", true, true, long, Verdict::Keep),
        ("gw-2", true, false, Duration::ZERO, Verdict::DeleteOrphaned),
        ("gw-2", false, false, long - Duration::from_secs(1), Verdict::Quarantine),
        ("gw-2", false, false, long, Verdict::DeleteOrphaned),
        ("", false, false, long, Verdict::Keep),
        ("", true, false, Duration::ZERO, Verdict::DeleteUnplaced),
    ] {
        let time = is_terminating.then_some("2026-01-01T00:00:00Z");
        let pod = json!({"metadata": {"deletionTimestamp": time}, "spec": {"nodeName": node}}).to_string();
        let pod: PodView<'_> = serde_json::from_str(&pod).unwrap();
        assert_eq!(judge(&pod, exists, absent_for), expected, "{node} {is_terminating} {exists}");
    }
}
