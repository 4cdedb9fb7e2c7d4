//! URLs as Go reads them, as far as rules ask for their parts.

/// The parts of a URL.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Url {
    pub scheme: String,
    pub user: Option<String>,
    pub host: String,
    pub query: String,
    pub fragment: String,
}

/// Reads a URL; the error is what Go's parser says of it.
pub(crate) fn go_url(text: &str) -> Result<Url, String> {
    let fail = |why: &str| Err(format!("parse {}: {why}", machinery_schema::field_error::quoted(text)));
    if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return fail("net/url: invalid control character in URL");
    }
    let (before, fragment) = text.split_once('#').unwrap_or((text, ""));
    if before.starts_with(':') {
        return fail("missing protocol scheme");
    }
    let mut url = Url { fragment: fragment.to_owned(), ..Url::default() };
    let mut rest = before;
    if let Some((scheme, after)) = before.split_once(':') {
        let mut bytes = scheme.bytes();
        let is_scheme = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if is_scheme {
            url.scheme = scheme.to_ascii_lowercase();
            rest = after;
        } else if !scheme.contains(['/', '?'])
            && scheme.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
        {
            return fail("first path segment in URL cannot contain colon");
        }
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    url.query = query.to_owned();
    if let Some(authority) = path.strip_prefix("//") {
        let authority = authority.split('/').next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        if host.contains(' ') {
            return fail("invalid character \" \" in host name");
        }
        if let Some((_, port)) = host.rsplit_once(':').filter(|(_, port)| !port.contains(']'))
            && !port.bytes().all(|byte| byte.is_ascii_digit())
        {
            let shown = machinery_schema::field_error::quoted(&format!(":{port}"));
            return fail(&format!("invalid port {shown} after host"));
        }
        url.user = user;
        url.host = host.to_owned();
    } else if url.scheme.is_empty()
        && !path.starts_with('/')
        && path.split('/').next().unwrap_or_default().contains(':')
    {
        return fail("first path segment in URL cannot contain colon");
    }
    Ok(url)
}
