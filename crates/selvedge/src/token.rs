//! `selvedge token create`: a bootstrap token Secret, and the text that a node is given.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use base_pki::JoinToken;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::cli::TokenCreateArgs;
use crate::kube_access::client;
use crate::paths::DataDir;

/// Makes a token and prints it alone on a line, so that a script can take it.
pub async fn create(args: TokenCreateArgs) -> Result<()> {
    let data_dir = DataDir::new(args.data_dir)?;
    let ttl = api_edge::go_duration::parse(&args.ttl).context("failed to read --ttl")?;
    let client = client(&data_dir.kubeconfig()).await?;
    let ca_path = data_dir.hub().join("pki/ca.crt");
    let ca = std::fs::read_to_string(&ca_path).with_context(|| format!("failed to read {}", ca_path.display()))?;
    println!("{}", create_with(&client, &ca, ttl).await?);
    Ok(())
}

/// Makes a token for the hub behind `client`, whose CA is `ca_pem`.
pub async fn create_with(client: &kube::Client, ca_pem: &str, ttl: Duration) -> Result<JoinToken> {
    let token = JoinToken::generate(base_pki::ca_fingerprint(ca_pem)?)?;
    let expiration = jiff::Timestamp::try_from(SystemTime::now() + ttl).context("--ttl lies beyond the calendar")?;
    let secret: Secret = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": token.id,
            "token-secret": token.secret,
            "expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "false",
        },
    }))
    .context("a bootstrap token is a Secret")?;
    Api::<Secret>::namespaced(client.clone(), "kube-system")
        .create(&PostParams::default(), &secret)
        .await
        .context("failed to store the token on the hub")?;
    Ok(token)
}
