//! The tables for people: `docs/reference/pod-fields.md`.

use std::fmt::Write as _;

use super::{Does, Runtime, TABLES};

/// The page.
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for (r#type, rows) in TABLES {
        let _ = write!(
            page,
            "\n## {type}\n\n| field | images | `selvedge-process` | `selvedge-wasm` |\n| --- | --- | --- | --- |\n"
        );
        for row in *rows {
            let container = cell(row.does(Runtime::Container));
            let process = cell(row.does(Runtime::Process));
            let wasm = cell(row.does(Runtime::Wasm));
            let wasm = if wasm == process { "the same" } else { &wasm };
            let process = if process == container { "the same" } else { &process };
            let _ = writeln!(page, "| `{}` | {container} | {process} | {wasm} |", row.field);
        }
    }
    page
}

const HEAD: &str = "\
# Every field of a pod

What this version does with each field of a pod: of one of images, which names no `runtimeClassName`, and of one whose class is
`selvedge-process` or `selvedge-wasm`. \"The same\" is what the column to the left says. A pod whose class is another runtime of its
node (`crun`, `runc`; see [how to run another one](../how-to/run-another-container-runtime.md)) is one of images: the first column counts.
Generated from the table that the hub and the nodes use (`SELVEDGE_BLESS=1 cargo test -p api-pod` writes it anew); a test
compares it with the published schema of Kubernetes 1.36, so that no field is without a row.

- **honoured**: the runtime does what the field says.
- **harmless**: it does nothing with it, and nothing is lost: the reason is given.
- **rejected**: the hub rejects a pod of one of the two classes, or a DaemonSet with a template of such pods, that has it, and names
  the field. A pod of images it stores as a kube-apiserver does. A node rejects such a pod of any kind: the pod has failed with the
  reason `UnsupportedPod`. A field that says no more than its absence (`false`, empty) is never rejected. What was stored before is
  not rejected for what it has already.
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
