//! Every pod runs as a service account, whose token its containers find in a volume: Kubernetes' plug-in ServiceAccount.

use machinery_server::{Admission, AdmissionError, AdmissionRequest, Operation};
use machinery_store::Key;
use serde_json::{Value, json};

use super::{annotation, creates, list, part};
use crate::json::{decoded, given, items, items_at, text};

const DEFAULT: &str = "default";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const ENFORCE_ANNOTATION: &str = "kubernetes.io/enforce-mountable-secrets";

/// The kubelet renews the token before; one of an hour would be renewed no differently, and seven seconds say it apart.
const TOKEN_SECONDS: i64 = 60 * 60 + 7;

/// The alphabet of random names in Kubernetes.
const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Gives pods their service account, its token and its pull secrets.
#[derive(Clone, Copy, Debug)]
pub struct ServiceAccounts {
    /// Whether pods that do not say otherwise get a volume with a token.
    pub mounts_tokens: bool,
    /// Whether a controller is about to create the account `default` where it is missing. Upstream waits for it; here the pod
    /// is let in, as nothing of that account matters that it could say.
    pub is_default_coming: bool,
}

type Checked = Result<(), AdmissionError>;

fn forbid(why: impl Into<String>) -> Checked {
    Err(AdmissionError::Forbidden(why.into()))
}

impl Admission for ServiceAccounts {
    fn mutate(&self, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<bool, AdmissionError> {
        if !creates(request, "", "pods") {
            return Ok(false);
        }
        if annotation(pod, MIRROR_ANNOTATION).is_some() {
            // Its node would find that it is another than the one it shows, and delete it.
            check_mirror_pod(pod)?;
            return Ok(false);
        }
        let before = pod.clone();
        let spec = part(pod, "spec");
        // Either name of the field is understood; the newer one counts.
        let named = [text(spec, "/serviceAccountName"), text(spec, "/serviceAccount"), DEFAULT];
        let name = named.into_iter().find(|name| !name.is_empty()).unwrap_or(DEFAULT).to_owned();
        let account = self.find(request, &name)?;
        spec["serviceAccountName"] = name.as_str().into();
        spec["serviceAccount"] = name.as_str().into();
        let automounts = [spec.get("automountServiceAccountToken"), account.get("automountServiceAccountToken")];
        if self.mounts_tokens && automounts.into_iter().flatten().find_map(Value::as_bool).unwrap_or(true) {
            mount(spec);
        }
        let pull = items(&account, "imagePullSecrets");
        if items(spec, "imagePullSecrets").is_empty() && !pull.is_empty() {
            spec["imagePullSecrets"] = pull.iter().map(|secret| json!({"name": text(secret, "/name")})).collect();
        }
        check_mountable(&account, spec)?;
        Ok(*pod != before)
    }

    fn validate(&self, request: &AdmissionRequest<'_>, pod: &Value) -> Checked {
        let spec = pod.get("spec").unwrap_or(&Value::Null);
        let is_new = creates(request, "", "pods");
        let is_debugged =
            request.target() == ("", "pods", Some("ephemeralcontainers")) && request.operation == Operation::Update;
        if is_new && annotation(pod, MIRROR_ANNOTATION).is_some() {
            return check_mirror_pod(pod);
        }
        if !is_new && !is_debugged {
            return Ok(());
        }
        let name = text(spec, "/serviceAccountName");
        if name.is_empty() {
            return forbid(format!("no service account specified for pod {}/{}", request.namespace, request.name));
        }
        let account = self.find(request, name)?;
        if is_new { check_mountable(&account, spec) } else { check_debug_containers(&account, spec) }
    }
}

impl ServiceAccounts {
    fn find(&self, request: &AdmissionRequest<'_>, name: &str) -> Result<Value, AdmissionError> {
        match request.store.get(&Key::new("/serviceaccounts", request.namespace, name)) {
            Some(account) => Ok(decoded(&account)),
            None if self.is_default_coming && name == DEFAULT => Ok(json!({"metadata": {"name": name}})),
            None => Err(AdmissionError::Forbidden(format!(
                "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                request.namespace
            ))),
        }
    }
}

/// A mirror pod shows a pod that runs already, and must not become a key to anything.
fn check_mirror_pod(pod: &Value) -> Checked {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if !text(spec, "/serviceAccountName").is_empty() {
        return forbid("a mirror pod may not reference service accounts");
    }
    if crate::node::refers_to_secrets(spec) {
        return forbid("a mirror pod may not reference secrets");
    }
    let mut sources = items(spec, "volumes").iter().flat_map(|volume| items_at(volume, "/projected/sources"));
    if sources.any(|source| given(source, "serviceAccountToken").is_some()) {
        return forbid("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Mounts the token where a container has nothing at its path yet.
fn mount(spec: &mut Value) {
    let existing = items(spec, "volumes").iter().map(|volume| text(volume, "/name"));
    let existing = existing.into_iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let has_volume = existing.is_some();
    let name = existing.unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", random_suffix()));
    let mut is_mounted = false;
    for containers in ["initContainers", "containers"] {
        let Some(containers) = spec.get_mut(containers).and_then(Value::as_array_mut) else { continue };
        for container in containers.iter_mut().filter(|container| container.is_object()) {
            let taken = items(container, "volumeMounts").iter().any(|mount| text(mount, "/mountPath") == MOUNT_PATH);
            if !taken {
                let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
                list(container, "volumeMounts").push(mount);
                is_mounted = true;
            }
        }
    }
    if is_mounted && !has_volume {
        list(spec, "volumes").push(json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]}}));
    }
}

fn random_suffix() -> String {
    let random = uuid::Uuid::new_v4();
    let letters = random.as_bytes()[..5].iter().map(|byte| NAME_ALPHABET[usize::from(*byte) % NAME_ALPHABET.len()]);
    letters.map(char::from).collect()
}

/// Whether a service account lends only the secrets that it names.
fn is_limited(account: &Value) -> bool {
    // What Go takes for true.
    matches!(annotation(account, ENFORCE_ANNOTATION), Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn names(account: &Value, field: &str) -> Vec<String> {
    items(account, field).iter().map(|secret| text(secret, "/name").to_owned()).collect()
}

fn check_mountable(account: &Value, spec: &Value) -> Checked {
    if !is_limited(account) {
        return Ok(());
    }
    let (allowed, own) = (names(account, "secrets"), text(account, "/metadata/name"));
    for volume in items(spec, "volumes") {
        let Some(source) = given(volume, "secret") else { continue };
        let name = text(source, "/secretName");
        if !allowed.iter().any(|one| one == name) {
            return forbid(format!(
                "volume with secret.secretName=\"{name}\" is not allowed because service account {own} does not reference that secret"
            ));
        }
    }
    check_containers("init container", items(spec, "initContainers"), &allowed, own)?;
    check_containers("container", items(spec, "containers"), &allowed, own)?;
    let allowed = names(account, "imagePullSecrets");
    for (index, secret) in items(spec, "imagePullSecrets").iter().enumerate() {
        let name = text(secret, "/name");
        if !allowed.iter().any(|one| one == name) {
            return forbid(format!(
                "imagePullSecrets[{index}].name=\"{name}\" is not allowed because service account {own} does not reference \
                 that imagePullSecret"
            ));
        }
    }
    Ok(())
}

fn check_debug_containers(account: &Value, spec: &Value) -> Checked {
    if !is_limited(account) {
        return Ok(());
    }
    let own = text(account, "/metadata/name");
    check_containers("ephemeral container", items(spec, "ephemeralContainers"), &names(account, "secrets"), own)
}

fn check_containers(what: &str, containers: &[Value], allowed: &[String], own: &str) -> Checked {
    for container in containers {
        let called = text(container, "/name");
        let in_env = items(container, "env").iter().filter_map(|env| {
            let secret = env.pointer("/valueFrom/secretKeyRef").filter(|secret| !secret.is_null())?;
            Some((format!("envVar {}", text(env, "/name")), text(secret, "/name")))
        });
        let from = items(container, "envFrom").iter().filter_map(|source| given(source, "secretRef"));
        let from = from.map(|secret| ("envFrom".to_owned(), text(secret, "/name")));
        for (place, name) in in_env.chain(from) {
            if !allowed.iter().any(|one| one == name) {
                return forbid(format!(
                    "{what} {called} with {place} referencing secret.secretName=\"{name}\" is not allowed because service \
                     account {own} does not reference that secret"
                ));
            }
        }
    }
    Ok(())
}
