//! Semantic versions.

use std::{cmp::Ordering, sync::Arc};

use super::Val;
use crate::{
    cel::eval::{EvalError, Result},
    go::quoted,
};

/// A version; what comes after `+` does not count.
#[derive(Clone, Debug)]
pub(crate) struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
}

impl Semver {
    fn read(text: &str) -> std::result::Result<Self, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let parts: Vec<&str> = text.splitn(3, '.').collect();
        let [major, minor, rest] = parts.as_slice() else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let (rest, _build) = rest.split_once('+').unwrap_or((rest, ""));
        let (patch, pre) = rest.split_once('-').map_or((rest, None), |(patch, pre)| (patch, Some(pre)));
        let mut numbers = [0; 3];
        for (slot, (what, digits)) in numbers.iter_mut().zip([("major", *major), ("minor", *minor), ("patch", patch)]) {
            let title = if what == "patch" {
                "Patch"
            } else if what == "minor" {
                "Minor"
            } else {
                "Major"
            };
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) || digits.is_empty() {
                return Err(format!("Invalid character(s) found in {what} number {}", quoted(digits)));
            }
            if digits.len() > 1 && digits.starts_with('0') {
                return Err(format!("{title} number must not contain leading zeroes {}", quoted(digits)));
            }
            *slot = digits
                .parse()
                .map_err(|_| format!("strconv.ParseUint: parsing {}: value out of range", quoted(digits)))?;
        }
        let mut identifiers = Vec::new();
        for identifier in pre.into_iter().flat_map(|pre| pre.split('.')) {
            if identifier.is_empty() {
                return Err("Prerelease is empty".to_owned());
            }
            if !identifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Err(format!("Invalid character(s) found in prerelease {}", quoted(identifier)));
            }
            let is_number = identifier.bytes().all(|byte| byte.is_ascii_digit());
            if is_number && identifier.len() > 1 && identifier.starts_with('0') {
                return Err(format!(
                    "Numeric PreRelease version must not contain leading zeroes {}",
                    quoted(identifier)
                ));
            }
            identifiers.push(identifier.to_owned());
        }
        Ok(Self { numbers, pre: identifiers })
    }

    pub fn compare(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                for (a, b) in self.pre.iter().zip(&other.pre) {
                    let order = match (a.parse::<u64>(), b.parse::<u64>()) {
                        (Ok(a), Ok(b)) => a.cmp(&b),
                        (Ok(_), Err(_)) => Ordering::Less,
                        (Err(_), Ok(_)) => Ordering::Greater,
                        (Err(_), Err(_)) => a.cmp(b),
                    };
                    if order.is_ne() {
                        return order;
                    }
                }
                self.pre.len().cmp(&other.pre.len())
            }
        })
    }
}

pub(super) fn parse<'v>(name: &str, text: &str, normalizes: bool) -> Result<'v> {
    let normalized = if normalizes { normalize(text) } else { text.to_owned() };
    match (name, Semver::read(&normalized)) {
        ("isSemver", found) => Ok(Val::Bool(found.is_ok())),
        (_, Ok(found)) => Ok(Val::Semver(Arc::new(found))),
        (_, Err(error)) => Err(EvalError::new(error)),
    }
}

/// `v1.2` as `1.2.0`, and `01.2.3` as `1.2.3`.
fn normalize(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            let stripped = part.trim_start_matches('0');
            let has_digit = stripped.starts_with(|char: char| char.is_ascii_digit());
            if has_digit || stripped.len() == part.len() { stripped.to_owned() } else { format!("0{stripped}") }
        })
        .collect();
    if parts.len() < 3 {
        let last = parts.last().map(String::as_str).unwrap_or_default();
        if !last.contains(['+', '-']) {
            parts.resize(3, "0".to_owned());
        }
    }
    parts.join(".")
}

pub(super) fn call<'v>(name: &str, own: &Semver, rest: &[Val<'v>]) -> Result<'v> {
    let number = |at: usize| Ok(Val::Int(i64::try_from(own.numbers[at]).unwrap_or(i64::MAX)));
    match (name, rest) {
        ("major", []) => number(0),
        ("minor", []) => number(1),
        ("patch", []) => number(2),
        ("isGreaterThan", [Val::Semver(other)]) => Ok(Val::Bool(own.compare(other).is_gt())),
        ("isLessThan", [Val::Semver(other)]) => Ok(Val::Bool(own.compare(other).is_lt())),
        ("compareTo", [Val::Semver(other)]) => Ok(Val::Int(own.compare(other) as i64)),
        _ => Err(EvalError::no_overload()),
    }
}
