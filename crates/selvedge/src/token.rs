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

/// What a token allows.
pub struct TokenOptions {
    /// How long it may be used.
    pub ttl: Duration,
    /// The only node that may join with it.
    pub node_name: Option<String>,
    /// How many boxes may join with it.
    pub uses: u16,
    /// Labels of the nodes that join with it, `KEY=VALUE`.
    pub labels: Vec<String>,
}

/// Makes a token and prints it alone on a line, so that a script can take it.
pub async fn create(args: TokenCreateArgs) -> Result<()> {
    let data_dir = DataDir::new(args.data_dir)?;
    let ttl = api_edge::go_duration::parse(&args.ttl).context("failed to read --ttl")?;
    args.labels.iter().try_for_each(|label| check_label(label))?;
    let client = client(&data_dir.kubeconfig()).await?;
    let ca_path = data_dir.hub().join("pki/ca.crt");
    let ca = std::fs::read_to_string(&ca_path).with_context(|| format!("failed to read {}", ca_path.display()))?;
    let options = TokenOptions { ttl, node_name: args.node_name, uses: args.uses, labels: args.labels };
    println!("{}", create_with(&client, &ca, &options).await?);
    Ok(())
}

/// Makes a token for the hub behind `client`, whose CA is `ca_pem`.
pub async fn create_with(client: &kube::Client, ca_pem: &str, options: &TokenOptions) -> Result<JoinToken> {
    let token = JoinToken::generate(base_pki::ca_fingerprint(ca_pem)?)?;
    let end = SystemTime::now().checked_add(options.ttl).context("--ttl lies beyond the calendar")?;
    let expiration = jiff::Timestamp::try_from(end).context("--ttl lies beyond the calendar")?;
    let mut secret = json!({
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
            "uses": options.uses.to_string(),
        },
    });
    if let Some(name) = &options.node_name {
        secret["stringData"]["node-name"] = name.as_str().into();
    }
    if !options.labels.is_empty() {
        secret["stringData"]["registration-labels"] = options.labels.join(",").into();
    }
    let secret: Secret = serde_json::from_value(secret).context("a bootstrap token is a Secret")?;
    Api::<Secret>::namespaced(client.clone(), "kube-system")
        .create(&PostParams::default(), &secret)
        .await
        .context("failed to store the token on the hub")?;
    Ok(token)
}

/// A label that is wrong would only show when the node joins.
fn check_label(label: &str) -> Result<()> {
    let is_text = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let is_good = label.split_once('=').is_some_and(|(key, value)| {
        let (prefix, name) = key.split_once('/').unwrap_or(("", key));
        !name.is_empty() && name.len() <= 63 && value.len() <= 63 && [prefix, name, value].into_iter().all(is_text)
    });
    anyhow::ensure!(is_good, "--label {label:?} is not of the form KEY=VALUE with letters, digits, `-`, `_` and `.`");
    Ok(())
}
