use std::process::Stdio;

use super::*;

async fn check_runs(program: &ShimProgram) {
    let output = program.command(&[OsStr::new("shim")]).stderr(Stdio::piped()).output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("run by the node itself"), "{output:?}");
}

#[tokio::test]
async fn the_shim_runs_from_memory_that_nobody_can_write_to() {
    let sealed = match ShimProgram::open(Path::new("/no/such")) {
        Ok(program) => program,
        Err(error) => return testkit::skip(&format!("no executable files in memory: {error}")),
    };
    check_runs(&sealed).await;
    let ShimProgram::Sealed(fd) = sealed else { panic!("it is a file") };
    // As a process would that finds it as `/proc/<pid>/exe`.
    let opened = OpenOptions::new().write(true).open(by_descriptor(fd));
    let written = opened.and_then(|mut file| file.write_all(b"#!"));
    assert!(written.is_err());
}

#[tokio::test]
async fn without_such_memory_it_is_a_file_of_the_nodes_own() {
    let dir = tempfile::tempdir().unwrap();
    // As often as the agent is started.
    for _ in 0..2 {
        let program = ShimProgram::open_file(dir.path()).unwrap();
        check_runs(&program).await;
        match &program {
            ShimProgram::Clone(fd) => assert!(OpenOptions::new().write(true).open(by_descriptor(fd)).is_err()),
            ShimProgram::File(_) => testkit::skip("mounts are not cloned without root"),
            ShimProgram::Sealed(_) => panic!("it is in memory"),
        }
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(dir.path().join(".shim")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o500);
}
