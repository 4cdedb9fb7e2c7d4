//! The CA of a cluster for a node that has nothing but a bootstrap token: `cluster-info`, as `kubeadm join` reads it.
//!
//! Everybody may read that ConfigMap, from whoever answers: what it holds is believed for its signature, which only those can make
//! who know the token. So every holder of the token could play the cluster to this node. A CA in the configuration, or a token that
//! carries its hash, leaves that to the holder of the CA's key.

use api_kube::base64_text;
use base_pki::{JoinToken, PinnedCa};
use serde::Deserialize;

use super::{JoinError, over};
use crate::identity::IdentityError;

const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
/// A CA or two; what is longer is something else.
const KUBECONFIG_BYTES_MAX: usize = 256 * 1024;

/// What is read of the kubeconfig in it. Its addresses are not: the configuration says where the cluster is.
#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    certificate_authority_data: String,
}

/// The CA of the cluster at `url` in PEM, as the cluster has signed it with the token.
pub(super) async fn cluster_ca(url: &str, token: &JoinToken) -> Result<String, JoinError> {
    let fail = |reason: String| JoinError::Discovery { url: url.to_owned(), reason };
    let tls = PinnedCa::anyone().client_config().map_err(IdentityError::from)?;
    // The token is not sent: who answers may be anybody.
    let found = over(url, tls, None, async |hub| hub.get(CLUSTER_INFO, "ConfigMap").await).await?;
    let info = match found {
        Ok(info) => info,
        Err(error) if matches!(error.code(), Some(401 | 403 | 404)) => {
            return Err(fail("nobody may read its ConfigMap kube-public/cluster-info, or there is none".to_owned()));
        }
        Err(error) => return Err(JoinError::Request(error)),
    };
    let text = |key: &str| info.field("data").get(key).and_then(serde_json::Value::as_str);
    read(text("kubeconfig"), text(&format!("jws-kubeconfig-{}", token.id)), token).map_err(fail)
}

fn read(kubeconfig: Option<&str>, signature: Option<&str>, token: &JoinToken) -> Result<String, String> {
    let kubeconfig = kubeconfig.filter(|text| text.len() <= KUBECONFIG_BYTES_MAX);
    let kubeconfig = kubeconfig.ok_or("its cluster-info holds no kubeconfig")?;
    let signature = signature
        .ok_or_else(|| format!("its cluster-info is not signed with token {}: the token is unknown there, has expired, or lacks `usage-bootstrap-signing`", token.id))?;
    if !token.verify(signature, kubeconfig.as_bytes()) {
        return Err(format!(
            "its cluster-info is signed by somebody who does not know the secret of token {}",
            token.id
        ));
    }
    let kubeconfig: Kubeconfig =
        serde_saphyr::from_str(kubeconfig).map_err(|error| format!("its cluster-info cannot be read: {error}"))?;
    let data = kubeconfig.clusters.first().map(|named| &*named.cluster.certificate_authority_data);
    let pem = data.and_then(|data| base64_text::decode(data).ok()).and_then(|bytes| String::from_utf8(bytes).ok());
    let pem = pem.ok_or("its cluster-info holds no CA")?;
    base_pki::certificates(&pem).map_err(|error| format!("the CA in its cluster-info cannot be used: {error}"))?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_in_a_signed_cluster_info_is_taken_and_every_other_is_not() {
        let token: JoinToken = "abcdef.0123456789abcdef".parse().unwrap();
        let kubeconfig = include_str!("../../../base-pki/src/tests/cluster-info.yaml");
        let signature = include_str!("../../../base-pki/src/tests/cluster-info.jws").trim();
        assert!(base_pki::ca_fingerprint(&read(Some(kubeconfig), Some(signature), &token).unwrap()).is_ok());
        let changed = kubeconfig.replace("cluster.example", "another.example");
        let other: JoinToken = "abcdef.0123456789abcdee".parse().unwrap();
        for (kubeconfig, signature, token, why) in [
            (None, Some(signature), &token, "no kubeconfig"),
            (Some(kubeconfig), None, &token, "not signed with token abcdef"),
            (Some(&*changed), Some(signature), &token, "does not know the secret"),
            (Some(kubeconfig), Some(signature), &other, "does not know the secret"),
        ] {
            let error = read(kubeconfig, signature, token).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
