//! `selvedge image`: images of containers, by the node that runs on the data directory or, where none does, in its store itself.
//!
//! A node has its store locked, so it is asked over its status socket; archives are named by absolute paths, which it reads and
//! writes. Without a node this process holds the lock of one meanwhile.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use base_fs::DirLock;
use base_observe::Printable;
use hyper::Method;
use node_kubelet::{IMAGES_BYTES_MAX, ImageError, ImageList, ImageRequest, ImagesRemoved};
use node_runtime::{ImageInfo, NodeImages};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cli::{ImageCommand, ImageStoreArgs, Output};
use crate::config::NodeConfig;
use crate::paths::DataDir;

/// Digits of an id in the table, and the width of its columns: as others have them.
const ID_DIGITS: usize = 13;
const COLUMN_MIN: usize = 20;
const COLUMN_GAP: usize = 3;

/// Who has the images.
enum Store {
    Node(PathBuf),
    Here { images: Arc<NodeImages>, data_dir: DataDir, _lock: DirLock },
}

/// Runs one of the commands.
pub async fn image(command: ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Pull(args) => {
            let store = Store::open(args.store, args.config.as_deref(), true)?;
            for image in store.pull(args.image).await? {
                println!("pulled {}", described(&image));
            }
        }
        ImageCommand::Import(args) => {
            let store = Store::open(args.store, None, true)?;
            for path in args.paths {
                let imported = store.import(absolute(path)?).await?;
                imported.iter().for_each(|image| println!("imported {}", described(image)));
            }
        }
        ImageCommand::Export(args) => {
            let store = Store::open(args.store, None, false)?;
            let path = absolute(args.path)?;
            store.export(args.image.clone(), path.clone()).await?;
            println!("exported {} to {}", args.image, path.display());
        }
        ImageCommand::Ls(args) => {
            let images = Store::open(args.store, None, false)?.list().await?;
            match args.output {
                Output::Json => println!("{}", serde_json::to_string_pretty(&json!({"version": 1, "images": images}))?),
                Output::Text => print!("{}", table(&images)),
            }
        }
        ImageCommand::Rm(args) => {
            let store = Store::open(args.store, None, false)?;
            for image in args.images {
                let removed = store.remove(image.clone()).await?;
                match removed.images.is_empty() {
                    true => println!("removed the name {image}; the image has others"),
                    false => println!("removed {image}, {} freed", size(removed.bytes_freed)),
                }
            }
        }
    }
    Ok(())
}

impl Store {
    /// `creates` when a store that is not there is made: a box may get its images before its node runs for the first time.
    fn open(args: ImageStoreArgs, config: Option<&Path>, creates: bool) -> Result<Self> {
        let data_dir = DataDir::new(args.data_dir)?;
        let socket = crate::status::node_socket(&data_dir);
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            return Ok(Self::Node(socket));
        }
        if !rustix::process::geteuid().is_root() {
            bail!(
                "no node that this user may ask runs on {}; images are root's, try with sudo",
                data_dir.path().display()
            );
        }
        let is_new = !data_dir.node().join("images").exists();
        if is_new && !creates {
            bail!("{} holds no images; name the data directory of a node with --data-dir", data_dir.path().display());
        }
        let config: NodeConfig = base_config::load(config, NodeConfig::ENV)?;
        let lock = data_dir.lock("node")?;
        let images = crate::node::open_images(&data_dir, &config)?.context("images are root's, try with sudo")?;
        if is_new {
            // Whoever has a node on another data directory, and left it out, would look for the images there in vain.
            eprintln!(
                "note: no node runs on {dir}, and it held no images: a new store was created there; name the data directory of your node with --data-dir if it is another one",
                dir = data_dir.path().display()
            );
        }
        Ok(Self::Here { images, data_dir, _lock: lock })
    }

    async fn pull(&self, image: String) -> Result<Vec<ImageInfo>> {
        match self {
            Self::Node(socket) => Ok(ask::<ImageList>(socket, "/pull", image, PathBuf::new()).await?.images),
            Self::Here { images, .. } => Ok(vec![images.pull_named(&image).await?]),
        }
    }

    async fn import(&self, path: PathBuf) -> Result<Vec<ImageInfo>> {
        match self {
            Self::Node(socket) => Ok(ask::<ImageList>(socket, "/import", String::new(), path).await?.images),
            Self::Here { images, .. } => Ok(images.import(&path)?),
        }
    }

    async fn export(&self, image: String, path: PathBuf) -> Result<()> {
        match self {
            // Pipes and /dev/stdout are this process', and the node is another one.
            Self::Node(_) if std::fs::metadata(&path).is_ok_and(|meta| !meta.is_file()) => {
                bail!("{} is no file, and a node that runs writes into files only; name one", path.display())
            }
            Self::Node(socket) => ask::<ImageList>(socket, "/export", image, path).await.map(|_| ()),
            Self::Here { images, .. } => Ok(images.export(&image, &path)?),
        }
    }

    async fn list(&self) -> Result<Vec<ImageInfo>> {
        match self {
            Self::Node(socket) => Ok(call::<ImageList>(socket, Method::GET, "/images", Vec::new()).await?.images),
            Self::Here { images, .. } => Ok(images.list()),
        }
    }

    async fn remove(&self, image: String) -> Result<ImagesRemoved> {
        match self {
            Self::Node(socket) => ask(socket, "/remove", image, PathBuf::new()).await,
            Self::Here { images, data_dir, .. } => {
                // The containers of a node that was killed run on.
                let _containers = crate::node::adopt_containers(data_dir, images)?;
                let removed = images.remove(&image)?;
                Ok(ImagesRemoved { images: removed.images, bytes_freed: removed.bytes_freed })
            }
        }
    }
}

async fn ask<T: DeserializeOwned>(socket: &Path, action: &str, image: String, path: PathBuf) -> Result<T> {
    let request = serde_json::to_vec(&ImageRequest { image, path }).context("the path is not UTF-8")?;
    call(socket, Method::POST, &format!("/images{action}"), request).await
}

async fn call<T: DeserializeOwned>(socket: &Path, method: Method, path: &str, body: Vec<u8>) -> Result<T> {
    let answered = crate::socket::call(socket, method, path, body, IMAGES_BYTES_MAX).await;
    let (status, body) = answered.context("the node cannot be asked")?;
    if !status.is_success() {
        let error: ImageError = serde_json::from_slice(&body)
            .with_context(|| format!("the node answers with {status}; is its program older than this one?"))?;
        bail!(error.error);
    }
    serde_json::from_slice(&body).context("the node's answer cannot be read; is its program older than this one?")
}

/// Imports the archives `DIR/*.tar` by the node that runs on `data_dir`; answers how many images they have. A directory that is not
/// there has none.
pub async fn import_by_node(data_dir: &DataDir, dir: &Path) -> Result<usize> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(0) };
    let mut archives: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    archives.retain(|path| path.extension().is_some_and(|extension| extension == "tar"));
    archives.sort();
    let store = Store::Node(crate::status::node_socket(data_dir));
    let mut count = 0;
    for archive in archives {
        let imported = store.import(absolute(archive)?).await?;
        count += imported.len();
    }
    Ok(count)
}

/// The node does not know where this command was typed.
fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).with_context(|| format!("failed to resolve {}", path.display()))
}

fn described(image: &ImageInfo) -> String {
    let names = if image.names.is_empty() { &image.repo_digests } else { &image.names };
    let names = if names.is_empty() { "an image without a name".to_owned() } else { names.join(", ") };
    format!("{} ({}, {})", Printable(&names), short(&image.id), size(image.size_bytes))
}

fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(ID_DIGITS).collect()
}

/// As `crictl images` prints it.
fn table(images: &[ImageInfo]) -> String {
    let mut rows: Vec<[String; 4]> = Vec::new();
    for image in images {
        let row = |name: &str, tag: &str| {
            [Printable(name).to_string(), Printable(tag).to_string(), short(&image.id), size(image.size_bytes)]
        };
        // A tag has no slash, so that the port of a registry is none.
        let split = image.names.iter().map(|name| name.rsplit_once(':').unwrap_or((name, "<none>")));
        rows.extend(split.map(|(name, tag)| row(name, tag)));
        if image.names.is_empty() {
            let name = image.repo_digests.first().and_then(|name| name.split('@').next());
            rows.push(row(name.unwrap_or("<none>"), "<none>"));
        }
    }
    rows.sort();
    rows.insert(0, ["IMAGE", "TAG", "IMAGE ID", "SIZE"].map(str::to_owned));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count() + COLUMN_GAP).max().unwrap_or(0);
    let widths = [0, 1, 2].map(|column| width(column).max(COLUMN_MIN));
    let mut out = String::new();
    for [name, tag, id, size] in &rows {
        let [first, second, third] = widths;
        let _ = writeln!(out, "{name:first$}{tag:second$}{id:third$}{size}");
    }
    out
}

/// Three digits with a decimal unit: `4.32MB`.
fn size(bytes: u64) -> String {
    let (mut size, mut unit) = (bytes as f64, "B");
    for larger in ["kB", "MB", "GB", "TB"] {
        if size < 1000.0 {
            break;
        }
        (size, unit) = (size / 1000.0, larger);
    }
    let decimals = match size {
        _ if unit == "B" => 0,
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    format!("{size:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, expected) in
            [(0, "0B"), (999, "999B"), (4_324_000, "4.32MB"), (43_240_000, "43.2MB"), (432_400_000, "432MB")]
        {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn images_are_listed_as_with_crictl() {
        let image = |names: &[&str], digests: &[&str]| ImageInfo {
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            repo_digests: digests.iter().map(|name| (*name).to_owned()).collect(),
            size_bytes: 4_324_000,
            used_by: Vec::new(),
        };
        let listed = table(&[
            image(&["localhost:5000/app:1"], &[]),
            image(&["docker.io/library/busybox:1.37", "docker.io/library/busybox:latest"], &[]),
            image(&[], &["quay.io/app@sha256:00"]),
            image(&[], &[]),
        ]);
        let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        let row = |name, tag| vec![name, tag, "0123456789abc", "4.32MB"];
        assert_eq!(rows[0], ["IMAGE", "TAG", "IMAGE", "ID", "SIZE"]);
        assert_eq!(
            rows[1..],
            [
                row("<none>", "<none>"),
                row("docker.io/library/busybox", "1.37"),
                row("docker.io/library/busybox", "latest"),
                row("localhost:5000/app", "1"),
                row("quay.io/app", "<none>"),
            ]
        );
        let starts: Vec<Option<usize>> =
            ["IMAGE", "TAG", "IMAGE ID", "SIZE"].iter().map(|word| listed.find(word)).collect();
        assert_eq!(starts, [Some(0), Some(28), Some(48), Some(68)], "{listed}");
    }
}
