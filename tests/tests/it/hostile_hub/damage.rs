//! Every file of the node, damaged in every way while the agent is away: the pods run or say why, never twice, and can be deleted.
//!
//! ```text
//! file × {emptied, halved, a byte changed, removed} × {programs live, all of them dead} ──▶ start ──▶ run or say why ──▶ delete
//! ```
//!
//! Files of pods differ by what they are for, not by whose they are: one of each is enough.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::process;
use testkit::wait::eventually;

use super::{PATIENCE, PODS, Site};
use crate::common::{condition, is_full, keep_figures, kill_with_pods};

/// Cases of the small size; all of them in the full one.
const SMALL: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Emptied,
    Halved,
    Changed,
    Removed,
}

const DAMAGES: [Damage; 4] = [Damage::Emptied, Damage::Halved, Damage::Changed, Damage::Removed];

impl Damage {
    fn of(self, file: &Path) -> Result<()> {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        let mut half = bytes[..bytes.len() / 2].to_vec();
        match self {
            Self::Emptied => std::fs::write(file, "")?,
            Self::Halved => std::fs::write(file, half)?,
            Self::Changed => {
                half = bytes;
                let middle = half.len() / 2;
                if let Some(byte) = half.get_mut(middle) {
                    *byte ^= 0x15;
                }
                std::fs::write(file, half)?;
            }
            Self::Removed => std::fs::remove_file(file)?,
        }
        Ok(())
    }
}

/// What a file is for: its path without the names of pods and without numbers.
fn role(path: &Path, below: &Path) -> String {
    let path = path.strip_prefix(below).unwrap_or(path).to_string_lossy();
    let is_uid = |word: &str| word.len() == 36 && word.chars().all(|one| one.is_ascii_hexdigit() || one == '-');
    let words = path.split_inclusive(['/', '_']).map(|word| match word.trim_end_matches(['/', '_']) {
        uid if is_uid(uid) => word.replace(uid, "UID"),
        other => word.replace(other, &other.replace(|one: char| one.is_ascii_digit(), "N")),
    });
    words.collect()
}

/// All files below a directory, what is linked to aside.
fn files(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(below).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

impl Site {
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        files(self.node.data_dir(), &mut found);
        found.sort();
        found
    }

    /// Pod 0 is plain; pod 1 needs a Secret and mounts a ConfigMap.
    fn create_both(&self) -> Result<()> {
        self.api.create(PODS, &self.pod(0))?;
        let mut pod = self.pod(1);
        let container = &mut pod["spec"]["containers"][0];
        container["env"] = json!([{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
        container["volumeMounts"] = json!([{"name": "c", "mountPath": "/tmp/c"}]);
        pod["spec"]["volumes"] = json!([{"name": "c", "configMap": {"name": "c"}}]);
        self.api.create(PODS, &pod).map(|_| ())
    }

    /// How many programs each of the two pods has.
    fn counts(&self) -> [usize; 2] {
        [0, 1].map(|number| {
            let mark = self.mark(number);
            let is_one = |words: &[String]| {
                words.first().is_some_and(|word| word.ends_with("sleep")) && words.get(2) == Some(&mark)
            };
            process::find(is_one).len()
        })
    }

    /// Waits until each pod has one program and is Ready, or says why not and has none.
    fn wait_run_or_say_why(&self) -> Result<Vec<String>> {
        eventually("pods that run or say why", PATIENCE, || {
            let list = self.api.get(PODS).map_err(|error| error.to_string())?;
            let counts = self.counts();
            let mut reasons = Vec::new();
            for (number, count) in counts.into_iter().enumerate() {
                let name = format!("p{number}");
                let pod = list["items"].as_array().into_iter().flatten().find(|one| one["metadata"]["name"] == *name);
                let pod = pod.ok_or_else(|| format!("no {name}: {list}"))?;
                let is_ready = condition(pod, "Ready").is_some_and(|one| one["status"] == "True");
                match (count, is_ready, why(pod)) {
                    (1, true, _) => {}
                    (0, false, Some(why)) => reasons.push(format!("{name}: {why}")),
                    _ => return Err(format!("{name} has {count} programs: {}", pod["status"])),
                }
            }
            Ok(reasons)
        })
    }

    fn delete_both(&self) -> Result<()> {
        for number in 0..2 {
            self.api.delete(&format!("{PODS}/p{number}"))?;
        }
        eventually("neither program nor object of a deleted pod", PATIENCE, || {
            let list = self.api.get(PODS).map_err(|error| error.to_string())?;
            let left = list["items"].as_array().map_or(0, Vec::len);
            let counts = self.counts();
            if left == 0 && counts == [0, 0] { Ok(()) } else { Err(format!("{left} objects, programs {counts:?}")) }
        })
    }
}

/// Why a pod does not run, as its status says.
fn why(pod: &Value) -> Option<String> {
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    let texts = [&waiting["message"], &pod["status"]["message"]];
    texts.into_iter().find_map(|text| text.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
}

#[test]
fn damage_to_any_file_neither_loses_a_pod_nor_starts_it_twice() -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut site = Site::start()?;
    let object = |kind: &str, name: &str, key: &str, value: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, key: {"k": value}});
    site.api.create("/api/v1/namespaces/default/secrets", &object("Secret", "s", "stringData", "secret"))?;
    site.api.create("/api/v1/namespaces/default/configmaps", &object("ConfigMap", "c", "data", "text"))?;
    site.create_both()?;
    site.wait_shown(0..2, PATIENCE)?;
    let below = site.node.data_dir().to_owned();
    let roles: BTreeSet<String> = site.files().iter().map(|file| role(file, &below)).collect();
    let cases = roles.iter().flat_map(|role| DAMAGES.map(|damage| (role.clone(), damage)));
    let mut cases: Vec<_> =
        cases.flat_map(|(role, damage)| [(role.clone(), damage, false), (role, damage, true)]).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut cases);
    let count = if is_full() { cases.len() } else { SMALL };
    let mut said = 0;
    for (file, damage, are_dead) in cases.into_iter().take(count) {
        let story = format!("{file} {damage:?}, programs {}", if are_dead { "dead" } else { "alive" });
        println!("{story}");
        said += one(&mut site, &file, damage, are_dead).with_context(|| story)?;
    }
    let came_to = json!({"figure": "files", "files": roles.len(), "cases": count, "said": said, "seed": seed});
    println!("{came_to}");
    if is_full() { keep(came_to) } else { Ok(()) }
}

/// One case; how many pods did not run and said why.
fn one(site: &mut Site, file: &str, damage: Damage, are_dead: bool) -> Result<usize> {
    match are_dead {
        true => kill_with_pods(&mut site.node)?,
        false => site.node.kill(),
    }
    let below = site.node.data_dir().to_owned();
    // Some are there for a moment only.
    let Some(path) = site.files().into_iter().find(|path| role(path, &below) == file) else { return Ok(0) };
    damage.of(&path)?;
    site.node.start_again("ephemeral")?;
    let reasons = site.wait_run_or_say_why()?;
    for reason in &reasons {
        println!("  {reason}");
    }
    site.delete_both()?;
    ensure!(site.node.is_running(), "the agent has ended");
    site.create_both()?;
    site.wait_shown(0..2, PATIENCE)?;
    Ok(reasons.len())
}

/// Keeps what a run of the full size came to.
fn keep(came_to: Value) -> Result<()> {
    keep_figures("node-damage", came_to, &["figure", "files", "cases", "said", "seed"], |rows| {
        format!(
            "# Damaged files of a node\n\n`cargo xtask test --all damage_to_any_file`: each file that a node has is emptied, halved, changed in one byte and \
             removed in turn, while its agent is away, with programs alive and dead. After each start all pods ran once or said why (column `said`), could be \
             deleted, and could be created again.\n\n| run | files | cases | said | seed |\n|---|---|---|---|---|\n{rows}"
        )
    })
}
