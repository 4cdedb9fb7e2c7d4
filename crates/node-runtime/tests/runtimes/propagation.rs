//! Mounts that are made in a volume while its container runs: who sees them.

use std::{fs, path::PathBuf, time::Duration};

use node_runtime::{ContainerSpec, Mount, Propagation, RuntimeError, Security};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::{
    container::{fixture, spec, start},
    fixture::{Fixture, message},
};

/// A file system of its own on the node; it is unmounted with all that is mounted in it.
struct Volume(PathBuf);

impl Volume {
    fn mount(fixture: &Fixture, name: &str, propagation: MountPropagationFlags) -> Self {
        let path = fixture.folder.path().join(name);
        fs::create_dir(&path).unwrap();
        let volume = Self(path);
        volume.mount_at("");
        rustix::mount::mount_change(&volume.0, propagation).unwrap();
        for dir in ["late", "made"] {
            fs::create_dir(volume.0.join(dir)).unwrap();
        }
        volume
    }

    fn mount_at(&self, below: &str) {
        rustix::mount::mount("none", self.0.join(below), "tmpfs", MountFlags::empty(), None::<&std::ffi::CStr>)
            .unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for below in ["late", "made", ""] {
            // Not each test mounts everything.
            let _ = rustix::mount::unmount(self.0.join(below), UnmountFlags::DETACH);
        }
    }
}

fn with_volume(fixture: &Fixture, volume: &Volume, propagation: Propagation, privileged: bool) -> ContainerSpec {
    let mut spec = spec(fixture, "echo up; sleep 100");
    spec.mounts =
        vec![Mount { host_path: volume.0.clone(), container_path: "/data".into(), propagation, ..Mount::default() }];
    spec.security = Security { privileged, ..Security::default() };
    spec
}

/// Runs a command in a container, and answers what it printed.
async fn printed(fixture: &Fixture, spec: &ContainerSpec, script: &str) -> String {
    let words = ["sh", "-c", script].map(str::to_owned).to_vec();
    let output = fixture.runtime().exec(&spec.id(), words, Duration::from_secs(30)).await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn mounts_pass_between_node_and_container_as_the_volume_says() {
    let Some(fixture) = fixture() else { return };
    for (propagation, sees, is_seen) in [
        (Propagation::None, false, false),
        (Propagation::HostToContainer, true, false),
        (Propagation::Bidirectional, true, true),
    ] {
        let volume = Volume::mount(&fixture, &format!("{propagation:?}"), MountPropagationFlags::SHARED);
        let spec = with_volume(&fixture, &volume, propagation, true);
        start(&fixture, spec.clone()).await.unwrap();
        fixture.until_logged(&spec, "up").await;
        volume.mount_at("late");
        fs::write(volume.0.join("late/file"), "late").unwrap();
        let found = printed(&fixture, &spec, "cat /data/late/file 2>/dev/null || echo none").await;
        assert_eq!(found, if sees { "late" } else { "none" }, "{propagation:?}");
        let mounted =
            printed(&fixture, &spec, "mount -t tmpfs x /data/made && echo x > /data/made/file && echo done").await;
        assert_eq!((mounted.as_str(), volume.0.join("made/file").exists()), ("done", is_seen), "{propagation:?}");
        fixture.runtime().stop_pod(&spec.pod.uid, Duration::ZERO).await.unwrap();
        fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
    }
}

#[tokio::test]
async fn what_would_pass_nothing_on_or_too_much_is_rejected() {
    let Some(fixture) = fixture() else { return };
    let volume = Volume::mount(&fixture, "private", MountPropagationFlags::PRIVATE);
    for (propagation, kind) in
        [(Propagation::HostToContainer, "a shared or slave mount"), (Propagation::Bidirectional, "a shared mount")]
    {
        let spec = with_volume(&fixture, &volume, propagation, true);
        let error = message(&start(&fixture, spec).await.unwrap_err());
        let path = volume.0.display();
        assert!(error.contains(&format!("path \"{path}\" is mounted on \"{path}\" but it is not {kind}")), "{error}");
    }
    let shared = Volume::mount(&fixture, "shared", MountPropagationFlags::SHARED);
    let spec = with_volume(&fixture, &shared, Propagation::Bidirectional, false);
    let error = start(&fixture, spec).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Refused { .. }), "{error:?}");
    assert!(message(&error).contains("available only to privileged containers"), "{}", message(&error));
    // A volume without a word on it needs no shared mount.
    let spec = with_volume(&fixture, &volume, Propagation::None, false);
    start(&fixture, spec.clone()).await.unwrap();
    fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
}
