//! What a static program for another architecture, or for this one, is built with, without root's rights.
//!
//! musl, because a static glibc still opens shared libraries to resolve names. Rust's own target has musl's archive and start files,
//! and `rust-lld` links for every architecture. The C in the program (SQLite, mimalloc, ring) is compiled by zig's clang, which comes
//! from PyPI as one wheel with the headers of musl for both: one pinned compiler, whatever the machine has. Why not others:
//! docs/adr/0014-static-program.md.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::Arch;
use crate::install::debian;
use crate::run::{output, root, run, say, target_dir, tools_dir};

/// PyPI package with zig, which carries clang.
const ZIG: (&str, &str) = ("ziglang", "0.15.2");

/// Makes `cargo` build for an architecture; installs what is missing.
pub fn prepare(cargo: &mut Command, arch: Arch) -> Result<()> {
    let target = arch.target();
    standard_library(target)?;
    let (lower, upper) = (target.replace('-', "_"), target.replace('-', "_").to_uppercase());
    let linker = format!("CARGO_TARGET_{upper}_LINKER");
    if std::env::var_os(&linker).is_none() {
        cargo.env(linker, "rust-lld");
    }
    // Whoever has a C compiler for it keeps theirs.
    let compiler = format!("CC_{lower}");
    if std::env::var_os(&compiler).is_none() {
        let zig = zig()?;
        cargo.env(compiler, script(&zig, arch, "cc")?);
        cargo.env(format!("AR_{lower}"), script(&zig, arch, "ar")?);
        cargo.env(format!("CFLAGS_{lower}"), "-g0");
    }
    // Of the machine it is built on nothing is in the program; panics name their places from the crate on.
    let is_given = |name: &str| std::env::var_os(name).is_some();
    if !is_given("RUSTFLAGS") && !is_given("CARGO_ENCODED_RUSTFLAGS") {
        let flags: Vec<String> =
            sources()?.iter().map(|dir| format!("--remap-path-prefix={}/=", dir.display())).collect();
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    }
    cargo.args(["--target", target]);
    Ok(())
}

/// Where the sources of other people's crates and of this one are.
pub fn sources() -> Result<Vec<PathBuf>> {
    let home = match (std::env::var_os("CARGO_HOME"), std::env::var_os("HOME")) {
        (Some(home), _) => PathBuf::from(home),
        (None, Some(home)) => Path::new(&home).join(".cargo"),
        (None, None) => bail!("neither CARGO_HOME nor HOME says where cargo keeps sources"),
    };
    let registries = home.join("registry/src");
    let mut dirs = vec![root()];
    // What was not yet fetched is built under its full path.
    if registries.is_dir() {
        for registry in fs::read_dir(&registries).with_context(|| format!("cannot read {}", registries.display()))? {
            dirs.push(registry?.path());
        }
    }
    dirs.sort_unstable();
    Ok(dirs)
}

/// Rust's standard library for a target.
fn standard_library(target: &str) -> Result<()> {
    let is_there = || {
        let dir = output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]));
        dir.is_ok_and(|dir| Path::new(dir.trim()).is_dir())
    };
    if is_there() {
        return Ok(());
    }
    say(&format!("Installing Rust's standard library for {target} (rustup)"));
    let added = run(Command::new("rustup").args(["target", "add", target]));
    if let Err(error) = added {
        bail!(
            "a static program needs Rust's standard library for {target}: {error:#}; where Rust is not rustup's, install rust-std for it"
        );
    }
    ensure!(is_there(), "rustup has added {target}, but not to the Rust that is used here: {}", rustc()?);
    Ok(())
}

fn rustc() -> Result<String> {
    output(Command::new("rustc").arg("--version")).map(|version| version.trim().to_owned())
}

/// Where zig is; it is installed when it is missing.
fn zig() -> Result<PathBuf> {
    let (name, version) = ZIG;
    let home = tools_dir().join(format!("{name}-{version}"));
    let making = tools_dir().join(format!("{name}-making"));
    if !home.join("bin/python3").is_file() || making.exists() {
        debian(&[("python3", "python3"), ("python3", "python3-venv")])?;
        say(&format!("Installing a C compiler (PyPI {name} {version}) into {}", home.display()));
        fs::create_dir_all(tools_dir()).context("failed to make the directory of tools")?;
        fs::write(&making, "").context("failed to begin")?;
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
        run(Command::new(home.join("bin/python3")).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            &format!("{name}=={version}"),
        ]))?;
        fs::remove_file(&making).context("failed to finish the C compiler")?;
    }
    let place = "import ziglang, os; print(os.path.join(os.path.dirname(ziglang.__file__), 'zig'))";
    Ok(output(Command::new(home.join("bin/python3")).args(["-c", place]))?.trim().into())
}

/// A program that is zig as a C compiler or archiver for an architecture, as build scripts call it.
fn script(zig: &Path, arch: Arch, tool: &str) -> Result<PathBuf> {
    let dir = target_dir().join("dist-tools");
    fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
    let path = dir.join(format!("{tool}-{}", arch.name()));
    let zig = zig.display();
    let text = match tool {
        // Build scripts name Rust's target, which zig does not know. Zig checks for undefined behaviour unless it is asked not to; that
        // needs a library of its own.
        "cc" => format!(
            "#!/bin/sh\n\
             for arg do\n  shift\n  case $arg in --target=*) ;; *) set -- \"$@\" \"$arg\" ;; esac\ndone\n\
             exec '{zig}' cc -target {}-linux-musl -fno-sanitize=undefined \"$@\"\n",
            arch.machine()
        ),
        tool => format!("#!/bin/sh\nexec '{zig}' {tool} \"$@\"\n"),
    };
    // Cargo builds anew what a newer compiler would have built.
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(path);
    }
    fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
