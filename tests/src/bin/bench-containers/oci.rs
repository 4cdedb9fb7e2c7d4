//! runc and crun, as containerd's shim calls them.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use selvedge_tests::site::milliseconds;
use serde_json::{Value, json};
use testkit::image::Image;

use crate::place::{Mounted, Namespaces, mounts_of_this_thread, remove_groups, unmount};

const GROUP: &str = "selvedge-bench-oci";
/// The first ones find nothing in any cache.
const WARM: usize = 3;

/// Milliseconds of `runtime run --detach` for each of some containers.
pub fn measure(runtime: &'static str, image: &Image, count: usize) -> Result<Vec<f64>> {
    let image = image.clone();
    // crun before 1.9 does nothing where a version 2 hierarchy beside version 1 has controllers, so it is not shown that: mounts are
    // this thread's own. Both make their groups in that directory all the same, so one is there that ends with the thread.
    let thread = std::thread::spawn(move || {
        mounts_of_this_thread()?;
        let unified = Path::new("/sys/fs/cgroup/unified");
        unmount(unified);
        let _empty = unified.exists().then(|| Mounted::tmpfs(unified)).transpose()?;
        let dir = tempfile::tempdir()?;
        let measured = containers(runtime, dir.path(), &image, count);
        remove_groups(GROUP);
        measured
    });
    thread.join().ok().context("the thread panicked")?
}

fn containers(runtime: &str, dir: &Path, image: &Image, count: usize) -> Result<Vec<f64>> {
    let (layer, archive) = (dir.join("layer"), dir.join("layer.tar"));
    std::fs::create_dir_all(&layer)?;
    std::fs::write(&archive, &image.layers.first().context("the image has a layer")?.0)?;
    let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&layer).status()?;
    ensure!(unpacked.success(), "the layer cannot be unpacked");
    let pod = Namespaces::new(true)?;
    let spec = spec(runtime, dir, &pod)?;
    let state = dir.join("state");
    let mut taken = Vec::new();
    for number in 0..count + WARM {
        let id = format!("bench-{}-{number}", std::process::id());
        let bundle = dir.join(&id);
        let _root = Mounted::overlay(&bundle, &layer)?;
        let mut own = spec.clone();
        own["linux"]["cgroupsPath"] = json!(format!("/{GROUP}/{id}"));
        std::fs::write(bundle.join("config.json"), own.to_string())?;
        let complaint = bundle.join("complaint");
        let mut run = Command::new(runtime);
        run.arg("--root").arg(&state).args(["run", "--detach", "--bundle"]).arg(&bundle).arg(&id);
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&complaint)?);
        let start = Instant::now();
        let status = run.status()?;
        taken.push(milliseconds(start.elapsed()));
        let mut delete = Command::new(runtime);
        delete.arg("--root").arg(&state).args(["delete", "--force", &id]).stdout(Stdio::null()).stderr(Stdio::null());
        let deleted = delete.status()?;
        ensure!(status.success() && deleted.success(), "{runtime}: {}", std::fs::read_to_string(&complaint)?);
    }
    Ok(taken.split_off(WARM))
}

/// What `runtime spec` writes, with our program and the namespaces of a pod.
fn spec(runtime: &str, dir: &Path, pod: &Namespaces) -> Result<Value> {
    let status = Command::new(runtime).arg("spec").current_dir(dir).status()?;
    ensure!(status.success(), "{runtime} spec failed");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json"))?)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = json!(["/bin/sleep", "1000000"]);
    spec["root"] = json!({"path": "rootfs", "readonly": false});
    // It is the namespace's.
    spec.as_object_mut().context("a specification is an object")?.remove("hostname");
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "pid"})];
    namespaces.extend(pod.paths().map(|(kind, path)| json!({"type": kind, "path": path})));
    spec["linux"]["namespaces"] = namespaces.into();
    Ok(spec)
}
