//! What ConfigMaps and Secrets share: keys that become names of files, a bound on their bytes, and a seal.

use serde_json::Value;

use crate::kit::{Errors, Path, Read};

/// All data of a Secret or ConfigMap together, decoded, as upstream limits it: every node that mounts one reads it whole.
pub(crate) const BYTES_MAX: usize = 1024 * 1024;

/// A key becomes a file's name.
const KEY_BYTES_MAX: usize = 253;

/// Checks a key.
pub(crate) fn check_key(path: &Path<'_>, key: &str, errors: &mut Errors) {
    if key.len() > KEY_BYTES_MAX {
        errors.invalid(path, key, format!("must be no more than {KEY_BYTES_MAX} characters"));
    }
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if key.is_empty() || !key.bytes().all(is_good) {
        errors.invalid(path, key, "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')");
    }
    match key {
        "." => errors.invalid(path, key, "must not be '.'"),
        ".." => errors.invalid(path, key, "must not be '..'"),
        key if key.starts_with("..") => errors.invalid(path, key, "must not start with '..'"),
        _ => {}
    }
}

/// `immutable: true` seals the data for good.
pub(crate) fn check_sealed(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    const SEALED: &str = "field is immutable when `immutable` is set";
    if !old.flag("immutable") {
        return;
    }
    if !new.flag("immutable") {
        errors.forbidden(&Path::at("immutable"), SEALED);
    }
    for field in fields {
        let is_same = match (new.part(field).as_object(), old.part(field).as_object()) {
            (Some(new), Some(old)) => new == old,
            (new, old) => new.is_none_or(|map| map.is_empty()) && old.is_none_or(|map| map.is_empty()),
        };
        if !is_same {
            errors.forbidden(&Path::at(field), SEALED);
        }
    }
}

/// How many bytes a base64 text encodes. Whether it is base64 has been checked with the types.
pub(crate) fn decoded_bytes(text: &str) -> usize {
    let digits = text.bytes().filter(|byte| !matches!(byte, b'=' | b'\r' | b'\n')).count();
    digits / 4 * 3 + (digits % 4).saturating_sub(1)
}
