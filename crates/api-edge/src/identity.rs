//! Who a node is: `NodeIdentity`, cluster-scoped, named as the node.
//!
//! The hub keeps one for each node that has ever joined, and refuses every key that is not in it. It survives
//! `kubectl delete node`, which revokes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `spec` of a `NodeIdentity`: which key may speak as the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeIdentitySpec {
    /// Whether any key may.
    #[serde(default)]
    pub state: NodeIdentityState,
    /// SHA-256 of the public keys that may, in lower-case hex: one, or two while a node renews its certificate, the newer
    /// one last. None at all is a node that joined before keys were bound: the first key that it shows is bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// How many boxes have borne the name, this one included.
    #[serde(default)]
    pub generation: u64,
    /// Whether the key has been used and its Node is there. From then on, no Node means that it was deleted.
    #[serde(default)]
    pub registered: bool,
    /// Id of the bootstrap token with which it joined.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// Labels that its Node is created with, from the token.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Why it was revoked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Whether a node's keys are good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum NodeIdentityState {
    /// They are.
    #[default]
    Active,
    /// None is; a new token is needed to join again.
    Revoked,
}

impl NodeIdentitySpec {
    /// Whether this key may speak as the node now.
    pub fn accepts(&self, key_sha256: &str) -> bool {
        self.state == NodeIdentityState::Active
            && (self.keys.is_empty() || self.keys.iter().any(|key| key == key_sha256))
    }

    /// Whether some box may.
    pub fn is_live(&self) -> bool {
        self.state == NodeIdentityState::Active
    }
}

/// Why this is no node's name, whoever asks for it; `None` when it is one. What comes from outside is shown escaped and cut.
pub fn bad_node_name(node: &str) -> Option<String> {
    use api_kube::names::{LABEL_BYTES_MAX, is_dns_subdomain};
    const SHOWN_CHARS: usize = 80;
    // A Node may have a longer name, but no label may: not the Node's own hostname, nor what says whose a request for a
    // certificate is. Such a node would use its token up and never register.
    if is_dns_subdomain(node) && node.len() <= LABEL_BYTES_MAX {
        return None;
    }
    let shown: String = node.chars().take(SHOWN_CHARS).collect();
    Some(format!(
        "{shown:?} is a bad name for a node: use lower-case letters, digits, `-` and `.`, at most {LABEL_BYTES_MAX}"
    ))
}
