//! The program's own manners: versions, exit codes, refusals. What it does is tested in `tests/`.

use std::process::{Command, Output};

fn selvedge(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).args(args).output().expect("the program was built beside this test")
}

fn check(args: &[&str], code: i32, phrases: &[&str]) {
    let output = selvedge(args);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    for phrase in phrases {
        assert!(said.contains(phrase), "{args:?}: no `{phrase}` in: {said}");
    }
}

#[test]
fn it_prints_its_versions() {
    check(&["version"], 0, &[env!("CARGO_PKG_VERSION"), "Kubernetes v1.36.0+selvedge."]);
    check(&["--help"], 0, &["up", "hub", "node", "edge", "token", "status", "reset"]);
}

#[test]
fn a_wrong_command_line_ends_with_2_and_a_hint() {
    check(&["hubb"], 2, &["hubb", "hub"]);
    check(&["hub", "--confg", "x"], 2, &["--confg", "--config"]);
}

#[test]
fn a_directory_without_selvedge_is_named() {
    let dir = std::env::temp_dir().join("selvedge-is-not-here");
    let dir = dir.to_string_lossy();
    check(&["status", "--data-dir", &dir], 1, &["selvedge-is-not-here", "--data-dir"]);
    check(&["reset", "--data-dir", &dir], 0, &["holds nothing"]);
    check(&["token", "create", "--data-dir", &dir], 1, &["kubeconfig", "selvedge hub --data-dir"]);
    check(&["hub", "backup", "--to", "x", "--data-dir", &dir], 1, &["holds no hub", "--data-dir"]);
    check(&["hub", "restore", "/nowhere/x", "--data-dir", &dir], 1, &["failed to open /nowhere/x"]);
    check(&["hub", "restore", "--check", "/proc/self/exe"], 1, &["is no whole backup", "no backup of a hub"]);
    assert!(!std::path::Path::new(&*dir).exists(), "nothing was created");
}

#[test]
fn a_kubeconfig_that_cannot_be_read_is_named_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data_dir = dir.path().to_string_lossy();
    let path = dir.path().join("kubeconfig");
    let say = || {
        let output = selvedge(&["token", "create", "--data-dir", &data_dir]);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    std::fs::write(&path, "clusters: 1\n").expect("space");
    let bad = say();
    std::fs::remove_file(&path).expect("it is there");
    std::fs::create_dir(&path).expect("space");
    let unreadable = say();
    for (said, phrase) in [(&bad, "the hub writes it anew"), (&unreadable, "Is a directory")] {
        assert!(said.contains(phrase), "{said}");
        assert_eq!(said.matches(&*path.to_string_lossy()).count(), 1, "{said}");
    }
}

#[test]
fn a_reset_leaves_nothing_of_a_directory_from_a_backup() {
    // No `run`: a backup has no sockets.
    for file in ["node/pki/identity.json", "hub/pki/ca.crt", "hub/store/log", "edge/journal/meta"] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().expect("it is in the directory")).expect("space");
        std::fs::write(&path, "{}").expect("space");
        let data_dir = dir.path().to_string_lossy();
        check(&["reset", "--data-dir", &data_dir], 0, &["would stop"]);
        check(&["reset", "--data-dir", &data_dir, "--yes"], 0, &["removed"]);
        let left: Vec<_> = std::fs::read_dir(&dir).expect("the user keeps the directory").collect();
        assert!(left.is_empty(), "{file}: {left:?}");
    }
}

#[test]
fn what_is_wrong_with_a_token_is_said_before_the_hub_is_asked() {
    let long = "x".repeat(64);
    for (option, value, phrases) in [
        ("--node-name", "Line-2", &["--node-name: \"Line-2\"", "lower-case letters"][..]),
        ("--node-name", "line 2", &["--node-name: \"line 2\""]),
        ("--node-name", &long, &["--node-name: \"xxx", "at most 63"]),
        ("--label", "site", &["--label: \"site\"", "KEY=VALUE"]),
        ("--label", "a=b,c=d", &["once for each"]),
        ("--label", "a/b/c=d", &["KEY=VALUE"]),
        ("--ttl", "soon", &["--ttl: `soon` is not a duration"]),
        ("--ttl", "-1h", &["--ttl: `-1h` is not a duration"]),
        ("--ttl", "0s", &["--ttl", "of no use"]),
        ("--ttl", "999999999h", &["--ttl", "87600h"]),
        ("--uses", "0", &["--uses"]),
    ] {
        check(&["token", "create", "--data-dir", "/nowhere", option, value], 2, phrases);
    }
    // All at once.
    let all = ["token", "create", "--ttl", "soon", "--node-name", "A", "--label", "b"];
    check(&all, 2, &["--ttl", "--node-name", "--label"]);
}

#[test]
fn what_a_start_rejects_a_check_rejects_too_with_the_same_code() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it is in the directory")).expect("space");
        std::fs::write(&path, text).expect("space");
        path.to_string_lossy().into_owned()
    };
    let data_dir = dir.path().join("data").to_string_lossy().into_owned();
    for (role, settings, phrases) in [
        (
            "hub",
            "publicNames: ['https://hub.example:6443']\nlog: inof\n",
            &["publicNames", "without https://", "`inof`"][..],
        ),
        ("hub", "telemetryBytesMax: 8\nauditBytesMax: 8\n", &["telemetryBytesMax", "auditBytesMax"]),
        ("node", "hubs: [hub.example]\nnodeName: Line_2\n", &["`hubs`", "https://HOST", "`nodeName`", "\"Line_2\""]),
        ("node", "labels: {'a b': c, site: 'hall 2'}\nimagePrefixes: [bin]\n", &["\"a b\"", "\"hall 2\"", "absolute"]),
        (
            "node",
            "ociRuntimes: {selvedge-wasm: {path: /bin/x}, crun: {path: crun}}\n",
            &["selvedge-wasm", "crun is not an absolute path"],
        ),
        ("node", "journalBytesMax: 8\nedgeMemoryBytesMax: 8\n", &["journalBytesMax", "edgeMemoryBytesMax"]),
        ("edge", "journalBytesMax: 8\n", &["journalBytesMax"]),
        ("up", "hub: {publicNames: ['a b']}\nnode: {hubs: [x]}\n", &["in `hub`: `publicNames`", "in `node`: `hubs`"]),
    ] {
        let config = write("settings.yaml", settings);
        let start = [role, "--data-dir", &data_dir, "--ports", "ephemeral", "--config", &config];
        check(&start, 2, phrases);
        check(&[&start[..], &["--check-config"]].concat(), 2, phrases);
    }
    let node = ["node", "--data-dir", &data_dir, "--hub", "hub.example", "--token", "abc", "--node-name", "A"];
    check(&node, 2, &["--hub", "--token", "--node-name"]);
    let up = ["up", "--data-dir", &data_dir, "--example", "/nowhere"];
    check(&up, 2, &["--example: failed to list /nowhere: No such file"]);
    assert!(!dir.path().join("data").exists(), "a mistake makes no directory");
    write("edge/config/rule.yaml", "kind: Rule\n");
    let edge = ["edge", "--data-dir", &dir.path().to_string_lossy()];
    check(&[&edge[..], &["--check-config"]].concat(), 2, &["rule.yaml, document 1"]);
    check(&edge, 2, &["rule.yaml, document 1"]);
    let right = write("settings.yaml", "publicNames: [hub.example, Hub.Example, 10.0.0.1, '::1']\n");
    check(&["hub", "--config", &right, "--check-config"], 0, &["the settings are right"]);
}
