//! What the program is made of: a bill of materials in CycloneDX's form, and the notices that licences ask to be passed on, from
//! cargo's own tree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Arch, Release};
use crate::run::{cargo, output};

/// What other people's packages say: by name and version, with the licence.
type Packages = BTreeMap<(String, String), String>;

/// Of the full program for an architecture.
pub struct Bill {
    /// CycloneDX 1.6, in JSON.
    pub document: String,
    /// Copyright lines and licences, as their files have them.
    pub notices: String,
}

impl Bill {
    pub fn of_program(release: &Release, arch: Arch) -> Result<Self> {
        let common = ["--package", "selvedge", "--features", "full", "--target", arch.target()];
        // Macros are run by the compiler and are not in the program.
        let form = ["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}\t{l}"];
        let tree = output(cargo(&["tree"]).args(common).args(form))?;
        let packages = packages(&tree)?;
        let metadata = output(&mut cargo(&["metadata", "--format-version", "1"]))?;
        let metadata: Value = serde_json::from_str(&metadata).context("failed to read what cargo says of packages")?;
        Ok(Self { document: document(release, &packages)?, notices: notices(&packages, &directories(&metadata))? })
    }
}

fn document(release: &Release, packages: &Packages) -> Result<String> {
    let licences = json!([{"expression": "Apache-2.0"}]);
    let own = json!({"type": "application", "name": "selvedge", "version": release.version, "licenses": licences});
    let components: Vec<Value> = packages.iter().map(component).collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": release.rfc3339, "component": own},
        "components": components,
    });
    let text = serde_json::to_string_pretty(&document).context("failed to write the bill of materials")?;
    Ok(text + "\n")
}

fn component(((name, version), licence): (&(String, String), &String)) -> Value {
    let purl = format!("pkg:cargo/{name}@{version}");
    let mut component = json!({"type": "library", "name": name, "version": version, "purl": purl});
    if !licence.is_empty() {
        component["licenses"] = json!([{"expression": licence}]);
    }
    component
}

/// The packages of a tree that are not ours, each once.
fn packages(tree: &str) -> Result<Packages> {
    let mut found = Packages::new();
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
        let licence = licence.trim_end_matches("(*)").trim().replace('/', " OR ");
        found.insert((name.to_owned(), version.to_owned()), licence);
    }
    Ok(found)
}

/// Where the sources of packages are.
fn directories(metadata: &Value) -> BTreeMap<(String, String), PathBuf> {
    let of_package = |package: &Value| {
        let text = |key: &str| package[key].as_str().map(str::to_owned);
        let directory = Path::new(&text("manifest_path")?).parent()?.to_owned();
        Some(((text("name")?, text("version")?), directory))
    };
    metadata["packages"].as_array().into_iter().flatten().filter_map(of_package).collect()
}

/// How files begin that have what is to be passed on.
const NOTICE_FILES: [&str; 6] = ["license", "licence", "copying", "copyright", "notice", "unlicense"];

/// Each text once, under the names of all packages that have it.
fn notices(packages: &Packages, directories: &BTreeMap<(String, String), PathBuf>) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages.keys() {
        let directory =
            directories.get(package).with_context(|| format!("cargo does not say where {} is", package.0))?;
        let listed = fs::read_dir(directory).with_context(|| format!("failed to list {}", directory.display()))?;
        for file in listed {
            let file = file?;
            let name = file.file_name().to_string_lossy().to_lowercase();
            if !NOTICE_FILES.iter().any(|start| name.starts_with(start)) || !file.file_type()?.is_file() {
                continue;
            }
            let bytes = fs::read(file.path()).with_context(|| format!("failed to read {}", file.path().display()))?;
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            texts.entry(text).or_default().push(format!("{} {}", package.0, package.1));
        }
    }
    // By the first package that has it, so that a reader finds one.
    let mut by_package: Vec<(Vec<String>, String)> = texts.into_iter().map(|(text, names)| (names, text)).collect();
    by_package.sort();
    let mut all = "What other people ask to be passed on with their work, of which this program is made.\n".to_owned();
    for (names, text) in by_package {
        write!(all, "\n{}\n{}\n\n{text}\n", "=".repeat(100), names.join(", ")).context("memory takes it")?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_peoples_packages_are_listed_once() {
        let tree = "selvedge v0.1.0 (/src/crates/selvedge)\tApache-2.0\nbytes v1.2.3\tMIT\nold v0.1.0\tMIT/Apache-2.0\n\
                    derive v1.0.0 (proc-macro)\t\nbytes v1.2.3\tMIT (*)\n";
        let found = packages(tree).expect("a tree");
        let names: Vec<String> = found
            .iter()
            .map(component)
            .map(|one| format!("{} {}", one["purl"], one["licenses"][0]["expression"]))
            .collect();
        assert_eq!(
            names,
            [
                "\"pkg:cargo/bytes@1.2.3\" \"MIT\"",
                "\"pkg:cargo/derive@1.0.0\" null",
                "\"pkg:cargo/old@0.1.0\" \"MIT OR Apache-2.0\"",
            ]
        );
    }

    #[test]
    fn a_text_that_many_have_is_there_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let package = |name: &str, files: &[(&str, &str)]| {
            let path = dir.path().join(name);
            fs::create_dir(&path).expect("space");
            for (file, text) in files {
                fs::write(path.join(file), text).expect("space");
            }
            ((name.to_owned(), "1.0.0".to_owned()), path)
        };
        let directories = BTreeMap::from([
            package("a", &[("LICENSE-MIT", "shared"), ("lib.rs", "code")]),
            package("b", &[("license.md", "shared\n"), ("NOTICE", "of b")]),
        ]);
        let packages: Packages = directories.keys().map(|package| (package.clone(), "MIT".to_owned())).collect();
        let all = notices(&packages, &directories).expect("they are there");
        assert!(all.contains("a 1.0.0, b 1.0.0\n\nshared\n") && all.contains("\nb 1.0.0\n\nof b\n"), "{all}");
        assert!(all.matches("shared").count() == 1 && !all.contains("code"), "{all}");
    }
}
