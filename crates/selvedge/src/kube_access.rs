//! Clients for the hub, from a kubeconfig.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::paths::DataDir;

/// A request of a tool waits no longer than a person does.
const TOOL_TIMEOUT: Duration = Duration::from_secs(10);

/// A client for a person's tools, for the hub of a data directory: `token`, `status`.
pub async fn client(data_dir: &DataDir) -> Result<Client> {
    let path = data_dir.kubeconfig();
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => bail!(
            "{} is not the data directory of a hub that has started once: it has no kubeconfig; name the hub's with --data-dir, or start one there with `selvedge hub --data-dir {}`",
            data_dir.path().display(),
            data_dir.path().display()
        ),
        text => text.with_context(|| format!("failed to read {}", path.display()))?,
    };
    // From the text and not from the path, which the library's errors would name again.
    let file = Kubeconfig::from_yaml(&text)
        .with_context(|| format!("failed to use {}; the hub writes it anew when it starts", path.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("failed to use {}", path.display()))?;
    config.connect_timeout = Some(TOOL_TIMEOUT);
    config.read_timeout = Some(TOOL_TIMEOUT);
    Client::try_from(config).context("failed to set up a client for the hub")
}

/// The same failure in a person's words: what the hub of a data directory said or did not say, and what may be done. A client
/// library's own words are for those who debug it.
pub fn explained(error: anyhow::Error, data_dir: &DataDir) -> anyhow::Error {
    let mut acts = Vec::new();
    let mut said = None;
    for cause in error.chain() {
        if let Some(cause) = cause.downcast_ref::<kube::Error>() {
            said = words(cause, data_dir);
            break;
        }
        acts.push(cause.to_string());
    }
    let Some(said) = said else { return error };
    acts.into_iter().rev().fold(said, anyhow::Error::context)
}

/// What a failed request to the hub means; `None` for what is no request's.
fn words(error: &kube::Error, data_dir: &DataDir) -> Option<anyhow::Error> {
    let server = Kubeconfig::read_from(data_dir.kubeconfig()).ok().and_then(|file| {
        let cluster = file.clusters.into_iter().next()?.cluster?;
        cluster.server
    });
    let at = server.map(|server| format!(" at {server}")).unwrap_or_default();
    let dir = data_dir.path().display();
    // Hub and node share a directory where `up` has made both.
    let role = if data_dir.node().exists() { "up" } else { "hub" };
    let anew = format!("`selvedge {role} --data-dir {dir}` writes the kubeconfig anew when it starts");
    Some(match error {
        kube::Error::Service(_) => {
            let why = base_observe::last_cause(error);
            match tls_error(error) {
                Some(rustls::Error::InvalidCertificate(_)) => anyhow!(
                    "who answers{at} is not the hub of this kubeconfig: {why}; look whether another hub listens there, or name the data directory of the one that does with --data-dir: {anew}"
                ),
                Some(rustls::Error::AlertReceived(_)) => {
                    anyhow!("the hub{at} does not take the certificate of this kubeconfig: {why}; {anew}")
                }
                _ => anyhow!(
                    "the hub{at} does not answer: {why}; if it does not run, start it with `selvedge {role} --data-dir {dir}`"
                ),
            }
        }
        kube::Error::Api(status) => {
            let message = status.message.trim_end_matches('.');
            match status.code {
                401 => anyhow!("the hub{at} does not know who asks: {message}; {anew}"),
                403 => anyhow!(
                    "the hub{at} does not allow it: {message}; name the data directory of the hub itself with --data-dir, whose kubeconfig may do this"
                ),
                code => anyhow!(
                    "the hub{at} answered with {code}{}: {message}; its log says more",
                    if status.reason.is_empty() { String::new() } else { format!(" {}", status.reason) }
                ),
            }
        }
        kube::Error::SerdeError(why) => anyhow!(
            "what answers{at} is no hub of this version: {why}; look whether another program listens there, or use the `selvedge` of the hub"
        ),
        kube::Error::HyperError(_) => anyhow!(
            "the hub{at} stopped answering: {}; try again, and see its log if it happens again",
            base_observe::last_cause(error)
        ),
        _ => return None,
    })
}

/// The failure of TLS among the causes of an error. One within an I/O error is no cause of it.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.into_iter().find_map(|cause| match cause.downcast_ref::<std::io::Error>() {
        Some(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
        None => cause.downcast_ref(),
    })
}

#[cfg(test)]
mod tests {
    //! What people read when a hub does not answer as it should.

    use kube::core::Status;

    use super::*;

    /// The words for a failure of the client library, on the way to listing Nodes.
    fn said(error: kube::Error) -> String {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = "clusters: [{name: hub, cluster: {server: 'https://127.0.0.1:6443'}}]";
        let data_dir = DataDir::new(Some(dir.path().to_owned())).unwrap();
        std::fs::create_dir_all(data_dir.kubeconfig().parent().unwrap()).unwrap();
        std::fs::write(data_dir.kubeconfig(), kubeconfig).unwrap();
        let error = anyhow::Error::new(error).context("failed to list Nodes");
        format!("{:#}", explained(error, &data_dir)).replace(&dir.path().display().to_string(), "DIR")
    }

    fn api(code: u16, reason: &str, message: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, reason).with_code(code).boxed())
    }

    fn service(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> kube::Error {
        kube::Error::Service(Box::new(std::io::Error::other(error)))
    }

    #[test]
    fn each_failure_is_a_sentence_with_the_next_step() {
        let forbidden = r#"nodes is forbidden: User "eve" cannot list resource "nodes""#;
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let refused = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        let no_json = serde_json::from_str::<u8>("<html>").unwrap_err();
        for (error, begin, step) in [
            (
                api(403, "Forbidden", forbidden),
                &*format!("the hub at https://127.0.0.1:6443 does not allow it: {forbidden}; "),
                "name the data directory of the hub itself with --data-dir",
            ),
            (
                api(401, "Unauthorized", "Unauthorized"),
                "the hub at https://127.0.0.1:6443 does not know who asks: Unauthorized; ",
                "`selvedge hub --data-dir DIR` writes the kubeconfig anew",
            ),
            (
                api(503, "ServiceUnavailable", "the hub starts."),
                "the hub at https://127.0.0.1:6443 answered with 503 ServiceUnavailable: the hub starts; ",
                "its log says more",
            ),
            (
                service(untrusted),
                "who answers at https://127.0.0.1:6443 is not the hub of this kubeconfig: invalid peer certificate: UnknownIssuer; ",
                "look whether another hub listens there",
            ),
            (
                service(refused),
                "the hub at https://127.0.0.1:6443 does not take the certificate of this kubeconfig: received fatal alert: CertificateExpired; ",
                "writes the kubeconfig anew",
            ),
            (
                service("Connection refused"),
                "the hub at https://127.0.0.1:6443 does not answer: Connection refused; ",
                "start it with `selvedge hub --data-dir DIR`",
            ),
            (
                kube::Error::SerdeError(no_json),
                "what answers at https://127.0.0.1:6443 is no hub of this version: expected value",
                "use the `selvedge` of the hub",
            ),
        ] {
            let said = said(error);
            assert!(said.starts_with(&format!("failed to list Nodes: {begin}")) && said.contains(step), "{said}");
            for internal in ["Error:", "Some(", "Status {", "\n"] {
                assert!(!said.contains(internal), "{internal}: {said}");
            }
        }
    }
}
