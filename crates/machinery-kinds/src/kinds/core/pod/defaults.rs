//! What is filled in when the author of a pod, or of a pod template, leaves it out.
//!
//! Controllers and the kubelet rely on these, and `kubectl apply` compares with them. All of it may run again on what it
//! has filled in before.

use serde_json::{Value, json};

use super::{CONTAINER_LISTS, image, resources};
use crate::{
    kinds::amounts::{fill_from, round_up},
    kit::{Read, Write},
};

/// Permissions of files in volumes: `rw-r--r--`.
const FILE_MODE: u32 = 0o644;

/// Annotations in which init containers were kept before they had a field.
const INIT_CONTAINER_ANNOTATIONS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// Defaults of a pod: those of every template, and what depends on the pod as a whole.
pub(super) fn pod(pod: &mut Value) {
    drop_annotations(pod);
    let spec = pod.make("spec");
    for list in ["containers", "initContainers"] {
        for container in spec.items_mut(list) {
            request_what_is_limited(container);
        }
    }
    resources::default_pod_level(spec);
    spec.default_to("enableServiceLinks", true);
    if spec.flag("hostNetwork") {
        for list in ["containers", "initContainers"] {
            spec.items_mut(list).iter_mut().for_each(default_host_ports);
        }
    }
    // A negative period was taken once, and means the shortest.
    if spec.int("terminationGracePeriodSeconds") < 0 {
        spec.set("terminationGracePeriodSeconds", 1);
    }
    self::spec(spec);
    if let Some(status) = pod.some_mut("status") {
        self::status(status);
    }
}

/// Defaults of a pod template.
pub(crate) fn template(template: &mut Value) {
    drop_annotations(template);
    template.make("metadata");
    spec(template.make("spec"));
}

fn drop_annotations(object: &mut Value) {
    let Some(metadata) = object.some_mut("metadata") else { return };
    let Some(annotations) = metadata.some_mut("annotations").and_then(Value::as_object_mut) else { return };
    annotations.retain(|key, _| !INIT_CONTAINER_ANNOTATIONS.contains(&key.as_str()));
    if annotations.is_empty() {
        metadata.unset("annotations");
    }
}

/// Defaults of a pod's spec that hold in templates too.
fn spec(spec: &mut Value) {
    spec.default_text("dnsPolicy", "ClusterFirst");
    spec.default_text("restartPolicy", "Always");
    spec.default_to("securityContext", json!({}));
    spec.default_to("terminationGracePeriodSeconds", 30);
    spec.default_text("schedulerName", "default-scheduler");
    // The two names are one field; old clients read the second.
    let name = match spec.text("serviceAccountName") {
        "" => spec.text("serviceAccount"),
        name => name,
    };
    if !name.is_empty() {
        let name = name.to_owned();
        spec.set("serviceAccountName", name.clone());
        spec.set("serviceAccount", name);
    }
    spec.items_mut("volumes").iter_mut().for_each(volume);
    for list in CONTAINER_LISTS {
        spec.items_mut(list).iter_mut().for_each(container);
    }
    round_up(spec, "overhead");
    round_both(spec.some_mut("resources"));
}

fn container(container: &mut Value) {
    let policy = image::default_pull_policy(container.text("image"));
    container.default_text("imagePullPolicy", policy);
    container.default_text("terminationMessagePath", "/dev/termination-log");
    container.default_text("terminationMessagePolicy", "File");
    for port in container.items_mut("ports") {
        port.default_text("protocol", "TCP");
    }
    for variable in container.items_mut("env") {
        let Some(from) = variable.some_mut("valueFrom") else { continue };
        if let Some(field) = from.some_mut("fieldRef") {
            field.default_text("apiVersion", "v1");
        }
        if let Some(file) = from.some_mut("fileKeyRef") {
            file.default_to("optional", false);
        }
    }
    round_both(Some(container.make("resources")));
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.some_mut(probe) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = container.some_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = lifecycle.some_mut(hook).and_then(|hook| hook.some_mut("httpGet")) {
                http_get(get);
            }
        }
    }
}

fn probe(probe: &mut Value) {
    for (key, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.int(key) == 0 {
            probe.set(key, value);
        }
    }
    if let Some(get) = probe.some_mut("httpGet") {
        http_get(get);
    }
    if let Some(grpc) = probe.some_mut("grpc") {
        grpc.default_to("service", "");
    }
}

fn http_get(get: &mut Value) {
    get.default_text("path", "/");
    get.default_text("scheme", "HTTP");
}

/// What is limited and not requested is requested as limited.
fn request_what_is_limited(container: &mut Value) {
    if let Some(resources) = container.some_mut("resources") {
        fill_from(resources, "requests", "limits");
    }
}

/// On the host's network a port is the host's own.
fn default_host_ports(container: &mut Value) {
    for port in container.items_mut("ports") {
        if port.int("hostPort") == 0 && port.int("containerPort") != 0 {
            port.set("hostPort", port.int("containerPort"));
        }
    }
}

fn volume(volume: &mut Value) {
    let has_source =
        volume.as_object().is_some_and(|fields| fields.iter().any(|(key, v)| key != "name" && !v.is_null()));
    if !has_source {
        volume.set("emptyDir", json!({}));
    }
    if let Some(image) = volume.some_mut("image") {
        let policy = image::default_pull_policy(image.text("reference"));
        image.default_text("pullPolicy", policy);
    }
    if let Some(path) = volume.some_mut("hostPath") {
        path.default_to("type", "");
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.some_mut(source) {
            source.default_to("defaultMode", FILE_MODE);
        }
    }
    if let Some(api) = volume.some_mut("downwardAPI") {
        downward_items(api);
    }
    if let Some(projected) = volume.some_mut("projected") {
        for source in projected.items_mut("sources") {
            if let Some(api) = source.some_mut("downwardAPI") {
                downward_items(api);
            }
            if let Some(token) = source.some_mut("serviceAccountToken") {
                token.default_to("expirationSeconds", 3600);
            }
        }
    }
    if let Some(ephemeral) = volume.some_mut("ephemeral")
        && let Some(template) = ephemeral.some_mut("volumeClaimTemplate")
    {
        template.make("metadata");
        claim_spec(template.make("spec"));
    }
    network_volume(volume);
}

/// Defaults of volumes whose drivers were once a part of Kubernetes.
fn network_volume(volume: &mut Value) {
    if let Some(iscsi) = volume.some_mut("iscsi") {
        iscsi.default_text("iscsiInterface", "default");
    }
    if let Some(rbd) = volume.some_mut("rbd") {
        rbd.default_text("pool", "rbd");
        rbd.default_text("user", "admin");
        rbd.default_text("keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = volume.some_mut("azureDisk") {
        disk.default_to("cachingMode", "ReadWrite");
        disk.default_to("fsType", "ext4");
        disk.default_to("readOnly", false);
        disk.default_to("kind", "Shared");
    }
    if let Some(scale_io) = volume.some_mut("scaleIO") {
        scale_io.default_text("storageMode", "ThinProvisioned");
        scale_io.default_text("fsType", "xfs");
    }
}

fn downward_items(api: &mut Value) {
    for item in api.items_mut("items") {
        if let Some(field) = item.some_mut("fieldRef") {
            field.default_text("apiVersion", "v1");
        }
    }
}

/// Defaults of the spec of a claim, as templates of claims have them.
pub(crate) fn claim_spec(spec: &mut Value) {
    spec.default_to("volumeMode", "Filesystem");
    round_both(Some(spec.make("resources")));
}

fn round_both(resources: Option<&mut Value>) {
    if let Some(resources) = resources {
        round_up(resources, "limits");
        round_up(resources, "requests");
    }
}

fn status(status: &mut Value) {
    // The first of the addresses is the one that old clients know; one that they send alone, or another, counts.
    let (first, ips) = (status.text("podIP").to_owned(), status.items("podIPs"));
    let first_of_list = ips.first().map(|ip| ip.text("ip").to_owned());
    match first_of_list {
        _ if first.is_empty() && first_of_list.is_none() => {}
        Some(ip) if first.is_empty() || first == ip => {
            if !ip.is_empty() {
                status.set("podIP", ip);
            }
        }
        _ => status.set("podIPs", json!([{"ip": first}])),
    }
    for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        for container in status.items_mut(list) {
            round_up(container, "allocatedResources");
            round_both(container.some_mut("resources"));
        }
    }
    round_up(status, "allocatedResources");
    round_both(status.some_mut("resources"));
}
