use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    root: OwnedFd,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("volume")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        let root = open_path(&dir.path().join("volume")).unwrap();
        Self { dir, root }
    }

    fn outside(&self) -> std::path::PathBuf {
        self.dir.path().join("outside")
    }

    fn volume(&self) -> std::path::PathBuf {
        self.dir.path().join("volume")
    }
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn missing_directories_are_created_with_the_mode_of_the_volume() {
    let fixture = Fixture::new();
    fs::set_permissions(fixture.volume(), fs::Permissions::from_mode(0o2777)).unwrap();
    let opened = open_or_create(fixture.root.as_fd(), Path::new("a/b")).unwrap();
    assert!(is_dir(opened.as_fd()).unwrap());
    for made in ["a", "a/b"] {
        let mode = fs::metadata(fixture.volume().join(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o2777, "{made}");
    }
    // Once more: it is there.
    open_or_create(fixture.root.as_fd(), Path::new("a/b")).unwrap();
    open_or_create_file(fixture.root.as_fd(), Path::new("a/c/file")).unwrap();
    assert!(fixture.volume().join("a/c/file").is_file());
}

#[test]
fn a_link_in_a_volume_is_named_and_nothing_is_created_behind_it() {
    let fixture = Fixture::new();
    symlink(fixture.outside(), fixture.volume().join("link")).unwrap();
    symlink("../../outside", fixture.volume().join("relative")).unwrap();
    fs::create_dir(fixture.volume().join("real")).unwrap();
    symlink("real", fixture.volume().join("inner")).unwrap();
    for (path, link) in [
        ("link/made", "`link`"),
        ("link", "`link`"),
        ("relative/made", "`relative`"),
        ("real/../link", "without `..`"),
        ("/etc", "without `..`"),
        ("inner/made", "`inner`"),
        ("", "without `..`"),
    ] {
        for error in [
            open_or_create(fixture.root.as_fd(), Path::new(path)).unwrap_err(),
            open_or_create_file(fixture.root.as_fd(), Path::new(path)).unwrap_err(),
        ] {
            assert!(error.contains(link), "{path}: {error}");
        }
    }
    assert_eq!(names(&fixture.outside()), [""; 0]);
    assert_eq!(names(&fixture.volume().join("real")), [""; 0]);
}

#[test]
fn links_of_the_node_are_followed_while_they_stay_in_the_volume() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.volume().join("..1f3a")).unwrap();
    fs::write(fixture.volume().join("..1f3a/app.conf"), "x").unwrap();
    symlink("..1f3a", fixture.volume().join("..data")).unwrap();
    symlink("..data/app.conf", fixture.volume().join("app.conf")).unwrap();
    symlink("../outside", fixture.volume().join("out")).unwrap();
    let open = |path: &str| open(fixture.root.as_fd(), Path::new(path), Links::Followed);
    assert!(!is_dir(open("app.conf").unwrap().as_fd()).unwrap());
    assert!(open("out").unwrap_err().contains("leads out"));
}

#[test]
fn a_directory_that_becomes_a_link_between_two_steps_leads_nowhere() {
    let fixture = Fixture::new();
    let (outside, volume) = (fixture.outside(), fixture.volume());
    let swapped = create(fixture.root.as_fd(), Path::new("a/b/c"), |_, part| {
        if part == Path::new("c") {
            fs::remove_dir(volume.join("a/b"))?;
            symlink(&outside, volume.join("a/b"))?;
        }
        Ok(())
    });
    // The directory that was opened is removed by now; nothing is created in it, and nothing behind the link.
    swapped.unwrap_err();
    let swapped = create(fixture.root.as_fd(), Path::new("d/e"), |_, part| {
        if part == Path::new("e") {
            symlink(&outside, volume.join("d/e"))?;
        }
        Ok(())
    });
    assert!(swapped.unwrap_err().contains("symbolic link"));
    assert_eq!(names(&outside), [""; 0]);
}
