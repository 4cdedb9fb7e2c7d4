//! Replaces the files of a folder all at once.
//!
//! What a reader sees are links through `..data`, itself a link to the folder of the present version; one rename moves
//! all of them to the next version. The layout is Kubernetes' own, and programs watch for it:
//!
//! ```text
//! volume/app.conf -> ..data/app.conf
//! volume/..data   -> ..1f3a9c2b7d1e0a44
//! volume/..1f3a9c2b7d1e0a44/app.conf
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
    /// Whose it is, where permitted; else the kubelet's own.
    pub owner: Option<u32>,
}

/// Files by their path in the volume; no path is absolute, leads upwards or begins with `..`.
pub(crate) type Content = BTreeMap<String, File>;

const DATA: &str = "..data";

/// Makes `content` the content of `dir`; does nothing when it is already. `group` becomes the files' group where permitted.
pub(crate) fn write(dir: &Path, content: &Content, group: Option<u32>) -> io::Result<()> {
    let data = dir.join(DATA);
    if data.exists() && is_same(&read(&data)?, content) {
        return link_all(dir, content);
    }
    let version = format!("..{}", &uuid::Uuid::new_v4().simple().to_string()[..16]);
    let folder = dir.join(&version);
    std::fs::create_dir(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in content {
        let target = folder.join(path);
        // Like the directory itself, whatever the umask: the container may run as another user.
        for parent in Path::new(path)
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
            .collect::<Vec<_>>()
            .iter()
            .rev()
        {
            let parent = folder.join(parent);
            if !parent.exists() {
                std::fs::create_dir(&parent)?;
                std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(0o755))?;
            }
        }
        // Nobody else's from the first byte on: what it holds may be secret.
        let mut open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?;
        open.write_all(&file.bytes)?;
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(file.mode))?;
        if file.owner.is_some() || group.is_some() {
            // Where it is not permitted, the mode decides alone.
            let _ = std::os::unix::fs::chown(&target, file.owner, group);
        }
    }
    let old = std::fs::read_link(&data).ok();
    let next = dir.join("..data_tmp");
    remove_if_there(&next)?;
    std::os::unix::fs::symlink(&version, &next)?;
    std::fs::rename(&next, &data)?;
    link_all(dir, content)?;
    // Versions that a killed kubelet left go together with the old one.
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_version = name.to_string_lossy().starts_with("..") && entry.file_type()?.is_dir();
        if is_version && name != *version && Some(Path::new(&name)) != old.as_deref() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    match old {
        Some(old) if old != Path::new(&version) => match std::fs::remove_dir_all(dir.join(old)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Whether two contents are the same to a reader. Owners are left out: giving a file away may not be permitted.
fn is_same(one: &Content, other: &Content) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|((path, file), (other_path, other))| {
            path == other_path && file.bytes == other.bytes && file.mode == other.mode
        })
}

/// Makes the visible links those of `content`.
fn link_all(dir: &Path, content: &Content) -> io::Result<()> {
    let wanted: BTreeSet<&str> = content.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for name in &wanted {
        let link = dir.join(name);
        let target = Path::new(DATA).join(name);
        if std::fs::read_link(&link).ok().as_deref() != Some(target.as_path()) {
            remove_if_there(&link)?;
            std::os::unix::fs::symlink(&target, &link)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(&*name) && entry.file_type()?.is_symlink() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn read(data: &Path) -> io::Result<Content> {
    let mut content = Content::new();
    let mut folders = vec![data.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(data).map_err(io::Error::other)?.to_string_lossy().into_owned();
            let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
            content.insert(name, File { bytes: std::fs::read(&path)?, mode, owner: None });
        }
    }
    Ok(content)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
