//! How a batch gets to its receiver; the program brings the implementation.

use std::pin::Pin;

use api_edge::telemetry::{BatchAnswer, BatchHeader};
use bytes::Bytes;

/// A future that an object-safe trait can answer with.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Sends one batch and waits for the answer. An export has one batch on its way at a time.
pub trait BatchTransport: Send + Sync + 'static {
    /// Sends `header` and the event lines (without line ends); [`encode_body`] makes the body of both.
    ///
    /// The future may be dropped before it is done; the batch may then have arrived or not.
    fn send(&self, header: BatchHeader, lines: Vec<Bytes>) -> BoxFuture<'_, Result<BatchAnswer, SendError>>;
}

/// Why a batch was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// 409: the receiver stands elsewhere in this export, and says where.
    #[error("the receiver stands at {} of epoch {}", .0.next, .0.epoch)]
    Elsewhere(BatchAnswer),
    /// 400, 413, 422: the receiver will never take this batch as it is.
    #[error("the receiver refused the batch: {0}")]
    Refused(String),
    /// No connection, no answer, no permission, no room: it may work later.
    #[error("the receiver cannot be reached: {0}")]
    Unreachable(String),
}

/// The body of a batch: header and events, one per line.
pub fn encode_body(header: &BatchHeader, lines: &[Bytes]) -> Bytes {
    let mut body = serde_json::to_vec(header).expect("a batch header holds text and numbers only");
    body.reserve(lines.iter().map(|line| line.len() + 1).sum::<usize>() + 1);
    body.push(b'\n');
    for line in lines {
        body.extend_from_slice(line);
        body.push(b'\n');
    }
    body.into()
}
