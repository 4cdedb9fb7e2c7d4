use super::*;
use crate::{Limits, Mount};

#[test]
fn the_worker_reads_the_command_line_that_the_runtime_writes() {
    let mount = |path: &str, read_only| Mount {
        host_path: "/tmp".into(),
        container_path: path.into(),
        read_only,
        optional: false,
    };
    let spec = ContainerSpec {
        limits: Limits { memory_bytes: Some(1 << 20), ..Limits::default() },
        mounts: vec![mount("/config", true), mount("/--", false)],
        ..ContainerSpec::default()
    };
    let argv = vec!["/x.wasm".to_owned(), "--".to_owned(), "--memory".to_owned()];
    let options = parse(arguments(&spec, argv.clone()).into_iter().skip(2)).unwrap();
    let folders = vec![("/config".to_owned(), false), ("/--".to_owned(), true)];
    assert_eq!(options, Options { component: false, memory_bytes_max: Some(1 << 20), folders, argv });
    assert!(parse(["module", "--memory"].map(String::from).into_iter()).is_err());
    assert!(parse(["core"].map(String::from).into_iter()).is_err());
}
