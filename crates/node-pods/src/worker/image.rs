//! The image of a container before its start: whether it is here, whether it is to be fetched, and with whose word.

use std::sync::Arc;

use api_kube::base64_text;
use node_runtime::{ImagePresence, PodRuntime, RuntimeError};
use serde_json::Value;
use tokio::time::Instant;

use super::Worker;
use crate::env::ValueError;
use crate::inbox::{Done, ImageNews, Inbox};
use crate::model::{Container, Pod, Volume};
use crate::reconcile::ContainerPhase;
use crate::store::{Known, ObjectKey, ObjectKind, Store};

/// Reason of a container whose image is not here and is not to be fetched.
pub(super) const NEVER_PULLED: &str = "ErrImageNeverPull";

/// Types of Secrets that hold credentials of registries, with the key they hold them under.
const CREDENTIALS: [(&str, &str); 2] =
    [("kubernetes.io/dockerconfigjson", ".dockerconfigjson"), ("kubernetes.io/dockercfg", ".dockercfg")];

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// Before every start. Where no registry answers, what is here will do: a node lives on while its link is down.
    Always,
    /// When it is not here.
    IfNotPresent,
    /// Somebody else puts it here.
    Never,
}

/// What is to be known of an image that a container needs.
pub(super) struct ImageOf {
    container: String,
    image: String,
    policy: Policy,
    secrets: PullSecrets,
}

impl ImageOf {
    /// All that a container needs: those that its volumes show, then its own.
    pub(super) fn all(pod: &Pod, container: &Container, store: &Arc<Store>) -> Vec<Self> {
        let of = |image: &str, pull_policy: Option<&str>| Self {
            container: container.name.clone(),
            image: image.to_owned(),
            policy: policy(image, pull_policy),
            secrets: PullSecrets::of(pod, store.clone()),
        };
        let is_mounted = |volume: &&Volume| container.volume_mounts.iter().any(|mount| mount.name == volume.name);
        let volumes = pod.spec.volumes.iter().filter(is_mounted).filter_map(|volume| volume.image.as_ref());
        let volumes = volumes.map(|image| of(&image.reference, image.pull_policy.as_deref()));
        volumes.chain([of(&container.image, container.image_pull_policy.as_deref())]).collect()
    }

    /// Sees to it that the image is here, and reports on the way what is worth an Event.
    pub(super) async fn ensure(&self, runtime: &dyn PodRuntime, inbox: &Inbox) -> Result<(), RuntimeError> {
        let report =
            |news| inbox.done(Done::Image { container: self.container.clone(), image: self.image.clone(), news });
        let is_here = match runtime.has_image(&self.image).await? {
            ImagePresence::NotNeeded => return Ok(()),
            ImagePresence::Present => true,
            ImagePresence::Absent => false,
        };
        match (is_here, self.policy) {
            (true, Policy::IfNotPresent | Policy::Never) => {
                report(ImageNews::Present);
                return Ok(());
            }
            (false, Policy::Never) => {
                return Err(RuntimeError::Pull {
                    image: self.image.clone(),
                    reason: NEVER_PULLED,
                    message: "it is not on the node, and the pull policy is Never; import it on the node".to_owned(),
                    out_of_reach: false,
                });
            }
            _ => {}
        }
        let credentials = self.secrets.credentials(&self.image, inbox)?;
        report(ImageNews::Pulling);
        let begun = Instant::now();
        match runtime.pull_image(&self.image, credentials).await {
            Ok(bytes) => {
                report(ImageNews::Pulled { bytes, took: begun.elapsed() });
                Ok(())
            }
            Err(RuntimeError::Pull { message, out_of_reach: true, .. }) if is_here => {
                report(ImageNews::OutOfReach { why: message });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// The Secrets of a pod that hold credentials of registries.
pub(super) struct PullSecrets {
    namespace: String,
    names: Vec<String>,
    store: Arc<Store>,
}

impl PullSecrets {
    pub(super) fn of(pod: &Pod, store: Arc<Store>) -> Self {
        let names = pod.spec.image_pull_secrets.iter().map(|secret| secret.name.clone()).collect();
        Self { namespace: pod.metadata.namespace.clone(), names, store }
    }

    /// What they hold. One that does not exist or is of another kind counts for nothing, as upstream: the registry says what it thinks
    /// of that, and an Event names those that do not exist. One that may still come is waited for.
    pub(super) fn credentials(&self, image: &str, inbox: &Inbox) -> Result<Vec<Vec<u8>>, RuntimeError> {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for name in &self.names {
            let key = ObjectKey { kind: ObjectKind::Secret, namespace: self.namespace.clone(), name: name.clone() };
            match self.store.object(&key) {
                Known::Present(secret) => found.extend(credentials_in(&secret)),
                Known::Absent => missing.push(name.clone()),
                Known::Unknown => {
                    let pending = ValueError::Pending { kind: ObjectKind::Secret, name: name.clone() };
                    return Err(RuntimeError::Pull {
                        image: image.to_owned(),
                        reason: "ErrImagePull",
                        message: pending.to_string(),
                        out_of_reach: false,
                    });
                }
            }
        }
        inbox.done(Done::PullSecrets { missing });
        Ok(found)
    }
}

fn credentials_in(secret: &Value) -> Option<Vec<u8>> {
    let (_, key) = CREDENTIALS.iter().find(|(kind, _)| secret["type"] == *kind)?;
    base64_text::decode(secret["data"][*key].as_str()?).ok()
}

/// What the pod says, and for those that no API has filled in: a tag that may move is looked up each time.
fn policy(image: &str, pull_policy: Option<&str>) -> Policy {
    match pull_policy {
        Some("Always") => Policy::Always,
        Some("Never") => Policy::Never,
        Some("IfNotPresent") => Policy::IfNotPresent,
        _ if is_latest(image) => Policy::Always,
        _ => Policy::IfNotPresent,
    }
}

/// Whether an image is named by the tag `latest`, or by no tag, which is the same.
fn is_latest(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    !image.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

impl Worker {
    /// Says which Secrets with credentials do not exist, once until others do not, in upstream's words.
    pub(super) fn pull_secrets(&mut self, missing: Vec<String>) {
        if self.missing_secrets == missing {
            return;
        }
        if !missing.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.shared.events.pod_warning(&self.pod, None, "FailedToRetrieveImagePullSecret", text);
        }
        self.missing_secrets = missing;
    }

    /// Notes that a container waits for an image, which others may bring meanwhile.
    pub(super) fn await_image(&mut self, container: &str, image: &str) {
        let record = self.containers.entry(container.to_owned()).or_default();
        record.awaited_image = Some(image.to_owned());
        if std::mem::take(&mut record.may_have_missed) {
            self.look_for(container.to_owned(), image.to_owned());
        }
    }

    /// Images have come to the node: what waits for one looks whether it is among them, and waits on where it is not, so that
    /// no registry is asked again for what others were given.
    pub(super) fn images_added(&mut self) {
        let mut awaited = Vec::new();
        for (name, record) in &mut self.containers {
            match &record.awaited_image {
                Some(image) => awaited.push((name.clone(), image.clone())),
                None => record.may_have_missed = record.acting == Some(ContainerPhase::Starting),
            }
        }
        awaited.into_iter().for_each(|(container, image)| self.look_for(container, image));
    }

    fn look_for(&self, container: String, image: String) {
        let Some(runtime) = self.runtime.clone() else { return };
        let inbox = self.inbox.clone();
        base_observe::spawn_detached("image-look", async move {
            if matches!(runtime.has_image(&image).await, Ok(ImagePresence::Present)) {
                inbox.done(Done::ImageHere { container, image });
            }
        });
    }

    /// A container that waits for this image is started at once.
    pub(super) fn image_here(&mut self, container: &str, image: &str) {
        let record = self.containers.get_mut(container);
        if let Some(record) = record.filter(|record| record.awaited_image.as_deref() == Some(image)) {
            record.awaited_image = None;
            record.held_until = None;
        }
    }

    /// Raises the Event of it, in upstream's words.
    pub(super) fn image_news(&self, container: &str, image: &str, news: &ImageNews) {
        let events = &self.shared.events;
        let (reason, text) = match news {
            ImageNews::Present => ("Pulled", format!("Container image \"{image}\" already present on machine")),
            ImageNews::Pulling => ("Pulling", format!("Pulling image \"{image}\"")),
            ImageNews::Pulled { bytes, took } => {
                let took = took.as_millis();
                let text = format!(
                    "Successfully pulled image \"{image}\" in {took}ms ({took}ms including waiting). Image size: {bytes} bytes."
                );
                ("Pulled", text)
            }
            ImageNews::OutOfReach { why } => {
                let text =
                    format!("Image \"{image}\" on the machine is used, since its registry does not answer: {why}");
                return events.pod_warning(&self.pod, Some(container), "ImageOutOfReach", text);
            }
        };
        events.pod(&self.pod, Some(container), reason, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_mounted_volumes_come_before_the_containers_own() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "d"},
            "spec": {
                "imagePullSecrets": [{"name": "s"}],
                "containers": [
                    {"name": "a", "image": "app:1", "volumeMounts": [{"name": "model", "mountPath": "/m"}]},
                    {"name": "b", "image": "app:1"},
                ],
                "volumes": [
                    {"name": "model", "image": {"reference": "model", "pullPolicy": "Never"}},
                    {"name": "other", "image": {"reference": "other"}},
                    {"name": "empty", "emptyDir": {}},
                ],
            },
        }))
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        for part in ["node/pki", "node/store"] {
            std::fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        let store = Arc::new(Store::open(dir.path(), tokio_util::task::TaskTracker::new().token()).unwrap());
        let of = |number: usize| -> Vec<(String, Policy)> {
            let all = ImageOf::all(&pod, &pod.spec.containers[number], &store);
            assert!(all.iter().all(|one| one.secrets.names == ["s"] && one.secrets.namespace == "d"));
            all.into_iter().map(|one| (one.image, one.policy)).collect()
        };
        let app = || ("app:1".to_owned(), Policy::IfNotPresent);
        assert_eq!(of(0), [("model".to_owned(), Policy::Never), app()]);
        assert_eq!(of(1), [app()]);
    }

    #[test]
    fn without_a_policy_a_tag_that_may_move_is_looked_up_each_time() {
        for (image, pull_policy, expected) in [
            ("nginx", None, Policy::Always),
            ("nginx:latest", None, Policy::Always),
            ("registry:5000/nginx", None, Policy::Always),
            ("nginx:1.27", None, Policy::IfNotPresent),
            ("registry:5000/nginx:1", None, Policy::IfNotPresent),
            ("nginx@sha256:00", None, Policy::IfNotPresent),
            ("nginx", Some("Never"), Policy::Never),
            ("nginx", Some("IfNotPresent"), Policy::IfNotPresent),
            ("nginx:1", Some("Always"), Policy::Always),
        ] {
            assert_eq!(policy(image, pull_policy), expected, "{image} {pull_policy:?}");
        }
    }
}
