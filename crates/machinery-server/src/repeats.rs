//! Members that a body has twice: the last of them counts, and strict validation names it.
//!
//! Decoding keeps one value of a member, so what is repeated is looked for in the text. Nearly no body repeats anything:
//! of JSON the members are counted first, in the text and in what was decoded, and only where the counts differ the text
//! is read again.

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use http::HeaderMap;
use machinery_schema::bounded::push_bounded;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::negotiate::{content_type, yaml_options};
use crate::request::FieldValidation;

/// As many complaints of one body as upstream makes.
const REPEATS_MAX: usize = 100;

/// What a body has twice, in upstream's words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repeats {
    /// Paths of members, of JSON.
    paths: Vec<String>,
    /// `line 3: key "a" already set in map`, of YAML.
    lines: Vec<String>,
    /// What comes before the words where the body is no object but a patch of one.
    prefix: &'static str,
}

impl Repeats {
    /// Of a body that was decoded to a value.
    pub(crate) fn of(headers: &HeaderMap, body: &Bytes, value: &Value, validation: FieldValidation) -> Self {
        match content_type(headers) {
            "" | "application/json" => Self::of_json(body, value, validation),
            "application/yaml" => Self::of_yaml(body, value, validation),
            // A message says twice what it means to add.
            _ => Self::default(),
        }
    }

    pub(crate) fn of_json(body: &Bytes, value: &Value, validation: FieldValidation) -> Self {
        if validation == FieldValidation::Ignore || members_written(body) == members_of(value) {
            return Self::default();
        }
        let (mut path, mut found) = (String::new(), Found::default());
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        // It was decoded before, so that it cannot fail.
        let _ = Place { path: &mut path, found: &mut found }.deserialize(&mut deserializer);
        Self { paths: found.paths, ..Self::default() }
    }

    /// Of the operations of a JSON patch.
    pub(crate) fn of_json_patch(body: &Bytes, value: &Value, validation: FieldValidation) -> Self {
        Self { prefix: "json patch ", ..Self::of_json(body, value, validation) }
    }

    pub(crate) fn of_yaml(body: &Bytes, value: &Value, validation: FieldValidation) -> Self {
        let text = std::str::from_utf8(body).unwrap_or_default();
        // Clients apply JSON, which is YAML and quicker to look at.
        let is_json = || serde_json::from_slice::<IgnoredAny>(body).is_ok();
        let is_plain = || body.first() == Some(&b'{') && members_written(body) == members_of(value) && is_json();
        if validation == FieldValidation::Ignore || is_plain() {
            return Self::default();
        }
        // The text was decoded under the same bounds before.
        let found = serde_saphyr::from_str_with_options::<Lines>(text, yaml_options(text, usize::MAX));
        Self { lines: found.map(|found| found.0).unwrap_or_default(), ..Self::default() }
    }

    /// Takes away what is within fields that the type does not know, of which nothing more is read.
    pub(crate) fn without(mut self, unknown: &[String]) -> Self {
        self.paths.retain(|path| {
            !unknown.iter().any(|field| {
                path.strip_prefix(field.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            })
        });
        self
    }

    /// A warning for each, and for each unknown field.
    pub(crate) fn warnings<'w>(&'w self, unknown: &'w [String]) -> impl Iterator<Item = String> + 'w {
        let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
        self.lines.iter().cloned().chain(self.named()).chain(unknown)
    }

    /// Why a body is refused that is read strictly, if it is.
    pub(crate) fn strict_error(&self, unknown: &[String]) -> Option<String> {
        let unknown = unknown.iter().map(|path| format!("unknown field {path:?}"));
        let all: Vec<String> =
            self.yaml_error().into_iter().chain(self.named()).chain(unknown).take(REPEATS_MAX).collect();
        (!all.is_empty()).then(|| format!("strict decoding error: {}", all.join(", ")))
    }

    /// All that YAML has twice, as one error.
    pub(crate) fn yaml_error(&self) -> Option<String> {
        (!self.lines.is_empty()).then(|| format!("yaml: unmarshal errors:\n  {}", self.lines.join("\n  ")))
    }

    fn named(&self) -> impl Iterator<Item = String> + '_ {
        self.paths.iter().map(|path| format!("{}duplicate field {path:?}", self.prefix))
    }
}

/// Members in a JSON text: colons outside of strings.
fn members_written(body: &[u8]) -> usize {
    let (mut is_text, mut is_escaped, mut count) = (false, false, 0);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b':' if !is_text => count += 1,
            _ => {}
        }
    }
    count
}

/// Members in a decoded value, whose depth the decoder has bounded.
fn members_of(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.len() + members.values().map(members_of).sum::<usize>(),
        Value::Array(items) => items.iter().map(members_of).sum(),
        _ => 0,
    }
}

#[derive(Default)]
struct Found {
    paths: Vec<String>,
}

impl Found {
    fn push(&mut self, path: &str) {
        if self.paths.len() < REPEATS_MAX && !self.paths.iter().any(|known| known == path) {
            self.paths.push(path.to_owned());
        }
    }
}

/// A place in a JSON text.
struct Place<'p> {
    path: &'p mut String,
    found: &'p mut Found,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Scalars, of which there is nothing to say.
macro_rules! scalars {
    ($with:expr) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($with)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($with)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($with)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($with)
        }

        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($with)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($with)
        }
    };
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    scalars!(());

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let length = self.path.len();
            if length > 0 {
                push_bounded(self.path, ".");
            }
            push_bounded(self.path, &key);
            if !seen.insert(key) {
                self.found.push(self.path);
            }
            map.next_value_seed(Place { path: &mut *self.path, found: &mut *self.found })?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let length = self.path.len();
        for number in 0.. {
            push_bounded(self.path, &format!("[{number}]"));
            let item = items.next_element_seed(Place { path: &mut *self.path, found: &mut *self.found })?;
            self.path.truncate(length);
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// What a YAML value has twice, line by line.
struct Lines(Vec<String>);

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LinesVisitor)
    }
}

struct LinesVisitor;

impl<'de> Visitor<'de> for LinesVisitor {
    type Value = Lines;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("YAML")
    }

    scalars!(Lines(Vec::new()));

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Lines, A::Error> {
        let (mut lines, mut seen) = (Vec::new(), HashSet::new());
        while let Some(key) = map.next_key::<String>()? {
            // Upstream names the line of the value, and what is within it first.
            let value = map.next_value::<serde_saphyr::Spanned<Lines>>()?;
            lines.extend(value.value.0);
            if seen.contains(&key) {
                lines.push(format!("line {}: key {key:?} already set in map", value.referenced.line()));
            } else {
                seen.insert(key);
            }
            lines.truncate(REPEATS_MAX);
        }
        Ok(Lines(lines))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Lines, A::Error> {
        let mut lines = Vec::new();
        while let Some(item) = items.next_element::<Lines>()? {
            lines.extend(item.0);
            lines.truncate(REPEATS_MAX);
        }
        Ok(Lines(lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_json(text: &str) -> Repeats {
        let value = serde_json::from_str(text).unwrap();
        Repeats::of_json(&Bytes::from(text.to_owned()), &value, FieldValidation::Strict)
    }

    #[test]
    fn members_that_json_has_twice_are_named_once_by_their_paths() {
        let found = of_json(r#"{"a":{"x":1,"x":2,"x":3},"b":[{"y":1},{"y":":","y":"\":"}],"a":{}}"#);
        assert_eq!(found.paths, ["a.x", "b[1].y", "a"]);
        assert_eq!(
            found.strict_error(&["q".to_owned()]).unwrap(),
            r#"strict decoding error: duplicate field "a.x", duplicate field "b[1].y", duplicate field "a", unknown field "q""#
        );
        assert_eq!(found.without(&["b".to_owned()]).paths, ["a.x", "a"]);
        assert!(of_json(r#"{"a":{"x":": \" :"},"b":[{"y":1},{"y":1}]}"#).strict_error(&[]).is_none());
        let many: Vec<String> = (0..300).map(|number| format!(r#""k{number}":1,"k{number}":1"#)).collect();
        assert_eq!(of_json(&format!("{{{}}}", many.join(","))).paths.len(), REPEATS_MAX);
    }

    #[test]
    fn keys_that_yaml_has_twice_are_named_by_the_lines_of_their_values() {
        let text = "a:\n  x: 1\n  x: 2\nb: {y: 1, y: 2}\na:\n  z: 1\n";
        let of_yaml = |text: &'static str, validation: FieldValidation| {
            let body = Bytes::from(text);
            let value = crate::negotiate::yaml(&body, 1000).unwrap();
            Repeats::of_yaml(&body, &value, validation)
        };
        let found = of_yaml(text, FieldValidation::Warn);
        assert_eq!(
            found.lines,
            [
                r#"line 3: key "x" already set in map"#,
                r#"line 4: key "y" already set in map"#,
                r#"line 6: key "a" already set in map"#
            ]
        );
        assert!(found.yaml_error().unwrap().starts_with("yaml: unmarshal errors:\n  line 3: key"));
        assert!(of_yaml(text, FieldValidation::Ignore).lines.is_empty());
        // Of braces as well, though they be no JSON.
        assert_eq!(of_yaml("{a: 1, a: 2, b}", FieldValidation::Warn).lines.len(), 1);
        assert_eq!(of_yaml(r#"{"a": {"x": 1, "x": 2}}"#, FieldValidation::Warn).lines.len(), 1);
        assert!(of_yaml(r#"{"a": {"x": 1}, "b": {"x": 1}}"#, FieldValidation::Warn).lines.is_empty());
    }
}
