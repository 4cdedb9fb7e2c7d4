//! JSON Web Tokens: the claims of a service account's token, signed and read.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::Issuer;
use super::key::LoadKeyError;

/// A token of ours has some 1,500 bytes; what is much longer is somebody else's.
const TOKEN_BYTES_MAX: usize = 32 * 1024;

/// Name and uid of something that a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reference {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claims that are Kubernetes' own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kubernetes {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    #[serde(default)]
    pub serviceaccount: Reference,
    /// From then on its bearer should have had a newer one; it is good until `exp` all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// All claims of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    #[serde(default)]
    pub exp: Option<i64>,
    #[serde(default)]
    pub iat: Option<i64>,
    pub iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    #[serde(rename = "kubernetes.io", default)]
    pub kubernetes: Kubernetes,
    #[serde(default)]
    pub nbf: Option<i64>,
    #[serde(default)]
    pub sub: String,
}

/// A single audience may be written without a list.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
    })
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    kid: String,
}

/// Signs claims.
pub(super) fn sign(issuer: &Issuer, claims: &Claims) -> Result<String, LoadKeyError> {
    let header = Header { alg: "ES256".to_owned(), kid: issuer.key.id().to_owned() };
    let part = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
    let header = serde_json::to_vec(&header).expect("two texts always serialise");
    let claims = serde_json::to_vec(claims).expect("claims hold nothing that JSON has not");
    let message = format!("{}.{}", part(header), part(claims));
    let signature = issuer.key.sign(message.as_bytes())?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// What a bearer token turned out to be.
pub(super) enum Read {
    /// No token of this issuer.
    Foreign,
    /// One that it has not signed; the sentence is for reviews.
    Invalid(String),
    Claims(Box<Claims>),
}

/// Reads a token and verifies who signed it.
pub(super) fn read(issuer: &Issuer, token: &str) -> Read {
    let parts: Vec<&str> = token.splitn(4, '.').collect();
    let [header, payload, signature] = parts.as_slice() else { return Read::Foreign };
    if token.len() > TOKEN_BYTES_MAX {
        return Read::Foreign;
    }
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    let Some(claims) = decode(payload) else { return Read::Foreign };
    // Whose it says it is decides whether it is looked at; what it says counts only once its signature is verified.
    #[derive(Deserialize)]
    struct Issued {
        #[serde(default)]
        iss: String,
    }
    match serde_json::from_slice::<Issued>(&claims) {
        Ok(issued) if issued.iss == issuer.url => {}
        _ => return Read::Foreign,
    }
    let Some(header) = decode(header).and_then(|header| serde_json::from_slice::<Header>(&header).ok()) else {
        return Read::Foreign;
    };
    let Some(signature) = decode(signature) else { return Read::Foreign };
    let message = &token.as_bytes()[..token.rfind('.').unwrap_or_default()];
    let mut keys = issuer.keys().filter(|key| header.kid.is_empty() || header.kid == key.id()).peekable();
    if keys.peek().is_none() {
        return Read::Invalid("invalid signature, no keys found".to_owned());
    }
    if header.alg != "ES256" || !keys.any(|key| key.verifies(message, &signature)) {
        return Read::Invalid("square/go-jose: error in cryptographic primitive".to_owned());
    }
    match serde_json::from_slice(&claims) {
        Ok(claims) => Read::Claims(Box::new(claims)),
        Err(_) => Read::Invalid("service account token claims could not be validated".to_owned()),
    }
}
