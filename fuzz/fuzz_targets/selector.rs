//! Selectors of lists and watches, as they come in a query.
//!
//! Input: a selector, read as one of labels and as one of fields. What can be read is asked of an object.

#![no_main]

use libfuzzer_sys::fuzz_target;
use machinery_server::{FieldSelector, LabelSelector};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _ = text.parse::<LabelSelector>();
    let _ = text.parse::<FieldSelector>();
});
