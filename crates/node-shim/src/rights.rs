//! What a program may do, given up in the child just before it is executed.
//!
//! The order is runc's, and each step needs rights that a later one takes away: the bounding set before the user (it needs
//! CAP_SETPCAP), the user before the capabilities that are kept, no new privileges, and the filter for system calls last,
//! since it may deny the calls before it. Only where a program may gain privileges the filter comes first: without
//! `no_new_privs` the kernel takes it from CAP_SYS_ADMIN alone.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use api_kube::CAPABILITIES;
use node_seccomp::{Arch, CapabilitySet, SockFilter, Threads};
use rustix::fs::{FileType, Gid, Uid};

use crate::{
    ContainerSpec, Seccomp, Security, beneath,
    own_users::UserNamespace,
    sys,
    users::{self, User},
};

const ALL: &str = "ALL";
const SYS_ADMIN: u64 = 1 << 21;

/// What a container of an image may by default, as with Docker and containerd. Programs of the node get none.
const DEFAULT_OF_IMAGES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

impl Security {
    /// The first name that is no capability.
    pub fn unknown_capability(&self) -> Option<&str> {
        let names = self.capabilities_add.iter().chain(&self.capabilities_drop);
        names.map(String::as_str).find(|name| *name != ALL && bit(name).is_none())
    }

    /// The first capability that is asked for by its name and is none of `own`: nobody can give what he has not got. `ALL` is what
    /// there is.
    pub fn capability_beyond(&self, own: u64) -> Option<&str> {
        let is_beyond = |name: &&String| {
            bit(name).is_some_and(|bit| bit & own == 0) && !self.capabilities_drop.contains(name) && !self.privileged
        };
        self.capabilities_add.iter().find(is_beyond).map(String::as_str)
    }

    /// The capabilities of a program of an image, by number.
    pub fn granted_to_image(&self) -> u64 {
        self.granted(DEFAULT_OF_IMAGES.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit))
    }

    /// The capabilities that the program and all it starts may have at most, by number: those of `default` and those that
    /// are added, without those that are dropped.
    fn granted(&self, default: u64) -> u64 {
        let of = |names: &[String]| names.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit);
        let has_all = |names: &[String]| names.iter().any(|name| name == ALL);
        if self.privileged {
            return u64::MAX;
        }
        let (add, drop) = (&self.capabilities_add, &self.capabilities_drop);
        let default = match (has_all(add), has_all(drop)) {
            (_, true) => 0,
            (true, false) => u64::MAX,
            (false, false) => default,
        };
        (default | of(add)) & !of(drop)
    }
}

/// Whom a program of an image runs as, by the spec and the files below the container's root.
pub fn identity(spec: &ContainerSpec, user_of_image: &str, root: BorrowedFd<'_>) -> Result<User, String> {
    let named = spec.run_as_user.map_or_else(|| user_of_image.to_owned(), |uid| uid.to_string());
    let mut user = users::look_up(root, &named)?;
    user.gid = spec.run_as_group.unwrap_or(user.gid);
    // Its own group among them: a file that denies the group is denied to it (CVE-2022-36109).
    user.groups.retain(|group| *group != user.gid);
    user.groups.insert(0, user.gid);
    for group in &spec.supplemental_groups {
        if !user.groups.contains(group) {
            user.groups.push(*group);
        }
    }
    Ok(user)
}

/// Whom a program runs as, and what it may do.
pub struct Who {
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Vec<u32>,
    /// Where the user is at home, as the image has it.
    pub home: Option<String>,
    granted: u64,
    /// Whether what the program executes may have more rights than it has itself.
    gains: bool,
}

impl Who {
    /// Of a program of the node: nothing but what the spec says.
    pub fn of_node(spec: &ContainerSpec) -> Self {
        Self::new(spec, spec.security.granted(0), false).with(
            spec.run_as_user,
            spec.run_as_group.or(spec.run_as_user),
            Vec::new(),
        )
    }

    /// Of a program of an image, whose files are those at `/`.
    pub fn of_image(spec: &ContainerSpec, user_of_image: &str) -> Result<Self, String> {
        let root = beneath::open_path("/".as_ref()).map_err(|error| format!("failed to open the root: {error}"))?;
        let user = identity(spec, user_of_image, root.as_fd())?;
        let granted = spec.security.granted_to_image();
        let mut who = Self::new(spec, granted, true).with(Some(user.uid), Some(user.gid), user.groups);
        who.home = Some(user.home);
        Ok(who)
    }

    fn new(spec: &ContainerSpec, granted: u64, gains: bool) -> Self {
        let security = &spec.security;
        // What the API does not take together with these it may get in another way (`ALL`): then it is denied all the same.
        let gains =
            security.allow_privilege_escalation.unwrap_or(gains || security.privileged || granted & SYS_ADMIN != 0);
        Self { uid: None, gid: None, groups: Vec::new(), home: None, granted, gains }
    }

    fn with(mut self, uid: Option<u32>, gid: Option<u32>, groups: Vec<u32>) -> Self {
        (self.uid, self.gid, self.groups) = (uid, gid, groups);
        self
    }

    /// Whether these are numbers that the pod has.
    pub fn check_within(&self, users: &UserNamespace) -> Result<(), String> {
        let mut ids = self.uid.iter().chain(&self.gid).chain(&self.groups);
        match ids.find(|id| !users.has(**id)) {
            None => Ok(()),
            Some(id) => Err(format!(
                "user or group {id} is none of the pod's: with hostUsers: false it has 0 to {}",
                crate::IDS_OF_POD - 1
            )),
        }
    }

    /// Lets the user open its outputs again by their names (`/dev/stdout`): they are pipes, which belong to whoever made them.
    pub fn own_outputs(&self, outputs: [BorrowedFd<'_>; 2], users: Option<&UserNamespace>) {
        let on_the_node = |id: u32| users.map_or(id, |users| users.on_the_node(id));
        let uid = self.uid.map(|uid| Uid::from_raw(on_the_node(uid)));
        let gid = self.gid.map(|gid| Gid::from_raw(on_the_node(gid)));
        for output in outputs {
            // A node without the right to has users who made them. A device is everybody's, and stays the node's.
            let is_pipe =
                rustix::fs::fstat(output).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
            if is_pipe {
                let _ = rustix::fs::fchown(output, uid, gid);
            }
        }
    }

    /// Becomes the user, with its rights. Only descriptors, the working directory and the program itself may be used
    /// afterwards.
    pub fn assume(&self, spec: &ContainerSpec) -> Result<(), String> {
        let security = &spec.security;
        let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
        let is_root = sys::is_root();
        if self.gains {
            load_filter(security, self.granted)?;
        }
        if !security.privileged {
            let dropped = sys::keep_capabilities_within_reach(self.granted);
            // Who is not root has none to drop, and none to gain but by what it executes: that is what no_new_privs is for.
            if is_root {
                dropped.map_err(explain("drop capabilities"))?;
            }
        }
        let mut groups = self.groups.clone();
        for group in &spec.supplemental_groups {
            if !groups.contains(group) {
                groups.push(*group);
            }
        }
        sys::become_user(self.uid, self.gid, &groups).map_err(|error| {
            let name = |id: Option<u32>| id.map_or_else(|| "as it is".to_owned(), |id| id.to_string());
            let (user, group) = (name(self.uid), name(self.gid));
            format!("failed to become user {user}, group {group}: {error}; only a node that runs as root can")
        })?;
        if !security.privileged {
            sys::keep_capabilities(self.granted).map_err(explain("give capabilities up"))?;
        }
        if !self.gains {
            rustix::thread::set_no_new_privs(true).map_err(|error| explain("give up new privileges")(error.into()))?;
            load_filter(security, self.granted)?;
        }
        Ok(())
    }
}

fn bit(name: &str) -> Option<u64> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    CAPABILITIES.iter().position(|known| *known == name).map(|number| 1 << number)
}

fn load_filter(security: &Security, granted: u64) -> Result<(), String> {
    if security.privileged {
        return Ok(());
    }
    let filter = match (&security.seccomp_profile, security.seccomp, Arch::NATIVE) {
        // One that was not read is empty, and the kernel takes none such.
        (Some(profile), ..) => profile.filter.iter().map(|bits| SockFilter::from(*bits)).collect(),
        (None, Seccomp::RuntimeDefault, Some(arch)) => node_seccomp::runtime_default(arch, CapabilitySet(granted)),
        (None, ..) => return Ok(()),
    };
    match node_seccomp::load(&filter, Threads::This) {
        Ok(()) => Ok(()),
        Err(libc::ENOSYS) => {
            Err("the kernel has no filters for system calls; use `seccompProfile: Unconfined`".to_owned())
        }
        Err(number) => {
            Err(format!("failed to load the filter for system calls: {}", io::Error::from_raw_os_error(number)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(default: u64, add: &[&str], drop: &[&str], expected: u64) {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let security = Security { capabilities_add: words(add), capabilities_drop: words(drop), ..Security::default() };
        assert_eq!(security.granted(default), expected, "{default:x} {add:?} {drop:?}");
    }

    #[test]
    fn who_may_not_gain_privileges_does_not_whatever_it_has() {
        let gains = |allowed: Option<bool>, add: &str, default: bool| {
            let capabilities_add = vec![add.to_owned()];
            let security = Security { allow_privilege_escalation: allowed, capabilities_add, ..Security::default() };
            let granted = security.granted(0);
            Who::new(&ContainerSpec { security, ..ContainerSpec::default() }, granted, default).gains
        };
        for add in ["ALL", "SYS_ADMIN", "CHOWN"] {
            assert!(!gains(Some(false), add, true), "{add}");
            assert!(gains(Some(true), add, false), "{add}");
        }
        assert!(gains(None, "ALL", false) && gains(None, "CHOWN", true) && !gains(None, "CHOWN", false));
    }

    #[test]
    fn a_container_has_the_capabilities_that_it_names_and_no_others() {
        check(0, &[], &[], 0);
        check(0, &["NET_BIND_SERVICE"], &[], 1 << 10);
        check(0, &["CAP_CHOWN", "KILL"], &["ALL"], 1 | 1 << 5);
        check(0, &["ALL"], &["SYS_ADMIN"], !SYS_ADMIN);
        check(0, &["ALL"], &["ALL"], 0);
        check(3, &["KILL"], &["CHOWN"], 2 | 1 << 5);
        check(3, &["KILL"], &["ALL"], 1 << 5);
        check(3, &["ALL"], &["CHOWN"], !1);
        check(0, &["CHECKPOINT_RESTORE"], &["CHOWN"], 1 << 40);
        let add = |add: &str| Security { capabilities_add: vec![add.to_owned()], ..Security::default() };
        assert_eq!(add("SYS_TIME").capability_beyond(1 << 25), None);
        assert_eq!(add("SYS_TIME").capability_beyond(!(1 << 25)), Some("SYS_TIME"));
        assert_eq!(add("CAP_SYS_TIME").capability_beyond(0), Some("CAP_SYS_TIME"));
        assert_eq!(add("ALL").capability_beyond(0), None, "all there are");
        assert_eq!(Security { privileged: true, ..add("SYS_TIME") }.capability_beyond(0), None);
        let security = Security { capabilities_add: vec!["NET_BLIND".to_owned()], ..Security::default() };
        assert_eq!(security.unknown_capability(), Some("NET_BLIND"));
    }
}
