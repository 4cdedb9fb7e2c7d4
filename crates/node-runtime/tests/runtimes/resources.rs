//! What a container gets of the node, as the kernel shows it.

use std::fs;

use node_runtime::{ContainerSpec, ContainerState, ContainerStatus, PodResources, Requests};

use crate::fixture::Fixture;

/// Where the test's groups of one controller are; `None` where there is none of version 1.
fn group(controller: &str, spec: &ContainerSpec) -> Option<String> {
    let path = format!("/sys/fs/cgroup/{controller}/selvedge-test/{}", spec.pod.uid);
    fs::exists(&path).unwrap().then_some(path)
}

/// The program of a container: in a pid namespace the child of its first process.
fn program(status: &ContainerStatus) -> u32 {
    let ContainerState::Running { pid, .. } = status.state else { panic!("{status:?}") };
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().next().map_or(pid, |child| child.parse().unwrap())
}

fn oom_score_adj(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_containers_score_is_its_own_and_that_of_its_commands() {
    let fixture = Fixture::new();
    for (asked, score) in [(None, "0"), (Some(900), "900"), (Some(5000), "1000")] {
        let mut spec = fixture.shell("sleep 100");
        spec.oom_score_adj = asked;
        let status = fixture.start(&spec).await;
        assert_eq!(oom_score_adj(program(&status)), score);
        let argv = ["cat", "/proc/self/oom_score_adj"].map(str::to_owned).to_vec();
        let output = fixture.runtime().exec(&spec.id(), argv, crate::fixture::PATIENCE).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), score);
        fixture.runtime().stop(&spec.id(), std::time::Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn requests_are_weights_and_a_pod_cannot_fill_the_table_of_processes() {
    let fixture = Fixture::new();
    // More than the pod may have. The shell that is denied a process ends, so another one than the program's own asks for them,
    // and the program becomes its last command without asking for one more.
    let mut spec =
        fixture.shell("(i=0; while [ $i -lt 60 ]; do sleep 100 & i=$((i+1)); done) 2>/dev/null; exec sleep 100");
    spec.requests = Requests { cpu_millis: Some(250), memory_bytes: None };
    spec.pod_resources = PodResources { cpu_request_millis: Some(500), pids_max: Some(20), ..PodResources::default() };
    fixture.start(&spec).await;
    let (Some(cpu), Some(pids)) = (group("cpu", &spec), group("pids", &spec)) else {
        fixture.runtime().stop(&spec.id(), std::time::Duration::ZERO).await.unwrap();
        return testkit::skip("the controllers of version 1 are not here");
    };
    let read = |path: String| fs::read_to_string(path).unwrap().trim().to_owned();
    assert_eq!(read(format!("{cpu}/cpu.shares")), "512");
    assert_eq!(read(format!("{cpu}/main_0/cpu.shares")), "256");
    assert_eq!(read(format!("{pids}/pids.max")), "20");
    crate::fixture::eventually("a full pod", async || {
        let events = read(format!("{pids}/pids.events"));
        let current: u32 = read(format!("{pids}/pids.current")).parse().unwrap();
        assert!(current <= 20, "{current}");
        // The pod's own counter, or on older kernels that of the group which was denied.
        let inner = read(format!("{pids}/main_0/pids.events"));
        if [&events, &inner].iter().any(|text| !text.ends_with(" 0")) { Ok(()) } else { Err(events) }
    })
    .await;
    fixture.runtime().stop(&spec.id(), std::time::Duration::ZERO).await.unwrap();
}
