//! Paths to fields within a schema: `.spec.replicas`, `.data['a.b']`.

use crate::schema::{Schema, SchemaOrBool};

/// Follows a path through a schema; gives the path as errors show it and the schema that it leads to.
///
/// # Errors
/// What is wrong with the path, in the words of the reference implementation.
pub(crate) fn resolve<'s>(
    path: &str,
    schema: &'s Schema,
    allows_brackets: bool,
) -> Result<(String, &'s Schema), String> {
    let mut tokens = Tokens { rest: path };
    let mut schema = schema;
    let mut resolved = String::new();
    let end = || "unexpected end of JSON path".to_owned();
    while let Some(token) = tokens.next() {
        let name = match token {
            "[" => {
                if !allows_brackets {
                    return Err("array notation is not allowed".to_owned());
                }
                let quoted = tokens.next().ok_or_else(end)?;
                let inner =
                    quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).filter(|_| quoted.len() > 1);
                let Some(inner) = inner else {
                    return Err(format!("expected single quoted string but got {quoted}"));
                };
                unescape(inner)?
            }
            "." => tokens.next().ok_or_else(end)?.to_owned(),
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        let unknown = || "does not refer to a valid field".to_owned();
        if !schema.properties.is_empty() {
            schema = schema.properties.get(name.as_str()).ok_or_else(unknown)?;
            if !resolved.is_empty() {
                resolved.push('.');
            }
            resolved.push_str(&name);
        } else {
            schema = match schema.additional.as_ref() {
                Some(SchemaOrBool::Schema(inner)) => inner,
                _ => return Err(unknown()),
            };
            resolved.push_str(&format!("[{name}]"));
        }
        if token == "[" {
            let close = tokens.next().ok_or_else(end)?;
            if close != "]" {
                return Err(format!("expected ] but got {close}"));
            }
        }
    }
    Ok((resolved, schema))
}

struct Tokens<'t> {
    rest: &'t str,
}

impl<'t> Iterator for Tokens<'t> {
    type Item = &'t str;

    /// A delimiter, a quoted string, or the text up to the next delimiter.
    fn next(&mut self) -> Option<&'t str> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = self.rest.as_bytes();
        let len = if bytes[0] == b'\'' {
            let end = (1..bytes.len()).find(|at| bytes[*at] == b'\'' && bytes[at - 1] != b'\\');
            end.map_or(bytes.len(), |end| end + 1)
        } else {
            match self.rest.find(['.', '[', ']']) {
                Some(0) => 1,
                Some(at) => at,
                None => bytes.len(),
            }
        };
        let (token, rest) = self.rest.split_at(len);
        self.rest = rest;
        Some(token)
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            out.push(char);
            continue;
        }
        match chars.next() {
            Some('a') => out.push('\x07'),
            Some('b') => out.push('\x08'),
            Some('f') => out.push('\x0c'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\x0b'),
            Some(same @ ('\'' | '\\')) => out.push(same),
            Some(other) => return Err(format!("invalid string literal: invalid escape char \\{other}")),
            None => out.push('\\'),
        }
    }
    Ok(out)
}
