//! Connections to where a container listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Failure;
use crate::model::{Container, PortRef};

/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 4;

/// Connects to where a probe's port is. A pod that has the node's network is reached by loopback: the node's own addresses come and go
/// with the uplink.
pub(super) async fn connect(host: Option<&str>, pod_ip: Option<IpAddr>, port: u16) -> Result<TcpStream, Failure> {
    let targets: Vec<SocketAddr> = match host.filter(|host| !host.is_empty()) {
        None => match pod_ip {
            Some(ip) => vec![(ip, port).into()],
            None => vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()],
        },
        Some(host) => match tokio::net::lookup_host((host, port)).await {
            Ok(found) => found.take(ADDRESSES_MAX).collect(),
            // Names are the network's: a resolver that is away says nothing of the container.
            Err(error) => return Err(Failure::NotTried(format!("find {host}: {error}"))),
        },
    };
    let mut failure = Failure::NotTried("it has no address".to_owned());
    for target in targets {
        match TcpStream::connect(target).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let text = format!("dial {target}: {error}");
                // A node without IPv6 is no fault of a program that does not listen on it.
                let is_first = matches!(&failure, Failure::NotTried(_));
                match is_of_the_node(&error) {
                    true if is_first => failure = Failure::NotTried(text),
                    true => {}
                    false if is_first => failure = Failure::Failed(text),
                    false => {}
                }
            }
        }
    }
    Err(failure)
}

/// Whether a connection failed for want of a network here, which the program at its other end has no part in.
pub(super) fn is_of_the_node(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable
            | ErrorKind::HostUnreachable
    )
}

pub(super) fn port_of(port: &PortRef, container: &Container) -> Result<u16, String> {
    match port {
        PortRef::Number(number) => Ok(*number),
        PortRef::Name(name) => container
            .ports
            .iter()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("the container has no port named {name}")),
    }
}

/// A connection with or without TLS: one type, so that the protocols above it are in the program once.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Agrees on TLS with whoever is there. As upstream, a probe does not look at the certificate: it asks whether the program works,
    /// not who it is, and sends nothing secret.
    pub(super) async fn over_tls(tcp: TcpStream, host: &str) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned()).unwrap_or_else(|_| Ipv4Addr::LOCALHOST.into());
        let config = tls_config().map_err(|error| error.to_string())?;
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await;
        tls.map(|tls| Self::Tls(Box::new(tls))).map_err(|error| format!("TLS handshake: {error}"))
    }
}

fn tls_config() -> Result<Arc<ClientConfig>, rustls::Error> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    let mut config = base_pki::PinnedCa::anyone().client_config()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A probe proves that a handshake works, too; and sessions cost memory.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
