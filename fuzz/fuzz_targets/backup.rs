//! Backups of a hub, as a disk or somebody else gives them back.
//!
//! Input: the bytes of a file; each header gets the sum that it has. Everything before the manifest is read before any other sum is
//! compared: the head, the keys, the rows. What is whole can be restored, and nothing is written beside the new hub.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let mut file = file.to_vec();
    file.chunks_exact_mut(512).filter(|block| block[257..].starts_with(b"ustar")).for_each(add_sum);
    let checked = hub_backup::check(&*file);
    if !file.len().is_multiple_of(64) && checked.is_err() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory can be created");
    let restored = hub_backup::restore(&*file, &dir.path().join("hub"));
    assert_eq!(restored.is_ok(), checked.is_ok());
    let there = fs::read_dir(dir.path()).expect("it is there").count();
    assert_eq!(there, usize::from(restored.is_ok()), "a restore leaves a hub or nothing");
});

/// A fuzzer does not find sums by trying.
fn add_sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
