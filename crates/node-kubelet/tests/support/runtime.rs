//! Containers that are entries of a table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use node_runtime::{
    ContainerEvent, ContainerId, ContainerResources, ContainerSpec, ContainerState, ContainerStats, ContainerStatus,
    ExecOutput, ExitReason, ExitRecord, ImagePresence, Images as _, NodeImages, POD_INSTANCE_VERSION, PodInstance,
    PodRuntime, PodSpec, RuntimeError, RuntimeFuture,
};
use tokio::sync::{broadcast, watch};

#[derive(Default)]
struct Table {
    containers: BTreeMap<String, (ContainerStatus, ContainerSpec)>,
    /// As they were set up last.
    pods: BTreeMap<String, PodSpec>,
    starts: Vec<String>,
    /// Stops and commands, in order.
    acts: Vec<String>,
    /// What each got to end when it was stopped.
    graces: BTreeMap<String, Vec<Duration>>,
    /// Pods that have something beside containers.
    remains: BTreeSet<String>,
    /// What is used, by the uid of a pod or the id of a container.
    stats: BTreeMap<String, ContainerStats>,
}

pub struct FakeRuntime {
    handler: &'static str,
    table: Mutex<Table>,
    events: broadcast::Sender<ContainerEvent>,
    /// Stops are asked for, and wait while it is true.
    holds_stops: watch::Sender<bool>,
    /// Starts are asked for, and wait while it is true.
    holds_starts: watch::Sender<bool>,
    /// Commands wait while it is true.
    holds_commands: watch::Sender<bool>,
    /// The pod that is not set up while it is this one.
    holds_set_up: watch::Sender<Option<String>>,
    /// Where it has the images of its containers, if it needs any; it fetches none.
    pub images: Mutex<Option<Arc<NodeImages>>>,
    /// Names of the images that were looked for, in order.
    pub looks: Mutex<Vec<String>>,
    /// The limit of CPU, in thousandths, to which the next resize fails.
    pub too_much: Mutex<Option<u64>>,
}

impl FakeRuntime {
    pub fn new() -> Arc<Self> {
        Self::of("selvedge-process")
    }

    /// One that has this handler.
    pub fn of(handler: &'static str) -> Arc<Self> {
        Arc::new(Self {
            handler,
            table: Mutex::default(),
            events: broadcast::channel(64).0,
            holds_stops: watch::channel(false).0,
            holds_starts: watch::channel(false).0,
            holds_commands: watch::channel(false).0,
            holds_set_up: watch::channel(None).0,
            images: Mutex::default(),
            looks: Mutex::default(),
            too_much: Mutex::default(),
        })
    }

    /// Ids of what runs.
    pub fn running(&self) -> Vec<String> {
        let table = self.table.lock().unwrap();
        let runs = |status: &ContainerStatus| matches!(status.state, ContainerState::Running { .. });
        table.containers.iter().filter(|(_, (status, _))| runs(status)).map(|(id, _)| id.clone()).collect()
    }

    /// Ids of everything that was ever started, in order.
    pub fn starts(&self) -> Vec<String> {
        self.table.lock().unwrap().starts.clone()
    }

    /// What a container got to end each time it was stopped, in whole seconds: a moment passes before it is.
    pub fn graces(&self, id: &str) -> Vec<u64> {
        let graces = self.table.lock().unwrap().graces.get(id).cloned().unwrap_or_default();
        graces.iter().map(|grace| grace.as_secs_f64().ceil() as u64).collect()
    }

    /// What was asked of containers, in order: `exec <id> <argv>` and `stop <id>`.
    pub fn acts(&self) -> Vec<String> {
        self.table.lock().unwrap().acts.clone()
    }

    pub fn env(&self, id: &str, name: &str) -> Option<String> {
        self.table.lock().unwrap().containers.get(id)?.1.env.get(name).cloned()
    }

    /// What a container was started with.
    pub fn spec(&self, id: &str) -> Option<ContainerSpec> {
        Some(self.table.lock().unwrap().containers.get(id)?.1.clone())
    }

    /// What its pod was set up with.
    pub fn pod(&self, uid: &str) -> Option<PodSpec> {
        self.table.lock().unwrap().pods.get(uid).cloned()
    }

    /// Where on the node a mount of a container comes from.
    pub fn mount(&self, id: &str, container_path: &str) -> Option<std::path::PathBuf> {
        let table = self.table.lock().unwrap();
        let mounts = &table.containers.get(id)?.1.mounts;
        let mount = mounts.iter().find(|mount| mount.container_path.as_os_str() == container_path)?;
        Some(mount.host_path.join(mount.sub_path.as_deref().unwrap_or(std::path::Path::new(""))))
    }

    pub fn exit(&self, id: &str, code: i32) {
        let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
        let status = self.end(id, code, reason);
        // Nobody listens while the kubelet is down.
        let _ = self.events.send(ContainerEvent::Exited(status));
    }

    /// What a pod or a container uses.
    pub fn uses(&self, id: &str, stats: ContainerStats) {
        self.table.lock().unwrap().stats.insert(id.to_owned(), stats);
    }

    fn used(&self, id: &str) -> ContainerStats {
        self.table.lock().unwrap().stats.get(id).copied().unwrap_or_default()
    }

    /// Containers that are asked to stop take their time while `hold` is true.
    pub fn hold_stops(&self, hold: bool) {
        self.holds_stops.send_replace(hold);
    }

    /// Containers take their time to start while `hold` is true.
    pub fn hold_starts(&self, hold: bool) {
        self.holds_starts.send_replace(hold);
    }

    /// Commands in containers take their time while `hold` is true.
    pub fn hold_commands(&self, hold: bool) {
        self.holds_commands.send_replace(hold);
    }

    /// This pod takes its time to be set up until another is named, or none.
    pub fn hold_set_up(&self, uid: Option<&str>) {
        self.holds_set_up.send_replace(uid.map(str::to_owned));
    }

    /// Pods that have something beside containers.
    pub fn pods(&self) -> BTreeSet<String> {
        self.table.lock().unwrap().remains.clone()
    }

    /// Leaves something of a pod, as a kubelet does that is killed while it removes it.
    pub fn leave(&self, uid: &str) {
        self.table.lock().unwrap().remains.insert(uid.to_owned());
    }

    /// Everything stops, and nobody sees it.
    pub fn power_cut(&self) {
        for id in self.running() {
            self.end(&id, 137, ExitReason::ContainerStatusUnknown);
        }
    }

    fn end(&self, id: &str, exit_code: i32, reason: ExitReason) -> ContainerStatus {
        let mut table = self.table.lock().unwrap();
        let (status, _) = table.containers.get_mut(id).expect("the container exists");
        if let ContainerState::Running { started_at, .. } = status.state {
            status.state = ContainerState::Exited(ExitRecord {
                version: 1,
                exit_code,
                signal: None,
                reason,
                message: String::new(),
                started_at: Some(started_at),
                finished_at: Timestamp::now(),
            });
        }
        status.clone()
    }
}

impl PodRuntime for FakeRuntime {
    fn handler(&self) -> &'static str {
        self.handler
    }

    fn ensure_pod(&self, spec: PodSpec) -> RuntimeFuture<'_, PodInstance> {
        let instance = PodInstance {
            version: POD_INSTANCE_VERSION,
            id: format!("instance of {}", spec.pod.uid),
            boot_id: "boot".to_owned(),
            cgroup: None,
            namespaces: vec![],
            addresses: vec![],
            devices: vec![],
        };
        let uid = spec.pod.uid.clone();
        self.table.lock().unwrap().pods.insert(uid.clone(), spec);
        Box::pin(async move {
            let is_free = |held: &Option<String>| held.as_ref() != Some(&uid);
            self.holds_set_up.subscribe().wait_for(is_free).await.unwrap();
            self.leave(&uid);
            Ok(instance)
        })
    }

    fn list_pods(&self) -> RuntimeFuture<'_, Vec<String>> {
        Box::pin(async { Ok(self.pods().into_iter().collect()) })
    }

    fn stop_pod(&self, uid: &str, _grace: Duration) -> RuntimeFuture<'_, ()> {
        let of_pod = format!("{uid}_");
        for id in self.running().into_iter().filter(|id| id.starts_with(&of_pod)) {
            let status = self.end(&id, 137, ExitReason::Error);
            let _ = self.events.send(ContainerEvent::Exited(status));
        }
        Box::pin(async { Ok(()) })
    }

    fn remove_pod(&self, uid: &str) -> RuntimeFuture<'_, ()> {
        let of_pod = format!("{uid}_");
        let mut table = self.table.lock().unwrap();
        table.containers.retain(|id, _| !id.starts_with(&of_pod));
        table.remains.remove(uid);
        table.pods.remove(uid);
        Box::pin(async { Ok(()) })
    }

    fn stats_pod(&self, uid: &str) -> RuntimeFuture<'_, ContainerStats> {
        let used = self.used(uid);
        Box::pin(async move { Ok(used) })
    }

    fn check(&self, _spec: &ContainerSpec) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn has_image(&self, image: &str) -> RuntimeFuture<'_, ImagePresence> {
        let images = self.images.lock().unwrap().clone();
        let found = images.map(|images| images.find(image));
        self.looks.lock().unwrap().push(image.to_owned());
        Box::pin(async move {
            match found.transpose()? {
                None => Ok(ImagePresence::NotNeeded),
                Some(None) => Ok(ImagePresence::Absent),
                Some(Some(_)) => Ok(ImagePresence::Present),
            }
        })
    }

    fn pull_image(&self, image: &str, _credentials: Vec<Vec<u8>>) -> RuntimeFuture<'_, u64> {
        let (image, message) = (image.to_owned(), "there is no registry".to_owned());
        Box::pin(async { Err(RuntimeError::Pull { image, reason: "ErrImagePull", message, out_of_reach: false }) })
    }

    fn start(&self, spec: ContainerSpec) -> RuntimeFuture<'_, ContainerStatus> {
        Box::pin(async move {
            let id = spec.id();
            self.table.lock().unwrap().acts.push(format!("start {id}"));
            self.holds_starts.subscribe().wait_for(|hold| !hold).await.unwrap();
            let status = ContainerStatus {
                id: id.clone(),
                pod: spec.pod.clone(),
                state: ContainerState::Running { pid: 1, started_at: Timestamp::now() },
                image: spec.image.clone(),
                image_id: "sha256:0".into(),
                limits: spec.limits,
                requests: spec.requests,
                log_path: spec.log_path(),
                notices: vec![],
            };
            let mut table = self.table.lock().unwrap();
            if table.containers.contains_key(&id.to_string()) {
                return Err(RuntimeError::AlreadyStarted(id));
            }
            table.starts.push(id.to_string());
            table.containers.insert(id.to_string(), (status.clone(), spec));
            drop(table);
            let _ = self.events.send(ContainerEvent::Started(status.clone()));
            Ok(status)
        })
    }

    fn stop(&self, id: &ContainerId, grace: Duration) -> RuntimeFuture<'_, ContainerStatus> {
        let id = id.clone();
        Box::pin(async move {
            {
                let mut table = self.table.lock().unwrap();
                if !table.containers.contains_key(&id.to_string()) {
                    return Err(RuntimeError::NotFound(id));
                }
                table.acts.push(format!("stop {id}"));
                table.graces.entry(id.to_string()).or_default().push(grace);
            }
            self.holds_stops.subscribe().wait_for(|hold| !hold).await.unwrap();
            let status = self.end(&id.to_string(), 143, ExitReason::Error);
            let _ = self.events.send(ContainerEvent::Exited(status.clone()));
            Ok(status)
        })
    }

    fn signal(&self, _id: &ContainerId, _signal: i32) -> RuntimeFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn resize(&self, id: &ContainerId, resources: ContainerResources) -> RuntimeFuture<'_, ContainerStatus> {
        let id = id.clone();
        Box::pin(async move {
            let mut table = self.table.lock().unwrap();
            let millis = resources.limits.cpu_millis.unwrap_or(0);
            table.acts.push(format!("resize {id} to {millis}m"));
            let (status, _) =
                table.containers.get_mut(&id.to_string()).ok_or_else(|| RuntimeError::NotFound(id.clone()))?;
            if Some(millis) == self.too_much.lock().unwrap().take() {
                let source = std::io::Error::other("below current usage");
                return Err(RuntimeError::Io { act: format!("resize container {id}"), source });
            }
            (status.limits, status.requests) = (resources.limits, resources.requests);
            Ok(status.clone())
        })
    }

    fn status(&self, id: &ContainerId) -> RuntimeFuture<'_, ContainerStatus> {
        let id = id.clone();
        Box::pin(async move {
            let table = self.table.lock().unwrap();
            table.containers.get(&id.to_string()).map(|(status, _)| status.clone()).ok_or(RuntimeError::NotFound(id))
        })
    }

    fn list(&self) -> RuntimeFuture<'_, Vec<ContainerStatus>> {
        Box::pin(async {
            Ok(self.table.lock().unwrap().containers.values().map(|(status, _)| status.clone()).collect())
        })
    }

    fn exec(&self, id: &ContainerId, argv: Vec<String>, _timeout: Duration) -> RuntimeFuture<'_, ExecOutput> {
        self.table.lock().unwrap().acts.push(format!("exec {id} {}", argv.join(" ")));
        Box::pin(async move {
            self.holds_commands.subscribe().wait_for(|hold| !hold).await.unwrap();
            // As the programs of these names do.
            Ok(ExecOutput { exit_code: i32::from(argv == ["false"]), ..ExecOutput::default() })
        })
    }

    fn stats(&self, id: &ContainerId) -> RuntimeFuture<'_, ContainerStats> {
        let used = self.used(&id.to_string());
        Box::pin(async move { Ok(used) })
    }

    fn remove(&self, id: &ContainerId) -> RuntimeFuture<'_, ()> {
        let id = id.to_string();
        Box::pin(async move {
            self.table.lock().unwrap().containers.remove(&id);
            Ok(())
        })
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }
}
