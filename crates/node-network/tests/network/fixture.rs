//! A machine of its own for each test: a network and a mount namespace that nothing leads out of.
//!
//! The test's thread leaves the machine's namespaces for ever; whatever it starts, threads and programs, is inside, too. The
//! judges are the stock tools of Debian: `ip`, `nft`, `conntrack`.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use node_network::{Kind, PodNamespaces, netlink::in_namespace};

/// Nothing here leaves the machine, so what does not answer soon never will.
pub const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Runs a test in namespaces of its own.
pub fn isolated(test: impl FnOnce(&Path) + Send + 'static) {
    for tool in ["nft", "conntrack", "ip"] {
        if Command::new(tool).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return testkit::skip(&format!("no {tool}: apt-get install nftables conntrack iproute2"));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let thread = thread::spawn(move || {
        // SAFETY: these flags unshare neither descriptors nor memory.
        if unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0 {
            return testkit::skip(&format!("no namespaces: {}", io::Error::last_os_error()));
        }
        // SAFETY: the strings are constants; without a type and a source only the propagation changes.
        let private = unsafe {
            let none = std::ptr::null::<libc::c_char>();
            libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast())
        };
        assert_eq!(private, 0);
        // A new namespace begins with the settings of the machine, which forwards once a node has run on it.
        for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(Path::new("/proc/sys/net").join(forwarding), "0").unwrap();
        }
        test(&path);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What a program prints; it must succeed.
pub fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {out}{err}");
    out.into_owned()
}

/// What a program prints inside a namespace.
pub fn run_in(namespace: &Path, line: &str) -> String {
    inside(namespace, || run(line))
}

/// Runs something inside a namespace.
pub fn inside<T: Send>(namespace: &Path, act: impl FnOnce() -> T + Send) -> T {
    in_namespace(&File::open(namespace).unwrap(), act).unwrap()
}

/// A namespace of a pod.
pub fn namespace(dir: &Path, name: &str) -> (PodNamespaces, PathBuf) {
    let namespaces = PodNamespaces::create(&dir.join(name), &[Kind::Net], name).unwrap();
    let path = namespaces.path(Kind::Net).unwrap();
    (namespaces, path)
}

/// A server in a namespace that answers each connection with its name and the address that it sees, once a line comes in.
/// It ends with the test's process; its namespace does not outlive it.
pub fn serve_tcp(namespace: &Path, port: u16, name: &'static str) {
    let listener = inside(namespace, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    answer_tcp(listener, name);
}

/// The same on any listener.
pub fn answer_tcp(listener: TcpListener, name: &'static str) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read(&mut byte).is_ok_and(|count| count == 1) {
                    if byte == *b"\n" && stream.write_all(format!("{name} {peer}\n").as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A server of datagrams that answers with its name and the address that it sees.
pub fn serve_udp(namespace: &Path, port: u16, name: &'static str) {
    let socket = inside(namespace, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            socket.send_to(format!("{name} {}", peer.ip().to_canonical()).as_bytes(), peer).unwrap_or_default();
        }
    });
}

/// Asks a server of [`serve_tcp`], from the namespace of this thread.
pub fn ask(to: (impl Into<IpAddr>, u16)) -> io::Result<String> {
    let to = SocketAddr::new(to.0.into(), to.1);
    let mut stream = TcpStream::connect_timeout(&to, ANSWER_WAIT)?;
    say(&mut stream)
}

/// Asks once more over a connection.
pub fn say(stream: &mut TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.write_all(b"\n")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&answer).trim_end().to_owned())
}

/// As [`ask`] from inside a namespace.
pub fn ask_from(namespace: &Path, to: (impl Into<IpAddr> + Send, u16)) -> io::Result<String> {
    inside(namespace, || ask(to))
}

/// Sends a datagram and waits for the answer.
pub fn ask_udp(socket: &UdpSocket, to: (IpAddr, u16)) -> io::Result<String> {
    socket.set_read_timeout(Some(ANSWER_WAIT))?;
    socket.send_to(b"x", to)?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The name that an answer begins with.
pub fn name_in(answer: &str) -> &str {
    answer.split(' ').next().unwrap_or_default()
}

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Waits until the kernel has removed links whose names contain this.
pub fn eventually_without(name: &str) {
    let look = || {
        let links = run("ip -br link");
        if links.contains(name) { Err(links) } else { Ok(()) }
    };
    testkit::wait::eventually("end of links", Duration::from_secs(30), look).unwrap();
}
