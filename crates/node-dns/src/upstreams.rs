//! Where questions about the rest of the world go: the servers of a `resolv.conf`, read again when it changes.
//!
//! A server that is this responder itself is left out. One that leads back to it by a detour (a resolver of this machine that was set up to
//! ask us) is found by a question with a random name: if it arrives here, its server is left out until the file changes.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::message::WireName;
use crate::random::Random;
use crate::resolv::{FILE_BYTES_MAX, ResolvConf};

/// How often the file is looked at, while there are questions.
const CHECK_PERIOD: Duration = Duration::from_secs(1);
/// Servers that are used of a file: more are never reached within a client's patience.
const UPSTREAMS_MAX: usize = 8;
/// How long a later server is preferred because the first did not answer.
const PREFERENCE_PERIOD: Duration = Duration::from_secs(60);
/// How long a server is spared EDNS because it did not know it.
const PLAIN_PERIOD: Duration = Duration::from_secs(600);

/// Where upstreams come from.
#[derive(Clone, Debug)]
pub enum UpstreamSource {
    /// The `nameserver` lines of a file.
    File {
        /// For example `/etc/resolv.conf`, or systemd-resolved's `/run/systemd/resolve/resolv.conf`.
        path: PathBuf,
        /// Port of its servers: 53.
        port: u16,
    },
    /// These, in order.
    List(Vec<SocketAddr>),
}

/// One server.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    plain_until: Option<Instant>,
    is_loop: bool,
    /// The question that would show a loop.
    probe: Option<WireName>,
}

/// What a file was when it was read.
#[derive(PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

/// The servers, and which of them comes first.
pub(crate) struct Upstreams {
    source: UpstreamSource,
    own: Vec<SocketAddr>,
    list: Vec<Upstream>,
    stamp: Option<Stamp>,
    check_at: Option<Instant>,
    preferred: (usize, Option<Instant>),
}

impl Upstreams {
    pub(crate) fn new(source: UpstreamSource, own: Vec<SocketAddr>) -> Self {
        Self { source, own, list: Vec::new(), stamp: None, check_at: None, preferred: (0, None) }
    }

    /// Reads the file again where it changed. A file that cannot be read leaves the servers as they are.
    pub(crate) fn refresh(&mut self, random: &mut Random, now: Instant) {
        if self.check_at.is_some_and(|at| now < at) {
            return;
        }
        let is_first = self.check_at.is_none();
        self.check_at = Some(now + CHECK_PERIOD);
        let (path, port) = match &self.source {
            UpstreamSource::List(list) if is_first => return self.replace(list.clone(), random),
            UpstreamSource::List(_) => return,
            UpstreamSource::File { path, port } => (path, *port),
        };
        let stamp = fs::metadata(path).ok().map(|meta| Stamp {
            inode: meta.ino(),
            bytes: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        });
        if stamp == self.stamp && !is_first {
            return;
        }
        match base_fs::read_bounded(path, FILE_BYTES_MAX) {
            Ok(bytes) => {
                self.stamp = stamp;
                let conf = ResolvConf::parse(&String::from_utf8_lossy(&bytes));
                let servers = conf.nameservers.into_iter().map(|address| SocketAddr::new(address, port)).collect();
                self.replace(servers, random);
            }
            Err(error) => {
                // Said once for each change; the next look compares again.
                self.stamp = stamp;
                warn!(error = %base_observe::Chain(&error), "Could not read the upstream DNS servers; keeping those there are.");
            }
        }
    }

    fn replace(&mut self, servers: Vec<SocketAddr>, random: &mut Random) {
        self.preferred = (0, None);
        self.list.clear();
        for address in servers {
            if self.is_own(address) {
                warn!(%address, "An upstream DNS server is this responder itself; it is left out.");
            } else if self.list.len() < UPSTREAMS_MAX && self.list.iter().all(|known| known.address != address) {
                let probe = send_probe(address, random);
                self.list.push(Upstream { address, plain_until: None, is_loop: false, probe });
            }
        }
        let addresses: Vec<_> = self.list.iter().map(|upstream| upstream.address).collect();
        info!(?addresses, "Upstream DNS servers read.");
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip() || (own.ip().is_unspecified() && is_local(address).is_some()))
        })
    }

    /// Whether a question came round: the server that brought it is left out.
    pub(crate) fn close_loop(&mut self, name: &WireName) -> bool {
        let arrived =
            |upstream: &&mut Upstream| upstream.probe.as_ref().is_some_and(|probe| probe.as_bytes() == name.as_bytes());
        let Some(upstream) = self.list.iter_mut().find(arrived) else { return false };
        if !std::mem::replace(&mut upstream.is_loop, true) {
            error!(
                address = %upstream.address,
                "An upstream DNS server asks this responder what it is asked: a loop. It is left out until the upstreams change."
            );
        }
        true
    }

    /// Places of the servers in the order in which they are tried.
    pub(crate) fn order(&mut self, now: Instant) -> Vec<usize> {
        if self.preferred.1.is_some_and(|until| now >= until) {
            self.preferred = (0, None);
        }
        let count = self.list.len();
        (0..count)
            .map(|offset| (self.preferred.0 + offset) % count)
            .filter(|index| !self.list[*index].is_loop)
            .collect()
    }

    pub(crate) fn address(&self, index: usize) -> Option<SocketAddr> {
        self.list.get(index).map(|upstream| upstream.address)
    }

    pub(crate) fn is_plain(&self, index: usize, now: Instant) -> bool {
        self.list.get(index).and_then(|upstream| upstream.plain_until).is_some_and(|until| now < until)
    }

    pub(crate) fn spare_edns(&mut self, address: SocketAddr, now: Instant) {
        if let Some(upstream) = self.list.iter_mut().find(|upstream| upstream.address == address) {
            upstream.plain_until = Some(now + PLAIN_PERIOD);
        }
    }

    /// A server answered: it comes first for a while.
    pub(crate) fn prefer(&mut self, address: SocketAddr, now: Instant) {
        let Some(index) = self.list.iter().position(|upstream| upstream.address == address) else { return };
        if index != self.preferred.0 {
            self.preferred = (index, Some(now + PREFERENCE_PERIOD));
        }
    }
}

/// A socket to a server of this machine; `None` for one beyond it, which cannot lead back to an address that only this machine has.
fn is_local(address: SocketAddr) -> Option<UdpSocket> {
    let any: IpAddr = if address.is_ipv4() { [0_u8; 4].into() } else { [0_u8; 16].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(address).ok()?;
    // What the kernel delivers to the machine itself it sends from the address itself.
    let is_local = address.ip().is_loopback() || socket.local_addr().is_ok_and(|local| local.ip() == address.ip());
    is_local.then_some(socket)
}

/// Asks a server of this machine for a name that nobody has.
fn send_probe(address: SocketAddr, random: &mut Random) -> Option<WireName> {
    let socket = is_local(address)?;
    let name = WireName::parse(&format!("{:016x}.{:016x}", random.next_u64(), random.next_u64()))?;
    let mut query = Vec::with_capacity(64);
    query.extend_from_slice(&random.next_u16().to_be_bytes());
    query.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.extend_from_slice(name.as_bytes());
    query.extend_from_slice(&[0, 16, 0, 1]);
    socket.send(&query).ok()?;
    Some(name)
}

#[cfg(test)]
mod tests;
