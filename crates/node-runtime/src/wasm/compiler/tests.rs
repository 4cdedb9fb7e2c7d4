use super::*;

fn compiler(folder: &Path) -> Compiler {
    let process = ProcessConfig::new(folder.join("state"), Vec::new());
    Compiler::new(&process, WasmConfig::new(folder.join("cache")))
}

#[test]
fn a_module_is_read_again_only_when_its_file_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let inner = compiler(folder.path()).inner;
    let module = folder.path().join("x.wasm");
    fs::write(&module, "one").unwrap();
    let first = inner.digest(&module).unwrap();
    // What is remembered is what is returned: were the file read again, this would not be seen.
    let known: Vec<FileState> = lock(&inner.digests).keys().cloned().collect();
    lock(&inner.digests).insert(known[0].clone(), "remembered".to_owned());
    assert_eq!(inner.digest(&module).unwrap(), "remembered");
    // Another file of the same size and times at the same path has another inode.
    let modified = fs::metadata(&module).unwrap().modified().unwrap();
    let other = folder.path().join("y.wasm");
    fs::write(&other, "two").unwrap();
    File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
    fs::rename(&other, &module).unwrap();
    let second = inner.digest(&module).unwrap();
    assert_eq!((first.len(), second.len()), (64, 64));
    assert_ne!(first, second);
}

#[test]
fn a_module_that_is_too_large_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("x.wasm");
    File::create(&module).unwrap().set_len(cache::MODULE_BYTES_MAX + 1).unwrap();
    let error = compiler(folder.path()).inner.digest(&module).unwrap_err();
    assert!(error.contains("are allowed"), "{error}");
}

#[test]
fn an_artefact_is_verified_once_and_again_when_it_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let inner = compiler(folder.path()).inner;
    fs::create_dir(&inner.config.cache_dir).unwrap();
    inner.compatibility.set("c".to_owned()).unwrap();
    let path = cache::artefact_path(&inner.config.cache_dir, "d", "c");
    fs::write(&path, "code").unwrap();
    assert_eq!(inner.find("d"), None, "nothing vouches for it");
    let sum = path.with_extension("sha256");
    fs::write(&sum, super::super::sha256_hex(b"code")).unwrap();
    assert_eq!(inner.find("d"), Some(path.clone()));
    fs::remove_file(&sum).unwrap();
    assert_eq!(inner.find("d"), Some(path.clone()), "verified before");
    fs::write(&path, "CODE").unwrap();
    assert_eq!(inner.find("d"), None, "its file has changed");
}

#[test]
fn a_module_beyond_its_limits_is_not_tried_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let inner = compiler(folder.path()).inner;
    let begun = Instant::now().checked_sub(Duration::from_secs(30)).unwrap();
    inner.over_limit("d", begun, "too slow".to_owned());
    let error = inner.check_failure("d").unwrap_err();
    assert!(error.starts_with("too slow; not tried again for "), "{error}");
    assert!(inner.check_failure("e").is_ok());
}
