//! Power cuts and a full disk, on the forgetful disk.

use std::collections::BTreeMap;
use std::env;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::forgetful::ForgetfulDisk;

use crate::engines::{self, Engine};

const CUTS: u64 = 30;
const BATCH_ROWS: u64 = 4;

/// Cuts the power of one engine many times, then fills its disk.
pub fn run(name: &str) -> Result<Value> {
    let Some(disk) = ForgetfulDisk::mount_or_skip("power cuts") else { return Ok(Value::Null) };
    // SAFETY: the comparison has one thread here.
    unsafe { env::set_var("SQLITE_EXCLUSIVE", "1") };
    let (mut lost, mut failed_opens, mut last) = (0, 0, 0);
    let mut total = 0;
    let mut answered: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for cut in 0..CUTS {
        match engines::open(name, disk.path()) {
            Ok(engine) => {
                let found = contents(&*engine)?;
                let before = answered.len();
                answered.retain(|revision, row| found.get(revision) == Some(row));
                lost += before - answered.len();
                last = last.max(found.keys().next_back().copied().unwrap_or_default()) + 100;
                disk.cut_in(cut * 37 % 101, cut);
                let before = answered.len();
                write_until_it_fails(&*engine, &mut last, &mut answered);
                total += answered.len() - before;
            }
            Err(error) => {
                eprintln!("cut {cut}: {name} does not open: {error:#}");
                failed_opens += 1;
                break;
            }
        }
        disk.cut(cut);
        disk.power_on();
    }
    let full = full_disk(name);
    Ok(json!({"cuts": CUTS, "answered": total, "lost": lost, "failed_opens": failed_opens, "full_disk": full}))
}

fn write_until_it_fails(engine: &dyn Engine, last: &mut u64, answered: &mut BTreeMap<u64, Vec<u8>>) {
    for _ in 0..10_000 {
        let rows: Vec<_> = (1..=BATCH_ROWS).map(|next| (*last + next, crate::row(next, *last + next))).collect();
        *last += BATCH_ROWS;
        if engine.commit(&rows, &[]).is_err() {
            return;
        }
        answered.extend(rows);
    }
}

fn contents(engine: &dyn Engine) -> Result<BTreeMap<u64, Vec<u8>>> {
    let mut found = BTreeMap::new();
    engine.visit(&mut |revision, row| {
        found.insert(revision, row.to_vec());
    })?;
    Ok(found)
}

/// Whether the engine goes on by itself when a full disk has room again.
fn full_disk(name: &str) -> &'static str {
    let Ok(disk) = ForgetfulDisk::mount() else { return "not tested" };
    let Ok(engine) = engines::open(name, disk.path()) else { return "does not open" };
    disk.set_space_left(Some(256 << 10));
    let (mut last, mut answered) = (0, BTreeMap::new());
    write_until_it_fails(&*engine, &mut last, &mut answered);
    disk.set_space_left(None);
    let holds =
        |engine: &dyn Engine| contents(engine).is_ok_and(|found| answered.iter().all(|(k, v)| found.get(k) == Some(v)));
    if engine.commit(&[(1 << 40, vec![1; 4096])], &[]).is_ok() {
        return if holds(&*engine) { "goes on" } else { "goes on with losses" };
    }
    drop(engine);
    match engines::open(name, disk.path()) {
        Ok(engine) if holds(&*engine) => "has to be opened again",
        Ok(_) => "loses answered writes",
        Err(_) => "does not open again",
    }
}
