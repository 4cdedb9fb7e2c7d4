//! `cargo xtask dist`: what is shipped, in `target/dist`.
//!
//! ```text
//! selvedge-VERSION-linux-ARCH          the program with every role, static
//! selvedge-node-VERSION-linux-ARCH     the node alone, for gateways with little flash
//! selvedge_VERSION_ARCH.deb            program, units, settings                     deb
//! selvedge-hub-VERSION.tar             container image of all architectures built   image
//! selvedge-hub-VERSION.tgz             Helm chart                                   chart
//! selvedge-VERSION-linux-ARCH.cdx.json what the program is made of                  bill
//! SHA256SUMS
//! ```
//!
//! Packages are the same bytes for the same program and commit ([`archive`]); programs are for the same compiler ([`toolchain`]).
//! `--check` asks other people's programs for their opinion: lintian, systemd, skopeo, Helm 3 and 4, and an emulator for a program
//! of another machine.

mod archive;
mod bill;
mod chart;
mod check;
mod deb;
mod elf;
mod image;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::run::{cargo, output, root, run, say, target_dir};

/// What programs may measure: docs/adr/0014-static-program.md. A gateway's flash is small, and its link slow.
const FULL_BYTES_MAX: u64 = 40 << 20;
const NODE_BYTES_MAX: u64 = 12 << 20;

/// An architecture, by the names that its users have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Of the machine that builds.
    fn of_this_machine() -> Result<Self> {
        let is_it = |arch: &Self| arch.machine() == std::env::consts::ARCH;
        let found = Self::ALL.into_iter().find(is_it);
        found.with_context(|| {
            format!("this machine is {}; name another with --arch amd64 or --arch arm64", std::env::consts::ARCH)
        })
    }

    fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|arch| arch.name() == name);
        found.with_context(|| format!("`{name}` is no architecture that is shipped; there are amd64 and arm64"))
    }

    /// As Debian and images call it.
    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As compilers call it.
    fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    fn elf_machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }
}

/// What packages say of themselves.
struct Release {
    version: String,
    repository: String,
    /// After 1970: the time of all that is packed.
    seconds: u64,
    /// The same for people.
    rfc3339: String,
}

impl Release {
    /// Of this checkout. The time is that of its commit, or what `SOURCE_DATE_EPOCH` says.
    fn of_checkout() -> Result<Self> {
        let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(seconds) => seconds,
            // Sources without a repository have no time.
            Err(_) => {
                output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root())).unwrap_or_default()
            }
        };
        let seconds = match seconds.trim() {
            "" => 0,
            seconds => seconds.parse().with_context(|| format!("`{seconds}` is no time in seconds after 1970"))?,
        };
        let rfc3339 =
            output(Command::new("date").args(["--utc", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"]))?;
        Ok(Self {
            version: version()?,
            repository: workspace("repository")?,
            seconds,
            rfc3339: rfc3339.trim().to_owned(),
        })
    }
}

/// The version of the workspace.
fn version() -> Result<String> {
    workspace("version")
}

/// What all packages of the workspace share.
fn workspace(key: &str) -> Result<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).context("failed to read Cargo.toml")?;
    let value =
        manifest.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix("= \"")?.strip_suffix('"'));
    value.map(str::to_owned).with_context(|| format!("Cargo.toml has no {key}"))
}

/// What was asked for.
struct Order {
    archs: Vec<Arch>,
    checks: bool,
    /// A program to pack in place of a build.
    program: Option<PathBuf>,
    with_node: bool,
}

impl Order {
    fn parse(args: &[String]) -> Result<Self> {
        let mut order = Self { archs: Vec::new(), checks: false, program: None, with_node: true };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--arch" => {
                    let arch = Arch::parse(value()?)?;
                    ensure!(!order.archs.contains(&arch), "--arch {} is there twice", arch.name());
                    order.archs.push(arch);
                }
                "--check" => order.checks = true,
                "--program" => order.program = Some(value()?.into()),
                "--full-only" => order.with_node = false,
                other => bail!("`{other}` is no argument of `cargo xtask dist`; see `cargo xtask help`"),
            }
        }
        if order.archs.is_empty() {
            order.archs.push(Arch::of_this_machine()?);
        }
        ensure!(order.program.is_none() || order.archs.len() == 1, "--program is for one --arch");
        // One order, whatever the command line has.
        order.archs.sort_by_key(|arch| arch.name());
        Ok(order)
    }
}

/// Builds and packs.
pub fn dist(args: &[String]) -> Result<()> {
    let order = Order::parse(args)?;
    let release = Release::of_checkout()?;
    let dir = target_dir().join("dist");
    // What an earlier run made is not of this commit.
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("failed to clean {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
    let version = &release.version;
    let mut made = Made { dir: &dir, files: Vec::new() };
    let mut programs = Vec::new();
    for &arch in &order.archs {
        let path = match &order.program {
            Some(path) => path.clone(),
            None => build(arch, "full")?,
        };
        let program = fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        if let Err(error) = elf::check_static(&program, arch) {
            // What is given is packed, such as a program to try the packages with.
            ensure!(order.program.is_some(), "{}: {error:#}", path.display());
            println!("{}: {error:#}", path.display());
        }
        made.file(&format!("selvedge-{version}-linux-{}", arch.name()), &program)?;
        if order.program.is_none() && order.with_node {
            let node = fs::read(build(arch, "node")?)?;
            elf::check_static(&node, arch).with_context(|| format!("the node alone for {}", arch.name()))?;
            made.file(&format!("selvedge-node-{version}-linux-{}", arch.name()), &node)?;
        }
        let bill = bill::Bill::of_program(&release, arch)?;
        made.file(&format!("selvedge-{version}-linux-{}.cdx.json", arch.name()), bill.document.as_bytes())?;
        made.file(&format!("selvedge_{version}_{}.deb", arch.name()), &deb::pack(&release, arch, &program, &bill)?)?;
        programs.push(image::Program { arch, bytes: program, notices: bill.notices });
    }
    say("Packing the image and the chart");
    made.file(&format!("selvedge-hub-{version}.tar"), &image::pack(&release, &programs)?)?;
    made.file(&format!("selvedge-hub-{version}.tgz"), &chart::pack(&release)?)?;
    made.sums()?;
    made.report();
    if order.checks {
        check::check(&dir, &release, &order.archs)?;
    }
    too_large(&made.files)
}

/// Builds the program with one selection of roles, static.
fn build(arch: Arch, features: &str) -> Result<PathBuf> {
    say(&format!("Building the program for {} with {features} (release profile)", arch.name()));
    // Another directory than that of other builds: cargo keeps one program of a name in each.
    let dir = target_dir().join(format!("dist-{features}"));
    let mut command = cargo(&[
        "build",
        "--release",
        "--locked",
        "--package",
        "selvedge",
        "--no-default-features",
        "--features",
        features,
    ]);
    toolchain::prepare(&mut command, arch)?;
    run(command.env("CARGO_TARGET_DIR", &dir))?;
    Ok(dir.join(arch.target()).join("release/selvedge"))
}

/// What was written.
struct Made<'a> {
    dir: &'a Path,
    /// Names with sizes.
    files: Vec<(String, u64)>,
}

impl Made<'_> {
    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, bytes).with_context(|| format!("failed to write {}", path.display()))?;
        if is_program(name) {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&path, mode)
                .with_context(|| format!("failed to make {} executable", path.display()))?;
        }
        self.files.push((name.to_owned(), bytes.len() as u64));
        Ok(())
    }

    /// As `sha256sum --check` reads them.
    fn sums(&self) -> Result<()> {
        let names = self.files.iter().map(|(name, _)| name);
        let sums = output(Command::new("sha256sum").args(names).current_dir(self.dir))?;
        fs::write(self.dir.join("SHA256SUMS"), sums).context("failed to write SHA256SUMS")
    }

    fn report(&self) {
        println!("\n{}:", self.dir.display());
        for (name, bytes) in &self.files {
            println!("{:>9.2} MiB  {name}", *bytes as f64 / f64::from(1 << 20));
        }
    }
}

fn is_program(name: &str) -> bool {
    name.contains("-linux-") && !name.ends_with(".json")
}

/// Rejects programs that have grown beyond what was decided.
fn too_large(files: &[(String, u64)]) -> Result<()> {
    for (name, bytes) in files.iter().filter(|(name, _)| is_program(name)) {
        let most = if name.starts_with("selvedge-node-") { NODE_BYTES_MAX } else { FULL_BYTES_MAX };
        ensure!(*bytes <= most, "{name} has {bytes} bytes, and {most} are the most: docs/adr/0014-static-program.md");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn release() -> Release {
        Release {
            version: "0.0.7".to_owned(),
            repository: "https://example.com/selvedge".to_owned(),
            seconds: 86_400,
            rfc3339: "1970-01-02T00:00:00Z".to_owned(),
        }
    }

    fn parsed(line: &str) -> Result<Order> {
        Order::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn architectures_are_in_one_order() {
        assert_eq!(parsed("--arch arm64 --arch amd64").expect("both").archs, Arch::ALL);
        assert_eq!(parsed("").expect("this machine's").archs.len(), 1);
        for bad in
            ["--arch", "--arch x86", "--arch amd64 --arch amd64", "--fast", "--program p --arch amd64 --arch arm64"]
        {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_workspace_has_a_version_and_a_repository() {
        assert_eq!(version().expect("it has one"), env!("CARGO_PKG_VERSION"));
        assert!(workspace("repository").expect("it has one").starts_with("https://"));
    }

    #[test]
    fn a_program_that_has_grown_too_large_is_named() {
        let files = |full, node| {
            [("selvedge-1.0.0-linux-amd64".to_owned(), full), ("selvedge-node-1.0.0-linux-amd64".to_owned(), node)]
        };
        too_large(&files(FULL_BYTES_MAX, NODE_BYTES_MAX)).expect("no more than is allowed");
        let said = too_large(&files(1, NODE_BYTES_MAX + 1)).expect_err("more").to_string();
        assert!(said.starts_with("selvedge-node-1.0.0-linux-amd64 has 12582913 bytes"), "{said}");
        too_large(&[("selvedge_1.0.0_amd64.deb".to_owned(), u64::MAX)]).expect("packages may be what they are");
    }
}
