//! URLs as Go's `net/url` reads them: what `format: uri` and CEL's `url()` accept, and the words of their errors.

use std::{collections::BTreeMap, net::Ipv6Addr};

use crate::go::quoted;

/// A parsed URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Url {
    pub scheme: String,
    pub opaque: String,
    pub user: Option<String>,
    pub host: String,
    /// Unescaped.
    pub path: Vec<u8>,
    /// As it was written, when that differs from the default form.
    pub raw_path: String,
    pub query: String,
    pub fragment: String,
    text: String,
}

/// Which part of a URL a byte is in: each allows others unescaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Path,
    User,
    Host,
    Zone,
    Query,
    Fragment,
}

impl Url {
    /// What a request line may have: an absolute URI or an absolute path, without a fragment.
    pub fn parse_request(text: &str) -> Result<Self, String> {
        parse(text, true).map_err(|why| format!("parse {}: {why}", quoted(text)))
    }

    /// Any URL.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let mut url = parse(rest, false).map_err(|why| format!("parse {}: {why}", quoted(text)))?;
        let fragment = unescape(fragment, Place::Fragment).map_err(|why| format!("parse {}: {why}", quoted(text)))?;
        url.fragment = String::from_utf8_lossy(&fragment).into_owned();
        text.clone_into(&mut url.text);
        Ok(url)
    }

    /// The host without its port and without brackets.
    pub fn hostname(&self) -> &str {
        let host = split_port(&self.host).0;
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port, or nothing.
    pub fn port(&self) -> &str {
        split_port(&self.host).1
    }

    /// The path with its escapes.
    pub fn escaped_path(&self) -> String {
        if !self.raw_path.is_empty()
            && is_valid_encoded(&self.raw_path)
            && unescape(&self.raw_path, Place::Path).is_ok_and(|path| path == self.path)
        {
            return self.raw_path.clone();
        }
        if self.path == b"*" { "*".to_owned() } else { escape_path(&self.path) }
    }

    /// The query by name, what cannot be decoded left out.
    pub fn query_values(&self) -> BTreeMap<String, Vec<String>> {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Ok(name), Ok(value)) = (unescape(name, Place::Query), unescape(value, Place::Query)) else { continue };
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            values.entry(text(name)).or_default().push(text(value));
        }
        values
    }

    /// As it was written.
    pub fn as_text(&self) -> &str {
        &self.text
    }
}

fn parse(text: &str, is_request: bool) -> Result<Url, String> {
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() && is_request {
        return Err("empty url".to_owned());
    }
    let mut url = Url { text: text.to_owned(), ..Url::default() };
    if text == "*" {
        url.path = b"*".to_vec();
        return Ok(url);
    }
    let (scheme, rest) = scheme(text)?;
    url.scheme = scheme.to_lowercase();
    let rest = match rest.split_once('?') {
        Some((rest, query)) => {
            query.clone_into(&mut url.query);
            rest
        }
        None => rest,
    };
    let mut rest = rest;
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            rest.clone_into(&mut url.opaque);
            return Ok(url);
        }
        if is_request {
            return Err("invalid URI for request".to_owned());
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    let may_have_authority = !url.scheme.is_empty() || (!is_request && !rest.starts_with("///"));
    if may_have_authority && let Some(after) = rest.strip_prefix("//") {
        let end = after.find('/').unwrap_or(after.len());
        let (user, host) = authority(&url.scheme, &after[..end])?;
        (url.user, url.host) = (user, host);
        rest = &after[end..];
    }
    url.path = unescape(rest, Place::Path)?;
    if escape_path(&url.path) != rest {
        rest.clone_into(&mut url.raw_path);
    }
    Ok(url)
}

fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, char) in text.char_indices() {
        match char {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn authority(scheme: &str, text: &str) -> Result<(Option<String>, String), String> {
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, text),
    };
    let host = parse_host(scheme, host)?;
    let Some(user) = user else { return Ok((None, host)) };
    let is_good = user.chars().all(|char| char.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(char));
    if !is_good {
        return Err("net/url: invalid userinfo".to_owned());
    }
    for part in user.splitn(2, ':') {
        unescape(part, Place::User)?;
    }
    Ok((Some(user.to_owned()), host))
}

fn parse_host(scheme: &str, host: &str) -> Result<String, String> {
    let bracket = host.rfind('[');
    if bracket.is_some_and(|at| at > 0) {
        return Err("invalid IP-literal".to_owned());
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if bracket == Some(0) {
        let Some(end) = host.rfind(']') else { return Err("missing ']' in host".to_owned()) };
        check_port(&host[end + 1..])?;
        let inner = &host[1..end];
        let unescaped = match inner.find("%25") {
            Some(zone) => text(unescape(&inner[..zone], Place::Host)?) + &text(unescape(&inner[zone..], Place::Zone)?),
            None => text(unescape(inner, Place::Host)?),
        };
        let address = unescaped.split('%').next().unwrap_or_default();
        if address.parse::<std::net::Ipv4Addr>().is_ok() {
            return Err("invalid IP-literal".to_owned());
        }
        if address.parse::<Ipv6Addr>().is_err() {
            return Err(format!("invalid host: ParseAddr({}): unable to parse IP", quoted(&unescaped)));
        }
        return Ok(format!("[{unescaped}]{}", &host[end + 1..]));
    }
    if let Some(first) = host.find(':') {
        // Several colons are strange in the addresses of the web, and known in those of data bases.
        let is_strict = matches!(scheme, "http" | "https");
        let at = if is_strict { first } else { host.rfind(':').unwrap_or(first) };
        check_port(&host[at..])?;
    }
    Ok(text(unescape(host, Place::Host)?))
}

fn check_port(port: &str) -> Result<(), String> {
    let is_good = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    if is_good { Ok(()) } else { Err(format!("invalid port {} after host", quoted(port))) }
}

fn split_port(host: &str) -> (&str, &str) {
    match host.rfind(':') {
        Some(at) if check_port(&host[at..]).is_ok() && !host[at..].contains(']') => (&host[..at], &host[at + 1..]),
        _ => (host, ""),
    }
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn unescape(text: &str, place: Place) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let high = bytes.get(at + 1).copied().and_then(hex);
                let low = bytes.get(at + 2).copied().and_then(hex);
                let end = (at + 3).min(bytes.len());
                let shown = String::from_utf8_lossy(&bytes[at..end]).into_owned();
                let (Some(high), Some(low)) = (high, low) else {
                    return Err(format!("invalid URL escape {}", quoted(&shown)));
                };
                let byte = high << 4 | low;
                let is_percent = shown == "%25";
                let is_bad = match place {
                    Place::Host => high < 8 && !is_percent,
                    Place::Zone => !is_percent && byte != b' ' && must_escape(byte, Place::Host),
                    _ => false,
                };
                if is_bad {
                    return Err(format!("invalid URL escape {}", quoted(&shown)));
                }
                out.push(byte);
                at += 3;
            }
            b'+' if place == Place::Query => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                if matches!(place, Place::Host | Place::Zone) && byte < 0x80 && must_escape(byte, place) {
                    let shown = char::from(byte).to_string();
                    return Err(format!("invalid character {} in host name", quoted(&shown)));
                }
                out.push(byte);
                at += 1;
            }
        }
    }
    Ok(out)
}

fn must_escape(byte: u8, place: Place) -> bool {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
        return false;
    }
    match place {
        Place::Host | Place::Zone => !b"!$&'()*+,;=:[]<>\"".contains(&byte),
        Place::Path => !b"$&+,/:;=@".contains(&byte),
        Place::User => !b"$&+,;=".contains(&byte),
        Place::Query => true,
        Place::Fragment => !b"$&+,/:;=?@!()*".contains(&byte),
    }
}

fn escape_path(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path {
        if must_escape(*byte, Place::Path) {
            out.push_str(&format!("%{byte:02X}"));
        } else {
            out.push(char::from(*byte));
        }
    }
    out
}

fn is_valid_encoded(path: &str) -> bool {
    path.bytes().all(|byte| b"!$&'()*+,;=:@[]%".contains(&byte) || !must_escape(byte, Place::Path))
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn a_request_names_a_scheme_or_a_path() {
        for text in [
            "http://foobar.com?foo=bar",
            "mailto:someone@example.com",
            "/abs/test",
            "http://u:p@h:80/",
            "http://[::1]:80/",
            "*",
        ] {
            assert!(Url::parse_request(text).is_ok(), "{text}");
        }
        for (text, why) in [
            ("foobar.com", "invalid URI for request"),
            ("", "empty url"),
            ("://x", "missing protocol scheme"),
            ("http://a b/", "invalid character \" \" in host name"),
            ("http://a:x/", "invalid port \":x\" after host"),
            ("http://a/%zz", "invalid URL escape \"%zz\""),
            ("http://[::1/", "missing ']' in host"),
        ] {
            let error = Url::parse_request(text).expect_err(text);
            assert!(error.ends_with(why), "{error}");
        }
    }

    #[test]
    fn the_parts_of_a_url_are_found() {
        let url = Url::parse("https://user@a.example:8443/p%20q/r?x=1&y=a+b&x=2#frag").expect("is one");
        assert_eq!(
            (url.scheme.as_str(), url.host.as_str(), url.hostname(), url.port()),
            ("https", "a.example:8443", "a.example", "8443")
        );
        assert_eq!(url.escaped_path(), "/p%20q/r");
        assert_eq!(url.query_values()["x"], ["1", "2"]);
        assert_eq!(url.query_values()["y"], ["a b"]);
        assert_eq!(Url::parse("https://[::1]:80/").expect("is one").hostname(), "::1");
    }
}
