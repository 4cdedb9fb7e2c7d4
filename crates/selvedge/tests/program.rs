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
    check(&["token", "create", "--data-dir", &dir], 1, &["kubeconfig", "hub"]);
    check(&["node", "--data-dir", &dir, "--token", "abc"], 1, &["token"]);
}
