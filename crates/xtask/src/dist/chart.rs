//! The Helm chart of the hub, packed: `helm package` would put the time of the packing in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::Release;
use super::archive::{Entry, gzip, tar};
use crate::run::root;

const NAME: &str = "selvedge-hub";

/// Where its sources are.
pub fn dir() -> PathBuf {
    root().join("packaging/chart").join(NAME)
}

/// The chart as `helm install` takes it.
pub fn pack(release: &Release) -> Result<Vec<u8>> {
    let mut entries = Vec::new();
    collect(&dir(), NAME, &mut entries)?;
    let chart = entries.iter().find(|entry| entry.path() == format!("{NAME}/Chart.yaml")).and_then(Entry::bytes);
    let chart = String::from_utf8_lossy(chart.context("the chart has no Chart.yaml")?).into_owned();
    for line in [format!("version: {}", release.version), format!("appVersion: \"{}\"", release.version)] {
        ensure!(chart.lines().any(|one| one == line), "packaging/chart/{NAME}/Chart.yaml must have `{line}`");
    }
    gzip(&tar(&entries, "", release.seconds)?)
}

/// Files in the order of their names, so that the disk's order does not matter.
fn collect(dir: &Path, name: &str, entries: &mut Vec<Entry>) -> Result<()> {
    let read = fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let mut found = read.with_context(|| format!("failed to list {}", dir.display()))?;
    found.sort_by_key(fs::DirEntry::file_name);
    for one in found {
        let (path, name) = (one.path(), format!("{name}/{}", one.file_name().to_string_lossy()));
        if path.is_dir() {
            collect(&path, &name, entries)?;
        } else {
            let bytes = fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
            entries.push(Entry::file(name, 0o644, bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::release;
    use super::*;

    #[test]
    fn the_chart_has_the_version_of_the_program_and_packs_the_same_twice() {
        let release = Release { version: super::super::version().expect("a workspace"), ..release() };
        assert_eq!(pack(&release).expect("a chart"), pack(&release).expect("a chart"));
        let other = Release { version: "99.0.0".to_owned(), ..release };
        let error = pack(&other).expect_err("another version").to_string();
        assert!(error.ends_with("must have `version: 99.0.0`"), "{error}");
    }
}
