//! The last failures of a part, for status pages.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::Chain;

/// As many failures as a status page shows.
const RECENT_ERRORS_MAX: usize = 10;

/// Longest message a status page shows; a longer one is cut.
const MESSAGE_BYTES_MAX: usize = 1024;

/// A failure worth showing, and when it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentError {
    /// When it happened last.
    pub at: SystemTime,
    /// What happened.
    pub message: String,
    /// How often in a row.
    pub times: u64,
}

/// The last ten failures of a part, shared by all that may fail. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct RecentErrors {
    errors: Arc<Mutex<VecDeque<RecentError>>>,
}

impl RecentErrors {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers a failure that happened now.
    pub fn push(&self, message: impl Into<String>) {
        self.push_at(SystemTime::now(), message);
    }

    /// Remembers an error with its causes.
    pub fn push_error(&self, error: &(dyn Error + '_)) {
        self.push(Chain(error).to_string());
    }

    /// Remembers a failure; the same one again in a row is counted, so that it does not drive the others out.
    pub fn push_at(&self, at: SystemTime, message: impl Into<String>) {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
        }
        let mut errors = self.errors.lock();
        if let Some(newest) = errors.front_mut().filter(|newest| newest.message == message) {
            newest.at = at;
            newest.times += 1;
            return;
        }
        errors.push_front(RecentError { at, message, times: 1 });
        errors.truncate(RECENT_ERRORS_MAX);
    }

    /// The failures, newest first.
    pub fn list(&self) -> Vec<RecentError> {
        self.errors.lock().iter().cloned().collect()
    }

    /// The failures as status reports carry them, newest first.
    pub fn messages(&self) -> Vec<String> {
        self.list()
            .into_iter()
            .map(|error| match error.times {
                1 => error.message,
                times => format!("{} ({times} times)", error.message),
            })
            .collect()
    }
}
