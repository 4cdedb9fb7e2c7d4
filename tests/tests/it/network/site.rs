//! A hub and a node with an uplink between them, each in a network namespace of its own.
//!
//! ```text
//! namespace of the test's thread: the node                namespace `hub`: hub, kubectl, outsiders
//! pods ── svp… ── [ node 198.51.100.2 ] uplink ────────── uplink [ 198.51.100.1 ]
//! ```
//!
//! The test runs on a thread that has left the machine's network; what it starts is at the node. Nothing of the machine's own network
//! is ever changed, and the kernel removes all of it with the last process and file that refer to it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;
use testkit::image::Image;
use testkit::kubectl::Kubectl;
use testkit::program::{Outcome, Selvedge, run, signal};
use testkit::wait::eventually;

use crate::common::{PATIENCE, condition, kill_with_pods, node_is_ready, token};

/// The node's address on its uplink.
pub const NODE_IP: &str = "198.51.100.2";
/// The hub's.
pub const HUB_IP: &str = "198.51.100.1";
/// Where the node answers names.
pub const DNS: &str = "169.254.20.10";
/// The image of the pods.
const IMAGE: &str = "example.com/box:1";
/// Where a pod finds its commands.
const WORK: &str = "/w";

/// Runs a test in a network namespace of its own; says why not where that cannot be had.
pub fn in_own_network(test: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    // SAFETY: geteuid only returns a number.
    if unsafe { libc::geteuid() } != 0 {
        testkit::skip("a network of its own needs root");
        return Ok(());
    }
    for program in ["nft", "ip", "nsenter", "dig"] {
        if !Command::new("which").arg(program).stdout(Stdio::null()).status()?.success() {
            testkit::skip(&format!("there is no `{program}`"));
            return Ok(());
        }
    }
    if Image::busybox().is_none() {
        testkit::skip("there is no static /bin/busybox; install busybox-static");
        return Ok(());
    }
    let run = || {
        leave_network()?;
        test()
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Takes this thread into a fresh network namespace, whose `lo` is up.
fn leave_network() -> Result<()> {
    // SAFETY: a plain system call; the namespace is this thread's alone.
    ensure!(unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0, std::io::Error::last_os_error());
    sh("ip link set lo up").map(drop)
}

/// Runs a line of shell at the node; what it prints when it ends well.
pub fn sh(line: &str) -> Result<String> {
    Outcome::of(Command::new("sh").args(["-c", line]).stdin(Stdio::null()))?.ok()
}

/// What a pod is beside its name and its script.
#[derive(Clone, Copy, Default)]
pub struct PodOptions<'a> {
    /// More of its spec, a line each, at the spec's depth.
    pub spec: &'a str,
    /// More of its container, a line each.
    pub container: &'a str,
    /// More labels beside `app`.
    pub labels: &'a str,
}

/// The site.
pub struct Site {
    pub kubectl: Kubectl,
    pub node: Selvedge,
    pub hub: Selvedge,
    hub_network: File,
    // Last, so that it is removed after those who write into it have ended.
    pub dir: tempfile::TempDir,
}

impl Site {
    /// Starts it with more settings of the node, and imports the image. `None` where there is no kubectl. Only on a thread of
    /// [`in_own_network`].
    pub fn start(settings: &str) -> Result<Option<Self>> {
        Self::start_with(settings, "")
    }

    /// The same after a line of shell at the node.
    pub fn start_with(settings: &str, before: &str) -> Result<Option<Self>> {
        let Some((_, kubectl)) = Kubectl::installed().pop() else {
            testkit::skip("no kubectl; `cargo xtask test` installs it unless --no-install is given");
            return Ok(None);
        };
        let dir = tempfile::tempdir()?;
        // Pods of every user find their commands there.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let hub_network = std::thread::scope(|scope| {
            let make = || leave_network().and_then(|()| Ok(File::open("/proc/thread-self/ns/net")?));
            scope.spawn(make).join().map_err(|_| anyhow!("a thread panicked"))?
        })?;
        let path = path_of(&hub_network);
        connect(&path)?;
        if !before.is_empty() {
            sh(before)?;
        }
        let wrapper = dir.path().join("kubectl");
        fs::write(&wrapper, format!("#!/bin/sh\nexec nsenter --net={path} {} \"$@\"\n", kubectl.display()))?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        let hub_dir = dir.path().join("hub");
        let config = dir.path().join("hub.yaml");
        fs::write(&config, format!("listen: {HUB_IP}:6443\npublicNames: [{HUB_IP}]\n"))?;
        let start_hub = || Selvedge::start_on(&hub_dir, &["hub", "--config", &config.to_string_lossy()], "default");
        let mut hub = at(&hub_network, start_hub)?;
        hub.address("hub-api")?;
        let data_dir = dir.path().join("node");
        let tar = dir.path().join("box.tar");
        fs::write(&tar, Image::busybox().context("it was there before")?.layout_tar(IMAGE))?;
        let words = [OsStr::new("image"), "import".as_ref(), tar.as_ref(), "--data-dir".as_ref(), data_dir.as_ref()];
        run(words)?.ok()?;
        let config = dir.path().join("node.yaml");
        fs::write(
            &config,
            format!("imagePrefixes: [/bin, /usr/bin, {}]\nkubeletListen: 0.0.0.0:0\n{settings}", dir.path().display()),
        )?;
        let (url, token) = (format!("https://{HUB_IP}:6443"), token(&hub_dir)?);
        let config = config.to_string_lossy().into_owned();
        let args = ["node", "--hub", &url, "--token", &token, "--node-name", "edge-1", "--config", &config];
        let subnet = [("SELVEDGE_NODE_POD_SUBNET", "10.39.0.0/16")];
        // A setting that a test gives in the file must not be overruled.
        let subnet = if settings.contains("podSubnet:") {
            [("SELVEDGE_NODE_POD_SUBNET", settings_subnet(settings))]
        } else {
            subnet
        };
        let node = Selvedge::start_with(&data_dir, &args, "ephemeral", &subnet)?;
        let kubectl = Kubectl::new(wrapper, &hub_dir.join("kubeconfig"));
        let site = Self { kubectl, node, hub, hub_network, dir };
        node_is_ready(&site.kubectl, "edge-1")?;
        Ok(Some(site))
    }

    /// Runs at the hub, where outsiders are as well.
    pub fn outside<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        at(&self.hub_network, act)
    }

    /// Takes the hub away, or brings it back: a cable.
    pub fn uplink(&self, is_up: bool) -> Result<()> {
        self.outside(|| sh(&format!("ip link set uplink {}", if is_up { "up" } else { "down" })).map(drop))
    }

    /// Makes the machine one that has just been switched on, as far as the network is concerned, with its uplink away: the agent
    /// and its pods are killed, this thread takes a new namespace, and what is in memory of the pods is deleted.
    pub fn reboot_without_hub(&mut self) -> Result<()> {
        kill_with_pods(&mut self.node)?;
        let mine = self.uids()?;
        for uid in &mine {
            for mount in mounts_of(uid) {
                sh(&format!("umount -l {mount}"))?;
            }
            for dir in in_memory(uid) {
                fs::remove_dir_all(dir)?;
            }
        }
        leave_network()?;
        self.node.start_again("ephemeral")
    }

    /// Starts the hub that was killed again, where it was.
    pub fn hub_again(&mut self) -> Result<()> {
        let Self { hub, hub_network, .. } = self;
        at(hub_network, || hub.start_again("default"))
    }

    /// Gives the node of a new namespace its uplink again.
    pub fn connect_again(&self) -> Result<()> {
        self.outside(|| sh("ip link del uplink 2>/dev/null || true").map(drop))?;
        connect(&path_of(&self.hub_network))
    }

    /// The address that a pod sees as its own; no hub is needed.
    pub fn address_inside(&self, pod: &str) -> Result<String> {
        let shown = self.does(pod, "/bin/busybox ip -o -4 addr show dev eth0")?;
        let address = shown.split_whitespace().skip_while(|word| *word != "inet").nth(1);
        let address = address.and_then(|address| address.split('/').next());
        Ok(address.with_context(|| format!("an address: {shown}"))?.to_owned())
    }

    /// uids of the pods that the node has directories of.
    pub fn uids(&self) -> Result<Vec<String>> {
        let pods = self.node.data_dir().join("node/pods");
        let names = fs::read_dir(pods)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names = names.collect::<Result<Vec<String>>>()?;
        Ok(names.iter().filter_map(|name| Some(name.rsplit('_').next()?.to_owned())).collect())
    }

    fn work_dir(&self, pod: &str) -> PathBuf {
        self.dir.path().join("work").join(pod)
    }

    /// A pod `name` of the image that answers HTTP with its name on 8080 and does what [`Site::exec`] says.
    pub fn pod(&self, name: &str, options: PodOptions<'_>) -> Result<String> {
        let dir = self.work_dir(name);
        fs::create_dir_all(&dir)?;
        let script =
            format!("mkdir -p /tmp/www; echo {name} > /tmp/www/index.html; httpd -p 8080 -h /tmp/www; {}", LOOP);
        Ok(manifest(name, &format!("image: {IMAGE}"), &dir, &script, options))
    }

    /// The same as programs of the machine.
    pub fn process_pod(&self, name: &str, options: PodOptions<'_>) -> Result<String> {
        let dir = self.work_dir(name);
        fs::create_dir_all(dir.join("www"))?;
        fs::write(dir.join("www/index.html"), format!("{name}\n"))?;
        let script = format!("cd {WORK}; /bin/busybox httpd -p 8080 -h {WORK}/www; {}", LOOP);
        let spec = format!("  runtimeClassName: selvedge-process\n{}", options.spec);
        let options = PodOptions { spec: &spec, ..options };
        Ok(manifest(name, "image: file:///bin/busybox", &dir, &script, options))
    }

    /// Runs a line of shell in a pod of [`Site::pod`]; its exit code and what it printed. No hub is needed.
    pub fn exec(&self, pod: &str, line: &str) -> Result<(i32, String)> {
        let dir = self.work_dir(pod);
        let name = format!("{:08x}", fastrand::u32(..));
        let draft = dir.join(&name);
        fs::write(&draft, line)?;
        fs::rename(&draft, dir.join(format!("{name}.sh")))?;
        let code = eventually(&format!("an end of `{line}` in {pod}"), PATIENCE, || {
            fs::read_to_string(dir.join(format!("{name}.code"))).map_err(|error| error.to_string())
        })?;
        let printed = fs::read(dir.join(format!("{name}.out")))?;
        Ok((code.trim().parse().context("an exit code")?, String::from_utf8_lossy(&printed).into_owned()))
    }

    /// The same; it must end well within the patience of a test.
    pub fn does(&self, pod: &str, line: &str) -> Result<String> {
        eventually(&format!("success of `{line}` in {pod}"), PATIENCE, || match self.exec(pod, line) {
            Ok((0, printed)) => Ok(printed),
            Ok((code, printed)) => Err(format!("{code}: {printed}")),
            Err(error) => Err(format!("{error:#}")),
        })
    }

    /// What a pod gets from a URL.
    pub fn get(&self, pod: &str, url: &str) -> Result<String> {
        Ok(self
            .does(pod, &format!("/bin/busybox timeout 5 /bin/busybox wget -q -O - http://{url}/"))?
            .trim()
            .to_owned())
    }

    /// Applies manifests and waits until these pods are Ready; answers their addresses.
    pub fn apply(&self, manifests: &str, pods: &[&str]) -> Result<Vec<String>> {
        self.kubectl.apply(manifests)?.ok()?;
        pods.iter().map(|pod| self.address(pod)).collect()
    }

    /// The address of a pod, once it is Ready.
    pub fn address(&self, pod: &str) -> Result<String> {
        let pod = self.ready(pod)?;
        Ok(pod["status"]["podIP"].as_str().context("a pod that is Ready has an address")?.to_owned())
    }

    /// A pod, once it is Ready.
    pub fn ready(&self, pod: &str) -> Result<Value> {
        self.shows(pod, |pod| condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True"))
    }

    /// A pod, once it is as it should be.
    pub fn shows(&self, pod: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(&format!("state of pod {pod}"), PATIENCE, || {
            let pod = self.kubectl.json(&["pod", pod]).map_err(|error| error.to_string())?;
            if is_so(&pod) { Ok(pod) } else { Err(format!("{} {}", pod["metadata"], pod["status"])) }
        })
    }

    /// Events of a pod, as kubectl prints them.
    pub fn event(&self, pod: &str, text: &str) -> Result<String> {
        let selector = format!("involvedObject.name={pod}");
        eventually(&format!("event `{text}` of {pod}"), PATIENCE, || {
            let shown = self
                .kubectl
                .ok(&["get", "events", "--field-selector", &selector])
                .map_err(|error| error.to_string())?;
            if shown.contains(text) { Ok(shown) } else { Err(shown) }
        })
    }

    /// Waits until a line of shell at the node prints what it should.
    pub fn node_shows(&self, line: &str, is_so: impl Fn(&str) -> bool) -> Result<String> {
        eventually(&format!("output of `{line}`"), PATIENCE, || match sh(line) {
            Ok(printed) if is_so(&printed) => Ok(printed),
            Ok(printed) => Err(printed),
            Err(error) => Err(format!("{error:#}")),
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A test that failed may have frozen it; what is frozen cannot be reset.
        signal(self.node.pid(), libc::SIGCONT);
    }
}

/// What a pod's shell does for ever: whatever files `*.sh` appear in its directory are run.
const LOOP: &str = "cd /w; echo up > ready; while :; do for f in *.sh; do [ -e \"$f\" ] || continue; n=${f%.sh}; \
    mv \"$f\" \"$n.run\"; /bin/busybox sh \"./$n.run\" > \"$n.out\" 2>&1; echo $? > \"$n.tmp\"; mv \"$n.tmp\" \"$n.code\"; done; \
    /bin/busybox sleep 0.05; done";

fn manifest(name: &str, image: &str, dir: &Path, script: &str, options: PodOptions<'_>) -> String {
    let PodOptions { spec, container, labels } = options;
    let dir = dir.display();
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {name}{labels} }} }}
spec:
  nodeName: edge-1
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
{spec}
  volumes: [{{ name: w, hostPath: {{ path: {dir} }} }}]
  containers:
    - name: main
      {image}
      imagePullPolicy: IfNotPresent
      command: [/bin/busybox, sh, -c, {script:?}]
      volumeMounts: [{{ name: w, mountPath: {WORK} }}]
      readinessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}
{container}
---
"#
    )
}

/// Mounts that have a uid in their path.
pub fn mounts_of(uid: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let paths = mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|path| path.contains(uid));
    paths.map(str::to_owned).collect()
}

/// Directories in memory that are called as a pod's uid: what is set up of it beside its containers.
pub fn in_memory(uid: &str) -> Vec<PathBuf> {
    let places = ["/run/selvedge", "/dev/shm/selvedge"];
    let found = Command::new("find").args(places).args(["-name", uid, "-prune"]).stderr(Stdio::null()).output();
    let found = found.map(|found| String::from_utf8_lossy(&found.stdout).into_owned()).unwrap_or_default();
    found.lines().map(PathBuf::from).collect()
}

fn settings_subnet(settings: &str) -> &str {
    let line = settings.lines().find_map(|line| line.strip_prefix("podSubnet:"));
    line.map(str::trim).unwrap_or_default()
}

/// The path under which other programs open a file of this process.
fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// Joins the namespace of this thread and another by a pair of links.
fn connect(hub: &str) -> Result<()> {
    sh(&format!(
        "ip link add uplink type veth peer name uplink netns {hub}
         ip addr add {NODE_IP}/24 dev uplink
         ip link set uplink up
         nsenter --net={hub} sh -c 'ip addr add {HUB_IP}/24 dev uplink && ip link set uplink up'
         ip route add default via {HUB_IP}"
    ))
    .map(drop)
}

/// Runs on a thread in another network namespace.
fn at<T: Send>(network: &File, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let run = || {
        // SAFETY: a plain system call; the thread is of this function alone.
        ensure!(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) } == 0, std::io::Error::last_os_error());
        act()
    };
    std::thread::scope(|scope| scope.spawn(run).join().map_err(|_| anyhow!("a thread panicked"))?)
}
