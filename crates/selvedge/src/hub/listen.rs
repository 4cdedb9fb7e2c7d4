//! The hub's port and what it shows there: its listener, its certificates, and their renewal.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use base_http::{Address, Listener, Ports, PortsError, ServerTls};
use hub_pki::{HubCertificate, Pki, Renewable, Renewal};
use machinery_server::DirectTls;
use tracing::{info, warn};

use crate::config::HubConfig;
use crate::paths::DataDir;

/// Name of the hub's listener in `ports.json`.
const NAME: &str = "hub-api";

/// Everything of the port, before anything is served.
pub struct Port {
    pub listener: Listener,
    pub tls: ServerTls,
    /// How kubelets are reached, for logs.
    pub dialer: DirectTls,
    /// All of the hub that has an end.
    pub renewal: Renewal,
    /// For clients on this machine.
    pub url: String,
}

/// Binds the port and makes its certificates, as well as the administrator's kubeconfig.
pub fn open(data_dir: &DataDir, config: &HubConfig, pki: &Arc<Pki>, now: SystemTime) -> Result<Port> {
    // Before the listener, whose limits follow it.
    if let Err(error) = base_http::raise_file_limit() {
        warn!(%error, "Failed to raise the limit of open files; the hub serves as many nodes as the current one allows.");
    }
    let listener = bind(data_dir.path(), config.listen)?;
    let url = local_url(listener.address()).context("the hub listens on TCP")?;

    let names = hub_pki::hub_names(&config.public_names, config.listen);
    let serving = pki.issue(HubCertificate::Serving, &names, now)?;
    let tls =
        ServerTls::new(&serving.cert_pem, &serving.key_pem, Some(pki.ca_pem())).context("failed to set up TLS")?;
    let shown = pki.issue(HubCertificate::Dialer, &[], now)?;
    let trust = pki.dialer_trust();
    let dialer = DirectTls::new(&trust, &shown.cert_pem, &shown.key_pem).context("failed to set up TLS")?;
    let (next_tls, next_dialer) = (tls.clone(), dialer.clone());
    let renewal = Renewal::new(vec![
        Renewable::certificate(pki, HubCertificate::Serving, names, &serving, move |next| {
            next_tls.replace(&next.cert_pem, &next.key_pem)
        })?,
        Renewable::certificate(pki, HubCertificate::Dialer, Vec::new(), &shown, move |next| {
            next_dialer.replace(&trust, &next.cert_pem, &next.key_pem)
        })?,
        Renewable::kubeconfig(pki, data_dir.kubeconfig(), url.clone(), now)?,
    ]);
    Ok(Port { listener, tls, dialer, renewal, url })
}

/// Where clients on this machine find a hub that listens here: on loopback, unless it has one address only.
fn local_url(address: &Address) -> Option<String> {
    let Address::Tcp(address) = address else { return None };
    // Of IPv4, also where it listens on all of IPv6: that takes both, and a container may have no `::1`.
    let ip = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    Some(format!("https://{}", SocketAddr::new(ip, address.port())))
}

/// Binds what the settings say. A free port, when they leave the choice open, is the one of the last start where that is
/// still free: the nodes of this hub know it by that.
fn bind(data_dir: &Path, listen: SocketAddr) -> Result<Listener> {
    let recorded = Ports::read(data_dir).ok().and_then(|ports| ports.listeners.get(NAME)?.parse::<SocketAddr>().ok());
    if listen.port() == 0
        && let Some(last) = recorded
    {
        match Listener::bind(NAME, SocketAddr::new(listen.ip(), last.port())) {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                warn!(%error, "The port of the last start is not free; nodes must be given the new one with --hub.");
            }
        }
    }
    Listener::bind(NAME, listen).context("the hub's setting is `listen`")
}

/// Records the port for people, tools and the next start. A full disk does not keep a hub from serving the nodes it has.
pub fn record(data_dir: &Path, address: &Address) -> Result<()> {
    match Ports::record(data_dir, NAME, address) {
        Err(PortsError::Write(error)) if error.is_disk_full() => {
            warn!("The disk is full: {NAME} was not recorded in ports.json.");
        }
        recorded => recorded?,
    }
    info!(%address, "The hub serves the Kubernetes API.");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_found_where_it_listens() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data_dir = DataDir::new(Some(dir.path().to_owned())).expect("a path");
        let now = SystemTime::now();
        let pki = Arc::new(Pki::open(&data_dir.hub().join("pki"), now).expect("a new hub"));
        for (listen, host) in
            [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("127.0.0.2:0", "127.0.0.2"), ("[::1]:0", "[::1]")]
        {
            let config = HubConfig { listen: listen.parse().expect("an address"), ..HubConfig::default() };
            let port = match open(&data_dir, &config, &pki, now) {
                Err(error) if listen.starts_with('[') => {
                    eprintln!("{listen} is left out: {error:#}");
                    continue;
                }
                port => port.expect("loopback is there"),
            };
            let number = port.listener.port().expect("TCP");
            assert_eq!(port.url, format!("https://{host}:{number}"));
            let kubeconfig = std::fs::read_to_string(data_dir.kubeconfig()).expect("it was written");
            assert!(kubeconfig.contains(&port.url), "{kubeconfig}");
        }
    }

    #[test]
    fn a_free_port_is_kept_across_starts_while_it_is_free() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let start = || {
            let listener = bind(dir.path(), free).expect("there is a free port");
            record(dir.path(), listener.address()).expect("space");
            listener
        };
        let first = start();
        let port = first.port();
        drop(first);
        let second = start();
        assert_eq!(second.port(), port);
        // While it is taken, there is another one.
        let third = start();
        assert_ne!(third.port(), port);
        // A port that the settings name is that one.
        let named = SocketAddr::from(([127, 0, 0, 1], port.expect("TCP")));
        drop((second, third));
        assert_eq!(bind(dir.path(), named).expect("it is free again").port(), port);
    }
}
