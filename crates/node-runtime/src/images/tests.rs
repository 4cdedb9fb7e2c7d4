use std::time::Instant;

use testkit::image::{Compression, Entry, Image as Built};

use super::*;

const MIB: usize = 1 << 20;

/// A disk of its own of so many bytes, in memory, until it is dropped; `None` where nothing may be mounted.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(bytes: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        let mounted = rustix::mount::mount("tmpfs", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), &*options);
        match mounted {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                testkit::skip(&format!("no file system can be mounted: {error}"));
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

fn open(dir: &Path, limits: GcLimits) -> NodeImages {
    NodeImages::open(&dir.join("images"), RegistriesConfig::default(), limits).unwrap()
}

/// An image with one file of so many bytes, as an archive of this name.
fn archive(dir: &Path, name: &str, bytes: usize) -> PathBuf {
    let content: Vec<u8> = std::iter::repeat_with(|| name.bytes()).flatten().take(bytes).collect();
    let image = Built::new().layer(&[Entry::file("data", content)], Compression::Gzip);
    let path = dir.join(format!("{name}.tar"));
    std::fs::write(&path, image.layout_tar(&format!("example.com/{name}:1"))).unwrap();
    path
}

fn used_by_nobody() -> ImageUsers {
    Box::new(|| Some(BTreeMap::new()))
}

fn names(images: &NodeImages) -> Vec<String> {
    images.list().into_iter().flat_map(|image| image.names).collect::<BTreeSet<_>>().into_iter().collect()
}

/// As if the images had been looked for long ago.
fn forget_recent(images: &NodeImages) {
    let long_ago = Instant::now().checked_sub(AGE_MIN).expect("the machine runs for longer");
    lock(&images.kept.recent).values_mut().for_each(|since| *since = long_ago);
}

#[test]
fn a_disk_is_freed_from_the_upper_limit_to_the_lower() {
    let limits = GcLimits::default();
    for (available, expected) in [(160, (84, 0)), (159, (85, 41)), (150, (85, 50)), (100, (90, 100)), (0, (100, 200))] {
        assert_eq!(limits.excess(1_000, available), expected, "{available}");
    }
    assert_eq!(limits.excess(0, 0), (100, 0));
}

#[test]
fn an_image_in_use_is_not_removed_and_its_users_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path(), GcLimits::default());
    let imported = images.import(&archive(dir.path(), "app", 100)).unwrap();
    let error = images.remove("example.com/app:1").unwrap_err();
    assert!(matches!(error, RemoveImageError::UsersUnknown(_)), "{error}");
    let id = imported[0].id.clone();
    let users = Mutex::new(BTreeMap::from([(id.clone(), vec!["default/pod/main".to_owned()])]));
    let users = Arc::new(users);
    images.set_users(Box::new({
        let users = users.clone();
        move || Some(lock(&users).clone())
    }));
    assert_eq!(images.list()[0].used_by, ["default/pod/main"]);
    let text = images.remove(&id).unwrap_err().to_string();
    assert!(text.ends_with("is in use by default/pod/main; delete its pod first"), "{text}");
    lock(&users).clear();
    assert_eq!(images.remove("example.com/app:1").unwrap().images, [id]);
    assert_eq!(images.list(), []);
}

#[test]
fn many_users_are_named_in_one_line() {
    let by: Vec<String> = (0..7).map(|number| format!("a/b/{number}")).collect();
    assert_eq!(list(&by), "a/b/0, a/b/1, a/b/2, a/b/3, a/b/4 and 2 more");
    assert_eq!(list(&by[..5]), "a/b/0, a/b/1, a/b/2, a/b/3, a/b/4");
}

#[test]
fn a_full_disk_loses_the_images_that_nobody_uses_oldest_first() {
    let Some(disk) = Disk::mount(16 * MIB) else { return };
    let archives = tempfile::tempdir().unwrap();
    let images = open(disk.path(), GcLimits { high_percent: 70, low_percent: 55 });
    for name in ["a", "b", "c"] {
        images.import(&archive(archives.path(), name, 4 * MIB)).unwrap();
    }
    let used = images.list().into_iter().find(|image| image.names == ["example.com/a:1"]).unwrap().id;
    images.set_users(Box::new(move || Some(BTreeMap::from([(used.clone(), vec!["default/pod/main".to_owned()])]))));
    // What was imported just now is about to be used.
    let error = images.collect_garbage().unwrap_err().to_string();
    assert!(error.contains("image filesystem (7") && error.contains("freed 0 bytes"), "{error}");
    forget_recent(&images);
    assert_eq!(images.collect_garbage().unwrap().images.len(), 1);
    assert_eq!(names(&images), ["example.com/a:1", "example.com/c:1"]);
    assert_eq!(images.collect_garbage().unwrap(), Collected::default());
}

#[test]
fn an_archive_that_does_not_fit_takes_the_space_of_unused_images() {
    let Some(disk) = Disk::mount(16 * MIB) else { return };
    let archives = tempfile::tempdir().unwrap();
    let images = open(disk.path(), GcLimits::default());
    images.set_users(used_by_nobody());
    for name in ["a", "b", "c"] {
        images.import(&archive(archives.path(), name, 4 * MIB)).unwrap();
    }
    let large = archive(archives.path(), "large", 8 * MIB);
    let error = images.import(&large).unwrap_err();
    assert!(error.is_disk_full(), "{error:?}");
    forget_recent(&images);
    images.import(&large).unwrap();
    assert_eq!(names(&images), ["example.com/large:1"]);
}

#[tokio::test]
async fn a_pull_that_meets_a_full_disk_takes_the_space_of_unused_images() {
    let Some(disk) = Disk::mount(16 * MIB) else { return };
    let archives = tempfile::tempdir().unwrap();
    let registry = testkit::registry::Registry::start().unwrap();
    let content: Vec<u8> = (0..10 * MIB).map(|at| (at % 251) as u8).collect();
    registry.add("app", "1", &Built::new().layer(&[Entry::file("data", content)], Compression::Gzip));
    let config = RegistriesConfig { plain_http: vec![registry.host()], ..RegistriesConfig::default() };
    let images = NodeImages::open(&disk.path().join("images"), config, GcLimits::default()).unwrap();
    images.set_users(used_by_nobody());
    for name in ["a", "b"] {
        images.import(&archive(archives.path(), name, 4 * MIB)).unwrap();
    }
    let name = format!("{}/app:1", registry.host());
    let error = images.pull_named(&name).await.unwrap_err().to_string();
    assert!(error.contains("No space left"), "{error}");
    forget_recent(&images);
    assert_eq!(images.pull_named(&name).await.unwrap().names, [name]);
    assert_eq!(images.list().len(), 1);
}
