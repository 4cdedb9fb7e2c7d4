//! What a hub keeps on disk, opened: authorities, objects, readings, the audit log.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use hub_pki::Pki;
use hub_telemetry::{Telemetry, TelemetryOptions};
use machinery_access::TokenKey;
use machinery_server::{Audit, AuditLimits, AuditLog, Server};
use machinery_store::{CipherError, EnvelopeCipher, OpenStoreError, RowCipher, Store, StoreOptions};
use tracing::{info, warn};

use crate::config::HubConfig;
use crate::paths::DataDir;

/// Files of each part of the audit log; together they take what the setting allows.
const AUDIT_FILES: u32 = 4;

/// Rejects a data directory in which a restore was cut off: a new and empty hub would be started in the place of the one that
/// somebody is about to bring back.
pub fn check_restored(data_dir: &DataDir) -> Result<()> {
    let staging = hub_backup::staging_of(&data_dir.hub());
    if !data_dir.hub().exists() && staging.exists() {
        bail!(
            "a restore into {} was cut off: run `selvedge hub restore` again; to begin with an empty hub, remove {}",
            data_dir.path().display(),
            staging.display()
        );
    }
    Ok(())
}

/// Says which life of the state is served.
pub fn log_life(store: &Store) {
    let epoch = &store.life().epoch;
    match &store.life().restored {
        Some(restored) => info!(
            epoch,
            from_epoch = restored.epoch,
            from_revision = restored.revision,
            begins = restored.begins,
            "Serves a state that was restored from a backup; watches from before it have expired."
        ),
        None => info!(epoch, "Serves a state that was never restored."),
    }
}

/// Opens the authorities; a new hub gets new ones.
pub fn pki(data_dir: &DataDir, now: SystemTime) -> Result<Pki> {
    let (dir, store) = (data_dir.hub().join("pki"), store_dir(data_dir));
    if store.exists() && !dir.exists() {
        bail!(
            "{} is lost, but not what the hub stored in {}: restore it from a backup; to begin with a new CA, which makes all nodes join anew, create the directory",
            dir.display(),
            store.display()
        );
    }
    Ok(Pki::open(&dir, now)?)
}

/// Opens all keys of a hub that does not run, as its start does.
pub fn check_keys(data_dir: &DataDir) -> Result<()> {
    pki(data_dir, SystemTime::now())?;
    token_key(data_dir)?;
    Ok(())
}

/// The key that signs tokens of service accounts; a new hub gets a new one.
pub fn token_key(data_dir: &DataDir) -> Result<TokenKey> {
    Ok(hub_pki::token_key(&data_dir.hub().join("tokens.key"))?)
}

fn store_dir(data_dir: &DataDir) -> PathBuf {
    data_dir.hub().join("store")
}

/// Opens the store; rows of Secrets are sealed with the hub's key, those of an older version at this start.
pub async fn store(data_dir: &DataDir) -> Result<Store> {
    let (key_path, dir) = (data_dir.hub().join("secrets.key"), store_dir(data_dir));
    // A hub of an older version has a store and no key.
    let is_new = !key_path.exists();
    let key = hub_pki::secrets_key(&key_path)?;
    tokio::task::spawn_blocking(move || {
        fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        let indexed_fields = machinery_server::INDEXED_FIELDS.to_vec();
        let index_version = machinery_server::INDEX_VERSION;
        let cipher: Option<Arc<dyn RowCipher>> =
            Some(Arc::new(EnvelopeCipher::new(&key, hub_backup::SEALED_RESOURCES)));
        match Store::open(&dir, StoreOptions { indexed_fields, index_version, cipher, ..StoreOptions::default() }) {
            Err(error @ OpenStoreError::Unlock { source: Some(CipherError::OtherKey), .. }) => {
                let what = if is_new { "lost" } else { "not that of this store" };
                // Nothing is sealed with it, and left there it would look like the key that is missed.
                let removed = if is_new { fs::remove_file(&key_path) } else { Ok(()) };
                removed.with_context(|| format!("failed to remove {}", key_path.display()))?;
                Err(error).with_context(|| {
                    format!(
                        "{} is {what}, and Secrets are sealed with it: restore it from a backup",
                        key_path.display()
                    )
                })
            }
            opened => opened.context("failed to open the hub's store"),
        }
    })
    .await?
}

/// Gives the objects of an older version the index fields of this one; at most once, and before anybody is served.
pub async fn reindex(server: &Server) {
    if let Err(error) = server.settle_definitions().await {
        warn!(%error, "Failed to bring definitions up to date; the next start tries again.");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn data_dir(dir: &tempfile::TempDir) -> DataDir {
        DataDir::new(Some(dir.path().to_owned())).expect("a path")
    }

    #[tokio::test]
    async fn a_lost_key_of_secrets_is_missed_and_not_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = data_dir(&dir);
        let key_path = data_dir.hub().join("secrets.key");
        fs::create_dir_all(data_dir.hub()).expect("space");
        close(store(&data_dir).await.expect("a new hub")).await;
        let key = fs::read(&key_path).expect("it was made");
        fs::remove_file(&key_path).expect("it is there");
        for _ in 0..2 {
            let error = store(&data_dir).await.err().expect("its rows are sealed").to_string();
            let phrases = ["secrets.key is lost", "restore it from a backup"];
            assert!(phrases.iter().all(|phrase| error.contains(phrase)) && !key_path.exists(), "{error}");
        }
        fs::write(&key_path, [7; 32]).expect("space");
        let error = store(&data_dir).await.err().expect("it is another").to_string();
        assert!(error.contains("not that of this store") && key_path.exists(), "{error}");
        fs::write(&key_path, key).expect("space");
        close(store(&data_dir).await.expect("it is restored")).await;
    }

    #[test]
    fn lost_authorities_are_made_anew_only_when_a_person_says_so() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = data_dir(&dir);
        let first = pki(&data_dir, SystemTime::now()).expect("a new hub");
        fs::create_dir(store_dir(&data_dir)).expect("space");
        fs::remove_dir_all(data_dir.hub().join("pki")).expect("it is there");
        let error = pki(&data_dir, SystemTime::now()).expect_err("nodes have joined").to_string();
        assert!(error.contains("hub/pki is lost") && error.contains("create the directory"), "{error}");
        fs::create_dir(data_dir.hub().join("pki")).expect("space");
        let second = pki(&data_dir, SystemTime::now()).expect("it was said");
        assert_ne!(first.ca_pem(), second.ca_pem());
    }
}
