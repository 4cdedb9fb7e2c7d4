//! Archives of images: an OCI layout as a directory or tar, or what `docker save` wrote.
//!
//! Nothing is copied out of a tar: one pass notes where each member is, and members are read from there. A compressed archive
//! is decompressed into a draft of the store first. Today's Docker writes both formats into one archive; then the layout is
//! read, and `manifest.json` gives it more names.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::decode::Decoder;
use crate::manifest::{DOCUMENT_BYTES_MAX, Descriptor, Document, DocumentError, Manifest};
use crate::tar::{self, Kind, TarError};
use crate::{Digest, Platform, Reference};

/// Members of an archive: three for each layer in the old format.
const MEMBERS_MAX: usize = 10_000;
/// Indexes lead to indexes; more than this is a loop or a prank.
const DEPTH_MAX: u32 = 4;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The archive itself.
    #[error("failed to read {}", path.display())]
    Archive {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TarError,
    },
    /// A member is missing, too large or no file.
    #[error("member `{name}` of the archive {reason}")]
    Member {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A document of the archive.
    #[error("failed to read `{name}` of the archive")]
    Document {
        /// Its name.
        name: String,
        /// What is wrong.
        #[source]
        source: DocumentError,
    },
}

/// One image of an archive.
pub(crate) struct Found {
    pub(crate) names: Vec<Reference>,
    /// Of the manifest, and of the index that leads to it.
    pub(crate) digests: Vec<Digest>,
    /// The configuration's bytes, whose digest is the id.
    pub(crate) config: Vec<u8>,
    /// Where the layers are, lowest first, and the digests of their blobs where the archive names one.
    pub(crate) layers: Vec<(String, Option<Digest>)>,
}

/// An opened archive.
pub(crate) enum Archive {
    Directory(PathBuf),
    Tar { path: PathBuf, members: HashMap<String, Member> },
}

pub(crate) enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// Old archives have a layer once and links to it.
    Link(String),
}

impl Archive {
    /// Looks at what `path` is. `draft` is where a compressed archive may be decompressed to, up to `bytes_max`.
    pub(crate) fn open(path: &Path, draft: &Path, bytes_max: u64) -> Result<Self, LayoutError> {
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let failed = |source: TarError| LayoutError::Archive { path: path.to_owned(), source };
        let file = File::open(path).map_err(|error| failed(error.into()))?;
        let path = match Decoder::new(file).map_err(|error| failed(error.into()))? {
            Decoder::Plain(_) => path.to_owned(),
            decoder => {
                let mut bounded = decoder.take(bytes_max.saturating_add(1));
                let copied = File::create(draft).and_then(|mut draft| io::copy(&mut bounded, &mut draft));
                if copied.map_err(|error| failed(error.into()))? > bytes_max {
                    return Err(failed(TarError::Limit("it is compressed and too large")));
                }
                draft.to_owned()
            }
        };
        let members = File::open(&path).map_err(TarError::Read).and_then(list).map_err(failed)?;
        Ok(Self::Tar { path, members })
    }

    /// The images for `platform`.
    pub(crate) fn images(&self, platform: &Platform) -> Result<Vec<Found>, LayoutError> {
        let docker = self.docker_images();
        if !self.has("index.json") {
            return docker;
        }
        let mut images = self.oci_images(platform)?;
        for named in docker.unwrap_or_default() {
            if let Some(image) = images.iter_mut().find(|image| image.config == named.config) {
                image.names.extend(named.names);
            }
        }
        for image in &mut images {
            image.names.sort();
            image.names.dedup();
        }
        Ok(images)
    }

    /// Opens a member to be read from its beginning.
    pub(crate) fn open_member(&self, name: &str) -> Result<Box<dyn Read + Send>, LayoutError> {
        match self {
            Self::Directory(path) => {
                let path = path.join(name);
                let file = File::open(&path).and_then(|file| match file.metadata()?.is_file() {
                    true => Ok(file),
                    false => Err(io::Error::from(io::ErrorKind::IsADirectory)),
                });
                let failed = |error: io::Error| LayoutError::Archive { path, source: error.into() };
                Ok(Box::new(file.map_err(failed)?))
            }
            Self::Tar { path, members } => {
                let (offset, size) = find(members, name)?;
                let opened = File::open(path).and_then(|mut file| file.seek(SeekFrom::Start(offset)).map(|_| file));
                let failed = |error: io::Error| LayoutError::Archive { path: path.clone(), source: error.into() };
                Ok(Box::new(opened.map_err(failed)?.take(size)))
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(path) => path.join(name).is_file(),
            Self::Tar { members, .. } => members.contains_key(name),
        }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, LayoutError> {
        let mut bytes = Vec::new();
        let read = self.open_member(name)?.take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| LayoutError::Archive { path: self.path().to_owned(), source: error.into() })?;
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(LayoutError::Member { name: name.to_owned(), reason: "is larger than 4 MiB" });
        }
        Ok(bytes)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Tar { path, .. } => path,
        }
    }

    fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, LayoutError> {
        let name = blob_name(digest);
        let bytes = self.read(&name)?;
        if digest.matches(&bytes) {
            return Ok(bytes);
        }
        Err(LayoutError::Member { name, reason: "does not have the digest that is its name" })
    }

    fn oci_images(&self, platform: &Platform) -> Result<Vec<Found>, LayoutError> {
        let index = self.document("index.json", &self.read("index.json")?)?;
        let Document::Index(entries) = index else {
            return Err(LayoutError::Member { name: "index.json".to_owned(), reason: "is no index" });
        };
        // Entries of one name for several platforms are one image, as those of an index are.
        let mut groups: Vec<(Vec<Reference>, Vec<Descriptor>)> = Vec::new();
        for entry in entries {
            let names = names_of(&entry);
            match groups.iter_mut().find(|(other, _)| *other == names) {
                Some((_, entries)) => entries.push(entry),
                None => groups.push((names, vec![entry])),
            }
        }
        let mut images: Vec<Found> = Vec::new();
        for (names, entries) in groups {
            let (manifest, digests) = self.choose(&entries, platform, "index.json", DEPTH_MAX)?;
            let config = self.read_blob(&manifest.config.digest)?;
            if let Some(same) = images.iter_mut().find(|image| image.config == config) {
                same.names.extend(names);
                same.digests.extend(digests);
                continue;
            }
            let layers = manifest.layers.into_iter().map(|layer| (blob_name(&layer.digest), Some(layer.digest)));
            images.push(Found { names, digests, config, layers: layers.collect() });
        }
        Ok(images)
    }

    fn choose(
        &self,
        entries: &[Descriptor],
        platform: &Platform,
        name: &str,
        depth_left: u32,
    ) -> Result<(Manifest, Vec<Digest>), LayoutError> {
        let of_document = |source| LayoutError::Document { name: name.to_owned(), source };
        if depth_left == 0 {
            return Err(of_document(DocumentError::Meaning("indexes lead to indexes without an end")));
        }
        let chosen = platform.choose(entries).map_err(of_document)?;
        let name = blob_name(&chosen.digest);
        let (manifest, mut digests) = match self.document(&name, &self.read_blob(&chosen.digest)?)? {
            Document::Manifest(manifest) => (manifest, Vec::new()),
            Document::Index(entries) => self.choose(&entries, platform, &name, depth_left - 1)?,
        };
        digests.push(chosen.digest.clone());
        Ok((manifest, digests))
    }

    fn document(&self, name: &str, bytes: &[u8]) -> Result<Document, LayoutError> {
        Document::parse(bytes).map_err(|source| LayoutError::Document { name: name.to_owned(), source })
    }

    fn docker_images(&self) -> Result<Vec<Found>, LayoutError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Entry {
            config: String,
            #[serde(default)]
            repo_tags: Option<Vec<String>>,
            #[serde(default)]
            layers: Vec<String>,
        }
        const NAME: &str = "manifest.json";
        if !self.has(NAME) {
            let reason = "is missing, and so is `index.json`: it is no archive of images";
            return Err(LayoutError::Member { name: NAME.to_owned(), reason });
        }
        let entries: Vec<Entry> = serde_json::from_slice(&self.read(NAME)?)
            .map_err(|error| LayoutError::Document { name: NAME.to_owned(), source: error.into() })?;
        let found = entries.into_iter().map(|entry| {
            let names = entry.repo_tags.unwrap_or_default();
            let names = names.iter().filter_map(|name| Reference::parse(name).ok()).collect();
            let is_safe = |name: &String| !name.split('/').any(|part| part == "..") && !name.starts_with('/');
            if let Some(name) = entry.layers.iter().chain([&entry.config]).find(|name| !is_safe(name)) {
                return Err(LayoutError::Member { name: name.clone(), reason: "lies outside of the archive" });
            }
            let layers = entry.layers.into_iter().map(|layer| (layer, None)).collect();
            Ok(Found { names, digests: Vec::new(), config: self.read(&entry.config)?, layers })
        });
        found.collect()
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// What an entry of a layout is called: containerd and Docker write the whole name, skopeo and podman a name with its tag,
/// the specification a tag alone, which is no name.
fn names_of(entry: &Descriptor) -> Vec<Reference> {
    let annotation = |key: &str| entry.annotations.get(key).map(String::as_str);
    let short = annotation("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']));
    let name = annotation("io.containerd.image.name").or(short);
    name.and_then(|name| Reference::parse(name).ok()).into_iter().collect()
}

/// Notes where each member is.
fn list(file: File) -> Result<HashMap<String, Member>, TarError> {
    let mut members = HashMap::new();
    let mut reader = tar::Reader::new(BufReader::new(file));
    // Past the end of the file a seek succeeds; the next header is not there then.
    let skip = |file: &mut BufReader<File>, bytes: u64| file.seek_relative(bytes.cast_signed());
    while let Some(entry) = reader.next(skip)? {
        if members.len() == MEMBERS_MAX {
            return Err(TarError::Limit("it has more than 10,000 members"));
        }
        let Ok(name) = String::from_utf8(entry.path) else { continue };
        let name = name.trim_start_matches("./").to_owned();
        let target = String::from_utf8_lossy(&entry.link).into_owned();
        let member = match entry.kind {
            Kind::File if entry.sparse.is_none() => {
                Member::File { offset: reader.inner().stream_position()?, size: entry.size }
            }
            Kind::HardLink => Member::Link(target.trim_start_matches("./").to_owned()),
            Kind::Symlink => Member::Link(beside(&name, &target)),
            _ => continue,
        };
        members.insert(name, member);
    }
    Ok(members)
}

/// The target of a symbolic link called `name`.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn find(members: &HashMap<String, Member>, name: &str) -> Result<(u64, u64), LayoutError> {
    let mut at = name.trim_start_matches("./");
    for _ in 0..8 {
        match members.get(at) {
            Some(Member::File { offset, size }) => return Ok((*offset, *size)),
            Some(Member::Link(target)) => at = target,
            None => return Err(LayoutError::Member { name: name.to_owned(), reason: "is missing" }),
        }
    }
    Err(LayoutError::Member { name: name.to_owned(), reason: "is a link without an end" })
}

#[cfg(test)]
mod tests;
