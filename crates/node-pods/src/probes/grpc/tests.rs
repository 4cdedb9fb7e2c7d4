use http::{HeaderMap, HeaderValue, Response};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use tokio::net::TcpListener;

use super::*;

fn answer(message: &[u8], status: &str) -> (Vec<u8>, HeaderMap) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_str(status).unwrap());
    trailers.insert("grpc-message", HeaderValue::from_static("no such thing"));
    (framed(message), trailers)
}

/// Serves one connection, and says which service was asked for.
async fn serve(listener: TcpListener, body: Vec<u8>, trailers: HeaderMap) -> (String, Vec<u8>) {
    let (stream, _) = listener.accept().await.unwrap();
    let (seen_tx, mut seen_rx) = tokio::sync::mpsc::unbounded_channel();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (body, trailers, seen_tx) = (body.clone(), trailers.clone(), seen_tx.clone());
        async move {
            let path = request.uri().path().to_owned();
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            seen_tx.send((path, sent.to_vec())).unwrap();
            let frames =
                [Frame::data(Bytes::from(body)), Frame::trailers(trailers)].map(Ok::<_, std::convert::Infallible>);
            Ok::<_, std::convert::Infallible>(Response::new(http_body_util::StreamBody::new(futures::stream::iter(
                frames,
            ))))
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
    seen_rx.recv().await.unwrap()
}

#[tokio::test]
async fn a_grpc_probe_judges_by_the_health_of_the_service() {
    for (message, status, expected) in [
        (&[8, 1][..], "0", Ok(())),
        (&[8, 2], "0", Err("service unhealthy (responded with \"NOT_SERVING\")")),
        (&[], "0", Err("service unhealthy (responded with \"UNKNOWN\")")),
        (&[8], "0", Err("health rpc probe failed: the answer is no HealthCheckResponse")),
        (
            &[],
            "12",
            Err("this server does not implement the grpc health protocol (grpc.health.v1.Health): no such thing"),
        ),
        (&[], "5", Err("health rpc probe failed: grpc-status 5 no such thing")),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (body, trailers) = answer(message, status);
        let server = tokio::spawn(serve(listener, body, trailers));
        let probe = GrpcProbe { port, service: "shop".to_owned() };
        let expected = expected.map_err(|text| Failure::Failed(text.to_owned()));
        assert_eq!(check(&probe, Some(Ipv4Addr::LOCALHOST.into())).await, expected);
        let (path, sent) = server.await.unwrap();
        assert_eq!(path, "/grpc.health.v1.Health/Check");
        assert_eq!(sent, [&[0, 0, 0, 0, 6, 10, 4][..], b"shop"].concat());
    }
}

#[test]
fn a_long_service_has_its_length_before_it_and_none_takes_no_byte() {
    assert!(request_message("").is_empty());
    let name = "s".repeat(300);
    assert_eq!(request_message(&name)[..3], [10, 0xac, 2]);
    assert_eq!(request_message(&name).len(), 303);
}

#[test]
fn the_status_is_found_among_fields_of_others_and_never_beyond_the_message() {
    let check = |message: &[u8], expected| assert_eq!(serving_status(&framed(message)), expected, "{message:?}");
    check(&[8, 1], Some(1));
    check(&[8, 0x81, 0], Some(1));
    check(&[0x12, 2, 8, 7, 8, 2], Some(2));
    check(&[0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0, 8, 3], Some(3));
    for broken in [
        &[8][..],
        &[0x12, 9, 1],
        &[0x19, 1],
        &[0x25, 1],
        &[3],
        &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    ] {
        check(broken, None);
    }
    let whole = framed(&[8, 1]);
    for end in 0..whole.len() {
        assert_eq!(serving_status(&whole[..end]), None);
    }
    assert_eq!(serving_status(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed");
}
