//! What a hub keeps on disk, opened: objects, readings, the audit log.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use hub_telemetry::{Telemetry, TelemetryOptions};
use machinery_server::{Audit, AuditLimits, AuditLog, Server};
use machinery_store::{EnvelopeCipher, RowCipher, Store, StoreOptions};
use tracing::warn;

use crate::config::HubConfig;
use crate::paths::DataDir;

/// Files of each part of the audit log; together they take what the setting allows.
const AUDIT_FILES: u32 = 4;

/// Opens the store; rows of Secrets are sealed with the hub's key, those of an older version at this start.
pub async fn store(data_dir: &DataDir) -> Result<Store> {
    let key = hub_pki::secrets_key(&data_dir.hub().join("secrets.key"))?;
    let dir = data_dir.hub().join("store");
    tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        let indexed_fields = machinery_server::INDEXED_FIELDS.to_vec();
        let index_version = machinery_server::INDEX_VERSION;
        let cipher: Option<Arc<dyn RowCipher>> = Some(Arc::new(EnvelopeCipher::new(&key, ["/secrets"])));
        Store::open(&dir, StoreOptions { indexed_fields, index_version, cipher, ..StoreOptions::default() })
            .context("failed to open the hub's store")
    })
    .await?
}

/// Gives the objects of an older version the index fields of this one; at most once, and before anybody is served.
pub async fn reindex(server: &Server) {
    if let Err(error) = server.reindex().await {
        warn!(error = %base_observe::Chain(&error), "Failed to store the index fields of older objects; the next start does it.");
    }
}

/// Leaves the disk as a clean stop does: Leases and Events may be in memory alone until then, and clients
/// hold clones of the store.
pub async fn close(store: Store) {
    // What panics in there is in the log, and the next start takes it for a crash.
    let _ = tokio::task::spawn_blocking(move || store.close()).await;
}

/// Opens the readings.
pub async fn telemetry(data_dir: &DataDir, options: TelemetryOptions) -> Result<Telemetry> {
    let dir: PathBuf = data_dir.hub().join("telemetry");
    tokio::task::spawn_blocking(move || Telemetry::open(&dir, options))
        .await?
        .context("failed to open the readings that were stored before")
}

/// Opens the audit log, when the settings ask for one.
pub fn audit_log(data_dir: &DataDir, config: &HubConfig) -> Result<Option<Arc<dyn Audit>>> {
    if config.audit_bytes_max == 0 {
        return Ok(None);
    }
    let limits = AuditLimits { files_max: AUDIT_FILES, bytes_max: config.audit_bytes_max };
    let path = data_dir.hub().join("audit.log");
    let log = AuditLog::open(&path, limits).with_context(|| format!("failed to open {}", path.display()))?;
    Ok(Some(Arc::new(log)))
}
