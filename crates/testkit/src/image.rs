//! Images of containers, made from lists of entries: whole ones, and such as nobody would build who means well.
//!
//! The archives are written by hand, byte by byte, because libraries refuse to write what a hostile one contains.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde_json::{Value, json};

/// Of every entry that does not say otherwise.
pub const MTIME: i64 = 1_700_000_000;

/// One entry of a layer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As it is written into the archive.
    pub path: Vec<u8>,
    /// The type flag of ustar: `0` a file, `5` a directory.
    pub kind: u8,
    /// Permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Target of a link.
    pub link: Vec<u8>,
    /// Major and minor number.
    pub device: (u32, u32),
    /// Of a file.
    pub content: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(path: impl AsRef<[u8]>, kind: u8, mode: u32) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            kind,
            mode,
            owner: (0, 0),
            mtime: (MTIME, 0),
            link: Vec::new(),
            device: (0, 0),
            content: Vec::new(),
            xattrs: Vec::new(),
        }
    }

    /// A file.
    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self { content: content.as_ref().to_vec(), ..Self::new(path, b'0', 0o644) }
    }

    /// A directory.
    pub fn directory(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, b'5', 0o755)
    }

    /// A symbolic link.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(path, b'2', 0o777) }
    }

    /// Another name of a file.
    pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(path, b'1', 0o644) }
    }

    /// A named pipe.
    pub fn fifo(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, b'6', 0o600)
    }

    /// A character device.
    pub fn device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self { device: (major, minor), ..Self::new(path, b'3', 0o600) }
    }

    /// Hides `name` of the layers below, in the directory `dir` (with a slash at its end, or empty).
    pub fn whiteout(dir: &str, name: &str) -> Self {
        Self::file(format!("{dir}.wh.{name}"), "")
    }

    /// Hides all that the layers below have in `dir` (with a slash at its end).
    pub fn opaque(dir: &str) -> Self {
        Self::file(format!("{dir}.wh..wh..opq"), "")
    }

    /// With these permissions.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Of this user and group.
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// Of this time.
    #[must_use]
    pub fn mtime(mut self, seconds: i64, nanos: u32) -> Self {
        self.mtime = (seconds, nanos);
        self
    }

    /// With an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.xattrs.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    fn write(&self, archive: &mut Vec<u8>) {
        let mut records = Vec::new();
        if self.path.len() > 100 {
            record(&mut records, "path", &self.path);
        }
        if self.link.len() > 100 {
            record(&mut records, "linkpath", &self.link);
        }
        if self.mtime.1 != 0 || self.mtime.0 < 0 {
            record(&mut records, "mtime", format!("{}.{:09}", self.mtime.0, self.mtime.1).as_bytes());
        }
        for (name, value) in &self.xattrs {
            record(&mut records, &format!("SCHILY.xattr.{name}"), value);
        }
        if !records.is_empty() {
            let extension = Self { content: records, ..Self::new("PaxHeaders/x", b'x', 0o644) };
            extension.write_plain(archive);
        }
        self.write_plain(archive);
    }

    fn write_plain(&self, archive: &mut Vec<u8>) {
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8], most: usize| {
            let length = bytes.len().min(most);
            header[at..at + length].copy_from_slice(&bytes[..length]);
        };
        put(0, &self.path, 100);
        put(100, format!("{:07o}", self.mode).as_bytes(), 7);
        put(108, format!("{:07o}", self.owner.0).as_bytes(), 7);
        put(116, format!("{:07o}", self.owner.1).as_bytes(), 7);
        put(124, format!("{:011o}", self.content.len()).as_bytes(), 11);
        put(136, format!("{:011o}", self.mtime.0.max(0)).as_bytes(), 11);
        put(148, b"        ", 8);
        put(156, &[self.kind], 1);
        put(157, &self.link, 100);
        put(257, b"ustar\x0000", 8);
        put(329, format!("{:07o}", self.device.0).as_bytes(), 7);
        put(337, format!("{:07o}", self.device.1).as_bytes(), 7);
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(&self.content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
}

/// A record of an extended header: its length counts itself.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() > rest.to_string().len() {
        length += 1;
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// A tar archive of these entries.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        entry.write(&mut archive);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// As most images are.
    Gzip,
    /// As newer ones are.
    Zstd,
}

impl Compression {
    /// Compresses a layer.
    pub fn compress(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::None => bytes.to_vec(),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).expect("memory takes it");
                encoder.finish().expect("memory takes it")
            }
            Self::Zstd => ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An image while it is put together. Everything can be changed before it is built, so that it can be broken.
#[derive(Clone, Debug)]
pub struct Image {
    /// Archives, lowest first, and how each is compressed.
    pub layers: Vec<(Vec<u8>, Compression)>,
    /// `config` of the configuration: `Env`, `Cmd`, …
    pub config: Value,
    /// `architecture`, `os`, `variant`.
    pub platform: Value,
    /// What the configuration says of the layers' contents, where that is not what it is.
    pub diff_ids: Option<Vec<String>>,
}

impl Image {
    /// An image without layers, for this machine.
    pub fn new() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let platform = json!({"architecture": architecture, "os": "linux"});
        Self { layers: Vec::new(), config: json!({}), platform, diff_ids: None }
    }

    /// An image with Debian's static busybox and links to its applets, or `None` where it is not installed.
    pub fn busybox() -> Option<Self> {
        let busybox = fs::read("/bin/busybox").ok()?;
        const APPLETS: &str = "sh ls cat echo sleep id env ps mount grep dd head tail wc stat touch mkdir rm true false tty stty \
             ping ip nc wget nslookup hostname ln kill seq sed find df free date chmod chown httpd test printf readlink";
        let mut entries = vec![
            Entry::directory("bin/"),
            Entry::directory("etc/"),
            Entry::directory("tmp/").mode(0o1777),
            Entry::directory("home/app/").owner(1000, 1000),
            Entry::file("bin/busybox", busybox).mode(0o755),
            Entry::file("etc/passwd", "root:x:0:0:root:/:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n"),
            Entry::file("etc/group", "root:x:0:\napp:x:1000:\nextra:x:2000:app\n"),
        ];
        entries.extend(APPLETS.split_whitespace().map(|name| Entry::symlink(format!("bin/{name}"), "busybox")));
        let config = json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]});
        Some(Self { config, ..Self::new() }.layer(&entries, Compression::Gzip))
    }

    /// With one more layer on top.
    #[must_use]
    pub fn layer(mut self, entries: &[Entry], compression: Compression) -> Self {
        self.layers.push((archive(entries), compression));
        self
    }

    /// With this configuration: `Env`, `Cmd`, …
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = config;
        self
    }

    /// The configuration's bytes.
    pub fn config_bytes(&self) -> Vec<u8> {
        let actual = || self.layers.iter().map(|(archive, _)| digest(archive)).collect();
        let diff_ids = self.diff_ids.clone().unwrap_or_else(actual);
        let mut document = self.platform.clone();
        document["config"] = self.config.clone();
        document["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        document.to_string().into_bytes()
    }

    /// `sha256:…` of the configuration.
    pub fn id(&self) -> String {
        digest(&self.config_bytes())
    }

    /// Blobs with their media types: the manifest first, then the configuration, then the layers.
    pub fn blobs(&self) -> Vec<(&'static str, Vec<u8>)> {
        let described =
            |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
        let config = ("application/vnd.oci.image.config.v1+json", self.config_bytes());
        let layers =
            self.layers.iter().map(|(archive, compression)| (compression.media_type(), compression.compress(archive)));
        let layers: Vec<_> = layers.collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described(config.0, &config.1),
            "layers": layers.iter().map(|(kind, blob)| described(kind, blob)).collect::<Vec<_>>(),
        });
        let manifest = ("application/vnd.oci.image.manifest.v1+json", manifest.to_string().into_bytes());
        [manifest, config].into_iter().chain(layers).collect()
    }

    /// Writes an OCI layout into the directory `path`, which is created.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_layout(&self, path: &Path, name: &str) -> io::Result<()> {
        for (file, bytes) in self.layout(name) {
            let file = path.join(file);
            fs::create_dir_all(file.parent().expect("a file is in a directory"))?;
            fs::write(file, bytes)?;
        }
        Ok(())
    }

    /// An OCI layout as a tar.
    pub fn layout_tar(&self, name: &str) -> Vec<u8> {
        let entries: Vec<Entry> = self.layout(name).into_iter().map(|(file, bytes)| Entry::file(file, bytes)).collect();
        archive(&entries)
    }

    /// What `docker save` wrote before it knew layouts.
    pub fn docker_archive(&self, name: &str) -> Vec<u8> {
        let config = format!("{}.json", self.id().trim_start_matches("sha256:"));
        let layers: Vec<String> = (0..self.layers.len()).map(|number| format!("{number}/layer.tar")).collect();
        let manifest = json!([{"Config": config, "RepoTags": [name], "Layers": layers}]);
        let mut entries = vec![Entry::file(config, self.config_bytes())];
        entries.extend(layers.iter().zip(&self.layers).map(|(name, (archive, _))| Entry::file(name, archive)));
        entries.push(Entry::file("manifest.json", manifest.to_string()));
        archive(&entries)
    }

    fn layout(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let blobs = self.blobs();
        let (kind, manifest) = &blobs[0];
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": kind, "digest": digest(manifest), "size": manifest.len(), "platform": self.platform,
            "annotations": {"io.containerd.image.name": name},
        }]});
        let mut files = vec![
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), index.to_string().into_bytes()),
        ];
        let path = |blob: &[u8]| format!("blobs/{}", digest(blob).replace(':', "/"));
        files.extend(blobs.into_iter().map(|(_, blob)| (path(&blob), blob)));
        files
    }
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}
