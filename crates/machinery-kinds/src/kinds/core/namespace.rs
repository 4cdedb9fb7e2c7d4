//! Namespace: it ends when its content has, which finalizers of its spec say.

use api_kube::names::QUALIFIED_NAME_MESSAGE;
use serde_json::{Value, json};

use crate::{
    is_qualified_name,
    kit::{Errors, Path, Read, Write},
    metadata::{NameRule, OnUpdate},
    strategy::{Part, Selectable, Strategy},
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    metadata_on_update: OnUpdate::WholeAndChanges,
    name_rule: NameRule::Label,
    selectable: &[Selectable::field("status.phase")],
    defaults: |namespace| {
        label(namespace);
        namespace.make("status").default_text("phase", "Active");
    },
    prepare_create: |namespace, _| {
        label(namespace);
        // Ours waits for the content; whoever creates the namespace may have others wait for more.
        let spec = namespace.make("spec");
        let mut finalizers = spec.items("finalizers").to_vec();
        if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
            finalizers.push("kubernetes".into());
        }
        spec.set("finalizers", finalizers);
        namespace.set("status", json!({"phase": "Active"}));
    },
    prepare_update: |new, old| new.restore("spec", old),
    parts: &[
        Part {
            validate: |new, _, errors| {
                let phase = new.part("status").text("phase");
                let (expected, detail) = if new.part("metadata").has("deletionTimestamp") {
                    ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
                } else {
                    ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
                };
                if phase != expected {
                    errors.invalid(&Path::at("status.Phase"), phase, detail);
                }
            },
            ..Part::STATUS
        },
        Part {
            name: "finalize",
            prepare: |new, old| new.restore("status", old),
            validate: |new, _, errors| {
                let at = Path::at("spec.finalizers");
                for (number, finalizer) in new.part("spec").texts("finalizers").enumerate() {
                    check_finalizer(&at.index(number), finalizer, errors);
                }
            },
        },
    ],
    is_held: |namespace| !namespace.part("spec").items("finalizers").is_empty(),
    begin_deletion: |namespace| namespace.make("status").set("phase", "Terminating"),
    validate: |namespace, errors| {
        for finalizer in namespace.part("spec").texts("finalizers") {
            check_finalizer(&Path::at("spec.finalizers"), finalizer, errors);
        }
    },
    printer: &PRINTER,
    ..Strategy::PLAIN
};

static PRINTER: Printer = Printer {
    columns: columns::NAMESPACE,
    cells: |namespace, now| {
        vec![name(namespace), namespace.part("status").text("phase").into(), age_of(namespace, now)]
    },
};

/// Selectors on namespaces rely on this label being true.
fn label(namespace: &mut Value) {
    let name = namespace.part("metadata").text("name").to_owned();
    if !name.is_empty() {
        namespace.make("metadata").make("labels").set("kubernetes.io/metadata.name", name);
    }
}

fn check_finalizer(path: &Path<'_>, finalizer: &str, errors: &mut Errors) {
    // Names without a domain are Kubernetes' own.
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    if !is_qualified_name(finalizer) {
        errors.invalid(path, finalizer, QUALIFIED_NAME_MESSAGE);
    }
    if !finalizer.contains('/') && !STANDARD.contains(&finalizer) {
        errors.invalid(path, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
    }
}
