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
        .map(|(path, text, mode)| ((*path).to_owned(), File { bytes: text.as_bytes().to_vec(), mode: *mode }))
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

#[test]
fn a_new_version_replaces_all_files_by_one_link() {
    let dir = tempfile::tempdir().unwrap();
    let write = |entries: &[(&str, &str, u32)]| atomic_writer::write(dir.path(), &content(entries), None).unwrap();
    write(&[("a", "1", 0o644), ("sub/b", "1", 0o400)]);
    let first = std::fs::read_link(dir.path().join("..data")).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("sub/b")).unwrap(), "1");
    assert_eq!(std::fs::metadata(dir.path().join("sub/b")).unwrap().permissions().mode() & 0o777, 0o400);

    write(&[("a", "1", 0o644), ("sub/b", "1", 0o400)]);
    assert_eq!(std::fs::read_link(dir.path().join("..data")).unwrap(), first, "nothing changed, nothing is written");

    write(&[("a", "2", 0o644), ("c", "2", 0o644)]);
    assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "2");
    assert_eq!(names(dir.path()), ["a", "c"]);
    assert!(!dir.path().join(first).exists(), "the old version is gone");
}

#[test]
fn what_a_killed_kubelet_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("..half")).unwrap();
    std::os::unix::fs::symlink("..half", dir.path().join("..data_tmp")).unwrap();
    atomic_writer::write(dir.path(), &content(&[("a", "1", 0o644)]), None).unwrap();
    assert!(!dir.path().join("..half").exists());
    assert_eq!(names(dir.path()), ["a"]);
}

fn prepare_volume(volume: Value) -> Result<(tempfile::TempDir, PathBuf), VolumeError> {
    let objects = Objects(json!({
        "c": {"data": {"k": "v", "l": "w"}, "binaryData": {"z": "/w=="}},
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
    let places = prepare(&pod, dir.path(), &NodeFacts::default(), &objects)?;
    let place = places["v"].clone();
    Ok((dir, place))
}

fn check(volume: Value, expected: &[&str]) {
    let (_dir, place) = prepare_volume(volume.clone()).unwrap();
    assert_eq!(names(&place), expected, "{volume}");
}

fn check_refused(volume: Value, expected: &str) {
    let error = crate::report::chain(&prepare_volume(volume.clone()).unwrap_err());
    assert!(error.contains(expected), "{volume}: {error}");
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
fn a_volume_stays_in_the_pods_folder() {
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
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
    assert_eq!(sub_path("v", dir.path(), "").unwrap(), dir.path());
    assert!(sub_path("v", dir.path(), "a/b").unwrap().is_dir());
    for bad in ["../x", "/etc", "link", "link/ssl", "a/../../x"] {
        assert!(matches!(sub_path("v", dir.path(), bad), Err(VolumeError::Path { .. })), "{bad}");
    }
}
