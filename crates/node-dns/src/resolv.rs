//! `resolv.conf`: the node's, where upstreams come from, and a pod's, as its `dnsPolicy` and `dnsConfig` say.

use std::net::IpAddr;

/// Bytes of a file that is read: what is larger is none.
pub(crate) const FILE_BYTES_MAX: usize = 64 << 10;
/// Servers of a pod (`MaxDNSNameservers` of Kubernetes, and what resolvers take).
pub const NAMESERVERS_MAX: usize = 3;
/// Search paths of a pod (`MaxDNSSearchPaths`).
pub const SEARCHES_MAX: usize = 32;
/// Bytes of all search paths of a pod, with a space between two (`MaxDNSSearchListChars`).
pub const SEARCH_CHARS_MAX: usize = 2_048;

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver`
    pub nameservers: Vec<IpAddr>,
    /// Of the last `search` or `domain`.
    pub searches: Vec<String>,
    /// `options`, as they stand.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a file's text. What is not understood is left out, as resolvers do.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut parts = line.split_ascii_whitespace();
            match parts.next() {
                Some("nameserver") => {
                    // A link-local server carries its interface (`fe80::1%eth0`), which no address has here.
                    conf.nameservers.extend(parts.next().and_then(|text| text.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => {
                    conf.searches = parts.map(|search| search.trim_end_matches('.').to_owned()).collect();
                    conf.searches.retain(|search| !search.is_empty());
                }
                Some("options") => conf.options.extend(parts.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }
}

impl std::fmt::Display for ResolvConf {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.searches.is_empty() {
            writeln!(formatter, "search {}", self.searches.join(" "))?;
        }
        for server in &self.nameservers {
            writeln!(formatter, "nameserver {server}")?;
        }
        if !self.options.is_empty() {
            writeln!(formatter, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

/// `spec.dnsPolicy` of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsPolicy {
    /// The cluster's names first; a pod in the host's network has the node's, as upstream decides it.
    #[default]
    ClusterFirst,
    /// The cluster's names first, in the host's network as well.
    ClusterFirstWithHostNet,
    /// The node's own.
    Default,
    /// Only what `dnsConfig` says.
    None,
}

/// `spec.dnsConfig` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodDnsConfig {
    /// `nameservers`
    pub nameservers: Vec<IpAddr>,
    /// `searches`
    pub searches: Vec<String>,
    /// `options`: name and value.
    pub options: Vec<(String, Option<String>)>,
}

/// What a pod's `resolv.conf` is made from.
#[derive(Clone, Debug, Default)]
pub struct PodDns<'a> {
    /// Its policy.
    pub policy: DnsPolicy,
    /// It is in the host's network.
    pub is_host_network: bool,
    /// Its namespace.
    pub namespace: &'a str,
    /// `cluster.local`
    pub domain: &'a str,
    /// Where this node's responder listens.
    pub servers: &'a [IpAddr],
    /// The node's own `resolv.conf`.
    pub node: Option<&'a ResolvConf>,
    /// Its `dnsConfig`.
    pub config: Option<&'a PodDnsConfig>,
}

/// A pod's `resolv.conf`, and what of it was left out by Kubernetes' limits.
pub fn resolv_conf(pod: &PodDns<'_>) -> (String, Vec<&'static str>) {
    let mut conf = by_policy(pod);
    if let Some(config) = pod.config {
        merge(&mut conf, config);
    }
    let left_out = limit(&mut conf);
    (conf.to_string(), left_out)
}

fn by_policy(pod: &PodDns<'_>) -> ResolvConf {
    let is_cluster_first = match pod.policy {
        DnsPolicy::None => return ResolvConf::default(),
        DnsPolicy::Default => false,
        DnsPolicy::ClusterFirst => !pod.is_host_network,
        DnsPolicy::ClusterFirstWithHostNet => true,
    };
    let node = pod.node.cloned().unwrap_or_default();
    // A node without a responder gives what it has itself, as a kubelet without cluster DNS does.
    if !is_cluster_first || pod.servers.is_empty() {
        return node;
    }
    let domain = pod.domain.trim_end_matches('.');
    let mut searches = vec![format!("{}.svc.{domain}", pod.namespace), format!("svc.{domain}"), domain.to_owned()];
    for search in node.searches {
        if !searches.contains(&search) {
            searches.push(search);
        }
    }
    ResolvConf { nameservers: pod.servers.to_vec(), searches, options: vec!["ndots:5".into()] }
}

/// Servers and search paths of the pod are added, its options replace those of the same name.
fn merge(conf: &mut ResolvConf, config: &PodDnsConfig) {
    for server in &config.nameservers {
        if !conf.nameservers.contains(server) {
            conf.nameservers.push(*server);
        }
    }
    for search in &config.searches {
        // A line break would be a line of its own.
        let search = search.trim_end_matches('.');
        let is_one = !search.is_empty() && !search.contains(|character: char| character.is_whitespace());
        if is_one && !conf.searches.iter().any(|known| known == search) {
            conf.searches.push(search.to_owned());
        }
    }
    for (name, value) in &config.options {
        let text = value.as_deref().filter(|value| !value.is_empty());
        let option = text.map_or_else(|| name.clone(), |value| format!("{name}:{value}"));
        if option.is_empty() || option.contains(|character: char| character.is_whitespace()) {
            continue;
        }
        conf.options.retain(|known| known.split(':').next() != Some(name));
        conf.options.push(option);
    }
}

fn limit(conf: &mut ResolvConf) -> Vec<&'static str> {
    let mut left_out = Vec::new();
    if conf.nameservers.len() > NAMESERVERS_MAX {
        conf.nameservers.truncate(NAMESERVERS_MAX);
        left_out.push("nameservers");
    }
    let mut chars = 0;
    let fitting = conf
        .searches
        .iter()
        .take(SEARCHES_MAX)
        .take_while(|search| {
            chars += search.len() + usize::from(chars > 0);
            chars <= SEARCH_CHARS_MAX
        })
        .count();
    if fitting < conf.searches.len() {
        conf.searches.truncate(fitting);
        left_out.push("searches");
    }
    left_out
}

#[cfg(test)]
mod tests;
