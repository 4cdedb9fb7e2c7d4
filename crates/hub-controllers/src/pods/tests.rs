//! Tests of `pods`: its decisions, as data.

use std::sync::Arc;

use super::*;

#[test]
fn only_a_pod_ending_on_a_node_that_is_gone_is_stranded() {
    let node = Arc::new(json!({"metadata": {"name": "gw-1"}}));
    let nodes: Objects = Arc::new([((String::new(), "gw-1".to_owned()), node)].into());
    for (node, deleted, expected) in
        [("gw-1", true, false), ("gw-2", true, true), ("gw-2", false, false), ("", true, false)]
    {
        let time = if deleted { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        let pod = json!({"metadata": {"deletionTimestamp": time}, "spec": {"nodeName": node}});
        assert_eq!(is_stranded(&pod, &nodes), expected, "{pod}");
    }
}
