//! How a role stops: a signal closes the listeners, open work is finished, and what is left is logged.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::exit::Exit;
use crate::notify;

/// Waits for SIGINT or SIGTERM and cancels; a second one ends the process at once.
pub fn on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        let mut is_first = true;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !is_first {
                warn!("A second signal: ending without finishing.");
                std::process::exit(i32::from(Exit::Unfinished as u8));
            }
            is_first = false;
            info!("Stopping; a second signal ends at once.");
            notify::stopping();
            shutdown.cancel();
        }
    });
    Ok(())
}

/// Finishes `work` within the grace period.
pub async fn drain(grace: Duration, work: impl Future<Output = ()>) -> Exit {
    if tokio::time::timeout(grace, work).await.is_err() {
        warn!(?grace, "The grace period ended before every task did.");
        return Exit::Unfinished;
    }
    Exit::Done
}
