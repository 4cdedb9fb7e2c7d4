use super::*;

/// The smallest module there is.
const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

fn module(folder: &Path) -> PathBuf {
    let path = folder.join("empty.wasm");
    fs::write(&path, EMPTY).unwrap();
    path
}

#[test]
fn a_module_is_compiled_once() {
    let folder = tempfile::tempdir().unwrap();
    let module = module(folder.path());
    let first = compile(&module, None, folder.path(), u64::MAX).unwrap();
    assert_eq!(first.sha256, sha256_hex(EMPTY));
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&first.path);
    assert_eq!(inode(&compile(&module, None, folder.path(), u64::MAX).unwrap().path), before);
}

#[test]
fn a_damaged_entry_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let module = module(folder.path());
    let path = compile(&module, None, folder.path(), u64::MAX).unwrap().path;
    let sound = fs::read(&path).unwrap();
    let mut damaged = sound.clone();
    damaged[sound.len() / 2] ^= 1;
    for bytes in [damaged.as_slice(), &sound[..10], b""] {
        fs::write(&path, bytes).unwrap();
        compile(&module, None, folder.path(), u64::MAX).unwrap();
        assert_eq!(fs::read(&path).unwrap(), sound);
    }
    fs::remove_file(digest_path(&path)).unwrap();
    compile(&module, None, folder.path(), u64::MAX).unwrap();
    assert!(is_sound(&File::open(&path).unwrap(), &path));
}

#[test]
fn the_longest_unused_entries_go_when_the_cache_is_full() {
    let folder = tempfile::tempdir().unwrap();
    for (name, age) in [("old", 30), ("mid", 20), ("new", 10)] {
        let path = folder.path().join(format!("{name}.cwasm"));
        store(&path, &[0; 100]).unwrap();
        let time = SystemTime::now() - std::time::Duration::from_secs(age);
        File::open(&path).unwrap().set_modified(time).unwrap();
    }
    prune(folder.path(), &folder.path().join("old.cwasm"), 250);
    let left = |name: &str| folder.path().join(format!("{name}.cwasm")).exists();
    assert_eq!((left("old"), left("mid"), left("new")), (true, false, true));
}

#[test]
fn what_is_no_module_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.wasm");
    for (bytes, expected) in
        [(b"hello, world".as_slice(), "not WebAssembly"), (b"\0asm\x01\0\0\0junk", "failed to compile it")]
    {
        fs::write(&path, bytes).unwrap();
        let error = compile(&path, None, folder.path(), u64::MAX).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
