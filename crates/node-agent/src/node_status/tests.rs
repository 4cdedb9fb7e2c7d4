use super::*;

fn config() -> AgentConfig {
    AgentConfig { node_name: "n".into(), ..AgentConfig::default() }
}

fn status_at(pressure: NodePressure, before: &Value, second: i64) -> Value {
    let machine = Machine { cpu_millis: 4000, memory_bytes: 1 << 30, info: json!({}), runtime_handlers: Vec::new() };
    let ip = Some("10.0.0.1".parse().unwrap());
    let health = Health { pressure, disk_bytes: 1 << 31, ..Health::default() };
    status(&config(), &machine, &health, ip, 10250, before, Timestamp::from_second(second).unwrap())
}

fn time_of(status: &Value, name: &str) -> String {
    let conditions = status["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|condition| condition["type"] == name).unwrap();
    condition["lastTransitionTime"].as_str().unwrap().to_owned()
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let first = status_at(NodePressure::default(), &Value::Null, 10);
    let second = status_at(NodePressure { memory: true, ..NodePressure::default() }, &first, 20);
    assert_eq!(time_of(&second, "Ready"), "1970-01-01T00:00:10Z");
    assert_eq!(time_of(&second, "MemoryPressure"), "1970-01-01T00:00:20Z");
    let short = second["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "MemoryPressure").unwrap();
    assert_eq!((&short["status"], &short["reason"]), (&json!("True"), &json!("KubeletHasInsufficientMemory")));
    assert_eq!(short["message"], "kubelet has insufficient memory available");
}

#[test]
fn a_heartbeat_alone_is_no_change() {
    let first = status_at(NodePressure::default(), &Value::Null, 10);
    let second = status_at(NodePressure::default(), &first, 20);
    assert_ne!(first, second);
    assert_eq!(without_heartbeats(&first), without_heartbeats(&second));
}

#[test]
fn resources_are_written_as_kubernetes_reads_them() {
    let status = status_at(NodePressure::default(), &Value::Null, 10);
    assert_eq!(status["capacity"]["cpu"], "4");
    assert_eq!(status["capacity"]["memory"], "1048576Ki");
    // A sixteenth of a gigabyte is kept, and a twentieth of a core.
    assert_eq!(status["allocatable"]["memory"], "983040Ki");
    assert_eq!(status["allocatable"]["cpu"], "3950m");
    assert_eq!(status["capacity"]["ephemeral-storage"], "2097152Ki");
    assert_eq!(status["addresses"][0]["address"], "10.0.0.1");
}

#[test]
fn proc_files_are_read() {
    assert_eq!(meminfo_bytes("MemTotal:       1024 kB\nMemAvailable: 7 kB", "MemAvailable:"), Some(7168));
    assert_eq!(os_name("NAME=x\nPRETTY_NAME=\"Debian 13\"\n"), "Debian 13");
    let machine = machine();
    assert!(machine.cpu_millis >= 1000 && machine.memory_bytes > 0);
}

#[test]
fn a_part_that_does_not_work_makes_the_node_not_ready_and_says_so() {
    let machine = Machine::default();
    let mut health = Health::default();
    health.faults.insert("pods".into(), "task pods has died: boom".into());
    let notice = Notice { reason: "HubChanged", message: "1 pod".into() };
    health.conditions.insert(PODS_ON_HOLD, notice);
    let at = |second| Timestamp::from_second(second).unwrap();
    let bad = status(&config(), &machine, &health, None, 1, &Value::Null, at(1));
    let find = |status: &Value, name: &str| {
        status["conditions"].as_array().unwrap().iter().find(|condition| condition["type"] == name).cloned()
    };
    let ready = find(&bad, "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["message"]), (&json!("False"), &json!("task pods has died: boom")));
    assert_eq!(find(&bad, PODS_ON_HOLD).unwrap()["status"], "True");
    let good = status(&config(), &machine, &Health::default(), None, 1, &bad, at(2));
    assert_eq!(find(&good, "Ready").unwrap()["status"], "True");
    assert_eq!(find(&good, PODS_ON_HOLD).unwrap()["status"], "False", "it is taken back by name");
}

#[test]
fn a_status_at_the_hub_that_is_none_is_replaced_and_harms_nothing() {
    for foreign in [json!([]), json!(5), json!("x"), json!({"conditions": 5}), json!({"conditions": [5]})] {
        assert_eq!(without_heartbeats(&foreign), foreign);
        assert_eq!(time_of(&status_at(NodePressure::default(), &foreign, 10), "Ready"), "1970-01-01T00:00:10Z");
    }
}

#[test]
fn the_largest_images_are_in_the_status_with_a_few_names_each() {
    let names = (0..9).map(|number| format!("example.com/a:{number}")).collect();
    let small = |number: u64| NodeImage { names: vec![format!("example.com/small:{number}")], size_bytes: number };
    let images = (0..60).map(small).chain([NodeImage { names, size_bytes: 1 << 20 }]).collect();
    let status = image_status(images);
    let status = status.as_array().unwrap();
    assert_eq!(status.len(), IMAGES_MAX);
    let first: Vec<String> = (0..5).map(|number| format!("example.com/a:{number}")).collect();
    assert_eq!(status[0], json!({"names": first, "sizeBytes": 1 << 20}));
    assert_eq!(status[1], json!({"names": ["example.com/small:59"], "sizeBytes": 59}));
    // An empty list takes away what the hub has; a missing one would not.
    assert_eq!(image_status(Vec::new()), json!([]));
}
