//! Makes the WebAssembly programs of the examples from their text, so that no bytes are kept in the repository.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::run::root;

/// Assembles every `examples/*/programs/*.wat` into `examples/*/images/*.wasm`; answers what it wrote.
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
            if program.extension().is_none_or(|extension| extension != "wat") {
                continue;
            }
            let bytes =
                wat::parse_file(&program).with_context(|| format!("failed to assemble {}", program.display()))?;
            let image = images.join(program.with_extension("wasm").file_name().expect("a file has a name"));
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
