//! A read-only registry of container images that stalls, cuts, lies and refuses by rule.
//!
//! HTTP is written by hand, one thread for each connection, because a library would not send an answer that is wrong.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use base_pki::{Ca, IssueRequest, San, Usage};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

use crate::image::{Image, digest};

/// How soon a connection notices that the registry is over.
const TICK: Duration = Duration::from_millis(50);
/// A piece of an answer: rules act between two.
const PIECE_BYTES: usize = 16 << 10;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// So many bytes of the body come, then nothing, and the connection stays.
    StallAfter(usize),
    /// So many bytes of the body come, then the connection is closed.
    CutAfter(usize),
    /// This status, with `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// `Content-Length` and the body are that much longer than the blob.
    Longer(usize),
    /// `Content-Length` and the body are that much shorter than the blob.
    Shorter(usize),
    /// The bit of a byte in the middle is turned.
    Lie,
    /// `Range` is ignored, as by simple servers.
    NoRange,
    /// The client is sent to this server for the same path.
    RedirectTo(String),
}

/// When something goes wrong.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Part of the path of the request.
    pub path: String,
    /// How often it still acts.
    pub times: u32,
    /// What it does.
    pub fault: Fault,
}

/// Who may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone.
    Open,
    /// Who has this name and password, at each request.
    Basic(String, String),
    /// Who has a token, which this name and password can be exchanged for, or nothing where there is none; a token is good for so
    /// many requests.
    Token(Option<(String, String)>, u64),
}

/// A request that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// With the query.
    pub path: String,
    /// `bytes=5-`.
    pub range: Option<String>,
    /// `Basic …`, `Bearer …`.
    pub authorization: Option<String>,
}

/// A media type and the bytes.
type Served = (String, Arc<Vec<u8>>);

struct Shared {
    is_over: AtomicBool,
    /// By `repository/manifests/reference` and `blobs/digest`.
    files: Mutex<BTreeMap<String, Served>>,
    rules: Mutex<Vec<Rule>>,
    access: Mutex<Access>,
    /// The last token, and how many requests it is good for.
    token: Mutex<(u64, u64)>,
    seen: Mutex<Vec<Seen>>,
    bytes_sent: AtomicU64,
    base: String,
}

/// A registry on a port of its own, until it is dropped.
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
    ca_pem: Option<String>,
}

impl Registry {
    /// A registry without TLS.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> Result<Self> {
        Self::start_with(None, None)
    }

    /// A registry with TLS, whose certificate is signed by a CA of its own.
    ///
    /// # Errors
    /// No port is free.
    pub fn start_tls() -> Result<Self> {
        let ca = Ca::create("registry CA")?;
        let request = IssueRequest {
            cn: "registry".to_owned(),
            orgs: Vec::new(),
            sans: vec![San::from("localhost"), San::from("127.0.0.1")],
            usage: Usage::Server,
            validity: Duration::from_secs(3600),
        };
        let issued = ca.sign(&request)?;
        let certificates = CertificateDer::pem_slice_iter(issued.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes())?;
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, key)?;
        Self::start_with(Some(Arc::new(config)), Some(ca.cert_pem().to_owned()))
    }

    fn start_with(tls: Option<Arc<rustls::ServerConfig>>, ca_pem: Option<String>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            is_over: AtomicBool::new(false),
            files: Mutex::default(),
            rules: Mutex::default(),
            access: Mutex::new(Access::Open),
            token: Mutex::default(),
            seen: Mutex::default(),
            bytes_sent: AtomicU64::new(0),
            base: format!("{scheme}://{address}"),
        });
        let accepting = shared.clone();
        let thread = std::thread::spawn(move || accept(&listener, &accepting, tls.as_ref()));
        Ok(Self { address, shared, listener: Some(thread), ca_pem })
    }

    /// `127.0.0.1:port`, as it is written in names of images.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// With its scheme.
    pub fn url(&self) -> &str {
        &self.shared.base
    }

    /// The certificate of its CA.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Serves an image; returns the digest of its manifest.
    pub fn add(&self, repository: &str, tag: &str, image: &Image) -> String {
        let mut blobs = image.blobs().into_iter();
        let (kind, manifest) = blobs.next().expect("the manifest comes first");
        for (_, blob) in blobs {
            self.add_blob(blob);
        }
        self.add_manifest(repository, tag, kind, manifest)
    }

    /// Serves an index of images; returns its digest.
    pub fn add_index(&self, repository: &str, tag: &str, images: &[Image]) -> String {
        let entries: Vec<_> = images
            .iter()
            .map(|image| {
                let digest = self.add(repository, "", image);
                let size = image.blobs()[0].1.len();
                let kind = image.blobs()[0].0;
                json!({"mediaType": kind, "digest": digest, "size": size, "platform": image.platform})
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        self.add_manifest(repository, tag, INDEX, index.to_string().into_bytes())
    }

    /// Serves these bytes as a manifest, by tag and by digest.
    pub fn add_manifest(&self, repository: &str, tag: &str, kind: &str, manifest: Vec<u8>) -> String {
        let (digest, manifest) = (digest(&manifest), Arc::new(manifest));
        let mut files = lock(&self.shared.files);
        for reference in [tag, &digest] {
            files.insert(format!("{repository}/manifests/{reference}"), (kind.to_owned(), manifest.clone()));
        }
        digest
    }

    /// Serves a blob in every repository; returns its digest.
    pub fn add_blob(&self, blob: Vec<u8>) -> String {
        let digest = digest(&blob);
        let kind = "application/octet-stream".to_owned();
        lock(&self.shared.files).insert(format!("blobs/{digest}"), (kind, Arc::new(blob)));
        digest
    }

    /// Lets something go wrong for the next `times` requests whose path contains `path`.
    pub fn fail(&self, path: &str, times: u32, fault: Fault) {
        lock(&self.shared.rules).push(Rule { path: path.to_owned(), times, fault });
    }

    /// Ends all that goes wrong.
    pub fn heal(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Says who may read from now on.
    pub fn set_access(&self, access: Access) {
        *lock(&self.shared.access) = access;
    }

    /// All requests so far, in their order.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }

    /// Forgets the requests so far.
    pub fn forget_seen(&self) {
        lock(&self.shared.seen).clear();
    }

    /// Bytes of bodies so far.
    pub fn bytes_sent(&self) -> u64 {
        self.shared.bytes_sent.load(Ordering::SeqCst)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; whether it succeeds, the thread ends with the process at the latest.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, tls: Option<&Arc<rustls::ServerConfig>>) {
    while !shared.is_over.load(Ordering::SeqCst) {
        let Ok((tcp, _)) = listener.accept() else { continue };
        let (shared, tls) = (shared.clone(), tls.cloned());
        std::thread::spawn(move || {
            // A client that closes its connection is no fault of the registry's.
            let _ = serve(&shared, tcp, tls);
        });
    }
}

fn serve(shared: &Shared, tcp: TcpStream, tls: Option<Arc<rustls::ServerConfig>>) -> io::Result<()> {
    tcp.set_read_timeout(Some(TICK))?;
    match tls {
        None => serve_stream(shared, BufReader::new(tcp)),
        Some(config) => {
            let session = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
            serve_stream(shared, BufReader::new(rustls::StreamOwned::new(session, tcp)))
        }
    }
}

fn serve_stream<S: Read + Write>(shared: &Shared, mut stream: BufReader<S>) -> io::Result<()> {
    while let Some(lines) = read_head(shared, &mut stream)? {
        if !respond(shared, stream.get_mut(), &lines)? {
            return Ok(());
        }
    }
    Ok(())
}

/// The lines of a request, `None` at the end of the connection.
fn read_head<S: Read>(shared: &Shared, stream: &mut BufReader<S>) -> io::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    let mut line = String::new();
    loop {
        match stream.read_line(&mut line) {
            Ok(0) => return Ok(None),
            Ok(_) if line == "\r\n" => return Ok(Some(lines)),
            Ok(_) => lines.push(std::mem::take(&mut line).trim_end().to_owned()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if shared.is_over.load(Ordering::SeqCst) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Answers a request; `false` when the connection is over.
fn respond(shared: &Shared, stream: &mut impl Write, lines: &[String]) -> io::Result<bool> {
    let header = |name: &str| {
        let found = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
        found.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
    };
    let request = lines.first().map(String::as_str).unwrap_or_default();
    let mut parts = request.split(' ');
    let (method, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default().to_owned());
    let seen = Seen { path: path.clone(), range: header("range"), authorization: header("authorization") };
    lock(&shared.seen).push(seen.clone());
    let fault = take_fault(shared, &path);
    match &fault {
        Some(Fault::Status(status, retry_after)) => {
            let retry_after = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
            let body = br#"{"errors": [{"code": "FAULT", "message": "by rule"}]}"#;
            return send(shared, stream, *status, &retry_after, body, None, method);
        }
        Some(Fault::RedirectTo(base)) => {
            return send(shared, stream, 307, &format!("Location: {base}{path}\r\n"), b"", None, method);
        }
        _ => {}
    }
    if let Some(query) = path.strip_prefix("/token") {
        return token(shared, stream, query, &seen, method);
    }
    if let Some(challenge) = challenge(shared, &seen) {
        let body = br#"{"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}"#;
        return send(shared, stream, 401, &format!("WWW-Authenticate: {challenge}\r\n"), body, None, method);
    }
    let Some((kind, bytes)) = find(shared, &path) else {
        if path == "/v2/" {
            return send(shared, stream, 200, "", b"{}", None, method);
        }
        let body = br#"{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}"#;
        return send(shared, stream, 404, "", body, None, method);
    };
    let is_manifest = path.contains("/manifests/");
    let digest = if is_manifest { format!("Docker-Content-Digest: {}\r\n", digest(&bytes)) } else { String::new() };
    let first = seen.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let first = first.filter(|first| *first < bytes.len() && fault != Some(Fault::NoRange));
    let range = first.map(|first| format!("Content-Range: bytes {first}-{}/{}\r\n", bytes.len() - 1, bytes.len()));
    let status = if range.is_some() { 206 } else { 200 };
    let headers = format!("Content-Type: {kind}\r\n{digest}{}", range.unwrap_or_default());
    send(shared, stream, status, &headers, &bytes[first.unwrap_or(0)..], fault.as_ref(), method)
}

fn take_fault(shared: &Shared, path: &str) -> Option<Fault> {
    let mut rules = lock(&shared.rules);
    let rule = rules.iter_mut().find(|rule| rule.times > 0 && path.contains(&rule.path))?;
    rule.times -= 1;
    Some(rule.fault.clone())
}

fn find(shared: &Shared, path: &str) -> Option<Served> {
    let path = path.strip_prefix("/v2/")?;
    let key = path.find("/blobs/").map_or(path, |at| &path[at + 1..]);
    lock(&shared.files).get(key).cloned()
}

/// What the client has to show and has not.
fn challenge(shared: &Shared, seen: &Seen) -> Option<String> {
    let authorization = seen.authorization.as_deref();
    match &*lock(&shared.access) {
        Access::Open => None,
        Access::Basic(user, password) => {
            (authorization != Some(&basic(user, password))).then(|| "Basic realm=\"test\"".to_owned())
        }
        Access::Token(..) => {
            let (number, uses) = &mut *lock(&shared.token);
            if *uses > 0 && authorization == Some(&format!("Bearer token-{number}")) {
                *uses -= 1;
                return None;
            }
            Some(format!(r#"Bearer realm="{}/token",service="test",scope="repository:x:pull""#, shared.base))
        }
    }
}

fn token(shared: &Shared, stream: &mut impl Write, query: &str, seen: &Seen, method: &str) -> io::Result<bool> {
    let Access::Token(login, uses) = lock(&shared.access).clone() else {
        return send(shared, stream, 404, "", b"", None, method);
    };
    let is_known = login.is_none_or(|(user, password)| seen.authorization == Some(basic(&user, &password)));
    if !is_known || !query.contains("service=test") || !query.contains("scope=") {
        return send(shared, stream, 401, "", b"{}", None, method);
    }
    let number = {
        let mut token = lock(&shared.token);
        *token = (token.0 + 1, uses);
        token.0
    };
    let body = json!({"token": format!("token-{number}"), "expires_in": 300}).to_string();
    send(shared, stream, 200, "", body.as_bytes(), None, method)
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// Sends an answer, as far as the fault lets it; `false` when the connection is over.
fn send(
    shared: &Shared,
    stream: &mut impl Write,
    status: u16,
    headers: &str,
    body: &[u8],
    fault: Option<&Fault>,
    method: &str,
) -> io::Result<bool> {
    let mut body = body.to_vec();
    match fault {
        Some(Fault::Longer(more)) => body.resize(body.len() + more, b'x'),
        Some(Fault::Shorter(less)) => body.truncate(body.len().saturating_sub(*less)),
        Some(Fault::Lie) => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        _ => {}
    }
    write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{headers}\r\n", body.len())?;
    stream.flush()?;
    if method == "HEAD" {
        return Ok(true);
    }
    let limit = match fault {
        Some(Fault::StallAfter(bytes) | Fault::CutAfter(bytes)) => (*bytes).min(body.len()),
        _ => body.len(),
    };
    for piece in body[..limit].chunks(PIECE_BYTES) {
        if shared.is_over.load(Ordering::SeqCst) {
            return Ok(false);
        }
        stream.write_all(piece)?;
        stream.flush()?;
        shared.bytes_sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
    while matches!(fault, Some(Fault::StallAfter(_))) && !shared.is_over.load(Ordering::SeqCst) {
        std::thread::sleep(TICK);
    }
    Ok(!matches!(fault, Some(Fault::StallAfter(_) | Fault::CutAfter(_))))
}
