//! Digests as registries and layouts write them, and readers that compute them.

use std::fmt;
use std::io::{self, Read};

use ring::digest::{Algorithm, Context, SHA256, SHA512};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `sha256:` or `sha512:` with lower-case hexadecimal digits: the two algorithms that the OCI image specification registers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// Not a digest of an algorithm that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is `sha256:` with 64 or `sha512:` with 128 lower-case hexadecimal digits")]
pub struct InvalidDigest;

impl Digest {
    /// Reads `sha256:…` or `sha512:…`.
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let (algorithm, hex) = text.split_once(':').ok_or(InvalidDigest)?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(InvalidDigest),
        };
        let is_hex = hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() == length && is_hex { Ok(Self(text.to_owned())) } else { Err(InvalidDigest) }
    }

    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(ring::digest::digest(&SHA256, bytes).as_ref())))
    }

    /// With the algorithm: `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits alone.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// Whether `bytes` have this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::like(self);
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// Computes a digest piece by piece.
pub(crate) struct Hasher {
    context: Context,
    name: &'static str,
}

impl Hasher {
    /// By the algorithm of another digest.
    pub(crate) fn like(digest: &Digest) -> Self {
        if digest.algorithm() == "sha512" { Self::new(&SHA512, "sha512") } else { Self::sha256() }
    }

    /// By SHA-256.
    pub(crate) fn sha256() -> Self {
        Self::new(&SHA256, "sha256")
    }

    fn new(algorithm: &'static Algorithm, name: &'static str) -> Self {
        Self { context: Context::new(algorithm), name }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(format!("{}:{}", self.name, hex(self.context.finish().as_ref())))
    }
}

/// Computes the digest of what is read through it.
pub(crate) struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R, hasher: Hasher) -> Self {
        Self { inner, hasher }
    }

    /// The digest of all that was read, and what it was read from.
    pub(crate) fn finish_with(self) -> (Digest, R) {
        (self.hasher.finish(), self.inner)
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    digits.map(char::from).collect()
}
