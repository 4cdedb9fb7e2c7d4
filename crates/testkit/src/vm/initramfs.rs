//! The first file system of a guest: busybox, the modules that reach the disk, and what mounts it.
//!
//! An archive as `cpio -H newc` writes it, which the kernel unpacks: a header of hexadecimal digits, the name, the bytes, each padded
//! to four.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

const DIR: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Loads the modules in the order of their names, waits for the disk (it appears some time after its driver) and continues there.
const INIT: &str = "#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc; $B mount -t sysfs sysfs /sys; $B mount -t devtmpfs dev /dev
for module in /modules/*.ko; do $B insmod $module; done
while [ ! -b /dev/vda ]; do $B sleep 0.1; done
$B mount -t ext4 /dev/vda /disk || $B poweroff -f
$B umount /proc; $B umount /sys; $B umount /dev
exec $B switch_root /disk /sbin/init
";

/// The archive for a kernel in a directory that `cargo xtask install` made.
pub fn of(tools: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "disk", "modules", "proc", "sys"] {
        archive.add(dir, DIR, &[]);
    }
    let read = |path: &Path| fs::read(path).with_context(|| format!("failed to read {}", path.display()));
    archive.add("bin/busybox", PROGRAM, &read(&tools.join("busybox"))?);
    let modules = fs::read_dir(tools.join("modules")).context("failed to list the modules")?;
    for module in modules {
        let module = module?;
        let name = format!("modules/{}", module.file_name().to_string_lossy());
        archive.add(&name, PROGRAM, &read(&module.path())?);
    }
    archive.add("init", PROGRAM, INIT.as_bytes());
    Ok(archive.finish())
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.files += 1;
        let (name_size, size) = (name.len() as u32 + 1, data.len() as u32);
        // Inode, mode, owner, group, links, time, size, four device numbers, length of the name, a checksum that nobody reads.
        let fields = [self.files, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, PROGRAM};

    #[test]
    fn an_archive_is_what_cpio_writes() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"#!");
        let bytes = archive.finish();
        let fields =
            "00000001000081ed0000000000000000000000010000000000000002000000000000000000000000000000000000000500000000";
        let first = [b"070701", fields.as_bytes(), b"init\0", b"\0", b"#!", b"\0\0", b"070701"].concat();
        assert_eq!(bytes[..first.len()], first, "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(bytes.len() % 4, 0);
    }
}
