//! What is not the same and not meant to be, with the reason.
//!
//! Where ours is the stricter one, the entry says so and holds only for that direction: the other way round it is a difference.

use super::{Peer, case::Case};

/// A difference that is known.
pub struct Known {
    /// Begin of the fact's name.
    pub key: &'static str,
    /// `None` is every other runtime.
    pub peer: Option<Peer>,
    /// Whether it is this one.
    pub is_meant: fn(&Seen<'_>) -> bool,
    /// Why it is right as it is.
    pub reason: &'static str,
}

/// A difference, in its case.
pub struct Seen<'a> {
    /// The whole name of the fact.
    pub key: &'a str,
    pub ours: &'a str,
    pub theirs: &'a str,
    pub case: &'a Case,
    /// Whether a command sees it that is run beside the container's program.
    pub is_command: bool,
}

impl Seen<'_> {
    /// Number of a system call.
    fn number(&self) -> u32 {
        self.key.rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Whether the mount is the same, but for what ours forbids in addition.
    fn is_stricter_mount(&self) -> bool {
        let fields = |text: &str| -> Option<(String, Vec<String>)> {
            let mut words = text.split(' ');
            let (kind, _, flags) = (words.next()?, words.next()?, words.next()?);
            Some((kind.to_owned(), flags.split(',').map(str::to_owned).collect()))
        };
        let (Some((kind, ours)), Some((their_kind, theirs))) = (fields(self.ours), fields(self.theirs)) else {
            return false;
        };
        kind == their_kind && theirs.iter().all(|flag| flag == "rw" || ours.contains(flag))
    }
}

/// The newest number that libseccomp 2.5.4 of Debian 12 knows. What an older one does not know it cannot permit.
const NEWEST_OF_LIBSECCOMP: u32 = 450;

pub const KNOWN: &[Known] = &[
    Known {
        key: "calls/x32/",
        peer: None,
        is_meant: |seen| seen.ours == "N",
        reason: "x32 is not there for containers of ours: nobody misses it, and it doubles what can be attacked",
    },
    Known {
        key: "calls/i386/131",
        peer: None,
        is_meant: |seen| (seen.ours, seen.theirs) == ("P", "A"),
        reason: "the profile denies quotactl below 2^32: libseccomp cuts that number to 32 bits, and no argument is below 0",
    },
    Known {
        key: "calls/",
        peer: None,
        is_meant: |seen| seen.number() > NEWEST_OF_LIBSECCOMP && matches!(seen.theirs, "N" | "P") && seen.ours != "?",
        reason: "the profile is newer than the C library that the others compile it with: they drop names they do not know",
    },
    Known {
        key: "cgroup/",
        peer: None,
        is_meant: |seen| matches!((seen.ours, seen.theirs), ("its root", "a group" | "-")),
        reason: "ours are in a namespace of control groups on version 1 too, containerd's only on version 2: stricter",
    },
    Known {
        key: "ns/cgroup",
        peer: None,
        is_meant: |seen| (seen.ours, seen.theirs) == ("its own", "the node's"),
        reason: "as above",
    },
    Known {
        key: "mount/sys/fs/cgroup",
        peer: None,
        is_meant: |seen| seen.is_stricter_mount() || (seen.ours == "-" && seen.key.ends_with("/systemd")),
        reason: "new mounts in that namespace in place of binds, the directory of them read-only; systemd's own is not shown",
    },
    Known {
        key: "path/sys/fs/cgroup",
        peer: None,
        is_meant: |seen| !seen.ours.contains("write=yes") || seen.case.spec.security.privileged,
        reason: "as above; the directory's mode is another",
    },
    Known {
        key: "mount/",
        peer: None,
        is_meant: |seen| ["/proc/", "/sys/"].iter().any(|dir| seen.key.contains(dir)) && seen.is_stricter_mount(),
        reason: "what covers masked paths, and what makes others read-only, has nodev, noexec and nosuid as well",
    },
    Known {
        key: "mount/proc/",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.ours.starts_with("tmpfs part ") && seen.theirs.starts_with("devtmpfs part ro "),
        reason: "crun covers masked files with the node's /dev/null, read-only; runc and ours with the container's own",
    },
    Known {
        key: "mount/sys",
        peer: None,
        is_meant: |seen| seen.key == "mount/sys" && seen.is_stricter_mount(),
        reason: "the mount is read-only; for others also the file system in the container's own instance, which is no more",
    },
    Known {
        key: "mount/dev/shm/selvedge",
        peer: None,
        is_meant: |seen| seen.case.pod.host.ipc && seen.theirs == "-" && seen.ours.starts_with("tmpfs whole "),
        reason: "what an agent keeps in the node's shared memory, on a node without other memory, is covered",
    },
    Known {
        key: "mount/dev/shm",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.is_stricter_mount(),
        reason: "crun loses nodev, noexec and nosuid of the pod's shared memory when it binds it",
    },
    Known {
        key: "mount/dev/shm/",
        peer: None,
        is_meant: |seen| seen.ours == "-" && seen.case.pod.host.ipc,
        reason: "with `hostIPC` the node's shared memory, without what is mounted below it: stricter",
    },
    Known {
        key: "path/",
        peer: None,
        is_meant: |seen| {
            let no_write = |text: &str| text.ends_with("write=EROFS") || text.ends_with("write=EACCES");
            let part = |text: &str| text.split(" write=").next().unwrap_or_default().to_owned();
            let is_cover = seen.ours.starts_with("directory 555 0:0 read=empty");
            no_write(seen.ours) && no_write(seen.theirs) && (is_cover || part(seen.ours) == part(seen.theirs))
        },
        reason: "both reject it; who has no right to write anyway is given the one or the other reason",
    },
    Known {
        key: "path/data",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.theirs.starts_with("directory 1755"),
        reason: "crun sets the sticky bit on directories that it makes for mounts",
    },
    Known {
        key: "path/made/new",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.theirs.starts_with("directory 1755") || seen.theirs.starts_with("directory 1777"),
        reason: "as above, for the working directory",
    },
    Known {
        key: "device/dev/core",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.ours == "-",
        reason: "a link to what is masked; runc has it no longer",
    },
    Known {
        key: "device/dev/null",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.ours == "character device 666 0:0 1:3",
        reason: "crun gives the standard input, its own /dev/null, to the container's user",
    },
    Known {
        key: "env/HOME",
        peer: Some(Peer::Crun),
        is_meant: |seen| (seen.ours, seen.theirs) == ("/", "-"),
        reason: "crun sets none for a user that the image does not list; runc and ours set `/`",
    },
    Known {
        key: "number/c 10:200",
        peer: None,
        is_meant: |seen| seen.ours.contains("EPERM"),
        reason: "runc before 1.2, and crun, let every container open /dev/net/tun: stricter",
    },
    Known {
        key: "number/c 5:1",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.ours.contains("EPERM"),
        reason: "crun lets every container open the node's console: stricter",
    },
    Known {
        key: "cgroup file/devices/devices.list",
        peer: None,
        is_meant: |seen| seen.ours.split(", ").all(|rule| seen.theirs.split(", ").any(|theirs| theirs == rule)),
        reason: "as the two above: ours lists fewer",
    },
    Known {
        key: "descriptor/0",
        peer: None,
        is_meant: |seen| seen.is_command && matches!(seen.ours, "/dev/null flags=2" | "the container's"),
        reason: "the input of a command is the container's own; others hand on what they were started with, or a pipe",
    },
    Known {
        key: "process/keyring",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.is_command && seen.ours == "its own",
        reason: "crun leaves a command in the keyring of who started crun",
    },
    Known {
        key: "process/leads session",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.is_command && seen.ours == "true",
        reason: "crun leaves a command in the session of who started crun",
    },
    Known {
        key: "process/oom_score_adj",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.is_command,
        reason: "crun does not set it for commands; runc and ours do",
    },
    Known {
        key: "process/visible",
        peer: Some(Peer::Crun),
        is_meant: |seen| seen.case.pod.shares_processes && (seen.ours, seen.theirs) == ("2", "3"),
        reason: "crun leaves the process by which it has entered the pod's pid namespace there until somebody reaps it",
    },
    Known {
        key: "process/parent death signal",
        peer: None,
        is_meant: |seen| (seen.ours, seen.theirs) == ("9", "0"),
        reason: "a container must not run on without its shim, nor a command without its helper",
    },
    Known {
        key: "status/SigIgn",
        peer: None,
        is_meant: |seen| seen.ours.trim_start_matches('0').is_empty(),
        reason: "ours ignores nothing at its start; others hand on what who started them ignored",
    },
];

/// Every difference has a reason.
#[test]
fn reasons_are_given() {
    assert!(KNOWN.iter().all(|known| !known.reason.is_empty()));
}
