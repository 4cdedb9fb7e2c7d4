//! What a container is given, and what is told of it.

use std::{ffi::CString, fs, os::fd::AsRawFd as _, path::Path, time::Duration};

use node_runtime::{
    ContainerEvent, ContainerState, ExitReason, Isolation, Limits, Mount, RuntimeError, Seccomp, Security,
};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::fixture::{Fixture, eventually, message, pid_in, skip_without_control_groups};

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().contains("Uid:\t0\t")
}

async fn check_exit(script: &str, code: i32, signal: Option<i32>, reason: ExitReason) {
    let fixture = Fixture::new();
    let record = fixture.run(&fixture.shell(script)).await;
    assert_eq!((record.exit_code, record.signal, record.reason), (code, signal, reason), "{script}");
    assert!(record.started_at.unwrap() <= record.finished_at);
}

#[tokio::test]
async fn the_programs_end_is_told_as_it_was() {
    check_exit("exit 0", 0, None, ExitReason::Completed).await;
    check_exit("exit 3", 3, None, ExitReason::Error).await;
    check_exit("kill -9 $$", 137, Some(9), ExitReason::Error).await;
    check_exit("kill -TERM $$", 143, Some(15), ExitReason::Error).await;
}

async fn check_log(script: &str, expected: &[&str]) {
    let fixture = Fixture::new();
    let spec = fixture.shell(script);
    fixture.run(&spec).await;
    assert_eq!(fixture.log(&spec), expected, "{script}");
}

#[tokio::test]
async fn the_log_holds_both_outputs_to_the_last_byte() {
    check_log("echo a; echo b", &["stdout F a", "stdout F b"]).await;
    check_log("echo oops >&2", &["stderr F oops"]).await;
    check_log("printf end", &["stdout P end"]).await;
    check_log("echo $0 $HOSTNAME | cut -c1-11", &["stdout F /bin/sh pod"]).await;
}

#[tokio::test]
async fn the_environment_is_the_specs_and_nothing_else() {
    let fixture = Fixture::new();
    let mut spec = fixture.shell("env | grep -v ^PWD= | sort; pwd");
    spec.env = [("GREETING", "hello world"), ("HOSTNAME", "h")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    spec.working_dir = Some("/usr".into());
    fixture.run(&spec).await;
    let path = "stdout F PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let log = fixture.log(&spec);
    let log: Vec<&str> = log.iter().map(String::as_str).filter(|line| !line.contains(" _=")).collect();
    assert_eq!(log, ["stdout F GREETING=hello world", "stdout F HOSTNAME=h", path, "stdout F /usr"]);
}

#[tokio::test]
async fn stop_asks_and_then_kills() {
    let fixture = Fixture::new();
    let polite = fixture.shell("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done");
    fixture.start(&polite).await;
    fixture.until_logged(&polite, "up").await;
    fixture.runtime().stop(&polite.id(), Duration::from_secs(30)).await.unwrap();
    assert_eq!(fixture.exit(&polite.id()).await.exit_code, 7);
    fixture.until_logged(&polite, "bye").await;

    let stubborn = fixture.shell("trap '' TERM; echo up; while :; do sleep 0.05; done");
    fixture.start(&stubborn).await;
    fixture.until_logged(&stubborn, "up").await;
    let status = fixture.runtime().stop(&stubborn.id(), Duration::from_millis(50)).await.unwrap();
    let ContainerState::Exited(record) = status.state else { panic!("{status:?}") };
    assert_eq!((record.exit_code, record.signal), (137, Some(9)));
    // Once more is no mistake.
    fixture.runtime().stop(&stubborn.id(), Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_program_is_asked_to_end_by_the_signal_that_its_spec_names() {
    let fixture = Fixture::new();
    let mut spec = fixture.shell("trap 'exit 1' TERM; trap 'exit 7' USR1; echo up; while :; do sleep 0.05; done");
    spec.stop_signal = Some("SIGUSR1".to_owned());
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    fixture.runtime().stop(&spec.id(), Duration::from_secs(30)).await.unwrap();
    assert_eq!(fixture.exit(&spec.id()).await.exit_code, 7);
}

#[tokio::test]
async fn a_program_without_handlers_ends_at_once_when_asked() {
    let fixture = Fixture::new();
    let mut spec = fixture.shell("");
    (spec.image, spec.args) = ("file:///bin/sleep".to_owned(), vec!["1000".to_owned()]);
    fixture.start(&spec).await;
    fixture.runtime().stop(&spec.id(), Duration::from_secs(1000)).await.unwrap();
    assert_eq!(fixture.exit(&spec.id()).await.signal, Some(15));
}

#[tokio::test]
async fn nothing_of_a_container_is_left_when_its_program_ends() {
    for isolation in [Isolation::Auto, Isolation::None] {
        let fixture = Fixture::with(|config| config.isolation = isolation);
        let mark = format!("7{:07}", std::process::id());
        let spec = fixture.shell(&format!("setsid sleep {mark} & sleep {mark} & echo up"));
        fixture.run(&spec).await;
        let left = std::process::Command::new("/bin/sh")
            .args(["-c", &format!("grep -alz '^{mark}$' /proc/[0-9]*/cmdline 2>/dev/null | xargs -r grep -alz ^sleep")])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&left.stdout), "", "{isolation:?}");
    }
}

#[tokio::test]
async fn signals_reach_the_program() {
    let fixture = Fixture::new();
    let spec = fixture.shell("trap 'echo got usr1; exit 0' USR1; echo up; while :; do sleep 0.05; done");
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    fixture.runtime().signal(&spec.id(), 10).await.unwrap();
    fixture.exit(&spec.id()).await;
    assert!(matches!(fixture.runtime().signal(&spec.id(), 10).await, Err(RuntimeError::NotRunning(_))));
}

#[tokio::test]
async fn starts_and_ends_are_events() {
    let fixture = Fixture::new();
    let mut events = fixture.runtime().events();
    let mut spec = fixture.shell("while [ ! -e $STOP ]; do sleep 0.05; done; exit 4");
    let stop = fixture.folder.path().join("stop");
    spec.env.insert("STOP".to_owned(), stop.display().to_string());
    fixture.start(&spec).await;
    assert!(matches!(events.recv().await.unwrap(), ContainerEvent::Started(status) if status.id == spec.id()));
    fs::write(&stop, "").unwrap();
    let ContainerEvent::Exited(status) = events.recv().await.unwrap() else { panic!("another start") };
    assert!(matches!(status.state, ContainerState::Exited(record) if record.exit_code == 4));
}

#[tokio::test]
async fn an_identity_starts_once_and_never_again() {
    let fixture = Fixture::new();
    let spec = fixture.shell("exit 0");
    let (first, second) = tokio::join!(fixture.runtime().start(spec.clone()), fixture.runtime().start(spec.clone()));
    assert_eq!([first.is_ok(), second.is_ok()].iter().filter(|ok| **ok).count(), 1);
    fixture.exit(&spec.id()).await;
    assert!(matches!(fixture.runtime().start(spec.clone()).await, Err(RuntimeError::AlreadyStarted(_))));
    let mut again = spec.clone();
    again.attempt = 1;
    fixture.run(&again).await;
    assert_eq!(fixture.runtime().list().await.unwrap().len(), 2);
    fixture.runtime().remove(&spec.id()).await.unwrap();
    fixture.runtime().remove(&spec.id()).await.unwrap();
    assert_eq!(fixture.runtime().list().await.unwrap().len(), 1);
    assert!(spec.log_path().parent().unwrap().exists());
}

async fn check_refused(change: impl FnOnce(&mut node_runtime::ContainerSpec), expected: &str) {
    let fixture = Fixture::new();
    let mut spec = fixture.shell("exit 0");
    change(&mut spec);
    let error = message(&fixture.runtime().start(spec.clone()).await.unwrap_err());
    assert!(error.contains(expected), "{error}");
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_with_the_reason() {
    check_refused(|spec| spec.image = "file:///opt/x".into(), "imagePrefixes").await;
    check_refused(|spec| spec.image = "file:///bin/no-such".into(), "put the file there").await;
    check_refused(|spec| spec.command = vec!["/bin/ls".into()], "the image is the program").await;
    check_refused(|spec| spec.container = "../up".into(), "container name").await;
    check_refused(|spec| spec.working_dir = Some("/no/such".into()), "working directory").await;
    let mount =
        |container: &str| Mount { host_path: "/no/such".into(), container_path: container.into(), ..Mount::default() };
    check_refused(|spec| spec.mounts = vec![mount("data")], "absolute").await;
    check_refused(|spec| spec.mounts = vec![mount("/data")], "/no/such").await;
    check_refused(|spec| spec.env = [("A".to_owned(), "a\0b".to_owned())].into(), "NUL").await;
}

#[tokio::test]
async fn a_start_that_failed_is_listed_with_its_reason() {
    let fixture = Fixture::new();
    let mut spec = fixture.shell("exit 0");
    spec.working_dir = Some("/no/such".into());
    fixture.runtime().start(spec.clone()).await.unwrap_err();
    let record = fixture.exit(&spec.id()).await;
    assert_eq!((record.exit_code, record.reason, record.started_at), (128, ExitReason::StartError, None));
    assert!(record.message.contains("/no/such"));
}

#[tokio::test]
async fn volumes_appear_where_the_node_has_nothing() {
    if !is_root() {
        return testkit::skip("mount namespaces need root");
    }
    let fixture = Fixture::new();
    let volume = fixture.folder.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("key"), "value\n").unwrap();
    let mount = |path: &str, read_only| Mount {
        host_path: volume.clone(),
        container_path: path.into(),
        read_only,
        ..Mount::default()
    };
    let mut spec = fixture.shell(
        "cat /selvedge-test-a/b/key /etc/selvedge-test/key /mnt/key /selvedge-test-key; echo x > /selvedge-test-a/b/new; \
         echo y 2>/dev/null > /etc/selvedge-test/no || echo read-only; ls -d /etc/passwd /selvedge-test-a/c; cat /proc/1/comm",
    );
    spec.mounts = vec![
        mount("/selvedge-test-a/b", false),
        mount("/etc/selvedge-test", true),
        mount("/mnt", true),
        mount("/selvedge-test-a/c", true),
        Mount {
            host_path: volume.join("key"),
            container_path: "/selvedge-test-key".into(),
            read_only: true,
            ..Mount::default()
        },
    ];
    fixture.run(&spec).await;
    let value = "stdout F value";
    let expected =
        [value, value, value, value, "stdout F read-only", "stdout F /etc/passwd", "stdout F /selvedge-test-a/c"];
    let log = fixture.log(&spec);
    assert_eq!(log[..expected.len()], expected, "{log:?}");
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "x\n");
    for path in ["/selvedge-test-a", "/etc/selvedge-test", "/selvedge-test-key"] {
        assert!(!Path::new(path).exists(), "{path} was left on the node");
    }
}

/// Mounts a file system at `place` whose server has ended: whoever looks at it gets `ENOTCONN`.
fn mount_dead(place: &Path) {
    let server = fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let options = CString::new(format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd())).unwrap();
    rustix::mount::mount("dead", place, "fuse", MountFlags::NOSUID, options.as_c_str()).unwrap();
}

#[tokio::test]
async fn a_dead_file_system_beside_a_mount_point_is_left_out_of_the_view() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        return testkit::skip("a FUSE mount needs root and /dev/fuse");
    }
    let fixture = Fixture::new();
    let [volume, beside, dead] = ["volume", "beside", "beside/dead"].map(|name| fixture.folder.path().join(name));
    for directory in [&volume, &beside, &dead] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(beside.join("alive"), "").unwrap();
    mount_dead(&dead);
    let found = fs::read_dir(&dead).map(|_| ()).map_err(|error| error.raw_os_error());
    let mut spec = fixture.shell(&format!("ls {}", beside.display()));
    spec.mounts = vec![Mount { host_path: volume.clone(), container_path: beside.join("mounted"), ..Mount::default() }];
    fixture.run(&spec).await;
    rustix::mount::unmount(&dead, UnmountFlags::DETACH).unwrap();
    assert_eq!(found, Err(Some(rustix::io::Errno::NOTCONN.raw_os_error())));
    assert_eq!(fixture.log(&spec), ["stdout F alive", "stdout F mounted"]);
}

#[tokio::test]
async fn a_volume_that_nobody_asked_for_keeps_no_program_from_running() {
    if !is_root() {
        return testkit::skip("mount namespaces need root");
    }
    let fixture = Fixture::new();
    let volume = fixture.folder.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("token"), "secret\n").unwrap();
    let place = fixture.folder.path().join("run/secrets/serviceaccount");
    let path = place.join("token").display().to_string();
    let mut spec = fixture.shell(&format!("cat {path}; echo ran"));
    let mount = |from: &str| Mount {
        host_path: fixture.folder.path().join(from),
        container_path: place.clone(),
        read_only: true,
        optional: true,
        ..Mount::default()
    };
    spec.mounts = vec![mount("volume"), mount("no-such")];
    fixture.run(&spec).await;
    assert_eq!(fixture.log(&spec), ["stdout F secret", "stdout F ran"]);
    // The mount point is an empty folder of the node: the folders above are not replaced, so what others put there is seen.
    assert!(place.is_dir() && fs::read_dir(&place).unwrap().next().is_none());
}

#[tokio::test]
async fn a_user_without_rights_stays_one() {
    if !is_root() {
        return testkit::skip("becoming another user needs root");
    }
    let fixture = Fixture::new();
    let mut spec = fixture.shell("id -u; id -G; id -g");
    (spec.run_as_user, spec.run_as_group, spec.supplemental_groups) = (Some(1234), Some(99), vec![7]);
    fixture.run(&spec).await;
    assert_eq!(fixture.log(&spec), ["stdout F 1234", "stdout F 99 7", "stdout F 99"]);
}

#[tokio::test]
async fn memory_beyond_the_limit_is_told_as_oom() {
    if !is_root() {
        return testkit::skip("control groups need root");
    }
    let fixture = Fixture::new();
    let mut spec = fixture.shell("a=x; while :; do a=$a$a; done");
    spec.limits = Limits { memory_bytes: Some(16 << 20), cpu_millis: Some(500), pids: Some(20) };
    match fixture.runtime().start(spec.clone()).await {
        Ok(_) => {}
        Err(error) => return skip_without_control_groups(&message(&error)),
    }
    let record = fixture.exit(&spec.id()).await;
    assert_eq!((record.exit_code, record.reason), (137, ExitReason::OomKilled), "{record:?}");
}

#[tokio::test]
async fn the_end_of_the_log_takes_the_place_of_a_missing_last_word_of_a_failure() {
    let fixture = Fixture::new();
    let file = fixture.folder.path().join("message");
    for (script, words, expected) in [
        ("echo one; echo two >&2; sleep 0.2; exit 3", "", "one\ntwo\n"),
        ("echo one; exit 3", "own", "own"),
        ("echo one; exit 0", "", ""),
    ] {
        let mut spec = fixture.shell(script);
        fs::write(&file, words).unwrap();
        spec.termination_message = Some(file.clone());
        spec.termination_message_from_log = true;
        let message = fixture.run(&spec).await.message;
        let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(sorted(&message), sorted(expected), "{script}");
    }
}

#[tokio::test]
async fn the_termination_message_is_the_programs_last_word() {
    let fixture = Fixture::new();
    let file = fixture.folder.path().join("message");
    let mut spec = fixture.shell(&format!("echo -n sorry > {}; exit 1", file.display()));
    spec.termination_message = Some(file.clone());
    assert_eq!(fixture.run(&spec).await.message, "sorry");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    let mut spec = fixture.shell("exit 1");
    spec.termination_message = Some(file);
    assert_eq!(fixture.run(&spec).await.message, "");
}

#[tokio::test]
async fn a_command_runs_inside_the_container() {
    let fixture = Fixture::new();
    let mut spec = fixture.shell("echo up; sleep 1000");
    spec.env.insert("WHO".to_owned(), "me".to_owned());
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "up").await;
    let exec = |argv: &[&str], seconds| {
        let argv = argv.iter().map(|word| word.to_string()).collect();
        fixture.runtime().exec(&spec.id(), argv, Duration::from_millis(seconds))
    };
    let answer = exec(&["sh", "-c", "echo $WHO; echo err >&2; exit 3"], 30_000).await.unwrap();
    assert_eq!(
        (answer.exit_code, answer.stdout.as_slice(), answer.stderr.as_slice()),
        (3, &b"me\n"[..], &b"err\n"[..])
    );
    // What the helper says by a way of its own cannot be said by a command.
    let answer = exec(&["sh", "-c", "echo timeout >&2; cat; ls /proc/self/fd | wc -l"], 30_000).await.unwrap();
    assert_eq!(
        (answer.exit_code, String::from_utf8_lossy(&answer.combined()).into_owned()),
        (0, "4\ntimeout\n".to_owned())
    );
    let answer = exec(&["sh", "-c", "head -c 100000 /dev/zero"], 30_000).await.unwrap();
    assert_eq!((answer.exit_code, answer.stdout.len()), (0, 10 * 1024));
    assert!(matches!(exec(&["sleep", "1000"], 100).await, Err(RuntimeError::ExecTimeout { .. })));
    assert!(matches!(exec(&["no-such-program"], 100).await, Err(RuntimeError::Image { .. })));
    assert!(matches!(exec(&["/etc/passwd"], 100).await, Err(RuntimeError::ImageNotAllowed { .. })));
    if is_root() {
        let answer = exec(&["hostname"], 30_000).await.unwrap();
        assert_eq!(String::from_utf8(answer.stdout).unwrap().trim(), spec.pod.name);
    } else {
        testkit::skip("a host name of its own needs root");
    }
}

#[tokio::test]
async fn what_a_container_uses_is_counted() {
    let fixture = Fixture::new();
    let spec = fixture.shell("echo up; sleep 1000");
    let status = fixture.start(&spec).await;
    if status.notices.iter().any(|notice| notice.contains("control group")) {
        return testkit::skip(&status.notices.join("; "));
    }
    eventually("memory in use", async || match fixture.runtime().stats(&spec.id()).await.unwrap() {
        stats if stats.memory_bytes > 0 && stats.pids > 0 && stats.cpu_nanos > 0 => Ok(()),
        stats => Err(format!("{stats:?}")),
    })
    .await;
}

#[tokio::test]
async fn full_log_files_are_put_aside() {
    let fixture = Fixture::with(|config| (config.log_bytes_max, config.log_files_max) = (4096, 3));
    let spec =
        fixture.shell("for i in 1 2 3 4 5 6 7 8 9; do head -c 2000 /dev/zero | tr '\\0' x; echo; sleep 0.02; done");
    fixture.run(&spec).await;
    assert!(fs::read_dir(&spec.log_dir).unwrap().count() <= 3);
    assert!(fs::metadata(spec.log_path()).unwrap().len() <= 4096);
}

/// The budget: what the smallest boxes can spare for each container beside its program.
const OVERHEAD_KB_MAX: u64 = 512;

fn pss_kb(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn a_shim_and_its_init_process_cost_half_a_megabyte() {
    let fixture = Fixture::new();
    // Twelve share the program's pages as the pods of a small box do. `SELVEDGE_CONTAINERS=110` is what the reports have.
    let count = std::env::var("SELVEDGE_CONTAINERS").map_or(12, |count| count.parse().unwrap());
    let (mut shims, mut inits) = (0, 0);
    let mut specs = Vec::new();
    for _ in 0..count {
        let mut spec = fixture.shell("");
        (spec.image, spec.args) = ("file:///bin/sleep".to_owned(), vec!["1000".to_owned()]);
        spec.env.insert("TEXT".to_owned(), "x".repeat(2000));
        fixture.start(&spec).await;
        specs.push(spec);
    }
    for spec in &specs {
        let state = fixture.folder.path().join("state/selvedge-process").join(spec.id().to_string());
        let state = fs::read_to_string(state.join("state.json")).unwrap();
        shims += pss_kb(pid_in(&state, "shim").unwrap());
        inits += pss_kb(pid_in(&state, "child").unwrap());
    }
    println!("{count} containers: shims {shims} kB, init processes {inits} kB");
    assert!((shims + inits) / count <= OVERHEAD_KB_MAX, "{count} containers: shims {shims} kB, inits {inits} kB");
}

#[tokio::test]
async fn a_sub_path_never_leaves_its_volume() {
    if !is_root() {
        return testkit::skip("mount namespaces need root");
    }
    let fixture = Fixture::new();
    let (volume, victim) = (fixture.folder.path().join("volume"), fixture.folder.path().join("victim"));
    fs::create_dir(&volume).unwrap();
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "of the node\n").unwrap();
    let mount = |sub_path: &str| Mount {
        volume: "shared".to_owned(),
        host_path: volume.clone(),
        sub_path: Some(sub_path.into()),
        container_path: "/mnt".into(),
        ..Mount::default()
    };
    let mut spec = fixture.shell("echo made > /mnt/new; ls /mnt");
    spec.mounts = vec![mount("a/b")];
    fixture.run(&spec).await;
    assert_eq!(fixture.log(&spec), ["stdout F new"]);
    assert_eq!(fs::read_to_string(volume.join("a/b/new")).unwrap(), "made\n");

    // As an init container can plant it.
    std::os::unix::fs::symlink(&victim, volume.join("link")).unwrap();
    for sub_path in ["link", "link/made-by-the-node"] {
        let mut spec = fixture.shell("ls /mnt");
        spec.mounts = vec![mount(sub_path)];
        let error = message(&fixture.runtime().start(spec).await.unwrap_err());
        assert!(
            error.contains("shared") && error.contains(sub_path) && error.contains("`link` is a symbolic"),
            "{error}"
        );
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);

    // Another container swaps it while this one starts, again and again: it is the directory or nothing.
    fs::create_dir(volume.join("real")).unwrap();
    let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapper = std::thread::spawn({
        let (volume, victim, is_over) = (volume.clone(), victim.clone(), is_over.clone());
        move || {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::rename(volume.join("real"), volume.join("aside"));
                let _ = std::os::unix::fs::symlink(&victim, volume.join("real"));
                let _ = fs::remove_file(volume.join("real"));
                let _ = fs::rename(volume.join("aside"), volume.join("real"));
            }
        }
    });
    let mut started = 0;
    for _ in 0..60 {
        let mut spec = fixture.shell("ls /mnt; echo x > /mnt/written");
        spec.mounts = vec![mount("real")];
        if fixture.runtime().start(spec.clone()).await.is_ok() {
            started += 1;
            fixture.exit(&spec.id()).await;
            assert!(!fixture.log(&spec).join(" ").contains("stdout F file"), "{:?}", fixture.log(&spec));
        }
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(started > 0, "none of sixty met the directory");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
}

#[tokio::test]
async fn a_mount_point_in_a_volume_never_leaves_it() {
    if !is_root() {
        return testkit::skip("mount namespaces need root");
    }
    let fixture = Fixture::new();
    let (outer, inner, victim) = ("outer", "inner", "victim");
    let path = |name: &str| fixture.folder.path().join(name);
    [outer, inner, victim].iter().for_each(|name| fs::create_dir(path(name)).unwrap());
    fs::write(path(inner).join("key"), "value\n").unwrap();
    let mount = |name: &str, at: &str| Mount { host_path: path(name), container_path: at.into(), ..Mount::default() };
    // The inner one is first in the spec, and is not hidden.
    let mut spec = fixture.shell("cat /selvedge-test-outer/in/key");
    spec.mounts = vec![mount(inner, "/selvedge-test-outer/in"), mount(outer, "/selvedge-test-outer")];
    fixture.run(&spec).await;
    assert_eq!(fixture.log(&spec), ["stdout F value"]);

    std::os::unix::fs::symlink(path(victim), path(outer).join("link")).unwrap();
    let mut spec = fixture.shell("true");
    spec.mounts = vec![mount(outer, "/selvedge-test-outer"), mount(inner, "/selvedge-test-outer/link/made")];
    let error = message(&fixture.runtime().start(spec).await.unwrap_err());
    assert!(error.contains("`link` is a symbolic link"), "{error}");
    assert_eq!(fs::read_dir(path(victim)).unwrap().count(), 0);
}

#[tokio::test]
async fn a_volume_of_configuration_is_read_only_and_its_own_links_are_followed() {
    if !is_root() {
        return testkit::skip("mount namespaces need root");
    }
    let fixture = Fixture::new();
    let volume = fixture.folder.path().join("volume");
    fs::create_dir_all(volume.join("..1f3a9c2b7d1e0a44")).unwrap();
    fs::write(volume.join("..1f3a9c2b7d1e0a44/app.conf"), "value\n").unwrap();
    std::os::unix::fs::symlink("..1f3a9c2b7d1e0a44", volume.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/app.conf", volume.join("app.conf")).unwrap();
    let mount = |sub_path: Option<&str>, at: &str| Mount {
        host_path: volume.clone(),
        sub_path: sub_path.map(Into::into),
        configuration: true,
        container_path: at.into(),
        ..Mount::default()
    };
    let mut spec = fixture.shell(
        "cat /mnt/app.conf /selvedge-test.conf; rm /mnt/..data 2>/dev/null || echo kept; \
         echo x 2>/dev/null > /mnt/new || echo read-only; echo x 2>/dev/null >> /selvedge-test.conf || echo read-only",
    );
    spec.mounts = vec![mount(None, "/mnt"), mount(Some("app.conf"), "/selvedge-test.conf")];
    fixture.run(&spec).await;
    let [value, read_only] = ["stdout F value", "stdout F read-only"];
    assert_eq!(fixture.log(&spec), [value, value, "stdout F kept", read_only, read_only]);
}

fn security(change: impl FnOnce(&mut Security)) -> Security {
    let mut security = Security::default();
    change(&mut security);
    security
}

const RIGHTS: &str = "grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'";

async fn check_rights(user: Option<u32>, security: Security, expected: &[&str]) {
    let fixture = Fixture::new();
    let mut spec = fixture.shell(&format!("{RIGHTS}; sleep 1000"));
    (spec.run_as_user, spec.security) = (user, security);
    fixture.start(&spec).await;
    fixture.until_logged(&spec, "Seccomp").await;
    let expected: Vec<String> = expected.iter().map(|line| format!("stdout F {line}")).collect();
    assert_eq!(fixture.log(&spec), expected, "{:?}", spec.security);
    // A command in it has the same.
    let argv = ["sh", "-c", RIGHTS].map(str::to_owned).to_vec();
    let output = fixture.runtime().exec(&spec.id(), argv, Duration::from_secs(30)).await.unwrap().stdout;
    let output = String::from_utf8(output).unwrap();
    assert_eq!(
        output.lines().map(|line| format!("stdout F {line}")).collect::<Vec<_>>(),
        expected,
        "{:?}",
        spec.security
    );
    fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_container_has_the_rights_that_it_names() {
    if !is_root() {
        return testkit::skip("without root there is nothing to give up");
    }
    let [none, bind] = ["0000000000000000", "0000000000000400"];
    let lines = |eff: &str, bound: &str, rest: [&str; 2]| {
        vec![
            format!("CapEff:{eff}"),
            format!("CapBnd:{bound}"),
            format!("CapAmb:{none}"),
            rest[0].into(),
            rest[1].into(),
        ]
    };
    let confined = ["NoNewPrivs:1", "Seccomp:2"];
    for (user, security, expected) in [
        (None, Security::default(), lines(none, none, confined)),
        (Some(1234), Security::default(), lines(none, none, confined)),
        (
            None,
            security(|security| security.capabilities_add = vec!["NET_BIND_SERVICE".to_owned()]),
            lines(bind, bind, confined),
        ),
        (
            Some(1234),
            security(|security| {
                security.allow_privilege_escalation = Some(true);
                security.capabilities_add = vec!["NET_BIND_SERVICE".to_owned()];
            }),
            lines(none, bind, ["NoNewPrivs:0", "Seccomp:2"]),
        ),
        (
            None,
            security(|security| security.seccomp = Seccomp::Unconfined),
            lines(none, none, ["NoNewPrivs:1", "Seccomp:0"]),
        ),
    ] {
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check_rights(user, security, &expected).await;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let own = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().replace('\t', "");
    let all = ["CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp:"].map(own);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    check_rights(None, security(|security| security.privileged = true), &all).await;
}

#[tokio::test]
async fn what_a_container_may_not_be_is_rejected() {
    let unknown = security(|security| security.capabilities_add = vec!["NET_BLIND".to_owned()]);
    check_refused(|spec| spec.security = unknown, "NET_BLIND is no capability").await;
    if is_root() {
        let non_root = security(|security| security.run_as_non_root = true);
        check_refused(|spec| spec.security = non_root, "runAsNonRoot").await;
    }
}

#[tokio::test]
async fn a_container_does_not_see_what_is_the_nodes() {
    if !is_root() {
        return testkit::skip("mount namespaces need root");
    }
    let keys = tempfile::tempdir().unwrap();
    fs::write(keys.path().join("node.key"), "secret\n").unwrap();
    let hidden = keys.path().to_owned();
    let fixture = Fixture::with(|config| config.hidden = vec![hidden]);
    let script = format!(
        "ls -A {0}; ls -A {1}/in-memory; ls /dev | tr '\\n' ' '; echo; echo x 2>/dev/null > /proc/sys/kernel/hostname || echo ro; \
         mkdir /sys/fs/cgroup/x 2>/dev/null || echo ro; cat /proc/keys 2>/dev/null | wc -c; echo a > /dev/null; echo b > /dev/shm/x; \
         head -c 4 /dev/urandom | wc -c; test -e /run/selvedge && ls -A /run/selvedge; tty > /dev/null; echo end",
        keys.path().display(),
        fixture.folder.path().display(),
    );
    let spec = fixture.shell(&script);
    fixture.run(&spec).await;
    let dev = "stdout F fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ";
    let ro = "stdout F ro";
    assert_eq!(fixture.log(&spec), [dev, ro, ro, "stdout F 0", "stdout F 4", "stdout F end"]);
    // With rights, or with a volume there, it does.
    let seen = ["stdout F node.key", "stdout F same devices"];
    let script = format!(
        "ls -A {}; test -e /dev/fd && test $(ls /dev | wc -l) -ge $DEVICES && echo same devices",
        keys.path().display()
    );
    let mut spec = fixture.shell(&script);
    spec.env.insert("DEVICES".to_owned(), fs::read_dir("/dev").unwrap().count().to_string());
    spec.security.privileged = true;
    fixture.run(&spec).await;
    assert_eq!(fixture.log(&spec), seen);
    spec.attempt = 1;
    spec.security = Security::default();
    let volume =
        |path: &std::path::Path| Mount { host_path: path.into(), container_path: path.into(), ..Mount::default() };
    spec.mounts = vec![volume(keys.path()), volume("/dev".as_ref())];
    fixture.run(&spec).await;
    assert_eq!(fixture.log(&spec), seen);
}

#[tokio::test]
async fn with_a_read_only_root_only_volumes_are_written_to() {
    if !is_root() {
        return testkit::skip("mount namespaces need root");
    }
    // As a node has it: its own directories are not seen, the one in which mounts are prepared among them.
    let fixture = Fixture::with(|config| config.hidden = vec![config.state_dir.clone()]);
    let volume = fixture.folder.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let file = fixture.folder.path().join("message");
    fs::write(&file, "").unwrap();
    let mut spec = fixture.shell(&format!(
        "for path in /etc /selvedge-test-b /tmp {}; do touch $path/x 2>/dev/null && echo wrote $path; done; touch /mnt/x && echo wrote mnt; \
         echo -n sorry > /dev/termination-log",
        fixture.folder.path().display()
    ));
    spec.security.read_only_root = true;
    let mount = |host: &std::path::Path, at: &str| Mount {
        host_path: host.into(),
        container_path: at.into(),
        ..Mount::default()
    };
    spec.mounts =
        vec![mount(&volume, "/mnt"), mount(&volume, "/selvedge-test-b/inner"), mount(&file, "/dev/termination-log")];
    spec.termination_message = Some(file);
    let record = fixture.run(&spec).await;
    assert_eq!((fixture.log(&spec), record.message), (vec!["stdout F wrote mnt".to_owned()], "sorry".to_owned()));
}
