//! Hub and node are upgraded in place: the program's file is replaced under them, as a package manager does it, and each is started
//! again while pods run. What a service manager hears of it, and what an older program says of a newer one's data.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use testkit::image::Image;
use testkit::kubectl::Kubectl;
use testkit::process;
use testkit::program::{Selvedge, binary, run};

use crate::common::{Fleet, PATIENCE, example_manifest, make_gateway, node_is_ready, root, wait_pods};

/// A stop takes less; what takes longer hangs.
const STOP_MAX: Duration = Duration::from_secs(30);
const IMAGE: &str = "example.com/box:1";

/// Puts the program at a path as dpkg does: a whole file under another name, renamed over what is there. Whoever runs the old one keeps it.
fn install(path: &Path) -> Result<()> {
    fs::create_dir_all(path.parent().context("it is in a directory")?)?;
    let fresh = path.with_extension("dpkg-new");
    fs::copy(binary(), &fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    fs::rename(&fresh, path).context("failed to put the program into place")
}

/// The file that a process runs; of one that was replaced, the kernel says so.
fn program_of(role: &Selvedge) -> Result<String> {
    Ok(fs::read_link(format!("/proc/{}/exe", role.pid()))?.to_string_lossy().into_owned())
}

/// Shims of a node and the first process of each of their containers. What is there for a moment only, such as a probe, is left out by
/// looking twice.
fn processes_of_pods(node: &Selvedge) -> BTreeSet<u32> {
    let look = || -> BTreeSet<u32> {
        let data_dir = node.data_dir().to_string_lossy().into_owned();
        let mine = process::find(|words| words.iter().any(|word| word.contains(&data_dir)));
        let shims: BTreeSet<u32> = mine.into_iter().map(|(pid, _)| pid).filter(|pid| *pid != node.pid()).collect();
        let children = process::find(|_| true).into_iter().map(|(pid, _)| pid);
        let of_shims = children.filter(|pid| process::ancestors(*pid).first().is_some_and(|one| shims.contains(one)));
        of_shims.chain(shims.iter().copied()).collect()
    };
    let first = look();
    std::thread::sleep(Duration::from_secs(2));
    first.intersection(&look()).copied().collect()
}

/// What the hub says of the containers of each pod: when each began, and how often it was started.
fn containers(kubectl: &Kubectl) -> Result<Vec<Value>> {
    let pods = kubectl.json(&["pods"])?;
    let of_pod = |pod: &Value| {
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let began = statuses.iter().map(|one| json!([one["containerID"], one["restartCount"], one["state"]]));
        json!([pod["metadata"]["uid"], began.collect::<Vec<_>>()])
    };
    Ok(pods["items"].as_array().context("a list")?.iter().map(of_pod).collect())
}

/// What runs at a time.
struct Running {
    processes: BTreeSet<u32>,
    containers: Vec<Value>,
}

impl Running {
    fn on(fleet: &Fleet) -> Result<Self> {
        Ok(Self { processes: processes_of_pods(&fleet.node), containers: containers(&fleet.kubectl)? })
    }

    /// Fails unless all of it runs on: the same processes, of containers that nobody has started again.
    fn runs_on(&self, fleet: &Fleet, after: &str) -> Result<()> {
        let now = Self::on(fleet)?;
        ensure!(
            self.processes.is_subset(&now.processes),
            "{after}: of {:?} there are {:?}",
            self.processes,
            now.processes
        );
        let changed: Vec<&Value> = self.containers.iter().filter(|pod| !now.containers.contains(pod)).collect();
        ensure!(changed.is_empty(), "{after}: {changed:?} are not among {:?}", now.containers);
        Ok(())
    }
}

/// A container of an image; without root or busybox the pods of other runtimes are what there is.
fn container_of_image(fleet: &Fleet) -> Result<bool> {
    // SAFETY: it has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(false);
    }
    let Some(busybox) = Image::busybox() else { return Ok(false) };
    let path = fleet.dir.path().join("box.tar");
    fs::write(&path, busybox.layout_tar(IMAGE))?;
    let data_dir = fleet.node.data_dir().to_string_lossy().into_owned();
    run(["image", "import", &path.to_string_lossy(), "--data-dir", &data_dir])?.ok()?;
    fleet
        .kubectl
        .apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: box, labels: {{app: box}}}}\nspec:\n  nodeName: edge-1\n  \
         terminationGracePeriodSeconds: 1\n  containers: [{{name: main, image: '{IMAGE}', command: [sleep, '3600']}}]\n"
        ))?
        .ok()?;
    wait_pods(&fleet.kubectl, "app=box", 1)?;
    Ok(true)
}

#[test]
fn hub_and_node_are_upgraded_in_place_while_pods_run() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    let installed = fleet.dir.path().join("usr/bin/selvedge");
    install(&installed)?;
    // Both run from the file that will be replaced.
    fleet.hub.interrupt(STOP_MAX)?;
    fleet.hub.set_program(&installed);
    fleet.hub_again()?;
    fleet.node.interrupt(STOP_MAX)?;
    fleet.node.set_program(&installed);
    fleet.node.start_again("ephemeral")?;
    node_is_ready(&fleet.kubectl, "edge-1")?;

    fleet.kubectl.apply(&example_manifest("50-workloads.yaml", "edge-1")?)?.ok()?;
    make_gateway(&fleet.kubectl, "edge-1")?;
    wait_pods(&fleet.kubectl, "app=greeter", 1)?;
    wait_pods(&fleet.kubectl, "app=heartbeat", 1)?;
    let has_container = container_of_image(&fleet)?;
    let running = Running::on(&fleet)?;
    let pods = 2 + usize::from(has_container);
    ensure!(
        running.processes.len() >= 2 * pods,
        "a shim and a program for each of {pods} pods: {:?}",
        running.processes
    );

    // The hub.
    install(&installed)?;
    ensure!(program_of(&fleet.hub)?.ends_with(" (deleted)"), "the running hub keeps the file that it was started from");
    fleet.kubectl.ok(&["create", "configmap", "before"])?;
    let (_, status) = fleet.hub.interrupt(STOP_MAX)?;
    ensure!(status.success(), "{status}");
    let left = processes_of_pods(&fleet.node);
    ensure!(running.processes.is_subset(&left), "without their hub: of {:?} there are {left:?}", running.processes);
    fleet.hub_again()?;
    ensure!(program_of(&fleet.hub)? == installed.to_string_lossy(), "{}", program_of(&fleet.hub)?);
    fleet.kubectl.ok(&["get", "configmap", "before"])?;
    // The node has connected again: only then does a new pod reach it.
    fleet
        .kubectl
        .apply(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: later, labels: {app: later}}\nspec:\n  nodeName: edge-1\n  \
         runtimeClassName: selvedge-process\n  terminationGracePeriodSeconds: 1\n  \
         containers: [{name: main, image: 'file:///bin/sleep', args: ['3600']}]\n",
        )?
        .ok()?;
    wait_pods(&fleet.kubectl, "app=later", 1)?;
    running.runs_on(&fleet, "after the hub's upgrade")?;

    // The node, twice: the second time it is killed.
    let running = Running::on(&fleet)?;
    for is_killed in [false, true] {
        install(&installed)?;
        if is_killed {
            fleet.node.kill();
        } else {
            let (_, status) = fleet.node.interrupt(STOP_MAX)?;
            ensure!(status.success(), "{status}");
        }
        running.runs_on(&fleet, "without their node")?;
        fleet.node.start_again("ephemeral")?;
        fleet.node.address("node-kubelet")?;
        ensure!(program_of(&fleet.node)? == installed.to_string_lossy(), "{}", program_of(&fleet.node)?);
        node_is_ready(&fleet.kubectl, "edge-1")?;
        running.runs_on(&fleet, "after their node's upgrade")?;
    }
    // It has taken them over: what is deleted ends.
    fleet.kubectl.ok(&["delete", "pod", "later", "--timeout=60s"])?;
    Ok(())
}

/// A service manager's end of sd_notify.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self(socket))
    }

    /// Waits until it hears of a state; answers what it has heard before.
    fn hears(&self, state: &str) -> Result<Vec<String>> {
        let start = Instant::now();
        let mut before = Vec::new();
        while start.elapsed() < PATIENCE {
            let mut buffer = [0; 256];
            let Ok(length) = self.0.recv(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text == state {
                return Ok(before);
            }
            before.push(text);
        }
        bail!("{state} was awaited, and {before:?} came")
    }
}

#[test]
fn a_service_manager_hears_when_roles_are_ready_alive_and_stopping() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("notify").to_string_lossy().into_owned();
    let manager = Manager::listen(Path::new(&socket))?;
    // A node says so without a hub as well: pods run without one. The token is good for none that answers.
    let token = "sv1.60c3db1e3bb0b0a99e9748ee656d44b71b927cf86cd55962e9fc713112f977f7.7iap74.p4enjim66vgzgogz";
    let roles: [&[&str]; 2] =
        [&["hub"], &["node", "--hub", "https://127.0.0.1:9", "--token", token, "--node-name", "alone"]];
    for args in roles {
        let environment = [("NOTIFY_SOCKET", socket.as_str()), ("WATCHDOG_USEC", "400000")];
        let mut role = Selvedge::start_with(&dir.path().join(args[0]), args, "ephemeral", &environment)?;
        let before = manager.hears("READY=1")?;
        ensure!(before.is_empty(), "{before:?}");
        if args[0] == "hub" {
            // Who waits for it may connect at once.
            let ports = fs::read_to_string(role.data_dir().join("ports.json"))?;
            let ports: Value = serde_json::from_str(&ports)?;
            let address = ports["listeners"]["hub-api"].as_str().context("it listens")?.replace("0.0.0.0", "127.0.0.1");
            std::net::TcpStream::connect(&address)?;
        }
        manager.hears("WATCHDOG=1")?;
        let before = manager.hears("WATCHDOG=1")?;
        ensure!(before.is_empty(), "{before:?}");
        role.interrupt(STOP_MAX)?;
        let before = manager.hears("STOPPING=1")?;
        ensure!(before.iter().all(|state| state == "WATCHDOG=1"), "{before:?}");
        while manager.0.recv(&mut [0; 256]).is_ok() {}
    }
    Ok(())
}

/// Every file below a directory, with what it holds.
fn contents(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { found.push((path.clone(), fs::read(&path)?)) }
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn a_store_is_raised_by_a_newer_program_and_refused_by_an_older_one() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data_dir = dir.path().join("data");
    fs::create_dir(&data_dir)?;
    let packed = root().join("tests/data/hub-dir-v1.tar.gz");
    let unpacked = std::process::Command::new("tar").arg("-xzf").arg(packed).arg("-C").arg(&data_dir).status()?;
    ensure!(unpacked.success());
    let store = data_dir.join("hub/store");
    let version = || -> Result<u32> {
        let text = fs::read_to_string(store.join("VERSION"))?;
        let number = text.trim_end().strip_prefix("selvedge-store ").context("a store's version")?;
        Ok(number.parse()?)
    };
    ensure!(version()? == 1);
    let mut hub = Selvedge::start(&data_dir, &["hub"])?;
    hub.address("hub-api")?;
    hub.interrupt(STOP_MAX)?;
    let known = version()?;
    ensure!(known > 1, "a hub of version 1 would open what it does not know");

    // What a program after this one has written is that of the first format after a change: the hub that runs here is the older one.
    fs::write(store.join("VERSION"), format!("selvedge-store {}\n", known + 1))?;
    let before = contents(&data_dir.join("hub"))?;
    let said = run(["hub", "--ports", "ephemeral", "--data-dir", &data_dir.to_string_lossy()])?;
    ensure!(said.code == 1, "{said:?}");
    let expected = format!(
        "the store in {} has format {}, this program knows up to {known}; start the newer program",
        store.display(),
        known + 1
    );
    ensure!(said.stderr.contains(&expected), "{}", said.stderr);
    let changed = contents(&data_dir.join("hub"))?.into_iter().filter(|file| !before.contains(file));
    let changed: Vec<PathBuf> = changed.map(|(path, _)| path).collect();
    ensure!(changed.is_empty(), "it has touched {changed:?}");

    // The newer program, which is this one again, has lost nothing by it.
    fs::write(store.join("VERSION"), format!("selvedge-store {known}\n"))?;
    hub.start_again("ephemeral")?;
    hub.address("hub-api")?;
    let Some(kubectl) = Kubectl::newest(&data_dir.join("kubeconfig")) else { return Ok(()) };
    ensure!(kubectl.json(&["configmap", "kept"])?["data"]["from"] == "v1");
    Ok(())
}

#[test]
fn the_administrators_kubeconfig_is_printed_for_another_machine() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data_dir = dir.path().join("hub");
    let print = |more: &[&str]| {
        let data_dir = data_dir.to_string_lossy().into_owned();
        run(["kubeconfig", "--data-dir", &data_dir].iter().chain(more))
    };
    let said = print(&[])?.refused()?;
    ensure!(said.contains("is not the data directory of a hub that has started once"), "{said}");
    let mut hub = Selvedge::start(&data_dir, &["hub"])?;
    let address = hub.address("hub-api")?;
    let local = print(&[])?.ok()?;
    ensure!(local == fs::read_to_string(data_dir.join("kubeconfig"))?, "{local}");
    let port = address.rsplit(':').next().context("a port")?;
    let other = format!("https://localhost:{port}");
    let printed = print(&["--server", &other])?.ok()?;
    ensure!(printed.contains(&format!("server: {other}\n")), "{printed}");
    let path = dir.path().join("kubeconfig");
    fs::write(&path, printed)?;
    if let Some(kubectl) = Kubectl::newest(&path) {
        kubectl.ok(&["get", "namespaces"])?;
    }
    let said = print(&["--server", "hub.example:6443"])?;
    ensure!(said.code == 2 && said.stderr.contains("https://HOST[:PORT]"), "{said:?}");
    Ok(())
}
