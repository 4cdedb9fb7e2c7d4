use std::fs;

use testkit::image::{Compression, Entry, Image};

use super::*;
use crate::{GcLimits, RegistriesConfig};

struct Node {
    dir: tempfile::TempDir,
    images: NodeImages,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("archives")).unwrap();
        let images =
            NodeImages::open(&dir.path().join("store"), RegistriesConfig::default(), GcLimits::default()).unwrap();
        images.set_users(Box::new(|| Some(BTreeMap::new())));
        Self { dir, images }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("archives").join(name)
    }

    fn import(&self) -> Vec<String> {
        import_archives(&self.images, &self.path(""), &self.dir.path().join("record.json"), &|| false)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.images.list().into_iter().flat_map(|image| image.names).collect();
        names.sort();
        names
    }
}

fn image(text: &str) -> Image {
    Image::new().layer(&[Entry::file("etc/text", text)], Compression::None)
}

#[test]
fn archives_of_every_form_are_imported_and_a_broken_one_harms_nothing() {
    let node = Node::new();
    assert_eq!(import_archives(&node.images, Path::new("/nowhere"), &node.path("r"), &|| false), [""; 0]);
    let tar = |name: &str| image(name).layout_tar(&format!("example.com/{name}:1"));
    fs::write(node.path("1-broken.tar"), "no archive at all").unwrap();
    fs::write(node.path("a.tar"), tar("a")).unwrap();
    fs::write(node.path("b.tar.gz"), Compression::Gzip.compress(&tar("b"))).unwrap();
    fs::write(node.path("c.tar.zst"), Compression::Zstd.compress(&tar("c"))).unwrap();
    image("d").write_layout(&node.path("d"), "example.com/d:1").unwrap();
    fs::write(node.path("e.tar"), image("e").docker_archive("example.com/e:1")).unwrap();
    for other in [".f.tar", "README", "g.tar.part"] {
        fs::write(node.path(other), tar("other")).unwrap();
    }
    fs::create_dir(node.path("directory.tar")).unwrap();
    let mistakes = node.import();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].contains("1-broken.tar"), "{mistakes:?}");
    assert_eq!(node.names(), ["a", "b", "c", "d", "e"].map(|name| format!("example.com/{name}:1")));
}

#[test]
fn what_was_imported_is_read_again_only_when_it_changed_or_its_image_was_removed() {
    let node = Node::new();
    let archive = node.path("a.tar");
    fs::write(&archive, image("one").layout_tar("example.com/a:1")).unwrap();
    assert_eq!(node.import(), [""; 0]);
    // Of the same size and time, but nothing that could be imported: nobody looks into it.
    let found = fs::metadata(&archive).unwrap();
    fs::write(&archive, vec![b'x'; found.len() as usize]).unwrap();
    fs::File::options().write(true).open(&archive).unwrap().set_modified(found.modified().unwrap()).unwrap();
    assert_eq!(node.import(), [""; 0]);
    node.images.remove("example.com/a:1").unwrap();
    assert_eq!(node.import().len(), 1);
    fs::write(&archive, image("two").layout_tar("example.com/a:2")).unwrap();
    assert_eq!(node.import(), [""; 0]);
    assert_eq!(node.names(), ["example.com/a:2"]);
    for damaged in ["", "{\"version\":9}", "{\"version\":1,\"archives\":[]}"] {
        fs::write(node.dir.path().join("record.json"), damaged).unwrap();
        assert_eq!(node.import(), [""; 0], "{damaged}");
    }
}

#[test]
fn a_node_that_stops_does_not_begin_another_archive() {
    let node = Node::new();
    fs::write(node.path("a.tar"), image("a").layout_tar("example.com/a:1")).unwrap();
    let (dir, record) = (node.path(""), node.dir.path().join("record.json"));
    assert_eq!(import_archives(&node.images, &dir, &record, &|| true), [""; 0]);
    assert_eq!(node.names(), [""; 0]);
}
