//! Turns the discovery documents of a kube-apiserver into the table of built-in resources.

use std::{env, fmt::Write as _, fs, io::Read as _, path::PathBuf};

use serde_json::Value;

const RESOURCES: &str = "definitions/resources-1.36.json.gz";
const GROUPS: &str = "definitions/groups-1.36.json.gz";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for path in [RESOURCES, GROUPS] {
        println!("cargo::rerun-if-changed={path}");
    }
    let (resources, groups) = (read(RESOURCES), read(GROUPS));
    // The core group first, then the others by precedence.
    let mut versions = vec![(String::new(), "v1".to_owned())];
    for group in array(&groups["groups"]) {
        for version in array(&group["versions"]) {
            versions.push((text(&group["name"]), text(&version["version"])));
        }
    }
    let mut code = String::from("pub(crate) static RESOURCES: &[Published] = &[\n");
    for (group, version) in &versions {
        let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let listed = array(&resources[&path]["resources"]);
        for resource in listed.iter().filter(|one| !text(&one["name"]).contains('/')) {
            let plural = text(&resource["name"]);
            writeln!(
                code,
                "Published {{ group: {group:?}, version: {version:?}, plural: {plural:?}, singular: {:?}, kind: {:?}, namespaced: {}, \
                 verbs: &{:?}, short_names: &{:?}, categories: &{:?}, storage_hash: {:?}, subresources: &[{}] }},",
                text(&resource["singularName"]),
                text(&resource["kind"]),
                resource["namespaced"],
                texts(&resource["verbs"]),
                texts(&resource["shortNames"]),
                texts(&resource["categories"]),
                text(&resource["storageVersionHash"]),
                subresources(listed, &plural),
            )
            .expect("a String takes any text");
        }
    }
    code.push_str("];\n");
    let mut order: Vec<&str> = versions.iter().map(|(group, _)| group.as_str()).collect();
    order.dedup();
    writeln!(code, "pub(crate) static GROUP_ORDER: &[&str] = &{order:?};").expect("a String takes any text");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    fs::write(out.join("resources.rs"), code).expect("OUT_DIR is writable");
}

fn subresources(listed: &[Value], plural: &str) -> String {
    let mut code = String::new();
    for one in listed {
        let name = text(&one["name"]);
        let Some((of, part)) = name.split_once('/') else { continue };
        if of == plural {
            write!(
                code,
                "PublishedPart {{ name: {part:?}, group: {:?}, version: {:?}, kind: {:?}, verbs: &{:?} }}, ",
                text(&one["group"]),
                text(&one["version"]),
                text(&one["kind"]),
                texts(&one["verbs"]),
            )
            .expect("a String takes any text");
        }
    }
    code
}

fn read(path: &str) -> Value {
    let packed = fs::read(path).expect("the vendored documents are part of the crate");
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("the documents are gzip");
    serde_json::from_str(&text).expect("the documents are JSON")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    array(value).iter().map(text).collect()
}
