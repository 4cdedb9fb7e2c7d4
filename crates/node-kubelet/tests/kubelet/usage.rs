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

#[tokio::test]
async fn collectors_of_logs_find_them_until_the_pod_is_deleted() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    let logs = tempfile::tempdir().unwrap();
    let config = || node_kubelet::KubeletConfig {
        log_links: Some(node_kubelet::LogLinks::open(logs.path()).unwrap()),
        ..node.config(Some(&hub))
    };
    let kubelet = node_kubelet::Kubelet::start(config(), vec![node.runtime.clone()], node.shutdown.clone()).await;
    node.kubelet = Some(kubelet.unwrap());
    is_ready(&hub, "web").await;
    let link = logs.path().join("pods/d_web_uid-web/a/0.log");
    support::eventually("the log is linked", || match std::fs::read_link(&link) {
        Ok(log) if log == node.dir.path().join("node/pods/d_web_uid-web/a/0.log") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(std::fs::read_dir(logs.path().join("containers")).unwrap().count(), 1);
    hub.delete_gracefully("web");
    support::eventually("nothing is left of it", || {
        let left = ["pods", "containers"].map(|dir| std::fs::read_dir(logs.path().join(dir)).unwrap().count());
        if left == [0, 0] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    node.kill().await;
}

#[tokio::test]
async fn the_hub_learns_what_pods_use_when_that_changes() {
    let hub = FakeHub::start().await;
    hub.put_pod(pod("web", json!({})));
    let mut node = Node::new();
    let config =
        node_kubelet::KubeletConfig { usage_period: std::time::Duration::from_millis(50), ..node.config(Some(&hub)) };
    node.runtime.uses("uid-web_a_0", used(1, 7 << 20));
    let kubelet = node_kubelet::Kubelet::start(config, vec![node.runtime.clone()], node.shutdown.clone()).await;
    node.kubelet = Some(kubelet.unwrap());
    let memory_of = |report: &Value| report["pods"][0]["containers"][0]["usage"]["memoryBytes"].as_u64();
    let reported = async |expected: u64| {
        support::eventually("the hub knows", || match hub.usage().last() {
            Some(report) if memory_of(report) == Some(expected) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    };
    reported(7 << 20).await;
    node.runtime.uses("uid-web_a_0", used(1, 90 << 20));
    reported(90 << 20).await;
    let report = hub.usage().pop().unwrap();
    assert_eq!((&report["version"], &report["pods"][0]["name"]), (&json!(1), &json!("web")));
    assert!(report["node"]["memoryBytes"].as_u64().unwrap() > 0, "{report}");
    node.kill().await;
}
