//! A Kubernetes API server for trying things out: objects in a directory, an administrator's kubeconfig beside them.
//!
//! ```sh
//! cargo run -p machinery-server --example serve -- /tmp/api
//! kubectl --kubeconfig /tmp/api/kubeconfig get nodes
//! ```
//!
//! There are no controllers, so nothing runs what is applied; the standard namespaces are made at the start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use base_http::{Address, Listener, Ports, ServerTls};
use base_pki::{Ca, IssueRequest, San, Usage};
use machinery_server::{DirectTls, GROUP_MASTERS, Identity, Server, ServerConfig};
use machinery_store::{Store, StoreOptions};

type AnyError = Box<dyn std::error::Error>;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let data_dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: serve DATA_DIR [ADDRESS]")?);
    let address = std::env::args().nth(2).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    std::fs::create_dir_all(&data_dir)?;

    let ca = match (std::fs::read_to_string(data_dir.join("ca.crt")), std::fs::read_to_string(data_dir.join("ca.key")))
    {
        (Ok(cert), Ok(key)) => Ca::load(&cert, &key)?,
        _ => Ca::create("serve example")?,
    };
    base_pki::write_public(&data_dir.join("ca.crt"), ca.cert_pem().as_bytes())?;
    base_pki::write_private(&data_dir.join("ca.key"), ca.key_pem().as_bytes())?;
    let issue = |cn: &str, orgs: &[&str], usage| {
        let orgs = orgs.iter().map(|org| (*org).to_owned()).collect();
        let sans = vec![San::from("localhost"), San::from("127.0.0.1")];
        ca.sign(&IssueRequest { cn: cn.to_owned(), orgs, sans, usage, validity: YEAR })
    };

    let listener = Listener::bind("hub-api", Address::Tcp(address.parse()?))?;
    Ports::record(&data_dir, "hub-api", listener.address())?;
    let served = issue("serve", &[], Usage::Server)?;
    let tls = ServerTls::new(&served.cert_pem, &served.key_pem, Some(ca.cert_pem()))?;
    let admin = issue("admin", &[GROUP_MASTERS], Usage::Client)?;
    let url = format!("https://{}", listener.address());
    let kubeconfig = base_pki::kubeconfig(&url, ca.cert_pem(), &admin.cert_pem, &admin.key_pem);
    base_pki::write_private(&data_dir.join("kubeconfig"), kubeconfig.as_bytes())?;

    let shutdown = CancellationToken::new();
    let server = Server::new(ServerConfig {
        node_dialer: Arc::new(DirectTls::new(ca.cert_pem(), &admin.cert_pem, &admin.key_pem)?),
        address: listener.address().to_string(),
        metrics: base_observe::Metrics::new(),
        shutdown: shutdown.clone(),
        ..ServerConfig::new(Store::open(&data_dir.join("store"), StoreOptions::default())?)
    })?;
    make_namespaces(&server).await?;
    let served = base_http::serve(listener.with_tls(tls), server, shutdown.clone());
    println!("serving {url}\nkubectl --kubeconfig {} get namespaces", data_dir.join("kubeconfig").display());
    tokio::signal::ctrl_c().await?;
    shutdown.cancel();
    served.await?;
    Ok(())
}

/// What a hub's controllers would do, over the same API.
async fn make_namespaces(server: &Server) -> Result<(), AnyError> {
    let mut client = server.in_process(Identity::controllers());
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let body = format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
        let request = Request::post("/api/v1/namespaces").body(Full::new(Bytes::from(body)))?;
        let code = client.call(request).await?.status();
        // The next start finds them there.
        if !code.is_success() && code != StatusCode::CONFLICT {
            return Err(format!("the namespace {name} could not be made: {code}").into());
        }
    }
    Ok(())
}
