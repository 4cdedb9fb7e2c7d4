//! Clients for the hub, from a kubeconfig.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A request of a tool waits no longer than a person does.
const TOOL_TIMEOUT: Duration = Duration::from_secs(10);

/// A client for a person's tools: `token`, `status`, `--example`.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig).with_context(|| {
        format!("failed to read {}; is this the data directory of a hub that has started once?", kubeconfig.display())
    })?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("failed to use {}", kubeconfig.display()))?;
    config.connect_timeout = Some(TOOL_TIMEOUT);
    config.read_timeout = Some(TOOL_TIMEOUT);
    Client::try_from(config).context("failed to set up a client for the hub")
}
