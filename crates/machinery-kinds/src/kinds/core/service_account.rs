//! ServiceAccount: an identity for what runs in pods.

use serde_json::{Value, json};

use crate::{
    kit::{Read, Write},
    metadata::OnUpdate,
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name},
};

const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

pub(super) static STRATEGY: Strategy = Strategy {
    metadata_on_update: OnUpdate::WholeAndChanges,
    prepare_create: |account, _| name_secrets(account),
    prepare_update: |account, _| name_secrets(account),
    warnings: |account, old| {
        let is_marked = |account: &Value| account.part("metadata").part("annotations").has(MOUNTABLE_SECRETS);
        if old.is_some_and(is_marked) || !is_marked(account) {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{MOUNTABLE_SECRETS}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        )]
    },
    printer: &PRINTER,
    ..Strategy::PLAIN
};

static PRINTER: Printer =
    Printer { columns: columns::SERVICE_ACCOUNT, cells: |account, now| vec![name(account), age_of(account, now)] };

/// Secrets are those of the account's namespace: nothing but their names counts.
fn name_secrets(account: &mut Value) {
    for secret in account.items_mut("secrets") {
        *secret = match secret.text("name") {
            "" => json!({}),
            name => json!({"name": name}),
        };
    }
}
