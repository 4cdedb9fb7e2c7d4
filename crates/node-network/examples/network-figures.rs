//! Figures of the node's network, in namespaces of its own: `cargo run --release -p node-network --example network-figures`.
//!
//! Needs root. Nothing of the machine's own network is touched: the process leaves it before it begins.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use node_network::{
    HostPort, Kind, NamespaceError, Network, NetworkConfig, PodLink, PodNamespaces, Protocol, ServiceEntry,
    ServicePort, netlink::in_namespace,
};
use testkit::figures::print;

const SERVICES: u32 = 1000;
const THROUGHPUT_TIME: Duration = Duration::from_millis(700);
const CONNECTIONS: u32 = 3000;
const ROUNDS: u32 = 7;
const BULK_PORT: u16 = 8080;
const SHORT_PORT: u16 = 8081;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    leave()?;
    let dir = std::env::temp_dir().join(format!("selvedge-network-figures-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = measure(&dir);
    std::fs::remove_dir_all(&dir)?;
    result
}

/// Leaves the machine's network and mounts for good.
fn leave() -> io::Result<()> {
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: the process has one thread yet; these flags unshare neither descriptors nor memory, and only the propagation of
    // mounts changes.
    let results = unsafe {
        [
            libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS),
            libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()),
        ]
    };
    if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn measure(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let config = NetworkConfig { service_subnets: vec!["10.96.0.0/12".parse()?], ..NetworkConfig::default() };
    let (network, _) = Network::open(config.clone())?;
    pods(&network, dir, 200)?;
    let load = time(|| network.set_services(services(0)))?;
    print("a thousand services loaded at once", "ms", &[load])?;
    let (mut changes, mut current) = (Vec::new(), services(0));
    for round in 1..=300_u32 {
        let number = round * 7 % SERVICES;
        current[number as usize] = service(number, round);
        let next = current.clone();
        changes.push(time(|| network.set_services(next))?);
    }
    print("one service of a thousand changed", "ms", &changes)?;
    print("one service of a thousand changed, nft -f", "ms", &by_nft(dir)?)?;
    let same = current.clone();
    print("a list of services that is the same", "ms", &[time(|| network.set_services(same))?])?;
    pods(&network, dir, 200)?;
    drop(network);
    let mut again = None;
    let open = time(|| Network::open(config).map(|(network, _)| again = Some(network)))?;
    let network = again.ok_or("no network")?;
    let compare = time(|| network.set_services(current))?;
    print("a thousand services read back at a restart", "ms", &[open])?;
    print("a thousand services compared at a restart", "ms", &[compare])?;
    traffic(&network, dir)
}

fn time<E>(act: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let start = Instant::now();
    act()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// The chain of one service put into a table of a thousand by `nft -f`: by a process and its text, as others do.
fn by_nft(dir: &Path) -> Result<Vec<f64>, Box<dyn std::error::Error>> {
    let nft = |words: &[&str]| -> Result<String, Box<dyn std::error::Error>> {
        let output = Command::new("nft").args(words).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?),
            false => Err(String::from_utf8_lossy(&output.stderr).into()),
        }
    };
    let table = nft(&["list", "table", "ip", "selvedge"])?;
    let chain = table.split("\tchain ").find(|chain| chain.starts_with("svc-")).ok_or("no chain of a service")?;
    let name = chain.split_whitespace().next().ok_or("a chain without a name")?;
    // What nft lists of a rule it does not take without the protocol.
    let alone = nft(&["list", "chain", "ip", "selvedge", name])?.replace("dnat ip", "meta l4proto tcp dnat ip");
    let file = dir.join("one.nft");
    std::fs::write(&file, format!("flush chain ip selvedge {name}\n{alone}"))?;
    let file = file.display().to_string();
    let mut taken = Vec::new();
    for _ in 0..20 {
        taken.push(time(|| nft(&["-f", &file]).map(drop))?);
    }
    Ok(taken)
}

/// Pods with a host port each, set up and taken down.
fn pods(network: &Network, dir: &Path, count: u16) -> Result<(), Box<dyn std::error::Error>> {
    let (mut created, mut up, mut down, mut released) = (vec![], vec![], vec![], vec![]);
    let mut all = Vec::new();
    for number in 0..count {
        let uid = format!("pod-{number}");
        let start = Instant::now();
        let namespaces = PodNamespaces::create(&dir.join(&uid), &[Kind::Net, Kind::Ipc, Kind::Uts], &uid)?;
        created.push(start.elapsed().as_secs_f64() * 1e3);
        let netns = namespaces.path(Kind::Net).ok_or("no namespace")?;
        let port = HostPort { host_ip: None, host_port: 20_000 + number, container_port: 80, protocol: Protocol::Tcp };
        let link = PodLink { uid: &uid, netns: &netns, host_ports: &[port], addresses: &[] };
        up.push(time(|| network.setup_pod(link).map(drop))?);
        all.push((uid, namespaces));
    }
    for (uid, namespaces) in &all {
        down.push(time(|| network.remove_pod(uid))?);
        released.push(time(|| namespaces.remove())?);
    }
    print("three namespaces created and pinned", "ms", &created)?;
    print("network of a pod with a host port set up", "ms", &up)?;
    print("network of a pod torn down", "ms", &down)?;
    print("three namespaces released", "ms", &released)?;
    Ok(())
}

fn address(base: [u8; 4], offset: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + offset).into()
}

fn service(number: u32, round: u32) -> ServiceEntry {
    let endpoint = |n: u32| (address([10, 39, 0, 0], 1000 + (number * 3 + n + round) % 60_000), 8080);
    ServiceEntry {
        namespace: "default".to_owned(),
        name: format!("service-{number}"),
        cluster_ips: vec![address([10, 96, 0, 0], 10 + number)],
        affinity_secs: None,
        ports: vec![ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: (0..3).map(endpoint).collect(),
        }],
    }
}

fn services(round: u32) -> Vec<ServiceEntry> {
    (0..SERVICES).map(|number| service(number, round)).collect()
}

/// A pod that stays until the end.
fn new_pod(
    network: &Network,
    dir: &Path,
    uid: &str,
) -> Result<(PodNamespaces, File, IpAddr), Box<dyn std::error::Error>> {
    let namespaces = PodNamespaces::create(&dir.join(uid), &[Kind::Net], uid)?;
    let netns = namespaces.path(Kind::Net).ok_or("no namespace")?;
    let addresses = network.setup_pod(PodLink { uid, netns: &netns, host_ports: &[], addresses: &[] })?;
    Ok((namespaces, File::open(netns)?, addresses[0]))
}

/// A client and a server on a node.
struct Pair {
    client: File,
    server: IpAddr,
    namespaces: [PodNamespaces; 2],
}

impl Pair {
    fn new(network: &Network, dir: &Path, name: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let (one, client, _) = new_pod(network, dir, &format!("{name}-client"))?;
        let (two, server, address) = new_pod(network, dir, &format!("{name}-server"))?;
        let bind = |port: u16| in_namespace(&server, || TcpListener::bind(("0.0.0.0", port)));
        let (bulk, short) = (bind(BULK_PORT)??, bind(SHORT_PORT)??);
        thread::spawn(move || {
            let mut buffer = vec![0; 256 * 1024];
            for mut stream in bulk.incoming().flatten() {
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            }
        });
        thread::spawn(move || {
            for mut stream in short.incoming().flatten() {
                stream.write_all(b"x").unwrap_or_default();
                // The client ends the connection by a reset.
                stream.read(&mut [0]).unwrap_or_default();
            }
        });
        Ok(Self { client, server: address, namespaces: [one, two] })
    }

    /// Gbit/s, and connections in a second.
    fn measure(&self, to: IpAddr) -> io::Result<(f64, f64)> {
        in_namespace(&self.client, || Ok((throughput((to, BULK_PORT).into())?, connections((to, SHORT_PORT).into())?)))?
    }

    fn remove(&self) -> Result<(), NamespaceError> {
        self.namespaces.iter().try_for_each(PodNamespaces::remove)
    }
}

/// What a pod gets through to another: directly, by a service of a thousand, and over the same links without any rule. In
/// turns, because the machine has other things to do.
fn traffic(network: &Network, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let with = Pair::new(network, dir, "with")?;
    let mut all = services(0);
    let port = all[0].ports[0].clone();
    all[0].ports = [BULK_PORT, SHORT_PORT]
        .map(|number| ServicePort { port: number, endpoints: vec![(with.server, number)], ..port.clone() })
        .into();
    network.set_services(all)?;
    // A machine beside this one, whose table is deleted.
    let other = PodNamespaces::create(&dir.join("other"), &[Kind::Net], "other")?;
    let machine = File::open(other.path(Kind::Net).ok_or("no namespace")?)?;
    let without = in_namespace(&machine, || {
        let (network, _) = Network::open(NetworkConfig::default()).map_err(|error| error.to_string())?;
        let pair = Pair::new(&network, dir, "without").map_err(|error| error.to_string())?;
        let deleted = Command::new("nft").args(["delete", "table", "ip", "selvedge"]).status();
        if deleted.is_ok_and(|status| status.success()) { Ok(pair) } else { Err("no nft".to_owned()) }
    })??;
    let cases = [
        ("pod to pod, without any rule", &without, without.server),
        ("pod to pod", &with, with.server),
        ("pod to service, of a thousand", &with, address([10, 96, 0, 0], 10)),
    ];
    let mut results = cases.map(|_| (Vec::new(), Vec::new()));
    for _ in 0..ROUNDS {
        for ((_, pair, to), (bits, rates)) in cases.iter().zip(&mut results) {
            let (throughput, rate) = pair.measure(*to)?;
            bits.push(throughput);
            rates.push(rate);
        }
    }
    for ((what, ..), (bits, rates)) in cases.iter().zip(&results) {
        print(&format!("{what}: throughput"), "Gbit/s", bits)?;
        print(&format!("{what}: connections"), "/s", rates)?;
    }
    with.remove()?;
    without.remove()?;
    Ok(other.remove()?)
}

fn throughput(to: SocketAddr) -> io::Result<f64> {
    let mut stream = TcpStream::connect(to)?;
    let block = vec![0; 256 * 1024];
    let start = Instant::now();
    let mut bytes = 0_u64;
    while start.elapsed() < THROUGHPUT_TIME {
        stream.write_all(&block)?;
        bytes += block.len() as u64;
    }
    Ok(bytes as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64())
}

fn connections(to: SocketAddr) -> io::Result<f64> {
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(to)?;
        stream.read_exact(&mut [0])?;
        // Ended by a reset, so that no port waits for late packets.
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: pointer and length are those of one value that outlives the call.
        unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of_val(&linger) as libc::socklen_t,
            );
        }
    }
    Ok(f64::from(CONNECTIONS) / start.elapsed().as_secs_f64())
}
