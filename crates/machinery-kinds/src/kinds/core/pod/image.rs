//! Names of container images, as far as the API looks into them.
//!
//! `registry.example:5000/team/web:1.2@sha256:…`: a domain, a path of lower-case components, a tag, a digest. The rules are
//! those of the distribution project's reference grammar, which every container runtime follows.

/// How an image is pulled when nobody says: anew each time when its tag is the moving one.
///
/// What is no image's name is left to the runtime, and counts as pinned.
pub(super) fn default_pull_policy(image: &str) -> &'static str {
    if tag(image) == Some("latest") { "Always" } else { "IfNotPresent" }
}

/// The tag of an image: `latest` when it has neither tag nor digest; `None` when the name is malformed or has a digest alone.
fn tag(image: &str) -> Option<&str> {
    // Sixty-four digits alone are an image's id.
    if image.len() == 64 && image.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let (domain, rest) = match image.split_once('/') {
        Some((first, rest)) if is_domain_like(first) => (Some(first), rest),
        _ => (None, image),
    };
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (rest, None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let is_valid = domain.is_none_or(is_domain)
        && path.split('/').all(is_component)
        && path.len() + domain.map_or(0, str::len) < 255
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    match (is_valid, tag, digest) {
        (false, ..) => None,
        (true, Some(tag), _) => Some(tag),
        (true, None, Some(_)) => None,
        (true, None, None) => Some("latest"),
    }
}

/// Whether the part before the first slash names a registry and not a part of the path.
fn is_domain_like(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !domain.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
    };
    let is_ipv6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':'));
    (is_ipv6 || host.split('.').all(is_label))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Lower-case letters and digits, with `.`, `_`, `__` or dashes between them.
fn is_component(component: &str) -> bool {
    let mut separator = String::new();
    let mut has_any = false;
    for char in component.chars() {
        if char.is_ascii_lowercase() || char.is_ascii_digit() {
            let is_good = match separator.as_str() {
                "" => true,
                "." | "_" | "__" => has_any,
                dashes => has_any && dashes.chars().all(|char| char == '-'),
            };
            if !is_good {
                return false;
            }
            separator.clear();
            has_any = true;
        } else if matches!(char, '.' | '_' | '-') {
            separator.push(char);
        } else {
            return false;
        }
    }
    has_any && separator.is_empty()
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let is_part = |part: &str| {
        part.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(is_part)
        && hex.len() >= 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::default_pull_policy;

    #[test]
    fn only_an_image_with_the_moving_tag_is_pulled_each_time() {
        let digest = format!("web@sha256:{}", "a".repeat(64));
        let both = format!("web:latest@sha256:{}", "a".repeat(64));
        for (image, policy) in [
            ("web", "Always"),
            ("web:latest", "Always"),
            ("registry.example:5000/team/web", "Always"),
            ("localhost/web", "Always"),
            (both.as_str(), "Always"),
            ("web:1", "IfNotPresent"),
            ("registry.example:5000/team/web:1.2", "IfNotPresent"),
            (digest.as_str(), "IfNotPresent"),
            // None of these is an image's name.
            ("", "IfNotPresent"),
            ("Web", "IfNotPresent"),
            ("web__-x", "IfNotPresent"),
            ("file:///opt/bin/x", "IfNotPresent"),
        ] {
            assert_eq!(default_pull_policy(image), policy, "{image}");
        }
    }
}
