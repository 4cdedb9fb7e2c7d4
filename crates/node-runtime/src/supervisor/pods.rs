//! Pods as a whole: their group, their instance, their end.
//!
//! The instance of a pod is a control group in the pod's own, whose name holds the id; nothing is in it but the first of the processes
//! that containers share, where they do. It cannot outlive a boot, it
//! cannot be damaged, it keeps the pod's group while containers come and end, and nothing is written to the flash for it.
//! Only where a node may not make control groups a file takes its place, which counts in the boot it was written in.
//!
//! What runs in a pod is what its group holds, whatever the state directories say: both ends of a pod kill the whole group.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::join_all;
use node_shim::{
    NamespaceRef,
    cgroup::{CgroupPaths, Hierarchy},
    state::Process,
};

use super::{Supervisor, blocking, has_ended, io_error};
use crate::{
    ContainerId, ContainerStats, POD_INSTANCE_VERSION, PodInstance, PodResources, PodSpec, RuntimeError,
    sandbox::Sandbox,
};

/// Name of the group that stands for an instance, before its id. No container has such a name.
pub(crate) const INSTANCE_MARKER: &str = ".instance-";

/// Files of instances on nodes without control groups.
const INSTANCES_DIR: &str = ".pods";

/// `<boot id> <instance id>`.
const INSTANCE_BYTES_MAX: u64 = 256;

impl Supervisor {
    pub async fn ensure_pod(&self, spec: PodSpec) -> Result<PodInstance, RuntimeError> {
        check_uid(&spec.pod.uid)?;
        let mut resources = spec.resources;
        resources.pids_max.get_or_insert(self.config().pod_pids_max);
        let (pod, sandboxes) = (self.pod(&spec.pod.uid), self.inner.sandboxes.clone());
        let runs = !self.running_of(&spec.pod.uid).is_empty();
        let root = self.inner.root.clone();
        blocking(move || {
            let set_up = || pod.ensure(&resources).map_err(|source| io_error("set up pod in", &root, source));
            let needs_another = sandboxes.needs_another(&spec);
            // What an agent without pod networks has started stays where it is for as long as it runs.
            if needs_another && runs && sandboxes.are_optional() {
                return set_up();
            }
            // Without it the pod's containers have nothing in common: it is another instance.
            if needs_another {
                pod.forget();
            }
            let mut instance = set_up()?;
            let sandbox = sandboxes.ensure(&spec, &pod.instance_groups(&instance.id));
            let sandbox = sandbox.map_err(|source| RuntimeError::Sandbox { uid: spec.pod.uid.clone(), source })?;
            let processes = sandbox.processes_of().map(|first| NamespaceRef {
                kind: "pid".to_owned(),
                path: format!("/proc/{}/ns/pid", first.pid).into(),
            });
            (instance.namespaces, instance.addresses) = (sandbox.namespaces, sandbox.addresses);
            instance.namespaces.extend(processes);
            Ok(instance)
        })
        .await
    }

    /// What the containers of a pod enter.
    pub async fn sandbox(&self, uid: &str) -> Result<Option<Sandbox>, RuntimeError> {
        let (sandboxes, uid) = (self.inner.sandboxes.clone(), uid.to_owned());
        blocking(move || {
            sandboxes.enter(&uid).map_err(|source| io_error("enter the namespaces of pod", Path::new(&uid), source))
        })
        .await
    }

    /// What runs of a container of a pod, in its newest attempt.
    pub fn process_of(&self, uid: &str, container: &str) -> Option<Process> {
        let containers = self.inner.containers();
        let is_meant = |id: &&ContainerId| id.pod_uid == uid && id.container == container;
        let newest = containers.iter().filter(|(id, _)| is_meant(id)).max_by_key(|(id, _)| id.attempt);
        newest.and_then(|(_, container)| Some(container.running.as_ref()?.child.clone()))
    }

    pub async fn stop_pod(&self, uid: &str, grace: Duration) -> Result<(), RuntimeError> {
        check_uid(uid)?;
        let stops = self.running_of(uid).into_iter().map(|id| async move { self.stop(&id, grace).await });
        let stopped = join_all(stops).await;
        let groups = self.pod(uid).groups();
        let is_empty = blocking(move || groups.kill_all()).await;
        if is_empty {
            // A container that could not be stopped by itself was stopped with the group, where there is one.
            let failed =
                stopped.into_iter().find_map(Result::err).filter(|error| !matches!(error, RuntimeError::NotFound(_)));
            return match failed {
                Some(error) if !self.running_of(uid).is_empty() => Err(error),
                _ => Ok(()),
            };
        }
        let text = "its processes hang in the kernel, on a disk or device that does not answer";
        Err(RuntimeError::Io { act: format!("kill pod {uid}"), source: io::Error::other(text) })
    }

    pub async fn remove_pod(&self, uid: &str) -> Result<(), RuntimeError> {
        check_uid(uid)?;
        if let Some(id) = self.running_of(uid).into_iter().next() {
            return Err(RuntimeError::StillRunning(id));
        }
        for status in self.list().into_iter().filter(|status| status.id.pod_uid == uid) {
            self.remove(&status.id).await?;
        }
        let (pod, sandboxes) = (self.pod(uid), self.inner.sandboxes.clone());
        blocking(move || {
            let groups = pod.groups();
            groups.kill_all();
            groups.remove_all();
            sandboxes
                .remove(&pod.uid)
                .map_err(|source| io_error("remove the namespaces of pod", Path::new(&pod.uid), source))?;
            match fs::remove_file(&pod.file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &pod.file, error)),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Pods with namespaces of their own.
    pub async fn list_pods(&self) -> Result<Vec<String>, RuntimeError> {
        let sandboxes = self.inner.sandboxes.clone();
        let listed = blocking(move || sandboxes.uids()).await;
        listed.map_err(|source| io_error("list pods of", &self.inner.root, source))
    }

    pub async fn stats_pod(&self, uid: &str) -> Result<ContainerStats, RuntimeError> {
        check_uid(uid)?;
        let groups = self.pod(uid).groups();
        let stats = blocking(move || groups.exist().then(|| groups.stats())).await;
        stats.ok_or_else(|| RuntimeError::PodNotFound(uid.to_owned()))
    }

    fn running_of(&self, uid: &str) -> Vec<ContainerId> {
        let of_pod = self.list().into_iter().filter(|status| status.id.pod_uid == uid && !has_ended(status));
        of_pod.map(|status| status.id).collect()
    }

    fn pod(&self, uid: &str) -> Pod {
        let parent = self.config().cgroup_parent.clone();
        Pod { parent, uid: uid.to_owned(), file: self.inner.root.join(INSTANCES_DIR).join(uid) }
    }
}

/// Where one pod is.
struct Pod {
    parent: String,
    uid: String,
    file: PathBuf,
}

impl Pod {
    fn groups(&self) -> CgroupPaths {
        Hierarchy::of_this_process().pod_groups(&self.parent, &self.uid)
    }

    /// Where the pod's own process is, when it has one.
    fn instance_groups(&self, id: &str) -> CgroupPaths {
        self.groups().child(&format!("{INSTANCE_MARKER}{id}"))
    }

    /// Makes the next instance another one.
    fn forget(&self) {
        let groups = self.groups();
        for name in groups.children().iter().filter(|name| name.starts_with(INSTANCE_MARKER)) {
            groups.child(name).kill_all();
        }
        groups.remove_children(INSTANCE_MARKER);
        // What is left of it is of another boot, or is written over.
        let _ = fs::remove_file(&self.file);
    }

    fn ensure(&self, resources: &PodResources) -> io::Result<PodInstance> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let hierarchy = Hierarchy::of_this_process();
        let known =
            self.groups().children().iter().find_map(|name| Some(name.strip_prefix(INSTANCE_MARKER)?.to_owned()));
        let is_known = known.is_some();
        let id = known.map_or_else(new_id, Ok)?;
        let made = hierarchy.create_pod(&self.parent, &self.uid, &format!("{INSTANCE_MARKER}{id}"), resources);
        let instance = |id: String, has_group: bool| PodInstance {
            version: POD_INSTANCE_VERSION,
            id,
            boot_id: boot_id.clone(),
            cgroup: has_group.then(|| PathBuf::from(&self.parent).join(&self.uid)),
            namespaces: Vec::new(),
            addresses: Vec::new(),
            devices: Vec::new(),
        };
        match made {
            Ok(_) => Ok(instance(id, true)),
            // A limit that the pod names cannot be held: as its containers would be, it is rejected.
            Err(error) if is_known || resources.memory_limit_bytes.or(resources.cpu_limit_millis).is_some() => {
                Err(error)
            }
            Err(_) => Ok(instance(self.ensure_file(&boot_id, id)?, false)),
        }
    }

    /// The id in the pod's file when it was written in this boot; else `id`, which is written there.
    fn ensure_file(&self, boot_id: &str, id: String) -> io::Result<String> {
        let is_small = fs::metadata(&self.file).is_ok_and(|meta| meta.len() <= INSTANCE_BYTES_MAX);
        if is_small
            && let Ok(text) = fs::read_to_string(&self.file)
            && let Some((boot, id)) = text.split_once(' ')
            && boot == boot_id
            && is_plain(id)
        {
            return Ok(id.to_owned());
        }
        fs::create_dir_all(self.file.parent().expect("the file is in a directory of ours"))?;
        // No flush: what a power cut takes counts in no later boot anyway.
        let draft = self.file.with_added_extension("tmp");
        fs::write(&draft, format!("{boot_id} {id}"))?;
        fs::rename(&draft, &self.file)?;
        Ok(id)
    }
}

fn new_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned())
}

fn is_plain(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(allowed)
}

/// A uid becomes a name of directories.
fn check_uid(uid: &str) -> Result<(), RuntimeError> {
    if is_plain(uid) { Ok(()) } else { Err(RuntimeError::PodNotFound(uid.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_control_groups_an_instance_is_a_file_of_this_boot() {
        let root = tempfile::tempdir().unwrap();
        let pod = Pod { parent: "s".to_owned(), uid: "u".to_owned(), file: root.path().join(INSTANCES_DIR).join("u") };
        assert_eq!(pod.ensure_file("boot-1", "a".to_owned()).unwrap(), "a");
        assert_eq!(pod.ensure_file("boot-1", "b".to_owned()).unwrap(), "a");
        assert_eq!(pod.ensure_file("boot-2", "c".to_owned()).unwrap(), "c");
        for damaged in ["", "boot-2", "boot-2 ", "boot-2 ../x", &"x".repeat(1000)] {
            fs::write(&pod.file, damaged).unwrap();
            assert_eq!(pod.ensure_file("boot-2", "d".to_owned()).unwrap(), "d", "{damaged:?}");
        }
    }
}
