//! Images as volumes: what a container sees of one, and what it cannot do with it.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use node_runtime::{
    ContainerRuntime, ContainerSpec, Image, ImageVolume, Images, Mount, PodRuntime, RuntimeError, RuntimeFuture,
};

use crate::{
    container::{OneImage, fixture_with, image_of, pod_of, spec},
    fixture::{self, Fixture, message},
};

/// Files without a program.
const DATA: &str = "registry.example/data:1";
/// An image without a layer.
const NOTHING: &str = "registry.example/nothing:1";

/// The usual image, and two that are not run.
struct WithData(OneImage);

impl Images for WithData {
    fn find(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        let store = self.0.0.store.clone();
        match image {
            DATA => Ok(Some(Image {
                id: "sha256:data".to_owned(),
                store,
                layers: vec!["high".to_owned()],
                ..Image::default()
            })),
            NOTHING => Ok(Some(Image { id: "sha256:nothing".to_owned(), store, ..Image::default() })),
            other => self.0.find(other),
        }
    }

    fn pull(&self, _: &str, _: Vec<Vec<u8>>) -> RuntimeFuture<'_, u64> {
        Box::pin(async { Ok(0) })
    }
}

fn open() -> Option<(ContainerRuntime, Fixture)> {
    let mut fixture = fixture_with(|_| {})?;
    fixture.runtime = None;
    let image = image_of(&fixture);
    fs::create_dir_all(image.store.join("high/tools")).unwrap();
    fs::copy(image.store.join("low/bin/busybox"), image.store.join("high/tools/sh")).unwrap();
    let images = Arc::new(WithData(OneImage(image)));
    Some((ContainerRuntime::open(fixture::config(fixture.folder.path()), images).unwrap(), fixture))
}

fn volume(reference: &str, path: &str, sub_path: Option<&str>) -> Mount {
    Mount {
        volume: "image".to_owned(),
        image: Some(ImageVolume { reference: reference.to_owned(), ..ImageVolume::default() }),
        container_path: path.into(),
        sub_path: sub_path.map(Into::into),
        ..Mount::default()
    }
}

fn with(fixture: &Fixture, script: &str, mounts: Vec<Mount>) -> ContainerSpec {
    ContainerSpec { mounts, ..spec(fixture, script) }
}

#[tokio::test]
async fn a_volume_shows_an_image_that_nobody_can_write_to_or_run() {
    let Some((runtime, fixture)) = open() else { return };
    let script = "cat /data/old/file; echo; ls /data; touch /data/x; touch /data/old/file; /data/tools/sh -c true; cat /sub/file; echo; \
                  ls /sub /nothing; touch /nothing/x; echo up; sleep 100";
    let mounts =
        vec![volume(DATA, "/data", None), volume(DATA, "/sub", Some("old")), volume(NOTHING, "/nothing", None)];
    let spec = with(&fixture, script, mounts);
    runtime.ensure_pod(pod_of(&spec)).await.unwrap();
    runtime.start(spec.clone()).await.unwrap();
    fixture.until_logged(&spec, "up").await;
    let log = fixture.log(&spec);
    let log: Vec<&str> = log.iter().filter_map(|line| line.splitn(3, ' ').nth(2)).collect();
    let expected = [
        "high",
        "dangling",
        "old",
        "outside",
        "tools",
        "touch: /data/x: Read-only file system",
        "touch: /data/old/file: Read-only file system",
        "sh: /data/tools/sh: Permission denied",
        "high",
        "/nothing:",
        "",
        "/sub:",
        "file",
        "touch: /nothing/x: Read-only file system",
        "up",
    ];
    assert_eq!(log, expected);
    let user = format!("default/{}/main", spec.pod.name);
    let users: BTreeMap<String, Vec<String>> =
        ["sha256:1", "sha256:data", "sha256:nothing"].map(|id| (id.to_owned(), vec![user.clone()])).into();
    assert_eq!(runtime.images_in_use(), users, "none of them is deleted while it is used");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(
        !mounts
            .lines()
            .any(|line| line.starts_with("overlay") && line.contains(fixture.folder.path().to_str().unwrap()))
    );
    runtime.stop_pod(&spec.pod.uid, Duration::ZERO).await.unwrap();
    runtime.remove_pod(&spec.pod.uid).await.unwrap();
    assert_eq!(runtime.images_in_use(), BTreeMap::new());
}

#[tokio::test]
async fn a_volume_of_an_image_leads_nowhere_else() {
    let Some((runtime, fixture)) = open() else { return };
    for (reference, sub_path, expected) in [
        (DATA, Some("none"), "sub path `none`"),
        (DATA, Some("outside"), "sub path `outside`"),
        (DATA, Some("dangling"), "sub path `dangling`"),
        ("registry.example/none", None, "not on the node"),
    ] {
        let spec = with(&fixture, "true", vec![volume(reference, "/data", sub_path)]);
        runtime.ensure_pod(pod_of(&spec)).await.unwrap();
        let error = message(&runtime.start(spec.clone()).await.unwrap_err());
        assert!(error.contains(expected), "{error}");
        runtime.remove_pod(&spec.pod.uid).await.unwrap();
    }
    assert!(!std::path::Path::new("/nowhere").exists());
}
