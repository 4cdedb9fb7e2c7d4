//! Where the part of a launch that may be secret is kept: in memory, and nowhere else when that can be had.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use tracing::warn;

/// `f_type` of a tmpfs and of a ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Our directories in memory, the first that can be had first. They may be missing, or somebody else's: see [`make_in_memory_dir`].
pub fn in_memory_dirs() -> Vec<PathBuf> {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return vec![PathBuf::from("/run/selvedge"), PathBuf::from("/dev/shm/selvedge")];
    }
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let own = PathBuf::from(format!("/dev/shm/selvedge-{}", user.as_raw()));
    runtime_dir.map(|dir| Path::new(&dir).join("selvedge")).into_iter().chain([own]).collect()
}

/// Makes one of them.
///
/// # Errors
/// When it would be on a disk, cannot be made, or is not ours alone.
pub fn make_in_memory_dir(dir: &Path) -> io::Result<()> {
    if !dir.parent().is_some_and(is_in_memory) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{} would be on a disk", dir.display())));
    }
    make_private(dir)
}

/// The directory for the containers whose state is in `root`; it exists, and is nobody else's.
pub(crate) fn choose(root: &Path) -> PathBuf {
    let tops = in_memory_dirs();
    let name = name_of(root);
    for top in &tops {
        let dir = top.join(&name);
        if make_in_memory_dir(top).and_then(|()| make_private(&dir)).is_ok() {
            return dir;
        }
    }
    let dir = root.join(".launch");
    warn!(
        "No directory in memory for the environments of containers ({tops:?}): Secrets in them are on the disk, in {}.",
        dir.display()
    );
    // Where this fails as well, each start says so.
    let _ = make_private(&dir);
    dir
}

/// Removes what the runtimes whose state was below `state_dir` have left in memory. Nothing may run there any more.
pub fn remove_in_memory(state_dir: &Path) {
    let roots = fs::read_dir(state_dir).into_iter().flatten().flatten();
    for root in roots.filter_map(|entry| fs::canonicalize(entry.path()).ok()) {
        for top in in_memory_dirs() {
            // Most likely it is not there.
            let _ = fs::remove_dir_all(top.join(name_of(&root)));
        }
    }
}

fn is_in_memory(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| IN_MEMORY.contains(&(stat.f_type as u64 & 0xffff_ffff)))
}

/// A directory of our own, of mode 0700. `/dev/shm` is everybody's: what another user has put there is not used.
fn make_private(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(path)?;
    let is_ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0;
    if is_ours { Ok(()) } else { Err(io::Error::from(io::ErrorKind::PermissionDenied)) }
}

/// A name for what belongs to a path and is kept beside it; two nodes on one machine have two.
pub fn name_of(path: &Path) -> String {
    format!("{:016x}", fnv1a(path.as_os_str().as_encoded_bytes()))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_runtime_stays_in_memory_when_it_is_removed() {
        let state_dir = tempfile::tempdir().unwrap();
        let root = state_dir.path().join("selvedge-process");
        fs::create_dir(&root).unwrap();
        let dir = choose(&root);
        fs::write(dir.join("secret"), "value").unwrap();
        remove_in_memory(state_dir.path());
        assert!(!dir.exists() || dir.starts_with(&root), "{}", dir.display());
    }
}
