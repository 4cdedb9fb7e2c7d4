//! What a program may do, given up in the child just before it is executed.
//!
//! The order is runc's, and each step needs rights that a later one takes away: the bounding set before the user (it needs
//! CAP_SETPCAP), the user before the capabilities that are kept, no new privileges, and the filter for system calls last,
//! since it may deny the calls before it. Only where a program may gain privileges the filter comes first: without
//! `no_new_privs` the kernel takes it from CAP_SYS_ADMIN alone.

use std::io;

use api_kube::CAPABILITIES;
use node_seccomp::{Arch, CapabilitySet, Threads};

use crate::{ContainerSpec, Seccomp, Security, sys};

const ALL: &str = "ALL";
const SYS_ADMIN: u64 = 1 << 21;

impl Security {
    /// The first name that is no capability.
    pub fn unknown_capability(&self) -> Option<&str> {
        let names = self.capabilities_add.iter().chain(&self.capabilities_drop);
        names.map(String::as_str).find(|name| *name != ALL && bit(name).is_none())
    }

    /// The capabilities that the program and all it starts may have at most, by number. Without a word of the spec: none.
    pub fn granted(&self) -> u64 {
        let of = |names: &[String]| names.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit);
        let has_all = |names: &[String]| names.iter().any(|name| name == ALL);
        if self.privileged {
            return u64::MAX;
        }
        let (add, drop) = (&self.capabilities_add, &self.capabilities_drop);
        let added = if has_all(add) && !has_all(drop) { u64::MAX } else { of(add) };
        added & !of(drop)
    }

    /// Whether what the program executes may have more rights than it has itself.
    fn may_gain_privileges(&self) -> bool {
        self.privileged || self.allow_privilege_escalation == Some(true) || self.granted() & SYS_ADMIN != 0
    }
}

fn bit(name: &str) -> Option<u64> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    CAPABILITIES.iter().position(|known| *known == name).map(|number| 1 << number)
}

/// Becomes the container's user with the container's rights. Only descriptors, the working directory and the program itself
/// may be used afterwards.
pub fn assume(spec: &ContainerSpec) -> Result<(), String> {
    let security = &spec.security;
    let explain = |act: &'static str| move |error: io::Error| format!("failed to {act}: {error}");
    let granted = security.granted();
    let gains = security.may_gain_privileges();
    let is_root = sys::is_root();
    if gains {
        load_filter(security, granted)?;
    }
    if !security.privileged {
        let dropped = sys::keep_capabilities_within_reach(granted);
        // Who is not root has none to drop, and none to gain but by what it executes: that is what no_new_privs is for.
        if is_root {
            dropped.map_err(explain("drop capabilities"))?;
        }
    }
    let gid = spec.run_as_group.or(spec.run_as_user);
    sys::become_user(spec.run_as_user, gid, &spec.supplemental_groups).map_err(|error| {
        let name = |id: Option<u32>| id.map_or_else(|| "as it is".to_owned(), |id| id.to_string());
        let (user, group) = (name(spec.run_as_user), name(gid));
        format!("failed to become user {user}, group {group}: {error}; only a node that runs as root can")
    })?;
    if !security.privileged {
        sys::keep_capabilities(granted).map_err(explain("give capabilities up"))?;
    }
    if !gains {
        rustix::thread::set_no_new_privs(true).map_err(|error| explain("give up new privileges")(error.into()))?;
        load_filter(security, granted)?;
    }
    Ok(())
}

fn load_filter(security: &Security, granted: u64) -> Result<(), String> {
    if security.privileged || security.seccomp == Seccomp::Unconfined {
        return Ok(());
    }
    let Some(arch) = Arch::NATIVE else { return Ok(()) };
    match node_seccomp::load(&node_seccomp::runtime_default(arch, CapabilitySet(granted)), Threads::This) {
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

    fn check(add: &[&str], drop: &[&str], expected: u64) {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let security = Security { capabilities_add: words(add), capabilities_drop: words(drop), ..Security::default() };
        assert_eq!(security.granted(), expected, "{add:?} {drop:?}");
    }

    #[test]
    fn a_container_has_the_capabilities_that_it_names_and_no_others() {
        check(&[], &[], 0);
        check(&["NET_BIND_SERVICE"], &[], 1 << 10);
        check(&["CAP_CHOWN", "KILL"], &["ALL"], 1 | 1 << 5);
        check(&["ALL"], &["SYS_ADMIN"], !SYS_ADMIN);
        check(&["ALL"], &["ALL"], 0);
        check(&["CHECKPOINT_RESTORE"], &["CHOWN"], 1 << 40);
        let security = Security { capabilities_add: vec!["NET_BLIND".to_owned()], ..Security::default() };
        assert_eq!(security.unknown_capability(), Some("NET_BLIND"));
    }
}
