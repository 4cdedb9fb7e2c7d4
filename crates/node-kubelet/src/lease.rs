//! The node's sign of life: a Lease renewed every few seconds.
//!
//! It is also how a dead link is noticed: an answer that does not come makes the connection be dialed anew.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::KubeletConfig;
use crate::hub::{Hub, HubError, Patch};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Renews the Lease until `shutdown`. `node_uid` is asked for each time, as the node may be registered anew.
pub(crate) async fn run(
    mut hub: Hub,
    config: KubeletConfig,
    node_uid: tokio::sync::watch::Receiver<Option<String>>,
    shutdown: CancellationToken,
) {
    // The owner that the Lease at the hub has for all we know, once it is known to be there. The Node may be registered after
    // the first renewal, and anew at any time.
    let mut published: Option<Option<String>> = None;
    let mut retry = hub.retry();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = hub.connected() => {}
        }
        let owner = node_uid.borrow().clone();
        retry.attempt();
        let is_known = published.as_ref() == Some(&owner);
        match renew(&hub, &config, owner.as_deref(), is_known).await {
            Ok(()) => published = Some(owner),
            Err(error) => {
                debug!(%error, "Failed to renew the node's Lease.");
                published = None;
                if matches!(error, HubError::Timeout { .. }) {
                    hub.hang_up();
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = retry.rest(jittered(config.lease_renew_period)) => {}
        }
    }
}

/// A thousand nodes that came up together should not beat together.
fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.96 + 0.04 * fastrand::f64())
}

async fn renew(hub: &Hub, config: &KubeletConfig, owner: Option<&str>, is_known: bool) -> Result<(), HubError> {
    let name = &config.node_name;
    let path = format!("{LEASES}/{name}");
    let now = micros(Timestamp::now());
    if is_known {
        let patch = json!({"spec": {"renewTime": now}});
        return match hub.patch(&path, Patch::Merge, &patch).await {
            Err(error) if error.code() == Some(404) => create(hub, config, owner, &now).await,
            other => other.map(|_| ()),
        };
    }
    // The first time, and when its Node is another, all of it is set right, whoever made it.
    let mut patch = json!({"spec": spec(config, &now)});
    if let Some(owners) = owner.map(|uid| owners(name, uid)) {
        patch["metadata"] = json!({"ownerReferences": owners});
    }
    match hub.patch(&path, Patch::Merge, &patch).await {
        Err(error) if error.code() == Some(404) => create(hub, config, owner, &now).await,
        other => other.map(|_| ()),
    }
}

async fn create(hub: &Hub, config: &KubeletConfig, owner: Option<&str>, now: &str) -> Result<(), HubError> {
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": config.node_name, "namespace": "kube-node-lease"},
        "spec": spec(config, now),
    });
    if let Some(uid) = owner {
        lease["metadata"]["ownerReferences"] = owners(&config.node_name, uid);
    }
    hub.create(LEASES, &lease).await.map(|_| ())
}

fn spec(config: &KubeletConfig, now: &str) -> Value {
    let seconds = config.lease_duration.as_secs();
    json!({"holderIdentity": config.node_name, "leaseDurationSeconds": seconds, "renewTime": now})
}

fn owners(name: &str, uid: &str) -> Value {
    json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}])
}

/// A `MicroTime`: always six digits of fraction.
fn micros(at: Timestamp) -> String {
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renew_time_has_six_digits() {
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(micros(at), "2026-01-02T03:04:05.000000Z");
    }
}
