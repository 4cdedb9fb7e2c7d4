//! Ports that say the same twice, or something that depends on who looks.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    kinds::core::pod::rules::each_container,
    kit::{Path, Read},
};

pub(super) fn collect(spec: &Value, path: &Path<'_>, warnings: &mut Vec<String>) {
    let mut known: BTreeMap<(i64, &str), Vec<(String, &Value)>> = BTreeMap::new();
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    let mut of_names = Vec::new();
    each_container(spec, path, |container, at| {
        let at = at.field("ports");
        for (number, port) in container.items("ports").iter().enumerate() {
            let place = at.index(number).to_string();
            if !port.text("hostIP").is_empty() && port.int("hostPort") == 0 {
                warnings.push(format!("{place}: hostIP set without hostPort: {}", shown(port)));
            }
            let others = known.entry((port.int("containerPort"), port.text("protocol"))).or_default();
            for (other_place, other) in others.iter() {
                if let Some(what) = clash(port, other) {
                    warnings.push(format!("{place}: {what} port definition with {other_place}"));
                }
            }
            others.push((place.clone(), port));
            let name = port.text("name");
            if name.is_empty() {
                continue;
            }
            match names.get(name) {
                Some(first) => of_names.push(format!(
                    "{place}: duplicate port name {name:?} with {first}, services and probes that select ports by name \
                     will use {first}"
                )),
                None => drop(names.insert(name, place)),
            }
        }
    });
    warnings.append(&mut of_names);
}

fn clash(one: &Value, other: &Value) -> Option<&'static str> {
    let (host_ports, ips) =
        ([one, other].map(|port| port.int("hostPort")), [one, other].map(|port| port.text("hostIP")));
    if host_ports[0] == host_ports[1] && ips[0] == ips[1] {
        Some("duplicate")
    } else if host_ports.contains(&0) {
        Some("overlapping")
    } else if host_ports[0] == host_ports[1] && ips[0].is_empty() != ips[1].is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

/// A port as Go prints a struct.
fn shown(port: &Value) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        port.text("name"),
        port.int("hostPort"),
        port.int("containerPort"),
        port.text("protocol"),
        port.text("hostIP")
    )
}
