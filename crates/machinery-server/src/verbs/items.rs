//! The items of a list, written one behind the other into the pieces that are sent.
//!
//! A list of 5,000 pods is 36 MB, of which half say who owns which fields. So what is stored goes straight into the piece,
//! without a copy of the object in between, and owners that many objects have alike are put into words once.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use machinery_kinds::ResourceInfo;
use machinery_merge::AlikeToJson;
use machinery_store::Object;
use tracing::error;

use crate::negotiate::{Form, partial_of_bytes, table_row};
use crate::object::{as_seen, decode, is_seen_as_stored, without_type, write_seen};
use crate::owners::{insert_owners, stored_bytes};
use crate::pump::PIECE_BYTES;
use crate::server::Context;

/// Space for what a piece ends with: an object of usual size with its owners.
const LAST_ITEM_BYTES: usize = 16 * 1024;

/// The pieces of a list.
pub(super) struct Pieces {
    head: Option<String>,
    items: std::vec::IntoIter<Arc<Object>>,
    writer: ItemWriter,
    /// What of the last item did not fit its piece.
    rest: Bytes,
    has_items: bool,
    is_done: bool,
}

impl Pieces {
    /// Of a list that begins with `head`, in the form that the client wants.
    pub(super) fn new(context: &Context<'_>, head: String, items: Vec<Arc<Object>>) -> Self {
        let writer = ItemWriter::new(context);
        Self {
            head: Some(head),
            items: items.into_iter(),
            writer,
            rest: Bytes::new(),
            has_items: false,
            is_done: false,
        }
    }

    /// A piece that has become too long, but for its end, which begins the next one: pieces of just this size are sent as
    /// they are. An object that is much larger than a piece is sent with the piece that it is in.
    fn cut(&mut self, mut piece: BytesMut) -> Bytes {
        if piece.len() <= 2 * PIECE_BYTES {
            self.rest = Bytes::copy_from_slice(&piece[PIECE_BYTES..]);
            piece.truncate(PIECE_BYTES);
        }
        piece.freeze()
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.is_done {
            return None;
        }
        // A short list needs no whole piece.
        let next_bytes = self.items.as_slice().iter().take(32).map(|object| object.bytes.len() * 2).sum::<usize>();
        let mut piece = BytesMut::with_capacity(self.rest.len() + next_bytes.min(PIECE_BYTES) + LAST_ITEM_BYTES);
        if let Some(head) = self.head.take() {
            piece.extend_from_slice(head.as_bytes());
        }
        piece.extend_from_slice(&std::mem::take(&mut self.rest));
        for object in self.items.by_ref() {
            let start = piece.len();
            if self.has_items {
                piece.extend_from_slice(b",");
            }
            let item_start = piece.len();
            self.writer.write(&object, &mut piece);
            if piece.len() == item_start {
                piece.truncate(start);
            } else {
                self.has_items = true;
            }
            if piece.len() >= PIECE_BYTES {
                return Some(self.cut(piece));
            }
        }
        self.is_done = true;
        piece.extend_from_slice(b"]}");
        Some(piece.freeze())
    }
}

/// Writes objects in the form that the client wants.
struct ItemWriter {
    info: Arc<ResourceInfo>,
    api_version: String,
    form: Form,
    with_owners: bool,
    /// Whether items are what is stored, but for the type and the owners.
    is_as_stored: bool,
    owners: AlikeToJson,
    now: jiff::Timestamp,
}

impl ItemWriter {
    fn new(context: &Context<'_>) -> Self {
        let info = context.info.clone();
        Self {
            api_version: info.api_version(),
            form: context.output.form,
            with_owners: context.shows_owners(),
            is_as_stored: is_seen_as_stored(&info),
            owners: AlikeToJson::default(),
            now: (context.server.now)(),
            info,
        }
    }

    fn write(&mut self, object: &Object, piece: &mut BytesMut) {
        match self.form {
            Form::Object if self.is_as_stored => {
                let owners = object.managed.as_ref().filter(|_| self.with_owners).map(|compact| {
                    let alike = &mut self.owners;
                    |piece: &mut BytesMut| alike.write(compact, |part| piece.extend_from_slice(part.as_bytes())).is_ok()
                });
                // Items of a list of Kubernetes' own types have no type of their own: the list says it.
                let api_version = self.info.is_custom().then_some(self.api_version.as_str());
                write_seen(&object.bytes, api_version, owners, piece);
            }
            Form::Object if !self.info.is_custom() => without_type(&self.seen(object), piece),
            Form::Object => piece.extend_from_slice(&self.seen(object)),
            Form::Partial(version, _) => partial_of_bytes(&stored_bytes(object, self.with_owners), version, piece),
            // What cannot be read was written by this server and damaged since: its row is left out rather than the list.
            Form::Table(version, include) => match decode(&self.info, object) {
                Ok(mut value) => {
                    if self.with_owners {
                        insert_owners(&mut value, object);
                    }
                    let row = table_row(&self.info, &value, version, include, self.now);
                    serde_json::to_writer(piece.writer(), &row).expect("a JSON value always serialises into memory");
                }
                Err(error) => error!(reason = error.message(), "Left an object out of a table."),
            },
        }
    }

    fn seen(&self, object: &Object) -> Bytes {
        as_seen(&self.info, &stored_bytes(object, self.with_owners))
    }
}
