//! Figures of containers at the node, in namespaces of its own: `cargo run --release -p node-kubelet --example container-figures`.
//!
//! A pod's sandbox with its network and a port of the node, the start of its container, a command in it and its removal, by the same
//! calls as the kubelet's. Needs root and a static busybox. Argument: how many pods (100).

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_kubelet::{NetworkSettings, NodeNetwork};
use node_runtime::{
    ContainerRuntime, ContainerSpec, GcLimits, HostPort, Limits, NodeImages, PodNetwork, PodRef, PodRuntime as _,
    PodSpec, PortProtocol, ProcessConfig, RegistriesConfig,
};
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;
use testkit::figures::print;
use testkit::image::Image;

const IMAGE: &str = "example.com/box:1";
const CGROUP: &str = "selvedge-figures";
/// The first ones find nothing in any cache.
const WARM: usize = 3;
const EXEC_TIMEOUT: Duration = Duration::from_secs(10);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let count = std::env::args().nth(1).map_or(Ok(100), |text| text.parse())?;
    // SAFETY: the process has one thread yet; these flags unshare neither descriptors nor memory.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS)? };
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    if !Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success() {
        return Err("the loopback device stays down".into());
    }
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(measure(dir.path(), count));
    remove_groups();
    outcome
}

/// The runtime keeps the group of all pods, for the next one.
fn remove_groups() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines() {
        if let [_, root, "cgroup" | "cgroup2", ..] = line.split(' ').collect::<Vec<_>>()[..] {
            // It is not in every hierarchy.
            let _ = std::fs::remove_dir(Path::new(root).join(CGROUP));
        }
    }
}

/// What each step of each pod took, in milliseconds.
#[derive(Default)]
struct Steps {
    sandbox: Vec<f64>,
    start: Vec<f64>,
    whole: Vec<f64>,
    exec: Vec<f64>,
    end: Vec<f64>,
}

async fn measure(dir: &Path, count: usize) -> Outcome<()> {
    let images = NodeImages::open(&dir.join("images"), RegistriesConfig::default(), GcLimits::default())?;
    let archive = dir.join("image.tar");
    let image = Image::busybox().ok_or("there is no static /bin/busybox; install busybox-static")?;
    std::fs::write(&archive, image.layout_tar(IMAGE))?;
    images.import(&archive)?;
    let network: Arc<dyn PodNetwork> = NodeNetwork::open(NetworkSettings::default())?;
    let mut config = ProcessConfig::new(dir.join("state"), Vec::new());
    config.launch_dir = Some(dir.join("in-memory"));
    std::fs::create_dir_all(dir.join("in-memory"))?;
    config.cgroup_parent = CGROUP.to_owned();
    config.network = Some(network);
    let runtime = ContainerRuntime::open(config, Arc::new(images))?;
    let mut steps = Steps::default();
    for number in 0..count + WARM {
        pod(&runtime, dir, number, &mut steps).await?;
    }
    let measured = |values: &[f64]| values[WARM..].to_vec();
    print("sandbox with network and host port", "ms", &measured(&steps.sandbox))?;
    print("create and start of a container", "ms", &measured(&steps.start))?;
    print("whole pod", "ms", &measured(&steps.whole))?;
    print("exec of /bin/true", "ms", &measured(&steps.exec))?;
    print("end and removal of a pod", "ms", &measured(&steps.end))?;
    Ok(())
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

async fn pod(runtime: &ContainerRuntime, dir: &Path, number: usize, steps: &mut Steps) -> Outcome<()> {
    let uid = format!("figures-{}-{number}", std::process::id());
    let pod = PodRef { uid: uid.clone(), namespace: "default".to_owned(), name: format!("p{number}") };
    let host_port = 20_000 + u16::try_from(number)?;
    let port = HostPort { host_ip: None, host_port, container_port: 80, protocol: PortProtocol::Tcp };
    let begin = Instant::now();
    let sandbox =
        PodSpec { pod: pod.clone(), hostname: pod.name.clone(), host_ports: vec![port], ..PodSpec::default() };
    runtime.ensure_pod(sandbox).await?;
    steps.sandbox.push(milliseconds(begin));
    let spec = ContainerSpec {
        pod,
        container: "main".to_owned(),
        image: IMAGE.to_owned(),
        command: vec!["/bin/sleep".to_owned(), "1000000".to_owned()],
        limits: Limits { memory_bytes: Some(64 << 20), ..Limits::default() },
        log_dir: dir.join("logs").join(&uid),
        ..ContainerSpec::default()
    };
    let id = spec.id();
    let start = Instant::now();
    runtime.start(spec).await?;
    steps.start.push(milliseconds(start));
    steps.whole.push(milliseconds(begin));
    let start = Instant::now();
    let output = runtime.exec(&id, vec!["/bin/true".to_owned()], EXEC_TIMEOUT).await?;
    steps.exec.push(milliseconds(start));
    if output.exit_code != 0 {
        return Err(format!("/bin/true ended with {}", output.exit_code).into());
    }
    let start = Instant::now();
    runtime.stop_pod(&uid, Duration::ZERO).await?;
    runtime.remove_pod(&uid).await?;
    steps.end.push(milliseconds(start));
    Ok(())
}
