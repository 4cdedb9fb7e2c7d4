//! Where the part of a launch that may be secret is kept: in memory, and nowhere else when that can be had.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use tracing::warn;

/// `f_type` of a tmpfs and of a ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The directory for the containers whose state is in `root`; it exists, and is nobody else's.
pub(crate) fn choose(root: &Path) -> PathBuf {
    let user = rustix::process::geteuid();
    let tops = if user.is_root() {
        vec![PathBuf::from("/run/selvedge"), PathBuf::from("/dev/shm/selvedge")]
    } else {
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
        let own = PathBuf::from(format!("/dev/shm/selvedge-{}", user.as_raw()));
        runtime_dir.map(|dir| Path::new(&dir).join("selvedge")).into_iter().chain([own]).collect()
    };
    let name = name_of(root);
    for top in &tops {
        let dir = top.join(&name);
        if top.parent().is_some_and(is_in_memory) && make_private(top).and_then(|()| make_private(&dir)).is_ok() {
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
