use node_shim::{Isolation, state::STATE_VERSION};

use super::*;

fn launch(spec: ContainerSpec) -> Launch {
    Launch {
        version: STATE_VERSION,
        program: PathBuf::new(),
        argv: vec!["sh".to_owned()],
        bind_mounts: true,
        files: Vec::new(),
        hidden: Vec::new(),
        cgroup_parent: "selvedge".to_owned(),
        isolation: Isolation::Auto,
        image_id: String::new(),
        image: None,
        oci: None,
        processes_of: None,
        users: None,
        namespaces: Vec::new(),
        stop_signal: None,
        private: None,
        boot_id: String::new(),
        log_bytes_max: 0,
        log_files_max: 0,
        spec,
    }
}

#[test]
fn there_is_one_place_for_the_user_whatever_the_container_is_told() {
    let env = [("A".to_owned(), USER_SLOT.to_owned()), (USER_SLOT.to_owned(), "\\".to_owned())].into();
    let text = config(&launch(ContainerSpec { env, ..ContainerSpec::default() }), |_, _| PathBuf::new()).to_string();
    assert_eq!(text.matches(USER_SLOT).count(), 1, "{text}");
    let filled: Value = serde_json::from_str(&text.replacen(USER_SLOT, "\"user\":{\"uid\":1}", 1)).unwrap();
    assert_eq!(filled["process"]["user"]["uid"], 1);
}

#[test]
fn a_command_has_all_that_its_container_has_but_the_words_and_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let called = Called { path: "/bin/x".into(), args: Vec::new(), bundle: dir.path().join("a/b") };
    let spec = ContainerSpec { tty: true, working_dir: Some("/srv".into()), ..ContainerSpec::default() };
    write(&launch(spec), &called).unwrap();
    let process = process_of_command(&called.bundle, &["id".to_owned()]).unwrap();
    let process: Value = serde_json::from_str(&process).unwrap();
    assert_eq!(
        (&process["args"], &process["terminal"], &process["cwd"]),
        (&json!(["id"]), &json!(false), &json!("/srv"))
    );
}

#[test]
fn deleting_a_bundle_takes_nothing_of_a_volume_along() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = bundle(dir.path(), "u_c_0");
    for path in ["state/x/y", "volumes/0", "volumes/1", "rootfs"] {
        fs::create_dir_all(bundle.join(path)).unwrap();
    }
    fs::write(bundle.join("config.json"), "{}").unwrap();
    // As if it were mounted there for whoever deletes.
    fs::write(bundle.join("volumes/1/data"), "of somebody").unwrap();
    remove(&bundle);
    assert!(bundle.join("volumes/1/data").exists() && !bundle.join("state").exists());
    assert!(!bundle.join("config.json").exists() && !bundle.join("volumes/0").exists());
    fs::remove_file(bundle.join("volumes/1/data")).unwrap();
    remove_unknown(dir.path(), |id| id == "u_c_0");
    assert!(bundle.exists());
    remove_unknown(dir.path(), |_| false);
    assert!(!bundle.exists());
}

#[test]
fn a_runtime_that_has_left_the_settings_keeps_the_containers_that_it_has() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["selvedge-container/u_c_0", "crun/.staging", "runc/u_c_0", "youki/u_c_0", "Not_A_Name/u_c_0"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    let named = OciRuntime { handler: "youki".to_owned(), path: "/opt/youki".into(), args: Vec::new() };
    let all = OciRuntime::all(vec![named.clone()], dir.path());
    let left = OciRuntime { handler: "runc".to_owned(), path: "/usr/bin/runc".into(), args: Vec::new() };
    assert_eq!(all, [named, left]);
    assert!(
        !OciRuntime::is_handler("selvedge-wasm") && !OciRuntime::is_handler("a/b") && OciRuntime::is_handler("runsc")
    );
}
