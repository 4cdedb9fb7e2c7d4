//! How the program ends.

use std::process::ExitCode;

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
