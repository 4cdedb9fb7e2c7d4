//! A disk that can become read-only under those who write to it, as one does whose file system meets an error.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// An ext4 file system in a file, mounted at a directory of its own until it is dropped.
pub struct FailingDisk {
    dir: tempfile::TempDir,
}

impl FailingDisk {
    /// `None` after a printed reason where mounting is not allowed.
    pub fn mount(bytes: u64) -> Result<Option<Self>> {
        let dir = tempfile::tempdir()?;
        let (image, place) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&place)?;
        std::fs::File::create(&image)?.set_len(bytes)?;
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).output();
        let mounted = made
            .and_then(|_| Command::new("mount").args(["-o", "loop,errors=remount-ro"]).args([&image, &place]).output());
        match mounted {
            Ok(mounted) if mounted.status.success() => Ok(Some(Self { dir })),
            other => {
                crate::skip(&format!("no disk can be mounted: {other:?}"));
                Ok(None)
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("disk")
    }

    /// Has its file system meet an error: nothing is written to it from now on, also not to files that are open.
    pub fn fail(&self) -> Result<()> {
        let failed = Command::new("mount").args(["-o", "remount,abort"]).arg(self.path()).output()?;
        ensure!(failed.status.success(), "{}", String::from_utf8_lossy(&failed.stderr));
        let probe = std::fs::write(self.path().join("probe"), "").err().context("the disk takes a file")?;
        ensure!(probe.kind() == std::io::ErrorKind::ReadOnlyFilesystem, "{probe}");
        Ok(())
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

/// At once, whoever still uses it.
fn unmount(path: &Path) {
    let _ = Command::new("umount").arg("-l").arg(path).status();
}
