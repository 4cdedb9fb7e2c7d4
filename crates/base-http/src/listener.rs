//! Sockets that are bound before anything else is started.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::{Limits, ServerTls};

/// Connections that the system keeps until they are accepted; it allows no more by default.
const BACKLOG: i32 = 4096;

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A unix socket, for its owner only (mode 0600).
    Unix(PathBuf),
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr)
    }
}

impl fmt::Display for Address {
    /// As in `ports.json`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(formatter, "{addr}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error(
        "failed to listen on {address} for {name}: the {} is in use; stop the program that holds it, \
         or let the system choose with `--ports ephemeral`",
        if matches!(address, Address::Tcp(_)) { "port" } else { "socket" }
    )]
    InUse {
        /// Name of the listener, as in `ports.json`.
        name: String,
        /// Where.
        address: Address,
    },
    /// Anything else: no such address on this machine, a port below 1024 without the right, a missing directory.
    #[error("failed to listen on {address} for {name}")]
    Bind {
        /// Name of the listener, as in `ports.json`.
        name: String,
        /// Where.
        address: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A bound socket that waits to be served.
pub struct Listener {
    pub(crate) name: String,
    pub(crate) socket: Socket,
    pub(crate) address: Address,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) limits: Limits,
}

pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds `address` for the listener called `name` (as in `ports.json`). Connections queue until [`crate::serve`].
    pub fn bind(name: &str, address: impl Into<Address>) -> Result<Self, BindError> {
        let address = address.into();
        let bound = match &address {
            Address::Tcp(addr) => bind_tcp(*addr),
            Address::Unix(path) => bind_unix(path).map(|socket| (Socket::Unix(socket), address.clone())),
        };
        match bound {
            Ok((socket, address)) => {
                Ok(Self { name: name.to_owned(), socket, address, tls: None, limits: Limits::default() })
            }
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                Err(BindError::InUse { name: name.to_owned(), address })
            }
            Err(source) => Err(BindError::Bind { name: name.to_owned(), address, source }),
        }
    }

    /// Serves TLS on it.
    #[must_use]
    pub fn with_tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Other limits than [`Limits::default`].
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The TCP port, if it is TCP.
    pub fn port(&self) -> Option<u16> {
        match &self.address {
            Address::Tcp(addr) => Some(addr.port()),
            Address::Unix(_) => None,
        }
    }
}

fn bind_tcp(addr: SocketAddr) -> io::Result<(Socket, Address)> {
    let socket = TcpListener::bind(addr)?;
    // The standard library asks for 128: when a site's uplink returns, more than that connect within a moment, and each that
    // does not fit tries again a second later.
    rustix::net::listen(&socket, BACKLOG)?;
    socket.set_nonblocking(true)?;
    let address = Address::Tcp(socket.local_addr()?);
    Ok((Socket::Tcp(socket), address))
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    // Bound under another name and moved when its mode is set: nobody else can connect in between, and a file that a
    // killed process left is replaced.
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
