//! Makes the WebAssembly programs and the images of the examples from their text, so that no bytes are kept in the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{root, run, target_dir};

/// Makes `examples/*/images` from `examples/*/programs`: a `.wat` becomes a module, a `.rs` an image that has the program alone, as an
/// archive; answers what it wrote.
pub fn build() -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for example in fs::read_dir(root().join("examples")).context("failed to list examples")? {
        let example = example?.path();
        let programs = example.join("programs");
        if !programs.is_dir() {
            continue;
        }
        let images = example.join("images");
        fs::create_dir_all(&images).with_context(|| format!("failed to make {}", images.display()))?;
        for program in fs::read_dir(&programs)? {
            let program = program?.path();
            let (bytes, extension) = match program.extension().and_then(|extension| extension.to_str()) {
                Some("wat") => {
                    let bytes = wat::parse_file(&program);
                    (bytes.with_context(|| format!("failed to assemble {}", program.display()))?, "wasm")
                }
                Some("rs") => (archive(&example, &program)?, "tar"),
                _ => continue,
            };
            let image = images.join(program.with_extension(extension).file_name().expect("a file has a name"));
            // An image that a running pod has open must not change under it.
            if fs::read(&image).is_ok_and(|old| old == bytes) {
                continue;
            }
            let fresh = image.with_extension("new");
            fs::write(&fresh, bytes)
                .and_then(|()| fs::rename(&fresh, &image))
                .with_context(|| format!("failed to write {}", image.display()))?;
            written.push(image);
        }
    }
    Ok(written)
}

/// An image with one static program, as `docker save` writes it: `localhost/EXAMPLE/PROGRAM:1`.
fn archive(example: &Path, program: &Path) -> Result<Vec<u8>> {
    let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (example, name) = (name(example), name(program));
    let work = target_dir().join("example-images").join(&name);
    fs::create_dir_all(&work).with_context(|| format!("failed to make {}", work.display()))?;
    let compiled = work.join(&name);
    // The same program by the same compiler is the same image.
    let flags = ["-Ctarget-feature=+crt-static", "-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols"];
    run(Command::new("rustc").args(["--edition", "2024"]).args(flags).arg("-o").arg(&compiled).arg(program))?;
    tar(&work, "layer.tar", &[&name])?;
    let digest = sha256(&work.join("layer.tar"))?;
    let config = serde_json::json!({
        "architecture": architecture(), "os": "linux",
        "config": {"Entrypoint": [format!("/{name}")]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    fs::write(work.join("config.json"), config.to_string())?;
    let tags = [format!("localhost/{example}/{name}:1")];
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": tags, "Layers": ["layer.tar"]}]);
    fs::write(work.join("manifest.json"), manifest.to_string())?;
    tar(&work, "image.tar", &["manifest.json", "config.json", "layer.tar"])?;
    fs::read(work.join("image.tar")).context("failed to read an image")
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn tar(dir: &Path, archive: &str, files: &[&str]) -> Result<()> {
    let plain = ["--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--format=ustar"];
    run(Command::new("tar").current_dir(dir).args(plain).args(["-cf", archive]).args(files))
}

fn sha256(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("failed to run sha256sum")?;
    ensure!(output.status.success(), "sha256sum failed for {}", file.display());
    let text = String::from_utf8_lossy(&output.stdout);
    text.split(' ').next().map(str::to_owned).context("sha256sum printed nothing")
}
