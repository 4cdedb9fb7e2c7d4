//! Writes, modes, locks and versions on a real disk, and writes on one that forgets.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use testkit::forgetful::ForgetfulDisk;

use crate::{
    Access, DirLock, Format, FormatError, ReadFileError, WriteFileError, create_private_dir_all, free_space,
    make_dir_private, read_bounded, remove_tree, write_atomic, write_if_changed, write_private, write_public,
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_write_replaces_the_file_with_its_mode_and_leaves_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    write_public(&path, b"old").unwrap();
    assert_eq!(mode(&path), 0o644);
    write_private(&path, b"new").unwrap();
    assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"new".to_vec()));
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn a_failed_write_keeps_the_old_file_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no/file");
    let error = write_public(&missing, b"").unwrap_err();
    assert!(error.to_string().contains("no/file"), "{error}");
    // A directory cannot be replaced by a file; the draft goes.
    let in_the_way = dir.path().join("taken");
    fs::create_dir(&in_the_way).unwrap();
    assert!(write_public(&in_the_way, b"x").is_err());
    assert_eq!(names(dir.path()), ["taken"]);
    assert!(write_public(Path::new("/"), b"").is_err());
}

#[test]
fn a_draft_that_a_crash_left_is_replaced_whatever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (path, draft) = (dir.path().join("key"), dir.path().join(".key.new"));
    fs::write(&draft, "half").unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o644)).unwrap();
    // Someone who opened the world-readable draft before must not read the secret through it.
    let old_reader = fs::File::open(&draft).unwrap();
    write_private(&path, b"secret").unwrap();
    assert_eq!(names(dir.path()), ["key"]);
    assert_ne!(old_reader.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino());
}

#[test]
fn a_link_in_the_drafts_place_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, dir.path().join(".key.new")).unwrap();
    assert!(write_private(&dir.path().join("key"), b"secret").is_err());
    assert_eq!(fs::read(&victim).unwrap(), b"mine");
}

#[test]
fn of_writers_at_once_each_leaves_a_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    let texts: Vec<String> = (0..8).map(|number| number.to_string().repeat(10_000)).collect();
    std::thread::scope(|scope| {
        for text in &texts {
            scope.spawn(|| (0..20).for_each(|_| write_public(&path, text.as_bytes()).unwrap()));
        }
    });
    let left = fs::read_to_string(&path).unwrap();
    assert!(texts.contains(&left));
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn a_write_that_changes_nothing_does_not_touch_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    assert!(write_if_changed(&path, b"a", Access::Public).unwrap());
    let inode = fs::metadata(&path).unwrap().ino();
    assert!(!write_if_changed(&path, b"a", Access::Public).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert!(write_if_changed(&path, b"b", Access::Public).unwrap());
    assert!(write_if_changed(&path, b"b", Access::Private).unwrap(), "the mode counts too");
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn after_a_power_cut_a_file_is_the_old_one_or_the_new_one() {
    let test = "after_a_power_cut_a_file_is_the_old_one_or_the_new_one";
    let Some(disk) = ForgetfulDisk::mount_or_skip(test) else { return };
    let contents = |number: u64| format!("{number:>6}").repeat(400);
    for seed in 0..60u64 {
        let path = disk.path().join(format!("file-{seed}"));
        write_private(&path, contents(0).as_bytes()).unwrap();
        disk.cut_in(seed % 12, seed);
        let mut acknowledged = 0;
        let mut number = 1;
        while write_private(&path, contents(number).as_bytes()).is_ok() {
            acknowledged = number;
            number += 1;
        }
        disk.cut(seed);
        disk.power_on();
        let found = fs::read_to_string(&path).unwrap();
        // `number` failed and may have happened; what was acknowledged before it has.
        assert!([acknowledged, number].map(contents).contains(&found), "seed {seed}: {acknowledged} was acknowledged");
        write_private(&path, b"usable").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"usable", "seed {seed}");
    }
}

#[test]
fn directories_that_are_made_are_private_and_others_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let inner = open.join("a/b");
    create_private_dir_all(&inner).unwrap();
    create_private_dir_all(&inner).unwrap();
    assert_eq!((mode(&open), mode(&open.join("a")), mode(&inner)), (0o755, 0o700, 0o700));
    assert!(make_dir_private(&open).unwrap());
    assert!(!make_dir_private(&open).unwrap());
    assert_eq!(mode(&open), 0o700);
}

#[test]
fn a_file_in_a_directorys_place_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for path in ["file", "file/below"] {
        let error = create_private_dir_all(&dir.path().join(path)).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}

#[test]
fn a_lock_is_seen_through_another_handle_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lock"), "for people").unwrap();
    let lock = DirLock::try_acquire(dir.path()).unwrap().expect("free");
    // A copy of the handle, as a child has it between fork and exec, does not keep the lock.
    let copy = lock.file().try_clone().unwrap();
    assert!(DirLock::try_acquire(dir.path()).unwrap().is_none());
    drop(lock);
    assert!(DirLock::try_acquire(dir.path()).unwrap().is_some());
    drop(copy);
    assert_eq!(fs::read(dir.path().join("lock")).unwrap(), b"for people");
}

const SPOOL: Format = Format { name: "selvedge-spool", version: 3 };

#[test]
fn a_new_directory_is_marked_and_an_older_one_is_returned_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(SPOOL.found(dir.path()).unwrap(), None);
    assert_eq!(SPOOL.open(dir.path()).unwrap(), 3);
    assert_eq!(fs::read_to_string(dir.path().join("VERSION")).unwrap(), "selvedge-spool 3\n");
    fs::write(dir.path().join("VERSION"), "selvedge-spool 1\n").unwrap();
    assert_eq!(SPOOL.open(dir.path()).unwrap(), 1);
    SPOOL.mark(dir.path()).unwrap();
    assert_eq!(SPOOL.open(dir.path()).unwrap(), 3);
}

#[test]
fn what_is_newer_or_not_ours_is_rejected_untouched() {
    for text in
        ["selvedge-spool 4\n", "selvedge-store 1\n", "", "selvedge-spool", "selvedge-spool 0", "selvedge-spool x"]
    {
        check_rejected(text.as_bytes());
    }
    check_rejected(&[0xff; 10]);
    check_rejected(&vec![b'9'; 4096]);
}

fn check_rejected(version: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("VERSION"), version).unwrap();
    let error = SPOOL.open(dir.path()).unwrap_err();
    assert!(matches!(error, FormatError::Newer { found: 4, known: 3, .. } | FormatError::Foreign { .. }), "{error}");
    assert_eq!(fs::read(dir.path().join("VERSION")).unwrap(), version);
    assert_eq!(names(dir.path()), ["VERSION"]);
}

#[test]
fn a_file_is_read_up_to_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    write_atomic(&path, b"12345", Access::Public).unwrap();
    assert_eq!(read_bounded(&path, 5).unwrap(), b"12345");
    assert!(matches!(read_bounded(&path, 4), Err(ReadFileError::TooLarge { bytes_max: 4, .. })));
    assert!(read_bounded(&dir.path().join("none"), 4).unwrap_err().is_not_found());
    // Files without an end, and those that say they are empty.
    assert!(read_bounded(Path::new("/dev/zero"), 1000).is_err());
    assert!(!read_bounded(Path::new("/proc/self/status"), 100_000).unwrap().is_empty());
}

#[test]
fn a_disk_says_what_it_still_takes() {
    let space = free_space(Path::new("/")).unwrap();
    assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
    assert!(free_space(Path::new("/nowhere-at-all")).unwrap_err().to_string().contains("nowhere"));
}

#[test]
fn a_full_disk_is_no_other_failure() {
    use std::io::ErrorKind::{PermissionDenied, QuotaExceeded, StorageFull};
    let failed = |kind: std::io::ErrorKind| WriteFileError { path: "file".into(), source: kind.into() };
    assert!(failed(StorageFull).is_disk_full() && failed(QuotaExceeded).is_disk_full());
    assert!(!failed(PermissionDenied).is_disk_full());
}

#[test]
fn a_tree_is_removed_however_deep_and_wide_it_is_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, kept) = (dir.path().join("tree"), dir.path().join("kept"));
    std::fs::create_dir_all(tree.join("a/b")).unwrap();
    std::fs::create_dir(&kept).unwrap();
    std::fs::write(kept.join("file"), "x").unwrap();
    for number in 0..2000 {
        std::fs::write(tree.join(format!("a/b/{number}")), "x").unwrap();
    }
    // Names that a removal gives, in the way of the next one.
    std::fs::create_dir_all(tree.join(".removed-1/full")).unwrap();
    std::fs::write(tree.join(".removed-2"), "x").unwrap();
    std::os::unix::fs::symlink(&kept, tree.join("a/link")).unwrap();
    // Deeper than any path, and than a stack with a frame for each.
    let mut level = std::fs::File::open(&tree).unwrap();
    for _ in 0..20_000 {
        rustix::fs::mkdirat(&level, "d", 0o700.into()).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        level = rustix::fs::openat(&level, "d", flags, rustix::fs::Mode::empty()).unwrap().into();
    }
    drop(level);
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
    assert_eq!(std::fs::read_to_string(kept.join("file")).unwrap(), "x");
    let error = |path: &Path| remove_tree(path).unwrap_err().kind();
    assert_eq!(error(&tree), std::io::ErrorKind::NotFound);
    assert_eq!(error(&kept.join("file")), std::io::ErrorKind::NotADirectory);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&kept, &link).unwrap();
    assert_eq!(error(&link), std::io::ErrorKind::NotADirectory);
}
