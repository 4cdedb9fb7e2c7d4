//! How a kubelet is reached, for logs.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::USER_NODE_PREFIX;

/// How long a gateway is silent before it is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A radio link needs seconds; a person who waits for a log does not have minutes.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a kubelet says it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The node's name.
    pub name: String,
    /// Address or host name.
    pub host: String,
    /// Port of the kubelet's API.
    pub port: u16,
}

/// A byte stream in both directions.
pub trait AsyncReadWrite: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> AsyncReadWrite for T {}

/// Opens connections to kubelets: directly, or through a tunnel that the node has opened.
pub trait NodeDialer: Send + Sync {
    /// Opens one connection, over which HTTP/1.1 is spoken; TLS, where there is any, is the dialer's.
    fn dial<'a>(&'a self, node: &'a NodeAddress) -> BoxFuture<'a, io::Result<Box<dyn AsyncReadWrite>>>;
}

/// Reaches no kubelet: for a server without nodes, as in tests.
pub struct NoNodes;

impl NodeDialer for NoNodes {
    fn dial<'a>(&'a self, _: &'a NodeAddress) -> BoxFuture<'a, io::Result<Box<dyn AsyncReadWrite>>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

/// Reaches kubelets directly over TLS. Clones share everything.
#[derive(Clone)]
pub struct DirectTls {
    connector: Arc<RwLock<TlsConnector>>,
}

impl DirectTls {
    /// Trusts kubelets whose certificates come from `ca_pem`, and shows them this certificate (PEM, with its key), which
    /// must be of `system:masters` for our kubelet.
    ///
    /// # Errors
    /// When a PEM text cannot be used.
    pub fn new(ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Self, base_http::TlsError> {
        let config = base_http::client_config(ca_pem, Some((cert_pem, key_pem)))?;
        Ok(Self { connector: Arc::new(RwLock::new(TlsConnector::from(Arc::new(config)))) })
    }

    /// Trusts and shows others from the next connection on, as when a certificate is renewed.
    ///
    /// # Errors
    /// As [`Self::new`]; the former ones stay in use then.
    pub fn replace(&self, ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<(), base_http::TlsError> {
        let config = base_http::client_config(ca_pem, Some((cert_pem, key_pem)))?;
        *self.connector.write().unwrap_or_else(PoisonError::into_inner) = TlsConnector::from(Arc::new(config));
        Ok(())
    }

    async fn connect(&self, node: &NodeAddress) -> io::Result<Box<dyn AsyncReadWrite>> {
        let name = ServerName::try_from(node.host.clone())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the node's address is no host name"))?;
        let stream = TcpStream::connect((node.host.as_str(), node.port)).await?;
        // A followed log has nothing to send: only this notices that its gateway has left.
        base_http::keep_alive(&stream, KEEP_ALIVE)?;
        let connector = self.connector.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = connector.connect(name, stream).await?;
        // A node reports its own addresses: what answers there must be that node, not another one it points at.
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let subject = certificate.and_then(|certificate| base_pki::client_identity(certificate).ok());
        let expected = format!("{USER_NODE_PREFIX}{}", node.name);
        if subject.as_ref().is_none_or(|subject| subject.user != expected) {
            let found = subject.map_or_else(|| "nobody".to_owned(), |subject| subject.user);
            let why = format!("its serving certificate is of {found:?}, not of {expected:?}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        Ok(Box::new(stream))
    }
}

impl NodeDialer for DirectTls {
    fn dial<'a>(&'a self, node: &'a NodeAddress) -> BoxFuture<'a, io::Result<Box<dyn AsyncReadWrite>>> {
        Box::pin(async move {
            tokio::time::timeout(DIAL_TIMEOUT, self.connect(node))
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within ten seconds"))?
        })
    }
}
