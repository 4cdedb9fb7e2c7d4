//! What belongs to no pod any more: containers found at the start, and directories.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node_runtime::PodRuntime;
use tracing::{info, warn};

use super::{Manager, STATIC_UID_PREFIX};

/// Stopping orphans: they belong to nobody, so nobody asked for more.
const ORPHAN_GRACE: Duration = Duration::from_secs(30);

impl Manager {
    /// Stops and forgets containers found at the start whose pods are nobody's.
    pub(super) fn sweep_orphans(&mut self, belongs: impl Fn(&str) -> bool) {
        let uids: Vec<String> = self.orphans.keys().filter(|uid| belongs(uid)).cloned().collect();
        for uid in uids {
            self.found.remove(&uid);
            let statuses = self.orphans.remove(&uid).unwrap_or_default();
            for runtime in self.runtimes.clone() {
                let (statuses, pods) = (statuses.clone(), self.shared.context.config.data_dir.join("node/pods"));
                let links = self.shared.context.log_links.clone();
                let uid = uid.clone();
                base_observe::spawn_named(&self.workers, "orphan", async move {
                    let (of, pods, links) = (&runtime, &pods, &links);
                    let stops = statuses.iter().map(|status| async move {
                        // A container of another runtime is not found, which is fine.
                        if of.stop(&status.id, ORPHAN_GRACE).await.is_ok() {
                            info!(container = %status.id, "Stopped a container whose pod is deleted.");
                            let _ = of.remove(&status.id).await;
                            let pod = &status.pod;
                            let dir = pods.join(super::dir_name(&pod.namespace, &pod.name, &pod.uid));
                            let links = links.clone();
                            let remove = move || {
                                let removed = crate::volumes::remove(&dir);
                                links.inspect(|links| links.remove(&dir));
                                removed
                            };
                            let _ = tokio::task::spawn_blocking(remove).await;
                        }
                    });
                    futures::future::join_all(stops).await;
                    remove_pod(&*runtime, &uid).await;
                });
            }
        }
    }

    /// Notes of which pods an earlier kubelet has set up something.
    pub(super) async fn find_remains(&mut self) {
        for runtime in &self.runtimes {
            match runtime.list_pods().await {
                Ok(uids) => self.found.extend(uids),
                Err(error) => {
                    let error = node_client::chain(&error);
                    warn!(runtime = runtime.handler(), %error, "Failed to list what pods have; what is left of some stays until the next start.");
                }
            }
        }
    }

    /// Removes what was set up, by the start of this kubelet, for pods that nobody knows and nothing runs of: one that was killed while
    /// it removed a pod has left it. Never that of a pod which began later.
    pub(super) fn sweep_remains(&mut self, listed: &BTreeSet<String>) {
        for uid in std::mem::take(&mut self.found) {
            let is_known = listed.contains(&uid) || self.pods.contains_key(&uid) || self.orphans.contains_key(&uid);
            if is_known || uid.starts_with(STATIC_UID_PREFIX) {
                continue;
            }
            info!(pod = %uid, "Removing what a pod has left that is deleted.");
            for runtime in self.runtimes.clone() {
                let uid = uid.clone();
                base_observe::spawn_named(&self.workers, "orphan", async move { remove_pod(&*runtime, &uid).await });
            }
        }
    }

    /// Removes what pods have left whose removal failed, or was cut short: once, after a complete list of the hub that the pods here
    /// are of. Before, a directory may be that of a pod which is not known yet.
    pub(super) fn sweep_directories(&mut self, listed: &BTreeSet<String>) {
        if std::mem::replace(&mut self.are_directories_swept, true) {
            return;
        }
        let mut known = listed.clone();
        known.extend(self.pods.keys().cloned());
        known.extend(self.orphans.keys().cloned());
        let data_dir = self.shared.context.config.data_dir.clone();
        let (pods, links) = (data_dir.join("node/pods"), self.shared.context.log_links.clone());
        base_observe::spawn_blocking_named("pod-directories", move || {
            for dir in unknown_directories(&pods, &known) {
                info!(directory = %dir.display(), "Removing what a pod has left that is deleted.");
                if let Err(error) = crate::volumes::remove(&dir) {
                    warn!(directory = %dir.display(), %error, "Failed to remove what a pod has left; the next start tries again.");
                }
            }
            if let Some(links) = links {
                links.sweep(&data_dir);
            }
        });
    }
}

/// Removes what a runtime has of a pod that is deleted.
async fn remove_pod(runtime: &dyn PodRuntime, uid: &str) {
    for result in [runtime.stop_pod(uid, Duration::ZERO).await, runtime.remove_pod(uid).await] {
        if let Err(error) = result {
            let error = node_client::chain(&error);
            warn!(pod = uid, %error, "Failed to remove what a pod has left; the next start tries again.");
        }
    }
}

/// The directories in `pods`, named `<namespace>_<name>_<uid>`, of pods that are not known. Static pods are not the hub's to know.
fn unknown_directories(pods: &Path, known: &BTreeSet<String>) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(pods).into_iter().flatten().flatten();
    let is_unknown = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let parts: Vec<&str> = name.split('_').collect();
        matches!(parts[..], [_, _, uid] if !uid.starts_with(STATIC_UID_PREFIX) && !known.contains(uid)) && path.is_dir()
    };
    entries.map(|entry| entry.path()).filter(is_unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_unknown_pods_are_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["d_web_known", "d_web_deleted", "d_edge_static-1", "lost+found", "d_x"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("d_file_deleted"), "").unwrap();
        let found = unknown_directories(dir.path(), &BTreeSet::from(["known".to_owned()]));
        assert_eq!(found, [dir.path().join("d_web_deleted")]);
    }
}
