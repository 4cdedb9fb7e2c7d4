//! The OpenAPI documents as kube-apiserver publishes them: v3 per group version, an index of these, and v2.
//!
//! They are one archive in the program, compressed with a window over all of them, since most of a document is in another as well: 200
//! KiB instead of the 900 that they take one by one. A document is unpacked when it is requested; that takes up to 9 MiB of memory and some
//! hundredths of a second, both for what comes before it.

use std::io::{self, Read as _};

use ruzstd::decoding::StreamingDecoder;

static ARCHIVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.zst"));

/// Why reading the archive cannot fail.
const WHOLE: &str = "the archive was read when the program was made";

/// The document of v2. Those of v3 are called as their path with `/` written `__`: `api__v1`, `apis__apps__v1`; and `index`.
pub const V2: &str = "openapi-v2";

/// Where a document is in the unpacked archive.
struct Document {
    name: &'static str,
    start: u64,
    length: u64,
    hash: u64,
}

include!(concat!(env!("OUT_DIR"), "/documents.rs"));

fn find(name: &str) -> Option<&'static Document> {
    let position = DOCUMENTS.binary_search_by(|document| document.name.cmp(name)).ok()?;
    Some(&DOCUMENTS[position])
}

/// The text of a document, which is JSON.
pub fn document(name: &str) -> Option<String> {
    let document = find(name)?;
    let mut archive = StreamingDecoder::new(ARCHIVE).expect(WHOLE);
    io::copy(&mut archive.by_ref().take(document.start), &mut io::sink()).expect(WHOLE);
    let mut text = String::with_capacity(usize::try_from(document.length).unwrap_or_default());
    archive.take(document.length).read_to_string(&mut text).expect(WHOLE);
    Some(text)
}

/// A number that changes with the text of a document: FNV-1a.
pub fn hash(name: &str) -> Option<u64> {
    Some(find(name)?.hash)
}

/// The names of all documents of v3, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    DOCUMENTS.iter().map(|document| document.name).filter(|name| *name != V2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_whole() {
        assert!(names().count() > 40 && names().is_sorted(), "{:?}", names().collect::<Vec<_>>());
        for name in names().chain([V2]) {
            let text = document(name).expect("it has a name");
            let json: serde_json::Value = serde_json::from_str(&text).expect("a document is JSON");
            assert!(json["paths"].is_object(), "{name}");
            let hashed = text
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            assert_eq!(hash(name), Some(hashed), "{name}");
        }
        assert_eq!((document("apis__example.com__v1"), hash("")), (None, None));
    }
}
