//! Asking a role of this machine over its socket in `DATA_DIR/run`.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

/// Sends what JSON says; the answer's status and body, which may have so many bytes.
pub async fn call(
    socket: &Path,
    method: hyper::Method,
    path: &str,
    body: Vec<u8>,
    bytes_max: usize,
) -> Result<(hyper::StatusCode, Bytes)> {
    let answer = send_body(socket, method, path, Bytes::from(body)).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), bytes_max).collect().await;
    Ok((status, body.map_err(|error| anyhow!("{error}"))?.to_bytes()))
}

/// Sends a GET; its body may continue for as long as the role runs.
pub async fn get(socket: &Path, path: &str) -> Result<hyper::Response<Incoming>> {
    send(socket, hyper::Method::GET, path).await
}

/// Sends a request without a body.
pub async fn send(socket: &Path, method: hyper::Method, path: &str) -> Result<hyper::Response<Incoming>> {
    send_body(socket, method, path, Bytes::new()).await
}

async fn send_body(socket: &Path, method: hyper::Method, path: &str, body: Bytes) -> Result<hyper::Response<Incoming>> {
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        // A role that was killed leaves its socket behind.
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            anyhow!("it does not run: nobody listens on {}", socket.display())
        }
        _ => anyhow::Error::new(error).context(format!("failed to connect to {}", socket.display())),
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    base_observe::spawn_detached("socket-client", connection);
    let request =
        hyper::Request::builder().method(method).uri(path).header("host", "localhost").body(Full::new(body))?;
    Ok(sender.send_request(request).await?)
}
