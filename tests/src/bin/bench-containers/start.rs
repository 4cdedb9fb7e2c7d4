//! A container, a pod, and a command in it, at the node.

use anyhow::Result;
use selvedge_tests::figures::Peer;

use crate::containerd::{Containerd, Pods};
use crate::{Bench, has, oci, p99};

/// Milliseconds that a container may take: the first write into a group of version 1 waits for a grace period of the kernel.
fn limit() -> &'static str {
    let is_unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if is_unified { "≤ 8" } else { "≤ 20" }
}

pub fn start(bench: &mut Bench) -> Result<()> {
    let count = bench.size.pods;
    let ours = bench.example("container-figures", &[&count.to_string()])?;
    let started = ours.of("create and start of a container")?;
    let mut is_alone = true;
    for runtime in ["runc", "crun"] {
        if !has(runtime) {
            bench.report.note(format!("{runtime} is no peer here: it is not installed"));
            continue;
        }
        let theirs = oci::measure(runtime, &bench.image, count)?;
        let figure = format!("create and start of a container, beside {runtime}");
        bench.report.add_beside(figure, "ms", started.clone(), Some(limit()), Peer::new(runtime, theirs));
        is_alone = false;
    }
    if is_alone {
        bench.report.add("create and start of a container", "ms", started, Some(limit()), None);
    }
    let dir = tempfile::tempdir()?;
    let theirs = match Containerd::start(bench, dir.path())? {
        Some(containerd) => containerd.cri("pods", count)?,
        None => Pods::default(),
    };
    let peer = |values: Vec<f64>| Peer::new("containerd with CNI plugins", values);
    let (whole, whole_theirs) = (ours.of("whole pod")?, theirs.whole());
    let report = &mut bench.report;
    report.add_beside(
        "whole pod with network and host port, p50",
        "ms",
        whole.clone(),
        Some("≤ 25"),
        peer(whole_theirs.clone()),
    );
    report.add_beside(
        "whole pod with network and host port, p99",
        "ms",
        p99(&whole),
        Some("≤ 50"),
        peer(p99(&whole_theirs)),
    );
    let sandbox = ours.of("sandbox with network and host port")?;
    report.add_beside("of it the sandbox with its network", "ms", sandbox, None, peer(theirs.sandbox));
    report.add_beside(
        "exec of /bin/true at the node",
        "ms",
        ours.of("exec of /bin/true")?,
        Some("≤ 4"),
        peer(theirs.exec),
    );
    report.add_beside("end and removal of a pod", "ms", ours.of("end and removal of a pod")?, None, peer(theirs.stop));
    Ok(())
}
