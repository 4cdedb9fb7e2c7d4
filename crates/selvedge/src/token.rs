//! `selvedge token create`: a bootstrap token Secret, and the text that a node is given.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use base_pki::JoinToken;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::cli::TokenCreateArgs;
use crate::exit;
use crate::kube_access::{client, explained};
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
    let ttl = check(&args)?;
    let data_dir = DataDir::new(args.data_dir)?;
    let client = client(&data_dir).await?;
    let ca_path = data_dir.hub().join("pki/ca.crt");
    let ca = std::fs::read_to_string(&ca_path).with_context(|| format!("failed to read {}", ca_path.display()))?;
    let options = TokenOptions { ttl, node_name: args.node_name, uses: args.uses, labels: args.labels };
    let token = create_with(&client, &ca, &options).await.map_err(|error| explained(error, &data_dir))?;
    println!("{token}");
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

/// Longest time that a token may be used: beyond this, whoever finds it in an old image joins.
const TTL_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// What is wrong would only show when the node joins. Answers how long the token may be used.
fn check(args: &TokenCreateArgs) -> Result<Duration> {
    let mut mistakes = Vec::new();
    let ttl = match api_edge::go_duration::parse(&args.ttl) {
        Ok(ttl) if ttl.is_zero() => {
            mistakes.push("--ttl: a token that may be used for no time is of no use; write such as 1h".to_owned());
            ttl
        }
        Ok(ttl) if ttl > TTL_MAX => {
            mistakes.push(format!("--ttl: {} is too long; ten years (87600h) are the most", args.ttl));
            ttl
        }
        Ok(ttl) => ttl,
        Err(error) => {
            mistakes.push(format!("--ttl: {error}"));
            Duration::ZERO
        }
    };
    let bad_name = args.node_name.as_deref().and_then(api_edge::identity::bad_node_name);
    mistakes.extend(bad_name.map(|why| format!("--node-name: {why}")));
    let bad_labels = args.labels.iter().filter(|label| !is_label(label));
    mistakes.extend(bad_labels.map(|label| {
        format!(
            "--label: {label:?} is not of the form KEY=VALUE; both have letters, digits, `-`, `_` and `.`, at most 63, and a key may have a DNS name and `/` before it; give --label once for each"
        )
    }));
    exit::mistakes(mistakes).map_or(Ok(ttl), Err)
}

fn is_label(label: &str) -> bool {
    use api_kube::names::{is_label_value, is_qualified_name};
    label.split_once('=').is_some_and(|(key, value)| is_qualified_name(key) && is_label_value(value))
}
