//! Makes `definitions/kubernetes-1.36.json.gz` from Kubernetes' published definitions:
//!
//! `cargo run -p machinery-schema --example vendor_definitions -- path/to/definitions.json`

use std::{error::Error, fs, io::Write, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let source = std::env::args().nth(1).ok_or("usage: vendor_definitions path/to/definitions.json")?;
    let published =
        serde_json::from_slice(&fs::read(&source).map_err(|error| format!("failed to read {source}: {error}"))?)?;
    let kept = machinery_schema::vendor::reachable_definitions(&published)?;
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("definitions/kubernetes-1.36.json.gz");
    // No file name and no time in the header: the same definitions give the same bytes.
    let mut encoder = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::best());
    encoder.write_all(serde_json::to_string(&kept)?.as_bytes())?;
    fs::write(&target, encoder.finish()?)?;
    println!("wrote {} definitions to {}", kept.as_object().map_or(0, serde_json::Map::len), target.display());
    Ok(())
}
