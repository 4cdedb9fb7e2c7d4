//! Containers of images, in the shim's own namespaces: what a pod without a `runtimeClassName` gets.
//!
//! The image says what is run and as whom, the pod's spec says otherwise where it does; what comes out of both is one
//! [`Launch`], which the shim carries out. Where images come from is behind [`Images`].

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use node_shim::{
    cgroup::remove_everywhere,
    exec::ExecRequest,
    state::{Launch, Process, STATE_VERSION},
};
use tokio::sync::broadcast;

use crate::{
    ContainerEvent, ContainerId, ContainerResources, ContainerSpec, ContainerStats, ContainerStatus, ExecOutput,
    ImagePresence, ImageRoot, OciRuntime, PodInstance, PodRuntime, PodSpec, ProcessConfig, Propagation, RuntimeError,
    RuntimeFuture,
    sandbox::Shared,
    seccomp,
    signal::signal,
    supervisor::{
        Supervisor, blocking, check_app_armor, check_capabilities, check_mounts, check_names, check_security,
    },
};

/// An image that is on the node, unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// The directory that its layers are in.
    pub store: PathBuf,
    /// Names of the layers, the lowest first.
    pub layers: Vec<String>,
    /// What it says of its containers.
    pub config: ImageConfig,
}

/// `config` of an image, as far as a container depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// The program with its first words.
    pub entrypoint: Vec<String>,
    /// The words that follow, unless the pod has others.
    pub cmd: Vec<String>,
    /// `name`, `name:group`, or numbers; empty is root.
    pub user: String,
    /// Where the program starts; empty is `/`.
    pub working_dir: String,
    /// What asks it to end, as `SIGQUIT` or a number.
    pub stop_signal: Option<String>,
}

/// Where images come from.
pub trait Images: Send + Sync {
    /// The image of a name or id, when it is on the node. It looks at files.
    ///
    /// # Errors
    /// When it is no name of an image, or what is on disk cannot be read.
    fn find(&self, image: &str) -> Result<Option<Image>, RuntimeError>;

    /// Fetches it, or what has changed of it; answers its bytes here.
    fn pull(&self, image: &str, credentials: Vec<Vec<u8>>) -> RuntimeFuture<'_, u64>;
}

/// Runs containers of images.
pub struct ContainerRuntime {
    supervisor: Supervisor,
    images: Arc<dyn Images>,
    /// Who makes the containers; without one, our own shim does.
    oci: Option<OciRuntime>,
}

impl ContainerRuntime {
    /// The name of this runtime among those of the node. Pods ask for it by naming none.
    pub const HANDLER: &str = api_edge::RUNTIME_CONTAINER;

    /// Opens the state directory and adopts what runs. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the directory cannot be made or another process has it open.
    pub fn open(config: ProcessConfig, images: Arc<dyn Images>) -> Result<Self, RuntimeError> {
        Ok(Self { supervisor: Supervisor::open(config, Self::HANDLER, Shared::All)?, images, oci: None })
    }

    /// The same with another runtime that makes the containers. Whether it is there is found out when one is started.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_oci(config: ProcessConfig, images: Arc<dyn Images>, oci: OciRuntime) -> Result<Self, RuntimeError> {
        Ok(Self { supervisor: Supervisor::open(config, &oci.handler, Shared::All)?, images, oci: Some(oci) })
    }

    /// Which containers (`NAMESPACE/POD/CONTAINER`) use which image, by its id; those that have ended count until they are removed.
    pub fn images_in_use(&self) -> BTreeMap<String, Vec<String>> {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (status, images) in self.supervisor.images() {
            let user = format!("{}/{}/{}", status.pod.namespace, status.pod.name, status.id.container);
            for image in images {
                let users = users.entry(image).or_default();
                if !users.contains(&user) {
                    users.push(user.clone());
                }
            }
        }
        users
    }

    /// Whose processes a container is among: those of the container that it is to look into, or else the pod's.
    fn processes_of(&self, spec: &ContainerSpec, pod: Option<&Process>) -> Result<Option<Process>, RuntimeError> {
        let target = match &spec.target_container {
            // Where all share, that one is among them.
            Some(target) if pod.is_none() && !spec.host_pid => target,
            _ => return Ok(pod.cloned()),
        };
        let found = self.supervisor.process_of(&spec.pod.uid, target);
        let missing = || RuntimeError::Refused {
            id: spec.id(),
            reason: format!("unable to find target container {target}: it does not run"),
        };
        found.map(Some).ok_or_else(missing)
    }

    /// What is to be started. It looks at files of the node.
    fn plan(config: &ProcessConfig, images: &dyn Images, mut spec: ContainerSpec) -> Result<Launch, RuntimeError> {
        check(&spec)?;
        let find = |name: &str| {
            let missing = || RuntimeError::Pull {
                image: name.to_owned(),
                reason: "ErrImageNeverPull",
                message: "the image is not on the node; import it, or let it be pulled".to_owned(),
                out_of_reach: false,
            };
            images.find(name)?.ok_or_else(missing)
        };
        for volume in spec.mounts.iter_mut().filter_map(|mount| mount.image.as_mut()) {
            let Image { id, store, layers, .. } = find(&volume.reference)?;
            (volume.id, volume.store, volume.layers) = (id, store, layers);
        }
        let image = find(&spec.image)?;
        launch(config, image, spec)
    }
}

/// What can be said of a container before its image is here.
fn check(spec: &ContainerSpec) -> Result<(), RuntimeError> {
    check_names(spec)?;
    check_mounts(spec)?;
    check_capabilities(spec)?;
    check_app_armor(spec)?;
    if !spec.security.privileged && spec.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional) {
        let reason = "Bidirectional mount propagation is available only to privileged containers".to_owned();
        return Err(RuntimeError::Refused { id: spec.id(), reason });
    }
    match spec.run_as_user {
        Some(_) => check_security(spec),
        None => Ok(()),
    }
}

/// What comes out of the image and the pod's spec.
fn launch(config: &ProcessConfig, image: Image, mut spec: ContainerSpec) -> Result<Launch, RuntimeError> {
    let rejected = |spec: &ContainerSpec, reason: String| RuntimeError::Refused { id: spec.id(), reason };
    if spec.security.run_as_non_root && spec.run_as_user.is_none() {
        check_image_user(&image.config.user).map_err(|reason| rejected(&spec, reason))?;
    }
    let argv = argv(&spec, &image.config);
    let Some(program) = argv.first().map(PathBuf::from).filter(|program| !program.as_os_str().is_empty()) else {
        return Err(rejected(
            &spec,
            "no command specified: the image names no program, and the pod neither".to_owned(),
        ));
    };
    // The pod's own word counts before the image's.
    let stop_signal = spec.stop_signal.as_deref().or(image.config.stop_signal.as_deref()).map(signal).transpose();
    let stop_signal = stop_signal.map_err(|reason| rejected(&spec, reason))?;
    for variable in &image.config.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if !name.is_empty() {
            spec.env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    if spec.working_dir.is_none() && !image.config.working_dir.is_empty() {
        spec.working_dir = Some(PathBuf::from("/").join(&image.config.working_dir));
    }
    spec.pod_resources.pids_max.get_or_insert(config.pod_pids_max);
    Ok(Launch {
        version: STATE_VERSION,
        image_id: image.id,
        image: Some(ImageRoot { store: image.store, layers: image.layers, user: image.config.user, shm: None }),
        oci: None,
        namespaces: Vec::new(),
        processes_of: None,
        users: None,
        stop_signal,
        private: None,
        boot_id: String::new(),
        program,
        argv,
        bind_mounts: true,
        files: Vec::new(),
        hidden: Vec::new(),
        cgroup_parent: config.cgroup_parent.clone(),
        isolation: config.isolation,
        log_bytes_max: config.log_bytes_max,
        log_files_max: config.log_files_max,
        spec,
    })
}

/// As Kubernetes has it: `command` takes the place of the image's entrypoint and words, `args` that of its words alone.
fn argv(spec: &ContainerSpec, image: &ImageConfig) -> Vec<String> {
    let (first, rest) = match (spec.command.is_empty(), spec.args.is_empty()) {
        (false, _) => (&spec.command, &spec.args),
        (true, false) => (&image.entrypoint, &spec.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    first.iter().chain(rest).cloned().collect()
}

/// Whether an image's own user is surely not root; in upstream's words.
fn check_image_user(user: &str) -> Result<(), String> {
    let name = user.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(0) => {
            Err("container has runAsNonRoot and image will run as root; set `runAsUser` to another number".to_owned())
        }
        Ok(_) => Ok(()),
        Err(_) if name.is_empty() => {
            Err("container has runAsNonRoot and image will run as root; set `runAsUser` to a number other than 0"
                .to_owned())
        }
        Err(_) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root; set `runAsUser`"
        )),
    }
}

impl PodRuntime for ContainerRuntime {
    fn handler(&self) -> &str {
        self.oci.as_ref().map_or(Self::HANDLER, |oci| &oci.handler)
    }

    fn ensure_pod(&self, spec: PodSpec) -> RuntimeFuture<'_, PodInstance> {
        Box::pin(async move {
            if spec.own_users && self.oci.is_some() {
                let why = "hostUsers: false needs the node's own runtime; leave spec.runtimeClassName out";
                return Err(RuntimeError::Sandbox { uid: spec.pod.uid, source: std::io::Error::other(why) });
            }
            self.supervisor.ensure_pod(spec).await
        })
    }

    fn stop_pod(&self, uid: &str, grace: Duration) -> RuntimeFuture<'_, ()> {
        let uid = uid.to_owned();
        Box::pin(async move { self.supervisor.stop_pod(&uid, grace).await })
    }

    fn remove_pod(&self, uid: &str) -> RuntimeFuture<'_, ()> {
        let uid = uid.to_owned();
        Box::pin(async move {
            self.supervisor.remove_pod(&uid).await?;
            if self.oci.is_some() {
                // Others make groups in hierarchies that we do not use.
                let group = Path::new(&self.supervisor.config().cgroup_parent).join(uid);
                blocking(move || remove_everywhere(&group)).await;
            }
            Ok(())
        })
    }

    fn list_pods(&self) -> RuntimeFuture<'_, Vec<String>> {
        Box::pin(self.supervisor.list_pods())
    }

    fn stats_pod(&self, uid: &str) -> RuntimeFuture<'_, ContainerStats> {
        let uid = uid.to_owned();
        Box::pin(async move { self.supervisor.stats_pod(&uid).await })
    }

    fn check(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        if self.oci.is_some() && spec.mounts.iter().any(|mount| mount.image.is_some()) {
            let reason = "images as volumes need the node's own runtime; leave spec.runtimeClassName out".to_owned();
            return Err(RuntimeError::Refused { id: spec.id(), reason });
        }
        check(spec)
    }

    fn has_image(&self, image: &str) -> RuntimeFuture<'_, ImagePresence> {
        let (images, image) = (Arc::clone(&self.images), image.to_owned());
        Box::pin(async move {
            let found = blocking(move || images.find(&image)).await?;
            Ok(if found.is_some() { ImagePresence::Present } else { ImagePresence::Absent })
        })
    }

    fn pull_image(&self, image: &str, credentials: Vec<Vec<u8>>) -> RuntimeFuture<'_, u64> {
        self.images.pull(image, credentials)
    }

    fn start(&self, spec: ContainerSpec) -> RuntimeFuture<'_, ContainerStatus> {
        Box::pin(async move {
            let (config, images) = (self.supervisor.config().clone(), Arc::clone(&self.images));
            let sandbox = self.supervisor.sandbox(&spec.pod.uid).await?;
            let sandbox = sandbox.ok_or_else(|| RuntimeError::PodNotFound(spec.pod.uid.clone()))?;
            let processes_of = self.processes_of(&spec, sandbox.processes_of())?;
            if sandbox.users.is_some()
                && spec.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional)
            {
                let reason = "mountPropagation Bidirectional is not possible with hostUsers: false: the node takes no \
                              mounts of users that it does not know";
                return Err(RuntimeError::Refused { id: spec.id(), reason: reason.to_owned() });
            }
            let oci = self.oci.clone();
            let mut launch = blocking(move || {
                if let Some(oci) = &oci {
                    // No attempt is spent for what is not there.
                    let why = |error| {
                        format!(
                            "failed to run {}: {error}; install it, or set its path in `ociRuntimes`",
                            oci.path.display()
                        )
                    };
                    oci.check().map_err(|error| RuntimeError::Refused { id: spec.id(), reason: why(error) })?;
                }
                let mut launch = Self::plan(&config, &*images, spec)?;
                seccomp::read(&config.seccomp_dir, &mut launch.spec, oci.is_some())?;
                Ok(launch)
            })
            .await?;
            launch.processes_of = processes_of;
            launch.namespaces = sandbox.namespaces;
            launch.users = sandbox.users;
            if let Some(image) = &mut launch.image {
                image.shm = sandbox.shm;
            }
            launch.oci = self.oci.as_ref().map(OciRuntime::called);
            self.supervisor.start(launch).await
        })
    }

    fn stop(&self, id: &ContainerId, grace: Duration) -> RuntimeFuture<'_, ContainerStatus> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.stop(&id, grace).await })
    }

    fn signal(&self, id: &ContainerId, signal: i32) -> RuntimeFuture<'_, ()> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.signal(&id, signal) })
    }

    fn resize(&self, id: &ContainerId, mut resources: ContainerResources) -> RuntimeFuture<'_, ContainerStatus> {
        let id = id.clone();
        resources.pod.pids_max.get_or_insert(self.supervisor.config().pod_pids_max);
        Box::pin(async move { self.supervisor.resize(&id, resources).await })
    }

    fn status(&self, id: &ContainerId) -> RuntimeFuture<'_, ContainerStatus> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.status(&id) })
    }

    fn list(&self) -> RuntimeFuture<'_, Vec<ContainerStatus>> {
        Box::pin(async move { Ok(self.supervisor.list()) })
    }

    fn exec(&self, id: &ContainerId, argv: Vec<String>, timeout: Duration) -> RuntimeFuture<'_, ExecOutput> {
        let id = id.clone();
        Box::pin(async move {
            self.supervisor.status(&id)?;
            let empty = || RuntimeError::Exec { id: id.clone(), message: "the command is empty".to_owned() };
            let program = argv.first().map(PathBuf::from).ok_or_else(empty)?;
            let process = match &self.oci {
                None => None,
                Some(_) => Some(self.supervisor.process_of_command(&id, argv.clone()).await?),
            };
            self.supervisor.exec(&id, ExecRequest { program, argv, timeout, files: Vec::new(), process }).await
        })
    }

    fn stats(&self, id: &ContainerId) -> RuntimeFuture<'_, ContainerStats> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.stats(&id).await })
    }

    fn writable_dir(&self, id: &ContainerId) -> Option<PathBuf> {
        Some(self.supervisor.state_path(id).join(node_shim::UPPER))
    }

    fn discard_writes(&self, id: &ContainerId) -> RuntimeFuture<'_, bool> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.discard_writes(&id).await })
    }

    fn remove(&self, id: &ContainerId) -> RuntimeFuture<'_, ()> {
        let id = id.clone();
        Box::pin(async move { self.supervisor.remove(&id).await })
    }

    fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.supervisor.events()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_is_run_comes_from_the_pod_before_the_image() {
        let image = ImageConfig { entrypoint: words(&["/e", "1"]), cmd: words(&["c"]), ..ImageConfig::default() };
        for (command, args, expected) in [
            (&[][..], &[][..], &["/e", "1", "c"][..]),
            (&[], &["a"], &["/e", "1", "a"]),
            (&["/p"], &[], &["/p"]),
            (&["/p"], &["a"], &["/p", "a"]),
        ] {
            let spec = ContainerSpec { command: words(command), args: words(args), ..ContainerSpec::default() };
            assert_eq!(argv(&spec, &image), words(expected), "{command:?} {args:?}");
        }
    }

    #[test]
    fn the_environment_of_the_image_is_overridden_and_its_directory_and_signal_are_taken() {
        let config = ProcessConfig::new("/nowhere", Vec::new());
        let image = Image {
            config: ImageConfig {
                env: words(&["A=1", "B=2=3", "C", "=x"]),
                cmd: words(&["sh"]),
                working_dir: "srv".to_owned(),
                stop_signal: Some("SIGQUIT".to_owned()),
                ..ImageConfig::default()
            },
            ..Image::default()
        };
        let env = [("A".to_owned(), "pod".to_owned())].into();
        let launched = launch(&config, image.clone(), ContainerSpec { env, ..ContainerSpec::default() }).unwrap();
        let env: Vec<(&str, &str)> = launched.spec.env.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(env, [("A", "pod"), ("B", "2=3"), ("C", "")]);
        assert_eq!(launched.spec.working_dir, Some("/srv".into()));
        assert_eq!(launched.stop_signal, Some(libc::SIGQUIT));
        let stop_signal = |name: &str| ContainerSpec { stop_signal: Some(name.to_owned()), ..ContainerSpec::default() };
        let launched = launch(&config, image.clone(), stop_signal("SIGUSR1")).unwrap();
        assert_eq!(launched.stop_signal, Some(libc::SIGUSR1), "the pod's own word counts before the image's");
        assert!(launch(&config, image.clone(), stop_signal("SIGNONE")).is_err());
        let mut spec = ContainerSpec::default();
        spec.security.run_as_non_root = true;
        let error = launch(&config, image, spec).unwrap_err().to_string();
        assert!(error.contains("runAsNonRoot and image will run as root"), "{error}");
        let error = launch(&config, Image::default(), ContainerSpec::default()).unwrap_err().to_string();
        assert!(error.contains("no command specified"), "{error}");
    }

    #[test]
    fn a_named_user_is_not_known_to_be_no_root() {
        assert!(check_image_user("1000:0").is_ok());
        for user in ["", "0", "0:1", ":5", "app"] {
            assert!(check_image_user(user).is_err(), "{user}");
        }
    }
}
