//! Who may have which certificate: a plain function of the request, its sender and the node it speaks of.
//!
//! Two signers are approved without a person, as kubeadm sets clusters up: a node's client certificate, requested with a
//! bootstrap token or by the node itself, and a node's serving certificate, requested by the node itself. Whatever a
//! person approved is signed for these and for `kube-apiserver-client`, but never for the administrators' group.

use std::net::IpAddr;

use base_pki::{CsrInfo, San, Usage};

use hub_runtime::views::{CsrSpecView, NodeAddress};

pub(crate) const SIGNER_NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const SIGNER_NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const SIGNER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// The group of join tokens' bearers.
pub(crate) const GROUP_BOOTSTRAPPERS: &str = "system:bootstrappers";

/// Common names of nodes begin with this.
pub(crate) const NODE_PREFIX: &str = "system:node:";

/// Which names nodes may not have, because they are the hub's.
#[derive(Clone, Debug, Default)]
pub struct NamePolicy {
    /// Names and addresses by which people and nodes know the hub.
    pub hub_names: Vec<San>,
}

impl NamePolicy {
    /// Whether a name is one of the hub's.
    pub fn is_hub_name(&self, name: &str) -> bool {
        self.hub_names.iter().any(|san| matches!(san, San::Dns(held) if held.eq_ignore_ascii_case(name)))
    }
}

/// What a request deserves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its signer is none of ours.
    Ignore,
    /// It can never be signed: the reason, for its `Failed` condition.
    Fail(String),
    /// It may be signed once a person has approved it; why nobody else does.
    NeedsApproval(Usage, &'static str),
    /// Nobody needs to be asked.
    AutoApprove(Usage),
}

/// What is known of the node that a request speaks of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeFacts<'a> {
    /// `status.addresses`; `None` when there is no such node.
    pub addresses: Option<&'a [NodeAddress<'a>]>,
}

/// The node that a common name speaks of.
pub(crate) fn node_of(cn: &str) -> Option<&str> {
    cn.strip_prefix(NODE_PREFIX).filter(|node| !node.is_empty())
}

/// Decides.
pub(crate) fn judge(spec: &CsrSpecView<'_>, info: &CsrInfo, node: NodeFacts<'_>, policy: &NamePolicy) -> Verdict {
    let signer = &*spec.signer_name;
    if ![SIGNER_NODE_CLIENT, SIGNER_NODE_SERVING, SIGNER_CLIENT].contains(&signer) {
        return Verdict::Ignore;
    }
    let usage = match is_wellformed(spec, info, policy) {
        Ok(usage) => usage,
        Err(reason) => return Verdict::Fail(reason),
    };
    let is_itself = *spec.username == *info.cn;
    let is_bootstrapper = spec.groups.iter().any(|group| **group == *GROUP_BOOTSTRAPPERS);
    match signer {
        SIGNER_NODE_CLIENT if is_itself || is_bootstrapper => Verdict::AutoApprove(usage),
        SIGNER_NODE_SERVING if is_itself => match node.addresses {
            // A node's addresses change, and are reported: the request is looked at again when they are.
            Some(addresses) if info.sans.iter().all(|san| is_address(san, &info.cn, addresses)) => {
                Verdict::AutoApprove(usage)
            }
            Some(_) => Verdict::NeedsApproval(usage, "it names addresses that the node has not reported"),
            None => Verdict::NeedsApproval(usage, "there is no such node yet"),
        },
        SIGNER_CLIENT => Verdict::NeedsApproval(usage, "a person decides about other clients"),
        _ => Verdict::NeedsApproval(usage, "neither the node itself nor a bootstrap token has sent it"),
    }
}

/// Whether the request is one that its signer could sign at all.
fn is_wellformed(spec: &CsrSpecView<'_>, info: &CsrInfo, policy: &NamePolicy) -> Result<Usage, String> {
    let signer = &*spec.signer_name;
    let (usage, required) = match signer {
        SIGNER_NODE_SERVING => (Usage::Server, "server auth"),
        _ => (Usage::Client, "client auth"),
    };
    let others = ["digital signature", "key encipherment", required];
    if let Some(other) = spec.usages.iter().find(|one| !others.contains(&&***one)) {
        return Err(format!("usage `{other}` is not among those of {signer}"));
    }
    if !spec.usages.iter().any(|usage| usage == required) {
        return Err(format!("{signer} needs the usage `{required}`"));
    }
    if info.orgs.iter().any(|org| org == "system:masters") {
        return Err("certificates for the group system:masters are not signed on request".to_owned());
    }
    if signer == SIGNER_CLIENT {
        return Ok(usage);
    }
    let Some(node) = node_of(&info.cn) else {
        return Err(format!("common name {:?} is not of the form system:node:NAME", info.cn));
    };
    if let Some(why) = api_edge::identity::bad_node_name(node) {
        return Err(why);
    }
    if policy.is_hub_name(node) {
        return Err(format!("{node} is a name of the hub, which no node may have; start the node with another name"));
    }
    if info.orgs != ["system:nodes"] {
        return Err("the organisation of a node's certificate is system:nodes".to_owned());
    }
    match signer {
        SIGNER_NODE_CLIENT if !info.sans.is_empty() => Err("a node's client certificate names no hosts".to_owned()),
        SIGNER_NODE_SERVING if info.sans.is_empty() => Err("a serving certificate names at least one host".to_owned()),
        SIGNER_NODE_SERVING => {
            let of_hub = info.sans.iter().find(|san| {
                matches!(san, San::Dns(name) if policy.is_hub_name(name) && !name.eq_ignore_ascii_case("localhost"))
            });
            of_hub.map_or(Ok(usage), |san| Err(format!("{san:?} is a name of the hub, not of node {node}")))
        }
        _ => Ok(usage),
    }
}

/// Whether a name or address is the node's: its own name, what it reported, or this machine as it calls itself. The
/// loopback is no danger, since a serving certificate is trusted by the hub's dialer only.
fn is_address(san: &San, cn: &str, addresses: &[NodeAddress<'_>]) -> bool {
    match san {
        San::Dns(name) => {
            name == "localhost"
                || node_of(cn) == Some(name)
                || addresses.iter().any(|address| address.address.eq_ignore_ascii_case(name))
        }
        San::Ip(ip) => ip.is_loopback() || addresses.iter().any(|address| address.address.parse::<IpAddr>() == Ok(*ip)),
    }
}
