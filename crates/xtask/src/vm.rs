//! What tests in a virtual machine need: QEMU, and of Debian's packages a kernel, the modules it boots with, and busybox.
//!
//! They are unpacked beside the other tools, one directory an architecture, and not installed: `origin` in it names the packages.
//! Modules bear the order in which they are loaded in their names, as `00-virtio_ring.ko`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::install::debian;
use crate::run::{has, output, run, say, tools_dir};

/// In this order: each needs those before it. What a kernel has built in is not there as a file.
const MODULES: [&str; 45] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "crc16",
    "mbcache",
    "jbd2",
    "crc32c_generic",
    "libcrc32c",
    "ext4",
    "overlay",
    "fuse",
    "veth",
    "tun",
    "sch_netem",
    "nfnetlink",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_reject_ipv4",
    "nf_reject_ipv6",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_fib_inet",
    "nft_limit",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_redir",
    "nft_reject",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_reject_inet",
];

/// A machine that is emulated.
pub struct Guest {
    /// As Debian calls it.
    arch: &'static str,
    emulator: (&'static str, &'static str),
}

pub const AMD64: Guest = Guest { arch: "amd64", emulator: ("qemu-system-x86_64", "qemu-system-x86") };

impl Guest {
    fn dir(&self) -> PathBuf {
        tools_dir().join(format!("vm-{}-2", self.arch))
    }

    /// Where its kernel is, when that and the emulator are installed.
    pub fn found(&self) -> Option<PathBuf> {
        let dir = self.dir();
        (dir.join("origin").is_file() && has(self.emulator.0)).then_some(dir)
    }

    /// Installs what is missing.
    pub fn install(&self) -> Result<()> {
        debian(&[self.emulator, ("mkfs.ext4", "e2fsprogs")])?;
        let dir = self.dir();
        if dir.join("origin").is_file() {
            return Ok(());
        }
        say(&format!("Unpacking a kernel and busybox for {} (Debian) into {}", self.arch, dir.display()));
        let part = dir.with_extension("part");
        let _ = fs::remove_dir_all(&part);
        fs::create_dir_all(part.join("modules")).with_context(|| format!("failed to create {}", part.display()))?;
        let work = part.join("work");
        fs::create_dir(&work)?;
        let kernel = self.kernel_package()?;
        let origins = [self.unpack(&work, &kernel)?, self.unpack(&work, "busybox-static")?];
        self.take(&work, &part)?;
        fs::remove_dir_all(&work).context("failed to clean up")?;
        fs::write(part.join("origin"), origins.join("\n") + "\n")?;
        fs::rename(&part, &dir).with_context(|| format!("failed to put {} into place", dir.display()))
    }

    /// The package that Debian's newest kernel is in: another one needs it, by a name without a version.
    fn kernel_package(&self) -> Result<String> {
        let any = format!("linux-image-{}:{}", self.arch, self.arch);
        let needed = output(Command::new("apt-cache").args(["depends", "--important", &any]))?;
        let name = needed.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        let name = name.with_context(|| format!("{any} depends on no kernel: {needed}"))?;
        Ok(format!("linux-image-{}", name.split(':').next().unwrap_or(name)))
    }

    /// Downloads a package and unpacks it here; its file's name.
    fn unpack(&self, work: &Path, package: &str) -> Result<String> {
        run(Command::new("apt-get").args(["download", "-qq", &format!("{package}:{}", self.arch)]).current_dir(work))?;
        let files =
            fs::read_dir(work)?.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
        let prefix = format!("{package}_");
        let file = files.into_iter().find(|name| name.starts_with(&prefix)).context("apt-get downloaded no package")?;
        run(Command::new("dpkg-deb").arg("-x").arg(work.join(&file)).arg(work.join("root")))?;
        Ok(file)
    }

    /// Takes out of unpacked packages what a machine boots with.
    fn take(&self, work: &Path, part: &Path) -> Result<()> {
        let (mut open, mut files) = (vec![work.join("root")], Vec::new());
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("failed to list {}", dir.display()))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() { open.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        let named = |matches: &dyn Fn(&str) -> bool| {
            files.iter().find(|path| path.file_name().is_some_and(|name| matches(&name.to_string_lossy())))
        };
        let kernel = named(&|name| name.starts_with("vmlinuz-")).context("no kernel in its package")?;
        fs::copy(kernel, part.join("vmlinuz")).context("failed to copy the kernel")?;
        let busybox = named(&|name| name == "busybox").context("no busybox in its package")?;
        fs::copy(busybox, part.join("busybox")).context("failed to copy busybox")?;
        for (number, module) in MODULES.iter().enumerate() {
            if let Some(path) = named(&|name| name.strip_suffix(".ko") == Some(module)) {
                fs::copy(path, part.join(format!("modules/{number:02}-{module}.ko")))
                    .with_context(|| format!("failed to copy the module {module}"))?;
            }
        }
        Ok(())
    }
}
