//! What a runtime is told to start: a container of the manifest with its variables, mounts and limits in place.

use std::path::PathBuf;

use node_runtime::{ContainerSpec, Mount, PodRuntime};

use super::Worker;
use crate::env;
use crate::pods::admission::{limits, pod_ref};
use crate::pods::model::Container;
use crate::report::chain;
use crate::volumes;

impl Worker {
    pub(super) fn container_spec(
        &self,
        container: &Container,
        attempt: u32,
        runtime: &dyn PodRuntime,
    ) -> Result<ContainerSpec, String> {
        let facts = self.context.facts();
        let environment =
            env::environment(&self.pod, container, &facts, &*self.context.store).map_err(|e| e.to_string())?;
        let expand = |words: &[String]| words.iter().map(|word| env::expand(word, &environment)).collect();
        let mut mounts = Vec::new();
        for mount in &container.volume_mounts {
            let place = self.volumes.as_ref().and_then(|places| places.get(&mount.name));
            let place = place.ok_or_else(|| format!("volume \"{}\" is not one of the pod's", mount.name))?;
            let sub_path = match mount.sub_path_expr.as_str() {
                "" => mount.sub_path.clone(),
                expression => env::expand(expression, &environment),
            };
            if !mount.sub_path_expr.is_empty() && sub_path.contains("$(") {
                return Err(format!("subPathExpr `{}` names a variable that is not set", mount.sub_path_expr));
            }
            let configuration =
                self.pod.spec.volumes.iter().any(|v| v.name == mount.name && volumes::is_configuration(v));
            mounts.push(Mount {
                volume: mount.name.clone(),
                host_path: place.clone(),
                sub_path: volumes::sub_path(&mount.name, &sub_path).map_err(|error| chain(&error))?,
                configuration,
                container_path: PathBuf::from(&mount.mount_path),
                read_only: mount.read_only || configuration,
                optional: volumes::is_api_access(&mount.name) && mount.mount_path == volumes::API_ACCESS_PATH,
            });
        }
        let security = &self.pod.spec.security_context;
        let mut groups = security.supplemental_groups.clone();
        groups.extend(security.fs_group);
        let mut spec = ContainerSpec {
            pod: pod_ref(&self.pod),
            container: container.name.clone(),
            attempt,
            image: container.image.clone(),
            command: expand(&container.command),
            args: expand(&container.args),
            working_dir: container.working_dir.as_ref().map(PathBuf::from),
            mounts,
            limits: limits(container),
            log_dir: self.dir.join(&container.name),
            run_as_user: container.security_context.run_as_user.or(security.run_as_user),
            run_as_group: container.security_context.run_as_group.or(security.run_as_group),
            supplemental_groups: groups,
            hostname: self.pod.spec.hostname.clone(),
            termination_message: None,
            env: environment,
            ..ContainerSpec::default()
        };
        self.add_termination_message(container, attempt, runtime, &mut spec);
        Ok(spec)
    }

    /// Gives the container a file for its last words, where the runtime can show it one.
    fn add_termination_message(
        &self,
        container: &Container,
        attempt: u32,
        runtime: &dyn PodRuntime,
        spec: &mut ContainerSpec,
    ) {
        let Some(path) = container.termination_message_path.as_ref().filter(|path| !path.is_empty()) else { return };
        let file = self.dir.join(".termination").join(format!("{}-{attempt}", container.name));
        let made = file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::write(&file, b"")?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))
        });
        let mount = Mount { host_path: file.clone(), container_path: PathBuf::from(path), ..Mount::default() };
        spec.mounts.push(mount);
        spec.termination_message = Some(file);
        if made.is_err() || runtime.check(spec).is_err() {
            // Without mounts a program's exit code has to do.
            spec.mounts.pop();
            spec.termination_message = None;
        }
    }
}
