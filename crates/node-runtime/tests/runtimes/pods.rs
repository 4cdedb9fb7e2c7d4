//! Pods as a whole.

use std::{fs, path::Path, time::Duration};

use node_runtime::{ContainerSpec, ContainerState, PodInstance, PodSpec, RuntimeError};

use crate::fixture::{Fixture, eventually};

async fn ensure(fixture: &Fixture, spec: &ContainerSpec) -> PodInstance {
    let spec = PodSpec { pod: spec.pod.clone(), ..PodSpec::default() };
    fixture.runtime().ensure_pod(spec).await.unwrap()
}

/// The pod's group in the first hierarchy that has it.
fn group(instance: &PodInstance) -> Option<std::path::PathBuf> {
    let roots = ["memory", "pids", "cpu", "."].map(|name| Path::new("/sys/fs/cgroup").join(name));
    let path = instance.cgroup.as_ref()?;
    roots.iter().map(|root| root.join(path)).find(|path| path.exists())
}

#[tokio::test]
async fn an_instance_is_the_same_until_it_is_removed() {
    let mut fixture = Fixture::new();
    let spec = fixture.shell("true");
    let first = ensure(&fixture, &spec).await;
    assert_eq!(first.boot_id, fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim());
    assert!(first.addresses.is_empty() && first.namespaces.is_empty() && first.devices.is_empty());
    // A container that comes and ends takes nothing of it along, nor does another agent.
    fixture.run(&spec).await;
    assert_eq!(ensure(&fixture, &spec).await, first);
    fixture.reopen();
    assert_eq!(ensure(&fixture, &spec).await, first);
    fixture.runtime().remove(&spec.id()).await.unwrap();
    assert_eq!(ensure(&fixture, &spec).await, first, "its last container was removed, not the pod");
    let text = serde_json::to_string(&first).unwrap();
    assert_eq!(serde_json::from_str::<PodInstance>(&text).unwrap(), first);

    let spec = ContainerSpec { attempt: 1, ..spec };
    fixture.run(&spec).await;
    fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
    assert!(fixture.runtime().list().await.unwrap().is_empty(), "its containers have ended and are forgotten");
    assert_eq!(group(&first), None);
    let second = ensure(&fixture, &spec).await;
    assert_ne!(second.id, first.id);
    fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
    fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
}

#[tokio::test]
async fn a_group_that_was_taken_away_is_another_instance() {
    let fixture = Fixture::new();
    let spec = fixture.shell("true");
    let first = ensure(&fixture, &spec).await;
    let Some(group) = group(&first) else { return testkit::skip("there are no control groups here") };
    // From all hierarchies, as an administrator would.
    for controller in ["memory", "pids", "cpu", "cpuacct", "."] {
        let path = Path::new("/sys/fs/cgroup").join(controller).join(first.cgroup.as_ref().unwrap());
        for below in fs::read_dir(&path).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(below.path());
        }
        let _ = fs::remove_dir(path);
    }
    assert!(!group.exists());
    assert_ne!(ensure(&fixture, &spec).await.id, first.id);
    fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
}

#[tokio::test]
async fn stopping_a_pod_stops_all_that_runs_in_its_group_whatever_is_known_of_it() {
    let mut fixture = Fixture::new();
    let (mut first, mut second) =
        (fixture.shell("echo up; sleep 1000"), fixture.shell("trap '' TERM; echo up; sleep 1000"));
    second.pod = first.pod.clone();
    (first.container, second.container) = ("first".to_owned(), "second".to_owned());
    let instance = ensure(&fixture, &first).await;
    for spec in [&first, &second] {
        fixture.start(spec).await;
        fixture.until_logged(spec, "up").await;
    }
    let uid = &first.pod.uid;
    assert!(matches!(fixture.runtime().remove_pod(uid).await, Err(RuntimeError::StillRunning(_))));
    if instance.cgroup.is_some() {
        assert!(fixture.runtime().stats_pod(uid).await.unwrap().pids >= 2);
    }
    fixture.runtime().stop_pod(uid, Duration::from_millis(200)).await.unwrap();
    for spec in [&first, &second] {
        let state = fixture.runtime().status(&spec.id()).await.unwrap().state;
        assert!(matches!(state, ContainerState::Exited(_)), "{state:?}");
    }

    // A container whose state is lost: nobody lists it, and its group is the only witness.
    let mut lost = fixture.shell("echo up; sleep 1000");
    lost.pod = first.pod.clone();
    lost.container = "lost".to_owned();
    fixture.start(&lost).await;
    fixture.until_logged(&lost, "up").await;
    let Some(group) = group(&instance) else { return testkit::skip("there are no control groups here") };
    let programs = || fs::read_to_string(group.join("lost_0/cgroup.procs")).unwrap_or_default();
    assert!(!programs().is_empty());
    fixture.runtime = None;
    fs::remove_dir_all(fixture.folder.path().join("state/selvedge-process").join(lost.id().to_string())).unwrap();
    fixture.reopen();
    assert!(fixture.runtime().status(&lost.id()).await.is_err());
    fixture.runtime().stop_pod(uid, Duration::from_secs(10)).await.unwrap();
    eventually("nothing in the group", async || match programs() {
        none if none.is_empty() => Ok(()),
        pids => Err(pids),
    })
    .await;
    fixture.runtime().remove_pod(uid).await.unwrap();
    assert!(!group.exists());
}

#[tokio::test]
async fn a_pod_that_nobody_knows_is_stopped_and_removed_already() {
    let fixture = Fixture::new();
    fixture.runtime().stop_pod("nobody", Duration::ZERO).await.unwrap();
    fixture.runtime().remove_pod("nobody").await.unwrap();
    assert!(matches!(fixture.runtime().stats_pod("nobody").await, Err(RuntimeError::PodNotFound(_))));
    for uid in ["", "..", "a/b", ".pods"] {
        assert!(fixture.runtime().remove_pod(uid).await.is_err(), "{uid:?}");
    }
}
