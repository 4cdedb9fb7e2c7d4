//! Rules of this project that no lint knows. Exception lists only shrink.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::run::{cargo, output, root};

/// A file beyond this many lines of code is asking to be split.
const CODE_LINES_MAX: usize = 800;

/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Crates that planes must not reach for: (prefix of the user, prefixes it must not depend on).
const ARROWS: &[(&str, &[&str])] = &[
    ("edge-", &["node-", "hub-", "machinery-"]),
    ("node-", &["edge-", "hub-", "machinery-"]),
    // The last is for tests alone.
    ("hub-", &["edge-", "node-", "hub-testing"]),
    ("machinery-", &["edge-", "node-", "hub-"]),
    ("base-", &["edge-", "node-", "hub-", "machinery-"]),
];

/// Starting a task without a name hides its panic; `base_observe::spawn_named` and its like do not. This is no clippy lint
/// because a lint's exceptions are scattered over the crates, while this list can be seen to shrink.
const BARE_SPAWN: [&str; 2] = [concat!("tokio::", "spawn("), concat!("task::", "spawn(")];

/// What lets a test pass by absence: a skip that continuous integration does not see, and data that a clone does not have.
const ABSENCE: [(&str, &str); 2] = [
    (concat!("println!(\"", "skipped"), "call `testkit::skip`: in continuous integration a skip is a failure"),
    (concat!("../", "shared"), "copy what is needed into tests/data: a clone has nothing beside it"),
];

/// Where a skip may be printed: by the function that fails in continuous integration, and by its counterpart here.
const SKIPS: [&str; 2] = ["crates/testkit/src/lib.rs", "crates/xtask/src/test.rs"];

/// Where it is done by design, or still done.
const BARE_SPAWN_FILES: &[&str] = &[
    "crates/base-http/src/serve.rs",
    "crates/base-observe/src/tasks.rs",
    "crates/edge-core/src/intake.rs",
    "crates/edge-device-sdk/src/manager.rs",
    "crates/edge-export/src/run.rs",
    "crates/edge-runtime/src/edge.rs",
    "crates/edge-runtime/src/rules.rs",
    "crates/machinery-server/src/verbs/log.rs",
    "crates/node-agent/src/join.rs",
    "crates/node-kubelet/src/server.rs",
    "crates/node-runtime/src/supervisor.rs",
    "crates/selvedge/src/stop.rs",
];

/// Tables whose rows name tests: a test that was renamed would leave a promise that nothing keeps.
const TABLES: [&str; 3] =
    ["docs/reference/compatibility.md", "docs/reference/node-compared.md", "docs/reference/critest.md"];

/// Where values may be a hub's: reading by an index is harmless, changing by one is a panic where the value is no object.
const INDEX_BANNED: [&str; 4] =
    ["crates/node-client/src", "crates/node-agent/src", "crates/node-pods/src", "crates/node-kubelet/src"];

/// Whether a line changes or takes a part of a JSON value by its index.
fn changes_by_index(line: &str) -> bool {
    let line = line.trim();
    let after = |end: &str| !line.starts_with("//") && line.contains(end);
    after("\"] = ") || after("\"].take()") || after("\"].as_array_mut()") || after("\"].as_object_mut()")
}

/// Looks at every source file and manifest.
pub fn tidy() -> Result<()> {
    let mut faults = crate::glossary::faults(&root())?;
    for file in ["crates", "tests", "fuzz"].iter().flat_map(|dir| sources(&root().join(dir))) {
        let text = fs::read_to_string(&file)?;
        let shown = file.strip_prefix(root()).unwrap_or(&file).display().to_string();
        let is_test = shown.contains("/tests/") || shown.ends_with("tests.rs");
        // What only tests and people at a desk run: a panic there is seen anyway.
        let is_bench =
            shown.starts_with("tests/") || shown.starts_with("crates/testkit/") || shown.contains("/examples/");
        if !is_test && !text.starts_with("//!") {
            faults.push(format!("{shown}: open with `//!` and say what the file is for"));
        }
        for (found, instead) in ABSENCE.iter().filter(|(found, _)| text.contains(found)) {
            if !SKIPS.contains(&shown.as_str()) {
                faults.push(format!("{shown}: `{found}`: {instead}"));
            }
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//")).count();
        if !is_test && lines > CODE_LINES_MAX && !LONG_FILES.iter().any(|(name, _)| *name == shown) {
            faults.push(format!("{shown}: {lines} lines of code; split it at {CODE_LINES_MAX}"));
        }
        if !is_test && INDEX_BANNED.iter().any(|crates| shown.starts_with(crates)) {
            for (number, line) in code.lines().enumerate().filter(|(_, line)| changes_by_index(line)) {
                faults.push(format!(
                    "{shown}:{}: `{}`: an index dies of a value that is no object; use `get_mut` or `node_client::set_field`",
                    number + 1,
                    line.trim()
                ));
            }
        }
        let is_bare =
            |line: &str| !line.trim_start().starts_with("//") && BARE_SPAWN.iter().any(|call| line.contains(call));
        let has_bare = code.lines().any(is_bare);
        match (has_bare && !is_test && !is_bench, BARE_SPAWN_FILES.contains(&shown.as_str())) {
            (true, false) => {
                faults.push(format!("{shown}: start tasks by `base_observe::spawn_named`: a panic is seen then"))
            }
            (false, true) => {
                faults.push(format!("{shown}: is no longer needed in BARE_SPAWN_FILES of tidy.rs: remove it"))
            }
            _ => {}
        }
    }
    faults.extend(missing_tests()?);
    for (user, forbidden) in ARROWS {
        for manifest in manifests(user)? {
            let text = fs::read_to_string(&manifest)?;
            let dependencies = text.split("[dev-dependencies]").next().unwrap_or_default();
            for line in dependencies.lines() {
                if let Some(prefix) = forbidden.iter().find(|prefix| line.starts_with(**prefix)) {
                    faults.push(format!("{}: `{line}`: {user}* must not depend on {prefix}*", manifest.display()));
                }
            }
        }
    }
    let tree = ["tree", "--workspace", "--edges", "normal", "--duplicates", "--prefix", "none", "--depth", "0"];
    let tree = output(&mut cargo(&tree))?;
    for name in ["tokio", "rustls", "hyper", "serde_json", "ring"] {
        let is_it = |line: &&str| line.split(' ').next() == Some(name);
        // The same version may stand twice, once for build scripts.
        let versions: BTreeSet<&str> = tree.lines().filter(is_it).collect();
        if versions.len() > 1 {
            faults.push(format!("{} versions of {name}: one is enough (`cargo tree --duplicates`)", versions.len()));
        }
    }
    if !faults.is_empty() {
        bail!("{} faults:\n  {}", faults.len(), faults.join("\n  "));
    }
    Ok(())
}

/// Tests that a table names and nobody has written.
fn missing_tests() -> Result<Vec<String>> {
    let mut functions = BTreeSet::new();
    for file in ["crates", "tests"].iter().flat_map(|dir| sources(&root().join(dir))) {
        let text = fs::read_to_string(&file)?;
        functions.extend(text.split("fn ").skip(1).filter_map(name_at_start).map(str::to_owned));
    }
    let mut faults = Vec::new();
    for table in TABLES {
        let text = fs::read_to_string(root().join(table))?;
        let missing = text.lines().flat_map(tests_in).filter(|name| !functions.contains(*name));
        faults.extend(missing.map(|name| format!("{table}: there is no test `{name}`")));
    }
    Ok(faults)
}

/// The tests in the last cell of a row of a table: sentences of three words at least, whatever crate or module is before them.
fn tests_in(line: &str) -> impl Iterator<Item = &str> {
    let row = line.strip_prefix('|').and_then(|row| row.trim_end().strip_suffix('|'));
    let cell = row.and_then(|row| row.rsplit('|').next()).unwrap_or_default();
    let named = cell.split('`').skip(1).step_by(2).filter_map(|code| code.rsplit([' ', ':']).next());
    named.filter(|name| name_at_start(name) == Some(*name) && name.matches('_').count() >= 2)
}

/// The name of a function with which a text begins.
fn name_at_start(text: &str) -> Option<&str> {
    let is_other = |letter: char| !letter.is_ascii_lowercase() && !letter.is_ascii_digit() && letter != '_';
    let name = &text[..text.find(is_other).unwrap_or(text.len())];
    (!name.is_empty()).then_some(name)
}

fn manifests(prefix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("crates"))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) {
            found.push(path.join("Cargo.toml"));
        }
    }
    Ok(found)
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_in_the_last_cell_of_a_row() {
        let row = "| `field_of_a_pod`, all | yes | `node-pods: a_b_c`, `it::x::d_e_f`; `node-images: import`, `pull::tests` |";
        assert_eq!(tests_in(row).collect::<Vec<_>>(), ["a_b_c", "d_e_f"]);
        assert_eq!(tests_in("no row: `a_b_c`").count(), 0);
        assert_eq!(tests_in("| --- | --- |").count(), 0);
    }
}
