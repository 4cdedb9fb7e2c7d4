//! The join token: `sv1.<sha256 of the hub's CA, hex>.<bootstrap token id>.<secret>`.
//!
//! The hash lets a node refuse a hub that is not the one the token was made on; id and secret are an ordinary
//! Kubernetes bootstrap token. `<id>.<secret>` alone is a token as well, as `kubeadm token create` makes it: the node then
//! needs the cluster's CA from its configuration, or takes it from what the cluster has signed with the token ([`JoinToken::verify`]).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SecureRandom;

/// First part of every token; a later form gets another number.
const PREFIX: &str = "sv1";

/// Length of a bootstrap token's id, by Kubernetes' definition.
const ID_LEN: usize = 6;

/// Length of a bootstrap token's secret, by Kubernetes' definition.
const SECRET_LEN: usize = 16;

/// What a person hands to a new node.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the CA certificate's DER, 64 lower-case hex digits; a token of a stock cluster has none.
    pub ca_sha256: Option<String>,
    /// Bootstrap token id: six of `[a-z0-9]`; public.
    pub id: String,
    /// Bootstrap token secret: sixteen of `[a-z0-9]`.
    pub secret: String,
}

/// Why a join token could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse the join token: {reason}; make a new one with `selvedge token create` on the hub")]
pub struct ParseJoinTokenError {
    reason: &'static str,
}

impl JoinToken {
    /// A token with a fresh id and secret for the hub whose CA has this fingerprint ([`crate::ca_fingerprint`]).
    pub fn generate(ca_sha256: String) -> Result<Self, crate::PkiError> {
        Ok(Self { ca_sha256: Some(ca_sha256), id: random_text(ID_LEN)?, secret: random_text(SECRET_LEN)? })
    }

    /// The token as the bearer of a request: `<id>.<secret>`.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// Whether `signature`, a JSON Web Signature that leaves its content out, says that who made it knew this token and signed
    /// `content`: how a cluster proves its `cluster-info` to a node that knows nothing but the token.
    pub fn verify(&self, signature: &str, content: &[u8]) -> bool {
        let mut parts = signature.split('.');
        let (Some(header), Some(""), Some(tag), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return false;
        };
        // As every cluster writes it. What another algorithm or another key means is not for the server to say.
        if header != URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{}"}}"#, self.id)) {
            return false;
        }
        let Ok(tag) = URL_SAFE_NO_PAD.decode(tag) else { return false };
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes()), signed.as_bytes(), &tag).is_ok()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ca_sha256) = &self.ca_sha256 {
            write!(formatter, "{PREFIX}.{ca_sha256}.")?;
        }
        write!(formatter, "{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    /// Leaves the secret out: tokens end up in logs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ca_sha256 = self.ca_sha256.as_deref().unwrap_or("any CA");
        write!(formatter, "JoinToken({PREFIX}.{ca_sha256}.{}.…)", self.id)
    }
}

impl FromStr for JoinToken {
    type Err = ParseJoinTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| Err(ParseJoinTokenError { reason });
        let parts: Vec<&str> = text.trim().splitn(5, '.').collect();
        let (prefix, ca_sha256, id, secret) = match *parts.as_slice() {
            [id, secret] if is_token_part(id, ID_LEN) && is_token_part(secret, SECRET_LEN) => {
                return Ok(Self { ca_sha256: None, id: id.to_owned(), secret: secret.to_owned() });
            }
            [prefix, ca_sha256, id, secret] => (prefix, ca_sha256, id, secret),
            _ => return fail("it must have four parts with dots between them (or be a cluster's own, ID.SECRET)"),
        };
        if prefix != PREFIX {
            return fail("it must begin with `sv1.`");
        }
        if ca_sha256.len() != 64 || !ca_sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return fail("its second part must be 64 lower-case hex digits");
        }
        if !is_token_part(id, ID_LEN) {
            return fail("its third part must be six lower-case letters or digits");
        }
        if !is_token_part(secret, SECRET_LEN) {
            return fail("its fourth part must be sixteen lower-case letters or digits");
        }
        Ok(Self { ca_sha256: Some(ca_sha256.to_owned()), id: id.to_owned(), secret: secret.to_owned() })
    }
}

fn is_token_part(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'))
}

fn random_text(len: usize) -> Result<String, crate::PkiError> {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    // Bytes from here up would make some characters likelier than others.
    const UNBIASED: u8 = 252;
    let random = ring::rand::SystemRandom::new();
    let mut text = String::with_capacity(len);
    while text.len() < len {
        let mut byte = [0u8; 1];
        random.fill(&mut byte).map_err(|_| crate::PkiError::GenerateKey(rcgen::Error::RingUnspecified))?;
        if byte[0] < UNBIASED {
            text.push(char::from(ALPHABET[usize::from(byte[0] % 36)]));
        }
    }
    Ok(text)
}
