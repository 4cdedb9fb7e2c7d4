//! A container gets more or less while it runs.

use std::{sync::Arc, time::Duration};

use node_runtime::{
    ContainerResources, ContainerRuntime, ContainerSpec, ContainerState, Limits, PodResources, Requests, RuntimeError,
};

use crate::{
    container::{OneImage, fixture, image_of, pod_of, spec},
    fixture::{self, Fixture, message},
};

/// What the kernel says in the container of its own groups, each number by its meaning; on version 1 or version 2.
const SEEN: &str = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max cpu*/cpu.cfs_quota_us cpu.max cpu*/cpu.shares \
                    cpu.weight 2>/dev/null; exit 0";

const MIB: u64 = 1 << 20;

fn resources(memory_mib: u64, cpu_millis: u64, request_millis: u64) -> ContainerResources {
    let limits = Limits { cpu_millis: Some(cpu_millis), memory_bytes: Some(memory_mib * MIB), pids: None };
    let pod = PodResources {
        cpu_request_millis: Some(request_millis),
        cpu_limit_millis: limits.cpu_millis,
        memory_limit_bytes: limits.memory_bytes,
        pids_max: None,
    };
    ContainerResources { limits, requests: Requests { cpu_millis: Some(request_millis), memory_bytes: None }, pod }
}

async fn seen(fixture: &Fixture, spec: &ContainerSpec) -> Vec<String> {
    let words = ["sh", "-c", SEEN].map(str::to_owned).to_vec();
    let output = fixture.runtime().exec(&spec.id(), words, Duration::from_secs(30)).await.unwrap();
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// As the kernel of this machine writes them.
fn as_seen(resources: &ContainerResources) -> Vec<String> {
    let (memory, millis) = (resources.limits.memory_bytes.unwrap(), resources.limits.cpu_millis.unwrap());
    let shares = resources.requests.cpu_millis.unwrap() * 1024 / 1000;
    match std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => vec![
            memory.to_string(),
            format!("{} 100000", millis * 100),
            ((shares - 2) * 9999 / 262_142 + 1).to_string(),
        ],
        false => vec![memory.to_string(), (millis * 100).to_string(), shares.to_string()],
    }
}

#[tokio::test]
async fn what_a_container_gets_changes_while_it_runs_and_the_next_agent_knows_it() {
    let Some(mut fixture) = fixture() else { return };
    let first = resources(64, 500, 100);
    // It holds 40 MiB, which cannot be taken from it.
    let mut spec = spec(&fixture, "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null; echo up; sleep 100");
    (spec.limits, spec.requests, spec.pod_resources) = (first.limits, first.requests, first.pod);
    let mut pod = pod_of(&spec);
    pod.resources = first.pod;
    fixture.runtime().ensure_pod(pod.clone()).await.unwrap();
    fixture.runtime().start(spec.clone()).await.unwrap();
    fixture.until_logged(&spec, "up").await;
    assert_eq!(seen(&fixture, &spec).await, as_seen(&first));
    for changed in [resources(200, 2000, 1000), resources(80, 300, 200)] {
        let status = fixture.runtime().resize(&spec.id(), changed).await.unwrap();
        assert!(matches!(status.state, ContainerState::Running { .. }), "{status:?}");
        assert_eq!((status.limits, status.requests), (changed.limits, changed.requests));
        assert_eq!(seen(&fixture, &spec).await, as_seen(&changed));
    }
    let error = message(&fixture.runtime().resize(&spec.id(), resources(16, 300, 200)).await.unwrap_err());
    assert!(error.contains("attempting to set memory limit (16777216) below current usage"), "{error}");
    let last = resources(80, 300, 200);
    assert_eq!(seen(&fixture, &spec).await, as_seen(&last), "nothing of it was changed");

    fixture.runtime = None;
    let image = image_of(&fixture);
    fixture.runtime = Some(Box::new(
        ContainerRuntime::open(fixture::config(fixture.folder.path()), Arc::new(OneImage(image))).unwrap(),
    ));
    let status = fixture.runtime().status(&spec.id()).await.unwrap();
    assert_eq!((status.limits, status.requests), (last.limits, last.requests));
    assert_eq!(seen(&fixture, &spec).await, as_seen(&last), "a command still finds its environment");
    fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
    let error = fixture.runtime().resize(&spec.id(), first).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NotRunning(_)), "{error:?}");
    fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
}
