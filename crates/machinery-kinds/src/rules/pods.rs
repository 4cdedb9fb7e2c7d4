//! Rules of a pod's `spec`, which DaemonSets share in their template.

use std::collections::BTreeSet;

use api_kube::Quantity;
use api_kube::names::{DNS_LABEL_MESSAGE, DNS_SUBDOMAIN_MESSAGE, is_dns_label, is_dns_subdomain};
use serde::Deserialize as _;
use serde_json::Value;

use super::small::at_least;
use crate::{FieldError, kinds::core::pod::count_references, metadata::validate_labels};

/// Secrets, ConfigMaps, claims and the like that one pod may refer to.
const REFERENCES_MAX: usize = 1024;

/// Checks `spec` (its types are right, its defaults are set); `path` is where it is.
pub(super) fn validate(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut rules = Rules { errors: Vec::new() };
    let volumes = rules.volumes(spec, path);
    let mut names = BTreeSet::new();
    if items(spec, "containers").is_empty() {
        rules.errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for (position, container) in items(spec, key).iter().enumerate() {
            let path = format!("{path}.{key}[{position}]");
            rules.container(container, &path, &volumes, &mut names);
        }
    }
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        rules.host_ports(spec, path);
    }
    rules.one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"]);
    rules.one_of(spec, "dnsPolicy", path, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    for key in ["terminationGracePeriodSeconds", "activeDeadlineSeconds"] {
        if let Some(seconds) = spec.get(key).and_then(Value::as_i64) {
            let least = i64::from(key == "activeDeadlineSeconds");
            rules.errors.extend(at_least(&format!("{path}.{key}"), seconds, least));
        }
    }
    for key in ["nodeName", "serviceAccountName", "runtimeClassName"] {
        rules.name(spec, key, path, is_dns_subdomain, DNS_SUBDOMAIN_MESSAGE);
    }
    rules.name(spec, "hostname", path, is_dns_label, DNS_LABEL_MESSAGE);
    if let Some(selector) = spec.get("nodeSelector").and_then(Value::as_object) {
        rules.errors.extend(validate_labels(selector, &format!("{path}.nodeSelector")));
    }
    rules.tolerations(spec, path);
    // Each is kept in the index, for the node authorizer.
    let references = count_references(spec);
    if references > REFERENCES_MAX {
        rules.errors.push(FieldError::too_many(path, references, REFERENCES_MAX));
    }
    rules.errors
}

struct Rules {
    errors: Vec<FieldError>,
}

impl Rules {
    /// Returns the names that mounts may refer to.
    fn volumes<'v>(&mut self, spec: &'v Value, path: &str) -> BTreeSet<&'v str> {
        let mut names = BTreeSet::new();
        for (position, volume) in items(spec, "volumes").iter().enumerate() {
            let path = format!("{path}.volumes[{position}]");
            let name = text(volume, "name");
            if name.is_empty() {
                self.errors.push(FieldError::required(format!("{path}.name"), ""));
            } else if !is_dns_label(name) {
                self.errors.push(FieldError::invalid(format!("{path}.name"), &name.into(), DNS_LABEL_MESSAGE));
            } else if !names.insert(name) {
                self.errors.push(FieldError::duplicate(format!("{path}.name"), &name.into()));
            }
            let mut sources = volume.as_object().into_iter().flatten().map(|(key, _)| key).filter(|key| *key != "name");
            match (sources.next(), sources.next()) {
                (None, _) => self.errors.push(FieldError::required(path, "must specify a volume type")),
                (Some(_), Some(second)) => {
                    let detail = "may not specify more than 1 volume type";
                    self.errors.push(FieldError::forbidden(format!("{path}.{second}"), detail));
                }
                (Some(source), None) => {
                    let required = match source.as_str() {
                        "secret" => "secretName",
                        "configMap" => "name",
                        "hostPath" => "path",
                        _ => continue,
                    };
                    if text(&volume[source], required).is_empty() {
                        self.errors.push(FieldError::required(format!("{path}.{source}.{required}"), ""));
                    }
                }
            }
        }
        names
    }

    fn container<'v>(
        &mut self,
        container: &'v Value,
        path: &str,
        volumes: &BTreeSet<&str>,
        names: &mut BTreeSet<&'v str>,
    ) {
        let name = text(container, "name");
        if name.is_empty() {
            self.errors.push(FieldError::required(format!("{path}.name"), ""));
        } else if !is_dns_label(name) {
            self.errors.push(FieldError::invalid(format!("{path}.name"), &name.into(), DNS_LABEL_MESSAGE));
        } else if !names.insert(name) {
            self.errors.push(FieldError::duplicate(format!("{path}.name"), &name.into()));
        }
        let image = text(container, "image");
        if image.is_empty() {
            self.errors.push(FieldError::required(format!("{path}.image"), ""));
        } else if image.trim() != image {
            let detail = "must not have leading or trailing whitespace";
            self.errors.push(FieldError::invalid(format!("{path}.image"), &image.into(), detail));
        }
        self.one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"]);
        self.one_of(container, "terminationMessagePolicy", path, &["File", "FallbackToLogsOnError"]);
        self.env(container, path);
        self.ports(container, path);
        self.mounts(container, path, volumes);
        self.resources(container, path);
        for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
            if let Some(probe) = container.get(key) {
                self.probe(probe, &format!("{path}.{key}"), key != "readinessProbe");
            }
        }
    }

    fn env(&mut self, container: &Value, path: &str) {
        for (position, variable) in items(container, "env").iter().enumerate() {
            let path = format!("{path}.env[{position}]");
            let name = text(variable, "name");
            let is_good = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'=';
            if name.is_empty() {
                self.errors.push(FieldError::required(format!("{path}.name"), ""));
            } else if !name.bytes().all(is_good) {
                let detail =
                    "a valid environment variable name must consist only of printable ASCII characters other than '='";
                self.errors.push(FieldError::invalid(format!("{path}.name"), &name.into(), detail));
            }
            let Some(source) = variable.get("valueFrom").and_then(Value::as_object) else { continue };
            if !text(variable, "value").is_empty() {
                let detail = "may not be specified when `value` is not empty";
                self.errors.push(FieldError::invalid(format!("{path}.valueFrom"), &"".into(), detail));
            } else if source.len() != 1 {
                let detail = "must specify exactly one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
                self.errors.push(FieldError::invalid(format!("{path}.valueFrom"), &"".into(), detail));
            }
            for (kind, reference) in source {
                let required: &[&str] = match kind.as_str() {
                    "configMapKeyRef" | "secretKeyRef" => &["name", "key"],
                    "fieldRef" => &["fieldPath"],
                    "resourceFieldRef" => &["resource"],
                    _ => &[],
                };
                for key in required.iter().filter(|key| text(reference, key).is_empty()) {
                    self.errors.push(FieldError::required(format!("{path}.valueFrom.{kind}.{key}"), ""));
                }
            }
        }
    }

    fn ports(&mut self, container: &Value, path: &str) {
        let mut names = BTreeSet::new();
        for (position, port) in items(container, "ports").iter().enumerate() {
            let path = format!("{path}.ports[{position}]");
            for key in ["containerPort", "hostPort"] {
                let Some(number) = port.get(key).filter(|number| key == "containerPort" || number.as_i64() != Some(0))
                else {
                    continue;
                };
                if !number.as_i64().is_some_and(|number| (1..=65535).contains(&number)) {
                    self.errors.push(FieldError::invalid(
                        format!("{path}.{key}"),
                        number,
                        "must be between 1 and 65535, inclusive",
                    ));
                }
            }
            let name = text(port, "name");
            if !name.is_empty() && !names.insert(name) {
                self.errors.push(FieldError::duplicate(format!("{path}.name"), &name.into()));
            }
            self.one_of(port, "protocol", &path, &["SCTP", "TCP", "UDP"]);
        }
    }

    /// On the host's network a port is the host's own.
    fn host_ports(&mut self, spec: &Value, path: &str) {
        for list in ["initContainers", "containers"] {
            for (number, container) in items(spec, list).iter().enumerate() {
                for (position, port) in items(container, "ports").iter().enumerate() {
                    let host_port = port.get("hostPort").unwrap_or(&Value::Null);
                    let is_set = host_port.as_i64().is_some_and(|port| port != 0);
                    if is_set && Some(host_port) != port.get("containerPort") {
                        let path = format!("{path}.{list}[{number}].ports[{position}].hostPort");
                        let detail = "must match `containerPort` when `hostNetwork` is true";
                        self.errors.push(FieldError::invalid(path, host_port, detail));
                    }
                }
            }
        }
    }

    fn mounts(&mut self, container: &Value, path: &str, volumes: &BTreeSet<&str>) {
        let mut places = BTreeSet::new();
        for (position, mount) in items(container, "volumeMounts").iter().enumerate() {
            let path = format!("{path}.volumeMounts[{position}]");
            let name = text(mount, "name");
            if name.is_empty() {
                self.errors.push(FieldError::required(format!("{path}.name"), ""));
            } else if !volumes.contains(name) {
                self.errors.push(FieldError::not_found(format!("{path}.name"), &name.into()));
            }
            let place = text(mount, "mountPath");
            if place.is_empty() {
                self.errors.push(FieldError::required(format!("{path}.mountPath"), ""));
            } else if !places.insert(place) {
                self.errors.push(FieldError::invalid(format!("{path}.mountPath"), &place.into(), "must be unique"));
            }
            for field in ["subPath", "subPathExpr"] {
                let sub_path = text(mount, field);
                if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
                    let detail = "must be a relative path that does not contain '..'";
                    self.errors.push(FieldError::invalid(format!("{path}.{field}"), &sub_path.into(), detail));
                }
            }
            if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                let value = text(mount, "subPathExpr").into();
                self.errors.push(FieldError::invalid(format!("{path}.subPathExpr"), &value, detail));
            }
        }
    }

    fn resources(&mut self, container: &Value, path: &str) {
        for list in ["limits", "requests"] {
            let quantities = container.pointer(&format!("/resources/{list}")).and_then(Value::as_object);
            for (name, quantity) in quantities.into_iter().flatten() {
                // What is no quantity was rejected by its type already.
                if Quantity::deserialize(quantity).is_ok_and(|quantity| quantity.is_negative()) {
                    let path = format!("{path}.resources.{list}[{name}]");
                    self.errors.push(FieldError::invalid(path, quantity, "must be greater than or equal to 0"));
                }
            }
        }
    }

    fn probe(&mut self, probe: &Value, path: &str, single_success: bool) {
        let handlers = ["exec", "grpc", "httpGet", "tcpSocket"];
        match handlers.iter().filter(|handler| probe.get(**handler).is_some()).count() {
            0 => self.errors.push(FieldError::required(path, "must specify a handler type")),
            1 => {}
            _ => self.errors.push(FieldError::forbidden(path, "may not specify more than 1 handler type")),
        }
        if probe.get("exec").is_some_and(|exec| items(exec, "command").is_empty()) {
            self.errors.push(FieldError::required(format!("{path}.exec.command"), ""));
        }
        for (key, least) in [
            ("initialDelaySeconds", 0),
            ("timeoutSeconds", 1),
            ("periodSeconds", 1),
            ("successThreshold", 1),
            ("failureThreshold", 1),
        ] {
            if let Some(number) = probe.get(key).and_then(Value::as_i64) {
                self.errors.extend(at_least(&format!("{path}.{key}"), number, least));
            }
        }
        if let Some(threshold) =
            probe.get("successThreshold").filter(|threshold| single_success && threshold.as_i64() > Some(1))
        {
            self.errors.push(FieldError::invalid(format!("{path}.successThreshold"), threshold, "must be 1"));
        }
    }

    fn tolerations(&mut self, spec: &Value, path: &str) {
        for (position, toleration) in items(spec, "tolerations").iter().enumerate() {
            let path = format!("{path}.tolerations[{position}]");
            self.one_of(toleration, "effect", &path, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
            let operator = text(toleration, "operator");
            if text(toleration, "key").is_empty() && operator != "Exists" {
                let detail =
                    "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
                self.errors.push(FieldError::invalid(format!("{path}.operator"), &operator.into(), detail));
            }
            self.one_of(toleration, "operator", &path, &["Equal", "Exists", "Gt", "Lt"]);
        }
    }

    /// An empty or absent word is fine: it means the default.
    fn one_of(&mut self, within: &Value, key: &str, path: &str, allowed: &[&str]) {
        let word = text(within, key);
        if !word.is_empty() && !allowed.contains(&word) {
            self.errors.push(FieldError::not_supported(format!("{path}.{key}"), &word.into(), allowed));
        }
    }

    fn name(&mut self, within: &Value, key: &str, path: &str, is_good: fn(&str) -> bool, message: &str) {
        let name = text(within, key);
        if !name.is_empty() && !is_good(name) {
            self.errors.push(FieldError::invalid(format!("{path}.{key}"), &name.into(), message));
        }
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn items<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
