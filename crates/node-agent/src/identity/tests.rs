use super::*;

fn identity() -> Identity {
    let ca = base_pki::Ca::create("test").unwrap();
    let key = base_pki::KeyPair::generate().unwrap();
    let csr = base_pki::make_csr(&key, "system:node:n", &["system:nodes".to_owned()], &[]).unwrap();
    let cert = ca.sign_csr(&csr, base_pki::Usage::Client, std::time::Duration::from_secs(4 * 3600)).unwrap();
    Identity::new("n", vec!["https://hub:6443".into()], ca.cert_pem().to_owned(), cert, key.to_pem())
}

#[test]
fn an_identity_survives_a_restart_and_only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("node/pki")).unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap(), None);
    let identity = identity();
    identity.save(dir.path()).unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap(), Some(identity.clone()));
    let mode = std::fs::metadata(Identity::path(dir.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    identity.access().unwrap();
}

#[test]
fn a_certificate_is_renewed_after_three_quarters_of_its_life() {
    let identity = identity();
    let (from, until) = base_pki::validity(&identity.cert_pem).unwrap();
    let renew_at = identity.renew_at().unwrap();
    assert!(renew_at > from + (until - from) / 2 && renew_at < until);
}

#[test]
fn a_newer_or_torn_file_is_refused() {
    let path = Path::new("identity.json");
    assert!(matches!(parse(br#"{"version": 3}"#, path), Err(IdentityError::TooNew { found: 3, .. })));
    for torn in [&b""[..], b"{", b"{}", b"[]", b"5", br#"{"version": 1}"#, br#"{"version": 2}"#] {
        assert!(matches!(parse(torn, path), Err(IdentityError::Parse { .. })));
    }
}

#[test]
fn a_file_that_is_damaged_or_lost_is_read_from_its_copy() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("node/pki")).unwrap();
    let identity = identity();
    identity.save(dir.path()).unwrap();
    assert!(identity.is_kept_twice(dir.path()));
    let path = Identity::path(dir.path());
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x15;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap().as_ref(), Some(&identity), "{at}");
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap().as_ref(), Some(&identity));
    assert!(!identity.is_kept_twice(dir.path()));
    std::fs::write(Identity::copy_path(dir.path()), "{}").unwrap();
    assert_eq!(Identity::load(dir.path()).unwrap(), None);
    std::fs::write(&path, "{}").unwrap();
    assert!(Identity::load(dir.path()).unwrap_err().is_damage());
}

#[test]
fn a_file_of_version_1_is_read() {
    let mut value = serde_json::to_value(identity()).unwrap();
    value["version"] = 1.into();
    let identity = parse(value.to_string().as_bytes(), Path::new("identity.json")).unwrap();
    assert_eq!(identity.version, VERSION);
}

#[test]
fn the_key_is_not_printed() {
    let text = format!("{:?}", identity());
    assert!(!text.contains("PRIVATE") && text.contains("hub:6443"), "{text}");
}

#[test]
fn a_token_of_another_hub_is_rejected_with_the_names_of_both() {
    let (identity, other) = (identity(), base_pki::Ca::create("other").unwrap());
    let ours = base_pki::ca_fingerprint(&identity.ca_pem).unwrap();
    let others = base_pki::ca_fingerprint(other.cert_pem()).unwrap();
    identity.check_hub("the token is", &ours).unwrap();
    let error = identity.check_hub("the token is", &others).unwrap_err().to_string();
    for word in ["node `n`", "hub test", &ours, "https://hub:6443", &others, "--data-dir", "selvedge reset"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    // A bundle of two trusts both: a hub that changes its CA has both for a while.
    let both = Identity { ca_pem: format!("{}{}", identity.ca_pem, other.cert_pem()), ..identity };
    both.check_hub("the token is", &others).unwrap();
}
