//! Writes an image of the store into an archive that any other program imports.
//!
//! The store keeps no compressed layers, so they are archived again: the same files in the order of their names, in the
//! same way each time. The bytes are others than those that were pulled, therefore the layers' digests are, too, and with
//! them the configuration and the image's id. Two exports of one image are equal, and an export of an import of an export is
//! that export.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use serde_json::json;

use crate::digest::Hasher;
use crate::tar::{Entry, Kind, Writer};
use crate::unpack::OPAQUE_ATTRIBUTE;
use crate::{Digest, ImageStore, InvalidReference, StoreError};

/// What Linux stores in one attribute, and in a list of their names.
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;

/// Why an image was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is none.
    #[error("no image `{image}`")]
    NotFound {
        /// What was looked for.
        image: String,
    },
    /// Not a name.
    #[error(transparent)]
    Name(#[from] InvalidReference),
    /// The store.
    #[error("failed to read the image from the store")]
    Store(#[from] StoreError),
    /// A layer, or the archive.
    #[error("failed to write {}", path.display())]
    Io {
        /// The archive.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl ImageStore {
    /// Writes an image as a tar of an OCI layout to `path`. A file that was there is replaced when the new archive is whole; a pipe or a
    /// device is written to, and a link is followed.
    pub fn export(&self, image: &str, path: &Path) -> Result<(), ExportError> {
        let not_found = || ExportError::NotFound { image: image.to_owned() };
        let whole = self.expand_id(image);
        let found = self.resolve(whole.as_deref().unwrap_or(image))?.ok_or_else(not_found)?;
        // Held, so that nothing deletes them meanwhile.
        let held = self.hold_image(&found.id).ok_or_else(not_found)?;
        let config = self.config_bytes(&found.id)?;
        let failed = |source| ExportError::Io { path: path.to_owned(), source };
        let layers: Vec<PathBuf> = held.iter().map(|layer| self.layers_dir().join(&layer.directory)).collect();
        let write = |file: File| -> io::Result<File> {
            let mut out = io::BufWriter::with_capacity(1 << 18, file);
            write_layout(&mut out, &config, &layers, &found.names)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)
        };
        if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            return OpenOptions::new().write(true).open(path).and_then(write).map(drop).map_err(failed);
        }
        // What a link leads to is replaced, and not the link.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (file, draft) = draft_beside(&target).map_err(failed)?;
        let written = write(file).and_then(|file| file.sync_all()).and_then(|()| std::fs::rename(&draft, &target));
        if written.is_err() {
            // The error of the write is what matters.
            let _ = std::fs::remove_file(&draft);
        }
        written.map_err(failed)
    }
}

/// A new file in the directory of `path`, under a name that nobody else has.
fn draft_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut number = 0u32;
    loop {
        let mut draft = OsString::from(".");
        draft.push(name);
        draft.push(format!(".{}-{number}.new", std::process::id()));
        let draft = path.with_file_name(draft);
        match OpenOptions::new().write(true).create_new(true).open(&draft) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < u32::MAX => number += 1,
            opened => return Ok((opened?, draft)),
        }
    }
}

fn write_layout(out: &mut dyn Write, config: &[u8], layers: &[PathBuf], names: &[String]) -> io::Result<()> {
    let mut archive = Writer::new(out);
    let mut described = Vec::new();
    for layer in layers {
        let mut counted = Counted { hasher: Hasher::sha256(), bytes: 0 };
        write_layer(&mut counted, layer)?;
        let (digest, size) = (counted.hasher.finish(), counted.bytes);
        // Twice through the files: the name of a blob comes before its bytes, and there is no disk for a copy.
        let is_new = described.iter().all(|(other, _)| *other != digest);
        if is_new {
            archive.add_streamed(&blob_name(&digest), size, &mut |out| write_layer(out, layer))?;
        }
        described.push((digest, size));
    }
    let config = with_diff_ids(config, &described)?;
    let blob = |kind: &str, digest: &Digest, size: u64| json!({"mediaType": kind, "digest": digest, "size": size});
    let layer_blob = |(digest, size): &(Digest, u64)| blob("application/vnd.oci.image.layer.v1.tar", digest, *size);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", &Digest::of(&config), config.len() as u64),
        "layers": described.iter().map(layer_blob).collect::<Vec<_>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    let manifest_blob =
        || blob("application/vnd.oci.image.manifest.v1+json", &Digest::of(&manifest), manifest.len() as u64);
    let named = |name: &String| {
        let mut entry = manifest_blob();
        // containerd and Docker read the first, skopeo and podman the second.
        entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        entry
    };
    let entries: Vec<_> = if names.is_empty() { vec![manifest_blob()] } else { names.iter().map(named).collect() };
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string().into_bytes();
    for (name, bytes) in [
        (blob_name(&Digest::of(&config)), config.as_slice()),
        (blob_name(&Digest::of(&manifest)), manifest.as_slice()),
        ("index.json".to_owned(), index.as_slice()),
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#),
    ] {
        archive.add(&file_entry(&name, bytes.len() as u64), &mut &*bytes)?;
    }
    archive.finish()
}

/// The configuration with the digests of the layers as they are written here.
fn with_diff_ids(config: &[u8], layers: &[(Digest, u64)]) -> io::Result<Vec<u8>> {
    let mut document: serde_json::Value = serde_json::from_slice(config)?;
    let diff_ids: Vec<&Digest> = layers.iter().map(|(digest, _)| digest).collect();
    document["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
    // It counts layers as they were built; twice the same one is here once.
    if let Some(document) = document.as_object_mut() {
        document.remove("history");
    }
    Ok(document.to_string().into_bytes())
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn file_entry(name: &str, size: u64) -> Entry {
    Entry { path: name.as_bytes().to_vec(), size, ..Entry::plain(Kind::File, 0o644) }
}

struct Counted {
    hasher: Hasher,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Archives a layer's directory.
fn write_layer(out: &mut dyn Write, dir: &Path) -> io::Result<()> {
    let root = rustix::fs::open(dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut walk = Walk { archive: Writer::new(out), links: HashMap::new() };
    let stat = rustix::fs::fstat(&root)?;
    walk.add_directory(root, b"./", &stat)?;
    walk.archive.finish()
}

struct Walk<'a> {
    archive: Writer<'a>,
    /// The first name of each file that has several.
    links: HashMap<u64, Vec<u8>>,
}

impl Walk<'_> {
    /// A directory and what is in it, by name. No deeper than the unpacker lets a layer be.
    fn add_directory(&mut self, dir: OwnedFd, path: &[u8], stat: &Stat) -> io::Result<()> {
        let mut entry = described(path, stat);
        entry.xattrs = attributes(&dir)?;
        self.archive.add(&entry, &mut io::empty())?;
        let prefix = if path == b"./" { &[][..] } else { path };
        let mut value = [0; 2];
        if rustix::fs::fgetxattr(&dir, OPAQUE_ATTRIBUTE, &mut value) == Ok(1) && value[0] == b'y' {
            self.add_whiteout([prefix, b".wh..wh..opq"].concat())?;
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        for found in Dir::read_from(&dir)? {
            let name = found?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            self.add(&dir, &name, prefix)?;
        }
        Ok(())
    }

    fn add(&mut self, dir: &OwnedFd, name: &[u8], prefix: &[u8]) -> io::Result<()> {
        let at = OsStr::from_bytes(name);
        let stat = rustix::fs::statat(dir, at, AtFlags::SYMLINK_NOFOLLOW)?;
        let path = [prefix, name].concat();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let open = |flags| {
            rustix::fs::openat(dir, at, flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        };
        if kind.is_dir() {
            return self.add_directory(open(OFlags::DIRECTORY)?, &[path.as_slice(), b"/"].concat(), &stat);
        }
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return self.add_whiteout([prefix, b".wh.", name].concat());
        }
        let mut entry = described(&path, &stat);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&stat.st_ino) {
                (entry.kind, entry.size, entry.link) = (Kind::HardLink, 0, first.clone());
                return self.archive.add(&entry, &mut io::empty());
            }
            self.links.insert(stat.st_ino, path);
        }
        if kind.is_symlink() {
            entry.link = rustix::fs::readlinkat(dir, at, Vec::new())?.into_bytes();
        }
        if !kind.is_file() {
            return self.archive.add(&entry, &mut io::empty());
        }
        let file = open(OFlags::empty())?;
        entry.xattrs = attributes(&file)?;
        self.archive.add(&entry, &mut File::from(file))
    }

    fn add_whiteout(&mut self, path: Vec<u8>) -> io::Result<()> {
        self.archive.add(&Entry { path, ..Entry::plain(Kind::File, 0) }, &mut io::empty())
    }
}

fn described(path: &[u8], stat: &Stat) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::Character,
        FileType::BlockDevice => Kind::Block,
        FileType::Fifo => Kind::Fifo,
        _ => Kind::File,
    };
    Entry {
        kind,
        path: path.to_vec(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        size: if kind == Kind::File { stat.st_size as u64 } else { 0 },
        ..Entry::plain(kind, 0)
    }
}

/// The attributes that the unpacker would keep, by name.
fn attributes(file: &OwnedFd) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut buffer = vec![0; ATTRIBUTE_BYTES_MAX];
    let length = match rustix::fs::flistxattr(file, &mut buffer) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names = buffer[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    let mut names: Vec<String> = names.filter(|name| crate::unpack::is_kept(name)).map(str::to_owned).collect();
    names.sort();
    let mut found = Vec::new();
    for name in names {
        let length = rustix::fs::fgetxattr(file, name.as_str(), &mut buffer)?;
        found.push((name, buffer[..length].to_vec()));
    }
    Ok(found)
}
