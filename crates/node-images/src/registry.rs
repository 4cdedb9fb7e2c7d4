//! The distribution API of a registry: tokens, redirects, limits of rate, and what of it is tried again.
//!
//! Credentials go to the registry, and to the token service that it names, and nowhere else: a redirect to another host, as to
//! the storage behind a registry, is followed without them. A registry with TLS cannot send anybody to a host without TLS,
//! unless the node's configuration lists that host.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base_retry::{Backoff, BackoffLaw};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::Instant;

use self::challenge::Challenge;
use crate::Credential;
use crate::http::{Answer, Client, HttpError, Origin};
use crate::manifest::MANIFEST_TYPES;

mod challenge;

/// A registry, a CDN behind it, and one more for good measure.
const REDIRECTS_MAX: u32 = 5;
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// Of an error's body, for its message.
const ERROR_BYTES_MAX: usize = 8 << 10;
/// The specification's: a token without a life lasts a minute.
const TOKEN_LIFE_DEFAULT: u64 = 60;
/// Longer is not trusted: keys are replaced.
const TOKEN_LIFE_MAX: u64 = 3600;
/// Repositories whose tokens are remembered.
const TOKENS_MAX: usize = 64;

/// How long and how often a registry is tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A connection over which nothing comes for so long is given up.
    pub stall: Duration,
    /// Failures in a row, without any progress, after which a request is given up.
    pub tries_max: u32,
    /// Between two tries.
    pub backoff: BackoffLaw,
    /// A registry that asks to wait for longer is not waited for: the kubelet tries again anyhow.
    pub retry_after_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(30),
            tries_max: 5,
            backoff: BackoffLaw::new(Duration::from_millis(500), Duration::from_secs(10)),
            retry_after_max: Duration::from_secs(60),
        }
    }
}

/// Why a registry has not given what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It was not reached, or the connection failed.
    #[error("failed to talk to the registry")]
    Http(#[from] HttpError),
    /// It is there and not well.
    #[error("the registry answers {status}{message}")]
    Unavailable {
        /// 429 or 5xx.
        status: StatusCode,
        /// What it says, with a colon before it.
        message: String,
    },
    /// No such repository, tag or blob.
    #[error("the registry has no {what}{message}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// What it says, with a colon before it.
        message: String,
    },
    /// It wants other credentials, or some at all. Registries say so of what is not there, too.
    #[error("the registry denies access to {what}{message}")]
    Denied {
        /// What was asked for.
        what: String,
        /// What it says, with a colon before it.
        message: String,
    },
    /// An answer that makes no sense.
    #[error("the registry's answer is not valid: {0}")]
    Invalid(&'static str),
    /// The status is none that is expected.
    #[error("the registry answers {status}{message}")]
    Unexpected {
        /// What.
        status: StatusCode,
        /// What it says, with a colon before it.
        message: String,
    },
}

impl RegistryError {
    /// Whether the registry, and not the image, is the reason.
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            Self::Http(HttpError::Url(_) | HttpError::Ca { .. }) => false,
            Self::Http(_) | Self::Unavailable { .. } => true,
            _ => false,
        }
    }

    /// Whether another login may help.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// Whether the same request may succeed in a moment. A certificate that is wrong stays wrong.
    pub(crate) fn is_passing(&self) -> bool {
        self.is_out_of_reach() && !matches!(self, Self::Http(HttpError::Tls { .. } | HttpError::NoTls { .. }))
    }
}

struct Token {
    value: String,
    until: Instant,
}

/// Tokens of all registries, by registry, repository and who asks.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<String, Token>>);

/// One repository of one registry, or of its mirror, and as whom it is asked.
pub(crate) struct Repository<'a> {
    pub(crate) client: &'a Client,
    pub(crate) tokens: &'a Tokens,
    pub(crate) patience: Patience,
    pub(crate) plain_http: &'a [String],
    /// `https://host[:port]`, with the path of a mirror.
    pub(crate) base: String,
    /// `library/busybox`.
    pub(crate) name: &'a str,
    pub(crate) credential: Option<&'a Credential>,
}

impl<'a> Repository<'a> {
    /// Requests a manifest or index by tag or digest.
    pub(crate) async fn manifest(&self, reference: &str) -> Result<Answer<'a>, RegistryError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_str(&MANIFEST_TYPES.join(", ")).expect("media types are ASCII"));
        let url = format!("{}/v2/{}/manifests/{reference}", self.base, self.name);
        self.get(&url, headers, &format!("manifest {}:{reference}", self.name)).await
    }

    /// Requests a blob from `offset` on.
    pub(crate) async fn blob(&self, digest: &str, offset: u64) -> Result<Answer<'a>, RegistryError> {
        let mut headers = HeaderMap::new();
        if offset > 0 {
            headers.insert(RANGE, HeaderValue::from_str(&format!("bytes={offset}-")).expect("digits are ASCII"));
        }
        let url = format!("{}/v2/{}/blobs/{digest}", self.base, self.name);
        self.get(&url, headers, &format!("blob {digest} of {}", self.name)).await
    }

    /// Requests until there is an answer, or the patience is over.
    async fn get(&self, url: &str, headers: HeaderMap, what: &str) -> Result<Answer<'a>, RegistryError> {
        let mut backoff = Backoff::new(self.patience.backoff);
        loop {
            let (error, retry_after) = match self.authorized(url, &headers, what).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let delay = backoff.next_delay();
            let pause = retry_after.unwrap_or(delay).max(delay);
            if !error.is_passing()
                || backoff.failures() >= self.patience.tries_max
                || pause > self.patience.retry_after_max
            {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One request, repeated with what the registry wants to know of who asks.
    async fn authorized(&self, url: &str, headers: &HeaderMap, what: &str) -> Result<Answer<'a>, Failure> {
        let mut authorization = self.known_authorization();
        let mut had_old_token = authorization.is_some();
        loop {
            let answer = self.redirected(url, headers, authorization.as_ref()).await?;
            if answer.head.status != StatusCode::UNAUTHORIZED {
                return accepted(answer, what).await;
            }
            // A token that was good a while ago has run out; a new one is refused for good.
            if authorization.is_some() && !had_old_token {
                return Err((denied(answer, what).await, None));
            }
            had_old_token = false;
            self.tokens.forget(&self.token_key());
            let challenges: Vec<Challenge> = Challenge::read(answer.head.headers.get_all(WWW_AUTHENTICATE).iter());
            authorization = match self.respond(&challenges).await? {
                Some(authorization) => Some(authorization),
                None => return Err((denied(answer, what).await, None)),
            };
        }
    }

    fn known_authorization(&self) -> Option<HeaderValue> {
        if let Some(Credential::Bearer(token)) = self.credential {
            return secret(&format!("Bearer {token}"));
        }
        self.tokens.find(&self.token_key()).and_then(|token| secret(&token))
    }

    fn token_key(&self) -> String {
        let who = match self.credential {
            Some(Credential::Basic { username, password }) => format!("basic {username} {password}"),
            Some(Credential::Identity(token)) => format!("identity {token}"),
            Some(Credential::Bearer(_)) | None => String::new(),
        };
        // Secrets are not kept as keys in the clear for longer than the pod that brought them.
        crate::Digest::of(format!("{}\n{}\n{who}", self.base, self.name).as_bytes()).to_string()
    }

    /// What a registry wants to see, or `None` when there is nothing to show it.
    async fn respond(&self, challenges: &[Challenge]) -> Result<Option<HeaderValue>, Failure> {
        for challenge in challenges {
            match challenge {
                Challenge::Bearer { realm, service, scope } => {
                    let (token, life) = self.token(realm, service.as_deref(), scope.as_deref()).await?;
                    let value = format!("Bearer {token}");
                    self.tokens.remember(self.token_key(), value.clone(), life);
                    return Ok(secret(&value));
                }
                Challenge::Basic => {
                    if let Some(value) = self.basic() {
                        self.tokens.remember(self.token_key(), value.clone(), Duration::from_secs(TOKEN_LIFE_MAX));
                        return Ok(secret(&value));
                    }
                }
            }
        }
        Ok(None)
    }

    fn basic(&self) -> Option<String> {
        match self.credential {
            Some(Credential::Basic { username, password }) => {
                Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}"))))
            }
            _ => None,
        }
    }

    /// Exchanges a login, or nothing, for a token.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<(String, Duration), Failure> {
        #[derive(Deserialize)]
        struct Found {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let default_scope = format!("repository:{}:pull", self.name);
        let scope = scope.unwrap_or(&default_scope);
        let request = self.token_request(realm, service, scope).map_err(|error| (error, None))?;
        let answer = self.client.send(request).await.map_err(|error| (error.into(), None))?;
        if matches!(answer.head.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) {
            return Err((denied(answer, &format!("a token for {}", self.name)).await, None));
        }
        let answer = accepted(answer, "token").await?;
        let invalid = |reason| (RegistryError::Invalid(reason), None);
        let bytes = answer.read(TOKEN_BYTES_MAX).await.map_err(|error| (error.into(), None))?;
        let bytes = bytes.ok_or_else(|| invalid("its token is too long"))?;
        let found: Found = serde_json::from_slice(&bytes).map_err(|_| invalid("its token is no JSON"))?;
        let token = found.token.filter(|token| !token.is_empty()).or(found.access_token);
        let token = token.filter(|token| !token.is_empty()).ok_or_else(|| invalid("its token is empty"))?;
        let life = found.expires_in.unwrap_or(TOKEN_LIFE_DEFAULT).clamp(1, TOKEN_LIFE_MAX);
        Ok((token, Duration::from_secs(life)))
    }

    fn token_request(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<Request<Full<Bytes>>, RegistryError> {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let service = service.map(|service| format!("service={}&", encoded(service))).unwrap_or_default();
        let mut query = format!("{service}scope={}", encoded(scope));
        let uri: Uri = realm.parse().map_err(|_| RegistryError::Invalid("its token service has no valid URL"))?;
        self.check_scheme(&uri)?;
        let mut request = if let Some(Credential::Identity(token)) = self.credential {
            query = format!("{query}&grant_type=refresh_token&client_id=selvedge&refresh_token={}", encoded(token));
            let mut request = Request::new(Full::new(Bytes::from(query)));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = uri;
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(CONTENT_TYPE, form);
            request
        } else {
            let separator = if realm.contains('?') { '&' } else { '?' };
            get_request(&format!("{realm}{separator}{query}"))?
        };
        if let Some(value) = self.basic().and_then(|basic| secret(&basic)) {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// Requests and follows redirects; the authorization stays with the host that it is for.
    async fn redirected(
        &self,
        url: &str,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer<'a>, Failure> {
        let failed = |error: RegistryError| (error, None);
        let mut request = get_request(url).map_err(failed)?;
        let first = Origin::of(request.uri()).map_err(|error| failed(error.into()))?;
        for _ in 0..REDIRECTS_MAX {
            let uri = request.uri().clone();
            request.headers_mut().extend(headers.clone());
            let origin = Origin::of(&uri).map_err(|error| failed(error.into()))?;
            if let Some(value) = authorization.filter(|_| origin == first) {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            let answer = self.client.send(request).await.map_err(|error| failed(error.into()))?;
            if !answer.head.status.is_redirection() {
                return Ok(answer);
            }
            let location = answer.head.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let location = location.ok_or_else(|| failed(RegistryError::Invalid("a redirect leads nowhere")))?;
            let target = resolve(&uri, location).map_err(failed)?;
            request = get_request(&target).map_err(failed)?;
            self.check_scheme(request.uri()).map_err(failed)?;
        }
        Err(failed(RegistryError::Invalid("redirects lead to redirects without an end")))
    }

    /// Plain HTTP only to hosts of the configuration.
    fn check_scheme(&self, uri: &Uri) -> Result<(), RegistryError> {
        let origin = Origin::of(uri)?;
        if origin.is_tls || is_plain(self.plain_http, &origin) {
            return Ok(());
        }
        Err(RegistryError::Invalid("it leads to a host without TLS, which the node's `plainHttp` does not list"))
    }
}

/// An error, and how long the registry asks to wait.
type Failure = (RegistryError, Option<Duration>);

/// Whether a host is one of those that are spoken to without TLS.
pub(crate) fn is_plain(plain_http: &[String], origin: &Origin) -> bool {
    let authority = origin.authority();
    plain_http.iter().any(|host| *host == authority || *host == origin.host)
}

impl Tokens {
    fn find(&self, key: &str) -> Option<String> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(key).filter(|token| token.until > Instant::now()).map(|token| token.value.clone())
    }

    fn remember(&self, key: String, value: String, life: Duration) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        tokens.retain(|_, token| token.until > now);
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        // A request that begins with the last second of a token arrives without one.
        tokens.insert(key, Token { value, until: now + life.mul_f64(0.9) });
    }

    fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

fn get_request(url: &str) -> Result<Request<Full<Bytes>>, RegistryError> {
    let uri: Uri = url.parse().map_err(|_| HttpError::Url(url.chars().take(200).collect()))?;
    let mut request = Request::new(Full::default());
    *request.uri_mut() = uri;
    let agent = HeaderValue::from_static(concat!("selvedge/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(http::header::USER_AGENT, agent);
    Ok(request)
}

/// Where a redirect leads: an absolute URL, or a path of the same host.
fn resolve(from: &Uri, location: &str) -> Result<String, RegistryError> {
    if location.contains("://") {
        return Ok(location.to_owned());
    }
    let (Some(scheme), Some(authority)) = (from.scheme_str(), from.authority()) else {
        return Err(RegistryError::Invalid("a redirect leads nowhere"));
    };
    match location {
        location if location.starts_with("//") => Ok(format!("{scheme}:{location}")),
        location if location.starts_with('/') => Ok(format!("{scheme}://{authority}{location}")),
        _ => Err(RegistryError::Invalid("a redirect leads to a relative path")),
    }
}

/// A header that is not shown in logs.
fn secret(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The answer if it is one, the error that it is otherwise.
async fn accepted<'a>(answer: Answer<'a>, what: &str) -> Result<Answer<'a>, Failure> {
    let status = answer.head.status;
    if status.is_success() {
        return Ok(answer);
    }
    let retry_after = answer.head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let what = what.to_owned();
    let error = match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound { what, message: message(answer).await },
        StatusCode::FORBIDDEN => RegistryError::Denied { what, message: message(answer).await },
        StatusCode::TOO_MANY_REQUESTS => RegistryError::Unavailable { status, message: message(answer).await },
        status if status.is_server_error() => RegistryError::Unavailable { status, message: message(answer).await },
        status => RegistryError::Unexpected { status, message: message(answer).await },
    };
    Err((error, retry_after.map(Duration::from_secs)))
}

async fn denied(answer: Answer<'_>, what: &str) -> RegistryError {
    RegistryError::Denied { what: what.to_owned(), message: message(answer).await }
}

/// What a registry says of an error, as far as it keeps to the form; one line of it.
async fn message(answer: Answer<'_>) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Said>,
    }
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(Some(bytes)) = answer.read(ERROR_BYTES_MAX).await else { return String::new() };
    let Ok(errors) = serde_json::from_slice::<Errors>(&bytes) else { return String::new() };
    let Some(first) = errors.errors.first() else { return String::new() };
    let text = format!(": {} {}", first.code, first.message);
    // It is shown in the status of pods, which is no place for what a registry wants to do to a terminal.
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
