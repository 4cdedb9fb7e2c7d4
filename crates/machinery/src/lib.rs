//! The Kubernetes API as a library: an API server in your process, in memory or on disk.
//!
//! ```
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! use k8s_openapi::api::core::v1::ConfigMap;
//! use kube::api::{Api, PostParams};
//!
//! let api = machinery::Api::in_memory().await?;
//! let client = kube::Client::new(api.admin(), "default");
//! let maps: Api<ConfigMap> = Api::default_namespaced(client);
//! let map = serde_json::from_str(r#"{"metadata": {"name": "settings"}, "data": {"color": "blue"}}"#)?;
//! maps.create(&PostParams::default(), &map).await?;
//! assert_eq!(maps.get("settings").await?.data.expect("it has data")["color"], "blue");
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! It is a real API server: every kind of Kubernetes 1.36 with its defaults and its rules, CustomResourceDefinitions with CEL,
//! server-side apply, watches, roles, service accounts with tokens. There are no controllers, no scheduler and no kubelet,
//! which makes it what controllers are tested with: it starts in milliseconds.
//!
//! [`Api`] puts the crates together as kube-apiserver does. Whoever needs another composition takes them one by one:
//!
//! | crate | what |
//! | --- | --- |
//! | `machinery-schema` | the types of the API: decoding, completion, protobuf, errors of fields |
//! | `machinery-kinds` | the built-in kinds: defaults, rules, columns; what is served |
//! | `machinery-crd` | CustomResourceDefinitions and CEL |
//! | `machinery-merge` | patches and server-side apply, as functions on data |
//! | `machinery-store` | versioned objects and watches, on disk or in memory |
//! | `machinery-server` | the wire: HTTP, verbs, watches, status codes |
//! | `machinery-access` | who may do what; tokens; what every pod meets |

use std::path::{Path, PathBuf};
use std::time::Duration;

use base_http::{Address, Listener, ServerTls};
use base_pki::{Ca, IssueRequest, San, Usage};
use machinery_access::{Access, AccessOptions, Issuer, TokenKey};
use machinery_server::{GROUP_MASTERS, INDEX_VERSION, INDEXED_FIELDS, Server, ServerConfig};
pub use machinery_server::{Identity, InProcess};
use machinery_store::{Store, StoreOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod image;

/// The version of Kubernetes that is served.
pub const VERSION: &str = "v1.36.0";

/// Who issues tokens of service accounts, as with kube-apiserver's usual settings.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Certificates of [`Api::serve`]: long enough for whatever is being tried out.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why an API server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory of the objects could not be opened.
    #[error("failed to open the store")]
    OpenStore(#[from] machinery_store::OpenStoreError),
    /// The key by which tokens are signed could not be made.
    #[error("failed to make a key for tokens")]
    MakeKey(#[from] machinery_access::LoadKeyError),
    /// The server could not be made.
    #[error("failed to make the server")]
    MakeServer(#[from] machinery_server::NewServerError),
    /// What every cluster has could not be created.
    #[error("failed to create what every cluster has")]
    Bootstrap(#[from] machinery_access::RequestError),
}

/// Why an API server could not be put on the network.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address could not be bound.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: base_http::BindError,
    },
    /// Certificates could not be made.
    #[error("failed to make certificates")]
    MakeCertificates(#[from] base_pki::PkiError),
    /// The certificates were not taken.
    #[error("failed to set up TLS")]
    SetUpTls(#[from] base_http::TlsError),
}

/// An API server. It stops when it is dropped.
pub struct Api {
    server: Server,
    shutdown: CancellationToken,
    beside: JoinHandle<()>,
}

impl Api {
    /// A server whose objects are removed when it is dropped.
    ///
    /// The first of a process creates what every cluster has, some 200 objects; those after it begin with these, at the cost
    /// of copying them. They are as old as the first ones, and have uids of their own.
    ///
    /// # Errors
    /// When its threads cannot be started.
    pub async fn in_memory() -> Result<Self, StartError> {
        if let Some(image) = image::get() {
            return Ok(Made::of(Store::in_memory_with(image, store_options())?)?.run());
        }
        let api = Made::of(Store::in_memory(store_options())?)?;
        api.access.bootstrap(&api.server).await?;
        image::keep(api.server.store());
        Ok(api.run())
    }

    /// A server over the objects in a directory, which is created when it is not there.
    ///
    /// # Errors
    /// When the directory cannot be read, or another process has it.
    pub async fn open(dir: &Path) -> Result<Self, StartError> {
        let api = Made::of(Store::open(dir, store_options())?)?;
        api.access.bootstrap(&api.server).await?;
        Ok(api.run())
    }

    /// A transport for `kube::Client::new` that calls as an administrator, without a socket.
    pub fn admin(&self) -> InProcess {
        self.as_user(Identity::new("kubernetes-admin", [GROUP_MASTERS]))
    }

    /// A transport that calls as somebody.
    pub fn as_user(&self, identity: Identity) -> InProcess {
        self.server.in_process(identity)
    }

    /// The server itself.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Puts the server on the network, with certificates that are made for it; returns the administrator's kubeconfig.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn serve(&self, address: std::net::SocketAddr) -> Result<Kubeconfig, ServeError> {
        let listener =
            Listener::bind("api", Address::Tcp(address)).map_err(|source| ServeError::Listen { address, source })?;
        let ca = Ca::create("machinery")?;
        let issue = |cn: &str, orgs: &[&str], usage| {
            let orgs = orgs.iter().map(|org| (*org).to_owned()).collect();
            let sans = vec![San::from("localhost"), San::from("127.0.0.1")];
            ca.sign(&IssueRequest { cn: cn.to_owned(), orgs, sans, usage, validity: VALIDITY })
        };
        let served = issue("machinery", &[], Usage::Server)?;
        let admin = issue("kubernetes-admin", &[GROUP_MASTERS], Usage::Client)?;
        let tls = ServerTls::new(&served.cert_pem, &served.key_pem, Some(ca.cert_pem()))?;
        let url = format!("https://{}", listener.address());
        let text = base_pki::kubeconfig(&url, ca.cert_pem(), &admin.cert_pem, &admin.key_pem);
        base_http::serve(listener.with_tls(tls), self.server.clone(), self.shutdown.clone());
        Ok(Kubeconfig { url, text })
    }
}

/// A server of which nothing runs yet.
struct Made {
    access: Access,
    server: Server,
    shutdown: CancellationToken,
}

impl Made {
    fn of(store: Store) -> Result<Self, StartError> {
        let shutdown = CancellationToken::new();
        let access = Access::new(AccessOptions::new(Issuer::new(ISSUER, TokenKey::generate()?)));
        let config = ServerConfig { version: VERSION, shutdown: shutdown.clone(), ..ServerConfig::new(store) };
        let server = Server::new(access.configure(config))?;
        Ok(Self { access, server, shutdown })
    }

    fn run(self) -> Api {
        let Self { access, server, shutdown } = self;
        let (beside, until) = (server.clone(), shutdown.clone());
        let beside = base_observe::spawn_detached("access", async move { access.run(beside, until).await });
        Api { server, shutdown, beside }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.beside.abort();
    }
}

/// How an administrator reaches a server.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    /// `https://127.0.0.1:PORT`.
    pub url: String,
    /// The file's text, with the administrator's key in it.
    pub text: String,
}

impl Kubeconfig {
    /// Writes the file, for its owner alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: impl Into<PathBuf>) -> Result<(), base_pki::WriteFileError> {
        base_pki::write_private(&path.into(), self.text.as_bytes())
    }
}

/// What a server's store must find its objects by.
fn store_options() -> StoreOptions {
    StoreOptions { indexed_fields: INDEXED_FIELDS.to_vec(), index_version: INDEX_VERSION, ..StoreOptions::default() }
}
