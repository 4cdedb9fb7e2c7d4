//! `httpGet` of probes and hooks.
//!
//! A redirect is followed as long as it stays on the same host, as upstream does: where it leads away, the answer that says so is the
//! last one, and counts as a success with a warning.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::Failure;
use super::dial::{Stream, connect, port_of};
use crate::model::{Container, HttpProbe};

/// As many as upstream follows.
const REDIRECTS_MAX: usize = 10;
/// Headers of an answer; what has more is no health check.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// The last answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    status: u16,
    /// Where it leads, when that was not followed.
    location: Option<String>,
}

impl Answer {
    /// What it means for a probe: a success, perhaps with a warning, or none.
    pub(super) fn verdict(self) -> Result<Option<String>, Failure> {
        match self.status {
            200..300 => Ok(None),
            300..400 => {
                let location = self.location.unwrap_or_else(|| "nowhere".to_owned());
                Ok(Some(format!("Probe terminated redirects: status {} leads to {location}", self.status)))
            }
            status => Err(Failure::Failed(format!("HTTP probe failed with statuscode: {status}"))),
        }
    }

    /// Where it redirects to, in the manner of browsers.
    fn redirect(&self) -> Option<&str> {
        self.location.as_deref().filter(|_| matches!(self.status, 301 | 302 | 303 | 307 | 308))
    }
}

/// What is requested.
#[derive(Clone, Debug, PartialEq)]
struct Url {
    is_tls: bool,
    /// Without brackets.
    host: String,
    port: u16,
    path: String,
}

impl Url {
    fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// What a `Location` means here.
    fn join(&self, location: &str) -> Result<Self, String> {
        let location = location.split('#').next().unwrap_or_default();
        let scheme = if self.is_tls { "https" } else { "http" };
        let absolute = match location.strip_prefix("//") {
            Some(rest) => Some(format!("{scheme}://{rest}")),
            None => location.split('/').next().filter(|first| first.ends_with(':')).map(|_| location.to_owned()),
        };
        let Some(absolute) = absolute else {
            let path = self.path.split('?').next().unwrap_or_default();
            let path = match location.chars().next() {
                None => self.path.clone(),
                Some('/') => location.to_owned(),
                Some('?') => format!("{path}{location}"),
                Some(_) => format!("{}{location}", &path[..=path.rfind('/').unwrap_or(0)]),
            };
            return Ok(Self { path, ..self.clone() });
        };
        let failed = || format!("it redirects to `{absolute}`, which is no URL of HTTP");
        let uri: http::Uri = absolute.parse().map_err(|_| failed())?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(failed()),
        };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { is_tls, host, port, path })
    }
}

/// Gets what `action` names, over whatever redirects stay on its host.
pub(crate) async fn get(
    action: &HttpProbe,
    container: &Container,
    pod_ip: Option<IpAddr>,
    user_agent: &str,
) -> Result<Answer, Failure> {
    let port = port_of(&action.port, container).map_err(Failure::Failed)?;
    let own = || pod_ip.unwrap_or(Ipv4Addr::LOCALHOST.into()).to_string();
    let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(own);
    let path = if action.path.starts_with('/') { action.path.clone() } else { format!("/{}", action.path) };
    let mut url = Url { is_tls: action.scheme.as_deref() == Some("HTTPS"), host, port, path };
    let mut has_own_host = true;
    for _ in 0..REDIRECTS_MAX {
        let tcp = connect(action.host.as_deref(), pod_ip, url.port).await?;
        let stream = match url.is_tls {
            true => Stream::over_tls(tcp, &url.host).await.map_err(Failure::Failed)?,
            false => Stream::Plain(tcp),
        };
        let request = request(action, &url, user_agent, has_own_host).map_err(|error| error.to_string());
        let answer = exchange(stream, request.map_err(Failure::Failed)?).await.map_err(Failure::Failed)?;
        let Some(location) = answer.redirect() else { return Ok(answer) };
        let next = url.join(location).map_err(Failure::Failed)?;
        if !next.host.eq_ignore_ascii_case(&url.host) {
            return Ok(answer);
        }
        // A host that the probe gives itself is for the place it names: whatever is named in full has its own.
        has_own_host &= !location.contains("//");
        url = next;
    }
    Err(Failure::Failed(format!("stopped after {REDIRECTS_MAX} redirects")))
}

fn request(
    action: &HttpProbe,
    url: &Url,
    user_agent: &str,
    has_own_host: bool,
) -> Result<http::Request<Empty<Bytes>>, http::Error> {
    let mut request = http::Request::get(&url.path);
    let own = || {
        let is_kept = |name: &str| has_own_host || !name.eq_ignore_ascii_case("host");
        action.http_headers.iter().filter(move |header| is_kept(&header.name))
    };
    // The probe's own headers stand in for these.
    for (name, value) in [("host", url.authority().as_str()), ("user-agent", user_agent)] {
        if !own().any(|header| header.name.eq_ignore_ascii_case(name)) {
            request = request.header(name, value);
        }
    }
    for header in own() {
        request = request.header(&header.name, &header.value);
    }
    request.body(Empty::new())
}

async fn exchange(stream: Stream, request: http::Request<Empty<Bytes>>) -> Result<Answer, String> {
    let handshake = http1::Builder::new().max_buf_size(HEADER_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let location = response.headers().get(http::header::LOCATION);
        let location = location.and_then(|location| location.to_str().ok()).map(str::to_owned);
        let answer = Answer { status: response.status().as_u16(), location };
        // The body is not looked at; dropping it closes the connection.
        drop(response.into_body().frame());
        Ok(answer)
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        // The connection may be done a moment before the answer is taken.
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests;
