//! Which logins of a secret fit which image.

use super::{Credential, CredentialError};
use crate::Reference;

fn users(secret: &str, image: &str) -> Vec<String> {
    let image = Reference::parse(image).unwrap();
    let found = Credential::from_docker_config(secret.as_bytes(), &image).unwrap();
    found.into_iter().map(|credential| format!("{credential:?}")).collect()
}

fn key(key: &str) -> String {
    serde_json::json!({"auths": {key: {"username": "u", "password": "p"}}}).to_string()
}

#[test]
fn a_key_fits_its_registry_and_what_is_beneath_its_path() {
    for (key_of_secret, image, fits) in [
        ("https://index.docker.io/v1/", "busybox", true),
        ("docker.io", "org/app", true),
        ("registry-1.docker.io/v2/", "busybox", true),
        ("quay.io", "quay.io/org/app", true),
        ("quay.io", "quay.io:8443/org/app", false),
        ("quay.io:8443", "quay.io:8443/org/app", true),
        ("quay.io/org", "quay.io/org/app", true),
        ("quay.io/org", "quay.io/organisation/app", false),
        ("quay.io/org/app", "quay.io/org/app", true),
        ("http://quay.io/v2/org", "quay.io/org/app", true),
        ("*.example.com", "a.example.com/app", true),
        ("*.example.com", "example.com/app", false),
        ("*.example.com", "a.b.example.com/app", false),
        ("reg*.example.com", "registry.example.com/app", true),
        ("*.io", "quay.io/app", true),
        ("quay.io", "busybox", false),
        ("", "busybox", false),
    ] {
        assert_eq!(!users(&key(key_of_secret), image).is_empty(), fits, "`{key_of_secret}` for `{image}`");
    }
}

#[test]
fn every_form_of_a_login_is_read_and_none_is_shown() {
    let secret = r#"{"auths": {"a.io": {"auth": "dXNlcjpwYXNzOndvcmQ="}, "a.io/org": {"identitytoken": "secret"},
        "a.io/org/app": {"registrytoken": "secret"}, "b.io": {"auth": "???"}, "c.io": {}}}"#;
    assert_eq!(users(secret, "a.io/org/app"), ["Bearer", "Identity", "Basic(user)"], "the longest key first");
    assert_eq!(users(secret, "b.io/app"), [""; 0]);
    assert_eq!(users(secret, "c.io/app"), [""; 0]);
    assert_eq!(users(r#"{"a.io": {"auth": "dTpw", "email": "x"}}"#, "a.io/app"), ["Basic(u)"], "a dockercfg");
    let image = Reference::parse("a.io/app").unwrap();
    let found = Credential::from_docker_config(secret.as_bytes(), &image).unwrap();
    assert_eq!(found, [Credential::Basic { username: "user".to_owned(), password: "pass:word".to_owned() }]);
    assert!(matches!(Credential::from_docker_config(b"[", &image), Err(CredentialError::Json(_))));
    assert!(matches!(Credential::from_docker_config(&[b' '; (1 << 20) + 1], &image), Err(CredentialError::TooLarge)));
}
