//! Warnings for the author of a request, within what headers can carry.

use std::collections::HashSet;

use crate::bounded::cut_chars;

/// Characters of all warnings of a response, as kube-apiserver has it. Proxies commonly take 8 KiB of headers in all.
const ALL_CHARS_MAX: usize = 4096;

/// Characters of one warning, once all together are too many.
const ONE_CHARS_MAX: usize = 256;

/// Python's HTTP client gives up at the hundredth header of a response, after the object was stored.
const WARNINGS_MAX: usize = 64;

/// The warnings that a response can carry, each once and in order: they are cut to 256 characters when they have more than
/// 4,096 together, and the rest is left out. At most 64 remain; then the last one says how many are missing.
///
/// ```
/// let many = vec!["unknown field \"spec.foo\"".to_owned(); 1000];
/// assert_eq!(machinery_schema::limit_warnings(many).len(), 1, "the same warning is given once");
/// ```
pub fn limit_warnings(warnings: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut kept: Vec<String> = Vec::new();
    let mut omitted = 0_usize;
    for warning in warnings {
        if warning.is_empty() {
            continue;
        }
        if kept.len() >= WARNINGS_MAX {
            omitted += 1;
        } else if seen.insert(warning.clone()) {
            kept.push(warning);
        }
    }
    let chars: usize = kept.iter().map(|warning| warning.chars().count()).sum();
    if chars > ALL_CHARS_MAX {
        let mut written = 0;
        let before = kept.len();
        kept.retain_mut(|warning| {
            if written >= ALL_CHARS_MAX {
                return false;
            }
            warning.truncate(cut_chars(warning, ONE_CHARS_MAX).len());
            written += warning.chars().count();
            true
        });
        omitted += before - kept.len();
    }
    if omitted > 0 {
        if kept.len() >= WARNINGS_MAX {
            kept.pop();
            omitted += 1;
        }
        kept.push(format!("{omitted} further warnings are left out"));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_warnings_are_given_whole() {
        let long = "x".repeat(1000);
        assert_eq!(limit_warnings([long.clone(), String::new(), "a".to_owned(), long.clone()]), [long, "a".to_owned()]);
    }

    #[test]
    fn many_warnings_are_cut_as_upstream_cuts_them() {
        let long = |n: usize| format!("{n:02}{}", "é".repeat(998));
        let kept = limit_warnings((0..40).map(long));
        assert_eq!(kept.len(), 17, "sixteen of 256 characters, and what is missing");
        assert!(kept[..16].iter().all(|warning| warning.chars().count() == 256));
        assert_eq!(kept[16], "24 further warnings are left out");
    }

    #[test]
    fn forty_thousand_warnings_fit_into_the_headers_that_clients_take() {
        let kept = limit_warnings((0..40_000).map(|n| format!("unknown field \"f{n}\"")));
        assert_eq!(kept.len(), 64);
        assert_eq!(kept[63], "39937 further warnings are left out");
    }
}
