//! What names and describes images: references, manifests, configurations, secrets with logins.
//!
//! Input: a text, read as each of them. A reference that can be read is complete: written, it is read as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use node_images::manifest::{ConfigDocument, Document};
use node_images::{Credential, Platform, Reference};

fuzz_target!(|input: &[u8]| {
    let host = Platform { architecture: "arm".to_owned(), os: "linux".to_owned(), variant: Some("v7".to_owned()) };
    if let Ok(Document::Index(entries)) = Document::parse(input) {
        let _ = host.choose(&entries);
    }
    if let Ok(document) = ConfigDocument::parse(input) {
        let _ = host.check(&document.platform);
    }
    let image = Reference::parse("registry.example.com:5000/org/app").expect("it is a name");
    let _ = Credential::from_docker_config(input, &image);
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(reference) = Reference::parse(text) else { return };
    let written = reference.to_string();
    assert_eq!(Reference::parse(&written).as_ref(), Ok(&reference), "written as `{written}`");
    assert!(!reference.repository().contains("..") && !reference.registry().contains('/'), "{reference:?}");
});
