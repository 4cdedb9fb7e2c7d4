//! The loop around the core: reads the journal, sends, stores the cursor, publishes the status.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use base_journal::Journal;
use base_retry::{Notice, Wake};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::core::{Confirmed, Counts, ExportCore, ExportOptions, Want};
use crate::transport::{BatchTransport, SendError};

/// How an export fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportStatus {
    /// Whether the last batch was answered. False before the first one.
    pub connected: bool,
    /// Events confirmed since the start.
    pub sent: u64,
    /// Records that were gone before they could be sent, since the start.
    pub lost: u64,
    /// Events that the receiver will not take, since the start.
    pub refused: u64,
    /// Records in the journal that are not confirmed yet.
    pub depth: u64,
    /// Why the last batch was not taken.
    pub last_error: Option<String>,
}

/// A running export.
#[derive(Debug)]
pub struct ExportHandle {
    /// How it fares, published when it changes.
    pub status: watch::Receiver<ExportStatus>,
    /// Ends soon after the shutdown token is cancelled, holding nothing of the journal any more.
    pub task: JoinHandle<()>,
}

/// Name of the journal cursor of the export `namespace/name`. Remove it when the export is deleted.
pub fn cursor_name(export: &str) -> String {
    format!("export/{export}")
}

/// Starts an export on the current runtime. It stops when `shutdown` is cancelled, and a later one goes on where it was.
///
/// Without a cursor it begins with the oldest record that the journal holds. `restored` ends its pauses.
pub fn spawn_export(
    journal: Journal,
    options: ExportOptions,
    transport: Arc<dyn BatchTransport>,
    restored: &Wake,
    shutdown: CancellationToken,
) -> ExportHandle {
    let (status_tx, status) = watch::channel(ExportStatus::default());
    let task = tokio::spawn(run_export(journal, options, transport, restored.notice(), status_tx, shutdown));
    ExportHandle { status, task }
}

async fn run_export(
    journal: Journal,
    options: ExportOptions,
    transport: Arc<dyn BatchTransport>,
    mut restored: Notice,
    status: watch::Sender<ExportStatus>,
    shutdown: CancellationToken,
) {
    let nudge = Arc::new(Notify::new());
    let weak = Arc::downgrade(&nudge);
    journal.on_commit(move |_| match weak.upgrade() {
        Some(nudge) => {
            nudge.notify_one();
            ControlFlow::Continue(())
        }
        None => ControlFlow::Break(()),
    });
    let cursor_name = cursor_name(&options.name);
    let export = options.name.clone();
    let cursor = match journal.cursor(&cursor_name) {
        Some(cursor) => cursor,
        None => {
            // Stored at once: trimming keeps what this export has not seen yet.
            let first = journal.first();
            store_cursor(&journal, &cursor_name, Confirmed { cursor: Some(first), is_ahead: false }).await;
            first
        }
    };
    let mut core = ExportCore::new(options, journal.epoch(), cursor);
    while !shutdown.is_cancelled() {
        match core.want(Instant::now()) {
            Want::Read { from, bytes_max } => {
                let reading = journal.clone();
                match blocking(move || reading.read(from, bytes_max)).await {
                    Ok(chunk) => core.take(chunk),
                    Err(error) => {
                        warn!(%export, %error, source = ?error.source, "Could not read the journal.");
                        core.answer(Err(SendError::Unreachable(error.to_string())), Instant::now());
                    }
                }
            }
            Want::Send(header, lines) => {
                debug!(%export, from = header.from, to = header.to, events = header.events, "Sending a batch.");
                restored.seen();
                // Whether a batch given up here arrived is found out when it is sent again.
                let sent = shutdown.run_until_cancelled(transport.send(header, lines)).await;
                let Some(answer) = sent else { return };
                let was_connected = status.borrow().connected;
                let connected = match &answer {
                    Ok(_) | Err(SendError::Elsewhere(_) | SendError::Refused(_)) => true,
                    Err(SendError::Unreachable(_)) => false,
                };
                if connected && !was_connected {
                    info!(%export, "The receiver answers.");
                } else if let Err(error) = &answer
                    && (was_connected || core.last_error().is_none())
                {
                    warn!(%export, %error, "A batch was not taken; events stay in the journal.");
                }
                let confirmed = core.answer(answer, Instant::now());
                store_cursor(&journal, &cursor_name, confirmed).await;
                publish(&status, &core, &journal, Some(connected));
            }
            Want::Wait(until) => {
                publish(&status, &core, &journal, None);
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = restored.called() => core.link_restored(Instant::now()),
                }
            }
            Want::More { from, until } => {
                publish(&status, &core, &journal, None);
                if journal.next() > from {
                    core.more_came();
                    continue;
                }
                let nudged = async {
                    match until {
                        Some(until) => drop(tokio::time::timeout_at(until.into(), nudge.notified()).await),
                        None => nudge.notified().await,
                    }
                };
                shutdown.run_until_cancelled(nudged).await;
            }
        }
    }
}

/// Stores what the receiver has confirmed. A failure is told and harms nothing: the batch is sent again after a restart, and the receiver
/// recognises it.
async fn store_cursor(journal: &Journal, name: &str, confirmed: Confirmed) {
    let Some(cursor) = confirmed.cursor else { return };
    let (journal, name) = (journal.clone(), name.to_owned());
    blocking(move || {
        if confirmed.is_ahead && cursor > journal.next() {
            warn!(
                cursor,
                next = journal.next(),
                "The receiver knows later records than the journal; numbering goes on there."
            );
            if let Err(error) = journal.skip_to(cursor) {
                warn!(%error, "Could not make the journal go on at the receiver's offset.");
            }
        }
        if let Err(error) = journal.set_cursor(&name, cursor) {
            warn!(%error, source = %error.source, "Could not store an export's cursor.");
        }
    })
    .await;
}

/// Runs what blocks on the disk on a thread that may block.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(act).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn publish(status: &watch::Sender<ExportStatus>, core: &ExportCore, journal: &Journal, connected: Option<bool>) {
    let Counts { sent, lost, refused, .. } = core.counts().clone();
    let depth = journal.next().saturating_sub(core.cursor().max(journal.first()));
    status.send_if_modified(|status| {
        let now = ExportStatus {
            connected: connected.unwrap_or(status.connected),
            sent,
            lost,
            refused,
            depth,
            last_error: core.last_error().map(str::to_owned),
        };
        let is_changed = *status != now;
        *status = now;
        is_changed
    });
}
