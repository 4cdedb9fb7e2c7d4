use super::*;
use crate::PodRef;

/// A network without addresses.
#[derive(Debug)]
struct NoAddresses;

impl PodNetwork for NoAddresses {
    fn set_up(&self, _: &PodSpec, _: &Path) -> Result<Vec<IpAddr>, String> {
        Ok(Vec::new())
    }

    fn remove(&self, _: &str) {}
}

fn sandboxes(dir: &Path, network: Option<Arc<dyn PodNetwork>>) -> Sandboxes {
    Sandboxes::new(dir.to_owned(), Shared::All, network, Arc::new(ShimProgram::open(dir).unwrap()))
}

fn spec(sysctls: &[(&str, &str)]) -> PodSpec {
    PodSpec {
        pod: PodRef { uid: "u".to_owned(), ..PodRef::default() },
        hostname: "p".to_owned(),
        sysctls: sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..PodSpec::default()
    }
}

/// What a parameter is in the namespace that is pinned at `path`.
fn read_in(path: PathBuf, kind: LinkNameSpaceType, name: &str) -> String {
    let file = fs::File::open(path).unwrap();
    let name = name.replace('.', "/");
    let reading = std::thread::spawn(move || {
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).unwrap();
        fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap()
    });
    reading.join().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_pod_has_kernel_parameters_of_its_own_and_the_node_keeps_its_own() {
    if !rustix::process::geteuid().is_root() {
        return testkit::skip("namespaces need root");
    }
    let of_the_node = || fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let before = of_the_node();
    let dir = tempfile::tempdir().unwrap();
    let sandboxes = sandboxes(dir.path(), Some(Arc::new(NoAddresses)));
    let expected = [("net.ipv4.ip_local_port_range", "40000 40100"), ("kernel.shm_rmid_forced", "1")];
    let ensured = sandboxes.ensure(&spec(&expected), &CgroupPaths::default());
    if let Err(error) = &ensured
        && matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    {
        sandboxes.remove("u").unwrap();
        return testkit::skip(&format!("the kernel's parameters cannot be written: {error}"));
    }
    let found = ensured.unwrap();
    let path = |kind: &str| found.namespaces.iter().find(|one| one.kind == kind).unwrap().path.clone();
    assert_eq!(read_in(path("net"), LinkNameSpaceType::Network, expected[0].0), expected[0].1);
    assert_eq!(read_in(path("ipc"), LinkNameSpaceType::InterProcessCommunication, expected[1].0), expected[1].1);
    assert_eq!(of_the_node(), before);
    assert_eq!(sandboxes.uids().unwrap(), ["u"]);
    sandboxes.remove("u").unwrap();
    assert_eq!(sandboxes.uids().unwrap(), [""; 0]);
}

#[test]
fn what_is_not_the_pods_alone_is_not_written_and_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        return testkit::skip("namespaces need root");
    }
    for (network, name, value, why) in [
        // No network of its own: it would be the node's.
        (false, "net.ipv4.tcp_syncookies", "1", "the pod has the node's namespace"),
        (true, "kernel.hostname", "x", "none of those that a pod may set"),
        (true, "net.ipv4.ip_local_port_range", "none", "sysctl net.ipv4.ip_local_port_range=none"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let network = network.then(|| Arc::new(NoAddresses) as Arc<dyn PodNetwork>);
        let sandboxes = sandboxes(dir.path(), network);
        let spec = spec(&[(name, value)]);
        let error = sandboxes.ensure(&spec, &CgroupPaths::default()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(sandboxes.needs_another(&spec), "{name}: nothing is left to be taken over");
        sandboxes.remove("u").unwrap();
    }
}
