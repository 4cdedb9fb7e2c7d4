//! Users of a pod's own (`hostUsers: false`): which numbers they have on the node, and the namespaces that belong to them.
//!
//! Numbers count for as long as the pod's namespaces do: what its containers write to volumes is on the disk as numbers of the pod, and
//! what they write to their images ends with them. So a file in memory beside the namespaces is all that is kept, and another boot may
//! choose others. As other kubelets do it, the first 65,536 are the node's, and each pod has as many.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    path::Path,
    process::{Child, Stdio},
};

use node_network::{Kind, PodNamespaces};
use node_shim::{
    IDS_OF_POD,
    own_users::{FLAG, MADE, MAPPED, UNMAPPED},
};

use crate::program::ShimProgram;

/// Its file in the pod's directory: one number, in decimal.
const FILE: &str = "users";
const FILE_BYTES_MAX: u64 = 16;

/// The node's number of the root of the pod whose directory is `dir`.
pub fn first_of(dir: &Path) -> Option<u32> {
    let path = dir.join(FILE);
    if fs::metadata(&path).ok()?.len() > FILE_BYTES_MAX {
        return None;
    }
    let first: u32 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    (first >= IDS_OF_POD && first % IDS_OF_POD == 0).then_some(first)
}

/// Gives the pod whose directory is `dir`, one of those in `pods`, numbers that no other of these has.
pub fn choose(pods: &Path, dir: &Path) -> io::Result<u32> {
    let mut taken = Vec::new();
    for entry in fs::read_dir(pods).into_iter().flatten() {
        let path = entry?.path();
        if path != dir {
            taken.extend(first_of(&path));
        }
    }
    let is_free = |first: &u32| !taken.contains(first);
    // The last range of all has the number that is none.
    let all = (1..u32::MAX / IDS_OF_POD).map(|number| number * IDS_OF_POD);
    let known = first_of(dir).filter(is_free);
    let first = known.or_else(|| all.into_iter().find(is_free));
    let first = first.ok_or_else(|| io::Error::other("no numbers are left for users of a pod's own"))?;
    fs::create_dir_all(dir)?;
    let draft = dir.join(FILE).with_extension("tmp");
    fs::write(&draft, first.to_string())?;
    fs::rename(&draft, dir.join(FILE))?;
    Ok(first)
}

/// Creates and pins the namespaces of a pod, which belong to its users.
pub fn create(shim: &ShimProgram, dir: &Path, kinds: &[Kind], hostname: &str, first: u32) -> io::Result<PodNamespaces> {
    let mut args = vec![OsStr::new("shim"), OsStr::new(FLAG)];
    args.extend(kinds.iter().filter(|kind| **kind != Kind::User).map(|kind| OsStr::new(kind.file_name())));
    let mut holder =
        shim.blocking_command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let made = make(&mut holder, first)
        .and_then(|()| PodNamespaces::pin(dir, kinds, hostname, holder.id()).map_err(io::Error::other));
    // The end of its input is the end of it.
    let output = holder.wait_with_output()?;
    made.map_err(|error| {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let why = if why.is_empty() { error.to_string() } else { why };
        io::Error::new(error.kind(), format!("failed to give the pod users of its own: {why}"))
    })
}

fn make(holder: &mut Child, first: u32) -> io::Result<()> {
    let pid = holder.id();
    let (Some(to), Some(from)) = (&mut holder.stdin, &mut holder.stdout) else {
        return Err(io::Error::other("it has no input"));
    };
    let mut hear = |expected: u8| -> io::Result<()> {
        let mut said = [0];
        from.read_exact(&mut said)?;
        if said == [expected] { Ok(()) } else { Err(io::Error::other("it says something else than it should")) }
    };
    hear(UNMAPPED)?;
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), format!("0 {first} {IDS_OF_POD}\n"))?;
    }
    to.write_all(&[MAPPED])?;
    hear(MADE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_pods_do_not_overlap_and_are_kept() {
        let pods = tempfile::tempdir().unwrap();
        let dir = |name: &str| pods.path().join(name);
        assert_eq!(choose(pods.path(), &dir("a")).unwrap(), 65_536);
        assert_eq!(choose(pods.path(), &dir("b")).unwrap(), 2 * 65_536);
        assert_eq!(choose(pods.path(), &dir("a")).unwrap(), 65_536);
        assert_eq!(first_of(&dir("b")), Some(2 * 65_536));
        fs::remove_dir_all(dir("a")).unwrap();
        assert_eq!(choose(pods.path(), &dir("c")).unwrap(), 65_536);
        for damaged in ["", "0", "1000", "-65536", "4294967296", &"6".repeat(100)] {
            fs::write(dir("b").join(FILE), damaged).unwrap();
            assert_eq!(first_of(&dir("b")), None, "{damaged:?}");
        }
        fs::write(dir("b").join(FILE), "65536").unwrap();
        assert_eq!(choose(pods.path(), &dir("b")).unwrap(), 2 * 65_536, "another one has it");
    }
}
