//! Archives that are the same bytes whenever they have the same contents: tar, gzip and ar.
//!
//! Whoever builds the same sources gets the same packages and can compare them. So nothing of the machine goes in: no owner, no
//! time but the one that is handed in, and entries in the order in which they are handed in, with the directories above them
//! before them.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, GzBuilder};

/// A file or directory.
pub struct Entry {
    /// Without a slash before it.
    path: String,
    kind: Kind,
    mode: u32,
    /// User and group.
    owner: u32,
}

enum Kind {
    Directory,
    File(Vec<u8>),
}

impl Entry {
    pub fn file(path: impl Into<String>, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), kind: Kind::File(bytes.into()), mode, owner: 0 }
    }

    pub fn directory(path: impl Into<String>, mode: u32) -> Self {
        Self { path: path.into(), kind: Kind::Directory, mode, owner: 0 }
    }

    /// Of this user and the group of the same number.
    pub fn owner(mut self, id: u32) -> Self {
        self.owner = id;
        self
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// Of a file.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::File(bytes) => Some(bytes),
            Kind::Directory => None,
        }
    }
}

/// The longest path that a plain header takes; ours are short, and an extension would be one more thing to get wrong.
const PATH_BYTES_MAX: usize = 100;

/// Tar archives, each entry at `prefix` and its path, as of `seconds` after 1970. Directories that no entry names are added.
pub fn tar(entries: &[Entry], prefix: &str, seconds: u64) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    let mut written = BTreeSet::new();
    for entry in entries {
        for (at, _) in entry.path.match_indices('/') {
            let above = &entry.path[..at];
            let is_named = entries.iter().any(|other| other.path == above);
            if !is_named && written.insert(above.to_owned()) {
                header(&mut archive, &format!("{prefix}{above}/"), b'5', 0o755, 0, 0, seconds)?;
            }
        }
        ensure!(written.insert(entry.path.clone()), "two entries are called {}", entry.path);
        match &entry.kind {
            Kind::Directory => {
                let path = format!("{prefix}{}/", entry.path);
                header(&mut archive, &path, b'5', entry.mode, entry.owner, 0, seconds)?;
            }
            Kind::File(bytes) => {
                let path = format!("{prefix}{}", entry.path);
                header(&mut archive, &path, b'0', entry.mode, entry.owner, bytes.len(), seconds)?;
                archive.extend_from_slice(bytes);
                archive.resize(archive.len().next_multiple_of(BLOCK), 0);
            }
        }
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    Ok(archive)
}

const BLOCK: usize = 512;

fn header(archive: &mut Vec<u8>, path: &str, kind: u8, mode: u32, owner: u32, size: usize, seconds: u64) -> Result<()> {
    ensure!(path.len() <= PATH_BYTES_MAX, "{path} is longer than {PATH_BYTES_MAX} bytes");
    let mut block = [0u8; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, path.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, format!("{owner:07o}").as_bytes());
    put(116, format!("{owner:07o}").as_bytes());
    let (size, seconds) = (format!("{size:011o}"), format!("{seconds:011o}"));
    ensure!(size.len() == 11 && seconds.len() == 11, "{path} is too large, or of too late a time, for a plain header");
    put(124, size.as_bytes());
    put(136, seconds.as_bytes());
    // The sum is taken with spaces in its own place.
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend_from_slice(&block);
    Ok(())
}

/// Compresses; no name and no time go in.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes).context("failed to compress")?;
    encoder.finish().context("failed to compress")
}

/// An ar archive of members, as Debian's packages are.
pub fn ar(members: &[(&str, &[u8])], seconds: u64) -> Result<Vec<u8>> {
    let mut archive = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        ensure!(name.len() <= 16, "{name} is too long for a member's name");
        let (seconds, size) = (seconds.to_string(), bytes.len().to_string());
        ensure!(seconds.len() <= 12 && size.len() <= 10, "{name} is too large, or of too late a time");
        writeln!(archive, "{name:<16}{seconds:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, "100644")?;
        archive.extend_from_slice(bytes);
        // Members begin at even offsets.
        if bytes.len() % 2 == 1 {
            archive.push(b'\n');
        }
    }
    Ok(archive)
}

/// The digest of some bytes in hexadecimal digits, by the program that those who compare use, too.
pub fn sha256(bytes: &[u8]) -> Result<String> {
    digest("sha256sum", bytes)
}

/// As [`sha256`]: what Debian's packages list of their files.
pub fn md5(bytes: &[u8]) -> Result<String> {
    digest("md5sum", bytes)
}

fn digest(program: &str, bytes: &[u8]) -> Result<String> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {program}"))?;
    // It prints nothing before it has read everything; closing its input ends it.
    child
        .stdin
        .take()
        .context("its input is a pipe")?
        .write_all(bytes)
        .with_context(|| format!("{program} ended early"))?;
    let output = child.wait_with_output().with_context(|| format!("failed to wait for {program}"))?;
    ensure!(output.status.success(), "{program} ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    text.split(' ').next().filter(|digest| !digest.is_empty()).map(str::to_owned).context("it printed nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        vec![
            Entry::file("usr/bin/a", 0o755, *b"program"),
            Entry::directory("var/lib/a", 0o700).owner(65532),
            Entry::file("usr/bin/b", 0o644, vec![7; 513]),
        ]
    }

    #[test]
    fn the_same_contents_are_the_same_bytes() {
        let make = || gzip(&tar(&entries(), "./", 86_400).expect("short paths")).expect("memory");
        assert_eq!(make(), make());
        assert_ne!(make(), gzip(&tar(&entries(), "./", 86_401).expect("short paths")).expect("memory"));
    }

    #[test]
    fn tar_reads_what_was_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.tar.gz");
        std::fs::write(&path, gzip(&tar(&entries(), "./", 86_400).expect("short paths")).expect("memory"))
            .expect("space");
        let listed = Command::new("tar").args(["-tvzf"]).arg(&path).args(["--utc", "--numeric-owner"]).output();
        let listed = listed.expect("tar is there");
        let lines: Vec<String> = String::from_utf8_lossy(&listed.stdout)
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 0/0 0 1970-01-02 00:00 ./usr/",
                "drwxr-xr-x 0/0 0 1970-01-02 00:00 ./usr/bin/",
                "-rwxr-xr-x 0/0 7 1970-01-02 00:00 ./usr/bin/a",
                "drwxr-xr-x 0/0 0 1970-01-02 00:00 ./var/",
                "drwxr-xr-x 0/0 0 1970-01-02 00:00 ./var/lib/",
                "drwx------ 65532/65532 0 1970-01-02 00:00 ./var/lib/a/",
                "-rw-r--r-- 0/0 513 1970-01-02 00:00 ./usr/bin/b",
            ],
            "{}",
            String::from_utf8_lossy(&listed.stderr)
        );
    }

    #[test]
    fn what_a_header_does_not_take_is_an_error() {
        let long = [Entry::file("x".repeat(101), 0o644, *b"")];
        tar(&long, "", 0).expect_err("too long a path");
        tar(&[Entry::file("a", 0o644, *b""), Entry::directory("a", 0o755)], "", 0).expect_err("two of a name");
        tar(&[Entry::file("a", 0o644, *b"")], "", u64::MAX).expect_err("too late");
        ar(&[("a-very-long-name-of-a-member", b"")], 0).expect_err("too long a name");
    }

    #[test]
    fn members_of_odd_length_are_padded() {
        let archive = ar(&[("a", b"1"), ("b", b"22")], 5).expect("short names");
        let expected = "!<arch>\n\
             a               5           0     0     100644  1         `\n1\n\
             b               5           0     0     100644  2         `\n22";
        assert_eq!(String::from_utf8_lossy(&archive), expected);
        assert_eq!(sha256(b"").expect("coreutils"), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
