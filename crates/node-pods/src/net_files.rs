//! The files by which a program in an image finds itself and others: `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`.
//!
//! They are made anew for each start in the pod's directory, and mounted into its containers. A container that has a volume at one of
//! these places has the volume.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use node_dns::{DnsPolicy, PodDns, PodDnsConfig, ResolvConf, resolv_conf};
use node_runtime::Mount;

use crate::model::{Container, Pod};

/// More than any node's own file has in it.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

const HOSTS_HEAD: &str = "# Kubernetes-managed hosts file.\n\
127.0.0.1\tlocalhost\n\
::1\tlocalhost ip6-localhost ip6-loopback\n\
fe00::0\tip6-localnet\n\
fe00::0\tip6-mcastprefix\n\
fe00::1\tip6-allnodes\n\
fe00::2\tip6-allrouters\n";

/// Where names are answered on this node.
#[derive(Clone, Debug)]
pub struct NodeDns {
    /// `cluster.local`.
    pub domain: String,
    /// Addresses of the node's responder; none where it has none: pods then ask whom the node asks.
    pub servers: Vec<IpAddr>,
    /// The node's own `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The node's own `hosts`.
    pub hosts: PathBuf,
}

impl Default for NodeDns {
    fn default() -> Self {
        Self {
            domain: "cluster.local".to_owned(),
            servers: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        }
    }
}

/// Writes the files of a pod below `dir`; answers how a container sees them.
pub(crate) fn mounts(
    pod: &Pod,
    container: &Container,
    addresses: &[IpAddr],
    dns: &NodeDns,
    dir: &Path,
) -> Result<Vec<Mount>, String> {
    let dir = dir.join(".net");
    let files = [
        ("/etc/hosts", "hosts", hosts(pod, addresses, dns)),
        ("/etc/hostname", "hostname", format!("{}\n", pod.kernel_hostname(&dns.domain))),
        ("/etc/resolv.conf", "resolv.conf", resolver(pod, dns)),
    ];
    let mut mounts = Vec::new();
    for (path, name, text) in files {
        if container.volume_mounts.iter().any(|mount| Path::new(&mount.mount_path) == Path::new(path)) {
            continue;
        }
        let file = dir.join(name);
        write(&file, &text).map_err(|error| format!("failed to write {}: {error}", file.display()))?;
        mounts.push(Mount { host_path: file, container_path: path.into(), ..Mount::default() });
    }
    Ok(mounts)
}

/// In place: what runs already has the very file mounted. A container may write to it, so its length is not believed.
fn write(file: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::metadata(file).is_ok_and(|data| data.len() == text.len() as u64)
        && std::fs::read(file).is_ok_and(|present| present == text.as_bytes())
    {
        return Ok(());
    }
    use std::os::unix::fs::PermissionsExt as _;
    file.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(file, text)?;
    // Whoever the program runs as reads them.
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644))
}

fn hosts(pod: &Pod, addresses: &[IpAddr], dns: &NodeDns) -> String {
    let spec = &pod.spec;
    let mut text = match spec.host_network {
        true => format!("# Kubernetes-managed hosts file (host network).\n{}", read(&dns.hosts)),
        false => HOSTS_HEAD.to_owned(),
    };
    let hostname = pod.hostname();
    for address in addresses {
        let _ = match pod.fqdn(&dns.domain) {
            Some(fqdn) => writeln!(text, "{address}\t{fqdn}\t{hostname}"),
            None => writeln!(text, "{address}\t{hostname}"),
        };
    }
    if !spec.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in &spec.host_aliases {
            let _ = writeln!(text, "{}\t{}", alias.ip, alias.hostnames.join("\t"));
        }
    }
    text
}

fn resolver(pod: &Pod, dns: &NodeDns) -> String {
    let spec = &pod.spec;
    let config = PodDnsConfig {
        nameservers: spec.dns_config.nameservers.iter().filter_map(|server| server.parse().ok()).collect(),
        searches: spec.dns_config.searches.clone(),
        options: spec.dns_config.options.iter().map(|option| (option.name.clone(), option.value.clone())).collect(),
    };
    let policy = match spec.dns_policy.as_deref() {
        Some("Default") => DnsPolicy::Default,
        Some("None") => DnsPolicy::None,
        Some("ClusterFirstWithHostNet") => DnsPolicy::ClusterFirstWithHostNet,
        _ => DnsPolicy::ClusterFirst,
    };
    let node = ResolvConf::parse(&read(&dns.resolv_conf));
    let (text, _) = resolv_conf(&PodDns {
        policy,
        is_host_network: spec.host_network,
        namespace: &pod.metadata.namespace,
        domain: &dns.domain,
        servers: &dns.servers,
        node: Some(&node),
        config: Some(&config),
    });
    text
}

/// A file of the node; nothing where it has none.
fn read(path: &Path) -> String {
    use std::io::Read as _;
    let mut text = Vec::new();
    let opened = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text));
    if opened.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn check(spec: serde_json::Value, addresses: &[&str], expected: &[(&str, &str)]) {
        let dir = tempfile::tempdir().unwrap();
        let (hosts, resolv_conf) = (dir.path().join("hosts"), dir.path().join("resolv.conf"));
        std::fs::write(&hosts, "127.0.0.1 localhost box\n").unwrap();
        std::fs::write(&resolv_conf, "nameserver 10.0.0.53\nsearch example.com\n").unwrap();
        let dns = NodeDns { servers: vec!["169.254.20.10".parse().unwrap()], hosts, resolv_conf, ..NodeDns::default() };
        let pod = serde_json::json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        let pod = Pod::from_json(pod.to_string().as_bytes()).unwrap();
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let found = mounts(&pod, &pod.spec.containers[0], &addresses, &dns, dir.path()).unwrap();
        let modes = found.iter().map(|mount| std::fs::metadata(&mount.host_path).unwrap().permissions().mode() & 0o777);
        assert!(modes.into_iter().all(|mode| mode == 0o644));
        let text = |path: &str| {
            let mount = found.iter().find(|mount| mount.container_path == Path::new(path));
            mount.map(|mount| std::fs::read_to_string(&mount.host_path).unwrap()).unwrap_or_default()
        };
        for (path, expected) in expected {
            assert_eq!(text(path), *expected, "{path} of {}", pod.full_name());
        }
    }

    #[test]
    fn a_pod_finds_itself_its_aliases_and_the_clusters_names() {
        check(
            serde_json::json!({
                "containers": [{"name": "c"}], "hostname": "h", "subdomain": "sub",
                "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}],
            }),
            &["10.39.0.5", "fd00::5"],
            &[
                (
                    "/etc/hosts",
                    &format!(
                        "{HOSTS_HEAD}10.39.0.5\th.sub.shop.svc.cluster.local\th\nfd00::5\th.sub.shop.svc.cluster.local\th\n\n\
                         # Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
                    ),
                ),
                ("/etc/hostname", "h\n"),
                (
                    "/etc/resolv.conf",
                    "search shop.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver 169.254.20.10\n\
                     options ndots:5\n",
                ),
            ],
        );
        check(
            serde_json::json!({"containers": [{"name": "c"}], "subdomain": "sub", "setHostnameAsFQDN": true}),
            &[],
            &[("/etc/hostname", "web.sub.shop.svc.cluster.local\n")],
        );
        // Without a subdomain it has no name in the domain.
        let spec = serde_json::json!({"containers": [{"name": "c"}], "setHostnameAsFQDN": true});
        check(spec, &[], &[("/etc/hostname", "web\n")]);
        check(
            serde_json::json!({"containers": [{"name": "c"}], "hostNetwork": true}),
            &[],
            &[
                ("/etc/hosts", "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost box\n"),
                ("/etc/hostname", "web\n"),
                ("/etc/resolv.conf", "search example.com\nnameserver 10.0.0.53\n"),
            ],
        );
    }

    #[test]
    fn a_volume_in_the_place_of_such_a_file_stays() {
        let mounts = serde_json::json!([{"name": "v", "mountPath": "/etc/hosts"}]);
        check(serde_json::json!({"containers": [{"name": "c", "volumeMounts": mounts}]}), &[], &[("/etc/hosts", "")]);
    }
}
