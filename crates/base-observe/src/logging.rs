//! Where log lines go and how they look.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::printable::LineWriter;

/// Environment variable with a filter such as `info,node_kubelet=debug`.
pub const LOG_VARIABLE: &str = "SELVEDGE_LOG";

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
    /// A word of the filter is neither a level nor a target with one. Taken for a target it would silence everything.
    #[error(
        "`{word}` in the log filter `{filter}` is no level; write error, warn, info, debug, trace or off, or TARGET=LEVEL"
    )]
    UnknownLevel {
        /// The filter.
        filter: String,
        /// The word.
        word: String,
    },
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

/// Whether [`init_logging`] would take the filter that counts: the variable's, else the options'.
///
/// # Errors
/// What is wrong with it.
pub fn check_logging(options: &LogOptions) -> Result<(), InitLoggingError> {
    filter(options).map(drop)
}

fn filter(options: &LogOptions) -> Result<EnvFilter, InitLoggingError> {
    let variable = std::env::var(LOG_VARIABLE).ok().filter(|text| !text.trim().is_empty());
    parse_filter(variable.as_deref().unwrap_or(&options.filter))
}

/// Begins logging to stderr; stdout stays free for what the program prints. To be called once per process.
pub fn init_logging(options: &LogOptions) -> Result<(), InitLoggingError> {
    let filter = filter(options)?;
    let colours = options.ansi;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || LineWriter { inner: std::io::stderr(), colours })
        .with_ansi(options.ansi)
        // A line that a full disk rejects is lost; reporting that on the same stderr would panic.
        .log_internal_errors(false);
    let set = match options.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|_| InitLoggingError::Twice)
}

pub(crate) fn parse_filter(text: &str) -> Result<EnvFilter, InitLoggingError> {
    let parts = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    for word in parts.filter(|word| !word.contains(['=', ':', '_', '['])) {
        if word.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
            return Err(InitLoggingError::UnknownLevel { filter: text.to_owned(), word: word.to_owned() });
        }
    }
    // Whoever names a library wants to read it.
    let is_unnamed = |(library, _): &&(&str, &str)| !text.contains(library);
    let quiet: String = QUIET.iter().filter(is_unnamed).map(|(_, directive)| format!(",{directive}")).collect();
    let parsed = EnvFilter::builder().parse(format!("{text}{quiet}"));
    parsed.map_err(|source| InitLoggingError::ParseFilter { filter: text.to_owned(), source })
}

/// Libraries that log what their callers know better, and how they are kept from it.
const QUIET: &[(&str, &str)] = &[
    // Each request that finds no hub is an error to it. The caller knows whether it is one, and says so once.
    ("kube_client", "kube_client::client::builder=off"),
    // A warning for each connection that misbehaves: who has no credentials could fill a disk with them.
    ("h2", "h2=error"),
];
