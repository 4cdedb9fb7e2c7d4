//! What a program of examples measured: for people a line each, and for a benchmark that runs it every value.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// A file that takes every value, a line of JSON for each figure.
const FILE: &str = "SELVEDGE_FIGURES";

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What was measured.
    pub figure: String,
    /// Each of the runs.
    pub values: Vec<f64>,
}

/// Prints a figure, and writes its values where a benchmark asks for them.
///
/// # Errors
/// When the file cannot be written.
pub fn print(figure: &str, unit: &str, values: &[f64]) -> Result<()> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| sorted[(sorted.len().saturating_sub(1) as f64 * part).round() as usize];
    println!("{figure}: median {:.3}, p99 {:.3}, max {:.3} {unit} of {}", at(0.5), at(0.99), at(1.0), sorted.len());
    let Some(path) = std::env::var_os(FILE) else { return Ok(()) };
    let line = serde_json::to_string(&Measured { figure: figure.to_owned(), values: values.to_vec() })?;
    let mut file = File::options().create(true).append(true).open(path)?;
    writeln!(file, "{line}").context("failed to write a figure")
}

/// Runs a program of examples with these arguments, and answers what it measured.
///
/// # Errors
/// When it ends badly.
pub fn run(program: &Path, args: &[&str], dir: &Path) -> Result<Vec<Measured>> {
    let file = dir.join("figures");
    let _ = std::fs::remove_file(&file);
    let status = std::process::Command::new(program).args(args).env(FILE, &file).env("TMPDIR", dir).status();
    let status = status.with_context(|| format!("failed to start {}", program.display()))?;
    anyhow::ensure!(status.success(), "{} ended with {status}", program.display());
    let text = std::fs::read_to_string(&file).context("it has measured nothing")?;
    text.lines().map(|line| serde_json::from_str(line).context("its figures")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, text: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a script");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        path
    }

    #[test]
    fn what_a_program_has_measured_is_read_and_one_that_fails_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let line = r#"echo '{"figure":"'$1'","values":[1.5,2.0]}' >> "$SELVEDGE_FIGURES""#;
        let program = script(dir.path(), &format!("{line}\n{line}"));
        let measured = run(&program, &["start"], dir.path()).expect("figures");
        let one = Measured { figure: "start".to_owned(), values: vec![1.5, 2.0] };
        assert_eq!(measured, [one.clone(), one]);

        let program = script(dir.path(), &format!("{line}\nexit 3"));
        let error = run(&program, &["start"], dir.path()).expect_err("it has failed");
        assert!(error.to_string().contains("ended with exit status: 3"), "{error}");
        let program = script(dir.path(), "exit 0");
        let error = run(&program, &[], dir.path()).expect_err("nothing was measured");
        assert!(error.to_string().contains("measured nothing"), "{error}");
    }
}
