//! The whole API server, as its administrator or a node reaches it.
//!
//! Input: requests, a NUL between two. Each is a line `METHOD PATH CONTENT-TYPE USER`, then the body. What was made stays
//! for the next input, up to a number of inputs.

#![no_main]

use std::cell::RefCell;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use libfuzzer_sys::fuzz_target;
use machinery_access::TokenKey;
use machinery_server::{GROUP_NODES, Identity, Server};
use machinery_store::{Store, StoreOptions};

/// After so many inputs the hub begins anew, so that what one leaves behind explains little of what another does.
const INPUTS_MAX: usize = 5_000;

struct Hub {
    server: Server,
    inputs: usize,
    _folder: tempfile::TempDir,
}

impl Hub {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the hub");
        let store = Store::open(folder.path(), StoreOptions::default()).expect("a new store");
        let access = hub_policy::access(TokenKey::generate().expect("a key for tokens"), "");
        let server = Server::new(hub_policy::server_config(store, Vec::new(), &access).0);
        Self { server: server.expect("a server over an empty store"), inputs: 0, _folder: folder }
    }
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    static HUB: RefCell<Option<Hub>> = const { RefCell::new(None) };
}

fuzz_target!(|input: &[u8]| {
    HUB.with_borrow_mut(|hub| {
        if hub.as_ref().is_none_or(|hub| hub.inputs == INPUTS_MAX) {
            *hub = None;
            *hub = Some(Hub::new());
        }
        let Some(hub) = hub else { return };
        hub.inputs += 1;
        RUNTIME.with(|runtime| {
            for request in input.split(|byte| *byte == 0) {
                runtime.block_on(answer(&hub.server, request));
            }
        });
    });
});

async fn answer(server: &Server, request: &[u8]) {
    let end = request.iter().position(|byte| *byte == b'\n').unwrap_or(request.len());
    let Ok(line) = std::str::from_utf8(&request[..end]) else { return };
    let mut words = line.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return };
    let media = words.next().filter(|media| !media.is_empty()).unwrap_or("application/json");
    let identity = match words.next() {
        Some("node") => Identity::new("system:node:gateway", [GROUP_NODES]),
        _ => Identity::controllers(),
    };
    let body = Bytes::copy_from_slice(request.get(end + 1..).unwrap_or_default());
    let request = Request::builder().method(method).uri(path).header("content-type", media).header("accept", media);
    let Ok(request) = request.body(Full::new(body).map_err(Into::into).boxed_unsync()) else { return };
    let response = server.handle(request, Some(&identity)).await;
    assert_ne!(response.status(), 500, "{line}");
}
