//! Who did what, and what came of it: one event per request that changes something or is made in another's name.
//!
//! [`AuditLog`] writes events of Kubernetes' kind `audit.k8s.io/v1` at level `Metadata`, one JSON object per line: no
//! bodies, so no secrets. The disk it may take is bounded: a full file is set aside, the oldest goes.
//!
//! Administrators, the server's controllers and everybody else have files, shares of the disk and queues of their own. A node
//! or the bearer of a token can fill a file within minutes by what it is refused, and have controllers write as fast; what
//! administrators did stays.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::{Value, json};
use tracing::warn;

use crate::Identity;
use crate::request::{ResourcePath, Route};

/// Events that wait for the disk. More are dropped and counted: requests never wait for the log.
const WAITING_MAX: usize = 4096;

/// What a client says in a request's target or of itself is cut there: the log is bounded, and a single request must not take
/// much of it.
const TEXT_BYTES_MAX: usize = 1024;

/// A request and its answer.
#[derive(Clone, Copy, Debug)]
pub struct AuditEvent<'a> {
    /// Who called, by its own credentials; `None` when it was not known.
    pub caller: Option<&'a Identity>,
    /// As whom the request was carried out, when as somebody else.
    pub impersonated: Option<&'a Identity>,
    /// `create`, `update`, `patch`, `delete`, `deletecollection`, `get`, `list`, `watch`; for paths the method.
    pub verb: &'a str,
    /// Path and query.
    pub uri: &'a http::Uri,
    /// The answer's status code.
    pub code: u16,
    /// Where the request came from; `None` in process.
    pub source: Option<std::net::IpAddr>,
    /// What the client calls itself.
    pub user_agent: &'a str,
    /// When the request came.
    pub received: jiff::Timestamp,
}

/// Takes audit events.
pub trait Audit: Send + Sync {
    /// Takes one. It returns at once.
    fn record(&self, event: &AuditEvent<'_>);
}

impl AuditEvent<'_> {
    /// Whether the request could change something.
    pub(crate) fn is_write(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch" | "head")
    }

    /// Whether it belongs into a log. Whoever is not known changes nothing, and `/metrics` counts the attempts; Leases and
    /// Events of a fleet would displace in minutes what people did in months.
    pub(crate) fn is_kept(&self) -> bool {
        let is_routine = || match Route::parse(self.uri.path()) {
            Route::Resource(path) => matches!(
                (path.group.as_str(), path.plural.as_str()),
                ("coordination.k8s.io", "leases") | ("" | "events.k8s.io", "events")
            ),
            _ => false,
        };
        let is_node = self.caller.is_some_and(|caller| caller.is_in(crate::GROUP_NODES));
        let is_change = self.is_write() && self.caller.is_some() && !(is_node && is_routine());
        is_change || self.impersonated.is_some()
    }

    /// The event in Kubernetes' form.
    pub fn to_json(&self) -> Value {
        let user = |identity: &Identity| {
            let mut user = json!({"username": identity.user, "groups": identity.groups});
            if !identity.uid.is_empty() {
                user["uid"] = identity.uid.as_str().into();
            }
            if !identity.extra.is_empty() {
                user["extra"] = json!(identity.extra);
            }
            user
        };
        let mut event = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "stage": "ResponseComplete",
            "auditID": uuid::Uuid::new_v4().to_string(),
            "requestURI": cut(self.uri.path_and_query().map_or("", |text| text.as_str())),
            "verb": self.verb,
            "user": self.caller.map_or_else(|| json!({"username": "system:anonymous"}), user),
            "responseStatus": {"code": self.code},
            "requestReceivedTimestamp": self.received.to_string(),
            "stageTimestamp": jiff::Timestamp::now().to_string(),
        });
        if let Some(impersonated) = self.impersonated {
            event["impersonatedUser"] = user(impersonated);
        }
        if let Some(source) = self.source {
            event["sourceIPs"] = json!([source]);
        }
        if !self.user_agent.is_empty() {
            event["userAgent"] = cut(self.user_agent).into();
        }
        if let Route::Resource(path) = Route::parse(self.uri.path()) {
            event["objectRef"] = object_ref(&path);
        }
        event
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

fn object_ref(path: &ResourcePath) -> Value {
    let mut reference = json!({"resource": cut(&path.plural), "apiVersion": cut(&path.version)});
    let parts = [
        ("apiGroup", Some(path.group.as_str()).filter(|group| !group.is_empty())),
        ("namespace", path.namespace.as_deref()),
        ("name", path.name.as_deref()),
        ("subresource", path.subresource.as_deref()),
    ];
    for (field, value) in parts {
        if let Some(value) = value {
            reference[field] = cut(value).into();
        }
    }
    reference
}

/// The verb of a request, for its audit event.
pub(crate) fn verb(request: &http::request::Parts) -> String {
    let is_watch = request.uri.query().is_some_and(|query| query.split('&').any(|one| one.starts_with("watch=")));
    match (Route::parse(request.uri.path()), request.method.as_str()) {
        (Route::Resource(path), method) => match (method, path.name.is_some()) {
            ("GET", false) if is_watch => "watch",
            ("GET", true) => "get",
            ("GET", false) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "delete",
            ("DELETE", false) => "deletecollection",
            (other, _) => return other.to_ascii_lowercase(),
        }
        .to_owned(),
        (_, method) => method.to_ascii_lowercase(),
    }
}

/// Audit events in files: `audit.log` has what administrators did, `audit-controllers.log` what the server did by itself,
/// `audit-nodes.log` everything else; older ones are in `audit.log.1` and so on.
pub struct AuditLog {
    administrators: Lines,
    controllers: Lines,
    others: Lines,
}

/// How much an [`AuditLog`] keeps.
#[derive(Clone, Copy, Debug)]
pub struct AuditLimits {
    /// Bytes of all files. Half are for administrators, a quarter each for controllers and everybody else.
    pub bytes_max: u64,
    /// Files of each of the three, the one that is written included; two at least.
    pub files_max: u32,
}

impl Default for AuditLimits {
    /// 128 MiB in all: some 200,000 writes.
    fn default() -> Self {
        Self { bytes_max: 128 * 1024 * 1024, files_max: 4 }
    }
}

impl AuditLog {
    /// Opens a log, `audit.log` at `path` and the others beside it, and starts the threads that write it, which end when the
    /// log is dropped.
    ///
    /// # Errors
    /// When a file cannot be opened for appending.
    pub fn open(path: &Path, limits: AuditLimits) -> io::Result<Self> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let beside = |whose: &str| path.with_file_name(format!("{stem}-{whose}.log"));
        Ok(Self {
            administrators: Lines::open(path.to_owned(), limits.bytes_max / 2, limits.files_max)?,
            controllers: Lines::open(beside("controllers"), limits.bytes_max / 4, limits.files_max)?,
            others: Lines::open(beside("nodes"), limits.bytes_max / 4, limits.files_max)?,
        })
    }

    /// By who called, and not as whom: an administrator in another's name is one, and a node that claims another is a node.
    fn lines_of(&self, event: &AuditEvent<'_>) -> &Lines {
        match event.caller {
            Some(caller) if caller.user == crate::USER_CONTROLLERS && caller.is_in(crate::GROUP_MASTERS) => {
                &self.controllers
            }
            Some(caller) if caller.is_in(crate::GROUP_MASTERS) => &self.administrators,
            _ => &self.others,
        }
    }
}

impl Audit for AuditLog {
    fn record(&self, event: &AuditEvent<'_>) {
        let Lines { waiting, dropped } = self.lines_of(event);
        if waiting.try_send(event.to_json().to_string()).is_err() {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The way to one file and those that it replaced.
struct Lines {
    waiting: SyncSender<String>,
    dropped: std::sync::Arc<AtomicU64>,
}

impl Lines {
    fn open(path: PathBuf, bytes_max: u64, files_max: u32) -> io::Result<Self> {
        let (sender, waiting) = sync_channel(WAITING_MAX);
        let (dropped, files_max) = (std::sync::Arc::new(AtomicU64::new(0)), files_max.max(2));
        let file_bytes_max = bytes_max / u64::from(files_max);
        let writer =
            Writer { file: append(&path)?, path, bytes_max, file_bytes_max, files_max, dropped: dropped.clone() };
        std::thread::Builder::new().name("audit-log".to_owned()).spawn(move || writer.run(&waiting))?;
        Ok(Self { waiting: sender, dropped })
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    bytes_max: u64,
    file_bytes_max: u64,
    files_max: u32,
    dropped: std::sync::Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, lines: &Receiver<String>) {
        self.remove_excess();
        let mut was_good = true;
        while let Ok(line) = lines.recv() {
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                warn!(path = %self.path.display(), dropped, "Audit events were dropped: the disk is slower than the requests.");
            }
            match self.write(&line) {
                Ok(()) => was_good = true,
                // A full disk must not fill the journal with the same sentence.
                Err(error) if was_good => {
                    warn!(path = %self.path.display(), %error, "Failed to write audit events; requests are served without.");
                    was_good = false;
                }
                Err(_) => {}
            }
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if len > 0 && len.saturating_add(line.len() as u64) >= self.file_bytes_max {
            self.rotate()?;
            self.remove_excess();
        }
        self.file.write_all(format!("{line}\n").as_bytes())
    }

    /// Where a file is once `number` others have followed it.
    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    /// Removes the oldest files that leave no space for the one that is written. There are some only where the bounds were
    /// others before: by a setting, or in a version whose single log had all the disk that three share now.
    fn remove_excess(&self) {
        let remove = || {
            let mut older = Vec::new();
            loop {
                match fs::metadata(self.numbered(older.len() as u32 + 1)) {
                    Ok(file) => older.push(file.len()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error) => return Err(error),
                }
            }
            let space = self.bytes_max.saturating_sub(self.file.metadata()?.len().max(self.file_bytes_max));
            while older.len() >= self.files_max as usize || older.iter().sum::<u64>() > space {
                fs::remove_file(self.numbered(older.len() as u32))?;
                older.pop();
            }
            Ok(())
        };
        if let Err(error) = remove() {
            warn!(path = %self.path.display(), %error, "Failed to remove old audit events; the log takes more than its share.");
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.files_max).rev() {
            let newer = if number == 1 { self.path.clone() } else { self.numbered(number - 1) };
            match fs::rename(newer, self.numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = append(&self.path)?;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
