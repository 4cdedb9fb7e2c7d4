//! What is in a URL: the parameters of a query, and the segments of a path, decoded in one way everywhere.
//!
//! Decoding is strict: a `%` without two hex digits, or bytes that are no UTF-8, are an error and never a guess. A parameter
//! that is ignored because it could not be read might be the one that restricts a list or protects an object.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

/// The parameters of a query, decoded, in order.
///
/// ```
/// use base_http::query::Query;
///
/// let query = Query::parse(Some("labelSelector=app%3Dweb&watch&limit=500"))?;
/// assert_eq!(query.get("labelSelector"), Some("app=web"));
/// assert!(query.flag("watch"));
/// assert_eq!(query.number::<u32>("limit")?, Some(500));
/// # Ok::<(), base_http::query::QueryError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

/// Why a query was rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A parameter is no percent-encoded UTF-8.
    #[error("invalid query parameter {0:?}: it is not percent-encoded UTF-8")]
    Encoding(String),
    /// A value is not of the kind that the parameter takes.
    #[error("invalid value {value:?} for parameter {key}")]
    Value {
        /// The parameter.
        key: String,
        /// What it was given.
        value: String,
    },
}

impl Query {
    /// Decodes the query of a URI.
    ///
    /// # Errors
    /// When a parameter cannot be decoded.
    pub fn parse(query: Option<&str>) -> Result<Self, QueryError> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = decode_form(key).zip(decode_form(value));
            decoded.ok_or_else(|| QueryError::Encoding(pair.to_owned()))
        });
        decoded.collect::<Result<_, _>>().map(Self)
    }

    /// The first value of a parameter; an empty one counts as absent.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Whether the parameter is there, with or without a value.
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(found, _)| found == key)
    }

    /// A flag: a true value as Go reads it, or present without a value.
    pub fn flag(&self, key: &str) -> bool {
        match self.get(key) {
            Some(value) => matches!(value, "true" | "1" | "True" | "TRUE" | "t" | "T"),
            None => self.has(key),
        }
    }

    /// A number, or anything else that is parsed from text. Wire values are to be clamped by whoever reads them.
    ///
    /// # Errors
    /// When the value is not one.
    pub fn number<T: FromStr>(&self, key: &str) -> Result<Option<T>, QueryError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let invalid = |_| QueryError::Value { key: key.to_owned(), value: value.to_owned() };
        value.parse().map(Some).map_err(invalid)
    }

    /// A whole number of seconds, at most `max`; nothing and 0 are none. Clamped here, for a moment that far away overflows.
    ///
    /// # Errors
    /// When the value is no whole number.
    pub fn seconds(&self, key: &str, max: u32) -> Result<Option<Duration>, QueryError> {
        let seconds = self.number::<u64>(key)?.filter(|seconds| *seconds > 0);
        Ok(seconds.map(|seconds| Duration::from_secs(seconds.min(u64::from(max)))))
    }

    /// All parameters, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Decodes one segment of a path, in which `+` is itself; `None` when it is no percent-encoded UTF-8.
pub fn decode_segment(segment: &str) -> Option<Cow<'_, str>> {
    is_encoded(segment).then(|| percent_encoding::percent_decode_str(segment).decode_utf8().ok())?
}

/// Decodes a key or value of a query, in which `+` is a space.
fn decode_form(text: &str) -> Option<String> {
    if !text.contains('+') {
        return decode_segment(text).map(Cow::into_owned);
    }
    decode_segment(&text.replace('+', " ")).map(Cow::into_owned)
}

/// Encodes parameters as a query, as browsers do.
pub fn encode<K: AsRef<str>, V: AsRef<str>>(parameters: impl IntoIterator<Item = (K, V)>) -> String {
    let mut encoder = form_urlencoded::Serializer::new(String::new());
    encoder.extend_pairs(parameters);
    encoder.finish()
}

/// Whether each `%` is followed by two hex digits.
fn is_encoded(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        match &rest[at + 1..] {
            [high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest = tail,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: &[(&str, &str)]) {
        assert_eq!(Query::parse(Some(query)).unwrap().iter().collect::<Vec<_>>(), expected, "{query}");
    }

    #[test]
    fn parameters_are_decoded_in_order() {
        check("", &[]);
        check("&&", &[]);
        check("a=1&b&a=2", &[("a", "1"), ("b", ""), ("a", "2")]);
        check("a=b=c", &[("a", "b=c")]);
        check("l%61bel=x+y%2Bz%26", &[("label", "x y+z&")]);
        check("name=caf%C3%A9", &[("name", "café")]);
        assert_eq!(Query::parse(None), Ok(Query::default()));
    }

    #[test]
    fn what_cannot_be_decoded_is_an_error() {
        for bad in ["a=%", "a=%2", "a=%zz", "%=a", "a=%+1", "a=%ff", "ok=1&a=%C3"] {
            assert!(matches!(Query::parse(Some(bad)), Err(QueryError::Encoding(_))), "{bad}");
        }
    }

    #[test]
    fn an_empty_value_is_absent_but_a_set_flag() {
        let query = Query::parse(Some("watch&limit=&pretty=false&force=T")).unwrap();
        assert_eq!((query.get("watch"), query.get("limit"), query.has("limit")), (None, None, true));
        assert!(query.flag("watch") && query.flag("force") && !query.flag("pretty") && !query.flag("other"));
    }

    #[test]
    fn numbers_that_do_not_fit_are_errors() {
        let query = Query::parse(Some("a=5&b=-1&c=99999999999999999999&d=x")).unwrap();
        assert_eq!(query.number::<u64>("a"), Ok(Some(5)));
        assert_eq!(query.number::<u64>("none"), Ok(None));
        for key in ["b", "c", "d"] {
            assert!(matches!(query.number::<u64>(key), Err(QueryError::Value { .. })), "{key}");
        }
    }

    #[test]
    fn seconds_are_clamped_and_none_is_no_limit() {
        let query = Query::parse(Some("a=5&b=9223372036854775807&c=0&d=x")).unwrap();
        let seconds = |key: &str| query.seconds(key, 3600).map(|found| found.map(|time| time.as_secs()));
        assert_eq!((seconds("a"), seconds("b")), (Ok(Some(5)), Ok(Some(3600))));
        assert_eq!((seconds("c"), seconds("none")), (Ok(None), Ok(None)));
        assert!(seconds("d").is_err());
    }

    #[test]
    fn a_plus_in_a_path_is_a_plus() {
        assert_eq!(decode_segment("a+b%20c").as_deref(), Some("a+b c"));
        assert_eq!(decode_segment("%2f").as_deref(), Some("/"));
        assert_eq!(decode_segment("a%2"), None);
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let parameters = [("a b", "c&d=e"), ("%", "+é"), ("", "x")];
        check(&encode(parameters), &parameters);
    }
}
