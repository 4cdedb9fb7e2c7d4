//! What comes out of a layer, compared with what GNU tar makes of it, and what does not come out of a hostile one.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

/// A tree as lines: path, kind, mode, owner, links, time, device, target, size and the digest of the content, attributes.
pub(crate) fn tree(root: &Path) -> Vec<String> {
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
        // Hard links are the same as each other: the first name stands for all.
        let links = if kind.is_dir() { 0 } else { found.nlink() };
        let size = if kind.is_dir() { 0 } else { found.len() };
        let is_whiteout = kind == FileType::CharacterDevice && found.rdev() == 0;
        // A whiteout's time means nothing to anybody.
        let (seconds, nanos) = if is_whiteout { (0, 0) } else { (found.mtime(), found.mtime_nsec()) };
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
