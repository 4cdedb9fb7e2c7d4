use std::time::Duration;

use proptest::prelude::*;

use crate::{
    Ca, IssueRequest, JoinToken, KeyPair, PkiError, San, Usage, ca_fingerprint, certificates, client_identity,
    is_client_of, make_csr, parse_csr, validity,
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn request(cn: &str, orgs: &[&str], sans: &[&str], usage: Usage) -> IssueRequest {
    IssueRequest {
        cn: cn.to_owned(),
        orgs: orgs.iter().map(|org| (*org).to_owned()).collect(),
        sans: sans.iter().map(|san| San::from(*san)).collect(),
        usage,
        validity: YEAR,
    }
}

#[test]
fn a_certificate_names_its_user_and_group() {
    let ca = Ca::create("test").unwrap();
    let issued = ca.sign(&request("admin", &["system:masters"], &[], Usage::Client)).unwrap();
    let identity = client_identity(&certificates(&issued.cert_pem).unwrap()[0]).unwrap();
    assert_eq!(identity.user, "admin");
    assert_eq!(identity.groups, ["system:masters"]);
}

#[test]
fn a_client_is_one_of_the_authority_that_signed_it_and_of_no_other() {
    // Two of one name: the signature decides.
    let (ca, other) = (Ca::create("test").unwrap(), Ca::create("test").unwrap());
    let sign = |usage| ca.sign(&request("admin", &["system:masters"], &[], usage)).unwrap().cert_pem;
    let (client, server, now) = (sign(Usage::Client), sign(Usage::Server), std::time::SystemTime::now());
    assert!(is_client_of(ca.cert_pem(), &client, now));
    assert!(!is_client_of(other.cert_pem(), &client, now));
    assert!(!is_client_of(ca.cert_pem(), &client, now + 2 * YEAR));
    assert!(!is_client_of(ca.cert_pem(), &server, now));
    assert!(!is_client_of(ca.cert_pem(), "", now) && !is_client_of("", &client, now));
}

#[test]
fn a_reopened_authority_signs_what_the_first_one_vouches_for() {
    let ca = Ca::create("test").unwrap();
    let again = Ca::load(ca.cert_pem(), ca.key_pem()).unwrap();
    let issued = again.sign(&request("hub", &[], &["localhost", "127.0.0.1"], Usage::Server)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificates(ca.cert_pem()).unwrap().remove(0)).unwrap();
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
        roots.into(),
        std::sync::Arc::new(rustls::crypto::ring::default_provider()),
    )
    .build()
    .unwrap();
    for (name, good) in [("localhost", true), ("127.0.0.1", true), ("example.org", false)] {
        let result = rustls::client::danger::ServerCertVerifier::verify_server_cert(
            verifier.as_ref(),
            &certificates(&issued.cert_pem).unwrap()[0],
            &[],
            &name.try_into().unwrap(),
            &[],
            rustls::pki_types::UnixTime::now(),
        );
        assert_eq!(result.is_ok(), good, "{name}: {result:?}");
    }
}

#[test]
fn a_certificate_is_valid_an_hour_ago_already() {
    let ca = Ca::create("test").unwrap();
    let (from, to) = validity(&ca.sign(&request("n", &[], &[], Usage::Client)).unwrap().cert_pem).unwrap();
    assert_eq!(to - from, 3600 + 365 * 24 * 3600);
}

#[test]
fn a_signing_request_keeps_subject_and_names() {
    let key = KeyPair::generate().unwrap();
    let sans = [San::from("gw-1"), San::from("10.0.0.7"), San::from("::1")];
    let csr = make_csr(&key, "system:node:gw-1", &["system:nodes".to_owned()], &sans).unwrap();
    let info = parse_csr(&csr).unwrap();
    assert_eq!(info.cn, "system:node:gw-1");
    assert_eq!(info.orgs, ["system:nodes"]);
    assert_eq!(info.sans, sans);

    let cert = Ca::create("test").unwrap().sign_csr(&csr, Usage::Client, YEAR).unwrap();
    let identity = client_identity(&certificates(&cert).unwrap()[0]).unwrap();
    assert_eq!(
        (identity.user.as_str(), identity.groups.as_slice()),
        ("system:node:gw-1", &["system:nodes".to_owned()][..])
    );
}

#[test]
fn a_key_is_recognised_in_its_request_and_in_every_certificate_for_it() {
    let key = KeyPair::generate().unwrap();
    let ca = Ca::create("test").unwrap();
    let csr = make_csr(&key, "system:node:gw-1", &[], &[]).unwrap();
    let expected = parse_csr(&csr).unwrap().key_sha256;
    assert_eq!(expected.len(), 64);
    for _ in 0..2 {
        let cert = ca.sign_csr(&csr, Usage::Client, YEAR).unwrap();
        assert_eq!(client_identity(&certificates(&cert).unwrap()[0]).unwrap().key_sha256, expected);
    }
    let other = make_csr(&KeyPair::generate().unwrap(), "system:node:gw-1", &[], &[]).unwrap();
    assert_ne!(parse_csr(&other).unwrap().key_sha256, expected);
}

#[test]
fn a_request_whose_signature_is_not_its_keys_is_refused() {
    let key = KeyPair::generate().unwrap();
    let csr = make_csr(&key, "system:node:gw-1", &[], &[]).unwrap();
    let mut der = {
        use rustls::pki_types::pem::PemObject;
        rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap().as_ref().to_vec()
    };
    let at = der.windows(4).position(|window| window == b"gw-1").unwrap();
    der[at + 3] = b'2';
    let forged = crate::pem_block("CERTIFICATE REQUEST", &der);
    assert!(matches!(parse_csr(&forged), Err(PkiError::ParseCsr { .. })));
}

#[test]
fn a_key_of_another_authority_is_refused() {
    let (one, two) = (Ca::create("one").unwrap(), Ca::create("two").unwrap());
    assert!(matches!(Ca::load(one.cert_pem(), two.key_pem()), Err(PkiError::KeyMismatch)));
}

#[test]
fn a_fingerprint_is_the_hash_of_the_der() {
    let ca = Ca::create("test").unwrap();
    let fingerprint = ca_fingerprint(ca.cert_pem()).unwrap();
    assert_eq!(fingerprint.len(), 64);
    assert_eq!(fingerprint, crate::fingerprint_of_der(&certificates(ca.cert_pem()).unwrap()[0]));
    assert!(ca_fingerprint("no certificate").is_err());
}

#[test]
fn a_join_token_says_what_is_wrong_with_it() {
    let good = JoinToken::generate("a".repeat(64)).unwrap().to_string();
    assert!(good.parse::<JoinToken>().is_ok());
    for (text, reason) in [
        ("abc", "four parts"),
        (&good.replace("sv1", "sv2"), "sv1."),
        (&good.replace("aaaa.", "."), "64"),
        (&good.to_uppercase().replace("SV1", "sv1"), "64"),
        (&format!("sv1.{}.abc.{}", "a".repeat(64), "b".repeat(16)), "third"),
        (&format!("sv1.{}.abcdef.short", "a".repeat(64)), "fourth"),
        (&format!("{good}.more"), "four parts"),
    ] {
        let error = text.parse::<JoinToken>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

/// A signature of Kubernetes' own: `bootstrapsigner` of kube-controller-manager 1.36.3.
#[test]
fn what_a_cluster_has_signed_with_the_token_is_known_from_what_anybody_else_says() {
    let token: JoinToken = "abcdef.0123456789abcdef".parse().unwrap();
    assert_eq!((token.ca_sha256.as_deref(), &*token.to_string()), (None, "abcdef.0123456789abcdef"));
    let content = include_bytes!("tests/cluster-info.yaml");
    let signature = include_str!("tests/cluster-info.jws").trim();
    assert!(token.verify(signature, content));
    assert!(!token.verify(signature, b"another content"));
    let other: JoinToken = "abcdef.0123456789abcdee".parse().unwrap();
    assert!(!other.verify(signature, content));
    let other: JoinToken = "abcdee.0123456789abcdef".parse().unwrap();
    assert!(!other.verify(signature, content));
    let (header, tag) = signature.split_once("..").unwrap();
    for bad in ["", ".", "..", header, &format!("{header}.."), &format!("{header}.x.{tag}"), &format!("{signature}.x")]
    {
        assert!(!token.verify(bad, content), "{bad}");
    }
    // `{"alg":"none"}`, which says that nothing is signed.
    assert!(!token.verify("eyJhbGciOiJub25lIn0..", content));
}

#[test]
fn a_token_in_a_log_shows_no_secret() {
    let token = JoinToken::generate("a".repeat(64)).unwrap();
    assert!(!format!("{token:?}").contains(&token.secret));
}

proptest! {
    #[test]
    fn a_join_token_survives_its_text(sha in proptest::option::of("[0-9a-f]{64}"), id in "[a-z0-9]{6}", secret in "[a-z0-9]{16}") {
        let token = JoinToken { ca_sha256: sha, id, secret };
        prop_assert_eq!(token.to_string().parse::<JoinToken>().unwrap(), token);
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in ".{0,200}") {
        let _ = text.parse::<JoinToken>();
        let _ = parse_csr(&text);
        let _ = client_identity(text.as_bytes());
    }
}
