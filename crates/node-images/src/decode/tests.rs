//! Blobs as compressors write them: several members or frames, frames to skip, and such as are cut.

use std::io::Read as _;

use testkit::image::Compression;

use super::Decoder;

fn decoded(blob: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte at a time, as a slow line has it.
    Decoder::new(OneByOne(blob))?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

struct OneByOne<'a>(&'a [u8]);

impl std::io::Read for OneByOne<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

fn text(length: usize) -> Vec<u8> {
    b"some text that is repeated; ".iter().copied().cycle().take(length).collect()
}

#[test]
fn what_was_compressed_comes_out() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for length in [0, 1, 5, 100_000, 300_000] {
            assert!(decoded(&compression.compress(&text(length))).unwrap() == text(length), "{compression:?} {length}");
        }
        let two = [compression.compress(&text(1000)), compression.compress(&text(200_000))].concat();
        assert!(decoded(&two).unwrap() == [text(1000), text(200_000)].concat(), "{compression:?} in two parts");
    }
}

#[test]
fn frames_that_are_not_content_are_skipped() {
    let skippable =
        |length: u32| [&[0x5a, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes(), &vec![7; length as usize]].concat();
    let frame = Compression::Zstd.compress(&text(10_000));
    let blob = [skippable(5), frame.clone(), skippable(0), frame, skippable(100_000)].concat();
    assert!(decoded(&blob).unwrap() == [text(10_000), text(10_000)].concat());
    let mut cut = skippable(10);
    cut.truncate(12);
    assert!(decoded(&cut).is_err());
}

#[test]
fn what_is_cut_or_changed_is_an_error_or_other_content() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let blob = compression.compress(&text(50_000));
        for length in 5..blob.len() {
            assert!(decoded(&blob[..length]).is_err(), "{compression:?} cut at {length} of {}", blob.len());
        }
        for at in 0..blob.len() {
            let mut changed = blob.clone();
            changed[at] ^= 0x10;
            // Not a panic, and not without an end: digests find what decompresses all the same.
            let _ = decoded(&changed);
        }
    }
    assert!(decoded(&[0x28, 0xb5, 0x2f, 0xfd, 0x20 | 0x80, 0xff, 0xff, 0xff, 0xff]).is_err(), "a segment of 4 GiB");
}
