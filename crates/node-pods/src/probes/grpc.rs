//! gRPC's health protocol: one call of `grpc.health.v1.Health/Check`, over HTTP/2 without TLS.
//!
//! The messages have one field each, and are written and read here. A message of gRPC has five bytes before it: whether it is
//! compressed, and its length.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::dial::{Stream, connect};
use super::{Failure, USER_AGENT};
use crate::model::GrpcProbe;

/// An answer takes seven bytes; some servers add fields of their own.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// `HealthCheckResponse.ServingStatus`, in its order.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;
/// `grpc-status` of a method that the server does not have.
const UNIMPLEMENTED: &str = "12";

/// Calls once.
pub(super) async fn check(probe: &GrpcProbe, pod_ip: Option<IpAddr>) -> Result<(), Failure> {
    let stream = connect(None, pod_ip, probe.port).await?;
    let host = (pod_ip.unwrap_or(Ipv4Addr::LOCALHOST.into()), probe.port);
    let authority = std::net::SocketAddr::from(host).to_string();
    call(Stream::Plain(stream), &authority, &probe.service).await.map_err(Failure::Failed)
}

async fn call(stream: Stream, authority: &str, service: &str) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("health rpc probe failed: {error}");
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(16 << 10)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let request = http::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .header(http::header::USER_AGENT, USER_AGENT)
        .body(Full::new(Bytes::from(framed(&request_message(service)))))
        .map_err(|error| failed(&error))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let (head, body) = response.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(failed(&format!("HTTP status {}", head.status.as_u16())));
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| failed(&error))?;
        // A server that rejects a call at once says so in the headers.
        let trailers = body.trailers().cloned().unwrap_or_default();
        let of = |name: &str| trailers.get(name).or_else(|| head.headers.get(name)).and_then(|text| text.to_str().ok());
        let (status, message) = (of("grpc-status"), of("grpc-message").unwrap_or_default());
        judge(status, message, &body.to_bytes())
    };
    let (mut exchange, connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        result = &mut exchange => result,
        // The connection may be done a moment before the answer is taken.
        _ = connection => exchange.await,
    }
}

/// What an answer means, by its trailers and its message.
fn judge(status: Option<&str>, message: &str, body: &[u8]) -> Result<(), String> {
    match status {
        Some("0") => {}
        Some(UNIMPLEMENTED) => {
            return Err(format!(
                "this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
            ));
        }
        Some(code) => return Err(format!("health rpc probe failed: grpc-status {code} {message}")),
        None => return Err("health rpc probe failed: the answer has no grpc-status".to_owned()),
    }
    let number = serving_status(body).ok_or("health rpc probe failed: the answer is no HealthCheckResponse")?;
    match number {
        SERVING => Ok(()),
        _ => {
            let name = usize::try_from(number).ok().and_then(|number| STATUSES.get(number));
            Err(format!("service unhealthy (responded with \"{}\")", name.map_or("UNKNOWN", |name| name)))
        }
    }
}

/// `HealthCheckRequest`: field 1 is the service, left out where it is empty.
fn request_message(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length > 0x7f {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    message
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a service's name is short").to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// `status` of a `HealthCheckResponse`, its field 1; the first value, as long as it is not there.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (head, rest) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    let mut message = rest.get(..usize::try_from(length).ok()?)?;
    if head[0] != 0 {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match key & 7 {
            0 => {
                let value = varint(&mut message)?;
                if key >> 3 == 1 {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;
