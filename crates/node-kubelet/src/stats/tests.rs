use serde_json::json;

use super::*;

fn stats(cpu_nanos: u64, working_set_bytes: u64) -> Option<Usage> {
    let stats = ContainerStats {
        cpu_nanos,
        memory_bytes: working_set_bytes + 500,
        working_set_bytes,
        rss_bytes: 100,
        page_faults: 9,
        major_page_faults: 1,
        pids: 4,
    };
    Some(Usage { stats, nano_cores: Some(250_000_000) })
}

fn outline() -> PodOutline {
    PodOutline {
        uid: "uid-web".to_owned(),
        namespace: "d".to_owned(),
        name: "web".to_owned(),
        start_time: Timestamp::from_second(1_700_000_000).ok(),
        priority: 0,
        is_critical: false,
        qos: api_kube::QosClass::BestEffort,
        containers: Vec::new(),
        disk_volumes: Vec::new(),
        is_over: false,
        is_failed: false,
        dir: PathBuf::from("/pods/web"),
        runtime: None,
    }
}

fn sample() -> Sample {
    let container = ContainerSample {
        id: ContainerId { pod_uid: "uid-web".to_owned(), container: "a".to_owned(), attempt: 2 },
        image: "example/\"web\"".to_owned(),
        started_at: Timestamp::from_second(1_700_000_005).unwrap(),
        usage: stats(1_500_000_000, 1000),
    };
    let eth0 = Interface { name: "eth0".to_owned(), rx_bytes: 10, rx_errors: 1, tx_bytes: 20, tx_errors: 2 };
    let disk = Disk { capacity_bytes: 100, available_bytes: 40, used_bytes: 50, inodes: 10, inodes_free: 3 };
    Sample {
        time: Timestamp::from_second(1_700_000_100).unwrap(),
        node: NodeFigures {
            boot_time: Timestamp::from_second(1_600_000_000).ok(),
            cpu_nanos: 4_000_000_000,
            memory: machine::Memory {
                total_bytes: 9000,
                working_set_bytes: 4000,
                usage_bytes: 6000,
                ..Default::default()
            },
            network: vec![eth0.clone()],
            disk: Some(disk),
            processes: 7,
            processes_max: 70,
            uplink: None,
        },
        nano_cores: None,
        pods: vec![PodSample {
            outline: outline(),
            usage: stats(2_000_000_000, 3000),
            network: vec![eth0],
            containers: vec![container],
        }],
    }
}

#[test]
fn the_summary_has_upstreams_shape() {
    let written = DirUsage { bytes: 10, inodes: 1 };
    let logs = DirUsage { bytes: 20, inodes: 2 };
    let disk = PodDisk {
        volumes: vec![("data".to_owned(), DirUsage { bytes: 5, inodes: 4 })],
        containers: [("a".to_owned(), (written, logs))].into(),
    };
    let of_pods = [("uid-web".to_owned(), disk)].into();
    let disks = summary::Disks { of_pods: &of_pods, images: Some((Disk::default(), 77)) };
    let mut found = summary::summary("n", &sample(), &disks);
    let time = "2023-11-14T22:15:00Z";
    let network = json!({
        "time": time, "name": "eth0", "rxBytes": 10, "rxErrors": 1, "txBytes": 20, "txErrors": 2,
        "interfaces": [{"name": "eth0", "rxBytes": 10, "rxErrors": 1, "txBytes": 20, "txErrors": 2}],
    });
    assert_eq!(found["node"]["nodeName"], "n");
    assert_eq!(found["node"]["cpu"], json!({"time": time, "usageCoreNanoSeconds": 4_000_000_000_u64}));
    assert_eq!(found["node"]["memory"]["availableBytes"], 5000);
    assert_eq!(found["node"]["network"], network);
    let expected = json!({
        "time": time, "availableBytes": 40, "capacityBytes": 100, "usedBytes": 50,
        "inodesFree": 3, "inodes": 10, "inodesUsed": 7,
    });
    assert_eq!(found["node"]["fs"], expected);
    assert_eq!(found["node"]["runtime"]["imageFs"]["usedBytes"], 77);
    assert_eq!(found["node"]["rlimit"], json!({"time": time, "maxpid": 70, "curproc": 7}));
    let pod = &found["pods"][0];
    assert_eq!(pod["podRef"], json!({"name": "web", "namespace": "d", "uid": "uid-web"}));
    assert_eq!(pod["startTime"], "2023-11-14T22:13:20Z");
    let cpu = json!({"time": time, "usageCoreNanoSeconds": 2_000_000_000_u64, "usageNanoCores": 250_000_000});
    assert_eq!(pod["cpu"], cpu);
    let memory = json!({
        "time": time, "usageBytes": 3500, "workingSetBytes": 3000, "rssBytes": 100,
        "pageFaults": 9, "majorPageFaults": 1,
    });
    assert_eq!((&pod["memory"], &pod["network"]), (&memory, &network));
    assert_eq!(pod["process_stats"], json!({"process_count": 4}));
    assert_eq!((&pod["volume"][0]["name"], &pod["volume"][0]["usedBytes"]), (&json!("data"), &json!(5)));
    assert_eq!(
        (&pod["ephemeral-storage"]["usedBytes"], &pod["ephemeral-storage"]["inodesUsed"]),
        (&json!(35), &json!(7))
    );
    let container = &pod["containers"][0];
    assert_eq!((&container["name"], &container["startTime"]), (&json!("a"), &json!("2023-11-14T22:13:25Z")));
    assert_eq!((&container["rootfs"]["usedBytes"], &container["logs"]["usedBytes"]), (&json!(10), &json!(20)));
    assert_eq!(container["memory"]["workingSetBytes"], 1000);

    summary::cpu_and_memory_only(&mut found);
    let names = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found["node"]), ["cpu", "memory", "nodeName", "startTime"]);
    assert_eq!(names(&found["pods"][0]), ["containers", "cpu", "memory", "podRef", "startTime"]);
    assert_eq!(names(&found["pods"][0]["containers"][0]), ["cpu", "memory", "name", "startTime"]);
}

#[test]
fn metrics_server_finds_what_it_reads() {
    let page = exposition::resource(&sample());
    for line in [
        "# TYPE node_cpu_usage_seconds_total counter",
        "node_cpu_usage_seconds_total 4 1700000100000",
        "node_memory_working_set_bytes 4000 1700000100000",
        "container_cpu_usage_seconds_total{container=\"a\",namespace=\"d\",pod=\"web\"} 1.5 1700000100000",
        "container_memory_working_set_bytes{container=\"a\",namespace=\"d\",pod=\"web\"} 1000 1700000100000",
        "container_start_time_seconds{container=\"a\",namespace=\"d\",pod=\"web\"} 1700000005 1700000100000",
        "pod_cpu_usage_seconds_total{namespace=\"d\",pod=\"web\"} 2 1700000100000",
        "pod_memory_working_set_bytes{namespace=\"d\",pod=\"web\"} 3000 1700000100000",
        "resource_scrape_error 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    let page = exposition::cadvisor(&sample());
    for line in [
        "container_memory_rss{container=\"a\",image=\"example/\\\"web\\\"\",name=\"uid-web_a_2\",namespace=\"d\",pod=\"web\"} 100 1700000100000",
        "container_memory_usage_bytes{container=\"\",image=\"\",name=\"\",namespace=\"d\",pod=\"web\"} 3500 1700000100000",
        "container_network_transmit_bytes_total{container=\"\",interface=\"eth0\",namespace=\"d\",pod=\"web\"} 20 1700000100000",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
}

#[test]
fn what_nobody_counts_is_not_said_to_be_nothing() {
    let mut uncounted = sample();
    uncounted.pods[0].usage = None;
    uncounted.pods[0].containers[0].usage = None;
    let disks = summary::Disks { of_pods: &BTreeMap::new(), images: None };
    let found = summary::summary("n", &uncounted, &disks);
    assert_eq!(
        (&found["pods"][0]["cpu"], &found["pods"][0]["memory"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    let page = exposition::resource(&uncounted);
    assert!(!page.contains("pod_cpu_usage_seconds_total{") && page.contains("container_start_time_seconds{"), "{page}");
}

#[test]
fn a_rate_is_over_some_seconds_however_often_somebody_asks() {
    let (start, mut memory) = (Instant::now(), Remembered::default());
    let mut at = |millis: u64, nanos: u64| {
        let mut sample = sample();
        sample.pods[0].usage = stats(nanos, 0);
        memory.rate(&mut sample, start + Duration::from_millis(millis));
        sample.pods[0].usage.unwrap().nano_cores
    };
    assert_eq!(at(0, 1_000_000_000), None, "nothing to compare with");
    assert_eq!(at(1_000, 1_500_000_000), None, "too soon");
    assert_eq!(at(10_000, 6_000_000_000), Some(500_000_000), "half a core for ten seconds");
    assert_eq!(at(10_001, 6_000_000_000), Some(499_950_004), "as a moment ago");
    assert_eq!(at(20_000, 6_000_000_000), Some(0), "idle since");
    // Its group was made anew.
    assert_eq!(at(30_000, 1), Some(0));
}
