//! Every console block of the README, the documentation and the examples is run against the built program, and its output
//! compared: what a reader types does what the page shows.
//!
//! A page is a session in one shell, in a directory that looks like a clone, in a network of its own, so that commands and ports
//! are those on the page. Comments in the Markdown, which no reader sees, say what a test needs besides:
//!
//! ```text
//! <!-- docs-test run                 commands that run before the next block: what the prose asks for
//! kill -9 $hub
//! -->
//! <!-- docs-test file hot.yaml -->   the next code block is this file; without the arrow, the comment's own lines are
//! <!-- docs-test not run: why -->    the next console block cannot run here
//! ```
//!
//! A role that is started (`selvedge hub …`) stays in the background, its process id in `$hub`, `$node`, `$edge` or `$up`; the
//! lines that the page shows must appear in what it prints, in their order. Every other command must print what the page
//! shows; one that only looks is asked again until it does, as a reader would. `page.rs` reads pages, `pattern.rs` knows what
//! may differ from run to run, `shell.rs` runs.

mod page;
mod pattern;
mod shell;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use expect_test::expect;

use self::page::{Page, Step};
pub use self::pattern::normalised;
use self::shell::Shell;
use crate::common::root;

/// Runs a page from its first line to its last.
fn run(path: &str) -> Result<()> {
    let page = Page::read(&root(), path)?;
    let Some(mut shell) = Shell::start()? else { return Ok(()) };
    let mut commands = 0;
    for step in &page.steps {
        match step {
            Step::File { name, text } => shell.write(name, text)?,
            Step::Run { line, command } => {
                shell.run(command).with_context(|| format!("{path}:{line}: `{command}`"))?;
            }
            Step::NotRun { line, reason } => println!("not run: {path}:{line}: {reason}"),
            Step::Command { line, command, output } => {
                commands += 1;
                shell.check(command, output).with_context(|| format!("{path}:{line}: `{command}`"))?;
            }
        }
    }
    let blocks = page.steps.iter().filter(|step| matches!(step, Step::Command { .. } | Step::NotRun { .. })).count();
    ensure!(blocks > 0, "{path} has no console block: take it off the list");
    println!("{path}: {commands} commands");
    Ok(())
}

macro_rules! pages {
    ($($test:ident $path:literal)*) => {
        $(
            #[test]
            fn $test() -> Result<()> {
                run($path)
            }
        )*

        /// The pages that have a test.
        const PAGES: &[&str] = &[$($path),*];
    };
}

pages! {
    readme "README.md"
    identity "docs/explanation/identity.md"
    connect_a_modbus_device "docs/how-to/connect-a-modbus-device.md"
    join_a_node "docs/how-to/join-a-node.md"
    restore_a_hub "docs/how-to/restore-a-hub.md"
    run_the_edge_alone "docs/how-to/run-the-edge-alone.md"
    update_a_fleet_safely "docs/how-to/update-a-fleet-safely.md"
    write_a_rule "docs/how-to/write-a-rule.md"
    cli "docs/reference/cli.md"
    http_api "docs/reference/http-api.md"
    kinds "docs/reference/kinds.md"
    metrics "docs/reference/metrics.md"
    ports_and_files "docs/reference/ports-and-files.md"
    telemetry "docs/reference/telemetry.md"
    tutorial "docs/tutorial/first-light.md"
    first_light "examples/first-light/README.md"
}

/// Every Markdown file that people read.
fn markdown() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut open = vec![root()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_ours = !name.starts_with('.') && name != "target";
            if path.is_dir() && is_ours && !path.is_symlink() {
                open.push(path);
            } else if name.ends_with(".md") {
                found.insert(path.strip_prefix(root())?.to_string_lossy().into_owned());
            }
        }
    }
    Ok(found)
}

#[test]
fn every_page_with_a_console_block_has_a_test() -> Result<()> {
    let mut with_blocks = Vec::new();
    for path in markdown()? {
        let page = Page::read(&root(), &path)?;
        if page.steps.iter().any(|step| !matches!(step, Step::File { .. } | Step::Run { .. })) {
            with_blocks.push(path);
        }
    }
    assert_eq!(with_blocks, PAGES);
    Ok(())
}

#[test]
fn what_is_not_run_has_a_reason() -> Result<()> {
    let mut not_run = String::new();
    for path in PAGES {
        for step in Page::read(&root(), path)?.steps {
            if let Step::NotRun { reason, .. } = step {
                not_run.push_str(&format!("{path}: {reason}\n"));
            }
        }
    }
    // A new line here is a block that nobody checks: make it run instead.
    expect![[r#"
        docs/how-to/join-a-node.md: it shows the address and the kernel of another machine
        docs/how-to/join-a-node.md: it needs a kube-apiserver
        docs/how-to/join-a-node.md: another machine is asked for the token
    "#]]
    .assert_eq(&not_run);
    Ok(())
}
