//! Whom an image means by its `USER`: its own `/etc/passwd` and `/etc/group` say.

use std::{fs::File, io::Read, os::fd::BorrowedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// More than any image has users; what follows is not read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Groups that a process may be in, as the kernel has it.
const GROUPS_MAX: usize = 65_536;

/// A user of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Those that `/etc/group` lists the user in.
    pub groups: Vec<u32>,
    pub home: String,
}

/// Finds `name`, `name:group`, or numbers, in the files below the container's root. A number needs no entry there; nobody is root.
pub fn look_up(root: BorrowedFd<'_>, user: &str) -> Result<User, String> {
    find(user, &read(root, "etc/passwd"), &read(root, "etc/group"))
}

/// What is no plain file names nobody: opening a pipe must not wait. Nor does what is not the image's: this is read with all rights, and with
/// `hostPID` a link may lead to the root of a process of the node.
fn read(root: BorrowedFd<'_>, path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).map(File::from);
    let is_file = |file: &File| file.metadata().is_ok_and(|data| data.is_file());
    let mut bytes = Vec::new();
    if let Some(file) = file.ok().filter(is_file) {
        // What cannot be read to its end is taken as far as it goes.
        let _ = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn find(user: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let entries = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|entry| entry.len() >= 6);
    // A name goes before a number, as with other engines: a user may be called 1000.
    let entry = entries().find(|entry| entry[0] == name).or_else(|| entries().find(|entry| entry[2] == name));
    let number = |text: &str| text.parse::<u32>().ok();
    let uid = match &entry {
        Some(entry) => number(entry[2]).ok_or_else(|| format!("the image has no number for user `{name}`"))?,
        None => number(name).ok_or_else(|| format!("the image has no user `{name}`; set `runAsUser` to a number"))?,
    };
    let own_gid = entry.as_ref().and_then(|entry| number(entry[3])).unwrap_or(0);
    let gid = group_name.map_or(Ok(own_gid), |name| find_group(name, group))?;
    let groups = entry.as_ref().map(|entry| groups_of(entry[0], group)).unwrap_or_default();
    let home = entry.map(|entry| entry[5].to_owned()).filter(|home| !home.is_empty());
    Ok(User { uid, gid, groups, home: home.unwrap_or_else(|| "/".to_owned()) })
}

fn find_group(name: &str, group: &str) -> Result<u32, String> {
    let entry = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (entry, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        (entry == name).then(|| gid.parse::<u32>().ok())?
    });
    entry.or_else(|| name.parse().ok()).ok_or_else(|| format!("the image has no group `{name}`"))
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let is_in = |members: &str| members.split(',').any(|member| member == user);
    let listed = group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        fields.get(3).filter(|members| is_in(members)).and(fields.get(2)?.parse().ok())
    });
    listed.take(GROUPS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a remark\napp:x:1000:1001::/home/app:/bin/sh\n\
                          2000:x:7:8::/seven:/bin/sh\nnohome:x:9:9:::\nbad:x:many:9::/:\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nextra:x:2000:app,root\nio:x:3:nobody, app\n";

    fn check(user: &str, expected: Result<(u32, u32, &[u32], &str), &str>) {
        let found = find(user, PASSWD, GROUP);
        match (found, expected) {
            (Ok(found), Ok((uid, gid, groups, home))) => {
                assert_eq!(found, User { uid, gid, groups: groups.to_vec(), home: home.to_owned() }, "{user}");
            }
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{user}: {found}"),
            (found, _) => panic!("{user}: {found:?}"),
        }
    }

    #[test]
    fn the_user_of_an_image_is_looked_up_in_its_own_files() {
        check("", Ok((0, 0, &[2000], "/root")));
        check("app", Ok((1000, 1001, &[2000], "/home/app")));
        check("1000", Ok((1000, 1001, &[2000], "/home/app")));
        check("app:extra", Ok((1000, 2000, &[2000], "/home/app")));
        check("app:5", Ok((1000, 5, &[2000], "/home/app")));
        check("4711", Ok((4711, 0, &[], "/")));
        check("4711:app", Ok((4711, 1001, &[], "/")));
        check("2000", Ok((7, 8, &[], "/seven")));
        check("nohome", Ok((9, 9, &[], "/")));
        check("nobody", Err("no user `nobody`"));
        check("app:nogroup", Err("no group `nogroup`"));
        check("bad", Err("no number"));
        check("-1", Err("no user `-1`"));
        check("4294967296", Err("no user"));
    }
}
