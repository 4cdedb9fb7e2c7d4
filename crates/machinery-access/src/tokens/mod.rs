//! Tokens of service accounts: issued by TokenRequest, recognised by [`TokenAuthenticator`], published for others to verify.
//!
//! A token is a JWT that names a service account and, if it is bound, a pod, a secret or a node. It is good as long as it
//! has not expired and all that it names are there, with the uids that it names.

mod authenticator;
mod discovery;
mod jwt;
mod key;
mod request;

use std::sync::Arc;

pub use authenticator::TokenAuthenticator;
pub(crate) use discovery::{IssuerConfiguration, KeySet};
pub use key::{LoadKeyError, TokenKey};
pub use request::TokenRequests;

/// Who issues tokens, for whom, and with which keys.
#[derive(Debug)]
pub struct Issuer {
    /// What tokens say of their issuer: a URL, below which others find the keys.
    pub url: String,
    /// Audiences of the API itself; the first of them is that of tokens which are asked for without one.
    pub audiences: Vec<String>,
    /// Signs new tokens.
    pub key: TokenKey,
    /// Verify older tokens, beside the one that signs.
    pub older_keys: Vec<TokenKey>,
}

impl Issuer {
    /// An issuer with one key, whose URL is the API's audience too, as kube-apiserver's is by default.
    pub fn new(url: impl Into<String>, key: TokenKey) -> Arc<Self> {
        let url = url.into();
        Arc::new(Self { audiences: vec![url.clone()], url, key, older_keys: Vec::new() })
    }

    fn keys(&self) -> impl Iterator<Item = &TokenKey> {
        std::iter::once(&self.key).chain(&self.older_keys)
    }
}
