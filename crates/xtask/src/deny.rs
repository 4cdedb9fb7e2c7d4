//! What the tree of dependencies may hold, by `deny.toml`: licences, banned crates, sources.
//!
//! `cargo deny` knows more (it reads licence files, and advisories), but building it costs a fresh machine more than everything
//! else that `check` needs. So its file is read here as well, and what cargo's own metadata says is held against it: in a
//! second, without a tool. Where the tool is installed, it is asked besides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::run::{cargo, has, output, root, run};

/// Where `cargo deny` keeps its database of advisories; it is looked at only where it is there already.
const ADVISORY_DATABASES: &str = "advisory-dbs";

/// What `deny.toml` says, as far as it is held here.
#[derive(Debug, PartialEq, Eq)]
struct Rules {
    licences: BTreeSet<String>,
    /// Banned crates, and why.
    banned: BTreeMap<String, String>,
    registries: BTreeSet<String>,
}

/// Holds every package of the lock file against `deny.toml`.
pub fn deny() -> Result<()> {
    let text = std::fs::read_to_string(root().join("deny.toml")).context("failed to read deny.toml")?;
    let rules = Rules::parse(&text)?;
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1", "--locked", "--all-features"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let faults: Vec<String> = packages.iter().flat_map(|package| rules.faults(package)).collect();
    if !faults.is_empty() {
        bail!("{} faults by deny.toml:\n  {}", faults.len(), faults.join("\n  "));
    }
    println!("{} packages: licences, bans and sources are as deny.toml has them", packages.len());
    tool()
}

/// `cargo deny` itself, where it is installed, and advisories where their database is.
fn tool() -> Result<()> {
    if !has("cargo-deny") {
        println!("advisories: not checked (`cargo install cargo-deny --locked` brings the tool)");
        return Ok(());
    }
    run(&mut cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    let database = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
        .map(|home| home.join(ADVISORY_DATABASES));
    if database.is_some_and(|database| database.is_dir()) {
        return run(&mut cargo(&["deny", "--offline", "check", "advisories"]));
    }
    println!("advisories: not checked (no database on this machine; `cargo deny fetch db` brings it)");
    Ok(())
}

impl Rules {
    /// Reads the lists of `deny.toml`. It is no reader of TOML: a list has one entry a line, and what it does not find is an
    /// error.
    fn parse(text: &str) -> Result<Self> {
        let list = |name: &str| -> Result<Vec<&str>> {
            let (_, rest) =
                text.split_once(&format!("\n{name} = [")).with_context(|| format!("deny.toml has no {name}"))?;
            let (list, _) = rest.split_once(']').with_context(|| format!("{name} of deny.toml has no end"))?;
            Ok(list.lines().map(str::trim).collect())
        };
        let quoted = |line: &str| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let words = |name: &str| -> Result<BTreeSet<String>> { Ok(list(name)?.into_iter().flat_map(quoted).collect()) };
        let mut banned = BTreeMap::new();
        for line in list("deny")?.into_iter().filter(|line| !line.is_empty()) {
            let [name, reason] = <[String; 2]>::try_from(quoted(line))
                .ok()
                .with_context(|| format!("`{line}` of deny.toml is not a crate and a reason"))?;
            banned.insert(name, reason);
        }
        let rules = Self { licences: words("allow")?, banned, registries: words("allow-registry")? };
        ensure!(!rules.licences.is_empty() && !rules.registries.is_empty(), "a list of deny.toml is empty");
        for strict in ["unknown-registry = \"deny\"", "unknown-git = \"deny\"", "wildcards = \"deny\""] {
            ensure!(text.contains(strict), "deny.toml must say {strict}: it is held here, too");
        }
        Ok(rules)
    }

    /// What is wrong with a package, as `cargo metadata` describes it.
    fn faults(&self, package: &Value) -> Vec<String> {
        let name = package["name"].as_str().unwrap_or_default();
        let shown = format!("{name} {}", package["version"].as_str().unwrap_or_default());
        let mut faults = Vec::new();
        let licence = package["license"].as_str().unwrap_or("none");
        if !self.allows(licence) {
            faults.push(format!("{shown}: the licence {licence} is not on the list"));
        }
        if let Some(reason) = self.banned.get(name) {
            faults.push(format!("{shown} is banned: {reason}"));
        }
        // Without a source it is ours.
        match package["source"].as_str().map(|source| source.strip_prefix("registry+")) {
            None => {
                let dependencies = package["dependencies"].as_array().into_iter().flatten();
                let is_wild = |dependency: &&Value| dependency["req"] == "*" && dependency["path"].is_null();
                faults.extend(dependencies.filter(is_wild).map(|dependency| {
                    format!(
                        "{shown}: any version of {} would do, say which",
                        dependency["name"].as_str().unwrap_or_default()
                    )
                }));
            }
            Some(Some(registry)) if self.registries.contains(registry) => {}
            Some(_) => faults.push(format!("{shown} comes from {}", package["source"])),
        }
        faults
    }

    /// An expression is fine when one side of each OR is, and all of its ANDs are.
    fn allows(&self, expression: &str) -> bool {
        let plain = expression.replace(['(', ')'], " ");
        plain.split(" AND ").all(|part| {
            part.split(" OR ").flat_map(|part| part.split('/')).any(|licence| self.licences.contains(licence.trim()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Rules;
    use serde_json::{Value, json};

    const REGISTRY: &str = "https://github.com/rust-lang/crates.io-index";

    fn rules() -> Rules {
        Rules::parse(include_str!("../../../deny.toml")).expect("deny.toml is as this file reads it")
    }

    #[track_caller]
    fn check(change: Value, expected: &[&str]) {
        let mut package =
            json!({"name": "a", "version": "1.0.0", "license": "MIT", "source": format!("registry+{REGISTRY}")});
        for (key, value) in change.as_object().expect("an object") {
            package[key] = value.clone();
        }
        assert_eq!(rules().faults(&package), expected);
    }

    #[test]
    fn the_file_is_read_whole() {
        let rules = rules();
        assert!(rules.licences.contains("Apache-2.0 WITH LLVM-exception") && rules.licences.len() > 10);
        assert!(rules.banned["openssl-sys"].contains("rustls"), "{:?}", rules.banned);
        assert_eq!(rules.registries.into_iter().collect::<Vec<_>>(), [REGISTRY]);
        assert!(Rules::parse("").is_err());
    }

    #[test]
    fn an_expression_needs_one_permissive_side_of_each_or() {
        for allowed in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert!(rules().allows(allowed), "{allowed}");
        }
        for rejected in ["GPL-3.0", "MPL-2.0", "MIT AND GPL-3.0", "none", ""] {
            assert!(!rules().allows(rejected), "{rejected}");
        }
    }

    #[test]
    fn each_kind_of_fault_is_named() {
        check(json!({}), &[]);
        check(json!({"license": "GPL-3.0"}), &["a 1.0.0: the licence GPL-3.0 is not on the list"]);
        check(json!({"license": null}), &["a 1.0.0: the licence none is not on the list"]);
        check(json!({"name": "chrono"}), &["chrono 1.0.0 is banned: jiff is the calendar"]);
        check(json!({"source": "git+https://example.com/a"}), &["a 1.0.0 comes from \"git+https://example.com/a\""]);
        check(
            json!({"source": "registry+https://example.com"}),
            &["a 1.0.0 comes from \"registry+https://example.com\""],
        );
        let dependencies =
            json!([{"name": "b", "req": "*", "path": "/b"}, {"name": "c", "req": "*"}, {"name": "d", "req": "^1"}]);
        check(
            json!({"source": null, "dependencies": dependencies}),
            &["a 1.0.0: any version of c would do, say which"],
        );
    }
}
