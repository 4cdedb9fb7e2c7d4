//! The package for Debian and what is made of it: program, units, settings, documentation.
//!
//! ```text
//! selvedge_VERSION_ARCH.deb (ar)
//! ├── debian-binary
//! ├── control.tar.gz    control, conffiles, md5sums, postinst, prerm, postrm
//! └── data.tar.gz       /usr/bin/selvedge, both units, /etc/selvedge/*.yaml, …
//! ```
//!
//! Written by hand, so that it can be made on any machine and is the same on each; `dpkg-deb` and `lintian` judge it
//! (`cargo xtask dist --check`).

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::archive::{Entry, ar, gzip, md5, tar};
use super::bill::Bill;
use super::{Arch, Release};
use crate::run::{output, root};

/// Of the repository's files: where each is there and here.
const FILES: &[(&str, &str)] = &[
    ("packaging/systemd/selvedge-hub.service", "usr/lib/systemd/system/selvedge-hub.service"),
    ("packaging/systemd/selvedge-node.service", "usr/lib/systemd/system/selvedge-node.service"),
    ("packaging/systemd/sysusers.conf", "usr/lib/sysusers.d/selvedge.conf"),
    ("packaging/debian/copyright", "usr/share/doc/selvedge/copyright"),
    ("docs/how-to/install-and-upgrade.md", "usr/share/doc/selvedge/install-and-upgrade.md"),
    ("packaging/debian/lintian-overrides", "usr/share/lintian/overrides/selvedge"),
];

/// Settings, and the samples that they are made of.
const SETTINGS: &[(&str, &str)] = &[
    ("docs/reference/config/hub.yaml", "etc/selvedge/hub.yaml"),
    ("docs/reference/config/node.yaml", "etc/selvedge/node.yaml"),
];

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// The package, of a program.
pub fn pack(release: &Release, arch: Arch, program: &[u8], bill: &Bill) -> Result<Vec<u8>> {
    let data = data(release, program, bill)?;
    let kib: usize = data.iter().filter_map(Entry::bytes).map(|bytes| bytes.len().div_ceil(1024)).sum();
    let mut control = vec![
        Entry::file("control", 0o644, control(release, arch, kib)?),
        Entry::file("conffiles", 0o644, SETTINGS.iter().map(|(_, path)| format!("/{path}\n")).collect::<String>()),
        Entry::file("md5sums", 0o644, md5sums(&data)?),
    ];
    for script in SCRIPTS {
        control.push(Entry::file(script, 0o755, read(&format!("packaging/debian/{script}"))?));
    }
    let archive = |entries: &[Entry]| gzip(&tar(entries, "./", release.seconds)?);
    let (control, data) = (archive(&control)?, archive(&data)?);
    let members: [(&str, &[u8]); 3] =
        [("debian-binary", b"2.0\n"), ("control.tar.gz", &control), ("data.tar.gz", &data)];
    ar(&members, release.seconds)
}

fn read(path: &str) -> Result<Vec<u8>> {
    fs::read(root().join(path)).with_context(|| format!("failed to read {path}"))
}

fn data(release: &Release, program: &[u8], bill: &Bill) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (sample, path) in SETTINGS {
        let sample = String::from_utf8(read(sample)?).with_context(|| format!("{sample} is not text"))?;
        entries.push(Entry::file(*path, 0o644, settings(&sample)));
    }
    entries.push(Entry::file("usr/bin/selvedge", 0o755, program));
    for (source, path) in FILES {
        entries.push(Entry::file(*path, 0o644, read(source)?));
    }
    for (path, text) in [
        ("usr/share/doc/selvedge/bill.cdx.json.gz", bill.document.as_bytes()),
        ("usr/share/doc/selvedge/changelog.gz", changelog(release)?.as_bytes()),
        ("usr/share/doc/selvedge/notices.gz", bill.notices.as_bytes()),
        ("usr/share/man/man1/selvedge.1.gz", &read("packaging/debian/selvedge.1")?),
    ] {
        entries.push(Entry::file(path, 0o644, gzip(text)?));
    }
    entries.sort_by(|one, other| one.path().cmp(other.path()));
    Ok(entries)
}

/// A sample with every setting as a comment: what is not set keeps its default, also where a later version has another one.
fn settings(sample: &str) -> String {
    let head = "# What is not set here has its default, which is shown. See /usr/share/doc/selvedge/install-and-upgrade.md.\n\n";
    let lines = sample.lines().map(|line| match line.is_empty() || line.starts_with('#') {
        true => format!("{line}\n"),
        false => format!("#{line}\n"),
    });
    head.to_owned() + &lines.collect::<String>()
}

fn control(release: &Release, arch: Arch, kib: usize) -> Result<String> {
    let template = String::from_utf8(read("packaging/debian/control")?).context("the control file is not text")?;
    let fill = [
        ("${VERSION}", release.version.clone()),
        ("${ARCH}", arch.name().to_owned()),
        ("${KIB}", kib.to_string()),
        ("${HOMEPAGE}", release.repository.clone()),
    ];
    Ok(fill.iter().fold(template, |text, (name, value)| text.replace(name, value)))
}

fn md5sums(data: &[Entry]) -> Result<String> {
    let mut sums = String::new();
    // Settings are the administrator's to change.
    let is_ours = |entry: &&Entry| !entry.path().starts_with("etc/");
    for entry in data.iter().filter(is_ours) {
        sums += &format!("{}  {}\n", md5(entry.bytes().unwrap_or_default())?, entry.path());
    }
    Ok(sums)
}

/// In Debian's form, which has one entry a release: what changed is in the repository.
fn changelog(release: &Release) -> Result<String> {
    let date =
        output(Command::new("date").args(["--utc", "-R", "-d", &format!("@{}", release.seconds)]).env("LC_ALL", "C"))?;
    let control = String::from_utf8(read("packaging/debian/control")?).context("the control file is not text")?;
    let maintainer = control.lines().find_map(|line| line.strip_prefix("Maintainer: "));
    Ok(format!(
        "selvedge ({}) unstable; urgency=medium\n\n  * Release {}; see {}.\n\n -- {}  {}\n",
        release.version,
        release.version,
        release.repository,
        maintainer.context("packaging/debian/control has no Maintainer")?,
        date.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::release;
    use super::*;
    use crate::run::has;

    fn bill() -> Bill {
        Bill { document: "{}".to_owned(), notices: "of many".to_owned() }
    }

    #[test]
    fn the_same_program_is_the_same_package() {
        let make = || pack(&release(), Arch::Amd64, b"program", &bill()).expect("a package");
        assert_eq!(make(), make());
    }

    #[test]
    fn every_setting_is_a_comment() {
        for (sample, _) in SETTINGS {
            let text = settings(&String::from_utf8(read(sample).expect("it is in the repository")).expect("text"));
            assert!(text.contains("\n#log: \"info\"\n"), "{text}");
            assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
        }
    }

    #[test]
    fn dpkg_finds_program_units_and_settings() {
        if !has("dpkg-deb") {
            testkit::skip("dpkg-deb is not there");
            return;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("selvedge.deb");
        fs::write(&path, pack(&release(), Arch::Arm64, b"program", &bill()).expect("a package")).expect("space");
        let field = |name: &str| output(Command::new("dpkg-deb").arg("--field").arg(&path).arg(name)).expect("a field");
        assert_eq!((field("Package").trim(), field("Architecture").trim()), ("selvedge", "arm64"));
        assert_eq!(field("Version").trim(), "0.0.7");
        output(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(dir.path().join("out")))
            .expect("good archives");
        for file in ["usr/bin/selvedge", "etc/selvedge/hub.yaml", "usr/lib/systemd/system/selvedge-node.service"] {
            assert!(dir.path().join("out").join(file).is_file(), "{file}");
        }
        output(Command::new("dpkg-deb").arg("--control").arg(&path).arg(dir.path().join("DEBIAN")))
            .expect("a control part");
        let sums = dir.path().join("DEBIAN/md5sums");
        output(
            Command::new("md5sum")
                .args(["--check", "--strict", "--quiet"])
                .arg(sums)
                .current_dir(dir.path().join("out")),
        )
        .expect("the sums are those of the files");
    }

    /// dpkg runs them with sh, and an error in one leaves a package half installed.
    #[test]
    fn scripts_are_good_shell_and_stop_at_the_first_error() {
        for script in SCRIPTS {
            let path = root().join("packaging/debian").join(script);
            output(Command::new("sh").arg("-n").arg(&path)).expect("good shell");
            let text = fs::read_to_string(&path).expect("it is in the repository");
            assert!(text.starts_with("#!/bin/sh\n") && text.contains("\nset -e\n"), "{script}");
        }
    }
}
