//! Puts the hub together: certificates, store, API server, telemetry, controllers, one port.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base_http::{Listener, Ports, PortsError, ServerTls};
use base_pki::{Ca, IssueRequest, San, Usage};
use hub_controllers::runtime::StoreReader;
use hub_controllers::{Authorities, Controllers, ControllersConfig, NamePolicy};
use hub_telemetry::routes::TelemetryRoutes;
use hub_telemetry::{Telemetry, TelemetryOptions};
use machinery_server::{DirectTls, Identity, PodRuntimeClass, Server, ServerConfig, StandardAuthorizer};
use machinery_store::{Store, StoreOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::HubConfig;
use crate::paths::DataDir;
use crate::telemetry::{self, Assignments, Conflicts, TelemetryExtension};

/// Certificates of the hub itself are made anew at each start and half-way through their life.
const CERTIFICATE_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// A running hub.
pub struct Hub {
    /// Where it answers, as a URL for this machine.
    pub url: String,
    /// Its CA, in PEM.
    pub ca_pem: String,
    /// A client with all rights, without a socket.
    pub client: kube::Client,
    /// Readings.
    pub telemetry: Telemetry,
    controllers: Controllers,
    serving: JoinHandle<()>,
    upkeep: [JoinHandle<()>; 4],
    _lock: base_fs::DirLock,
}

/// Starts a hub on a data folder.
pub async fn start(data_dir: &DataDir, config: &HubConfig, shutdown: CancellationToken) -> Result<Hub> {
    let lock = data_dir.lock("hub")?;
    // Before the listener, whose limits follow it.
    if let Err(error) = base_http::raise_file_limit() {
        warn!(%error, "Failed to raise the limit of open files; the hub serves as many nodes as the current one allows.");
    }
    let listener = Listener::bind("hub-api", config.listen).context("the hub's setting is `listen`")?;
    let port = listener.port().context("the hub listens on TCP")?;
    let url = format!("https://127.0.0.1:{port}");

    let pki = data_dir.hub().join("pki");
    let ca = Arc::new(authority(&pki)?);
    let names = names(config);
    let serving = serving_certificate(&ca, &names)?;
    let tls = ServerTls::new(&serving.0, &serving.1, Some(ca.cert_pem())).context("failed to set up TLS")?;
    kubeconfig(data_dir, &ca, &url)?;
    let kubelets = issue(&ca, "system:selvedge:hub", Usage::Client, &[])?;
    let dialer =
        DirectTls::new(ca.cert_pem(), &kubelets.cert_pem, &kubelets.key_pem).context("failed to set up TLS")?;

    let store = open_store(data_dir.hub().join("store")).await?;
    let telemetry_dir = data_dir.hub().join("telemetry");
    let assignments = Arc::new(Assignments::default());
    let assigned_at = assignments.load(&store)?;
    let following = tokio::spawn(assignments.clone().follow(store.clone(), assigned_at, shutdown.clone()));
    let (observer, conflicts) = Conflicts::channel();
    let options = TelemetryOptions {
        bytes_max: config.telemetry_bytes_max,
        assigned: assignments,
        observer: Arc::new(observer),
        ..TelemetryOptions::default()
    };
    let telemetry = tokio::task::spawn_blocking(move || Telemetry::open(&telemetry_dir, options))
        .await?
        .context("failed to open the readings that were stored before")?;
    let reader = StoreReader::start(store.clone(), &shutdown);
    let server = Server::new(ServerConfig {
        store,
        authorizer: Arc::new(StandardAuthorizer),
        admission: vec![Box::new(PodRuntimeClass)],
        node_dialer: Arc::new(dialer),
        extensions: vec![Arc::new(TelemetryExtension(TelemetryRoutes::new(telemetry.clone())))],
        address: format!("127.0.0.1:{port}"),
        metrics: base_observe::Metrics::new(),
        shutdown: shutdown.clone(),
    })?;
    let client = kube::Client::new(server.in_process(Identity::controllers()), "default");
    let conflicts = tokio::spawn(telemetry::write_conflicts(conflicts, client.clone()));

    // Controllers first: whoever can connect finds namespaces and our kinds.
    let controllers_config = ControllersConfig {
        client: client.clone(),
        reader,
        authorities: Authorities { client: ca.clone(), serving: ca.clone() },
        names: NamePolicy { hub_names: reserved_names(config) },
    };
    let controllers = Controllers::start(controllers_config, shutdown.clone())
        .await
        .context("failed to start the hub's controllers")?;
    let address = listener.address().clone();
    let housekeeping = tokio::spawn({
        let server = server.clone();
        async move { server.keep_house().await }
    });
    let renewal = tokio::spawn(renew(tls.clone(), ca.clone(), names, shutdown.clone()));
    let serving = base_http::serve(listener.with_tls(tls), server, shutdown);
    match Ports::record(data_dir.path(), "hub-api", &address) {
        Err(PortsError::Write(error)) => unless_full(Err(error)).context("failed to record the ports")?,
        recorded => recorded?,
    }
    info!(%address, "The hub serves the Kubernetes API.");
    Ok(Hub {
        url,
        ca_pem: ca.cert_pem().to_owned(),
        client,
        telemetry,
        controllers,
        serving,
        upkeep: [renewal, housekeeping, following, conflicts],
        _lock: lock,
    })
}

impl Hub {
    /// Waits until everything has ended, after the shutdown that was handed to [`start`].
    pub async fn wait(self) {
        if let Err(error) = self.serving.await {
            error!(%error, "The hub's listener ended badly.");
        }
        self.controllers.wait().await;
        self.upkeep.iter().for_each(JoinHandle::abort);
        if let Err(error) = self.telemetry.checkpoint() {
            error!(error = %base_observe::Chain(&error), "Failed to checkpoint the readings; the next start reads more.");
        }
    }
}

async fn open_store(dir: std::path::PathBuf) -> Result<Store> {
    tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
        let indexed_fields = machinery_server::INDEXED_FIELDS.to_vec();
        Store::open(&dir, StoreOptions { indexed_fields, ..StoreOptions::default() })
            .context("failed to open the hub's store")
    })
    .await?
}

/// The authority in a folder; made at the first start.
fn authority(pki: &Path) -> Result<Ca> {
    let (cert_path, key_path) = (pki.join("ca.crt"), pki.join("ca.key"));
    match (fs::read_to_string(&cert_path), fs::read_to_string(&key_path)) {
        (Ok(cert), Ok(key)) => {
            Ca::load(&cert, &key).with_context(|| format!("failed to use the CA in {}", pki.display()))
        }
        (Err(cert), Err(key))
            if cert.kind() == std::io::ErrorKind::NotFound && key.kind() == std::io::ErrorKind::NotFound =>
        {
            fs::create_dir_all(pki).with_context(|| format!("failed to make {}", pki.display()))?;
            let ca = Ca::create("selvedge-hub").context("failed to make a CA")?;
            base_pki::write_private(&key_path, ca.key_pem().as_bytes())?;
            base_pki::write_public(&cert_path, ca.cert_pem().as_bytes())?;
            Ok(ca)
        }
        // A key without its certificate is a start that was cut between the two; nobody has trusted it yet.
        (Err(cert), Ok(key)) if cert.kind() == std::io::ErrorKind::NotFound => {
            drop(key);
            fs::remove_file(&key_path).with_context(|| format!("failed to remove {}", key_path.display()))?;
            authority(pki)
        }
        (Err(error), _) => Err(error).with_context(|| format!("failed to read {}", cert_path.display())),
        (_, Err(error)) => {
            Err(error).with_context(|| format!("failed to read {}; restore it from a backup", key_path.display()))
        }
    }
}

fn issue(ca: &Ca, cn: &str, usage: Usage, sans: &[San]) -> Result<base_pki::Issued> {
    let orgs = match usage {
        Usage::Client => vec![machinery_server::GROUP_MASTERS.to_owned()],
        Usage::Server => Vec::new(),
    };
    ca.sign(&IssueRequest { cn: cn.to_owned(), orgs, sans: sans.to_vec(), usage, validity: CERTIFICATE_VALIDITY })
        .with_context(|| format!("failed to make the certificate of {cn}"))
}

/// Names of the hub: those of the settings, and those that this machine answers to.
fn names(config: &HubConfig) -> Vec<San> {
    let mut names: Vec<San> =
        ["localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default"].map(San::from).to_vec();
    names.push(San::from(rustix::system::uname().nodename().to_string_lossy().as_ref()));
    names.extend(config.public_names.iter().map(|name| San::from(name.as_str())));
    if !config.listen.ip().is_unspecified() {
        names.push(San::Ip(config.listen.ip()));
    }
    // The address by which others see this machine; no packet is sent for this.
    let outward = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    if let Ok(address) = outward {
        names.push(San::Ip(address.ip()));
    }
    names.dedup();
    names
}

/// Names that no node may have. The name of this machine is not among them: its own node is called so.
fn reserved_names(config: &HubConfig) -> Vec<San> {
    let fixed = ["localhost", "kubernetes", "kubernetes.default"];
    fixed.into_iter().chain(config.public_names.iter().map(String::as_str)).map(San::from).collect()
}

/// The chain with the CA in it, since a joining node checks the CA against its token; and the key.
fn serving_certificate(ca: &Ca, names: &[San]) -> Result<(String, String)> {
    let issued = issue(ca, "selvedge-hub", Usage::Server, names)?;
    Ok((format!("{}{}", issued.cert_pem, ca.cert_pem()), issued.key_pem))
}

/// Replaces the serving certificate half-way through its life, while serving.
async fn renew(tls: ServerTls, ca: Arc<Ca>, names: Vec<San>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(CERTIFICATE_VALIDITY / 2) => {}
        }
        let renewed = serving_certificate(&ca, &names)
            .and_then(|(cert, key)| tls.replace(&cert, &key).context("failed to use the new certificate"));
        if let Err(error) = renewed {
            error!(error = %format!("{error:#}"), "Failed to renew the hub's certificate; restart the hub.");
        }
    }
}

/// The administrator's kubeconfig; kept as it is while it fits this hub.
///
/// A full disk must not keep a hub from starting: it is what people need in order to delete something.
fn kubeconfig(data_dir: &DataDir, ca: &Ca, url: &str) -> Result<()> {
    let pki = data_dir.hub().join("pki");
    let (cert_path, key_path) = (pki.join("admin.crt"), pki.join("admin.key"));
    let is_fresh = |cert: &str| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        base_pki::validity(cert)
            .is_ok_and(|(_, until)| until > i64::try_from(now + CERTIFICATE_VALIDITY.as_secs() / 2).unwrap_or(i64::MAX))
    };
    let (cert, key) = match (fs::read_to_string(&cert_path), fs::read_to_string(&key_path)) {
        (Ok(cert), Ok(key)) if is_fresh(&cert) => (cert, key),
        _ => {
            let admin = issue(ca, "selvedge-admin", Usage::Client, &[])?;
            let written = base_pki::write_private(&key_path, admin.key_pem.as_bytes())
                .and_then(|()| base_pki::write_public(&cert_path, admin.cert_pem.as_bytes()));
            unless_full(written)?;
            (admin.cert_pem, admin.key_pem)
        }
    };
    let (path, text) = (data_dir.kubeconfig(), base_pki::kubeconfig(url, ca.cert_pem(), &cert, &key));
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    unless_full(base_pki::write_private(&path, text.as_bytes())).context("failed to write the kubeconfig")
}

/// Continues with a warning when there is no space for a file that the next start can write as well.
fn unless_full(written: Result<(), base_pki::WriteFileError>) -> Result<()> {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match written {
        Err(error) if matches!(error.source.kind(), StorageFull | QuotaExceeded) => {
            warn!(error = %base_observe::Chain(&error), "The disk is full; the hub starts without writing this file.");
            Ok(())
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_kubeconfig_is_written_when_it_changes_and_not_at_every_start() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = DataDir::new(Some(dir.path().to_owned())).expect("a data directory");
        let ca = authority(&data_dir.hub().join("pki")).expect("a new CA");
        let start = |url: &str| {
            kubeconfig(&data_dir, &ca, url).expect("space");
            // Replacing a file gives it another inode.
            fs::metadata(data_dir.kubeconfig()).expect("a kubeconfig").ino()
        };
        let first = start("https://127.0.0.1:6443");
        assert_eq!(start("https://127.0.0.1:6443"), first);
        assert_ne!(start("https://127.0.0.1:6444"), first);
        assert!(fs::read_to_string(data_dir.kubeconfig()).expect("a kubeconfig").contains("https://127.0.0.1:6444"));
    }

    #[test]
    fn only_a_full_disk_is_put_up_with() {
        let failed = |kind: std::io::ErrorKind| {
            unless_full(Err(base_pki::WriteFileError { path: "kubeconfig".into(), source: kind.into() }))
        };
        assert!(failed(std::io::ErrorKind::StorageFull).is_ok());
        assert!(failed(std::io::ErrorKind::QuotaExceeded).is_ok());
        assert!(failed(std::io::ErrorKind::PermissionDenied).is_err());
    }
}
