use std::os::unix::fs::symlink;

use super::*;

/// A node's directories, and a pod's place for its volume `v`.
fn node() -> (tempfile::TempDir, Directories, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let directories = Directories::new(dir.path());
    let mark = dir.path().join("node/pods/d_web_u/.volumes/v");
    (dir, directories, mark)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_directory_is_made_for_everyone_and_kept_with_what_is_in_it() {
    let (dir, directories, mark) = node();
    let path = directories.prepare("pvc-1", &mark).unwrap();
    assert_eq!(path, dir.path().join("node/volumes/pvc-1"));
    assert_eq!(mode(&path), 0o777, "whatever the umask");
    assert_eq!(std::fs::read_link(&mark).unwrap(), path);
    std::fs::write(path.join("kept"), "data").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(directories.prepare("pvc-1", &mark).unwrap(), path);
    assert_eq!(std::fs::read_to_string(path.join("kept")).unwrap(), "data");
    assert_eq!(mode(&path), 0o700, "its pods may change it");
}

#[test]
fn what_a_start_that_was_cut_off_left_is_no_volume() {
    let (dir, directories, mark) = node();
    std::fs::create_dir_all(dir.path().join("node/volumes/.new-pvc-1")).unwrap();
    let path = directories.prepare("pvc-1", &mark).unwrap();
    assert_eq!(mode(&path), 0o777);
    std::fs::create_dir_all(dir.path().join("node/volumes/.removed-pvc-2/full")).unwrap();
    assert!(directories.sweep().unwrap(), "there is one");
    let names: Vec<_> = std::fs::read_dir(dir.path().join("node/volumes")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn names_and_links_lead_nowhere() {
    let (dir, directories, mark) = node();
    let victim = dir.path().join("victim");
    std::fs::create_dir_all(&victim).unwrap();
    std::fs::write(victim.join("kept"), "").unwrap();
    for name in ["", ".", "..", "../victim", "a/b", "/etc", ".removed-x", ".new-x"] {
        assert!(directories.prepare(name, &mark).is_err(), "{name}");
        assert!(directories.remove(name).is_err(), "{name}");
    }
    assert!(!mark.exists());
    let root = dir.path().join("node/volumes");
    std::fs::create_dir_all(&root).unwrap();
    symlink(&victim, root.join("pvc-1")).unwrap();
    assert!(directories.prepare("pvc-1", &mark).is_err(), "a link in its place is not followed");
    std::fs::remove_file(&mark).unwrap();
    assert!(directories.remove("pvc-1").unwrap());
    assert!(!root.join("pvc-1").exists(), "the link is removed, and nothing else");
    // Links that a pod has put into its volume.
    let path = directories.prepare("pvc-2", &mark).unwrap();
    symlink(&victim, path.join("out")).unwrap();
    std::fs::create_dir(path.join("sub")).unwrap();
    symlink("/", path.join("sub/root")).unwrap();
    std::fs::remove_file(&mark).unwrap();
    assert!(directories.remove("pvc-2").unwrap());
    assert!(!path.exists());
    assert!(victim.join("kept").exists());
}

#[test]
fn a_volume_that_a_pod_uses_is_not_removed_whatever_the_hub_says() {
    let (dir, directories, mark) = node();
    let path = directories.prepare("pvc-1", &mark).unwrap();
    std::fs::write(path.join("kept"), "").unwrap();
    assert!(!directories.remove("pvc-1").unwrap());
    assert!(path.join("kept").exists());
    // The node was started again since.
    let again = Directories::new(dir.path());
    assert!(!again.remove("pvc-1").unwrap());
    // Removing the pod removes its link and not what it leads to.
    crate::volumes::remove(&dir.path().join("node/pods/d_web_u")).unwrap();
    assert!(path.join("kept").exists());
    assert!(again.remove("pvc-1").unwrap());
    assert!(!path.exists());
    assert!(again.remove("pvc-1").unwrap(), "it is removed already");
}

#[test]
fn who_uses_what_must_be_known_before_anything_is_removed() {
    let (dir, directories, mark) = node();
    let path = directories.prepare("pvc-1", &mark).unwrap();
    std::fs::remove_file(&mark).unwrap();
    // Something that is no directory is where one belongs: nobody knows whose volumes there were.
    let broken = dir.path().join("node/pods/d_other_u");
    std::fs::write(&broken, "").unwrap();
    assert!(directories.remove("pvc-1").is_err());
    assert!(path.exists());
    std::fs::remove_file(&broken).unwrap();
    assert!(directories.remove("pvc-1").unwrap());
}

#[test]
fn only_the_nodes_own_finalizer_is_taken_away() {
    let volume = json!({"metadata": {"uid": "u", "resourceVersion": "7", "finalizers": ["a", FINALIZER, "b"]}});
    let expected = json!({"metadata": {"uid": "u", "resourceVersion": "7", "finalizers": ["a", "b"]}});
    assert_eq!(released(&volume), expected);
    assert_eq!(
        list_path("gw-1", Some("a&b")),
        "/api/v1/persistentvolumes?labelSelector=selvedge.dev%2Fnode%3Dgw-1&limit=100&continue=a%26b"
    );
}
