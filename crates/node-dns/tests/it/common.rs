//! Clients and upstreams of the responder: hickory-proto as the client's parser, dnsmasq and scripted sockets as upstreams.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hickory_proto::op::Message;
use node_dns::message::WireName;
use node_dns::{
    DnsConfig, DnsServer, NameRecords, Names, NamesConfig, Network, PodNames, ServiceNames, UpstreamSource,
};
use testkit::wait::eventually;

/// How long anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long it takes until nothing more is expected to come.
pub const SILENCE: Duration = Duration::from_millis(200);

/// A query with recursion desired; EDNS where a payload is given.
pub fn query(id: u16, name: &str, kind: u16, payload: Option<u16>) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(payload.is_some())]);
    bytes.extend_from_slice(WireName::parse(name).expect("a name").as_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    if let Some(payload) = payload {
        bytes.extend_from_slice(&[0, 0, 41]);
        bytes.extend_from_slice(&payload.to_be_bytes());
        bytes.extend_from_slice(&[0; 6]);
    }
    bytes
}

/// A client by UDP.
pub struct UdpClient {
    pub socket: UdpSocket,
}

impl UdpClient {
    pub fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.connect(server).expect("loopback");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket }
    }

    pub fn send(&self, bytes: &[u8]) {
        self.socket.send(bytes).expect("loopback takes a datagram");
    }

    pub fn receive(&self) -> Message {
        let mut space = vec![0; 65_535];
        let len = self.socket.recv(&mut space).expect("an answer");
        Message::from_vec(&space[..len]).expect("another implementation reads it")
    }

    pub fn ask(&self, name: &str, kind: u16) -> Message {
        self.send(&query(1, name, kind, Some(1_232)));
        self.receive()
    }
}

/// A client by TCP.
pub struct TcpClient {
    pub stream: TcpStream,
}

impl TcpClient {
    pub fn new(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { stream }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        let mut framed = u16::try_from(bytes.len()).expect("a message").to_be_bytes().to_vec();
        framed.extend_from_slice(bytes);
        self.stream.write_all(&framed).expect("an open connection");
    }

    pub fn receive(&mut self) -> Message {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length).expect("an answer");
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        self.stream.read_exact(&mut bytes).expect("a whole answer");
        Message::from_vec(&bytes).expect("another implementation reads it")
    }

    pub fn ask(&mut self, name: &str, kind: u16) -> Message {
        self.send(&query(1, name, kind, None));
        self.receive()
    }
}

/// Code, then answers, in brief.
pub fn brief(message: &Message) -> Vec<String> {
    let mut lines = vec![format!("{:?}", message.metadata.response_code)];
    lines.extend(message.answers.iter().map(ToString::to_string));
    lines
}

/// Data of all answers of a message, sorted.
pub fn data(message: &Message) -> Vec<String> {
    let mut found: Vec<String> = message
        .answers
        .iter()
        .map(|record| record.to_string().rsplit(' ').next().unwrap_or_default().to_owned())
        .collect();
    found.sort();
    found
}

pub fn names() -> Names {
    let network = |address: &str, prefix_len| Network { address: address.parse().expect("an address"), prefix_len };
    let config =
        NamesConfig { networks: vec![network("10.39.0.0", 16), network("10.96.0.0", 12)], ..NamesConfig::default() };
    let names = Names::new(&config).expect("a domain");
    names.replace(NameRecords {
        pods: vec![PodNames {
            namespace: "shop".into(),
            name: "cart".into(),
            addresses: vec!["10.39.0.9".parse().expect("an address")],
            is_ready: true,
            ..PodNames::default()
        }],
        services: vec![ServiceNames {
            namespace: "default".into(),
            name: "web".into(),
            cluster_ips: vec!["10.96.0.10".parse().expect("an address")],
            ..ServiceNames::default()
        }],
        node_addresses: Vec::new(),
    });
    names
}

/// A responder on a free port of loopback.
pub fn start(names: &Names, upstreams: UpstreamSource) -> DnsServer {
    let listen = vec!["127.0.0.1:0".parse().expect("an address")];
    DnsServer::start(DnsConfig { listen, upstreams, ..DnsConfig::default() }, names).expect("a free port")
}

pub fn list(addresses: &[SocketAddr]) -> UpstreamSource {
    UpstreamSource::List(addresses.to_vec())
}

/// A port that nobody has at this moment, by UDP and TCP.
pub fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let port = udp.local_addr().expect("it is bound").port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Whether a program is there; says so where it is not.
pub fn has(program: &str) -> bool {
    let is_there = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|dir| dir.join(program).is_file())
    });
    if !is_there {
        testkit::skip(&format!("{program} is not installed (cargo xtask test installs it)"));
    }
    is_there
}

/// What `dig` prints with `+short`, or with other options.
pub fn dig(server: SocketAddr, args: &[&str]) -> String {
    let output = Command::new("dig")
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string(), "+tries=1", "+time=10"])
        .args(args)
        .output()
        .expect("dig runs");
    String::from_utf8(output.stdout).expect("text")
}

/// A real upstream, ended when it is dropped.
pub struct Dnsmasq {
    child: Child,
    pub address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Dnsmasq {
    pub fn start(port: u16, args: &[String]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let mut command = Command::new("dnsmasq");
        if !std::env::var("PATH").is_ok_and(|path| path.contains("sbin")) {
            command = Command::new(PathBuf::from("/usr/sbin/dnsmasq"));
        }
        let child = command
            .args([
                "--keep-in-foreground",
                "--listen-address=127.0.0.1",
                "--bind-interfaces",
                "--no-resolv",
                "--no-hosts",
            ])
            .args(["--pid-file=", "--conf-file=/dev/null", &format!("--port={port}")])
            .arg("--host-record=probe.invalid,127.0.0.1")
            .arg(format!("--log-facility={}", log.display()))
            // It changes to another user otherwise, who may not write the log.
            .args(if rustix_is_root() { &["--user=root", "--group=root"][..] } else { &[] })
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq starts");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let probe = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        probe.connect(address).expect("loopback");
        probe.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        eventually("answer of dnsmasq", PATIENCE, || {
            probe
                .send(&query(1, "probe.invalid", 1, None))
                .and_then(|_| probe.recv(&mut [0; 512]))
                .map_err(|error| format!("{error}; log: {}", fs::read_to_string(&log).unwrap_or_default()))
        })
        .expect("dnsmasq answers");
        Self { child, address, _dir: dir }
    }

    /// With one host, of which it says to keep it for so many seconds.
    pub fn with_host(port: u16, name: &str, address: &str, ttl: u32) -> Self {
        Self::start(port, &[format!("--host-record={name},{address}"), format!("--local-ttl={ttl}")])
    }
}

fn rustix_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Script = dyn FnMut(&[u8], SocketAddr, &UdpSocket) + Send;

/// An upstream that does what a test says, by UDP; it notes every question.
pub struct Scripted {
    pub address: SocketAddr,
    questions: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    pub fn start(mut script: Box<Script>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let questions = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (seen, over) = (Arc::clone(&questions), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            let mut space = [0; 4_096];
            while !over.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut space) else { continue };
                let message = Message::from_vec(&space[..len]).expect("our questions can be read");
                let name = message.queries[0].name().to_string();
                // The question that looks for loops is none of the test's.
                if message.queries[0].query_type() == hickory_proto::rr::RecordType::TXT && name.len() == 34 {
                    continue;
                }
                seen.lock().expect("no test panics with it").push(name);
                script(&space[..len], from, &socket);
            }
        });
        Self { address, questions, is_over, thread: Some(thread) }
    }

    /// Never answers.
    pub fn silent() -> Self {
        Self::start(Box::new(|_, _, _| {}))
    }

    /// Answers every A with this address.
    pub fn answering(address: [u8; 4], ttl: u8) -> Self {
        Self::start(Box::new(move |question, from, socket| {
            socket.send_to(&reply(question, address, ttl), from).expect("loopback");
        }))
    }

    pub fn questions(&self) -> Vec<String> {
        self.questions.lock().expect("no test panics with it").clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where the question of a message ends.
pub fn question_end(message: &[u8]) -> usize {
    WireName::ROOT.clone().read(message, 12).expect("a name") + 4
}

/// An answer with one address.
pub fn reply(question: &[u8], address: [u8; 4], ttl: u8) -> Vec<u8> {
    let mut bytes = reply_code(question, 0);
    bytes[7] = 1;
    bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4]);
    bytes.extend_from_slice(&address);
    bytes
}

/// An answer with nothing but a code.
pub fn reply_code(question: &[u8], code: u8) -> Vec<u8> {
    let mut bytes = question[..question_end(question)].to_vec();
    bytes[2] = 0x81;
    bytes[3] = 0x80 | code;
    bytes[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    bytes
}
