//! What has passed the proxy.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::RuleId;

/// More than any test sends; what comes after is not kept.
const RECORDS_MAX: usize = 200_000;

/// One request.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Which of the node's connections it came over, counted from 1.
    pub connection: u64,
    /// HTTP method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// The rule that acted on it.
    pub rule: Option<RuleId>,
    /// What the node was answered, once it was.
    pub status: Option<u16>,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the answer's body that the node was given so far.
    pub answer_bytes: u64,
    /// When it came.
    pub start: Instant,
    /// When the answer had been given, or when one of the sides had given it up.
    pub end: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Records(Arc<Mutex<Vec<Passed>>>);

impl Records {
    pub(super) fn all(&self) -> Vec<Passed> {
        self.0.lock().clone()
    }

    pub(super) fn begin(&self, connection: u64, method: &str, path: &str, rule: Option<RuleId>) -> Record {
        let mut all = self.0.lock();
        let index = (all.len() < RECORDS_MAX).then_some(all.len());
        if index.is_some() {
            all.push(Passed {
                connection,
                method: method.to_owned(),
                path: path.to_owned(),
                rule,
                status: None,
                request_bytes: 0,
                answer_bytes: 0,
                start: Instant::now(),
                end: None,
            });
        }
        Record { all: self.0.clone(), index }
    }
}

/// The entry of one request; dropped when nothing more happens to it.
pub(super) struct Record {
    all: Arc<Mutex<Vec<Passed>>>,
    index: Option<usize>,
}

impl Record {
    pub(super) fn change(&self, change: impl FnOnce(&mut Passed)) {
        let mut all = self.all.lock();
        if let Some(passed) = self.index.and_then(|index| all.get_mut(index)) {
            change(passed);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.change(|passed| passed.end = Some(Instant::now()));
    }
}
