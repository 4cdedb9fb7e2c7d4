//! Our own logs: where they go, how causes are printed, and the last failures for status pages.
//!
//! Parts log with `tracing`; the program calls [`init_logging`] once. A part that has a status socket keeps its failures
//! in a [`RecentErrors`] as well, so that `selvedge status` can show them without reading logs.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Environment variable with a filter such as `info,node_kubelet=debug`.
pub const LOG_VARIABLE: &str = "SELVEDGE_LOG";

/// As many failures as a status page shows.
const RECENT_ERRORS_MAX: usize = 10;

/// Longest message a status page shows; a longer one is cut.
const MESSAGE_BYTES_MAX: usize = 1024;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level, module, sentence, fields.
    #[default]
    Text,
    /// For machines: one JSON object per line.
    Json,
}

/// How to log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A level, or a filter such as `info,node_kubelet=debug`. [`LOG_VARIABLE`] goes before it.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Colours, for a terminal.
    pub ansi: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text, ansi: false }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitLoggingError {
    /// The filter does not parse.
    #[error("failed to parse the log filter `{filter}`; write a level such as `info`, or `info,node_kubelet=debug`")]
    ParseFilter {
        /// The filter.
        filter: String,
        /// What is wrong.
        #[source]
        source: ParseError,
    },
    /// The process logs already.
    #[error("logging is set up already")]
    Twice,
}

/// Begins logging to stderr; stdout stays free for what the program prints. To be called once per process.
pub fn init_logging(options: &LogOptions) -> Result<(), InitLoggingError> {
    let filter = std::env::var(LOG_VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let filter = parse_filter(filter.as_deref().unwrap_or(&options.filter))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(options.ansi)
        // A line that a full disk refuses is lost; telling of that on the same stderr would panic.
        .log_internal_errors(false);
    let set = match options.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|_| InitLoggingError::Twice)
}

fn parse_filter(text: &str) -> Result<EnvFilter, InitLoggingError> {
    EnvFilter::builder().parse(text).map_err(|source| InitLoggingError::ParseFilter { filter: text.to_owned(), source })
}

/// Prints an error and its causes in one line, `a: b: c`.
///
/// A cause that the text before it ends with is left out: some libraries print their causes themselves.
///
/// ```
/// use base_observe::Chain;
/// let error = "x".parse::<u32>().unwrap_err();
/// assert_eq!(Chain(&error).to_string(), "invalid digit found in string");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Chain<'e>(pub &'e (dyn Error + 'e));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !last.ends_with(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

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
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
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

#[cfg(test)]
mod tests;
