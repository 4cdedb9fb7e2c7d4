//! Everything with an end is looked at every minute, by the wall clock, and renewed in time.
//!
//! A sleep until the renewal would be wrong by as much as the clock is: a hub that starts in 1970 and gets the time from
//! the network a minute later would serve an expired certificate for half a year.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base_observe::Chain;
use base_pki::{Issued, PkiError, San};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::authorities::{OpenPkiError, Pki, seconds};
use crate::certificates::HubCertificate;

/// How often the clock is looked at. A clock that is set right is noticed within this time.
const CHECK_PERIOD: Duration = Duration::from_secs(60);

/// First and last second of a certificate's life.
type Validity = (i64, i64);

/// Of what is not there: due at every look.
const OVER: Validity = (0, 0);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes something anew at a moment; returns how long it is good.
type Renew = Box<dyn FnMut(SystemTime) -> Result<Validity, BoxError> + Send>;

/// Whether a certificate should be renewed: two thirds of its life are over, or it has not begun, which means that the
/// clock was set back since it was made.
pub fn is_due((from, until): Validity, now: SystemTime) -> bool {
    let now = seconds(now);
    let life = until.saturating_sub(from).max(0);
    now < from || now >= from.saturating_add(life / 3 * 2)
}

/// One certificate that is renewed.
pub struct Renewable {
    name: &'static str,
    validity: Validity,
    renew: Renew,
    has_failed: bool,
}

impl Renewable {
    /// Something called `name` that is good for `validity`, and how it is made anew and put into use.
    pub fn new<E>(
        name: &'static str,
        validity: Validity,
        mut renew: impl FnMut(SystemTime) -> Result<Validity, E> + Send + 'static,
    ) -> Self
    where
        E: Into<BoxError>,
    {
        Self { name, validity, renew: Box::new(move |now| renew(now).map_err(Into::into)), has_failed: false }
    }

    /// A certificate of the hub of which `first` is in use, and how the next one is put into use.
    ///
    /// # Errors
    /// When `first` cannot be read.
    pub fn certificate<E>(
        pki: &Arc<Pki>,
        which: HubCertificate,
        names: Vec<San>,
        first: &Issued,
        mut install: impl FnMut(&Issued) -> Result<(), E> + Send + 'static,
    ) -> Result<Self, PkiError>
    where
        E: Into<BoxError>,
    {
        let name = match which {
            HubCertificate::Serving => "serving",
            HubCertificate::Dialer => "dialer",
        };
        let pki = pki.clone();
        Ok(Self::new(name, base_pki::validity(&first.cert_pem)?, move |now| -> Result<_, BoxError> {
            let next = pki.issue(which, &names, now)?;
            install(&next).map_err(Into::into)?;
            Ok(base_pki::validity(&next.cert_pem)?)
        }))
    }

    /// The administrator's kubeconfig for a hub at `url`, which is written now and whenever its certificate is renewed. A full
    /// disk does not keep a hub from serving the nodes it has: it is written as soon as there is space.
    ///
    /// # Errors
    /// As [`Pki::write_kubeconfig`], but for a full disk.
    pub fn kubeconfig(pki: &Arc<Pki>, path: PathBuf, url: String, now: SystemTime) -> Result<Self, OpenPkiError> {
        let validity = match pki.write_kubeconfig(&path, &url, now) {
            Err(error) if error.is_disk_full() => {
                warn!(error = %Chain(&error), "The disk is full: the administrator's kubeconfig is written when there is space.");
                OVER
            }
            written => written?,
        };
        let pki = pki.clone();
        Ok(Self::new("admin", validity, move |now| pki.write_kubeconfig(&path, &url, now)))
    }
}

/// All that is renewed.
#[derive(Default)]
pub struct Renewal(Vec<Renewable>);

impl Renewal {
    /// These.
    pub fn new(items: Vec<Renewable>) -> Self {
        Self(items)
    }

    /// Renews what is due at `now`; answers the names of what was renewed. What fails is tried again at the next look.
    pub fn look(&mut self, now: SystemTime) -> Vec<&'static str> {
        let mut renewed = Vec::new();
        for item in self.0.iter_mut().filter(|item| is_due(item.validity, now)) {
            match (item.renew)(now) {
                Ok(validity) => {
                    item.validity = validity;
                    item.has_failed = false;
                    info!(certificate = item.name, "Renewed a certificate.");
                    renewed.push(item.name);
                }
                Err(error) => {
                    // Said once, not every minute.
                    if !std::mem::replace(&mut item.has_failed, true) {
                        error!(
                            certificate = item.name,
                            error = %Chain(&*error),
                            "Failed to renew a certificate; trying again every minute."
                        );
                    }
                }
            }
        }
        renewed
    }
}

/// Looks every minute, until `shutdown`.
pub async fn run(mut renewal: Renewal, shutdown: CancellationToken) {
    let mut looks = tokio::time::interval(CHECK_PERIOD);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = looks.tick() => {}
        }
        // Keys are made here, which takes a few milliseconds of a processor.
        let looked = tokio::task::spawn_blocking(move || {
            renewal.look(SystemTime::now());
            renewal
        });
        match looked.await {
            Ok(back) => renewal = back,
            Err(error) => {
                error!(%error, "The renewal of certificates has ended; restart the hub within a year.");
                return;
            }
        }
    }
}
