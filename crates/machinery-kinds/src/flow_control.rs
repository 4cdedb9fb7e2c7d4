//! What a server does about priority and fairness besides storing the objects: those that are there from the start, and what
//! the status of a schema says.

use serde_json::{Value, json};

use crate::{
    kinds::flowcontrol::bootstrap::{flow_schemas, priority_levels},
    kit::Read,
};

/// The group of flow schemas and priority levels.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Who creates what is there from the start.
pub const BOOTSTRAP_MANAGER: &str = "api-priority-and-fairness-config-producer-v1";
/// Who writes the status of schemas.
pub const STATUS_MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";

/// What every cluster has: paths of collections, and objects to be created in them, in this order.
pub fn standard_objects() -> impl Iterator<Item = (&'static str, Value)> {
    let levels = priority_levels().into_iter();
    let levels = levels.map(|level| ("/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", level));
    let schemas = flow_schemas().into_iter();
    levels.chain(schemas.map(|schema| ("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", schema)))
}

/// What is to be applied to a schema's status so that it says whether the schema's level exists; `None` when it does.
pub fn status_to_apply(schema: &Value, exists: impl Fn(&str) -> bool, now: &str) -> Option<Value> {
    let level = schema.part("spec").part("priorityLevelConfiguration").text("name");
    let shown = machinery_schema::field_error::quoted(level);
    let (status, reason, end) = match exists(level) {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {shown} {end}");
    let mut conditions = schema.part("status").items("conditions").iter();
    let is_said = conditions.find(|condition| condition.text("type") == "Dangling").is_some_and(|condition| {
        (condition.text("status"), condition.text("reason"), condition.text("message")) == (status, reason, &message)
    });
    (!is_said).then(|| {
        json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "FlowSchema",
            "metadata": {"name": schema.part("metadata").text("name")},
            "status": {"conditions": [{
                "type": "Dangling", "status": status, "lastTransitionTime": now, "reason": reason, "message": message,
            }]},
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_says_whether_its_level_exists() {
        let mut schema =
            json!({"metadata": {"name": "a"}, "spec": {"priorityLevelConfiguration": {"name": "workload-low"}}});
        let applied = status_to_apply(&schema, |level| level == "workload-low", "now").expect("nothing is said yet");
        let condition = &applied["status"]["conditions"][0];
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Found")));
        assert_eq!(
            condition["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"workload-low\" and it exists"
        );
        schema["status"] = applied["status"].clone();
        assert_eq!(status_to_apply(&schema, |_| true, "later"), None);
        let applied = status_to_apply(&schema, |_| false, "later").expect("the level is removed");
        assert_eq!(applied["status"]["conditions"][0]["reason"], "NotFound");
    }
}
