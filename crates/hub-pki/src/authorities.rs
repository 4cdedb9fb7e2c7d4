//! The two authorities of a hub, on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base_pki::{Ca, PkiError, WriteFileError};

/// No program of this code is older: 2025-01-01. A release names its own date in `SOURCE_DATE_EPOCH`, as reproducible
/// builds do.
const EARLIEST_S: u64 = 1_735_689_600;

/// When this program was built, at the latest, in seconds since 1970. A clock that shows less is wrong.
pub const BUILT_AT_S: u64 = built_at(option_env!("SOURCE_DATE_EPOCH"));

/// Nobody walks up to a thousand gateways to replace a CA.
const CA_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// The authorities of a hub.
#[derive(Clone, Debug)]
pub struct Pki {
    /// Where they are kept.
    pub(crate) dir: PathBuf,
    /// Signs the hub's own certificates, and client certificates of nodes and people.
    pub hub: Arc<Ca>,
    /// Signs serving certificates of nodes.
    pub node_serving: Arc<Ca>,
}

/// Why a hub has no authorities.
#[derive(Debug, thiserror::Error)]
pub enum OpenPkiError {
    /// Certificates made now would have expired, or not begun, once the clock is right.
    #[error(
        "this machine's clock shows {now}, which is before this program was built ({built}): no keys are made; set the clock (a board without a battery needs NTP first), then start again"
    )]
    ClockBeforeBuild {
        /// What the clock shows.
        now: jiff::Timestamp,
        /// The program's date.
        built: jiff::Timestamp,
    },
    /// The file system.
    #[error("failed to {act} {}{hint}", path.display())]
    File {
        /// `read`, `create`, `remove`.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What to do, with a semicolon before it.
        hint: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteFileError),
    /// A certificate or key cannot be used.
    #[error("failed to use the CA {}", path.display())]
    Use {
        /// Its certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: PkiError,
    },
    /// A certificate could not be made.
    #[error("failed to make {what}")]
    Make {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: PkiError,
    },
}

impl OpenPkiError {
    /// Whether there was no space for a file: an outage that passes.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Write(error) if error.is_disk_full())
    }
}

/// What is wrong between a CA and this machine's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClockFinding {
    /// The CA is over.
    Expired {
        /// When it ended.
        since: jiff::Timestamp,
    },
    /// The clock shows a time before the CA begins.
    NotYetValid {
        /// When it begins.
        until: jiff::Timestamp,
    },
}

impl std::fmt::Display for ClockFinding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expired { since } => write!(
                formatter,
                "the hub's CA has expired at {since}: kubectl rejects this hub. If this machine's clock is right, the CA was made with a wrong one: stop the hub, move what is in hub/pki away, start it again and let the nodes join anew"
            ),
            Self::NotYetValid { until } => write!(
                formatter,
                "this machine's clock is behind the hub's CA, which is valid from {until}: kubectl rejects this hub until the clock is set"
            ),
        }
    }
}

impl Pki {
    /// Opens the authorities in a directory; makes what is missing. A directory of a hub with one CA keeps it as the
    /// hub's, so that nodes which trust it stay joined.
    ///
    /// # Errors
    /// When a file cannot be read or written, when certificate and key are not a pair, when the hub's CA is lost and other
    /// files of it are not, and when the clock is so wrong that an authority made now would be useless.
    pub fn open(dir: &Path, now: SystemTime) -> Result<Self, OpenPkiError> {
        fs::create_dir_all(dir).map_err(|source| OpenPkiError::File {
            act: "create",
            path: dir.to_owned(),
            hint: "",
            source,
        })?;
        check_remains(dir)?;
        let hub = authority(dir, "ca", "selvedge-hub", now)?;
        let node_serving = authority(dir, "node-serving-ca", "selvedge-node-serving", now)?;
        Ok(Self { dir: dir.to_owned(), hub: Arc::new(hub), node_serving: Arc::new(node_serving) })
    }

    /// The hub's CA, in PEM: what everyone trusts.
    pub fn ca_pem(&self) -> &str {
        self.hub.cert_pem()
    }

    /// What the hub's dialer trusts, in PEM. The hub's CA is among it for nodes whose serving certificate is from before
    /// there were two.
    pub fn dialer_trust(&self) -> String {
        format!("{}{}", self.node_serving.cert_pem(), self.hub.cert_pem())
    }

    /// Whether the CA is valid by this machine's clock.
    pub fn check_clock(&self, now: SystemTime) -> Option<ClockFinding> {
        let (from, until) = base_pki::validity(self.hub.cert_pem()).ok()?;
        let now = seconds(now);
        let at = |second| jiff::Timestamp::from_second(second).unwrap_or_default();
        if now > until {
            return Some(ClockFinding::Expired { since: at(until) });
        }
        (now < from).then(|| ClockFinding::NotYetValid { until: at(from) })
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

const fn built_at(source_date: Option<&str>) -> u64 {
    let Some(text) = source_date else { return EARLIEST_S };
    let (bytes, mut value, mut at) = (text.as_bytes(), 0_u64, 0);
    while at < bytes.len() {
        // More digits than any date has, or none: not a date.
        if !bytes[at].is_ascii_digit() || at > 11 {
            return EARLIEST_S;
        }
        value = value * 10 + (bytes[at] - b'0') as u64;
        at += 1;
    }
    if value > EARLIEST_S { value } else { EARLIEST_S }
}

/// What a hub makes after its CA: where one of these is, a missing CA is a loss and not a beginning. Nodes have joined with
/// it, and another one would shut them all out.
const MADE_AFTER_THE_CA: [&str; 4] = ["node-serving-ca.crt", "node-serving-ca.key", "admin.crt", "admin.key"];

fn check_remains(dir: &Path) -> Result<(), OpenPkiError> {
    let cert_path = dir.join("ca.crt");
    let is_there = |name: &&str| dir.join(name).exists();
    if ["ca.crt", "ca.key"].iter().any(is_there) || !MADE_AFTER_THE_CA.iter().any(is_there) {
        return Ok(());
    }
    let source = io::Error::from(io::ErrorKind::NotFound);
    let hint = "; other files beside it are there: restore it and ca.key from a backup, or move what is in this directory away to begin with a new CA, which makes all nodes join anew";
    Err(OpenPkiError::File { act: "read", path: cert_path, hint, source })
}

fn authority(dir: &Path, file: &str, name: &str, now: SystemTime) -> Result<Ca, OpenPkiError> {
    let (cert_path, key_path) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
    // The name of a key until its certificate is there.
    let draft_path = dir.join(format!("{file}.key.new"));
    let file_error = |act, path: &Path, hint, source| OpenPkiError::File { act, path: path.to_owned(), hint, source };
    let is_absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let load = |cert: &str, key: &str| {
        Ca::load(cert, key).map_err(|source| OpenPkiError::Use { path: cert_path.clone(), source })
    };
    let rename = || {
        fs::rename(&draft_path, &key_path)
            .and_then(|()| fs::File::open(dir)?.sync_all())
            .map_err(|source| file_error("create", &key_path, "", source))
    };
    match (fs::read_to_string(&cert_path), fs::read_to_string(&key_path)) {
        (Ok(cert), Ok(key)) => load(&cert, &key),
        // Under its name a key is never without its certificate: a start that is cut in here leaves a draft, and the next
        // one continues with it.
        (Err(cert), Err(key)) if is_absent(&cert) && is_absent(&key) => {
            let ca = create(name, now)?;
            base_pki::write_private(&draft_path, ca.key_pem().as_bytes())?;
            base_pki::write_public(&cert_path, ca.cert_pem().as_bytes())?;
            rename()?;
            Ok(ca)
        }
        (Ok(cert), Err(key)) if is_absent(&key) && draft_path.exists() => {
            let draft =
                fs::read_to_string(&draft_path).map_err(|source| file_error("read", &draft_path, "", source))?;
            let ca = load(&cert, &draft)?;
            rename()?;
            Ok(ca)
        }
        // Nodes have joined with that certificate: another one would shut them all out, and its key is the last trace of it.
        (Err(source), Ok(_)) if is_absent(&source) => Err(file_error(
            "read",
            &cert_path,
            if file == "ca" {
                "; its key is there: restore it from a backup (it is also in every kubeconfig of the hub, as certificate-authority-data), or move what is in this directory away to begin with a new CA, which makes all nodes join anew"
            } else {
                "; its key is there: restore it from a backup, or move the key away to begin with a new one, after which logs of a node cannot be read until it has a new serving certificate"
            },
            source,
        )),
        (Err(source), _) => Err(file_error("read", &cert_path, "", source)),
        (_, Err(source)) => Err(file_error("read", &key_path, "; restore it from a backup", source)),
    }
}

fn create(name: &str, now: SystemTime) -> Result<Ca, OpenPkiError> {
    let built = UNIX_EPOCH + Duration::from_secs(BUILT_AT_S);
    if now < built {
        let stamp = |time| jiff::Timestamp::try_from(time).unwrap_or_default();
        return Err(OpenPkiError::ClockBeforeBuild { now: stamp(now), built: stamp(built) });
    }
    // It begins with the program, not with this machine's clock: a clock that is ahead today is set right tomorrow.
    Ca::create_distinct(name, built, now + CA_VALIDITY)
        .map_err(|source| OpenPkiError::Make { what: format!("the CA {name}"), source })
}
