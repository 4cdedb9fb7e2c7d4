//! `GET /backup/store`: the objects of a running hub at one revision, for `selvedge hub backup` on the same machine.
//!
//! What is sent has no key: Secrets are sealed as they are on the disk. So whoever may do everything over the API gets no more here than by
//! listing; the keys are files, which the command reads itself.

use std::sync::Arc;

use base_http::{Body, respond};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream;
use http::{Method, Request, Response, StatusCode, header};
use hub_backup::ROWS_BYTES;
use machinery_server::{Extension, Identity, RequestBody};
use machinery_store::{Backup, CipherError, Store};
use tokio::sync::{Semaphore, mpsc};
use tracing::{error, info};

use crate::backup::{Frame, STORE_PATH};

/// Pieces that are ready before the reader takes them. Each is some milliseconds of work and a megabyte.
const PIECES_AHEAD: usize = 1;

/// Serves [`STORE_PATH`]. No role but `system:masters` allows paths below its prefix.
pub struct BackupRoute {
    store: Store,
    /// One backup at a time: each keeps alive what is replaced while it is read.
    running: Arc<Semaphore>,
}

impl BackupRoute {
    /// Reads from `store`.
    pub fn new(store: Store) -> Self {
        Self { store, running: Arc::new(Semaphore::new(1)) }
    }

    fn answer(&self, request: &Request<RequestBody>, identity: &Identity) -> Response<Body> {
        if request.uri().path() != STORE_PATH {
            return respond::text(StatusCode::NOT_FOUND, format!("there is {STORE_PATH}\n"));
        }
        if request.method() != Method::GET {
            return respond::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        let Ok(turn) = self.running.clone().try_acquire_owned() else {
            return respond::text(StatusCode::CONFLICT, "another backup is being read; try again when it is done\n");
        };
        let backup = self.store.backup();
        let (revision, objects) = (backup.head().revision, backup.head().objects);
        info!(revision, objects, user = %identity.user, "Hands out a backup.");
        let (pieces_tx, mut pieces) = mpsc::channel(PIECES_AHEAD);
        base_observe::spawn_blocking_named("backup", move || {
            if let Err(error) = send(backup, &pieces_tx) {
                error!(error = %base_observe::Chain(&error), "A backup was cut off.");
                // Whoever reads sees an error, and no end.
                let _ = pieces_tx.blocking_send(Err(error));
            }
            drop(turn);
        });
        let body = Body::stream(stream::poll_fn(move |context| pieces.poll_recv(context)));
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
        response
    }
}

/// Encodes a backup, no faster than it is read. Ends when nobody reads any more.
fn send(mut backup: Backup, pieces: &mpsc::Sender<Result<Bytes, CipherError>>) -> Result<(), CipherError> {
    let head = serde_json::to_vec(backup.head()).expect("a head has text keys only");
    let mut next = Some(Frame::Head(head));
    while let Some(frame) = next {
        let is_end = matches!(frame, Frame::End);
        if pieces.blocking_send(Ok(frame.encode().into())).is_err() || is_end {
            break;
        }
        next = Some(backup.next_rows(ROWS_BYTES)?.map_or(Frame::End, Frame::Rows));
    }
    Ok(())
}

impl Extension for BackupRoute {
    fn prefix(&self) -> &'static str {
        "/backup/"
    }

    fn call<'a>(&'a self, request: Request<RequestBody>, identity: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        let response = self.answer(&request, identity);
        Box::pin(async { response })
    }
}
