//! The strategies of the built-in kinds, one value each, in the order of the catalogue.

use serde_json::{Value, json};

use super::{Durability, Strategy, entry, metadata, pods, restore, status_part, text};
use crate::{defaults, metadata::NameRule, rules, rules::update, table::printers};

pub(crate) static CONFIG_MAP: Strategy = Strategy {
    validate: rules::config_map,
    validate_update: update::config_map,
    printer: &printers::CONFIG_MAPS,
    ..Strategy::PLAIN
};

/// Events come often, nobody watches one, and what is lost is reported again.
pub(crate) static EVENT: Strategy =
    Strategy { durability: Durability::Lazy, name_field: false, printer: &printers::EVENTS, ..Strategy::PLAIN };

pub(crate) static NAMESPACE: Strategy = Strategy {
    name_rule: NameRule::Label,
    prepare_create: |namespace, _| {
        let name = text(namespace, "/metadata/name").to_owned();
        let labels = metadata(namespace).entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
        // Ours waits for the content; whoever creates the namespace may have others wait for more.
        if !namespace.get("spec").is_some_and(Value::is_object) {
            namespace["spec"] = json!({});
        }
        let held = namespace.pointer("/spec/finalizers").and_then(Value::as_array);
        let mut finalizers = held.cloned().unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
        namespace["spec"]["finalizers"] = finalizers.into();
        namespace["status"] = json!({"phase": "Active"});
    },
    prepare_update: |new, old| restore(new, old, "spec"),
    prepare_part: |part, kept, new, old| {
        if part == "finalize" {
            let finalizers = new.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
            entry(kept, "spec").insert("finalizers".to_owned(), finalizers);
        } else {
            status_part(part, kept, new, old);
        }
    },
    is_held: |namespace| {
        namespace.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|finalizers| !finalizers.is_empty())
    },
    begin_deletion: |namespace| {
        entry(namespace, "status").insert("phase".to_owned(), "Terminating".into());
    },
    validate: rules::namespace,
    defaults: defaults::namespace,
    printer: &printers::NAMESPACES,
    ..Strategy::PLAIN
};

pub(crate) static NODE: Strategy = Strategy {
    // A kubelet reports its status along with itself.
    keeps_status_on_create: true,
    prepare_part: |part, kept, new, old| {
        status_part(part, kept, new, old);
        // A kubelet reports attached volumes in an annotation when it writes its status.
        for field in ["annotations", "labels"] {
            if let Some(value) = new.pointer(&format!("/metadata/{field}")) {
                metadata(kept).insert(field.to_owned(), value.clone());
            }
        }
    },
    validate: rules::node,
    printer: &printers::NODES,
    ..Strategy::PLAIN
};

pub(crate) static POD: Strategy = Strategy {
    generation: true,
    prepare_create: pods::prepare_create,
    index: &[pods::REFS],
    grace_seconds: pods::grace_seconds,
    warnings: |pod| pods::warnings(pod.get("spec").unwrap_or(&Value::Null), "spec"),
    defaults: defaults::pod,
    validate: rules::pod,
    validate_update: update::pod,
    printer: &printers::PODS,
    ..Strategy::PLAIN
};

pub(crate) static SECRET: Strategy = Strategy {
    prepare_create: |secret, _| defaults::move_string_data(secret),
    prepare_update: |new, _| defaults::move_string_data(new),
    defaults: defaults::secret,
    validate: rules::secret,
    validate_update: update::secret,
    printer: &printers::SECRETS,
    ..Strategy::PLAIN
};

pub(crate) static SERVICE_ACCOUNT: Strategy = Strategy { printer: &printers::SERVICE_ACCOUNTS, ..Strategy::PLAIN };

pub(crate) static CUSTOM_RESOURCE_DEFINITION: Strategy = Strategy {
    generation: true,
    defaults: defaults::custom_resource_definition,
    validate: crate::custom::validate,
    validate_update: update::custom_resource_definition,
    printer: &printers::CUSTOM_RESOURCE_DEFINITIONS,
    ..Strategy::PLAIN
};

pub(crate) static CONTROLLER_REVISION: Strategy = Strategy {
    validate: rules::controller_revision,
    validate_update: update::controller_revision,
    printer: &printers::CONTROLLER_REVISIONS,
    ..Strategy::PLAIN
};

pub(crate) static DAEMON_SET: Strategy = Strategy {
    generation: true,
    warnings: |set| {
        let spec = set.pointer("/spec/template/spec").unwrap_or(&Value::Null);
        pods::warnings(spec, "spec.template.spec")
    },
    defaults: defaults::daemon_set,
    validate: rules::daemon_set,
    validate_update: update::daemon_set,
    printer: &printers::DAEMON_SETS,
    ..Strategy::PLAIN
};

pub(crate) static CERTIFICATE_SIGNING_REQUEST: Strategy = Strategy {
    prepare_create: |request, creation| {
        if let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("username".to_owned(), creation.user.into());
            spec.insert("groups".to_owned(), creation.groups.into());
            spec.remove("uid");
            spec.remove("extra");
        }
        request["status"] = json!({});
    },
    // What was signed, and who requested it, is no longer up to anyone.
    prepare_update: |new, old| restore(new, old, "spec"),
    prepare_part: |part, kept, new, old| {
        let conditions = |object: &Value| object.pointer("/status/conditions").cloned();
        if part == "approval" {
            if let Some(conditions) = conditions(new) {
                set_conditions(kept, conditions);
            }
            return;
        }
        status_part(part, kept, new, old);
        if let (Some(before), None) = (conditions(old), conditions(new)) {
            set_conditions(kept, before);
        }
    },
    defaults: defaults::signing_request,
    validate: rules::signing_request,
    validate_update: update::signing_request,
    printer: &printers::SIGNING_REQUESTS,
    ..Strategy::PLAIN
};

/// A status of another type than an object is left as it is, for validation to reject.
fn set_conditions(object: &mut Value, conditions: Value) {
    if object.get("status").is_none_or(|status| status.is_object() || status.is_null()) {
        entry(object, "status").insert("conditions".to_owned(), conditions);
    }
}

/// Leases come often, nobody watches one by name, and the next renewal repairs what was lost.
pub(crate) static LEASE: Strategy = Strategy {
    durability: Durability::Lazy,
    name_field: false,
    validate: rules::lease,
    printer: &printers::LEASES,
    ..Strategy::PLAIN
};

pub(crate) static RUNTIME_CLASS: Strategy = Strategy {
    validate: rules::runtime_class,
    validate_update: update::runtime_class,
    printer: &printers::RUNTIME_CLASSES,
    ..Strategy::PLAIN
};

/// Kinds of CustomResourceDefinitions: rules and columns come with their schema.
pub(crate) static CUSTOM: Strategy = Strategy { generation: true, ..Strategy::PLAIN };
