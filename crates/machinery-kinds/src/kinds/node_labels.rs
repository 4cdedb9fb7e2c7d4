//! Labels of nodes that had other names once.

use serde_json::Value;

use crate::kit::{Path, Read};

const DEPRECATED: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What to say of a label that is deprecated.
pub(crate) fn deprecated_label(key: &str) -> Option<&'static str> {
    DEPRECATED.iter().find(|(label, _)| *label == key).map(|(_, message)| *message)
}

/// What to say of a label selector that names such labels.
pub(crate) fn selector_warnings(selector: &Value, at: &Path<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let expressions_at = at.field("matchExpressions");
    for (number, expression) in selector.items("matchExpressions").iter().enumerate() {
        let key = expression.text("key");
        let message = deprecated_label(key);
        let at = expressions_at.index(number);
        warnings.extend(message.map(|message| format!("{}: {key} is {message}", at.field("key"))));
    }
    let labels_at = at.field("matchLabels");
    for (key, _) in selector.entries("matchLabels") {
        warnings.extend(deprecated_label(key).map(|message| format!("{}: {message}", labels_at.field(key))));
    }
    warnings
}
