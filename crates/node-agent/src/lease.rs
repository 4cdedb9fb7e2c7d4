//! The node's sign of life: a Lease renewed every few seconds. It is also how a node notices that its hub is not the one it knew.
//!
//! Nobody else writes this Lease. So each renewal names the revision that the last one was given, and a hub that has another has
//! either lost what it had answered (restored from a backup, its store lost, another hub under the same name), or another box
//! renews the Lease of this node. The first is published as a [`HubState`]: nothing is stopped on the word of a hub that has
//! forgotten what it said.

use std::time::Duration;

use jiff::Timestamp;
use node_client::{ApiClient, ApiError, HubState, Object, Patch, StatusRegistry, Verified, set_field};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::AgentConfig;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Renews the Lease until `shutdown`. `node_uid` is asked for each time, as the node may be registered anew.
pub async fn run(
    mut hub: ApiClient,
    config: AgentConfig,
    node_uid: watch::Receiver<Option<String>>,
    verified: watch::Sender<Verified>,
    registry: StatusRegistry,
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
        let connection = hub.connection_number();
        let (known, confirmed) = {
            let verified = verified.borrow();
            (verified.state.clone(), verified.confirmed.clone())
        };
        let is_known = published.as_ref() == Some(&owner);
        // A renewal that hangs must not outlive the lease; another may get through.
        let patience = config.lease_renew_period.max(Duration::from_secs(5)) * 2;
        let renewal = renew(&hub, &config, owner.as_deref(), is_known, known.as_ref(), &confirmed, &registry);
        let renewed = tokio::time::timeout(patience, renewal)
            .await
            .unwrap_or_else(|_| Err(ApiError::Timeout { act: "the renewal of the Lease".to_owned() }));
        match renewed {
            Ok(state) => {
                published = Some(owner);
                let confirmed = match (&state, known) {
                    (Some(now), Some(before))
                        if before.lease_uid == now.lease_uid && before.revision <= now.revision =>
                    {
                        before
                    }
                    (Some(now), _) => HubState { lease_uid: now.lease_uid.clone(), ..HubState::default() },
                    (None, _) => confirmed,
                };
                verified.send_replace(Verified { connection, state, confirmed });
            }
            Err(error) => {
                debug!(%error, "Failed to renew the node's Lease.");
                published = None;
                if matches!(error.code(), Some(403)) {
                    // A hub that does not let the node see its Lease cannot be reported from another by it.
                    verified.send_replace(Verified { connection, state: None, confirmed });
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

async fn renew(
    hub: &ApiClient,
    config: &AgentConfig,
    owner: Option<&str>,
    is_known: bool,
    known: Option<&HubState>,
    confirmed: &HubState,
    registry: &StatusRegistry,
) -> Result<Option<HubState>, ApiError> {
    let name = &config.node_name;
    let path = format!("{LEASES}/{name}");
    let now = micros(Timestamp::now());
    if let (true, Some(known)) = (is_known, known) {
        // Every few seconds for as long as the node lives: what this costs is most of what an idle node costs its link. So it does
        // not name the uid, which the answer has.
        let patch = json!({"metadata": {"resourceVersion": known.revision.to_string()}, "spec": {"renewTime": now}});
        match hub.patch_for_version(&path, "Lease", &patch).await {
            Ok(renewed) if renewed.uid == known.lease_uid => {
                return Ok(Some(HubState { lease_uid: renewed.uid, revision: renewed.revision, seen: 0 }));
            }
            Ok(_) => {}
            Err(error) if matches!(error.code(), Some(404 | 409 | 422)) => {}
            Err(error) => return Err(error),
        }
    }
    // The first time, and whenever it is another than the one that was renewed last, all of it is looked at and set right.
    match hub.get(&path, "Lease").await {
        Ok(found) => {
            let found_state = HubState { lease_uid: found.uid().to_owned(), revision: found.revision(), seen: 0 };
            if !confirmed.continues_as(&found_state) {
                warn!(
                    "The hub does not know the last renewal of this node's Lease: it was restored, or is another one."
                );
                return Ok(Some(found_state));
            }
            if is_known && known.is_some_and(|known| known.revision < found_state.revision) {
                let holder = found.field("spec")["holderIdentity"].as_str().unwrap_or_default();
                let text = format!(
                    "somebody else renews the Lease of node {name} (holder `{holder}`): is there another box of this name?"
                );
                warn!("{text}");
                registry.error(text);
            }
            let mut metadata = untracked();
            if let Some(owners) = owner.map(|uid| owners(name, uid)) {
                set_field(&mut metadata, "ownerReferences", owners);
            }
            let patch = json!({"spec": spec(config, &now), "metadata": metadata});
            hub.patch(&path, Patch::Merge, &patch).await.map(state_of)
        }
        Err(error) if error.code() == Some(404) => {
            create(hub, config, owner, &now).await?;
            hub.patch(&path, Patch::Merge, &json!({"metadata": untracked()})).await.map(state_of)
        }
        Err(error) => Err(error),
    }
}

/// Metadata by which the hub forgets who has written which field. It would be in the answer to every renewal, 300 bytes of it, and
/// nobody else writes this Lease. What has none is given none by later updates.
fn untracked() -> Value {
    json!({"managedFields": [{}]})
}

/// What an answer shows of the hub; `None` when it is no Lease.
fn state_of(lease: Value) -> Option<HubState> {
    let lease = Object::of_kind(lease, "Lease").ok()?;
    Some(HubState { lease_uid: lease.uid().to_owned(), revision: lease.revision(), seen: 0 })
}

async fn create(hub: &ApiClient, config: &AgentConfig, owner: Option<&str>, now: &str) -> Result<Value, ApiError> {
    let mut metadata = json!({"name": config.node_name, "namespace": "kube-node-lease"});
    if let (Some(uid), Some(metadata)) = (owner, metadata.as_object_mut()) {
        metadata.insert("ownerReferences".to_owned(), owners(&config.node_name, uid));
    }
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec(config, now),
    });
    hub.create(LEASES, &lease).await
}

fn spec(config: &AgentConfig, now: &str) -> Value {
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
