//! Links to the logs of containers where other people's collectors look for them.
//!
//! ```text
//! /var/log/containers/POD_NAMESPACE_CONTAINER-ID.log ─▶ /var/log/pods/NAMESPACE_POD_UID/CONTAINER/ATTEMPT.log ─▶ the log
//! ```
//!
//! The logs themselves stay in the data directory. Nothing here is ever opened through a link: a link is made, read as a link, and
//! deleted. Several nodes may share the directory; each removes only what leads to its own logs.

use std::io;
use std::path::{Path, PathBuf};

use node_runtime::ContainerId;

/// Longest name of a file on all file systems.
const FILE_NAME_BYTES_MAX: usize = 255;

/// The directory with the links; cheap to clone.
#[derive(Clone, Debug)]
pub struct LogLinks {
    root: PathBuf,
}

impl LogLinks {
    /// Makes the directories `pods` and `containers` in `root`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(root: &Path) -> io::Result<Self> {
        for name in ["pods", "containers"] {
            std::fs::create_dir_all(root.join(name))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Removes the links of all pods of `data_dir`: they are made somewhere else from now on, or nowhere.
    pub fn remove_all(&self, data_dir: &Path) {
        for entry in std::fs::read_dir(self.root.join("pods")).into_iter().flatten().flatten() {
            self.remove(&data_dir.join("node/pods").join(entry.file_name()));
        }
    }

    /// Removes the links of pods that have no directory in `data_dir` any more, and those that lead to a removed one.
    pub fn sweep(&self, data_dir: &Path) {
        for entry in std::fs::read_dir(self.root.join("pods")).into_iter().flatten().flatten() {
            let pod_dir = data_dir.join("node/pods").join(entry.file_name());
            if std::fs::symlink_metadata(&pod_dir).is_err() {
                self.remove(&pod_dir);
            }
        }
        // Of a removal that was cut off between the two; those of others are as dead.
        let pods = self.root.join("pods");
        for entry in std::fs::read_dir(self.root.join("containers")).into_iter().flatten().flatten() {
            let leads_to_none = |to: &Path| to.starts_with(&pods) && std::fs::symlink_metadata(to).is_err();
            if std::fs::read_link(entry.path()).is_ok_and(|to| leads_to_none(&to)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Links the log of a container of the pod that has this directory, and removes the links of attempts that are forgotten.
    pub(crate) fn add(&self, pod_dir: &Path, id: &ContainerId, log: &Path) -> io::Result<()> {
        let Some(pod) = pod_dir.file_name() else { return Ok(()) };
        let dir = self.root.join("pods").join(pod).join(&id.container);
        std::fs::create_dir_all(&dir)?;
        let is_forgotten = |attempt: u32| attempt.saturating_add(1) < id.attempt;
        for (attempt, link) in links_in(&dir).filter(|(attempt, _)| is_forgotten(*attempt)) {
            self.unlink(pod_dir, &id.container, attempt, &link);
        }
        let link = dir.join(format!("{}.log", id.attempt));
        replace(log, &link)?;
        match self.container_link(pod_dir, &id.container, id.attempt) {
            Some(of_container) => replace(&link, &of_container),
            None => Ok(()),
        }
    }

    /// Removes the links of the pod that has, or had, this directory.
    pub(crate) fn remove(&self, pod_dir: &Path) {
        let Some(pod) = pod_dir.file_name() else { return };
        let dir = self.root.join("pods").join(pod);
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (container, of_container) = (entry.file_name(), entry.path());
            let Some(container) = container.to_str() else { continue };
            for (attempt, link) in links_in(&of_container) {
                // On a disk that takes no file the log was in memory, and is deleted by now.
                let is_ours = std::fs::read_link(&link).is_ok_and(|log| log.starts_with(pod_dir) || !log.exists());
                if is_ours {
                    self.unlink(pod_dir, container, attempt, &link);
                }
            }
            // What others have in it keeps it.
            let _ = std::fs::remove_dir(of_container);
        }
        let _ = std::fs::remove_dir(dir);
    }

    fn unlink(&self, pod_dir: &Path, container: &str, attempt: u32, link: &Path) {
        // Either may be removed already.
        if let Some(of_container) = self.container_link(pod_dir, container, attempt) {
            let _ = std::fs::remove_file(of_container);
        }
        let _ = std::fs::remove_file(link);
    }

    /// Collectors take pod, namespace, container and id out of this name; the id has the form of containerd's.
    fn container_link(&self, pod_dir: &Path, container: &str, attempt: u32) -> Option<PathBuf> {
        let mut parts = pod_dir.file_name()?.to_str()?.split('_');
        let (namespace, pod, uid) = (parts.next()?, parts.next()?, parts.next()?);
        let id = ContainerId { pod_uid: uid.to_owned(), container: container.to_owned(), attempt }.to_string();
        let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{pod}_{namespace}_{container}-{hex}.log");
        (name.len() <= FILE_NAME_BYTES_MAX).then(|| self.root.join("containers").join(name))
    }
}

/// The links `ATTEMPT.log` in a directory.
fn links_in(dir: &Path) -> impl Iterator<Item = (u32, PathBuf)> + use<> {
    let links = std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| {
        let attempt = entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok()?;
        entry.file_type().ok()?.is_symlink().then(|| (attempt, entry.path()))
    });
    links.collect::<Vec<_>>().into_iter()
}

/// Has `link` lead to `target`, in one step.
fn replace(target: &Path, link: &Path) -> io::Result<()> {
    if std::fs::read_link(link).is_ok_and(|known| known == target) {
        return Ok(());
    }
    match std::os::unix::fs::symlink(target, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let draft = link.with_extension("tmp");
            let _ = std::fs::remove_file(&draft);
            std::os::unix::fs::symlink(target, &draft)?;
            std::fs::rename(&draft, link)
        }
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn collectors_find_logs_by_their_names_as_long_as_the_pod_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, root) = (dir.path().join("data"), dir.path().join("log"));
        let links = LogLinks::open(&root).unwrap();
        let pod_dir = data_dir.join("node/pods/d_web_uid-1");
        let start = |attempt: u32| {
            let log = pod_dir.join(format!("a/{attempt}.log"));
            std::fs::create_dir_all(log.parent().unwrap()).unwrap();
            std::fs::write(&log, format!("attempt {attempt}")).unwrap();
            let id = ContainerId { pod_uid: "uid-1".to_owned(), container: "a".to_owned(), attempt };
            links.add(&pod_dir, &id, &log).unwrap();
        };
        start(0);
        start(0);
        assert_eq!(std::fs::read_to_string(root.join("pods/d_web_uid-1/a/0.log")).unwrap(), "attempt 0");
        let of_container = names(&root.join("containers"));
        assert_eq!(of_container.len(), 1);
        let (name, id) = of_container[0].strip_suffix(".log").unwrap().rsplit_once('-').unwrap();
        assert_eq!((name, id.len()), ("web_d_a", 64));
        let target = std::fs::read_link(root.join("containers").join(&of_container[0])).unwrap();
        assert_eq!(target, root.join("pods/d_web_uid-1/a/0.log"));
        // The attempt before stays, as its log does.
        start(1);
        start(2);
        assert_eq!(names(&root.join("pods/d_web_uid-1/a")), ["1.log", "2.log"]);
        assert_eq!(names(&root.join("containers")).len(), 2);

        // What is another node's, or nobody's, stays; a log is never touched.
        let other = root.join("pods/d_other_uid-2/a/0.log");
        std::fs::create_dir_all(other.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &other).unwrap();
        links.sweep(&data_dir);
        assert_eq!(names(&root.join("pods")), ["d_other_uid-2", "d_web_uid-1"]);
        links.remove_all(&dir.path().join("another"));
        assert_eq!(names(&root.join("pods")), ["d_other_uid-2", "d_web_uid-1"]);
        links.remove_all(&data_dir);
        assert_eq!(names(&root.join("pods")), ["d_other_uid-2"]);
        start(3);
        std::fs::rename(&pod_dir, dir.path().join("moved")).unwrap();
        let left = root.join("containers/left_d_a-0.log");
        std::os::unix::fs::symlink(root.join("pods/d_left_uid-3/a/0.log"), left).unwrap();
        links.sweep(&data_dir);
        assert_eq!(names(&root.join("pods")), ["d_other_uid-2"]);
        assert_eq!(names(&root.join("containers")), [""; 0]);
        assert_eq!(names(&dir.path().join("moved/a")), ["0.log", "1.log", "2.log", "3.log"]);
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, precious) = (dir.path().join("log"), dir.path().join("precious"));
        let links = LogLinks::open(&root).unwrap();
        std::fs::create_dir_all(precious.join("a")).unwrap();
        std::fs::write(precious.join("a/0.log"), "precious").unwrap();
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::os::unix::fs::symlink(&precious, root.join("pods/d_web_uid-1")).unwrap();
        links.remove(&dir.path().join("data/node/pods/d_web_uid-1"));
        assert_eq!(std::fs::read_to_string(precious.join("a/0.log")).unwrap(), "precious");
    }
}
