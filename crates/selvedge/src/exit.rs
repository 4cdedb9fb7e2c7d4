//! How the program ends.

use std::process::ExitCode;

use base_config::{ConfigError, ConfigErrors};

/// Exit codes, for people who write unit files and scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what was asked.
    Done = 0,
    /// It could not; the reason is on stderr.
    Failed = 1,
    /// The command line or a setting is wrong; starting again without a change will not help.
    Usage = 2,
    /// The grace period ended before every task did.
    Unfinished = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The end of a program whose command line or settings are wrong; `None` when nothing is.
pub fn mistakes(messages: Vec<String>) -> Option<anyhow::Error> {
    let errors: Vec<ConfigError> = messages.into_iter().map(|message| ConfigError { line: None, message }).collect();
    (!errors.is_empty()).then(|| ConfigErrors(errors).into())
}

/// The code for an error.
pub fn code(error: &anyhow::Error) -> Exit {
    let is_usage = error.chain().any(|cause| {
        #[cfg(feature = "edge")]
        if let Some(edge_runtime::LoadFilesError::Mistakes(_)) = cause.downcast_ref() {
            return true;
        }
        cause.downcast_ref::<ConfigErrors>().is_some()
    });
    if is_usage { Exit::Usage } else { Exit::Failed }
}

/// Prints an error with its causes, each once.
pub fn print(error: &anyhow::Error) {
    eprintln!("error: {error}");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Libraries often repeat their cause in their own text.
        if !last.contains(&text) {
            eprintln!("  cause: {text}");
        }
        last = text;
    }
}
