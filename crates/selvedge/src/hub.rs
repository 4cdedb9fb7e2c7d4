//! Puts the hub together: certificates, store, API server, telemetry, controllers, one port.

mod backup;
mod listen;
pub mod storage;
mod usage;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow};
use base_http::Connections;
use base_pki::San;
use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::{Manager, Selection, StatusRegistry, StoreReader};
use hub_telemetry::routes::TelemetryRoutes;
use hub_telemetry::usage::UsageStore;
use hub_telemetry::{Telemetry, TelemetryOptions};
use machinery_server::{Identity, Server, ServerConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::config::HubConfig;
use crate::paths::DataDir;
use crate::statusz::Statusz;
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
    store: machinery_store::Store,
    controllers: Manager,
    failed: CancellationToken,
    serving: JoinHandle<()>,
    upkeep: [JoinHandle<()>; 8],
    _lock: base_fs::DirLock,
}

/// Starts a hub on a data directory.
pub async fn start(data_dir: &DataDir, config: &HubConfig, shutdown: CancellationToken) -> Result<Hub> {
    let lock = data_dir.lock("hub")?;
    storage::check_restored(data_dir)?;
    let now = SystemTime::now();
    let pki = Arc::new(storage::pki(data_dir, now)?);
    if let Some(finding) = pki.check_clock(now) {
        error!("{finding}");
    }
    let port = listen::open(data_dir, config, &pki, now)?;
    let address = port.listener.address().clone();

    let store = storage::store(data_dir).await?;
    storage::log_life(&store);
    let assignments = Arc::new(Assignments::default());
    let following = assignments.clone().follow(store.clone(), assignments.load(&store)?, shutdown.clone());
    let (observer, conflicts) = Conflicts::channel();
    let options = TelemetryOptions {
        bytes_max: config.telemetry_bytes_max,
        assigned: assignments,
        observer: Arc::new(observer),
        ..TelemetryOptions::default()
    };
    let telemetry = storage::telemetry(data_dir, options).await?;
    let reader = StoreReader::new(store.clone());
    let access = hub_policy::access(storage::token_key(data_dir)?, pki.ca_pem());
    let (policy, keeper) = hub_policy::server_config(store.clone(), config.public_names.clone(), &access);
    let (metrics, status) = (base_observe::Metrics::new(), StatusRegistry::default());
    metrics.build_info("hub", env!("CARGO_PKG_VERSION"));
    hub_telemetry::metrics::register(&metrics, &telemetry);
    status.register_metrics(&metrics);
    let api_address = port.url.trim_start_matches("https://").to_owned();
    let mut extensions = access.extensions(&api_address);
    let usage = UsageStore::default();
    // Before those whose paths begin with less.
    extensions.push(Arc::new(usage::UsageIngest::new(usage.clone())));
    extensions.push(Arc::new(usage::MetricsApi { usage, objects: store.clone() }));
    extensions.push(Arc::new(TelemetryExtension(TelemetryRoutes::new(telemetry.clone()))));
    extensions.push(Arc::new(backup::BackupRoute::new(store.clone())));
    extensions.push(Arc::new(Statusz { registry: status.clone(), store: store.clone() }));
    let server = Server::new(ServerConfig {
        on_thread_park: crate::memory::give_back,
        node_dialer: Arc::new(port.dialer),
        extensions,
        garbage_collected: hub_controllers::collects,
        audit: storage::audit_log(data_dir, config)?,
        address: api_address,
        metrics: metrics.clone(),
        shutdown: shutdown.clone(),
        ..policy
    })?;
    storage::reindex(&server).await;
    // A full disk must not keep a hub from serving the nodes it has; what is missing is written at the next start.
    if let Err(error) = access.bootstrap(&server).await {
        error!(%error, "Failed to create the default roles and priority classes.");
    }
    // Upstream's name: what leaves fields to controllers, as a GitOps tool does, knows the manager `kube-controller-manager`.
    let own = server.in_process(Identity::controllers()).with_user_agent("kube-controller-manager");
    let client = kube::Client::new(own, "default");
    let conflicts = telemetry::write_conflicts(conflicts, client.clone());
    // Controllers first: whoever can connect finds namespaces and our kinds.
    let controllers_config = ControllersConfig {
        authorities: Authorities { client: pki.hub.clone(), serving: pki.node_serving.clone() },
        names: NamePolicy { hub_names: config.public_names.iter().map(|name| San::from(name.as_str())).collect() },
    };
    let controllers = Manager::new(client.clone(), reader, status, shutdown.clone())
        .selecting(Selection::new(config.controllers.clone()));
    controllers.context().recorder.register_metrics(&metrics);
    hub_controllers::start(&controllers, controllers_config).await.context("failed to start the hub's controllers")?;
    hub_workloads::start(&controllers);
    hub_volumes::start(&controllers);
    hub_scheduler::start(&controllers, &metrics);
    controllers.check_selection().context("`controllers`")?;
    keeper.migrate(&server, &store).await.map_err(anyhow::Error::msg)?;
    let connections = Connections::new();
    let failed = controllers.failed().clone();
    let upkeep = [
        vital("assignments", &failed, following),
        vital("conflicts", &failed, conflicts),
        vital("event-ttl", &failed, server.clone().run_event_ttl()),
        vital("expirations", &failed, server.clone().run_expirations(connections.clone())),
        vital("renewal", &failed, hub_pki::run_renewal(port.renewal, shutdown.clone())),
        vital(
            "node-keys",
            &failed,
            keeper.run(server.clone(), store.clone(), close_rejected(&server, &connections), shutdown.clone()),
        ),
        vital("token-cleaning", &failed, hub_policy::clean_tokens(server.clone(), store.clone(), shutdown.clone())),
        vital("access", &failed, {
            let (server, shutdown) = (server.clone(), shutdown.clone());
            async move { access.run(server, shutdown).await }
        }),
    ];
    let serving = base_http::serve_with(port.listener.with_tls(port.tls), server, connections, shutdown);
    let serving = vital("serving", &failed, async {
        if let Err(error) = serving.await
            && let Ok(panic) = error.try_into_panic()
        {
            resume_unwind(panic);
        }
    });
    listen::record(data_dir.path(), &address)?;
    let ca_pem = pki.ca_pem().to_owned();
    Ok(Hub { url: port.url, ca_pem, client, telemetry, store, controllers, failed, serving, upkeep, _lock: lock })
}

/// Starts a task without which the hub is of no use.
fn vital(
    name: &'static str,
    failed: &CancellationToken,
    future: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    base_observe::spawn_vital(&TaskTracker::new(), name, failed, future)
}

/// What happens when a node's key is refused from now on.
fn close_rejected(server: &Server, connections: &Connections<machinery_server::Session>) -> hub_policy::OnChange {
    let (server, connections) = (server.clone(), connections.clone());
    Arc::new(move |node| {
        let user = format!("{}{node}", machinery_server::USER_NODE_PREFIX);
        let closed = server.close_rejected(&connections, &user);
        if closed > 0 {
            info!(node, closed, "Closed the connections of a node whose key is refused.");
        }
    })
}

impl Hub {
    /// Waits until `stopping` is cancelled, or a task has panicked without which the hub is of no use, which cancels it as well.
    ///
    /// # Errors
    /// In the second case: the program is to end, and to be started again.
    pub async fn until(&self, stopping: &CancellationToken) -> Result<()> {
        tokio::select! {
            () = stopping.cancelled() => Ok(()),
            () = self.failed.cancelled() => {
                stopping.cancel();
                Err(anyhow!("a task of the hub has panicked; its log says which; nothing that is stored is lost, start it again"))
            }
        }
    }

    /// Waits until everything has ended, after the shutdown that was handed to [`start`].
    pub async fn wait(self) {
        if let Err(error) = self.serving.await {
            error!(%error, "The hub's listener ended badly.");
        }
        self.controllers.wait().await;
        self.upkeep.iter().for_each(JoinHandle::abort);
        storage::close(self.store).await;
        if let Err(error) = self.telemetry.checkpoint() {
            error!(error = %base_observe::Chain(&error), "Failed to checkpoint the readings; the next start reads more.");
        }
    }
}
