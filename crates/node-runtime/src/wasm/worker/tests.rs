use super::*;
use crate::{Limits, Mount};

#[test]
fn the_worker_reads_the_command_line_that_the_runtime_writes() {
    let mount = |path: &str, read_only| Mount {
        host_path: "/tmp".into(),
        container_path: path.into(),
        read_only,
        ..Mount::default()
    };
    let spec = ContainerSpec {
        limits: Limits { memory_bytes: Some(1 << 20), ..Limits::default() },
        mounts: vec![mount("/config", true), mount("/--", false)],
        run_as_user: Some(1000),
        supplemental_groups: vec![2000, 3000],
        ..ContainerSpec::default()
    };
    let argv = vec!["/x.wasm".to_owned(), "--".to_owned(), "--memory".to_owned()];
    let options = parse(arguments(&spec, argv.clone()).into_iter().skip(2)).unwrap();
    let folders = vec![("/config".to_owned(), false), ("/--".to_owned(), true)];
    let user = User { uid: 1000, gid: 1000, groups: vec![2000, 3000] };
    assert_eq!(
        options,
        Options { component: false, user, memory_bytes_max: Some(1 << 20), folders, argv: argv.clone() }
    );
    let command = arguments_of_command(&arguments(&spec, argv.clone()), vec!["/probe.wasm".to_owned()]);
    assert_eq!(command, arguments(&spec, vec!["/probe.wasm".to_owned()]));
    let nobody = parse(arguments(&ContainerSpec::default(), Vec::new()).into_iter().skip(2)).unwrap().user;
    assert_eq!(nobody, User { uid: 65534, gid: 65534, groups: vec![] });
    assert!(parse(["module", "--memory"].map(String::from).into_iter()).is_err());
    assert!(parse(["core"].map(String::from).into_iter()).is_err());
}

#[test]
fn limits_are_for_all_memories_and_tables_together() {
    use wasmtime::ResourceLimiter as _;

    let mut limits = Allowance::new(Some(100 << 20));
    assert!(limits.memory_growing(0, 60 << 20, None).unwrap());
    assert!(!limits.memory_growing(0, 60 << 20, None).unwrap(), "a second memory");
    assert!(limits.memory_growing(60 << 20, 100 << 20, None).unwrap());
    assert!(limits.note().unwrap().contains("100 MiB of memory"), "{limits:?}");
    let mut limits = Allowance::new(None);
    assert_eq!(limits.note(), None);
    assert!(limits.table_growing(0, 60_000, None).unwrap());
    assert!(!limits.table_growing(0, 60_000, None).unwrap(), "a second table");
    let note = limits.note().unwrap();
    assert!(note.contains("100000 table elements") && note.contains("resources.limits.memory"), "{note}");
    assert!(!limits.memory_growing(0, usize::MAX, None).unwrap());
}
