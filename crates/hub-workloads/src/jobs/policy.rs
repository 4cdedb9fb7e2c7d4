//! What rules say of failed pods and of succeeded indexes: `podFailurePolicy` and `successPolicy`.

use super::indexes::Indexes;
use super::views::{ContainerStatusView, ExitCodesView, JobPodView, PodFailurePolicyView, SuccessPolicyView};

/// What a failed pod means for its job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It counts, as without a rule.
    #[default]
    Count,
    /// It does not count; the pod is replaced.
    Ignore,
    /// It counts, and its index is not tried again.
    FailIndex,
    /// It counts, and the job has failed, with this message.
    FailJob(String),
}

impl Failure {
    /// Whether it counts towards the limits.
    pub fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// What the first rule that matches says of a failed pod.
pub(crate) fn of_pod(policy: &PodFailurePolicyView<'_>, pod: &JobPodView<'_>) -> Failure {
    let metadata = &pod.metadata;
    let name = format!("{}/{}", &*metadata.namespace, &*metadata.name);
    for (index, rule) in policy.rules.iter().enumerate() {
        let action = &*rule.action;
        let found = if let Some(codes) = &rule.on_exit_codes {
            let mut containers = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
            containers.find_map(|container| {
                let code = exit_code(codes, container)?;
                let container = &*container.name;
                Some(format!(
                    "Container {container} for pod {name} failed with exit code {code} matching {action} rule at index {index}"
                ))
            })
        } else if let Some(patterns) = &rule.on_pod_conditions {
            let mut conditions = pod.status.conditions.iter();
            let matched = conditions.find(|condition| {
                patterns.iter().any(|one| one.r#type == condition.r#type && one.status == condition.status)
            });
            matched.map(|condition| {
                format!("Pod {name} has condition {} matching {action} rule at index {index}", &*condition.r#type)
            })
        } else {
            None
        };
        let Some(message) = found else { continue };
        match action {
            "Ignore" => return Failure::Ignore,
            "FailIndex" => return Failure::FailIndex,
            "FailJob" => return Failure::FailJob(message),
            "Count" => return Failure::Count,
            // An action of a newer version: the rules after it decide, as upstream's.
            _ => {}
        }
    }
    Failure::Count
}

/// The exit code of a container, if it failed with one that is meant.
fn exit_code(codes: &ExitCodesView<'_>, container: &ContainerStatusView<'_>) -> Option<i64> {
    let code = container.state.terminated.as_ref()?.exit_code;
    let is_named = codes.container_name.as_ref().is_none_or(|name| *name == container.name);
    let is_among = codes.values.contains(&code);
    let is_meant = match &*codes.operator {
        "In" => is_among,
        "NotIn" => !is_among,
        _ => false,
    };
    (code != 0 && is_named && is_meant).then_some(code)
}

/// One rule of a success policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SuccessRule {
    indexes: Option<Indexes>,
    count: Option<i64>,
}

/// Reads the rules of a job with so many completions.
pub(crate) fn success_rules(policy: &SuccessPolicyView<'_>, completions: i64) -> Vec<SuccessRule> {
    let rules = policy.rules.iter().map(|rule| SuccessRule {
        indexes: rule.succeeded_indexes.as_deref().map(|indexes| Indexes::parse(indexes, completions)),
        count: rule.succeeded_count,
    });
    rules.collect()
}

/// The message of the first rule that the succeeded indexes satisfy.
pub(crate) fn success(rules: &[SuccessRule], succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let is_met = |rule: &SuccessRule| match (&rule.indexes, rule.count) {
        // Those that cannot be read are satisfied by nothing.
        (Some(indexes), _) if indexes.is_empty() => false,
        (Some(indexes), count) => {
            let common = indexes.common(succeeded);
            common == indexes.len() || count.is_some_and(|count| common >= count)
        }
        (None, count) => count.is_some_and(|count| succeeded.len() >= count),
    };
    rules.iter().position(is_met).map(|index| format!("Matched rules at index {index}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(rules: Value, status: Value, expected: Failure) {
        let policy = json!({"rules": rules}).to_string();
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "status": status}).to_string();
        let policy: PodFailurePolicyView<'_> = serde_json::from_str(&policy).unwrap();
        assert_eq!(of_pod(&policy, &serde_json::from_str(&pod).unwrap()), expected, "{rules} {status}");
    }

    fn exited(containers: &[(&str, i64)]) -> Value {
        let containers =
            containers.iter().map(|(name, code)| json!({"name": name, "state": {"terminated": {"exitCode": code}}}));
        json!({"containerStatuses": containers.collect::<Vec<_>>()})
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let on = |action: &str, operator: &str, values: &[i64]| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        let disrupted = |action: &str| json!({"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
        let fail = |message: &str| Failure::FailJob(message.to_owned());
        check(json!([]), exited(&[("a", 1)]), Failure::Count);
        check(json!([on("Ignore", "In", &[1, 2])]), exited(&[("a", 2)]), Failure::Ignore);
        check(json!([on("Ignore", "In", &[1, 2])]), exited(&[("a", 3)]), Failure::Count);
        check(json!([on("FailIndex", "NotIn", &[1])]), exited(&[("a", 3)]), Failure::FailIndex);
        check(json!([on("Ignore", "NotIn", &[1])]), exited(&[("a", 0)]), Failure::Count);
        check(json!([on("Count", "In", &[1]), on("Ignore", "In", &[1])]), exited(&[("a", 1)]), Failure::Count);
        check(
            json!([disrupted("Ignore"), on("FailJob", "In", &[42])]),
            exited(&[("a", 0), ("b", 42)]),
            fail("Container b for pod n/p failed with exit code 42 matching FailJob rule at index 1"),
        );
        let status = json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]});
        check(json!([disrupted("Ignore")]), status.clone(), Failure::Ignore);
        check(
            json!([disrupted("FailJob")]),
            status,
            fail("Pod n/p has condition DisruptionTarget matching FailJob rule at index 0"),
        );
        let status = json!({"conditions": [{"type": "DisruptionTarget", "status": "False"}]});
        check(json!([disrupted("Ignore")]), status, Failure::Count);
        let named = json!({"action": "Ignore", "onExitCodes": {"containerName": "b", "operator": "In", "values": [1]}});
        check(json!([named]), exited(&[("a", 1), ("b", 2)]), Failure::Count);
        let init = json!({"initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 7}}}]});
        check(json!([on("Ignore", "In", &[7])]), init, Failure::Ignore);
        check(
            json!([{"action": "Sing", "onExitCodes": {"operator": "In", "values": [1]}}]),
            exited(&[("a", 1)]),
            Failure::Count,
        );
    }

    #[test]
    fn indexes_that_succeeded_may_be_enough() {
        for (rules, succeeded, expected) in [
            (json!([{"succeededIndexes": "0-2"}]), "0,1", None),
            (json!([{"succeededIndexes": "0-2"}]), "0-3", Some(0)),
            (json!([{"succeededIndexes": "0-2", "succeededCount": 2}]), "0,2", Some(0)),
            (json!([{"succeededIndexes": "0-2", "succeededCount": 2}]), "2-9", None),
            (json!([{"succeededCount": 3}]), "4-6", Some(0)),
            (json!([{"succeededIndexes": "9"}, {"succeededCount": 1}]), "4", Some(1)),
            (json!([{"succeededIndexes": "x"}]), "4", None),
            (json!([{"succeededIndexes": "20-30"}]), "4", None),
            (json!([{"succeededCount": 0}]), "", None),
        ] {
            let policy = json!({"rules": rules}).to_string();
            let rules = success_rules(&serde_json::from_str(&policy).unwrap(), 10);
            let message = success(&rules, &Indexes::parse(succeeded, 10));
            let expected = expected.map(|index: usize| format!("Matched rules at index {index}"));
            assert_eq!(message, expected, "{policy} {succeeded}");
        }
    }
}
