//! Rights: what a program without privileges tries with the kernel and with its neighbours.

use anyhow::{Result, ensure};

use super::{Box, pod};

/// Each line is tried; what succeeds says its number.
const TRIES: [&str; 16] = [
    "mount -t tmpfs none /tmp",
    "mount --bind / /mnt",
    "umount /proc",
    "mknod /tmp/sda b 8 0",
    "chroot / /bin/true",
    "sh -c 'echo b > /proc/sysrq-trigger'",
    "sh -c 'echo 1 > /proc/sys/kernel/panic'",
    "sh -c 'echo /tmp/x > /proc/sys/kernel/core_pattern'",
    "sh -c 'echo 0 > /sys/fs/cgroup/cgroup.procs'",
    "mkdir /sys/fs/cgroup/memory/mine",
    "unshare -U true",
    "unshare -m true",
    "hostname taken",
    "date -s 2000-01-01",
    "nsenter -t 1 -m -p true",
    "su nobody -s /bin/true",
];

#[test]
fn a_program_without_privileges_has_no_hold_on_the_kernel() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    let tries = TRIES.iter().enumerate();
    let script: String = tries.map(|(number, line)| format!("{line} >/dev/null 2>&1 && echo did {number}\n")).collect();
    site.create(&pod("attacker", &format!("{script}echo end")))?;
    let (_, log) = site.wait_end("attacker")?;
    ensure!(log == "end\n", "{log}");
    site.check_others()
}

#[test]
fn a_program_that_kills_all_it_sees_kills_itself_alone() -> Result<()> {
    let Some(mut site) = Box::start()? else { return Ok(()) };
    let numbers = format!("{} {}", site.agent, site.bystander);
    // By number, as they are on the host, and everything at once.
    let script = format!("for pid in {numbers} $(seq 2 100); do kill -9 $pid; done; kill -9 -1; sleep 1000");
    site.create(&pod("attacker", &script))?;
    site.wait_for("attacker", |pod| pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object())?;
    site.check_others()
}
