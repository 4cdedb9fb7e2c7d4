use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base_pki::{Ca, IssueRequest, KeyPair, San, Usage};
use rustls::pki_types::{ServerName, UnixTime};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A moment at which the program exists.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(BUILT_AT_S) + 365 * DAY
}

/// Whether a client that trusts `ca_pem` takes this certificate for `name`.
fn is_trusted(ca_pem: &str, cert_pem: &str, name: &str) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in base_pki::certificates(ca_pem).unwrap() {
        roots.add(certificate).unwrap();
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let chain = base_pki::certificates(cert_pem).unwrap();
    let verified = rustls::client::danger::ServerCertVerifier::verify_server_cert(
        verifier.as_ref(),
        &chain[0],
        &chain[1..],
        &name,
        &[],
        UnixTime::now(),
    );
    verified.is_ok()
}

/// Unpacks the directory of a hub of the first format.
fn unpack_v1(into: &Path) {
    let packed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/hub-dir-v1.tar.gz");
    let status = std::process::Command::new("tar").arg("-xzf").arg(packed).arg("-C").arg(into).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_nodes_serving_certificate_is_nothing_to_those_who_trust_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), SystemTime::now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let sans = [San::from("localhost"), San::from("127.0.0.1")];
    let csr = base_pki::make_csr(&key, "system:node:gw-1", &["system:nodes".to_owned()], &sans).unwrap();
    let certificate = pki.node_serving.sign_csr(&csr, Usage::Server, DAY).unwrap();
    assert!(is_trusted(&pki.dialer_trust(), &certificate, "127.0.0.1"));
    assert!(!is_trusted(pki.ca_pem(), &certificate, "127.0.0.1"));
    let names = hub_names(&["hub.example.com".to_owned()], "0.0.0.0:6443".parse().unwrap());
    let serving = pki.issue(HubCertificate::Serving, &names, SystemTime::now()).unwrap();
    for name in ["localhost", "127.0.0.1", "kubernetes", "hub.example.com"] {
        assert!(is_trusted(pki.ca_pem(), &serving.cert_pem, name), "{name}");
    }
    // A joining node compares the last certificate of the chain with its token.
    let chain = base_pki::certificates(&serving.cert_pem).unwrap();
    assert_eq!(base_pki::fingerprint_of_der(chain.last().unwrap()), base_pki::ca_fingerprint(pki.ca_pem()).unwrap());
}

#[test]
fn a_second_start_finds_the_same_authorities() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), now()).unwrap();
    let second = Pki::open(dir.path(), now() + DAY).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_eq!(first.node_serving.cert_pem(), second.node_serving.cert_pem());
    assert_ne!(first.ca_pem(), first.node_serving.cert_pem());
    assert_eq!(first.admin(now()).unwrap().cert_pem, second.admin(now()).unwrap().cert_pem);
    // A certificate without its key is a loss that a person must know of.
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = Pki::open(dir.path(), now()).unwrap_err().to_string();
    assert!(error.contains("ca.key") && error.contains("restore it from a backup"), "{error}");
}

#[test]
fn two_hubs_are_distinguished_by_the_names_of_their_authorities() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let names = |dir: &tempfile::TempDir| {
        let pki = Pki::open(dir.path(), now()).unwrap();
        [&pki.hub, &pki.node_serving].map(|ca| base_pki::common_name(ca.cert_pem()).unwrap())
    };
    let [hub, serving] = names(&one);
    assert!(hub.starts_with("selvedge-hub-") && serving.starts_with("selvedge-node-serving-"), "{hub} {serving}");
    let [other_hub, other_serving] = names(&other);
    assert!(hub != other_hub && serving != other_serving, "{hub} {serving}");
    assert_eq!(names(&one), [hub, serving], "a second start keeps them");
}

#[test]
fn a_lost_certificate_of_a_ca_is_no_reason_to_make_another_one() {
    for name in ["ca", "node-serving-ca"] {
        let dir = tempfile::tempdir().unwrap();
        Pki::open(dir.path(), now()).unwrap();
        let key_path = dir.path().join(format!("{name}.key"));
        let key = std::fs::read(&key_path).unwrap();
        std::fs::remove_file(dir.path().join(format!("{name}.crt"))).unwrap();
        let error = Pki::open(dir.path(), now()).unwrap_err().to_string();
        assert!(error.contains(&format!("{name}.crt")) && error.contains("restore it from a backup"), "{error}");
        // What is left of it is as it was.
        assert_eq!(std::fs::read(&key_path).unwrap(), key);
    }
}

#[test]
fn a_first_start_that_was_cut_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let first = Pki::open(dir.path(), now()).unwrap();
    // Before the certificate was there: nobody has trusted that key.
    std::fs::rename(path("ca.key"), path("ca.key.new")).unwrap();
    for later in ["ca.crt", "node-serving-ca.crt", "node-serving-ca.key"] {
        std::fs::remove_file(path(later)).unwrap();
    }
    let second = Pki::open(dir.path(), now()).unwrap();
    assert_ne!(second.ca_pem(), first.ca_pem());
    assert!(!path("ca.key.new").exists());
    // Before the key got its name.
    std::fs::rename(path("ca.key"), path("ca.key.new")).unwrap();
    let third = Pki::open(dir.path(), now()).unwrap();
    assert_eq!(third.ca_pem(), second.ca_pem());
    assert!(path("ca.key").exists() && !path("ca.key.new").exists());
}

#[test]
fn an_administrators_key_that_is_cut_short_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), now()).unwrap();
    let path = dir.path().join("admin.key");
    let whole = pki.admin(now()).unwrap().key_pem;
    let other = KeyPair::generate().unwrap().to_pem();
    for broken in ["", &whole[..whole.len() / 2], &other] {
        std::fs::write(&path, broken).unwrap();
        let admin = pki.admin(now()).unwrap();
        assert!(base_pki::is_pair(&admin.cert_pem, &admin.key_pem), "{broken:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), admin.key_pem);
    }
}

#[test]
fn an_administrators_certificate_of_a_former_ca_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let former = Pki::open(dir.path(), now()).unwrap();
    let held = former.admin(now()).unwrap();
    assert_eq!(former.admin(now()).unwrap().cert_pem, held.cert_pem);
    // The pair of another hub, as from a wrong backup.
    let other = tempfile::tempdir().unwrap();
    Pki::open(other.path(), now()).unwrap();
    for name in ["ca.crt", "ca.key"] {
        std::fs::copy(other.path().join(name), dir.path().join(name)).unwrap();
    }
    let pki = Pki::open(dir.path(), now()).unwrap();
    let admin = pki.admin(now()).unwrap();
    assert!(!base_pki::is_client_of(pki.ca_pem(), &held.cert_pem, now()));
    assert!(base_pki::is_client_of(pki.ca_pem(), &admin.cert_pem, now()));
    assert_eq!(pki.admin(now()).unwrap().cert_pem, admin.cert_pem, "it is kept");
}

#[test]
fn a_lost_ca_is_no_reason_to_make_another_one_while_there_are_traces_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = Pki::open(dir.path(), now()).unwrap();
    first.admin(now()).unwrap();
    let names = ["node-serving-ca.crt", "node-serving-ca.key", "admin.crt", "admin.key"];
    for name in ["ca.crt", "ca.key"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    for name in names {
        let error = Pki::open(dir.path(), now()).unwrap_err().to_string();
        assert!(error.contains("ca.crt") && error.contains("ca.key from a backup"), "{error}");
        assert!(!dir.path().join("ca.crt").exists());
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    // What the text says: with all of it away, there is a new one.
    assert_ne!(Pki::open(dir.path(), now()).unwrap().ca_pem(), first.ca_pem());
}

#[test]
fn a_kubeconfig_for_which_there_was_no_space_is_written_when_there_is() {
    let name = "a_kubeconfig_for_which_there_was_no_space_is_written_when_there_is";
    let Some(disk) = testkit::forgetful::ForgetfulDisk::mount_or_skip(name) else { return };
    let pki = Arc::new(Pki::open(&disk.path().join("pki"), now()).unwrap());
    let path = disk.path().join("kubeconfig");
    disk.set_space_left(Some(0));
    // A hub starts without it.
    let kubeconfig = Renewable::kubeconfig(&pki, path.clone(), "https://127.0.0.1:6443".to_owned(), now()).unwrap();
    let mut renewal = Renewal::new(vec![kubeconfig]);
    assert!(renewal.look(now()).is_empty() && !path.exists());
    disk.set_space_left(None);
    assert_eq!(renewal.look(now()), ["admin"]);
    let first = std::fs::read_to_string(&path).unwrap();
    assert!(renewal.look(now() + DAY).is_empty());
    // The same for the next one.
    disk.set_space_left(Some(0));
    assert!(renewal.look(now() + 250 * DAY).is_empty());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
    disk.set_space_left(None);
    assert_eq!(renewal.look(now() + 251 * DAY), ["admin"]);
    assert_ne!(std::fs::read_to_string(&path).unwrap(), first);
}

#[test]
fn no_keys_are_made_while_the_clock_is_before_the_program() {
    let dir = tempfile::tempdir().unwrap();
    for then in
        [UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(978_307_200), UNIX_EPOCH + Duration::from_secs(BUILT_AT_S - 1)]
    {
        let error = Pki::open(dir.path(), then).unwrap_err().to_string();
        assert!(error.contains("clock") && error.contains("set the clock"), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_key_of_secrets_is_made_once_and_is_nobody_elses() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secrets.key");
    let key = secrets_key(&path).unwrap();
    assert_eq!(secrets_key(&path).unwrap(), key);
    assert_ne!(key, [0; 32]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "short").unwrap();
    assert!(secrets_key(&path).unwrap_err().to_string().contains("restore it from a backup"));
}

#[test]
fn a_ca_begins_with_the_program_whatever_the_clock_shows() {
    let dir = tempfile::tempdir().unwrap();
    // A clock that is ten years ahead today is set right tomorrow.
    let pki = Pki::open(dir.path(), now() + 3650 * DAY).unwrap();
    let (from, _) = base_pki::validity(pki.ca_pem()).unwrap();
    assert_eq!(from, i64::try_from(BUILT_AT_S).unwrap());
    assert_eq!(pki.check_clock(now()), None);
    let early = pki.check_clock(UNIX_EPOCH).unwrap();
    assert!(matches!(early, ClockFinding::NotYetValid { .. }) && early.to_string().contains("until the clock is set"));
    let late = pki.check_clock(now() + 40 * 365 * DAY).unwrap();
    assert!(matches!(late, ClockFinding::Expired { .. }) && late.to_string().contains("move what is in hub/pki away"));
}

#[test]
fn what_has_an_end_is_renewed_by_the_wall_clock() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), now()).unwrap();
    let issued = pki.issue(HubCertificate::Dialer, &[], now()).unwrap();
    let (validity_tx, validities) = std::sync::mpsc::channel();
    let mut renewal =
        Renewal::new(vec![Renewable::new("dialer", base_pki::validity(&issued.cert_pem).unwrap(), move |now| {
            let issued = pki.issue(HubCertificate::Dialer, &[], now)?;
            let validity = base_pki::validity(&issued.cert_pem).expect("it was just made");
            validity_tx.send(validity).expect("the test looks");
            Ok::<_, OpenPkiError>(validity)
        })]);
    assert!(renewal.look(now() + 200 * DAY).is_empty());
    assert_eq!(renewal.look(now() + 250 * DAY), ["dialer"]);
    assert!(renewal.look(now() + 251 * DAY).is_empty());
    // The clock jumps ten years ahead, as with a board that got the time at last, and back again.
    assert_eq!(renewal.look(now() + 3650 * DAY), ["dialer"]);
    assert_eq!(renewal.look(now()), ["dialer"]);
    drop(renewal);
    let last = validities.into_iter().last().unwrap();
    assert!(!is_due(last, now()) && is_due(last, now() + 3650 * DAY));
}

#[test]
fn what_could_not_be_renewed_is_tried_again() {
    let mut tries = 0;
    let mut renewal = Renewal::new(vec![Renewable::new("x", (0, 300), move |_| {
        tries += 1;
        if tries < 3 { Err("the disk is full") } else { Ok((1_000, 4_000)) }
    })]);
    let at = UNIX_EPOCH + Duration::from_secs(1_000);
    let looks: Vec<_> = (0..4).map(|_| renewal.look(at).len()).collect();
    assert_eq!(looks, [0, 0, 1, 0]);
}

#[test]
fn the_administrators_certificate_is_renewed_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), now()).unwrap();
    let path = dir.path().join("kubeconfig");
    let written = |at: SystemTime| {
        let (_, until) = pki.write_kubeconfig(&path, "https://127.0.0.1:6443", at).unwrap();
        (until, std::fs::read_to_string(&path).unwrap())
    };
    let first = written(now());
    assert_eq!(written(now() + 200 * DAY), first);
    let second = written(now() + 250 * DAY);
    assert!(second.0 > first.0 && second.1 != first.1);
}

#[test]
fn the_kubeconfig_is_written_when_it_changes_and_not_at_every_start() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path(), now()).unwrap();
    let path = dir.path().join("kubeconfig");
    let start = |url: &str| {
        pki.write_kubeconfig(&path, url, now()).unwrap();
        // Replacing a file gives it another inode.
        std::fs::metadata(&path).unwrap().ino()
    };
    let first = start("https://127.0.0.1:6443");
    assert_eq!(start("https://127.0.0.1:6443"), first);
    assert_ne!(start("https://127.0.0.1:6444"), first);
    assert!(std::fs::read_to_string(&path).unwrap().contains("https://127.0.0.1:6444"));
}

#[test]
fn what_is_renewed_is_put_into_use() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::open(dir.path(), now()).unwrap());
    let path = dir.path().join("kubeconfig");
    let first = pki.issue(HubCertificate::Serving, &[San::from("localhost")], now()).unwrap();
    let (used_tx, used) = std::sync::mpsc::channel();
    let names = vec![San::from("localhost")];
    let serving = Renewable::certificate(&pki, HubCertificate::Serving, names, &first, move |next| {
        used_tx.send(next.cert_pem.clone())
    });
    let kubeconfig = Renewable::kubeconfig(&pki, path.clone(), "https://127.0.0.1:6443".to_owned(), now());
    let mut renewal = Renewal::new(vec![serving.unwrap(), kubeconfig.unwrap()]);
    let held = std::fs::read_to_string(&path).unwrap();
    assert_eq!(renewal.look(now() + 250 * DAY), ["serving", "admin"]);
    let in_use = used.try_recv().unwrap();
    assert_ne!(in_use, first.cert_pem);
    // The CA is behind it, as behind the first.
    assert!(in_use.ends_with(pki.ca_pem()));
    assert_ne!(std::fs::read_to_string(&path).unwrap(), held);
}

#[test]
fn the_directory_of_a_hub_with_one_ca_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    unpack_v1(dir.path());
    let pki_dir = dir.path().join("hub/pki");
    let read = |name: &str| std::fs::read_to_string(pki_dir.join(name)).unwrap();
    let (ca_pem, old) = (read("ca.crt"), Ca::load(&read("ca.crt"), &read("ca.key")).unwrap());
    let pki = Pki::open(&pki_dir, SystemTime::now()).unwrap();
    // Nodes have it pinned.
    assert_eq!(pki.ca_pem(), ca_pem);
    let serving = pki.issue(HubCertificate::Serving, &[San::from("localhost")], SystemTime::now()).unwrap();
    assert!(is_trusted(&ca_pem, &serving.cert_pem, "localhost"));
    // Nodes that joined the old hub serve with a certificate of its one CA, until they renew it.
    let request = IssueRequest {
        cn: "system:node:gw-1".to_owned(),
        orgs: vec!["system:nodes".to_owned()],
        sans: vec![San::from("127.0.0.1")],
        usage: Usage::Server,
        validity: DAY,
    };
    assert!(is_trusted(&pki.dialer_trust(), &old.sign(&request).unwrap().cert_pem, "127.0.0.1"));
}
