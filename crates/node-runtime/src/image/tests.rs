use super::*;

fn check(image: &str, prefixes: &[&str], expected: Result<&str, &str>) {
    let prefixes: Vec<PathBuf> = prefixes.iter().map(PathBuf::from).collect();
    match (resolve(image, &prefixes, ImageKind::Executable), expected) {
        (Ok(path), Ok(expected)) => assert_eq!(path, Path::new(expected), "{image}"),
        (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{image}: {error}"),
        (got, expected) => panic!("{image}: {got:?} instead of {expected:?}"),
    }
}

#[test]
fn an_image_is_a_file_under_an_allowed_prefix() {
    check("file:///bin/sh", &["/bin"], Ok("/bin/sh"));
    check("file:/bin/sh", &["/usr", "/bin/"], Ok("/bin/sh"));
    check("file:///bin//./sh", &["/bin"], Ok("/bin/sh"));
    check("file:///bin/sh", &[], Err("(none)"));
    check("file:///bin/sh", &["/opt", "/binx"], Err("/opt, /binx"));
    check("file:///opt/../bin/sh", &["/opt"], Err("`..`"));
    check("file:///bin/no-such-program", &["/bin"], Err("put the file there"));
    check("file:///bin/", &["/bin"], Err("is not a file"));
    check("file:///etc/passwd", &["/etc"], Err("chmod +x"));
    check("nginx:1.27", &["/"], Err("write file:///path"));
    check("file://bin/sh", &["/bin"], Err("absolute"));
}

#[test]
fn a_link_out_of_the_allowed_folder_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/sh", folder.path().join("mine")).unwrap();
    let image = format!("file://{}/mine", folder.path().display());
    check(&image, &[folder.path().to_str().unwrap()], Err("a link to"));
}

#[test]
fn a_command_is_looked_up_in_the_containers_path() {
    let bin = [PathBuf::from("/bin")];
    assert_eq!(resolve_command("sh", "/nowhere:/bin", &bin).unwrap(), Path::new("/bin/sh"));
    assert!(resolve_command("sh", "/nowhere", &bin).is_err());
    assert!(resolve_command("sh", "/usr/bin", &bin).is_err());
}
