//! What the hub warns of beside its answer: a label that it left out, a field that it does not know.
//!
//! A person at `kubectl` reads these at the terminal; a node's go to its log, each text once: the node sends the same
//! request again and again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use http::header::WARNING;
use tracing::warn;

/// Texts that are remembered; a hub that has more to say says it twice.
const TEXTS_MAX: usize = 64;
/// Longest text that is shown: API servers cut theirs at 256 bytes or at what their headers carry.
const TEXT_CHARS_MAX: usize = 1024;
/// Headers of one answer that are looked at.
const HEADERS_MAX: usize = 32;

/// The warnings of a hub that were logged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Warnings(Arc<Mutex<BTreeSet<String>>>);

impl Warnings {
    /// Logs what is new in an answer to `act`.
    pub(crate) fn log(&self, act: &str, headers: &HeaderMap) {
        for text in self.new_ones(headers) {
            warn!(%act, warning = %text, "The hub warns.");
        }
    }

    fn new_ones(&self, headers: &HeaderMap) -> Vec<String> {
        let values = headers.get_all(WARNING).into_iter().take(HEADERS_MAX);
        let texts = values.filter_map(|value| text_of(&String::from_utf8_lossy(value.as_bytes())));
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::new();
        for text in texts {
            if seen.len() >= TEXTS_MAX {
                seen.clear();
            }
            if seen.insert(text.clone()) {
                new.push(text);
            }
        }
        new
    }
}

/// The quoted text of `299 AGENT "text"`, as API servers write it.
fn text_of(value: &str) -> Option<String> {
    let (_, quoted) = value.strip_prefix("299 ")?.split_once('"')?;
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => return Some(text),
            '\\' => text.push(characters.next()?),
            other => text.push(other),
        }
        if text.chars().count() > TEXT_CHARS_MAX {
            return Some(text + "…");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (WARNING, value.parse().unwrap())).collect()
    }

    #[test]
    fn a_warning_is_logged_once() {
        let warnings = Warnings::default();
        let values = [r#"299 - "label a is left out""#, r#"299 hub "say \"b\"" "Thu, 26 Nov 2026 12:00:00 GMT""#];
        assert_eq!(warnings.new_ones(&headers(&values)), ["label a is left out", "say \"b\""]);
        assert!(warnings.new_ones(&headers(&values)).is_empty());
        assert_eq!(warnings.new_ones(&headers(&[r#"299 - "label c is left out""#])), ["label c is left out"]);
    }

    #[test]
    fn what_is_no_warning_is_left_alone() {
        for value in ["", "299", "299 -", "112 - \"stale\"", "299 - \"torn", r#"299 - "torn\"#] {
            assert!(Warnings::default().new_ones(&headers(&[value])).is_empty(), "{value}");
        }
        let long = format!("299 - \"{}\"", "x".repeat(100_000));
        let new = Warnings::default().new_ones(&headers(&[&long]));
        assert!(new[0].len() < 2 * TEXT_CHARS_MAX, "{}", new[0].len());
        let many: Vec<String> = (0..1000).map(|number| format!("299 - \"{number}\"")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let warnings = Warnings::default();
        assert_eq!(warnings.new_ones(&headers(&many)).len(), HEADERS_MAX);
    }
}
