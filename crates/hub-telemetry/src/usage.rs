//! The last report of each node of what it and its pods use. In memory: after a restart of the hub it is complete again within minutes,
//! and nothing depends on it but what people look at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api_edge::usage::{
    USAGE_BYTES_MAX, USAGE_CONTAINERS_MAX, USAGE_PERIOD_S_MAX, USAGE_PODS_MAX, USAGE_VERSION, UsageReport,
};
use parking_lot::Mutex;

/// Reports of all nodes together: some thousand nodes of a hundred pods.
const BYTES_MAX: usize = 32 << 20;
/// A node that is late once is shown on.
const SHOWN_FOR: Duration = Duration::from_secs(USAGE_PERIOD_S_MAX + 60);

/// Why a report is not kept; for its sender.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// It cannot be read.
    #[error("the report cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It is of another version, or too large.
    #[error("{0}")]
    Invalid(&'static str),
    /// The reports of other nodes take all there is.
    #[error("the hub keeps no more reports for now")]
    Full,
}

/// Reports by node; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct UsageStore {
    reports: Arc<Mutex<BTreeMap<String, Kept>>>,
}

#[derive(Debug)]
struct Kept {
    report: Arc<UsageReport>,
    received: Instant,
    bytes: usize,
}

impl UsageStore {
    /// Keeps a node's report in place of the one before.
    ///
    /// # Errors
    /// When it is none, or there is no space for it.
    pub fn put(&self, node: &str, body: &[u8], now: Instant) -> Result<(), UsageError> {
        if body.len() > USAGE_BYTES_MAX {
            return Err(UsageError::Invalid("the report is too large"));
        }
        let report: UsageReport = serde_json::from_slice(body)?;
        if report.version != USAGE_VERSION {
            return Err(UsageError::Invalid("the report is of a version that this hub does not know"));
        }
        let is_large = report.pods.len() > USAGE_PODS_MAX
            || report.pods.iter().any(|pod| pod.containers.len() > USAGE_CONTAINERS_MAX);
        if is_large || report.time.len() > 64 {
            return Err(UsageError::Invalid("the report has too many pods or containers"));
        }
        let mut reports = self.reports.lock();
        reports.retain(|_, kept| now.duration_since(kept.received) < SHOWN_FOR);
        // What it takes in memory is not much more than what it took on the wire.
        let others: usize = reports.iter().filter(|(name, _)| *name != node).map(|(_, kept)| kept.bytes).sum();
        if others + body.len() > BYTES_MAX {
            return Err(UsageError::Full);
        }
        reports.insert(node.to_owned(), Kept { report: Arc::new(report), received: now, bytes: body.len() });
        Ok(())
    }

    /// All reports that are not too old, by node.
    pub fn reports(&self, now: Instant) -> Vec<(String, Arc<UsageReport>)> {
        let reports = self.reports.lock();
        let fresh = reports.iter().filter(|(_, kept)| now.duration_since(kept.received) < SHOWN_FOR);
        fresh.map(|(node, kept)| (node.clone(), kept.report.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use api_edge::usage::{PodUsage, Usage};

    use super::*;

    fn report(pods: usize) -> Vec<u8> {
        let pod = |number| PodUsage { namespace: "d".to_owned(), name: format!("p{number}"), containers: Vec::new() };
        let report = UsageReport {
            version: 1,
            time: "2026-01-01T00:00:00Z".to_owned(),
            window_seconds: 15,
            node: Usage { cpu_nano_cores: pods as u64, memory_bytes: 1 },
            pods: (0..pods).map(pod).collect(),
        };
        serde_json::to_vec(&report).unwrap()
    }

    #[test]
    fn the_last_report_of_each_node_is_shown_until_it_is_old() {
        let (store, start) = (UsageStore::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        store.put("a", &report(1), at(0)).unwrap();
        store.put("a", &report(2), at(100)).unwrap();
        store.put("b", &report(3), at(200)).unwrap();
        let shown = |seconds| -> Vec<(String, usize)> {
            store.reports(at(seconds)).into_iter().map(|(node, report)| (node, report.pods.len())).collect()
        };
        assert_eq!(shown(200), [("a".to_owned(), 2), ("b".to_owned(), 3)]);
        assert_eq!(shown(460), [("b".to_owned(), 3)]);
        assert_eq!(shown(560), []);
    }

    #[test]
    fn what_is_kept_is_bounded_and_of_a_known_form() {
        let (store, now) = (UsageStore::default(), Instant::now());
        for bad in [&b"{}"[..], b"", &report(USAGE_PODS_MAX + 1), &vec![b' '; USAGE_BYTES_MAX + 1]] {
            store.put("a", bad, now).unwrap_err();
        }
        let newer = String::from_utf8(report(0)).unwrap().replace("\"version\":1", "\"version\":2");
        assert!(matches!(store.put("a", newer.as_bytes(), now), Err(UsageError::Invalid(_))));
        let mut large = report(1000);
        large.resize(USAGE_BYTES_MAX, b' ');
        let kept = (0..200).take_while(|node| store.put(&format!("n{node}"), &large, now).is_ok()).count();
        assert_eq!(kept, BYTES_MAX / USAGE_BYTES_MAX);
        // One that is kept is replaced all the same, and the old ones make space.
        store.put("n0", &large, now).unwrap();
        store.put("late", &large, now + SHOWN_FOR).unwrap();
        assert_eq!(store.reports(now + SHOWN_FOR).len(), 1);
    }
}
