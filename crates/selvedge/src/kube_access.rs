//! Clients for the hub, from a kubeconfig.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::paths::DataDir;

/// A request of a tool waits no longer than a person does.
const TOOL_TIMEOUT: Duration = Duration::from_secs(10);

/// A client for a person's tools, for the hub of a data directory: `token`, `status`.
pub async fn client(data_dir: &DataDir) -> Result<Client> {
    let path = data_dir.kubeconfig();
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "{} is not the data directory of a hub that has started once: it has no kubeconfig; name the hub's with --data-dir, or start one there with `selvedge hub --data-dir {}`",
            data_dir.path().display(),
            data_dir.path().display()
        ),
        text => text.with_context(|| format!("failed to read {}", path.display()))?,
    };
    // From the text and not from the path, which the library's errors would name again.
    let file = Kubeconfig::from_yaml(&text)
        .with_context(|| format!("failed to use {}; the hub writes it anew when it starts", path.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("failed to use {}", path.display()))?;
    config.connect_timeout = Some(TOOL_TIMEOUT);
    config.read_timeout = Some(TOOL_TIMEOUT);
    Client::try_from(config).context("failed to set up a client for the hub")
}

/// The same failure in a person's words, when it is that the hub of a data directory does not answer.
pub fn explained(error: anyhow::Error, data_dir: &DataDir) -> anyhow::Error {
    let away = error.chain().find_map(|cause| match cause.downcast_ref::<kube::Error>() {
        Some(error @ kube::Error::Service(_)) => Some(base_observe::last_cause(error)),
        _ => None,
    });
    let Some(why) = away else { return error };
    let server = Kubeconfig::read_from(data_dir.kubeconfig()).ok().and_then(|file| {
        let cluster = file.clusters.into_iter().next()?.cluster?;
        cluster.server
    });
    let at = server.map(|server| format!(" at {server}")).unwrap_or_default();
    // Hub and node share a directory where `up` has made both.
    let role = if data_dir.node().exists() { "up" } else { "hub" };
    anyhow!(
        "the hub{at} does not answer: {why}; if it does not run, start it with `selvedge {role} --data-dir {}`",
        data_dir.path().display()
    )
}
