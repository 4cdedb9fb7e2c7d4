//! What the program is made of: a bill of materials in CycloneDX's form, from cargo's own tree.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Arch, Release};
use crate::run::{cargo, output};

/// Of the full program for an architecture.
pub fn of_program(release: &Release, arch: Arch) -> Result<String> {
    let tree = output(&mut cargo(&[
        "tree",
        "--package",
        "selvedge",
        "--features",
        "full",
        "--edges",
        "normal",
        "--target",
        arch.target(),
        "--prefix",
        "none",
        "--format",
        "{p}\t{l}",
    ]))?;
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": release.rfc3339,
            "component": {"type": "application", "name": "selvedge", "version": release.version, "licenses": [{"expression": "Apache-2.0"}]},
        },
        "components": components(&tree)?,
    });
    let text = serde_json::to_string_pretty(&document).context("failed to write the bill of materials")?;
    Ok(text + "\n")
}

/// The packages of a tree that are not ours, each once.
fn components(tree: &str) -> Result<Vec<Value>> {
    let mut found = BTreeMap::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, licence) =
            line.split_once('\t').with_context(|| format!("`{line}` is no package and licence"))?;
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else { continue };
        // Ours are shown with their directory.
        if words.any(|word| word.starts_with("(/")) {
            continue;
        }
        let version = version.trim_start_matches('v');
        // A star follows what the tree has shown before; `/` is how older manifests write OR.
        let licence = licence.trim_end_matches(" (*)").replace('/', " OR ");
        found.insert((name, version), licence);
    }
    let component = |((name, version), licence): ((&str, &str), String)| {
        let mut component =
            json!({"type": "library", "name": name, "version": version, "purl": format!("pkg:cargo/{name}@{version}")});
        if !licence.is_empty() {
            component["licenses"] = json!([{"expression": licence}]);
        }
        component
    };
    Ok(found.into_iter().map(component).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peoples_packages_are_listed_once() {
        let tree = "selvedge v0.1.0 (/src/crates/selvedge)\tApache-2.0\nbytes v1.2.3\tMIT\nold v0.1.0\tMIT/Apache-2.0\n\
                    derive v1.0.0 (proc-macro)\t\nbytes v1.2.3\tMIT (*)\n";
        let found = components(tree).expect("a tree");
        let names: Vec<String> =
            found.iter().map(|one| format!("{} {}", one["purl"], one["licenses"][0]["expression"])).collect();
        assert_eq!(
            names,
            [
                "\"pkg:cargo/bytes@1.2.3\" \"MIT\"",
                "\"pkg:cargo/derive@1.0.0\" null",
                "\"pkg:cargo/old@0.1.0\" \"MIT OR Apache-2.0\"",
            ]
        );
    }
}
