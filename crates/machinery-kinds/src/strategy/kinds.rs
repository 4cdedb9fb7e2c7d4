//! The strategies of the built-in kinds, one value each, in the order of the catalogue.

use serde_json::{Value, json};

use super::{Durability, Part, Selectable, Strategy, metadata, restore, restore_metadata_of, text};
use crate::{
    defaults,
    kit::{Read, Write},
    metadata::NameRule,
    rules,
    rules::update,
    table::printers,
};

pub(crate) static CONFIG_MAP: Strategy = Strategy {
    validate: |object, errors| errors.extend(rules::config_map(object)),
    validate_update: Some(|new, old, errors| {
        errors.extend(rules::config_map(new));
        errors.extend(update::config_map(new, old));
    }),
    printer: &printers::CONFIG_MAPS,
    ..Strategy::PLAIN
};

/// Events come often, nobody watches one, and what is lost is reported again.
pub(crate) static EVENT: Strategy = Strategy {
    durability: Durability::Lazy,
    name_field: false,
    selectable: &[
        Selectable::field("involvedObject.kind"),
        Selectable::field("involvedObject.namespace"),
        Selectable::field("involvedObject.name"),
        Selectable::field("involvedObject.uid"),
        Selectable::field("involvedObject.apiVersion"),
        Selectable::field("involvedObject.resourceVersion"),
        Selectable::field("involvedObject.fieldPath"),
        Selectable::field("reason"),
        Selectable::field("reportingComponent"),
        // The component that reported it; new and old clients write it in two places.
        Selectable { paths: &["source.component", "reportingComponent"], ..Selectable::field("source") },
        Selectable::field("type"),
    ],
    printer: &printers::EVENTS,
    ..Strategy::PLAIN
};

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
    parts: &[
        Part::STATUS,
        Part {
            name: "finalize",
            prepare: |new, old| {
                let finalizers = new.part("spec").part("finalizers").clone();
                restore_metadata_of(new, old);
                new.restore("status", old);
                new.restore("spec", old);
                let finalizers = if finalizers.is_null() { json!([]) } else { finalizers };
                new.make("spec").set("finalizers", finalizers);
            },
            validate: |new, _, errors| errors.extend(rules::namespace(new)),
        },
    ],
    selectable: &[Selectable::field("status.phase")],
    is_held: |namespace| {
        namespace.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|finalizers| !finalizers.is_empty())
    },
    begin_deletion: |namespace| {
        namespace.make("status").set("phase", "Terminating");
    },
    validate: |object, errors| errors.extend(rules::namespace(object)),
    defaults: defaults::namespace,
    printer: &printers::NAMESPACES,
    ..Strategy::PLAIN
};

pub(crate) static NODE: Strategy = Strategy {
    // A kubelet reports its status along with itself.
    keeps_status_on_create: true,
    selectable: &[Selectable { absent: "false", ..Selectable::field("spec.unschedulable") }],
    validate: |object, errors| errors.extend(rules::node(object)),
    printer: &printers::NODES,
    ..Strategy::PLAIN
};

pub(crate) static SECRET: Strategy = Strategy {
    selectable: &[Selectable::field("type")],
    prepare_create: |secret, _| defaults::move_string_data(secret),
    prepare_update: |new, _| defaults::move_string_data(new),
    defaults: defaults::secret,
    validate: |object, errors| errors.extend(rules::secret(object)),
    validate_update: Some(|new, old, errors| {
        errors.extend(rules::secret(new));
        errors.extend(update::secret(new, old));
    }),
    printer: &printers::SECRETS,
    ..Strategy::PLAIN
};

pub(crate) static SERVICE_ACCOUNT: Strategy = Strategy { printer: &printers::SERVICE_ACCOUNTS, ..Strategy::PLAIN };

pub(crate) static CUSTOM_RESOURCE_DEFINITION: Strategy = Strategy {
    generation: true,
    defaults: defaults::custom_resource_definition,
    validate: crate::custom::validate,
    validate_update: Some(|new, old, errors| {
        crate::custom::validate(new, errors);
        errors.extend(update::custom_resource_definition(new, old));
    }),
    printer: &printers::CUSTOM_RESOURCE_DEFINITIONS,
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
    parts: &[
        Part {
            prepare: |new, old| {
                new.restore("spec", old);
                if !new.part("status").has("conditions") && old.part("status").has("conditions") {
                    let before = old.part("status").part("conditions").clone();
                    new.make("status").set("conditions", before);
                }
            },
            ..Part::STATUS
        },
        Part {
            name: "approval",
            prepare: |new, old| {
                let conditions = new.part("status").some("conditions").cloned();
                new.restore("spec", old);
                new.restore("status", old);
                if let Some(conditions) = conditions {
                    new.make("status").set("conditions", conditions);
                }
            },
            ..Part::STATUS
        },
    ],
    selectable: &[Selectable::field("spec.signerName")],
    defaults: defaults::signing_request,
    validate: |object, errors| errors.extend(rules::signing_request(object)),
    validate_update: Some(|new, old, errors| {
        errors.extend(rules::signing_request(new));
        errors.extend(update::signing_request(new, old));
    }),
    printer: &printers::SIGNING_REQUESTS,
    ..Strategy::PLAIN
};

/// Leases come often, nobody watches one by name, and the next renewal repairs what was lost.
pub(crate) static LEASE: Strategy = Strategy {
    durability: Durability::Lazy,
    name_field: false,
    validate: |object, errors| errors.extend(rules::lease(object)),
    printer: &printers::LEASES,
    ..Strategy::PLAIN
};

pub(crate) static RUNTIME_CLASS: Strategy = Strategy {
    validate: |object, errors| errors.extend(rules::runtime_class(object)),
    validate_update: Some(|new, old, errors| {
        errors.extend(rules::runtime_class(new));
        errors.extend(update::runtime_class(new, old));
    }),
    printer: &printers::RUNTIME_CLASSES,
    ..Strategy::PLAIN
};

/// Kinds of CustomResourceDefinitions: rules and columns come with their schema.
pub(crate) static CUSTOM: Strategy =
    Strategy { generation: true, kube_finalizers: false, unconditional_update: false, ..Strategy::PLAIN };
