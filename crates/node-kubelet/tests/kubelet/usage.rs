//! What the node shows of what its pods use.

use node_runtime::ContainerStats;
use serde_json::{Value, json};

use super::support::{self, FakeHub};
use super::{Node, is_ready, pod};

fn used(cpu_nanos: u64, working_set_bytes: u64) -> ContainerStats {
    ContainerStats { cpu_nanos, working_set_bytes, memory_bytes: working_set_bytes, ..ContainerStats::default() }
}

#[tokio::test]
async fn what_pods_use_is_shown_to_those_who_may_see_it() {
    let hub = FakeHub::start().await;
    let mut web = pod("web", json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}));
    web["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    hub.put_pod(web);
    let mut node = Node::new();
    node.runtime.uses("uid-web", used(3_000_000_000, 7000));
    node.runtime.uses("uid-web_a_0", used(2_000_000_000, 6000));
    node.start(Some(&hub)).await;
    is_ready(&hub, "web").await;
    let data = node.runtime.mount("uid-web_a_0", "/data").unwrap();
    std::fs::write(data.join("file"), vec![1; 100_000]).unwrap();

    let address = node.kubelet.as_ref().unwrap().address();
    let admin = hub.client("admin", "system:masters");
    let (status, page) = support::get(address, admin.clone(), "/stats/summary").await;
    assert_eq!(status, 200, "{page}");
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["node"]["nodeName"], "n");
    let shown = &page["pods"][0];
    assert_eq!(shown["podRef"], json!({"name": "web", "namespace": "d", "uid": "uid-web"}));
    assert_eq!(
        (&shown["cpu"]["usageCoreNanoSeconds"], &shown["memory"]["workingSetBytes"]),
        (&json!(3_000_000_000_u64), &json!(7000))
    );
    assert_eq!(
        (&shown["containers"][0]["name"], &shown["containers"][0]["memory"]["workingSetBytes"]),
        (&json!("a"), &json!(6000))
    );
    assert!(shown["startTime"].is_string(), "{shown}");
    let volume = &shown["volume"][0];
    assert!(volume["name"] == "data" && volume["usedBytes"].as_u64().unwrap() >= 100_000, "{volume}");
    let (status, page) = support::get(address, admin.clone(), "/stats/summary?only_cpu_and_memory=true").await;
    assert_eq!(status, 200);
    let page: Value = serde_json::from_str(&page).unwrap();
    assert!(page["pods"][0]["volume"].is_null() && page["pods"][0]["cpu"].is_object(), "{page}");

    let (status, page) = support::get(address, admin, "/metrics/resource").await;
    let line = "pod_memory_working_set_bytes{namespace=\"d\",pod=\"web\"} 7000 ";
    assert!(status == 200 && page.contains(line) && page.contains("node_cpu_usage_seconds_total "), "{page}");

    for (path, right) in [("/stats/summary", "nodes/stats"), ("/metrics/resource", "nodes/metrics")] {
        let (status, why) = support::get(address, hub.client("somebody", "people"), path).await;
        assert!(status == 403 && why.contains(right) && !why.contains("proxy"), "{status} {why}");
    }
    node.kill().await;
}
