//! Names of images as people write them: `busybox`, `quay.io/org/app:1.2`, `localhost:5000/app@sha256:…`.
//!
//! The grammar is that of the distribution project's `reference` package, which Docker, containerd and Kubernetes use, with
//! the same completion of short names: `busybox` is `docker.io/library/busybox:latest`.
//!
//! ```text
//! reference  = name [ ":" tag ] [ "@" digest ]
//! name       = [ domain "/" ] path
//! domain     = host [ ":" port ]          host = DNS name, IPv4 or "[" IPv6 "]"
//! path       = component { "/" component } component = [a-z0-9]+ joined by ".", "_", "__" or any number of "-"
//! tag        = [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Where names without a registry come from.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Upstream's limit of the name without tag and digest.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A complete name: with its registry, and with a tag, a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Not a name of an image. The text names the part that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid image name `{name}`: {reason}")]
pub struct InvalidReference {
    /// What was written, at most its first bytes.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// Reads a name as people write it and completes it.
    ///
    /// ```
    /// use node_images::Reference;
    /// assert_eq!(Reference::parse("busybox").unwrap().to_string(), "docker.io/library/busybox:latest");
    /// assert_eq!(Reference::parse("[::1]:5000/app:1").unwrap().registry(), "[::1]:5000");
    /// assert!(Reference::parse("Busybox").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|reason| InvalidReference { name: text.chars().take(NAME_BYTES_MAX).collect(), reason })
    }

    /// `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one was written or completed.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or index. With one, the tag says nothing about what is meant.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository, by digest and without a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { registry: self.registry.clone(), repository: self.repository.clone(), tag: None, digest: Some(digest) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

impl Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("64 hexadecimal digits are an id, not a name");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(Digest::parse(digest).map_err(|_| "the digest is not one of sha256 or sha512")?))
        }
        None => (text, None),
    };
    // A colon after the last slash is a tag's; one before it is a port's.
    let path_at = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[path_at..].find(':') {
        Some(colon) => (&rest[..path_at + colon], Some(&rest[path_at + colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("a tag has up to 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two");
    }
    let (registry, path) = split_registry(name);
    if !is_domain(registry) {
        return Err("the registry is no host name or address with an optional port");
    }
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let is_official = registry == DEFAULT_REGISTRY && !path.contains('/');
    let repository = if is_official { format!("library/{path}") } else { path.to_owned() };
    check_path(&repository)?;
    if registry.len() + 1 + repository.len() > NAME_BYTES_MAX {
        return Err("it is longer than 255 bytes");
    }
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

/// The first part is a registry when it cannot be a repository's: it has a dot or a port, is `localhost`, or has capitals.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the repository must be lower case");
    }
    if path.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err("the repository is not parts of a-z and 0-9 joined by `.`, `_`, `__` or `-`")
    }
}

fn is_path_component(component: &str) -> bool {
    let is_alphanumeric = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let separators =
        component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|part| !part.is_empty());
    let bytes = component.as_bytes();
    bytes.first().copied().is_some_and(is_alphanumeric)
        && bytes.last().copied().is_some_and(is_alphanumeric)
        && separators.into_iter().all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            // The grammar takes any digits and colons; an address that nobody can dial is better rejected here.
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => domain.find(':').map_or((domain, ""), |colon| domain.split_at(colon)),
    };
    let is_port = port.is_empty()
        || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'));
    is_port && host.split('.').all(is_host_component)
}

fn is_host_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

#[cfg(test)]
mod tests;
