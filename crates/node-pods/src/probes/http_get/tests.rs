use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::model::PortRef;

const AGENT: &str = "kube-probe/1.36";

/// Answers one connection after the other, each with the next of these heads; hands back the requests.
async fn server(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            requests.push(read_head(&mut stream).await);
            let answer = format!("HTTP/1.1 {}\r\ncontent-length: 0\r\n\r\n", answer.replace("PORT", &port.to_string()));
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    });
    (port, task)
}

async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

fn probe(port: u16) -> HttpProbe {
    HttpProbe { path: "/healthz".into(), port: PortRef::Number(port), ..HttpProbe::default() }
}

async fn verdict(action: &HttpProbe) -> Result<Option<String>, Failure> {
    get(action, &Container::default(), None, AGENT).await?.verdict()
}

#[tokio::test]
async fn an_http_probe_judges_by_the_status() {
    for (status, ok) in [("200 OK", true), ("302 Found", true), ("404 Not Found", false), ("500 Oops", false)] {
        let (port, server) = server(vec![status.to_owned()]).await;
        let result = verdict(&probe(port)).await;
        assert_eq!(result.is_ok(), ok, "{status}: {result:?}");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn headers_of_the_probe_stand_in_for_the_usual_ones() {
    let (port, server) = server(vec!["200 OK".to_owned()]).await;
    let probe: HttpProbe = serde_json::from_value(serde_json::json!({
        "path": "/", "port": port, "httpHeaders": [{"name": "Host", "value": "shop.example"}, {"name": "X-A", "value": "1"}],
    }))
    .unwrap();
    verdict(&probe).await.unwrap();
    let request = server.await.unwrap().remove(0);
    assert_eq!(request.matches("\r\nhost:").count(), 1, "{request}");
    assert!(request.contains("host: shop.example") && request.contains("x-a: 1") && request.contains("kube-probe"));
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_host_only() {
    let to = |location: &str| format!("307 Temporary Redirect\r\nlocation: {location}");
    for (location, then) in
        [("/up", "/up"), ("up?a=1#b", "/up?a=1"), ("?a=1", "/healthz?a=1"), ("http://127.0.0.1:PORT/x", "/x")]
    {
        for (status, ok) in [("200 OK", true), ("503 Down", false)] {
            let (port, server) = server(vec![to(location), status.to_owned()]).await;
            let result = verdict(&probe(port)).await;
            assert_eq!(result.is_ok(), ok, "{location}: {result:?}");
            let requests = server.await.unwrap();
            assert!(requests[1].starts_with(&format!("get {then} ")), "{location}: {}", requests[1]);
        }
    }
    let (port, away) = server(vec![to("http://shop.example/login")]).await;
    let warning = verdict(&probe(port)).await.unwrap().unwrap();
    assert!(warning.contains("terminated redirects") && warning.contains("shop.example"), "{warning}");
    away.await.unwrap();
    let (port, in_circles) = server(vec![to("/healthz"); REDIRECTS_MAX]).await;
    assert_eq!(verdict(&probe(port)).await, Err(Failure::Failed("stopped after 10 redirects".to_owned())));
    in_circles.await.unwrap();
}

#[tokio::test]
async fn a_probe_over_tls_takes_any_certificate() {
    use rustls::pki_types::pem::PemObject as _;
    // Of nobody whom the node knows, and for no name.
    let ca = base_pki::Ca::create("somebody").unwrap();
    let cert = rustls::pki_types::CertificateDer::from_pem_slice(ca.cert_pem().as_bytes()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(ca.key_pem().as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let request = read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        request
    });
    let action = HttpProbe { scheme: Some("HTTPS".to_owned()), ..probe(port) };
    assert_eq!(verdict(&action).await, Ok(None));
    assert!(server.await.unwrap().starts_with("get /healthz "));
}

#[tokio::test]
async fn whoever_speaks_no_tls_fails_a_probe_over_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        // Until the other side has had enough.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let action = HttpProbe { scheme: Some("HTTPS".to_owned()), ..probe(port) };
    let failure = verdict(&action).await.unwrap_err();
    assert!(matches!(&failure, Failure::Failed(text) if text.contains("TLS")), "{failure:?}");
    server.await.unwrap();
}
