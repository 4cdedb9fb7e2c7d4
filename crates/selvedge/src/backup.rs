//! `selvedge hub backup` and `selvedge hub restore`.
//!
//! A hub that runs holds the lock of its store, so its objects are read over its API, as of one revision and without delay for
//! those who write; one that does not run is opened as its start would. The keys are files, which are read here either way.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base_fs::DirLock;
use bytes::{Buf as _, BytesMut};
use futures::TryStreamExt as _;
use http_body_util::BodyExt as _;
use hub_backup::{Contents, FORMAT, Head, KeyFile, ROWS_BYTES, Writer};
use jiff::Timestamp;
use machinery_store::BackupHead;

use crate::cli::{BackupArgs, RestoreArgs};
use crate::hub::storage;
use crate::kube_access::{client, explained};
use crate::paths::DataDir;

/// Where a running hub hands out its objects: [`Frame`]s.
pub const STORE_PATH: &str = "/backup/store";

/// A key or a certificate of a hub.
const KEY_BYTES_MAX: usize = 64 << 10;
/// A piece of rows: one row alone may have 64 MiB and its names.
const FRAME_BYTES_MAX: usize = 72 << 20;
const FRAME_HEAD_BYTES: usize = 5;

/// A piece of what a running hub hands out: `kind u8 | length u32, little endian | bytes`.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A [`BackupHead`] as JSON; the first.
    Head(Vec<u8>),
    /// Rows.
    Rows(Vec<u8>),
    /// Nothing is missing; the last.
    End,
}

impl Frame {
    /// The piece as bytes.
    pub fn encode(self) -> Vec<u8> {
        let (kind, bytes) = match self {
            Self::Head(bytes) => (b'H', bytes),
            Self::Rows(bytes) => (b'R', bytes),
            Self::End => (b'E', Vec::new()),
        };
        let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + bytes.len());
        frame.push(kind);
        frame.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        frame.extend_from_slice(&bytes);
        frame
    }

    /// Takes the first piece of what has come; `None` when it is not complete yet.
    fn take(input: &mut BytesMut) -> Result<Option<Self>> {
        let Some((head, rest)) = input.split_first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
        let [kind, len @ ..] = *head;
        let len = u32::from_le_bytes(len) as usize;
        if len > FRAME_BYTES_MAX {
            bail!("the hub sent something else than a backup; use the `selvedge` of the hub");
        }
        if rest.len() < len {
            return Ok(None);
        }
        input.advance(FRAME_HEAD_BYTES);
        let bytes = input.split_to(len).to_vec();
        Ok(Some(match kind {
            b'H' => Self::Head(bytes),
            b'R' => Self::Rows(bytes),
            b'E' => Self::End,
            _ => bail!("the hub sent something else than a backup; use the `selvedge` of the hub"),
        }))
    }
}

/// Writes a backup, reads it back, and gives it its name.
pub async fn backup(args: BackupArgs) -> Result<()> {
    let data_dir = DataDir::new(args.data_dir)?;
    if !data_dir.hub().join("store").exists() {
        bail!("{} holds no hub; name its data directory with --data-dir", data_dir.path().display());
    }
    if args.to.as_os_str() == "-" {
        if io::stdout().is_terminal() {
            bail!("a backup is no text for a terminal: give `--to -` a pipe or a file, or name a file");
        }
        let (_, head) = write(&data_dir, BufWriter::new(io::stdout())).await?;
        eprintln!("{}", summary(&head));
        return Ok(());
    }
    let draft = Draft::create(&args.to)?;
    let (file, head) = write(&data_dir, BufWriter::new(draft.file())).await?;
    drop(file);
    let contents = draft.finish()?;
    println!("{}", summary(&head));
    println!("{} has {} bytes and the keys of the hub: keep it as you keep keys", args.to.display(), contents.bytes);
    Ok(())
}

fn summary(head: &Head) -> String {
    let store = &head.store;
    format!("backed up {} objects at revision {}, epoch {}", store.objects, store.revision, store.life.epoch)
}

/// The file that a name is for: where a link leads. What is no file cannot be replaced by one: a pipe's reader would wait for ever, and
/// `/dev/null` would be a file with keys.
fn target(path: &Path) -> Result<PathBuf> {
    let act = || format!("failed to look up {}", path.display());
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path.to_owned()),
        found => found.with_context(act)?,
    };
    let path = match found.is_symlink().then(|| fs::canonicalize(path)) {
        None => path.to_owned(),
        // Also what leads to a pipe, as /dev/stdout may.
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => bail!(
            "{} leads to nothing: name the file itself, or write the backup to standard output with `--to -`",
            path.display()
        ),
        Some(found) => found.with_context(act)?,
    };
    if !fs::metadata(&path).with_context(act)?.is_file() {
        bail!("{} is no file: name one, or write the backup to standard output with `--to -`", path.display());
    }
    Ok(path)
}

/// A file that is there already. An `InvalidInput` is what is none: a link, a directory, a pipe, which would be waited for.
fn left(path: &Path) -> io::Result<File> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// A file that has another name until it is complete. Who may read it is decided before its first byte.
struct Draft {
    path: PathBuf,
    draft: PathBuf,
    lock: DirLock,
    is_done: bool,
}

impl Draft {
    fn create(path: &Path) -> Result<Self> {
        let path = &target(path)?;
        let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
        let draft = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
        let act = || format!("failed to create {}", draft.display());
        let lock = |file| {
            let lock = DirLock::try_acquire_file(file).with_context(act)?;
            lock.with_context(|| format!("another backup is being written to {}", path.display()))
        };
        match left(&draft) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => bail!(
                "{} is in the way, and no backup that was cut off: remove it, or name another file",
                draft.display()
            ),
            // One that a backup left which was cut off. Its bytes are not written over: somebody may have made it, and reads along.
            left => {
                let _lock = lock(left.with_context(act)?)?;
                fs::remove_file(&draft).with_context(act)?;
            }
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&draft);
        let lock = lock(file.with_context(act)?)?;
        // The mode given to `open` is only what the umask leaves of it.
        lock.file().set_permissions(fs::Permissions::from_mode(0o600)).with_context(act)?;
        Ok(Self { path: path.to_owned(), draft, lock, is_done: false })
    }

    fn file(&self) -> &File {
        self.lock.file()
    }

    /// Reads what was written, from the disk, and gives it its name.
    fn finish(mut self) -> Result<Contents> {
        self.file().sync_all().with_context(|| format!("failed to write {}", self.draft.display()))?;
        let written = File::open(&self.draft).with_context(|| format!("failed to read {}", self.draft.display()))?;
        let contents = hub_backup::check(BufReader::new(written)).context("what was written cannot be restored")?;
        fs::rename(&self.draft, &self.path)
            .with_context(|| format!("failed to rename {} to {}", self.draft.display(), self.path.display()))?;
        self.is_done = true;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        base_fs::sync_dir(dir)?;
        Ok(contents)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_done {
            // It would be overwritten by the next one.
            let _ = fs::remove_file(&self.draft);
        }
    }
}

/// Writes a backup of the hub in a data directory.
async fn write<W: io::Write>(data_dir: &DataDir, out: W) -> Result<(W, Head)> {
    match data_dir.try_lock("hub")? {
        Some(_lock) => {
            // As at its start: keys of an older version are completed, an older format of the store is raised.
            storage::check_keys(data_dir)?;
            let store = storage::store(data_dir).await?;
            let mut backup = store.backup();
            let (mut writer, head) = begin(data_dir, backup.head().clone(), out)?;
            while let Some(rows) = backup.next_rows(ROWS_BYTES)? {
                writer.rows(&rows)?;
            }
            let out = writer.finish()?;
            storage::close(store).await;
            Ok((out, head))
        }
        None => running(data_dir, out).await.map_err(|error| explained(error, data_dir)),
    }
}

fn begin<W: io::Write>(data_dir: &DataDir, store: BackupHead, out: W) -> Result<(Writer<W>, Head)> {
    let mut keys: [Vec<u8>; KeyFile::ALL.len()] = Default::default();
    for (file, bytes) in KeyFile::ALL.into_iter().zip(&mut keys) {
        *bytes = base_fs::read_bounded(&data_dir.hub().join(file.path()), KEY_BYTES_MAX)?;
    }
    let head = Head {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        time: Timestamp::now(),
        ca_sha256: base_pki::ca_fingerprint(&String::from_utf8_lossy(&keys[0]))
            .context("failed to use the hub's CA")?,
        store,
    };
    Ok((Writer::new(out, &head, &keys)?, head))
}

/// The same of a hub that runs.
async fn running<W: io::Write>(data_dir: &DataDir, out: W) -> Result<(W, Head)> {
    let request = http::Request::get(STORE_PATH).body(kube::client::Body::empty())?;
    let answer = client(data_dir).await?.send(request).await.context("failed to read the objects of the hub")?;
    let status = answer.status();
    let mut body = std::pin::pin!(answer.into_body().into_data_stream());
    if status == http::StatusCode::CONFLICT {
        bail!("another backup of this hub is being read; try again when it is done");
    }
    if status != http::StatusCode::OK {
        bail!("{STORE_PATH} is answered with {status}; is the hub's program older than this one?");
    }
    let mut input = BytesMut::new();
    let mut out = Some(out);
    let mut begun: Option<(Writer<W>, Head)> = None;
    loop {
        let Some(frame) = Frame::take(&mut input)? else {
            let next = body.try_next().await.context("the hub stopped sending its objects; try again")?;
            input.extend_from_slice(&next.context("the hub stopped sending its objects; its log says why")?);
            continue;
        };
        begun = Some(match (frame, begun.take()) {
            (Frame::Head(head), None) => {
                let head = serde_json::from_slice(&head).context("the hub sent something else than a backup")?;
                begin(data_dir, head, out.take().expect("it begins once"))?
            }
            (Frame::Rows(rows), Some((mut writer, head))) => {
                writer.rows(&rows)?;
                (writer, head)
            }
            (Frame::End, Some((writer, head))) => return Ok((writer.finish()?, head)),
            _ => bail!("the hub sent something else than a backup; use the `selvedge` of the hub"),
        });
    }
}

/// Makes a hub of a backup, or says what a backup holds.
pub async fn restore(args: RestoreArgs) -> Result<()> {
    let name = args.file.display().to_string();
    let input: Box<dyn io::Read + Send> = match args.file.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(&args.file).with_context(|| format!("failed to open {name}"))?),
    };
    let input = BufReader::with_capacity(64 << 10, input);
    if args.check {
        let contents = hub_backup::check(input).with_context(|| format!("{name} is no whole backup"))?;
        print_contents(&name, &contents);
        return Ok(());
    }
    let data_dir = DataDir::new(args.data_dir)?;
    let dir = data_dir.path().display();
    let _lock = data_dir.lock("hub")?;
    if let Some(found) = data_dir.in_the_way().with_context(|| format!("failed to read {dir}"))? {
        bail!(
            "a backup is restored into an empty directory, and {dir} holds {}: name a new one with --data-dir, or remove what is there with `selvedge reset --data-dir {dir}`",
            found.display()
        );
    }
    let restored = hub_backup::restore(input, &data_dir.hub()).with_context(|| format!("failed to restore {name}"))?;
    let began = restored.life.restored.as_ref().map_or(0, |restored| restored.begins);
    println!(
        "restored {} objects of {:.0}, revision {}, epoch {}",
        restored.objects, restored.head.time, restored.head.store.revision, restored.head.store.life.epoch
    );
    println!("its epoch is {}, its first revision {began}: every watch from before has expired", restored.life.epoch);
    if restored.tokens > 0 {
        println!(
            "left out join tokens, which may have been used since: {}; make new ones with `selvedge token create`",
            restored.tokens
        );
    }
    let owner = fs::metadata(data_dir.path()).with_context(|| format!("failed to look up {dir}"))?.uid();
    if owner != rustix::process::geteuid().as_raw() {
        println!("what was written is yours, and {dir} is another user's: chown -R --reference={dir} {dir}");
    }
    println!("start it at its former address: selvedge hub --data-dir {dir}");
    Ok(())
}

fn print_contents(name: &str, contents: &Contents) {
    let head = &contents.head;
    let mut out = io::stdout().lock();
    let lines = [
        ("file", format!("{name}, {} bytes, format {}, whole", contents.bytes, head.format)),
        ("made", format!("{:.0} by selvedge {}", head.time, head.program)),
        ("hub", format!("CA {}", head.ca_sha256)),
        ("objects", format!("{} at revision {}", head.store.objects, head.store.revision)),
        ("epoch", head.store.life.epoch.clone()),
    ];
    for (title, text) in lines {
        // A reader that closed its pipe has what it came for.
        let _ = writeln!(out, "{title:<8} {}", base_observe::Printable(&text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_pieces_is_taken_whole_and_in_order() {
        let frames = || [Frame::Head(b"{}".to_vec()), Frame::Rows(vec![7; 300]), Frame::End];
        let bytes: Vec<u8> = frames().into_iter().flat_map(Frame::encode).collect();
        let mut input = BytesMut::new();
        let mut taken = Vec::new();
        for byte in bytes {
            input.extend_from_slice(&[byte]);
            taken.extend(Frame::take(&mut input).expect("it is a backup"));
        }
        assert_eq!(taken, frames());
        assert!(Frame::take(&mut BytesMut::from(&b"<html>"[..])).is_err());
        assert!(Frame::take(&mut BytesMut::from(&b"X\0\0\0\0"[..])).is_err());
    }

    #[test]
    fn a_backup_that_is_cut_off_leaves_the_last_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("hub.backup");
        fs::write(&path, "the last one").expect("space");
        let draft = Draft::create(&path).expect("space");
        assert!(Draft::create(&path).is_err(), "two at once");
        let mode = draft.file().metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        draft.file().write_all(b"half").expect("space");
        assert!(draft.finish().is_err());
        assert_eq!(fs::read(&path).expect("it is there"), b"the last one");
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 1);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for_and_not_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("hub.backup");
        let draft = dir.path().join(".hub.backup.new");
        let error = |path: &Path| Draft::create(path).err().expect("it is rejected").to_string();
        let pipe = || rustix::fs::mkfifoat(rustix::fs::CWD, &draft, rustix::fs::Mode::RWXU).expect("space");
        let link = || std::os::unix::fs::symlink("/dev/null", &draft).expect("space");
        for make in [&pipe as &dyn Fn(), &link] {
            make();
            assert!(error(&path).contains("is in the way"), "{}", error(&path));
            assert!(fs::symlink_metadata(&draft).is_ok(), "it is left where it is");
            fs::remove_file(&draft).expect("it is there");
        }
        std::os::unix::fs::symlink("nothing", &path).expect("space");
        assert!(error(&path).contains("leads to nothing"), "{}", error(&path));
    }
}
