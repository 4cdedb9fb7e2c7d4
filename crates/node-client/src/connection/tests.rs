use bytes::Bytes;

use super::*;
use crate::{ApiError, Event, Object};

const HOUR: Duration = Duration::from_secs(3600);

/// An object as a hub would send it.
fn object(name: &str) -> serde_json::Value {
    serde_json::json!({"metadata": {"name": name, "resourceVersion": "3"}})
}

#[test]
fn watch_events_are_distinguished_and_what_is_none_is_an_error() {
    let line = |kind: &str, object: serde_json::Value| serde_json::json!({"type": kind, "object": object}).to_string();
    let read = |name: &str| Object::new(object(name)).unwrap();
    for (line, expected) in [
        (line("ADDED", object("a")), Ok(Event::Applied(read("a")))),
        (line("MODIFIED", object("b")), Ok(Event::Applied(read("b")))),
        (line("DELETED", object("c")), Ok(Event::Deleted(read("c")))),
        (
            r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7"}}}"#.to_owned(),
            Ok(Event::Bookmark("7".into())),
        ),
        (
            r#"{"type":"ERROR","object":{"code":410,"message":"too old"}}"#.to_owned(),
            Ok(Event::Error { code: 410, message: "too old".into() }),
        ),
        (line("NEW", object("a")), Err("unknown event type `NEW`".to_owned())),
        ("[]".to_owned(), Err("it is something else where an object belongs".to_owned())),
        ("5".to_owned(), Err("it is something else where an object belongs".to_owned())),
        (line("ADDED", serde_json::json!([])), Err("it is an array where an object belongs".to_owned())),
        (line("ADDED", serde_json::json!({"metadata": 5})), Err("it has no metadata".to_owned())),
        (line("BOOKMARK", serde_json::json!("x")), Err("a bookmark has no resource version".to_owned())),
    ] {
        assert_eq!(crate::parse_event(line.as_bytes(), "Pod"), expected, "{line}");
    }
}

#[test]
fn hub_urls_are_read() {
    for (url, authority) in [
        ("https://hub", Some("hub:443")),
        ("https://127.0.0.1:6443", Some("127.0.0.1:6443")),
        ("https://[::1]:6443/", Some("[::1]:6443")),
        ("http://hub", None),
        ("hub:6443", None),
        ("", None),
    ] {
        assert_eq!(HubAddress::parse(url).ok().map(|address| address.authority).as_deref(), authority, "{url}");
    }
}

/// What a hub whose certificates `ca` signs shows.
fn server_tls(ca: &base_pki::Ca) -> base_http::ServerTls {
    let leaf = ca
        .sign(&base_pki::IssueRequest {
            cn: "hub".into(),
            orgs: vec![],
            sans: vec![HUB_NAME.into()],
            usage: base_pki::Usage::Server,
            validity: Duration::from_secs(3600),
        })
        .unwrap();
    base_http::ServerTls::new(&leaf.cert_pem, &leaf.key_pem, None).unwrap()
}

/// Serves what `handler` answers as a hub whose certificates `ca` signs; its URL.
fn serve(
    ca: &base_pki::Ca,
    handler: impl base_http::Handler,
    shutdown: &CancellationToken,
) -> (String, tokio::task::JoinHandle<()>) {
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = base_http::Listener::bind("hub", any).unwrap().with_tls(server_tls(ca));
    (format!("https://{}", listener.address()), base_http::serve(listener, handler, shutdown.clone()))
}

fn client_tls(ca: &base_pki::Ca) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in base_pki::certificates(ca.cert_pem()).unwrap() {
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(tls)
}

#[tokio::test]
async fn another_hub_is_named_as_such_whatever_its_ca_is_called() {
    let ours = base_pki::Ca::create("selvedge-hub").unwrap();
    for name in ["selvedge-hub", "selvedge-hub-0a1b2c3d"] {
        let other = base_pki::Ca::create(name).unwrap();
        let shutdown = CancellationToken::new();
        let empty = |_, _| async { http::Response::new(base_http::Body::empty()) };
        let (url, serving) = serve(&other, empty, &shutdown);
        let access = |ca| Access { urls: vec![url.clone()], tls: client_tls(ca), bearer: None };
        let failed = dial(&url, &access(&ours)).await.map(|_| ());
        assert!(matches!(failed, Err(DialError::OtherHub { .. })), "{name}: {failed:?}");
        dial(&url, &access(&other)).await.map(|_| ()).unwrap();
        shutdown.cancel();
        serving.abort();
    }
}

/// A client of the hub at `url`, who keeps its connection, and what both live by.
fn keep(
    url: String,
    ca: &base_pki::Ca,
    shutdown: &CancellationToken,
) -> (ApiClient, tokio::task::JoinHandle<()>, watch::Sender<Option<Access>>) {
    let (hub, manager) = client();
    let (sender, access) = watch::channel(Some(Access { urls: vec![url], tls: client_tls(ca), bearer: None }));
    let end = shutdown.clone();
    let keeping = tokio::spawn(async move { manager.run(access, StatusRegistry::new("n"), end).await });
    (hub, keeping, sender)
}

/// As a kube-apiserver that ends the connection after each answer to somebody unknown.
#[tokio::test]
async fn an_answer_that_has_come_counts_though_the_connection_has_ended() {
    let ca = base_pki::Ca::create("hub").unwrap();
    let shutdown = CancellationToken::new();
    let empty = |_, _| async { http::Response::new(base_http::Body::empty()) };
    let (url, serving) = serve(&ca, empty, &shutdown);
    let (mut hub, keeping, _access) = keep(url, &ca, &shutdown);
    hub.connected().await;
    let connection = hub.connection.borrow().clone().expect("it is connected");
    hub.close();
    for number in 0..64 {
        let answer = connection.progressing("GET /", async { Ok::<_, ApiError>(number) }).await;
        assert!(matches!(answer, Ok(same) if same == number), "{answer:?}");
    }
    let never = connection.progressing("GET /", std::future::pending::<Result<(), ApiError>>()).await;
    assert!(matches!(never, Err(ApiError::Unreachable)), "{never:?}");
    shutdown.cancel();
    keeping.await.unwrap();
    serving.abort();
}

/// A hub that answers a watch and then says nothing, on a connection that nobody closes.
#[tokio::test]
async fn a_watch_ends_with_the_connection_that_was_given_up() {
    let ca = base_pki::Ca::create("hub").unwrap();
    let silent = |_, _| async {
        http::Response::new(base_http::Body::stream(futures::stream::pending::<Result<Bytes, std::io::Error>>()))
    };
    let shutdown = CancellationToken::new();
    let (url, serving) = serve(&ca, silent, &shutdown);
    let (mut hub, keeping, _access) = keep(url, &ca, &shutdown);
    hub.connected().await;
    let mut watch = hub.watch("/api/v1/pods?watch=true", "Pod").await.unwrap();
    let mut rests = hub.retry();
    rests.attempt();
    hub.close();
    let next = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("the watch ends");
    assert!(matches!(next, Err(ApiError::Unreachable)), "{next:?}");
    hub.connected().await;
    assert_eq!(hub.connection_number(), 2);
    let resumed = tokio::time::timeout(Duration::from_secs(30), rests.rest(HOUR)).await;
    assert_eq!(resumed.expect("a restored link ends a rest"), base_retry::Resumed::Woken);
    let mut woken = hub.restored().notice();
    hub.close();
    tokio::time::timeout(Duration::from_secs(30), woken.called()).await.expect("each connection is noticed");
    shutdown.cancel();
    keeping.await.unwrap();
    serving.abort();
}
