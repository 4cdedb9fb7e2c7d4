//! What a runtime is asked to start: a container of the manifest with its variables, mounts and limits in place.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use node_client::chain;
use node_runtime::{ContainerSpec, ImageVolume, Mount, PodRuntime, Propagation, Seccomp, SeccompProfile, Security};

use crate::admission::{limits, pod_ref, pod_resources, promised, runs_images};
use crate::env::{self, NodeFacts};
use crate::model::{Container, ContainerSecurityContext, Pod, PodSecurityContext};
use crate::net_files::{self, NodeDns};
use crate::store::Store;
use crate::volumes::{self, Places};

/// What the container may do; of what both say, its own word counts.
fn security_of(container: &ContainerSecurityContext, pod: &PodSecurityContext) -> Security {
    let profile = container.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref());
    let seccomp = match profile.map(|profile| profile.r#type.as_str()) {
        Some("Unconfined") => Seccomp::Unconfined,
        _ => Seccomp::RuntimeDefault,
    };
    // Which file it is, the runtime finds out; without a name, that it is none.
    let file = profile.filter(|profile| profile.r#type == "Localhost");
    let seccomp_profile =
        file.map(|file| SeccompProfile { path: file.localhost_profile.clone(), ..SeccompProfile::default() });
    let app_armor = container.app_armor_profile.as_ref().or(pod.app_armor_profile.as_ref());
    let app_armor = app_armor.filter(|profile| profile.r#type == "Localhost");
    Security {
        app_armor: app_armor.map(|profile| profile.localhost_profile.clone()),
        privileged: container.privileged == Some(true),
        capabilities_add: container.capabilities.add.clone(),
        capabilities_drop: container.capabilities.drop.clone(),
        allow_privilege_escalation: container.allow_privilege_escalation,
        read_only_root: container.read_only_root_filesystem == Some(true),
        seccomp,
        seccomp_profile,
        unmasked_proc: container.proc_mount.as_deref() == Some("Unmasked"),
        run_as_non_root: container.run_as_non_root.or(pod.run_as_non_root) == Some(true),
    }
}

/// The kernel's limit.
const HOSTNAME_BYTES_MAX: usize = 64;

/// Everything that a container's spec is made of. It is made beside the worker: it touches files.
pub(super) struct SpecParts {
    pub pod: Pod,
    pub container: Container,
    pub attempt: u32,
    pub places: Places,
    pub facts: NodeFacts,
    /// The pod's own.
    pub addresses: Vec<IpAddr>,
    pub dns: NodeDns,
    pub store: Arc<Store>,
    pub dir: PathBuf,
}

impl SpecParts {
    /// The spec, or why the container cannot be started for now.
    pub(super) fn spec(&self, runtime: &dyn PodRuntime) -> Result<ContainerSpec, String> {
        let (container, attempt) = (&self.container, self.attempt);
        let hostname = self.pod.kernel_hostname(&self.dns.domain);
        if hostname.len() > HOSTNAME_BYTES_MAX {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {hostname} is too long ({HOSTNAME_BYTES_MAX} characters is the max, {} characters requested)",
                hostname.len()
            ));
        }
        let environment =
            env::environment(&self.pod, container, &self.facts, &*self.store).map_err(|e| e.to_string())?;
        let expand_one = |what: &str, word: &str| {
            env::expand(word, &environment).ok_or_else(|| env::ValueError::TooLong(what.to_owned()).to_string())
        };
        let expand = |what: &str, words: &[String]| -> Result<Vec<String>, String> {
            words.iter().map(|word| expand_one(what, word)).collect()
        };
        let mut mounts = Vec::new();
        for mount in &container.volume_mounts {
            let place = self.places.get(&mount.name);
            let place = place.ok_or_else(|| format!("volume \"{}\" is not one of the pod's", mount.name))?;
            let sub_path = match mount.sub_path_expr.as_str() {
                "" => mount.sub_path.clone(),
                expression => expand_one("subPathExpr", expression)?,
            };
            if !mount.sub_path_expr.is_empty() && sub_path.contains("$(") {
                return Err(format!("subPathExpr `{}` names a variable that is not set", mount.sub_path_expr));
            }
            let volume = self.pod.spec.volumes.iter().find(|volume| volume.name == mount.name);
            let configuration = volume.is_some_and(volumes::is_configuration);
            let claim = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
            let image = volume.and_then(|volume| volume.image.as_ref());
            mounts.push(Mount {
                volume: mount.name.clone(),
                host_path: place.clone(),
                sub_path: volumes::sub_path(&mount.name, &sub_path).map_err(|error| chain(&error))?,
                configuration,
                container_path: PathBuf::from(&mount.mount_path),
                read_only: mount.read_only || configuration || claim.is_some_and(|claim| claim.read_only),
                image: image.map(|image| ImageVolume { reference: image.reference.clone(), ..ImageVolume::default() }),
                propagation: match mount.mount_propagation.as_deref() {
                    Some("HostToContainer") => Propagation::HostToContainer,
                    Some("Bidirectional") => Propagation::Bidirectional,
                    _ => Propagation::None,
                },
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
            command: expand("`command`", &container.command)?,
            args: expand("`args`", &container.args)?,
            working_dir: container.working_dir.as_ref().map(PathBuf::from),
            mounts,
            limits: limits(container),
            requests: promised(container),
            pod_resources: pod_resources(&self.pod),
            oom_score_adj: Some(self.oom_score_adj()),
            log_dir: self.dir.join(&container.name),
            run_as_user: container.security_context.run_as_user.or(security.run_as_user),
            run_as_group: container.security_context.run_as_group.or(security.run_as_group),
            supplemental_groups: groups,
            security: security_of(&container.security_context, security),
            hostname: Some(hostname),
            host_pid: self.pod.spec.host_pid,
            target_container: Some(container.target_container_name.clone()).filter(|name| !name.is_empty()),
            tty: container.tty,
            stdin: container.stdin,
            stop_signal: container.lifecycle.stop_signal.clone(),
            termination_message: None,
            termination_message_from_log: container.termination_message_policy.as_deref()
                == Some("FallbackToLogsOnError"),
            env: environment,
        };
        if runs_images(runtime.handler()) {
            spec.mounts.extend(net_files::mounts(&self.pod, container, &self.addresses, &self.dns, &self.dir)?);
        }
        self.add_termination_message(runtime, &mut spec);
        Ok(spec)
    }

    /// How soon the kernel kills it when the machine is out of memory. A sidecar does not die before what it serves.
    fn oom_score_adj(&self) -> i32 {
        let of = |container: &Container| promised(container).memory_bytes.unwrap_or(0);
        let smallest = self.pod.spec.containers.iter().map(of).min().unwrap_or(0);
        let own = of(&self.container);
        let request = if self.container.is_sidecar() { own.max(smallest) } else { own };
        let is_critical = self.pod.spec.priority_class_name == "system-node-critical";
        node_runtime::oom_score_adj(self.pod.qos_class(), is_critical, request, self.facts.memory_bytes)
    }

    /// Gives the container a file for its last words, where the runtime can show it one.
    fn add_termination_message(&self, runtime: &dyn PodRuntime, spec: &mut ContainerSpec) {
        let (container, attempt) = (&self.container, self.attempt);
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_containers_own_profile_counts_before_its_pods() {
        let localhost = |name: &str| json!({"seccompProfile": {"type": "Localhost", "localhostProfile": name}});
        let of_type = |name: &str| json!({"seccompProfile": {"type": name}});
        for (pod, container, seccomp, file) in [
            (json!({}), json!({}), Seccomp::RuntimeDefault, None),
            (localhost("a/b.json"), json!({}), Seccomp::RuntimeDefault, Some("a/b.json")),
            (localhost("a.json"), localhost("b.json"), Seccomp::RuntimeDefault, Some("b.json")),
            (localhost("a.json"), of_type("RuntimeDefault"), Seccomp::RuntimeDefault, None),
            (localhost("a.json"), of_type("Unconfined"), Seccomp::Unconfined, None),
            (of_type("Unconfined"), localhost("b.json"), Seccomp::RuntimeDefault, Some("b.json")),
            // No API takes it; the runtime says that it is no path.
            (of_type("Localhost"), json!({}), Seccomp::RuntimeDefault, Some("")),
        ] {
            let security = security_of(
                &serde_json::from_value(container.clone()).expect("a security context"),
                &serde_json::from_value(pod.clone()).expect("a security context"),
            );
            let found = security.seccomp_profile.as_ref().and_then(|profile| profile.path.to_str());
            assert_eq!((security.seccomp, found), (seccomp, file), "{pod} {container}");
        }
        let localhost = |name: &str| json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": name}});
        for (pod, container, found) in [
            (json!({}), json!({}), None),
            (localhost("a"), json!({}), Some("a")),
            (localhost("a"), localhost("b"), Some("b")),
            (localhost("a"), json!({"appArmorProfile": {"type": "Unconfined"}}), None),
        ] {
            let security = security_of(
                &serde_json::from_value(container.clone()).expect("a security context"),
                &serde_json::from_value(pod.clone()).expect("a security context"),
            );
            assert_eq!(security.app_armor.as_deref(), found, "{pod} {container}");
        }
    }
}
