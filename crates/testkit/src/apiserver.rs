//! Kubernetes' own API server with its etcd, on loopback, to be asked and measured beside ours.
//!
//! `cargo xtask install kube-apiserver` builds both; where they are absent, [`KubeApiserver::start`] returns `None`. Where
//! `cargo xtask install kube-controller-manager` has built the controllers, [`KubeApiserver::start_controllers`] adds them. The server gets
//! certificates of its own (a CA, a serving certificate, an administrator of `system:masters`) and a kubeconfig, which all
//! clients of the tests read as they read a hub's. Dropping it ends all processes by their ids.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::program::tail;
use crate::wait::eventually;

/// It takes three seconds where nothing else runs.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Two processes and the directory that they write to, which the caller owns.
pub struct KubeApiserver {
    apiserver: Child,
    etcd: Child,
    controllers: Option<Child>,
    dir: PathBuf,
    address: String,
}

impl KubeApiserver {
    /// Starts both on free ports and waits until the server is ready; `None` where they are not built.
    ///
    /// # Errors
    /// When one of them ends, or is not ready in time.
    pub fn start(dir: &Path) -> Result<Option<Self>> {
        let programs = (std::env::var_os("SELVEDGE_KUBE_APISERVER"), std::env::var_os("SELVEDGE_ETCD"));
        let (Some(apiserver), Some(etcd)) = programs else { return Ok(None) };
        fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
        let [port, etcd_port, peer_port] = free_ports()?;
        write_certificates(dir, port)?;
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let mut command = Command::new(etcd);
        command.arg("--data-dir").arg(dir.join("etcd")).args(["--log-level", "error", "--name", "peer"]);
        command.args(["--listen-client-urls", &etcd_url, "--advertise-client-urls", &etcd_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("peer={peer_url}")]);
        let etcd = spawn(command, &dir.join("etcd.log"))?;
        let at = |name: &str| dir.join(name).display().to_string();
        let mut command = Command::new(apiserver);
        command.args(["--bind-address", "127.0.0.1", "--secure-port", &port.to_string(), "--etcd-servers", &etcd_url]);
        command.args(["--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction"]);
        command.args([
            "--service-cluster-ip-range",
            "10.96.0.0/16",
            "--enable-bootstrap-token-auth",
            "--endpoint-reconciler-type",
            "none",
        ]);
        command.args(["--service-account-issuer", "https://kubernetes.default.svc.cluster.local", "--v", "0"]);
        command.args([
            "--client-ca-file",
            &at("ca.pem"),
            "--tls-cert-file",
            &at("server.pem"),
            "--tls-private-key-file",
            &at("server.key"),
        ]);
        command.args([
            "--service-account-key-file",
            &at("tokens.pub"),
            "--service-account-signing-key-file",
            &at("tokens.key"),
        ]);
        command.args(["--cert-dir", &at("certs")]);
        let apiserver = spawn(command, &dir.join("apiserver.log"));
        // From here on `drop` ends what has been started.
        let mut server = match apiserver {
            Ok(apiserver) => {
                Self { apiserver, etcd, controllers: None, dir: dir.to_owned(), address: format!("127.0.0.1:{port}") }
            }
            Err(error) => {
                end(etcd);
                return Err(error);
            }
        };
        server.wait_ready()?;
        Ok(Some(server))
    }

    /// Starts Kubernetes' own controllers beside it, among them those that approve and sign certificates and those that sign
    /// `cluster-info`; `false` where they are not built.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn start_controllers(&mut self) -> Result<bool> {
        let Some(program) = std::env::var_os("SELVEDGE_KUBE_CONTROLLER_MANAGER") else { return Ok(false) };
        let [port] = free_ports()?;
        let at = |name: &str| self.dir.join(name).display().to_string();
        let mut command = Command::new(program);
        command.args(["--kubeconfig", &at("kubeconfig"), "--leader-elect=false"]);
        command.args(["--controllers", "*,bootstrap-signer-controller", "--secure-port", &port.to_string()]);
        command.args(["--bind-address", "127.0.0.1", "--cert-dir", &at("certs"), "--root-ca-file", &at("ca.pem")]);
        command.args(["--cluster-signing-cert-file", &at("ca.pem"), "--cluster-signing-key-file", &at("ca.key")]);
        command.args(["--service-account-private-key-file", &at("tokens.key"), "--v", "0"]);
        self.controllers = Some(spawn(command, &self.dir.join("controllers.log"))?);
        Ok(true)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let kubeconfig = self.kubeconfig();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let access = crate::wire::Access::kubeconfig(&kubeconfig)?;
        eventually("ready kube-apiserver", START_TIMEOUT, || {
            for (child, log) in [(&mut self.apiserver, "apiserver.log"), (&mut self.etcd, "etcd.log")] {
                if let Ok(Some(status)) = child.try_wait() {
                    let text = fs::read_to_string(self.dir.join(log)).unwrap_or_default();
                    return Ok(Err(anyhow::anyhow!("{log} ended with {status}:\n{}", tail(&text))));
                }
            }
            let ready = runtime.block_on(async { access.connect().await?.get("/readyz").await?.ok() });
            ready.map(|_| Ok(())).map_err(|error| format!("{error:#}"))
        })?
    }

    /// `ip:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The CA of the server and of its clients, for a [`crate::proxy::Proxy`] before it.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn ca(&self) -> Result<base_pki::Ca> {
        let read = |name: &str| {
            let path = self.dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
        };
        Ok(base_pki::Ca::load(&read("ca.pem")?, &read("ca.key")?)?)
    }

    /// Process ids of the server and of its etcd.
    pub fn pids(&self) -> [u32; 2] {
        [self.apiserver.id(), self.etcd.id()]
    }
}

impl Drop for KubeApiserver {
    fn drop(&mut self) {
        // The server first: without its store it would log in a loop. Neither has anything to bring to an end.
        for child in self.controllers.iter_mut().chain([&mut self.apiserver, &mut self.etcd]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let log = File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("failed to start {:?}", command.get_program()))
}

/// Ports that nobody listens on now. They are all taken at once, so that they differ.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut listeners = Vec::new();
    for _ in 0..N {
        listeners.push(TcpListener::bind("127.0.0.1:0").context("failed to find a free port")?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

fn named(name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name = subject;
    params
}

/// A CA, what the server shows, what the administrator shows, and the kubeconfig that holds it all.
fn write_certificates(dir: &Path, port: u16) -> Result<()> {
    let ca_key = KeyPair::generate().context("failed to generate a key")?;
    let mut ca = named("peer-ca", None);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca_pem = ca.self_signed(&ca_key).context("failed to sign a CA")?.pem();
    let ca_key_pem = ca_key.serialize_pem();
    let issuer = Issuer::new(ca, ca_key);
    let issue = |mut params: CertificateParams, usage: ExtendedKeyUsagePurpose| -> Result<(String, String)> {
        let key = KeyPair::generate().context("failed to generate a key")?;
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let certificate = params.signed_by(&key, &issuer).context("failed to sign a certificate")?;
        Ok((certificate.pem(), key.serialize_pem()))
    };
    let mut server = named("kube-apiserver", None);
    server.subject_alt_names = vec![
        SanType::IpAddress([127, 0, 0, 1].into()),
        SanType::DnsName(crate::wire::HUB_NAME.try_into().context("a name of a host")?),
        SanType::DnsName("localhost".try_into().context("a name of a host")?),
    ];
    let (server_pem, server_key) = issue(server, ExtendedKeyUsagePurpose::ServerAuth)?;
    let admin = named("kubernetes-admin", Some("system:masters"));
    let (admin_pem, admin_key) = issue(admin, ExtendedKeyUsagePurpose::ClientAuth)?;
    // What its tokens are signed with, and what they are checked by.
    let tokens = KeyPair::generate().context("failed to generate a key")?;
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: peer\nclusters:\n- name: peer\n  cluster:\n    server: https://127.0.0.1:{port}\n    \
         certificate-authority-data: {}\nusers:\n- name: admin\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
         contexts:\n- name: peer\n  context:\n    cluster: peer\n    user: admin\n",
        BASE64.encode(&ca_pem),
        BASE64.encode(&admin_pem),
        BASE64.encode(&admin_key)
    );
    for (name, text) in [
        ("ca.pem", ca_pem),
        ("ca.key", ca_key_pem),
        ("server.pem", server_pem),
        ("server.key", server_key),
        ("tokens.key", tokens.serialize_pem()),
        ("tokens.pub", tokens.public_key_pem()),
        ("kubeconfig", kubeconfig),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}
