//! Runs a reconciler: once when its caches are filled, then whenever something it reads changed.
//!
//! Level-triggered: a run reads what should be and what is, and takes idempotent steps. A change only makes the next
//! run sooner; changes that come together are answered by one run.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::cache::Lister;
use crate::kinds::Kind;
use crate::writer::WriteError;

/// Changes come in groups (an `apply` of six files): waiting this long answers a group in one run.
const GATHER_PERIOD: Duration = Duration::from_millis(15);
/// A run over many objects takes longer; resting this many times as long keeps a controller below a fifth of a core
/// however fast changes come.
const REST_FACTOR: u32 = 4;
/// No change waits longer than this.
const REST_MAX: Duration = Duration::from_secs(1);
/// After a failure; doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(200);
/// A hub whose disk is full is asked again this often.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Drives `reconcile` until shutdown. It runs at least every `period`, if there is one.
pub async fn drive<F, R>(
    name: &'static str,
    lister: Arc<dyn Lister>,
    reads: &'static [Kind],
    period: Option<Duration>,
    shutdown: CancellationToken,
    mut reconcile: F,
) where
    F: FnMut() -> R,
    R: Future<Output = Result<(), WriteError>>,
{
    let mut changes: Vec<watch::Receiver<u64>> = reads.iter().map(|kind| lister.changes(*kind)).collect();
    for receiver in &mut changes {
        tokio::select! {
            () = shutdown.cancelled() => return,
            synced = receiver.wait_for(|changes| *changes > 0) => if synced.is_err() { return },
        }
    }
    let mut retry = RETRY_MIN;
    loop {
        for receiver in &mut changes {
            receiver.mark_unchanged();
        }
        let began = Instant::now();
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = reconcile() => outcome,
        };
        let rest = (began.elapsed() * REST_FACTOR).clamp(GATHER_PERIOD, REST_MAX);
        let pause = match outcome {
            Ok(()) => {
                retry = RETRY_MIN;
                period
            }
            Err(error) => {
                warn!(controller = name, error = %Chain(&error), "Failed a run; trying again.");
                let pause = retry;
                retry = (retry * 2).min(RETRY_MAX);
                Some(pause)
            }
        };
        let wait = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = wait => {}
            () = any_change(&mut changes) => tokio::time::sleep(rest).await,
        }
    }
}

/// The first failure of a run that goes on after it, so that one object that the API refuses holds up nobody else.
#[derive(Default)]
pub(crate) struct FirstFailure(Option<WriteError>);

impl FirstFailure {
    /// Takes a result in; what it held when it is a success.
    pub(crate) fn note<T>(&mut self, done: Result<T, WriteError>) -> Option<T> {
        match done {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.get_or_insert(error);
                None
            }
        }
    }

    /// The failure, at the end of the run.
    pub(crate) fn into_result(self) -> Result<(), WriteError> {
        self.0.map_or(Ok(()), Err)
    }
}

async fn any_change(changes: &mut [watch::Receiver<u64>]) {
    let waits = changes.iter_mut().map(|receiver| Box::pin(receiver.changed()));
    let _ = futures::future::select_all(waits).await;
}

/// An error with its causes, for a log field.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
