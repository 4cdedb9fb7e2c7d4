//! The tables for people: `docs/reference/pod-fields.md`.

use std::fmt::Write as _;

use super::{Does, Runtime, TABLES};

/// The page.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for (r#type, rows) in TABLES {
        let _ = write!(page, "\n## {type}\n\n| field | `selvedge-process` | `selvedge-wasm` |\n| --- | --- | --- |\n");
        for row in *rows {
            let process = cell(row.does(Runtime::Process));
            let wasm = cell(row.does(Runtime::Wasm));
            let wasm = if wasm == process { "the same" } else { &wasm };
            let _ = writeln!(page, "| `{}` | {process} | {wasm} |", row.field);
        }
    }
    page
}

const HEAD: &str = "\
# Every field of a pod

What the runtimes of this version do with each field of a pod whose `runtimeClassName` is `selvedge-process` or `selvedge-wasm`.
Generated from the table that the hub and the nodes use (`SELVEDGE_BLESS=1 cargo test -p api-pod` writes it anew); a test
compares it with the published schema of Kubernetes 1.36, so that no field is without a row.

- **honoured**: the runtime does what the field says.
- **harmless**: it does nothing with it, and nothing is lost: the reason is given.
- **rejected**: the hub rejects a pod, or a DaemonSet with a template of such pods, that has it, and names the field. A node
  rejects such a pod that another control plane has bound to it: the pod has failed with the reason `UnsupportedPod`. A field that
  says no more than its absence (`false`, empty) is never rejected. What was stored before is not rejected for what it has already.

A pod without a class is one of images, which no node runs yet: it is stored as a kube-apiserver stores it, and stays Pending.
";

fn cell(does: Does) -> String {
    let list = |values: &[&str]| values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
    match does {
        Does::Honoured => "honoured".to_owned(),
        Does::Fields(r#type) => format!("see [{type}](#{})", r#type.to_lowercase()),
        Does::Harmless(why) => format!("harmless: {why}"),
        Does::Only(values, sentence) | Does::Keys(values, sentence) => {
            format!("{}; others rejected: {sentence}", list(values))
        }
        Does::Judged(_, allowed, sentence) => format!("{allowed}; others rejected: {sentence}"),
        Does::Rejected(sentence) => format!("rejected: {sentence}"),
    }
}
