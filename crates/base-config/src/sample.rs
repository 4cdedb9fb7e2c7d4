//! The sample file: every setting with its default and the sentence that explains it.

use serde::Serialize;
use serde_json::Value;

use crate::{leaves, variable_name};

/// Settings without a sentence, or sentences without a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table of descriptions and the settings differ at: {}", .0.join(", "))]
pub struct UndocumentedKeys(pub Vec<String>);

/// Width at which comments are broken.
const WIDTH: usize = 100;

/// The sample file of `T`. `descriptions` has the path and the sentence of every setting, and of sections where they need
/// one; a missing or a superfluous one is an error, so that a test keeps the table complete.
pub fn sample<T: Default + Serialize>(
    env_prefix: &str,
    descriptions: &[(&str, &str)],
) -> Result<String, UndocumentedKeys> {
    let defaults = serde_json::to_value(T::default()).expect("a configuration's defaults are plain data");
    let mut settings = Vec::new();
    leaves(&defaults, "", &mut settings);
    let described = |path: &str| descriptions.iter().find(|(known, _)| *known == path).map(|(_, text)| *text);
    let missing = settings.iter().map(|(path, _)| path.clone()).filter(|path| described(path).is_none());
    let pointer = |path: &str| format!("/{}", path.replace('.', "/"));
    let superfluous = descriptions.iter().filter(|(path, _)| defaults.pointer(&pointer(path)).is_none());
    let differing: Vec<String> = missing.chain(superfluous.map(|(path, _)| (*path).to_owned())).collect();
    if !differing.is_empty() {
        return Err(UndocumentedKeys(differing));
    }
    let mut out = String::new();
    write_object(&defaults, "", 0, env_prefix, &described, &mut out);
    Ok(out)
}

fn write_object<'d>(
    value: &Value,
    path: &str,
    depth: usize,
    env_prefix: &str,
    described: &impl Fn(&str) -> Option<&'d str>,
    out: &mut String,
) {
    let indent = "  ".repeat(depth);
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if !out.is_empty() && (depth == 0 || !out.ends_with(":\n")) {
            out.push('\n');
        }
        for line in described(&path).map(|text| wrapped(text, WIDTH - indent.len())).unwrap_or_default() {
            out.push_str(&format!("{indent}# {line}\n"));
        }
        match value {
            Value::Object(keys) if !keys.is_empty() => {
                out.push_str(&format!("{indent}{key}:\n"));
                write_object(value, &path, depth + 1, env_prefix, described, out);
                continue;
            }
            // Not set: shown, but commented out.
            Value::Null => out.push_str(&format!("{indent}# {}\n{indent}# {key}:\n", variable_name(env_prefix, &path))),
            value => out.push_str(&format!("{indent}# {}\n{indent}{key}: {value}\n", variable_name(env_prefix, &path))),
        }
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line being filled");
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
