//! How fast names are answered, beside dnsmasq in the same run: `cargo run --release -p node-dns --example dns-load`.
//!
//! 1,000 Services; questions for them (hits), for names that do not exist (misses, as `ndots` search makes three of for each name
//! outside), and 60 to 40 of both. `dnsperf` measures the rate and this program the delay at half of it, open loop: a question is sent when
//! it is due, whether or not the last was answered. Needs `dnsmasq` and `dnsperf`.
//! Arguments: rounds, of which the median counts (3), and seconds of each (3).

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use node_dns::message::WireName;
use node_dns::{DnsConfig, DnsServer, Names, NamesConfig, ServiceNames, UpstreamSource};
use testkit::figures::print;

const SERVICES: usize = 1_000;
/// Ticks of `/proc/…/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Figures {
    queries_per_second: f64,
    lost: f64,
    cpu_microseconds: f64,
}

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("node-dns-load-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let outcome = measure(&dir);
    fs::remove_dir_all(&dir)?;
    outcome
}

fn measure(dir: &Path) -> Result<()> {
    let names = Names::new(&NamesConfig::default())?;
    let start = Instant::now();
    names.set_services((0..SERVICES).map(service).collect());
    let milliseconds = |taken: Duration| taken.as_secs_f64() * 1e3;
    print(&format!("table of {} names built", names.counts().0), "ms", &[milliseconds(start.elapsed())])?;
    let updates: Vec<f64> = (0..21_u8).map(|last| milliseconds(update(&names, last))).collect();
    print("one pod changed", "ms", &updates)?;
    let listen = vec!["127.0.0.1:0".parse()?];
    let server = DnsServer::start(
        DnsConfig { listen, upstreams: UpstreamSource::List(Vec::new()), ..DnsConfig::default() },
        &names,
    )?;
    let ours = server.addresses()[0];
    let peer_port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut dnsmasq = dnsmasq(dir, peer_port)?;
    let peer = SocketAddr::from(([127, 0, 0, 1], peer_port));
    let outcome = compare(dir, ours, peer, dnsmasq.id());
    dnsmasq.kill()?;
    dnsmasq.wait()?;
    drop(server);
    outcome
}

fn service(index: usize) -> ServiceNames {
    ServiceNames {
        namespace: "default".into(),
        name: format!("svc-{index}"),
        cluster_ips: vec![address(index).parse().expect("an address")],
        ..ServiceNames::default()
    }
}

fn update(names: &Names, last: u8) -> Duration {
    let start = Instant::now();
    names.set_pod(node_dns::PodNames {
        namespace: "default".into(),
        name: "pod".into(),
        addresses: vec![[10, 39, 0, last].into()],
        is_ready: true,
        ..Default::default()
    });
    start.elapsed()
}

fn address(index: usize) -> String {
    format!("10.96.{}.{}", index / 250, 1 + index % 250)
}

fn dnsmasq(dir: &Path, port: u16) -> Result<Child> {
    let mut hosts = String::new();
    for index in 0..SERVICES {
        writeln!(hosts, "{} svc-{index}.default.svc.cluster.local", address(index))?;
    }
    let file = dir.join("hosts");
    fs::write(&file, hosts)?;
    let child = Command::new("dnsmasq")
        .args([
            "-k",
            "-p",
            &port.to_string(),
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
        ])
        .args([
            "--local=/cluster.local/",
            "--pid-file=",
            "--cache-size=10000",
            "--local-ttl=5",
            "--log-facility=/dev/null",
        ])
        .args(["--user=root", "--conf-file=/dev/null"])
        .arg(format!("--addn-hosts={}", file.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let probe = UdpSocket::bind("127.0.0.1:0")?;
    probe.set_read_timeout(Some(Duration::from_millis(100)))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let (question, mut space) = (query(1, "svc-1.default.svc.cluster.local"), [0; 512]);
    while Instant::now() < deadline {
        probe.send_to(&question, ("127.0.0.1", port))?;
        if probe.recv(&mut space).is_ok() {
            return Ok(child);
        }
    }
    Err("dnsmasq did not answer".into())
}

fn compare(dir: &Path, ours: SocketAddr, peer: SocketAddr, peer_pid: u32) -> Result<()> {
    let argument =
        |index, default: u32| std::env::args().nth(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rounds, seconds) = (argument(1, 3), argument(2, 3));
    let own_stat = thread_stat("dns")?;
    let peer_stat = format!("/proc/{peer_pid}/stat");
    for (kind, hits_percent) in [("60 % hits", 60), ("hits", 100), ("misses", 0)] {
        let questions: Vec<String> = (0..5_000).map(|index| question(index, hits_percent)).collect();
        let file = dir.join("queries");
        fs::write(&file, questions.iter().map(|name| format!("{name} A\n")).collect::<String>())?;
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            own.push(dnsperf(&file, ours, &own_stat, seconds)?);
            others.push(dnsperf(&file, peer, &peer_stat, seconds)?);
        }
        let rate = |all: &[Figures]| all.iter().map(|one| one.queries_per_second).collect::<Vec<_>>();
        let per_core = |all: &[Figures]| all.iter().map(|one| 1e6 / one.cpu_microseconds).collect::<Vec<_>>();
        let (own_rate, other_rate) = (median(rate(&own)), median(rate(&others)));
        for (who, all) in [("node-dns", &own), ("dnsmasq", &others)] {
            print(&format!("{kind}: answers, {who}"), "/s", &rate(all))?;
            print(&format!("{kind}: answers per second of CPU, {who}"), "/s", &per_core(all))?;
            print(&format!("{kind}: lost, {who}"), "", &all.iter().map(|one| one.lost).collect::<Vec<_>>())?;
        }
        for (who, address, rate) in [
            ("node-dns at half its rate", ours, own_rate / 2.0),
            ("node-dns at half of dnsmasq's", ours, other_rate / 2.0),
            ("dnsmasq at half its rate", peer, other_rate / 2.0),
        ] {
            let delays = delays(address, rate, &questions, seconds)?;
            print(&format!("{kind}: p99, {who}"), "ms", &[delays.p99_ms])?;
            print(&format!("{kind}: lost, {who}"), "", &[delays.lost])?;
        }
    }
    Ok(())
}

fn question(index: usize, hits_percent: usize) -> String {
    if index * 37 % 100 < hits_percent {
        format!("svc-{}.default.svc.cluster.local", index * 7 % SERVICES)
    } else {
        format!("host-{index}.example.com.default.svc.cluster.local")
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// `stat` of a thread of this process.
fn thread_stat(name: &str) -> Result<String> {
    for entry in fs::read_dir("/proc/self/task")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("comm"))?.trim() == name {
            return Ok(path.join("stat").display().to_string());
        }
    }
    Err("the responder has no thread".into())
}

fn cpu_seconds(stat: &str) -> Result<f64> {
    let text = fs::read_to_string(stat)?;
    let behind = text.rsplit(')').next().ok_or("no name in stat")?;
    let ticks: f64 =
        behind.split_ascii_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

fn dnsperf(queries: &Path, address: SocketAddr, stat: &str, seconds: u32) -> Result<Figures> {
    let before = cpu_seconds(stat)?;
    let output = Command::new("dnsperf")
        .args([
            "-s",
            &address.ip().to_string(),
            "-p",
            &address.port().to_string(),
            "-l",
            &seconds.to_string(),
            "-c",
            "4",
            "-q",
            "100",
            "-T",
            "1",
        ])
        .arg("-d")
        .arg(queries)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let field = |label: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(label))?;
        line.split(':').nth(1).map(|value| value.trim().to_owned())
    };
    let number = |label| field(label).and_then(|value| value.split(' ').next()?.parse::<f64>().ok());
    let completed = number("Queries completed").ok_or("dnsperf said nothing")?;
    Ok(Figures {
        queries_per_second: number("Queries per second").ok_or("dnsperf has no rate")?,
        lost: number("Queries lost").ok_or("dnsperf has no losses")?,
        cpu_microseconds: (cpu_seconds(stat)? - before) * 1e6 / completed,
    })
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(WireName::parse(name).expect("a name").as_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 1]);
    bytes
}

/// How long answers took.
struct Delays {
    p99_ms: f64,
    lost: f64,
}

/// Sends at a rate.
fn delays(address: SocketAddr, rate: f64, questions: &[String], seconds: u32) -> Result<Delays> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address)?;
    // What is lost is to be the responder's, not ours. Without the right to more it is what the system allows.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20);
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let start = Instant::now();
    let sent_at: Arc<Vec<AtomicU64>> = Arc::new((0..=u16::MAX).map(|_| AtomicU64::new(0)).collect());
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = {
        let (socket, sent_at, is_over) = (socket.try_clone()?, Arc::clone(&sent_at), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let (mut space, mut all) = ([0; 512], Vec::new());
            while !is_over.load(Ordering::Relaxed) {
                let Ok(_) = socket.recv(&mut space) else { continue };
                let id = usize::from(u16::from_be_bytes([space[0], space[1]]));
                all.push(start.elapsed().as_nanos() as u64 - sent_at[id].load(Ordering::Acquire));
            }
            all
        })
    };
    let messages: Vec<Vec<u8>> = questions.iter().map(|name| query(0, name)).collect();
    let total = (rate * f64::from(seconds)) as usize;
    for index in 0..total {
        let due = Duration::from_nanos((index as f64 * 1e9 / rate) as u64);
        while start.elapsed() < due {
            std::thread::sleep(Duration::from_micros(50));
        }
        let id = (index & 0xffff) as u16;
        let mut message = messages[index % messages.len()].clone();
        message[..2].copy_from_slice(&id.to_be_bytes());
        sent_at[usize::from(id)].store(start.elapsed().as_nanos() as u64, Ordering::Release);
        socket.send(&message)?;
    }
    std::thread::sleep(Duration::from_millis(300));
    is_over.store(true, Ordering::Relaxed);
    let mut all = reader.join().map_err(|_| "the reader panicked")?;
    all.sort_unstable();
    let p99 = all.get(all.len() * 99 / 100).copied().ok_or("nothing was answered")?;
    Ok(Delays { p99_ms: p99 as f64 / 1e6, lost: total.saturating_sub(all.len()) as f64 })
}
