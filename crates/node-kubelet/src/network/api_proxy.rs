//! The way from pods to the API: connections to the Service `kubernetes` end at the agent, which hands their bytes on to the hub that it
//! knows, wherever that is. TLS is between the pod and the hub.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use node_client::ApiClient;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::NodeNetwork;

/// Connections at a time; each costs the hub one.
const CONNECTIONS_MAX: usize = 256;
/// How long the hub is waited for.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// After an error of the listener, which is one of the machine (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`. Only pods, and programs of this machine, are let through.
pub(super) async fn run(
    listener: TcpListener,
    network: Arc<NodeNetwork>,
    client: ApiClient,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (pod, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "Failed to accept a connection to the API.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Without a place, or for others, it is closed at once.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (network, client, shutdown) = (network.clone(), client.clone(), shutdown.clone());
        base_observe::spawn_detached("api-proxy", async move {
            let _place = place;
            if is_ours(network, peer.ip()).await {
                shutdown.run_until_cancelled(hand_on(pod, &client)).await;
            }
        });
    }
}

/// Whether somebody is a pod, of whichever range (an uplink may have come that made another one necessary), or a program of this machine.
async fn is_ours(network: Arc<NodeNetwork>, address: IpAddr) -> bool {
    // The network may be at work for some milliseconds.
    address.is_loopback() || tokio::task::spawn_blocking(move || network.is_inside(&address)).await.unwrap_or(false)
}

async fn hand_on(mut pod: TcpStream, client: &ApiClient) {
    let Some(hub) = client.endpoint() else { return };
    let connect = TcpStream::connect((hub.host.as_str(), hub.port));
    match tokio::time::timeout(CONNECT_MAX, connect).await {
        Ok(Ok(mut hub)) => {
            // However it ends, both sides see it.
            let _ = tokio::io::copy_bidirectional(&mut pod, &mut hub).await;
        }
        Ok(Err(error)) => debug!(%error, "Failed to reach the hub for a pod."),
        Err(_) => debug!("The hub does not answer a pod."),
    }
}
