use std::time::Duration;

use base_pki::{Ca, IssueRequest, Usage};
use tokio::net::TcpListener;

use super::*;

/// A TLS server on loopback that shows `chain` once.
async fn hub_that_shows(chain: Vec<String>, key: &str) -> String {
    let mut certificates = Vec::new();
    for pem in chain {
        certificates.extend(base_pki::certificates(&pem).unwrap());
    }
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, base_pki::private_key(key).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let _ = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(tcp).await;
    });
    format!("https://{address}")
}

fn server(ca: &Ca, name: &str) -> base_pki::Issued {
    ca.sign(&IssueRequest {
        cn: "hub".into(),
        orgs: vec![],
        sans: vec![name.into()],
        usage: Usage::Server,
        validity: Duration::from_secs(3600),
    })
    .unwrap()
}

#[tokio::test]
async fn the_hub_of_the_token_is_trusted() {
    let ca = Ca::create("hub").unwrap();
    let leaf = server(&ca, "kubernetes");
    let url = hub_that_shows(vec![leaf.cert_pem, ca.cert_pem().to_owned()], &leaf.key_pem).await;
    let found = fetch_ca(&url, &base_pki::ca_fingerprint(ca.cert_pem()).unwrap()).await.unwrap();
    assert_eq!(base_pki::ca_fingerprint(&found).unwrap(), base_pki::ca_fingerprint(ca.cert_pem()).unwrap());
}

#[tokio::test]
async fn another_hub_is_refused_by_name_of_both_fingerprints() {
    let (ca, other) = (Ca::create("hub").unwrap(), Ca::create("other").unwrap());
    let leaf = server(&other, "kubernetes");
    let url = hub_that_shows(vec![leaf.cert_pem, other.cert_pem().to_owned()], &leaf.key_pem).await;
    let desired = base_pki::ca_fingerprint(ca.cert_pem()).unwrap();
    let error = fetch_ca(&url, &desired).await.unwrap_err();
    assert!(error.is_refusal());
    let text = error.to_string();
    assert!(text.contains(&desired) && text.contains(&base_pki::ca_fingerprint(other.cert_pem()).unwrap()), "{text}");
}

#[tokio::test]
async fn someone_else_who_appends_the_right_ca_is_refused() {
    let (ca, other) = (Ca::create("hub").unwrap(), Ca::create("hub").unwrap());
    let leaf = server(&other, "kubernetes");
    let url = hub_that_shows(vec![leaf.cert_pem, ca.cert_pem().to_owned()], &leaf.key_pem).await;
    let error = fetch_ca(&url, &base_pki::ca_fingerprint(ca.cert_pem()).unwrap()).await.unwrap_err();
    assert!(matches!(error, JoinError::NotVouchedFor { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let ca = Ca::create("hub").unwrap();
    let leaf = server(&ca, "hub.example");
    let url = hub_that_shows(vec![leaf.cert_pem, ca.cert_pem().to_owned()], &leaf.key_pem).await;
    let error = fetch_ca(&url, &base_pki::ca_fingerprint(ca.cert_pem()).unwrap()).await.unwrap_err();
    assert!(matches!(error, JoinError::NotVouchedFor { .. }), "{error}");
}
