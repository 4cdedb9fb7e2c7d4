//! Users of a pod's own (`hostUsers: false`): which numbers they have on the node, and the namespaces that belong to them.
//!
//! Numbers count for as long as the pod's namespaces do: what its containers write to volumes is on the disk as numbers of the pod, and
//! what they write to their images ends with them. So the namespace itself is all that is kept, whose owner the kernel answers, and another
//! boot may choose others. As other kubelets do it, the first 65,536 are the node's, and each pod has as many.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::fd::AsRawFd as _,
    path::Path,
    process::{Child, Stdio},
};

use node_network::{Kind, PodNamespaces};
use node_shim::{
    IDS_OF_POD,
    own_users::{FLAG, MADE, MAPPED, UNMAPPED},
};

use crate::program::ShimProgram;

const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;

/// The node's number of the root of the pod whose directory is `dir`: that to which its user namespace belongs.
pub fn first_of(dir: &Path) -> Option<u32> {
    let file = fs::File::open(dir.join(Kind::User.file_name())).ok()?;
    let mut owner: libc::uid_t = 0;
    // SAFETY: the number is written and outlives the call, and the descriptor is open. What is no user namespace is an error.
    let answered = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_OWNER_UID as _, &raw mut owner) };
    (answered == 0 && owner >= IDS_OF_POD && owner.is_multiple_of(IDS_OF_POD)).then_some(owner)
}

/// A number for the root of a pod, one of those in `pods`, that no other of these has.
pub fn choose(pods: &Path) -> io::Result<u32> {
    let mut taken = Vec::new();
    for entry in fs::read_dir(pods).into_iter().flatten() {
        taken.extend(first_of(&entry?.path()));
    }
    // The last range of all has the number that is none.
    let mut all = (1..u32::MAX / IDS_OF_POD).map(|number| number * IDS_OF_POD);
    let free = all.find(|first| !taken.contains(first));
    free.ok_or_else(|| io::Error::other("no numbers are left for users of a pod's own"))
}

/// Creates and pins the namespaces of a pod, which belong to its users.
pub fn create(shim: &ShimProgram, dir: &Path, kinds: &[Kind], hostname: &str, first: u32) -> io::Result<PodNamespaces> {
    let number = first.to_string();
    let mut args = vec![OsStr::new("shim"), OsStr::new(FLAG), OsStr::new(&number)];
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
