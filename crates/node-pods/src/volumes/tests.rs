use serde_json::{Value, json};

use super::*;
use crate::store::{Known, ObjectKey};

struct Objects(Value);

impl Lookup for Objects {
    fn object(&self, key: &ObjectKey) -> Known {
        match &self.0[&key.name] {
            Value::Null => Known::Absent,
            Value::String(_) => Known::Unknown,
            object => Known::Present(object.clone()),
        }
    }
}

fn content(entries: &[(&str, &str, u32)]) -> Content {
    entries
        .iter()
        .map(|(path, text, mode)| {
            ((*path).to_owned(), File { bytes: text.as_bytes().to_vec(), mode: *mode, owner: None })
        })
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(".."))
        .collect();
    names.sort();
    names
}

/// A volume's directory as it is below a pod's.
fn volume() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    std::fs::create_dir(&volume).unwrap();
    (dir, volume)
}

#[test]
fn a_new_version_replaces_all_files_by_one_link() {
    let (_dir, volume) = volume();
    let write = |entries: &[(&str, &str, u32)]| atomic_writer::write(&volume, &content(entries), None).unwrap();
    write(&[("a", "1", 0o644), ("sub/b", "1", 0o400)]);
    let first = std::fs::read_link(volume.join("..data")).unwrap();
    assert_eq!(std::fs::read_to_string(volume.join("sub/b")).unwrap(), "1");
    assert_eq!(std::fs::metadata(volume.join("sub/b")).unwrap().permissions().mode() & 0o777, 0o400);

    write(&[("a", "1", 0o644), ("sub/b", "1", 0o400)]);
    assert_eq!(std::fs::read_link(volume.join("..data")).unwrap(), first, "nothing changed, nothing is written");

    write(&[("a", "2", 0o644), ("c", "2", 0o644)]);
    assert_eq!(std::fs::read_to_string(volume.join("a")).unwrap(), "2");
    assert_eq!(names(&volume), ["a", "c"]);
    assert!(!volume.join(first).exists(), "the old version is still there");
}

#[test]
fn what_a_killed_kubelet_left_is_swept() {
    let (_dir, volume) = volume();
    std::fs::create_dir(volume.join("..0123456789abcdef")).unwrap();
    std::os::unix::fs::symlink("..0123456789abcdef", volume.join("..data_tmp")).unwrap();
    atomic_writer::write(&volume, &content(&[("a", "1", 0o644)]), None).unwrap();
    assert!(!volume.join("..0123456789abcdef").exists());
    assert_eq!(names(&volume), ["a"]);
}

#[test]
fn nothing_that_is_planted_in_a_volume_leads_out_of_it() {
    let (dir, volume) = volume();
    let victim = dir.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("kept"), "").unwrap();
    let write = |text: &str| atomic_writer::write(&volume, &content(&[("a", text, 0o644), ("s/b", text, 0o644)]), None);
    let link = |target: &Path, name: &str| {
        let path = volume.join(name);
        if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            std::fs::remove_dir_all(&path).unwrap();
        } else {
            let _ = std::fs::remove_file(&path);
        }
        std::os::unix::fs::symlink(target, path).unwrap();
    };
    let mut number = 0;
    let mut check = |plant: &dyn Fn()| {
        plant();
        number += 1;
        write(&number.to_string()).unwrap();
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 1, "plant {number}");
        assert!(victim.join("kept").exists(), "plant {number}");
        for file in ["a", "s/b"] {
            assert_eq!(std::fs::read_to_string(volume.join(file)).unwrap(), number.to_string(), "plant {number}");
        }
    };
    check(&|| ());
    check(&|| link(&victim, "..data"));
    check(&|| link(&victim, "..0000000000000000"));
    check(&|| link(&victim, "..data_tmp"));
    check(&|| link(&victim, "s"));
    check(&|| link(&victim, "foreign"));
    // The present version itself becomes a link, and so do directories in it.
    let present = || volume.join(std::fs::read_link(volume.join("..data")).unwrap());
    check(&|| link(&victim, present().strip_prefix(&volume).unwrap().to_str().unwrap()));
    check(&|| {
        std::fs::remove_dir_all(present().join("s")).unwrap();
        std::os::unix::fs::symlink(&victim, present().join("s")).unwrap();
    });
    // Directories where links belong.
    check(&|| {
        std::fs::remove_file(volume.join("..data")).unwrap();
        std::fs::create_dir_all(volume.join("..data/full")).unwrap();
    });
    check(&|| {
        std::fs::remove_file(volume.join("a")).unwrap();
        std::fs::create_dir_all(volume.join("a/full")).unwrap();
        std::fs::create_dir_all(volume.join("..data_tmp/full")).unwrap();
    });
    assert!(volume.join("foreign").symlink_metadata().is_ok(), "a name that is not ours was removed");
}

#[test]
fn the_pods_group_reads_what_nobody_else_may() {
    let (_dir, volume) = volume();
    let group = rustix::process::getgid().as_raw();
    for _ in 0..2 {
        atomic_writer::write(&volume, &content(&[("s/a", "1", 0o400)]), Some(group)).unwrap();
    }
    let mode = |path: &str| std::fs::metadata(volume.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("s/a"), mode("s")), (0o440, 0o2755));
}

fn prepare_volume(volume: Value) -> Result<(tempfile::TempDir, PathBuf), VolumeError> {
    let objects = Objects(json!({
        "c": {"data": {"k": "v", "l": "w"}, "binaryData": {"z": "/w=="}},
        "old": {"binaryData": {"bad": "?", "wrapped": "QUJD\nREVG\n"}},
        "evil": {"data": {"../x": "v"}},
        "late": "unknown",
    }));
    let mut volume = volume;
    volume["name"] = "v".into();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "a"}], "volumes": [volume]},
    }))
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let places = prepare(&pod, dir.path(), &NodeFacts::default(), &objects)?.places;
    let place = places["v"].clone();
    Ok((dir, place))
}

fn check(volume: Value, expected: &[&str]) {
    let (_dir, place) = prepare_volume(volume.clone()).unwrap();
    assert_eq!(names(&place), expected, "{volume}");
}

fn check_refused(volume: Value, expected: &str) {
    let error = node_client::chain(&prepare_volume(volume.clone()).unwrap_err());
    assert!(error.contains(expected), "{volume}: {error}");
}

#[test]
fn a_value_that_is_not_base64_keeps_back_the_volumes_that_need_it() {
    check(json!({"configMap": {"name": "old", "items": [{"key": "wrapped", "path": "w"}]}}), &["w"]);
    let expected = "the value of key bad in configmap old is not base64";
    check_refused(json!({"configMap": {"name": "old", "optional": true}}), expected);
    check_refused(json!({"configMap": {"name": "old", "items": [{"key": "bad", "path": "b"}]}}), expected);
}

#[test]
fn volumes_hold_what_their_sources_say() {
    check(json!({"configMap": {"name": "c"}}), &["k", "l", "z"]);
    check(json!({"configMap": {"name": "c", "items": [{"key": "k", "path": "dir/x"}]}}), &["dir"]);
    check(json!({"configMap": {"name": "none", "optional": true}}), &[]);
    check(json!({"emptyDir": {}}), &[]);
    check(
        json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
        &["labels"],
    );
    check(
        json!({"projected": {"sources": [{"configMap": {"name": "c", "items": [{"key": "k", "path": "k"}]}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}),
        &["k", "name"],
    );
}

#[test]
fn a_volume_that_cannot_be_made_says_why() {
    check_refused(json!({"configMap": {"name": "none"}}), "configmap \"none\" not found");
    check_refused(json!({"configMap": {"name": "c", "items": [{"key": "x", "path": "x"}]}}), "config key: x");
    check_refused(json!({"configMap": {"name": "evil"}}), "leads out of it");
    check_refused(json!({"nfs": {"server": "x"}}), "does not have");
    check_refused(json!({"hostPath": {"path": "/proc/self/status", "type": "Directory"}}), "is not a Directory");
    assert!(matches!(prepare_volume(json!({"configMap": {"name": "late"}})), Err(VolumeError::Pending { .. })));
}

#[test]
fn a_path_of_the_node_is_what_its_type_says_and_is_created_where_the_type_says_that() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(at("file"), "").unwrap();
    std::fs::create_dir(at("dir")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let types = ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];
    for (path, fitting) in [
        (at("dir"), &["", "DirectoryOrCreate", "Directory"][..]),
        (at("file"), &["", "FileOrCreate", "File"]),
        (at("socket"), &["", "Socket"]),
        ("/dev/null".to_owned(), &["", "CharDevice"]),
    ] {
        for r#type in types {
            let volume = json!({"hostPath": {"path": path, "type": r#type}});
            match fitting.contains(&r#type) {
                true => assert_eq!(prepare_volume(volume).unwrap().1, Path::new(&path)),
                false => check_refused(volume, &format!("is not a {}", r#type)),
            }
        }
    }
    for r#type in types {
        let path = at("new/one");
        let volume = json!({"hostPath": {"path": path, "type": r#type}});
        match r#type {
            "DirectoryOrCreate" => assert!(prepare_volume(volume).unwrap().1.is_dir()),
            "FileOrCreate" => {
                std::fs::create_dir(at("new")).unwrap();
                assert!(prepare_volume(volume).unwrap().1.is_file());
            }
            _ => check_refused(volume, "No such file"),
        }
        let _ = std::fs::remove_dir_all(at("new"));
    }
}

#[test]
fn a_volume_stays_in_the_pods_directory() {
    let (dir, pod_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let outside = dir.path().join("outside");
    for name in [outside.to_str().unwrap(), "../outside", "..", ".", "", "a/b"] {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [{"name": "a"}], "volumes": [{"name": name, "emptyDir": {}}]},
        }))
        .unwrap();
        let result = prepare(&pod, pod_dir.path(), &NodeFacts::default(), &Objects(json!({})));
        assert!(matches!(result, Err(VolumeError::Name(_))), "{name}: {result:?}");
    }
    assert!(!outside.exists() && std::fs::read_dir(pod_dir.path()).unwrap().next().is_none());
}

#[test]
fn a_sub_path_stays_in_its_volume() {
    assert_eq!(sub_path("v", "").unwrap(), None);
    assert_eq!(sub_path("v", "a/b").unwrap(), Some("a/b".into()));
    for bad in ["..", "../x", "a/../../x", "/etc"] {
        assert!(matches!(sub_path("v", bad), Err(VolumeError::Path { .. })), "{bad}");
    }
}

/// The volume that the API gives to every pod.
fn api_access() -> Value {
    json!({"name": "kube-api-access-x2x4x", "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// What the hub has issued and published so far.
struct Issued {
    token: Option<&'static str>,
    ca: Known,
}

impl Lookup for Issued {
    fn object(&self, key: &ObjectKey) -> Known {
        assert_eq!(key.name, "kube-root-ca.crt");
        self.ca.clone()
    }

    fn token(&self, of: &TokenRef) -> Option<String> {
        assert_eq!((of.account.as_str(), of.seconds), ("default", 3607));
        self.token.map(str::to_owned)
    }
}

fn pod_with_api_access(spec: Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "volumes": [api_access()]},
    });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    Pod::from_json(pod.to_string().as_bytes()).unwrap()
}

#[test]
fn the_volume_that_nobody_asked_for_holds_what_is_known_and_the_rest_follows() {
    let ca = || Known::Present(json!({"data": {"ca.crt": "PEM"}}));
    let dir = tempfile::tempdir().unwrap();
    let pod = pod_with_api_access(json!({}));
    for (issued, expected, lacks) in [
        (Issued { token: None, ca: Known::Unknown }, &["namespace"][..], 2),
        (Issued { token: None, ca: Known::Absent }, &["namespace"], 2),
        (Issued { token: None, ca: Known::Present(json!({"data": {}})) }, &["namespace"], 2),
        (Issued { token: None, ca: ca() }, &["ca.crt", "namespace"], 1),
        (Issued { token: Some("old"), ca: Known::Unknown }, &["namespace", "token"], 1),
        (Issued { token: Some("new"), ca: ca() }, &["ca.crt", "namespace", "token"], 0),
    ] {
        let prepared = prepare(&pod, dir.path(), &NodeFacts::default(), &issued).unwrap();
        let place = &prepared.places["kube-api-access-x2x4x"];
        assert_eq!(names(place), expected);
        assert_eq!(prepared.lacks.len(), lacks, "{:?}", prepared.lacks);
        assert_eq!(std::fs::read_to_string(place.join("token")).ok().as_deref(), issued.token);
    }
    remove(dir.path()).unwrap();
}

#[test]
fn a_volume_of_somebodys_own_waits_for_its_config_map_and_not_for_its_token() {
    let mut own = api_access();
    own["name"] = "own".into();
    let pod = pod_with_api_access(json!({"volumes": [own]}));
    let dir = tempfile::tempdir().unwrap();
    let nothing = Issued { token: None, ca: Known::Unknown };
    let waits = prepare(&pod, dir.path(), &NodeFacts::default(), &nothing);
    assert!(matches!(waits, Err(VolumeError::Pending { .. })), "{waits:?}");
    let published = Issued { token: None, ca: Known::Present(json!({"data": {"ca.crt": "PEM"}})) };
    let prepared = prepare(&pod, dir.path(), &NodeFacts::default(), &published).unwrap();
    assert_eq!((prepared.lacks.len(), names(&prepared.places["own"])), (1, vec!["ca.crt".into(), "namespace".into()]));
    assert!(!is_api_access("own"));
    remove(dir.path()).unwrap();
}

#[test]
fn a_tokens_mode_is_as_the_pods_users_need_it() {
    use std::os::unix::fs::MetadataExt as _;
    for (spec, mode) in [
        (json!({}), 0o644),
        (json!({"securityContext": {"runAsUser": 1234}}), 0o600),
        (json!({"securityContext": {"fsGroup": 99}}), 0o640),
        (json!({"securityContext": {"runAsUser": 1234, "fsGroup": 99}}), 0o640),
        (json!({"containers": [{"name": "a", "securityContext": {"runAsUser": 1}}, {"name": "b"}]}), 0o644),
        (
            json!({"securityContext": {"runAsUser": 1}, "containers": [
            {"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 2}}]}),
            0o644,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let pod = pod_with_api_access(spec.clone());
        let issued = Issued { token: Some("t"), ca: Known::Absent };
        let prepared = prepare(&pod, dir.path(), &NodeFacts::default(), &issued).unwrap();
        let meta = std::fs::metadata(prepared.places["kube-api-access-x2x4x"].join("token")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{spec}");
        if rustix::process::geteuid().is_root() {
            let owner = pod.one_user().unwrap_or(0);
            assert_eq!((meta.uid(), meta.gid()), (owner, pod.spec.security_context.fs_group.unwrap_or(0)), "{spec}");
        }
        remove(dir.path()).unwrap();
    }
}

#[test]
fn a_static_pod_has_no_token() {
    let mut pod = pod_with_api_access(json!({}));
    pod.metadata.annotations.insert("kubernetes.io/config.source".into(), "file".into());
    let dir = tempfile::tempdir().unwrap();
    let nothing = Issued { token: None, ca: Known::Unknown };
    let refused = prepare(&pod, dir.path(), &NodeFacts::default(), &nothing);
    assert!(matches!(refused, Err(VolumeError::StaticToken(_))), "{refused:?}");
}
