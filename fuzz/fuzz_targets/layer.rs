//! Layers of images, as they are unpacked: gzip, zstd, tar with all its extensions, whiteouts, links.
//!
//! Input: the bytes of a layer; in one that is not compressed, each block gets the sum that a header has. Whatever comes out, comes out beneath the target; what is beside it
//! stays as it was.

#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|layer: &[u8]| {
    let mut layer = layer.to_vec();
    if !layer.starts_with(&[0x1f, 0x8b]) && !layer.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        layer.chunks_exact_mut(512).for_each(add_sum);
    }
    let dir = tempfile::tempdir().expect("a temporary directory can be created");
    let target = dir.path().join("target");
    fs::create_dir(&target).expect("it is new");
    fs::write(dir.path().join("outside"), "untouched").expect("there is space");
    let _ = node_images::unpack_for_fuzzing(&layer, &target);
    let outside = fs::read(dir.path().join("outside")).expect("it is there");
    assert_eq!(outside, b"untouched");
    let beside = fs::read_dir(dir.path()).expect("it is there").count();
    assert_eq!(beside, 2, "something was created beside the target");
});

/// A fuzzer does not find sums by trying. Blocks of zeros stay: they are the end of an archive.
fn add_sum(block: &mut [u8]) {
    if block.iter().all(|byte| *byte == 0) {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
