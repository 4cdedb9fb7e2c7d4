//! The server that the cases are asked of: over a store in a temporary directory, with what a kube-apiserver has once it has
//! started.
//!
//! There are no controllers beside it, as there were none when the cases were recorded.

use std::path::Path;

use anyhow::{Context as _, Result};
use base_http::{Peer, PeerAddr};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use machinery_access::{Access, AccessOptions, Issuer, TokenKey};
use machinery_replay::{Answer, AnswerFuture, Sender, Transport};
use machinery_server::{GROUP_MASTERS, Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};

/// Kept in memory where the machine has such a place: what is written here is not needed tomorrow.
const MEMORY_DIR: &str = "/dev/shm";

/// Who issues tokens, as in the recordings.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A server, and its store's directory.
pub(crate) struct Fixture {
    server: Server,
    admin: Identity,
    _dir: tempfile::TempDir,
}

impl Fixture {
    pub(crate) async fn start() -> Result<Self> {
        let memory = Path::new(MEMORY_DIR);
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.context("failed to make a directory for the store")?;
        let options = StoreOptions {
            indexed_fields: machinery_server::INDEXED_FIELDS.to_vec(),
            index_version: machinery_server::INDEX_VERSION,
            ..StoreOptions::default()
        };
        let store = Store::open(dir.path(), options).context("failed to open the store")?;
        let key = TokenKey::generate().context("failed to make a key for tokens")?;
        let options = AccessOptions {
            // Of what is not enforced yet, kube-apiserver does not warn.
            warns_of_unenforced: false,
            // The recordings have no controller manager.
            furnishes_namespaces: false,
            ..AccessOptions::new(Issuer::new(ISSUER, key))
        };
        let access = Access::new(options);
        let server = Server::new(config(&access, store)).context("failed to make the server")?;
        access.bootstrap(&server).await.context("failed to create what every cluster has")?;
        let mut admin = Identity::new("kubernetes-admin", [GROUP_MASTERS]);
        let digest = format!("X509SHA256={}", "0".repeat(64));
        admin.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![digest]);
        Ok(Self { server, admin, _dir: dir })
    }
}

/// As kube-apiserver with its default flags.
fn config(access: &Access, store: Store) -> ServerConfig {
    let config = access.configure(ServerConfig::new(store));
    // Where the recorded server was to be reached, by its own words.
    let address = "192.0.2.2:26443".to_owned();
    ServerConfig { version: "v1.36.3", address, garbage_collected: |_, _| true, ..config }
}

impl Transport for Fixture {
    fn send(&self, request: Request<Bytes>, sender: Sender) -> AnswerFuture<'_> {
        Box::pin(async move {
            let request = request.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync());
            let response = match sender {
                Sender::Admin => self.server.handle(request, Some(&self.admin)).await,
                Sender::Anonymous => {
                    let peer = Peer { addr: PeerAddr::Unix, client_cert: None, is_certificate_expected: true };
                    self.server.handle_credentials(request, &peer).await
                }
            };
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| anyhow::anyhow!("the body broke off: {error}"))?;
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
        })
    }
}
