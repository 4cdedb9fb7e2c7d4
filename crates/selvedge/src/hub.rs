//! Puts the hub together: certificates, store, API server, telemetry, controllers, one port.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use base_http::{Connections, Listener, Ports, PortsError, ServerTls};
use base_pki::San;
use hub_controllers::runtime::StoreReader;
use hub_controllers::{Authorities, Controllers, ControllersConfig, NamePolicy};
use hub_pki::{HubCertificate, Pki, Renewable, Renewal};
use hub_telemetry::routes::TelemetryRoutes;
use hub_telemetry::{Telemetry, TelemetryOptions};
use machinery_server::{Audit, AuditLimits, AuditLog, DirectTls, Identity, Server, ServerConfig};
use machinery_store::{EnvelopeCipher, RowCipher, Store, StoreOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::HubConfig;
use crate::paths::DataDir;
use crate::telemetry::{self, Assignments, Conflicts, TelemetryExtension};

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
    upkeep: [JoinHandle<()>; 6],
    _lock: base_fs::DirLock,
}

/// Starts a hub on a data directory.
pub async fn start(data_dir: &DataDir, config: &HubConfig, shutdown: CancellationToken) -> Result<Hub> {
    let lock = data_dir.lock("hub")?;
    let now = SystemTime::now();
    let pki = Arc::new(Pki::open(&data_dir.hub().join("pki"), now)?);
    if let Some(finding) = pki.check_clock(now) {
        error!("{finding}");
    }
    // Before the listener, whose limits follow it.
    if let Err(error) = base_http::raise_file_limit() {
        warn!(%error, "Failed to raise the limit of open files; the hub serves as many nodes as the current one allows.");
    }
    let listener = Listener::bind("hub-api", config.listen).context("the hub's setting is `listen`")?;
    let port = listener.port().context("the hub listens on TCP")?;
    let url = format!("https://127.0.0.1:{port}");

    let names = hub_pki::hub_names(&config.public_names, config.listen);
    let serving = pki.issue(HubCertificate::Serving, &names, now)?;
    let tls =
        ServerTls::new(&serving.cert_pem, &serving.key_pem, Some(pki.ca_pem())).context("failed to set up TLS")?;
    let shown = pki.issue(HubCertificate::Dialer, &[], now)?;
    let dialer =
        DirectTls::new(&pki.dialer_trust(), &shown.cert_pem, &shown.key_pem).context("failed to set up TLS")?;
    write_kubeconfig(&pki, &data_dir.kubeconfig(), &url, now)?;
    let renewal = renewal(&pki, &tls, &dialer, names, (data_dir.kubeconfig(), url.clone()), [&serving, &shown])?;

    let key = hub_pki::secrets_key(&data_dir.hub().join("secrets.key"))?;
    let store = open_store(data_dir.hub().join("store"), key).await?;
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
    let (policy, keeper) = hub_policy::server_config(store.clone(), config.public_names.clone());
    let metrics = base_observe::Metrics::new();
    hub_telemetry::metrics::register(&metrics, &telemetry);
    let server = Server::new(ServerConfig {
        node_dialer: Arc::new(dialer),
        extensions: vec![Arc::new(TelemetryExtension(TelemetryRoutes::new(telemetry.clone())))],
        audit: audit_log(data_dir, config)?,
        address: format!("127.0.0.1:{port}"),
        metrics,
        shutdown: shutdown.clone(),
        ..policy
    })?;
    let client = kube::Client::new(server.in_process(Identity::controllers()), "default");
    let conflicts = tokio::spawn(telemetry::write_conflicts(conflicts, client.clone()));

    // Controllers first: whoever can connect finds namespaces and our kinds.
    let controllers_config = ControllersConfig {
        client: client.clone(),
        reader,
        authorities: Authorities { client: pki.hub.clone(), serving: pki.node_serving.clone() },
        names: NamePolicy { hub_names: config.public_names.iter().map(|name| San::from(name.as_str())).collect() },
    };
    let controllers = Controllers::start(controllers_config, shutdown.clone())
        .await
        .context("failed to start the hub's controllers")?;
    keeper.migrate(&server, &store).await.map_err(anyhow::Error::msg)?;
    let address = listener.address().clone();
    let housekeeping = tokio::spawn({
        let server = server.clone();
        async move { server.keep_house().await }
    });
    let connections = Connections::new();
    let on_change: hub_policy::OnChange = Arc::new({
        let (server, connections) = (server.clone(), connections.clone());
        move |node| {
            let user = format!("{}{node}", machinery_server::USER_NODE_PREFIX);
            let closed = server.close_rejected(&connections, &user);
            if closed > 0 {
                info!(node, closed, "Closed the connections of a node whose key is refused.");
            }
        }
    });
    let upkeep = [
        following,
        conflicts,
        housekeeping,
        tokio::spawn(hub_pki::run_renewal(renewal, shutdown.clone())),
        tokio::spawn(keeper.run(server.clone(), store.clone(), on_change, shutdown.clone())),
        tokio::spawn(hub_policy::clean_tokens(server.clone(), store, shutdown.clone())),
    ];
    let serving = base_http::serve_with(listener.with_tls(tls), server, connections, shutdown);
    match Ports::record(data_dir.path(), "hub-api", &address) {
        Err(PortsError::Write(error)) => unless_full(Err(error)).context("failed to record the ports")?,
        recorded => recorded?,
    }
    info!(%address, "The hub serves the Kubernetes API.");
    Ok(Hub { url, ca_pem: pki.ca_pem().to_owned(), client, telemetry, controllers, serving, upkeep, _lock: lock })
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

/// Opens the store; rows of Secrets are sealed with `key`, those of an older version at this start.
async fn open_store(dir: std::path::PathBuf, key: [u8; 32]) -> Result<Store> {
    tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
        let indexed_fields = machinery_server::INDEXED_FIELDS.to_vec();
        let cipher: Option<Arc<dyn RowCipher>> = Some(Arc::new(EnvelopeCipher::new(&key, ["/secrets"])));
        Store::open(&dir, StoreOptions { indexed_fields, cipher, ..StoreOptions::default() })
            .context("failed to open the hub's store")
    })
    .await?
}

fn audit_log(data_dir: &DataDir, config: &HubConfig) -> Result<Option<Arc<dyn Audit>>> {
    if config.audit_bytes_max == 0 {
        return Ok(None);
    }
    let limits = AuditLimits { files_max: 4, file_bytes_max: config.audit_bytes_max / 4 };
    let path = data_dir.hub().join("audit.log");
    let log = AuditLog::open(&path, limits).with_context(|| format!("failed to open {}", path.display()))?;
    Ok(Some(Arc::new(log)))
}

/// Everything of the hub that has an end.
fn renewal(
    pki: &Arc<Pki>,
    tls: &ServerTls,
    dialer: &DirectTls,
    names: Vec<San>,
    (kubeconfig, url): (std::path::PathBuf, String),
    [serving, shown]: [&base_pki::Issued; 2],
) -> Result<Renewal> {
    let validity = |issued: &base_pki::Issued| base_pki::validity(&issued.cert_pem);
    let (of_serving, of_dialer, of_admin) = (pki.clone(), pki.clone(), pki.clone());
    let (tls, dialer) = (tls.clone(), dialer.clone());
    Ok(Renewal::new(vec![
        Renewable::new("serving", validity(serving)?, move |now| -> Result<_> {
            let next = of_serving.issue(HubCertificate::Serving, &names, now)?;
            tls.replace(&next.cert_pem, &next.key_pem)?;
            Ok(base_pki::validity(&next.cert_pem)?)
        }),
        Renewable::new("dialer", validity(shown)?, move |now| -> Result<_> {
            let next = of_dialer.issue(HubCertificate::Dialer, &[], now)?;
            dialer.replace(&of_dialer.dialer_trust(), &next.cert_pem, &next.key_pem)?;
            Ok(base_pki::validity(&next.cert_pem)?)
        }),
        Renewable::new("admin", validity(&pki.admin(SystemTime::now())?)?, move |now| -> Result<_> {
            write_kubeconfig(&of_admin, &kubeconfig, &url, now)?;
            Ok(base_pki::validity(&of_admin.admin(now)?.cert_pem)?)
        }),
    ]))
}

/// Writes the administrator's kubeconfig when it differs from the one that is there. A full disk does not keep a hub from
/// serving the nodes it has.
fn write_kubeconfig(pki: &Pki, path: &Path, url: &str, now: SystemTime) -> Result<()> {
    let text = pki.admin_kubeconfig(url, now)?;
    if fs::read_to_string(path).is_ok_and(|held| held == text) {
        return Ok(());
    }
    unless_full(base_pki::write_private(path, text.as_bytes())).context("failed to write the kubeconfig")
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
        let now = SystemTime::now();
        let pki = Pki::open(&data_dir.hub().join("pki"), now).expect("a new CA");
        let start = |url: &str| {
            write_kubeconfig(&pki, &data_dir.kubeconfig(), url, now).expect("space");
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
