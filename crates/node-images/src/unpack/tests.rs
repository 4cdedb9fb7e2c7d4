//! What comes out of a layer, compared with what GNU tar makes of it, and what does not come out of a hostile one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode};
use testkit::image::{Compression, Entry, archive};

use super::{Devices, LayerLimits, UnpackError, Unpacked, unpack};
use crate::Digest;
use crate::import::tests::is_root;

const LIMITS: LayerLimits = LayerLimits { bytes_max: 64 << 20, entries_max: 1000, devices: Devices::Created };

/// A tree as lines: path, kind, mode, owner, links, time, device, target, size and the digest of the content, attributes.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    tree_with(root, |_| true)
}

/// Without the times of those for which `has_time` says so.
fn tree_with(root: &Path, has_time: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = root.join(&path);
        let found = fs::symlink_metadata(&full).unwrap();
        let kind = FileType::from_raw_mode(found.mode());
        let content = match kind {
            FileType::RegularFile => crate::Digest::of(&fs::read(&full).unwrap()).to_string(),
            FileType::Symlink => format!("{:?}", fs::read_link(&full).unwrap()),
            _ => String::new(),
        };
        // Hard links are the same as each other: the first name is that of all.
        let links = if kind.is_dir() { 0 } else { found.nlink() };
        let size = if kind.is_dir() { 0 } else { found.len() };
        let is_whiteout = kind == FileType::CharacterDevice && found.rdev() == 0;
        // A whiteout's time means nothing to anybody.
        let (seconds, nanos) =
            if is_whiteout || !has_time(&path) { (0, 0) } else { (found.mtime(), found.mtime_nsec()) };
        lines.push(format!(
            "{path:?} {kind:?} {:o} {}:{} {links} {seconds}.{nanos} {:x} {size} {content} {:?}",
            found.mode() & 0o7777,
            found.uid(),
            found.gid(),
            found.rdev(),
            attributes(&full),
        ));
        if kind.is_dir() {
            left.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
    }
    lines.sort();
    lines
}

fn attributes(path: &Path) -> Vec<String> {
    let mut names = vec![0; 4096];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names) else { return Vec::new() };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found: Vec<String> = names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value).unwrap();
            format!("{}={:?}", String::from_utf8_lossy(name), &value[..length])
        })
        .collect();
    found.sort();
    found
}

fn unpacked(archive: &[u8], target: &Path, limits: &LayerLimits) -> Result<Unpacked, UnpackError> {
    let digest = Digest::of(archive);
    fs::create_dir(target).unwrap();
    unpack(archive, target, Some(&digest), &digest, limits)
}

fn gnu_tar(arguments: &[&str], dir: &Path) {
    let run = Command::new("tar").args(arguments).current_dir(dir).output().unwrap();
    assert!(run.status.success(), "tar {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
}

/// What may be in a layer: no two entries contradict each other, for on those programs differ.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let name = "[a-c]{1,2}|[a-z]{90,120}|ö|\\PC{1,8}".prop_filter("a name", |name| {
        !name.contains(['/', '\\']) && !matches!(name.as_str(), "." | "..") && !name.starts_with(".wh.")
    });
    let path = prop::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"));
    let entry = (
        path,
        0..7u8,
        any::<u16>(),
        (0..3_000_000u32, 0..70_000u32),
        any::<prop::sample::Index>(),
        -5_000_000_000..5_000_000_000i64,
        0..1_000_000_000u32,
    )
        .prop_flat_map(|fixed| (Just(fixed), prop::collection::vec(any::<u8>(), 0..2000)));
    prop::collection::vec(entry, 0..25).prop_map(|found| {
        let mut entries: Vec<Entry> = Vec::new();
        let (mut taken, mut directories, mut files) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        // In the order in which archives are written: each directory before what is in it, and all of that together.
        let found: std::collections::BTreeMap<PathBuf, _> = found
            .into_iter()
            .map(|((path, kind, mode, owner, index, seconds, nanos), content)| {
                (PathBuf::from(path), ((kind, mode, owner, index, seconds, nanos), content))
            })
            .collect();
        for (path, ((kind, mode, owner, index, seconds, nanos), content)) in found {
            if path.ancestors().any(|above| taken.contains(above)) {
                continue;
            }
            let mut above: Vec<&Path> =
                path.ancestors().skip(1).filter(|above| above.components().count() > 0).collect();
            above.reverse();
            for above in above {
                if directories.insert(above.to_owned()) {
                    entries.push(Entry::directory(above.as_os_str().as_bytes()));
                }
            }
            let name = path.as_os_str().as_bytes();
            let entry = match kind {
                0 => {
                    directories.insert(path.clone());
                    Entry::directory([name, b"/"].concat())
                }
                1 if !files.is_empty() => {
                    let target: &PathBuf = index.get(&files);
                    entries.push(Entry::hard_link(name, target.as_os_str().as_bytes()));
                    taken.insert(path);
                    continue;
                }
                2 => Entry::symlink(name, String::from_utf8_lossy(&content).replace('\0', "/") + "x"),
                3 => Entry::fifo(name),
                4 => Entry::device(name, u32::from(mode) % 4096, owner.0 % 256 + 1),
                _ => {
                    files.push(path.clone());
                    Entry::file(name, &content).xattr("user.note", content.get(..20).unwrap_or(&content))
                }
            };
            if kind != 0 {
                taken.insert(path);
            }
            let mode = if entry.kind == b'2' { 0o777 } else { u32::from(mode) & 0o7777 };
            entries.push(entry.mode(mode).owner(owner.0 % 2_000_000, owner.1).mtime(seconds.max(0), nanos));
        }
        entries
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_unpacks_to_the_tree_that_gnu_tar_makes_of_it(entries in entries(), compression in 0..3usize) {
        if !is_root("a_layer_unpacks_to_the_tree_that_gnu_tar_makes_of_it") {
            return Ok(());
        }
        let dir = tempfile::tempdir().unwrap();
        let plain = archive(&entries);
        let compressed = [Compression::None, Compression::Gzip, Compression::Zstd][compression].compress(&plain);
        let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
        fs::create_dir(&ours).unwrap();
        unpack(&*compressed, &ours, Some(&Digest::of(&compressed)), &Digest::of(&plain), &LIMITS).unwrap();
        fs::create_dir(&theirs).unwrap();
        fs::write(dir.path().join("tar"), &plain).unwrap();
        let options = ["-xf", "../tar", "--numeric-owner", "-p", "--same-owner", "--xattrs", "--xattrs-include=*"];
        gnu_tar(&options, &theirs);
        let mut listed: BTreeSet<PathBuf> = entries
            .iter()
            .map(|entry| Path::new(std::ffi::OsStr::from_bytes(&entry.path)).components().collect())
            .collect();
        // GNU tar loses the time of a directory in which it creates a link, which it does at the very end.
        for link in entries.iter().filter(|entry| matches!(entry.kind, b'1' | b'2')) {
            let path = Path::new(std::ffi::OsStr::from_bytes(&link.path));
            for above in path.ancestors().skip(1) {
                listed.remove(above);
            }
        }
        let has_time = |path: &Path| listed.contains(path);
        prop_assert_eq!(tree_with(&ours, has_time), tree_with(&theirs, has_time));
    }
}

#[test]
fn archives_of_gnu_tar_in_every_format_give_the_tree_they_were_made_of() {
    if !is_root("archives_of_gnu_tar_in_every_format_give_the_tree_they_were_made_of") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("directory/empty")).unwrap();
    fs::write(source.join("directory/file"), "content").unwrap();
    fs::hard_link(source.join("directory/file"), source.join("other name")).unwrap();
    std::os::unix::fs::symlink("directory/file", source.join("link")).unwrap();
    std::os::unix::fs::chown(source.join("directory"), Some(1_000_000), Some(65_534)).unwrap();
    rustix::fs::mknodat(CWD, source.join("device"), FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3))
        .unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    for piece in 0..40 {
        sparse.write_all_at(b"some bytes", piece * 1_000_000).unwrap();
    }
    sparse.set_len(60_000_000).unwrap();
    drop(sparse);
    let old = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    let old = rustix::fs::Timestamps { last_access: old, last_modification: old };
    for name in ["directory/file", "directory/empty", "directory", "link", "device", "sparse", ""] {
        rustix::fs::utimensat(CWD, source.join(name), &old, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    let expected = tree(&source);
    for options in [
        &["--format=v7"][..],
        &["--format=ustar"],
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ] {
        // v7 has neither devices nor large owners.
        let exclude =
            if options[0] == "--format=v7" { &["--exclude=device", "--owner=0", "--group=0"][..] } else { &[] };
        let mut lines = expected.clone();
        lines.retain(|line| exclude.is_empty() || !line.starts_with("\"device\""));
        if !exclude.is_empty() {
            lines.iter_mut().for_each(|line| *line = line.replace("1000000:65534", "0:0"));
        }
        gnu_tar(
            &[&["-cf", "tar", "-C", "source", "--numeric-owner", "--hard-dereference"][..4], options, exclude, &["."]]
                .concat(),
            dir.path(),
        );
        let target = dir.path().join("target");
        let bytes = fs::read(dir.path().join("tar")).unwrap();
        let limits = LayerLimits { bytes_max: 200 << 20, ..LIMITS };
        unpacked(&bytes, &target, &limits).unwrap_or_else(|error| panic!("{options:?}: {error:?}"));
        assert_eq!(tree(&target), lines, "{options:?}");
        let blocks = target.join("sparse").metadata().unwrap().blocks();
        assert!(blocks < 40_000_000 / 512, "{options:?}: {blocks} blocks of a file that is mostly holes");
        fs::remove_dir_all(&target).unwrap();
    }
}

/// Unpacks and expects an error whose text, causes included, contains `part`; nothing outside of the target is touched.
fn check_rejected(entries: &[Entry], part: &str) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("outside"), "untouched").unwrap();
    let error = unpacked(&archive(entries), &dir.path().join("target"), &LIMITS).expect_err(part);
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(text.contains(part), "`{part}` in: {text}");
    check_outside(dir.path());
}

fn check_outside(dir: &Path) {
    assert_eq!(fs::read(dir.join("outside")).unwrap(), b"untouched");
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["outside", "target"]);
}

#[test]
fn what_leads_out_of_the_image_is_rejected() {
    if !is_root("what_leads_out_of_the_image_is_rejected") {
        return;
    }
    check_rejected(&[Entry::file("../outside", "x")], "`../outside` has `..` in its path");
    check_rejected(&[Entry::file("a/../../outside", "x")], "has `..` in its path");
    check_rejected(&[Entry::directory("..")], "has `..` in its path");
    check_rejected(&[Entry::file("/../outside", "x")], "has `..` in its path");
    check_rejected(&[Entry::hard_link("stolen", "../outside")], "`stolen` is a hard link that leads out of the image");
    check_rejected(
        &[Entry::symlink("up", ".."), Entry::hard_link("stolen", "up/outside")],
        "failed to create entry `stolen`",
    );
    check_rejected(&[Entry::hard_link("stolen", "/")], "is a hard link to the root");
    check_rejected(&[Entry::file("..", "x")], "has `..` in its path");
    check_rejected(&[Entry::file("./", "x"), Entry::file(".", "x")], "is the root and no directory");
    check_rejected(&[Entry::symlink("loop", "loop"), Entry::file("loop/file", "x")], "leads through too many links");
    check_rejected(
        &[Entry::file("file", "x"), Entry::file("file/below", "x")],
        "beneath something that is no directory",
    );
    check_rejected(&[Entry::symlink("magic", "/proc/self/root"), Entry::file("magic/outside", "x")], "magic/outside");
    check_rejected(&[Entry::symlink("nothing", "")], "is a link to nothing");
    check_rejected(&[Entry::file(vec![b'n'; 300], "x")], "more than 255 bytes");
    for whiteout in [".wh.", ".wh..", ".wh...", "a/.wh.."] {
        check_rejected(&[Entry::file(whiteout, "")], "is a whiteout of nothing");
    }
}

#[test]
fn links_and_absolute_paths_stay_within_the_image() {
    if !is_root("links_and_absolute_paths_stay_within_the_image") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("outside"), "untouched").unwrap();
    let target = dir.path().join("target");
    let outside = dir.path().join("outside");
    let entries = [
        Entry::symlink("up", "../.."),
        Entry::file("up/outside", "in the image's root"),
        Entry::symlink("absolute", "/etc"),
        Entry::directory("etc"),
        Entry::file("absolute/passwd", "the image's"),
        Entry::file("/absolute path", "relative"),
        // A file in the place of a link replaces the link, not what the link leads to.
        Entry::symlink("replaced", outside.as_os_str().as_bytes()),
        Entry::file("replaced", "a file"),
        Entry::symlink("directory", dir.path().as_os_str().as_bytes()),
        Entry::directory("directory").mode(0o700).owner(7, 7),
        Entry::file("directory/outside", "in the image"),
    ];
    unpacked(&archive(&entries), &target, &LIMITS).unwrap();
    check_outside(dir.path());
    let read = |name: &str| fs::read_to_string(target.join(name)).unwrap();
    assert_eq!(read("outside"), "in the image's root");
    assert_eq!(read("etc/passwd"), "the image's");
    assert_eq!(read("absolute path"), "relative");
    assert_eq!(read("replaced"), "a file");
    assert_eq!(read("directory/outside"), "in the image");
    assert_ne!(dir.path().metadata().unwrap().uid(), 7);
}

#[test]
fn directories_are_not_nested_without_an_end() {
    if !is_root("directories_are_not_nested_without_an_end") {
        return;
    }
    check_rejected(&[Entry::file("d/".repeat(300) + "f", "x")], "more than 256 parts");
    // Each link is 100 directories deeper than the one before: paths stay short.
    let mut entries = vec![Entry::directory("d/".repeat(100)), Entry::symlink("l0", "d/".repeat(100))];
    for level in 1..10 {
        let path = format!("l{}/{}", level - 1, "d/".repeat(100));
        entries.push(Entry::directory(path.clone()));
        entries.push(Entry::symlink(format!("l{level}"), path));
    }
    check_rejected(&entries, "more than 256 parts");
}

#[test]
fn devices_are_created_or_rejected_as_the_node_says() {
    if !is_root("devices_are_created_or_rejected_as_the_node_says") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let bytes = archive(&[Entry::device("null", 1, 3), Entry::fifo("fifo"), Entry::whiteout("", "hidden")]);
    unpacked(&bytes, &dir.path().join("created"), &LIMITS).unwrap();
    assert_eq!(dir.path().join("created/null").metadata().unwrap().rdev(), rustix::fs::makedev(1, 3));
    let limits = LayerLimits { devices: Devices::Rejected, ..LIMITS };
    let error = unpacked(&bytes, &dir.path().join("rejected"), &limits).unwrap_err();
    assert!(error.to_string().contains("`null` is a device node"), "{error}");
    // Whiteouts are devices, too, but nobody's.
    unpacked(&archive(&[Entry::whiteout("", "hidden")]), &dir.path().join("whiteout"), &limits).unwrap();
}

#[test]
fn bombs_are_rejected_while_they_unpack() {
    if !is_root("bombs_are_rejected_while_they_unpack") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, plain: &[u8], compression: Compression, part: &str| {
        let bytes = compression.compress(plain);
        let target = dir.path().join(name);
        fs::create_dir(&target).unwrap();
        let limits = LayerLimits { bytes_max: 1 << 20, entries_max: 100, ..LIMITS };
        let error = unpack(&*bytes, &target, None, &Digest::of(plain), &limits).expect_err(name);
        let text = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
        assert!(text.contains(part), "{name}: {text}");
    };
    let zeros = archive(&[Entry::file("zeros", vec![0; 40 << 20])]);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        check(&format!("{compression:?}"), &zeros, compression, "the bytes that it unpacks to");
    }
    let many: Vec<Entry> = (0..101).map(|number| Entry::file(format!("f{number}"), "")).collect();
    check("entries", &archive(&many), Compression::Gzip, "the number of its entries");
    let small: Vec<Entry> = (0..3).map(|number| Entry::file(format!("f{number}"), vec![0; 400 << 10])).collect();
    check("together", &archive(&small), Compression::Gzip, "the bytes that it unpacks to");
    let mut trailer = archive(&[]);
    trailer.resize((64 << 20) + 2048, 0);
    check("trailer", &trailer, Compression::Gzip, "failed to read");
    let extension = Entry { kind: b'x', ..Entry::file("x", vec![b' '; (1 << 20) + 1]) };
    check("extension", &archive(&[extension]), Compression::Gzip, "failed to read");
    let name = Entry { kind: b'L', ..Entry::file("x", vec![b'n'; (1 << 20) + 1]) };
    check("name", &archive(&[name]), Compression::Gzip, "failed to read");
    let attributes = (0..200).fold(Entry::file("f", ""), |entry, number| entry.xattr(&format!("user.a{number}"), "x"));
    check("attributes", &archive(&[attributes]), Compression::Gzip, "failed to read");
    let large = Entry::file("f", "").xattr("user.a", vec![1; 65_537]);
    check("attribute", &archive(&[large]), Compression::Gzip, "failed to read");
    let comment =
        Entry { kind: b'g', ..Entry::file("g", [&b"1000000 comment="[..], &vec![b' '; 999_983], b"\n"].concat()) };
    check("endless", &archive(&vec![comment; 20]), Compression::Gzip, "failed to read");
    // A window of 128 MiB, as `zstd --ultra -22` has it, asked for by a frame that has nothing in it.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 1, 0, 0];
    let digest = Digest::of(&window);
    let error = unpack(&window[..], dir.path(), None, &digest, &LIMITS).unwrap_err();
    assert!(format!("{error:?}").contains("32 MiB"), "{error:?}");
}

#[test]
fn what_is_not_what_it_should_be_is_rejected() {
    if !is_root("what_is_not_what_it_should_be_is_rejected") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = archive(&[Entry::file("file", "x")]);
    let blob = Compression::Gzip.compress(&plain);
    let check = |name: &str, bytes: &[u8], blob: &Digest, diff_id: &Digest| {
        let target = dir.path().join(name);
        fs::create_dir(&target).unwrap();
        unpack(bytes, &target, Some(blob), diff_id, &LIMITS)
    };
    let (right_blob, right_id, wrong) = (Digest::of(&blob), Digest::of(&plain), Digest::of(b""));
    check("right", &blob, &right_blob, &right_id).unwrap();
    assert!(matches!(check("id", &blob, &right_blob, &wrong), Err(UnpackError::DiffId { .. })));
    assert!(matches!(check("blob", &blob, &wrong, &right_id), Err(UnpackError::Blob { .. })));
    // Something after the compressed archive belongs to the blob.
    let longer = [blob.as_slice(), b"more"].concat();
    assert!(check("longer", &longer, &right_blob, &right_id).is_err());
    for length in [0, 1, 5, blob.len() / 2, blob.len() - 1] {
        assert!(check(&format!("cut{length}"), &blob[..length], &right_blob, &right_id).is_err(), "{length}");
    }
    let sha512 = Digest::parse(&format!("sha512:{}", "0".repeat(128))).unwrap();
    assert!(matches!(check("sha512", &blob, &sha512, &right_id), Err(UnpackError::Blob { .. })));
    for length in [1, 511, 512, 513, 1024] {
        let cut = &plain[..length];
        let result = check(&format!("plain{length}"), cut, &Digest::of(cut), &Digest::of(cut));
        // Where an entry ends, an archive may end.
        assert_eq!(result.is_ok(), length == 1024, "{length}: {result:?}");
    }
}

#[test]
fn a_whiteout_hides_what_is_below_and_not_its_own_layer() {
    if !is_root("a_whiteout_hides_what_is_below_and_not_its_own_layer") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lower = archive(&[
        Entry::file("file", "below"),
        Entry::file("before", "below"),
        Entry::file("after", "below"),
        Entry::file("dir-before/below", ""),
        Entry::file("dir-after/below", ""),
        Entry::file("implied/below", ""),
        Entry::file("opaque-first/below", ""),
        Entry::file("opaque-last/below", ""),
        Entry::file("kept/below", ""),
    ]);
    let upper = archive(&[
        Entry::whiteout("", "file"),
        Entry::file("before", "above"),
        Entry::whiteout("", "before"),
        Entry::whiteout("", "after"),
        Entry::file("after", "above"),
        Entry::file("dir-before/above", ""),
        Entry::whiteout("", "dir-before"),
        Entry::whiteout("", "dir-after"),
        Entry::directory("dir-after/"),
        Entry::file("dir-after/above", ""),
        Entry::whiteout("", "implied"),
        Entry::file("implied/above", ""),
        Entry::opaque("opaque-first/"),
        Entry::file("opaque-first/above", ""),
        Entry::file("opaque-last/above", ""),
        Entry::opaque("opaque-last/"),
        Entry::file("kept/above", ""),
        Entry::file(".wh..wh.plnk/1.2", "of aufs"),
        Entry::file(".wh..wh.aufs", "of aufs"),
    ]);
    for (name, bytes) in [("lower", lower), ("upper", upper)] {
        unpacked(&bytes, &dir.path().join(name), &LIMITS).unwrap();
    }
    let merged = dir.path().join("merged");
    fs::create_dir(&merged).unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let options = format!("lowerdir={}:{}", path("upper"), path("lower"));
    let options = std::ffi::CString::new(options).unwrap();
    if let Err(error) =
        rustix::mount::mount("overlay", &merged, "overlay", rustix::mount::MountFlags::RDONLY, options.as_c_str())
    {
        return testkit::skip(&format!("a_whiteout_hides_what_is_below: no overlay here: {error}"));
    }
    let mut seen: Vec<String> = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(merged.join(&at)).unwrap() {
            let entry = entry.unwrap();
            let path = at.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() { left.push(path) } else { seen.push(path.display().to_string()) }
        }
    }
    let read = |name: &str| fs::read_to_string(merged.join(name)).unwrap();
    let contents = [read("before"), read("after")];
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH).unwrap();
    seen.sort();
    assert_eq!(
        seen,
        [
            "after",
            "before",
            "dir-after/above",
            "dir-before/above",
            "implied/above",
            "kept/above",
            "kept/below",
            "opaque-first/above",
            "opaque-last/above",
        ]
    );
    assert_eq!(contents, ["above", "above"]);
}
