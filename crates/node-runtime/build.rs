//! Builds the shim: a static program, which the library carries as bytes.
//!
//! It has a profile and a target directory of its own, and nothing of this build's environment that would change it:
//! `cargo clippy`, a wrapper of the compiler, or flags for the main program make the same shim.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The settings of cargo that say how packages are reached and programs are linked. All others are left out.
const KEPT: [&str; 8] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "CARGO_BUILD_JOBS",
    "CARGO_MAKEFLAGS",
];

fn main() {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"));
    let manifest = Path::new(&variable("CARGO_MANIFEST_DIR")).join("../node-shim/Cargo.toml");
    // Not the lock file or the workspace's: they change with every other crate, and a build for a release begins anew.
    for source in ["Cargo.toml", "src"] {
        println!("cargo:rerun-if-changed=../node-shim/{source}");
    }
    // What the program is made of beside its own sources: a filter that changed must not stay as it was in the shim.
    for made_of in ["node-seccomp", "api-kube"] {
        println!("cargo:rerun-if-changed=../{made_of}/src");
    }
    println!("cargo:rerun-if-changed=build.rs");

    let (target, out_dir) = (variable("TARGET"), PathBuf::from(variable("OUT_DIR")));
    let target_dir = out_dir.join("shim");
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let is_cargos = name.starts_with("CARGO") || name.starts_with("__CARGO");
        // `CARGO_TARGET_<triple>_LINKER` is how a cross build names its linker.
        let is_kept = KEPT.iter().any(|kept| name.starts_with(kept)) || name.ends_with("_LINKER");
        let is_compilers = ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTC_LINKER"].contains(&&*name);
        if (is_cargos && !is_kept) || is_compilers {
            cargo.env_remove(&*name);
        }
    }
    // Static and at a fixed address: nothing is relocated when it starts, so all of its code and most of its data are pages
    // that every shim shares. Compilers would make a position-independent program by themselves.
    let mut flags = vec!["-Ctarget-feature=+crt-static", "-Crelocation-model=static"];
    // A program that names no directory of the machine that built it has no shim either that does.
    let outer = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    flags.extend(outer.split('\x1f').filter(|flag| flag.starts_with("--remap-path-prefix=")));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // The target is named even where it is this machine's: flags would otherwise apply to procedural macros as well.
    cargo.args(["build", "--quiet", "--locked", "--profile", "shim", "--bin", "node-shim", "--target", &target]);
    cargo.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(&target_dir);
    let status = cargo.status().unwrap_or_else(|error| panic!("failed to run {:?}: {error}", cargo.get_program()));
    assert!(status.success(), "failed to build the shim for {target}; a static C library (libc6-dev) is needed");
    let program = target_dir.join(&target).join("shim/node-shim");
    println!("cargo:rustc-env=NODE_SHIM={}", program.display());
}
