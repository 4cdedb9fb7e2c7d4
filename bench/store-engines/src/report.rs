//! The table on the screen and the two report files.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

/// Figure, unit, and whether more is better.
const FIGURES: &[(&str, &str, bool)] = &[
    ("writes_per_second", "1/s", true),
    ("commit_ms_p50", "ms", false),
    ("commit_ms_p99", "ms", false),
    ("writes_per_batch", "1", true),
    ("lists_per_second", "1/s", true),
    ("bytes_written_per_byte", "1", false),
    ("disk_bytes_per_byte", "1", false),
    ("rss_mib", "MiB", false),
    ("fill_seconds", "s", false),
    ("open_ms", "ms", false),
    ("load_ms", "ms", false),
];

/// Ratios are against the engine that comes with Rust alone and that the store began with.
const BASE: &str = "redb";

/// Prints the medians and writes them to `bench/reports`.
pub fn write(measured: &Map<String, Value>, extra: &Map<String, Value>, machine: &Value) -> Result<()> {
    let mut rows = Vec::new();
    let mut table = String::from("| figure | unit |");
    measured.keys().for_each(|name| table += &format!(" {name} |"));
    table += "\n| --- | --- |";
    measured.keys().for_each(|_| table += " ---: |");
    for (figure, unit, more_is_better) in FIGURES {
        table += &format!("\n| {figure} | {unit} |");
        for (name, rounds) in measured {
            let (median, spread, n) = median(rounds, figure);
            let base = measured.get(BASE).map(|rounds| self::median(rounds, figure).0);
            table += &format!(" {median:.2} |");
            rows.push(json!({
                "figure": format!("{name}_{figure}"), "value": median, "unit": unit, "n": n, "spread": spread,
                "peer": BASE, "ratio": base.map(|base| median / base), "limit": null, "more_is_better": more_is_better,
            }));
        }
    }
    for (label, key) in [
        ("power cuts", "cuts"),
        ("answered rows lost", "lost"),
        ("failed opens", "failed_opens"),
        ("after a full disk", "full_disk"),
    ] {
        table += &format!("\n| {label} | |");
        for name in measured.keys() {
            let value = extra.get(name).map_or(&Value::Null, |found| &found[key]);
            table += &format!(" {} |", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
    println!("{table}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../reports");
    fs::create_dir_all(&folder)?;
    let report = json!({"figures": rows, "on_the_forgetful_disk": extra, "machine": machine});
    fs::write(folder.join("store-engines.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    let text = format!(
        "# Store engines\n\n50,000 objects of 4 KB; 16 writers with group commit beside a reader that lists all objects from the engine \
         over and over; then a kill, and an open. Medians of {} rounds, each in its own process; the rounds of the engines \
         are interleaved. Bytes written are those of write calls. Made by `cargo xtask bench store-engines`.\n\n\
         Machine: {machine}. `load` is the machine's load average: what else ran, and what this left behind.\n\n{table}\n",
        crate::ROUNDS
    );
    Ok(fs::write(folder.join("store-engines.md"), text)?)
}

/// Median, distance between the extremes, and count of one figure over the rounds.
fn median(rounds: &Value, figure: &str) -> (f64, f64, usize) {
    let mut values: Vec<f64> =
        rounds.as_array().into_iter().flatten().filter_map(|round| round[figure].as_f64()).collect();
    values.sort_by(f64::total_cmp);
    match (values.first(), values.last()) {
        (Some(first), Some(last)) => (values[values.len() / 2], last - first, values.len()),
        _ => (f64::NAN, 0.0, 0),
    }
}
