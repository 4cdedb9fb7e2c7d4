//! Backups of a hub, made while it is written to, and hubs made of them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::program::{Outcome, Selvedge, binary, run};
use testkit::wait::eventually;
use testkit::wire::{Access, MERGE};

use crate::common::{PATIENCE, is_full, token};
use crate::hostile_hub::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: usize = 3;

/// `selvedge hub ARGS`.
fn hub(args: &[&str]) -> Result<Outcome> {
    run(["hub"].iter().chain(args))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary directories have names of letters")
}

/// What `selvedge status` says of the hub.
fn life(data_dir: &Path) -> Result<Value> {
    let printed = eventually("a status of the hub", PATIENCE, || {
        run(["status", "-o", "json", "--data-dir", path(data_dir)]).and_then(|outcome| outcome.ok())
    })?;
    Ok(serde_json::from_str::<Value>(&printed)?["hub"]["life"].clone())
}

/// Programs that write without a pause: each creates `a-W-N`, then `b-W-N`, then says so in `last-W`.
struct Load {
    stop: Arc<AtomicBool>,
    /// Pairs that were answered, by writer.
    done: Arc<[AtomicUsize; WRITERS]>,
    /// How long each write took, and whether a backup was being made.
    took: std::thread::JoinHandle<Result<Vec<(Duration, bool)>>>,
    is_backup: Arc<AtomicBool>,
}

impl Load {
    fn start(kubeconfig: PathBuf) -> Self {
        let (stop, is_backup) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let done: Arc<[AtomicUsize; WRITERS]> = Arc::default();
        let took = std::thread::spawn({
            let (stop, done, is_backup) = (stop.clone(), done.clone(), is_backup.clone());
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let writers = (0..WRITERS).map(|writer| write(&kubeconfig, writer, &stop, &done, &is_backup));
                    Ok(futures::future::try_join_all(writers).await?.concat())
                })
            }
        });
        Self { stop, done, took, is_backup }
    }

    fn done(&self) -> [usize; WRITERS] {
        std::array::from_fn(|writer| self.done[writer].load(Ordering::SeqCst))
    }

    fn wait(&self, pairs: usize) -> Result<()> {
        let from = self.done();
        eventually("more pairs of objects", PATIENCE, || {
            let now = self.done();
            let is_enough = now.iter().zip(from).all(|(now, from)| *now >= from + pairs);
            if is_enough { Ok(()) } else { Err(format!("{now:?}")) }
        })
    }

    fn stop(self) -> Result<Vec<(Duration, bool)>> {
        self.stop.store(true, Ordering::SeqCst);
        self.took.join().map_err(|_| anyhow::anyhow!("the load panicked"))?
    }
}

async fn write(
    kubeconfig: &Path,
    writer: usize,
    stop: &AtomicBool,
    done: &[AtomicUsize; WRITERS],
    is_backup: &AtomicBool,
) -> Result<Vec<(Duration, bool)>> {
    let connection = Access::kubeconfig(kubeconfig)?.connect().await?;
    let map = |name: String, value: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value.to_string()}});
    let last = format!("last-{writer}");
    connection.post(MAPS, &map(last.clone(), 0)).await?.ok()?;
    let mut took = Vec::new();
    for number in 1.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        for kind in ["a", "b"] {
            let (begun, beside) = (Instant::now(), is_backup.load(Ordering::SeqCst));
            connection.post(MAPS, &map(format!("{kind}-{writer}-{number}"), number)).await?.ok()?;
            took.push((begun.elapsed(), beside));
        }
        let patch = json!({"data": {"value": number.to_string()}});
        connection.patch(&format!("{MAPS}/{last}"), MERGE, &patch).await?.ok()?;
        done[writer].store(number, Ordering::SeqCst);
    }
    Ok(took)
}

/// The p99 of some durations, and how many there are.
fn p99(took: impl Iterator<Item = Duration>) -> (Duration, usize) {
    let mut took: Vec<Duration> = took.collect();
    took.sort();
    let at = took.len() * 99 / 100;
    (took.get(at).copied().unwrap_or_default(), took.len())
}

/// Fills a hub with pods that nobody starts.
fn fill(api: &Api, count: usize) -> Result<()> {
    eventually("a service account for pods", PATIENCE, || {
        api.get("/api/v1/namespaces/default/serviceaccounts/default").map_err(|error| error.to_string())
    })?;
    for number in 0..count {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("pod-{number:05}"), "labels": {"app": "fill", "number": number.to_string()}},
            "spec": {
                "schedulingGates": [{"name": "example.com/never"}], "automountServiceAccountToken": false,
                "containers": [{"name": "main", "image": "example.com/program:1", "args": ["--number", number.to_string()]}],
            },
        });
        api.create("/api/v1/namespaces/default/pods", &pod)?;
    }
    Ok(())
}

/// Which numbers each kind of map of a writer has.
fn numbers(names: &BTreeSet<String>, kind: &str, writer: usize) -> BTreeSet<usize> {
    let prefix = format!("{kind}-{writer}-");
    names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect()
}

#[test]
fn a_backup_under_load_is_one_moment_and_a_hub_made_of_it_is_another_life() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (first_dir, second_dir, file) =
        (dir.path().join("first"), dir.path().join("second"), dir.path().join("hub.backup"));
    let mut first = Selvedge::start(&first_dir, &["hub"])?;
    first.address("hub-api")?;
    token(&first_dir)?;
    let api = Api::with(&first_dir.join("kubeconfig"))?;
    let pods = if is_full() { 10_000 } else { 200 };
    fill(&api, pods)?;
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "mine"}, "stringData": {"key": "value"}});
    api.create("/api/v1/namespaces/default/secrets", &secret)?;

    let load = Load::start(first_dir.join("kubeconfig"));
    load.wait(20)?;
    let before = load.done();
    load.is_backup.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let printed = hub(&["backup", "--data-dir", path(&first_dir), "--to", path(&file)])?.ok()?;
    let took = begun.elapsed();
    load.is_backup.store(false, Ordering::SeqCst);
    let after = load.done();
    load.wait(20)?;
    // A hub is made of it while the first one is still written to.
    let checked = hub(&["restore", "--check", path(&file)])?.ok()?;
    let begun = Instant::now();
    let restored = hub(&["restore", "--data-dir", path(&second_dir), path(&file)])?.ok()?;
    let restore_took = begun.elapsed();
    let latencies = load.stop()?;
    println!("{printed}{checked}{restored}");
    let of = |beside: bool| p99(latencies.iter().filter(|(_, one)| *one == beside).map(|(took, _)| *took));
    println!(
        "{} bytes with {pods} pods: backup {took:?}, restore {restore_took:?}; p99 of a write {:?}, beside the backup {:?}",
        std::fs::metadata(&file)?.len(),
        of(false),
        of(true),
    );
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file)?);
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    ensure!(restored.contains("left out join tokens"), "{restored}");

    let former = api.get(MAPS)?["metadata"]["resourceVersion"].as_str().context("a list has one")?.to_owned();
    let mut second = Selvedge::start(&second_dir, &["hub"])?;
    second.address("hub-api")?;
    let restored_api = Api::with(&second_dir.join("kubeconfig"))?;
    let list = restored_api.get(MAPS)?;
    let items = list["items"].as_array().context("a list")?;
    let names: BTreeSet<String> =
        items.iter().filter_map(|item| item["metadata"]["name"].as_str()).map(str::to_owned).collect();
    for writer in 0..WRITERS {
        let (a, b) = (numbers(&names, "a", writer), numbers(&names, "b", writer));
        let (highest, second_highest) = (a.len(), b.len());
        ensure!(a.iter().copied().eq(1..=highest) && b.iter().copied().eq(1..=second_highest), "{a:?} {b:?}");
        ensure!(second_highest == highest || second_highest + 1 == highest, "{highest} and {second_highest}");
        // All that was answered before is in it, nothing that was begun later.
        ensure!(highest >= before[writer] && highest <= after[writer] + 1, "{before:?} {highest} {after:?}");
        let last = items.iter().find(|item| item["metadata"]["name"] == format!("last-{writer}"));
        let last: usize = last.and_then(|last| last["data"]["value"].as_str()).context("it counts")?.parse()?;
        ensure!(last == second_highest || last + 1 == second_highest, "{last} of {second_highest}");
    }
    let kept = restored_api.get("/api/v1/namespaces/default/pods?limit=1")?;
    let left = kept["metadata"]["remainingItemCount"].as_u64().context("there are more")?;
    ensure!(left as usize == pods - 1, "{left}");
    let secret = restored_api.get("/api/v1/namespaces/default/secrets/mine")?;
    ensure!(secret["data"]["key"] == "dmFsdWU=", "{secret}");
    let secrets = restored_api.get("/api/v1/namespaces/kube-system/secrets")?.to_string();
    ensure!(!secrets.contains("bootstrap-token-"), "{secrets}");

    // Every revision of the former life has expired, also one that the restored hub will pass.
    let begins: u64 = list["metadata"]["resourceVersion"].as_str().context("a list has one")?.parse()?;
    ensure!(former.parse::<u64>()? < begins, "{former} and {begins}");
    let at_backup = life(&second_dir)?["restored"]["revision"].to_string();
    for revision in [former.as_str(), at_backup.as_str(), "1"] {
        for resource in [MAPS, "/api/v1/nodes"] {
            let watch = format!("{resource}?watch=true&timeoutSeconds=5&resourceVersion={revision}");
            let said = answer(&second_dir, &watch)?;
            ensure!(said.contains("\"code\":410"), "{watch}: {said}");
        }
    }
    let new = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}});
    let new: u64 = restored_api.create(MAPS, &new)?["metadata"]["resourceVersion"].as_str().context("one")?.parse()?;
    ensure!(new > begins, "{new} after {begins}");

    // Who looks sees which life it is.
    let (former, now) = (life(&first_dir)?, life(&second_dir)?);
    ensure!(former["restored"].is_null() && now["restored"]["epoch"] == former["epoch"], "{former} {now}");
    ensure!(now["epoch"] != former["epoch"] && restored.contains(now["epoch"].as_str().context("one")?), "{now}");
    let shown = run(["status", "--data-dir", path(&second_dir)])?.ok()?;
    ensure!(shown.contains("RESTORED at "), "{shown}");
    ensure!(second.log().contains("restored from a backup"), "{}", second.log());

    // A hub that is there is not replaced.
    let refused = hub(&["restore", "--data-dir", path(&first_dir), path(&file)])?;
    ensure!(refused.code == 1 && refused.stderr.contains("another selvedge hub runs"), "{refused:?}");
    second.kill();
    let refused = hub(&["restore", "--data-dir", path(&second_dir), path(&file)])?;
    ensure!(refused.code == 1 && refused.stderr.contains("selvedge reset"), "{refused:?}");
    // One that does not run is backed up as well, in its new life.
    hub(&["backup", "--data-dir", path(&second_dir), "--to", path(&file)])?.ok()?;
    let checked = hub(&["restore", "--check", path(&file)])?.ok()?;
    ensure!(checked.contains(now["epoch"].as_str().context("one")?), "{checked}");
    // A link names the file that it leads to. What is no file stays what it is.
    let (link, socket) = (dir.path().join("link"), dir.path().join("socket"));
    std::fs::remove_file(&file)?;
    std::fs::write(&file, "old")?;
    std::os::unix::fs::symlink(&file, &link)?;
    hub(&["backup", "--data-dir", path(&second_dir), "--to", path(&link)])?.ok()?;
    ensure!(link.is_symlink() && std::fs::metadata(&file)?.len() > 1000, "the file has the backup");
    let _listener = std::os::unix::net::UnixListener::bind(&socket)?;
    for no_file in [path(&socket), "/dev/null", path(dir.path())] {
        let refused = hub(&["backup", "--data-dir", path(&second_dir), "--to", no_file])?;
        ensure!(refused.code == 1 && refused.stderr.contains("is no file: name one"), "{no_file}: {refused:?}");
        ensure!(!std::fs::metadata(no_file)?.is_file(), "{no_file}");
    }
    Ok(())
}

/// What a hub answers, whatever it is.
fn answer(data_dir: &Path, path: &str) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = Access::kubeconfig(&data_dir.join("kubeconfig"))?.connect().await?;
        Ok(tokio::time::timeout(PATIENCE, connection.get(path)).await??.text().to_owned())
    })
}

#[test]
fn a_restore_that_is_killed_leaves_no_hub_that_starts_and_the_next_one_is_whole() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (first_dir, second_dir, file) =
        (dir.path().join("first"), dir.path().join("second"), dir.path().join("hub.backup"));
    let mut first = Selvedge::start(&first_dir, &["hub"])?;
    first.address("hub-api")?;
    let api = Api::with(&first_dir.join("kubeconfig"))?;
    fill(&api, 50)?;
    // To a pipe, as to another machine.
    let to = std::fs::File::create(&file)?;
    let piped = Command::new(binary())
        .args(["hub", "backup", "--to", "-", "--data-dir", path(&first_dir)])
        .stdout(to)
        .output()?;
    ensure!(piped.status.success(), "{piped:?}");
    let bytes = std::fs::read(&file)?;
    for parts in [1, 10, 40, 80, 99] {
        let mut restore = Command::new(binary())
            .args(["hub", "restore", "--data-dir", path(&second_dir), "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let stdin = restore.stdin.as_mut().context("it was asked for")?;
        stdin.write_all(&bytes[..bytes.len() * parts / 100])?;
        stdin.flush()?;
        eventually("a restore that has begun", PATIENCE, || match second_dir.join("hub.restoring").exists() {
            true => Ok(()),
            false => Err("not yet"),
        })?;
        restore.kill()?;
        restore.wait()?;
        ensure!(!second_dir.join("hub").exists(), "after {parts} of 100 parts");
    }
    let begun = run(["hub", "--data-dir", path(&second_dir), "--ports", "ephemeral"])?;
    ensure!(begun.code == 1 && begun.stderr.contains("was cut off: run `selvedge hub restore` again"), "{begun:?}");
    // A file that is damaged or truncated changes nothing.
    let damaged = dir.path().join("damaged");
    for (what, bytes) in [("EndsEarly", &bytes[..bytes.len() / 2]), ("flipped", &flipped(&bytes)[..])] {
        std::fs::write(&damaged, bytes)?;
        let refused = hub(&["restore", "--data-dir", path(&second_dir), path(&damaged)])?;
        ensure!(refused.code == 1 && !second_dir.join("hub").exists(), "{what}: {refused:?}");
        ensure!(!second_dir.join("hub.restoring").exists(), "{what} leaves nothing");
    }
    hub(&["restore", "--data-dir", path(&second_dir), path(&file)])?.ok()?;
    ensure!(!second_dir.join("hub.restoring").exists(), "it has another name now");
    let mut second = Selvedge::start(&second_dir, &["hub"])?;
    second.address("hub-api")?;
    let pods = Api::with(&second_dir.join("kubeconfig"))?.get("/api/v1/namespaces/default/pods")?;
    ensure!(pods["items"].as_array().is_some_and(|items| items.len() == 50), "{pods}");
    // Kubeconfigs of the former hub are good for this one: it has the same CA.
    let ca = |dir: &Path| std::fs::read_to_string(dir.join("hub/pki/ca.crt"));
    ensure!(ca(&first_dir)? == ca(&second_dir)?);
    Ok(())
}

fn flipped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = bytes.len() * 2 / 3;
    bytes[at] ^= 0x10;
    bytes
}
