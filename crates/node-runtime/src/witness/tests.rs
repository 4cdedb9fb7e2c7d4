use super::*;

#[test]
fn a_directory_is_its_containers_by_its_name() {
    for (name, expected) in [
        ("8d9a2f0e-0000_main_0", Some(("8d9a2f0e-0000", "main", 0))),
        ("u_c.x_4294967295", Some(("u", "c.x", u32::MAX))),
        ("u_c_00", None),
        ("u_c_-1", None),
        ("u__0", None),
        ("_c_0", None),
        ("u_c", None),
        ("u_c_0_1", None),
    ] {
        let expected = expected.map(|(uid, container, attempt)| ContainerId {
            pod_uid: uid.to_owned(),
            container: container.to_owned(),
            attempt,
        });
        assert_eq!(id_of(name), expected, "{name}");
    }
}

#[test]
fn only_so_many_damaged_directories_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("u_c_0");
    for number in 0..2 * KEPT_MAX {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("number"), number.to_string()).unwrap();
        keep_aside(root.path(), &dir).unwrap();
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), KEPT_MAX);
}
