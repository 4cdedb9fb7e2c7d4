//! The hub's own certificates: what it serves with, what it shows to kubelets, and its administrator's.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use base_pki::{IssueRequest, Issued, San, Usage};

use crate::authorities::{OpenPkiError, Pki};
use crate::renewal::is_due;

/// Certificates of the hub itself live a year; they are made anew at each start and in time before that.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// The group that may do everything, as in Kubernetes.
const GROUP_MASTERS: &str = "system:masters";

/// Which certificate of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HubCertificate {
    /// What it serves with.
    Serving,
    /// What its dialer shows to kubelets.
    Dialer,
}

impl Pki {
    /// Makes a certificate of the hub. One for serving has the CA behind it, since a joining node compares the CA with its
    /// token; `names` are the hub's.
    ///
    /// # Errors
    /// When it cannot be signed, for example because a name is none.
    pub fn issue(&self, which: HubCertificate, names: &[San], now: SystemTime) -> Result<Issued, OpenPkiError> {
        match which {
            HubCertificate::Serving => {
                let mut issued = self.sign("selvedge-hub", Usage::Server, names, now)?;
                issued.cert_pem.push_str(self.ca_pem());
                Ok(issued)
            }
            HubCertificate::Dialer => self.sign("system:selvedge:hub", Usage::Client, &[], now),
        }
    }

    /// The administrator's certificate: the one on disk while it is good for a while, else a new one.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn admin(&self, now: SystemTime) -> Result<Issued, OpenPkiError> {
        let (cert_path, key_path) = (self.dir.join("admin.crt"), self.dir.join("admin.key"));
        if let (Ok(cert_pem), Ok(key_pem)) = (fs::read_to_string(&cert_path), fs::read_to_string(&key_path))
            && base_pki::validity(&cert_pem).is_ok_and(|validity| !is_due(validity, now))
            // A file that was cut short, or that belongs to another certificate, would make a kubeconfig that nobody can use.
            && base_pki::is_pair(&cert_pem, &key_pem)
            // So would one of a former CA: a person may have replaced the CA's files and left these.
            && base_pki::is_client_of(self.ca_pem(), &cert_pem, now)
        {
            return Ok(Issued { cert_pem, key_pem });
        }
        let admin = self.sign("selvedge-admin", Usage::Client, &[], now)?;
        base_pki::write_private(&key_path, admin.key_pem.as_bytes())?;
        base_pki::write_public(&cert_path, admin.cert_pem.as_bytes())?;
        Ok(admin)
    }

    /// Writes the administrator's kubeconfig when it differs from the one that is there; returns the first and last second
    /// for which it is good.
    ///
    /// # Errors
    /// When the certificate or the kubeconfig cannot be made or written. A full disk is [`OpenPkiError::is_disk_full`].
    pub fn write_kubeconfig(&self, path: &Path, url: &str, now: SystemTime) -> Result<(i64, i64), OpenPkiError> {
        let admin = self.admin(now)?;
        let text = base_pki::kubeconfig(url, self.ca_pem(), &admin.cert_pem, &admin.key_pem);
        if !fs::read_to_string(path).is_ok_and(|held| held == text) {
            base_pki::write_private(path, text.as_bytes())?;
        }
        base_pki::validity(&admin.cert_pem)
            .map_err(|source| OpenPkiError::Make { what: "a kubeconfig".to_owned(), source })
    }

    fn sign(&self, cn: &str, usage: Usage, sans: &[San], now: SystemTime) -> Result<Issued, OpenPkiError> {
        let orgs = match usage {
            Usage::Client => vec![GROUP_MASTERS.to_owned()],
            Usage::Server => Vec::new(),
        };
        let request = IssueRequest { cn: cn.to_owned(), orgs, sans: sans.to_vec(), usage, validity: VALIDITY };
        let made = self.hub.sign_at(&request, now);
        made.map_err(|source| OpenPkiError::Make { what: format!("the certificate of {cn}"), source })
    }
}

/// What programs in pods call the API: the Service `kubernetes`, by its names and by its address, which is the first of the range.
const IN_CLUSTER: [&str; 5] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "10.96.0.1"];

/// Names of a hub that listens on `listen`: those of its settings, and those that this machine answers to.
pub fn hub_names(public_names: &[String], listen: SocketAddr) -> Vec<San> {
    let mut names: Vec<San> = ["localhost", "127.0.0.1", "::1"].into_iter().chain(IN_CLUSTER).map(San::from).collect();
    names.push(San::from(rustix::system::uname().nodename().to_string_lossy().as_ref()));
    names.extend(public_names.iter().map(|name| San::from(name.as_str())));
    if !listen.ip().is_unspecified() {
        names.push(San::Ip(listen.ip()));
    }
    names.extend(outward_address().map(San::Ip));
    let mut seen = Vec::with_capacity(names.len());
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// The address by which others see this machine; no packet is sent for this.
fn outward_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
