//! A runtime and a hub that do just enough, and can be looked into.

mod hub;
mod runtime;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub use hub::{FakeHub, Issuing};
pub use runtime::FakeRuntime;

/// Gets a page of the kubelet's API, once it has its certificate of the hub: status and body.
pub async fn get(at: SocketAddr, client: rustls::ClientConfig, path: &str) -> (u16, String) {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut stream = loop {
        let stream = tokio::net::TcpStream::connect(at).await.unwrap();
        match connector.connect("127.0.0.1".try_into().unwrap(), stream).await {
            Ok(stream) => break stream,
            Err(error) if tokio::time::Instant::now() > deadline => panic!("no certificate after 30 s: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    // The other side may close without a word of TLS.
    let _ = stream.read_to_end(&mut response).await;
    let response = String::from_utf8(response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Waits until `check` is content; after a while it tells what it saw last.
pub async fn eventually(what: &str, mut check: impl FnMut() -> Result<(), String>) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match check() {
            Ok(()) => return,
            Err(seen) if tokio::time::Instant::now() > deadline => {
                panic!("{what}: not so after 30 s; last seen: {seen}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
