//! `cargo xtask dist --check`: what other people's programs say of the packages.
//!
//! Each is installed when it is missing, as for tests; one that finds a fault ends the check with what it said.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Arch, Release, toolchain};
use crate::install::{debian, helms};
use crate::run::{output, run, say};

/// Looks at everything in `dir`.
pub fn check(dir: &Path, release: &Release, archs: &[Arch]) -> Result<()> {
    say("Checking what was packed");
    debian(&[("lintian", "lintian"), ("systemd-analyze", "systemd"), ("skopeo", "skopeo"), ("dpkg-deb", "dpkg")])?;
    run(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(dir))?;
    let version = &release.version;
    for arch in archs {
        let deb = dir.join(format!("selvedge_{version}_{}.deb", arch.name()));
        // What it only suggests is not held against a package; overrides have their reasons beside them.
        run(Command::new("lintian").args(["--allow-root", "--fail-on", "error,warning"]).arg(&deb))?;
        let program = dir.join(format!("selvedge-{version}-linux-{}", arch.name()));
        starts(&program, *arch)?;
        names_no_source(&program)?;
    }
    let first = archs.first().context("something was built")?;
    units(&dir.join(format!("selvedge_{version}_{}.deb", first.name())), dir)?;
    let image = format!("oci-archive:{}", dir.join(format!("selvedge-hub-{version}.tar")).display());
    for arch in archs {
        output(Command::new("skopeo").args([
            "inspect",
            "--override-os",
            "linux",
            "--override-arch",
            arch.name(),
            &image,
        ]))?;
    }
    for helm in helms()? {
        let chart = dir.join(format!("selvedge-hub-{version}.tgz"));
        run(Command::new(&helm).args(["lint", "--strict"]).arg(&chart))?;
        output(Command::new(&helm).args(["template", "hub"]).arg(&chart))?;
    }
    Ok(())
}

/// Nothing in the program says where it was built.
fn names_no_source(program: &Path) -> Result<()> {
    let bytes = fs::read(program).with_context(|| format!("failed to read {}", program.display()))?;
    for dir in toolchain::sources()? {
        let path = dir.as_os_str().as_encoded_bytes();
        let is_there = bytes.windows(path.len()).any(|window| window == path);
        ensure!(!is_there, "{} names {}, where it was built", program.display(), dir.display());
    }
    Ok(())
}

/// The program says its version: on this machine, or as another in an emulator where there is one.
fn starts(program: &Path, arch: Arch) -> Result<()> {
    let mut command = if arch.machine() == std::env::consts::ARCH {
        Command::new(program)
    } else {
        let emulator = format!("qemu-{}-static", arch.machine());
        debian(&[(emulator.as_str(), "qemu-user-static")])?;
        let mut command = Command::new(emulator);
        command.arg(program);
        command
    };
    let said = output(command.arg("version"))?;
    println!("{}: {}", program.display(), said.trim());
    ensure!(said.starts_with("selvedge "), "{} said: {said}", program.display());
    Ok(())
}

/// systemd reads the units as they are installed.
fn units(deb: &Path, dir: &Path) -> Result<()> {
    let root = dir.join("unpacked");
    run(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(&root))?;
    let units = root.join("usr/lib/systemd/system");
    // The program is looked for where units say, on this machine: they are read with the one that was unpacked.
    let copies = dir.join("units");
    fs::create_dir_all(&copies).context("failed to make a directory for units")?;
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]);
    for unit in ["selvedge-hub.service", "selvedge-node.service"] {
        let text = fs::read_to_string(units.join(unit)).with_context(|| format!("failed to read {unit}"))?;
        let copy = copies.join(unit);
        fs::write(&copy, text.replace("/usr/bin/selvedge", &root.join("usr/bin/selvedge").to_string_lossy()))?;
        verify.arg(copy);
    }
    run(&mut verify)?;
    fs::remove_dir_all(&copies).and_then(|()| fs::remove_dir_all(&root)).context("failed to clean up")
}
