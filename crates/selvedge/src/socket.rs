//! Asking a role of this machine over its socket in `DATA_DIR/run`.

use std::path::Path;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

/// Sends a GET; its body may continue for as long as the role runs.
pub async fn get(socket: &Path, path: &str) -> Result<hyper::Response<Incoming>> {
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .with_context(|| format!("failed to connect to {}; it does not run", socket.display()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    base_observe::spawn_detached("socket-client", connection);
    let request = hyper::Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}
