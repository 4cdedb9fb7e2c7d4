//! Ways out of a container that others have found, one test for each class, with its number where it has one.
//!
//! Every test makes sure that the hostile program has run, or that its container was rejected: what did not run proves nothing. A mount
//! target through a link in the image (CVE-2021-30465) is in `container.rs`, with the other volumes.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use node_runtime::{ContainerSpec, Mount};

use crate::{
    container::{fixture, fixture_with, run, spec, start},
    fixture::{self, Fixture, message},
};

/// Changes of the node's `/dev/null` would break the machine that the test runs on: it is put right whatever happens.
struct NodesNull(fs::Metadata);

impl NodesNull {
    fn remember() -> Self {
        Self(fs::metadata("/dev/null").unwrap())
    }

    fn check(&self, by: &str) {
        let now = fs::metadata("/dev/null").unwrap();
        let of = |data: &fs::Metadata| (data.mode(), data.uid(), data.gid(), data.rdev());
        assert_eq!(of(&now), of(&self.0), "the node's /dev/null was changed by {by}");
    }
}

impl Drop for NodesNull {
    fn drop(&mut self) {
        let _ = fs::set_permissions("/dev/null", self.0.permissions());
        let _ = std::os::unix::fs::chown("/dev/null", Some(self.0.uid()), Some(self.0.gid()));
    }
}

fn volume(fixture: &Fixture, name: &str, container_path: &str) -> Mount {
    let host_path = fixture.folder.path().join(name);
    fs::create_dir_all(&host_path).unwrap();
    Mount { volume: name.to_owned(), host_path, container_path: container_path.into(), ..Mount::default() }
}

async fn exec(fixture: &Fixture, spec: &ContainerSpec, script: &str) -> Result<String, String> {
    let words = ["sh", "-c", script].map(str::to_owned).to_vec();
    match fixture.runtime().exec(&spec.id(), words, Duration::from_secs(30)).await {
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => Err(message(&error)),
    }
}

/// Starts a container that stays, once it has printed `up`.
async fn start_up(fixture: &Fixture, script: &str, change: impl FnOnce(&mut ContainerSpec)) -> ContainerSpec {
    let mut spec = spec(fixture, &format!("{script}; echo up; sleep 1000"));
    change(&mut spec);
    start(fixture, spec.clone()).await.unwrap();
    fixture.until_logged(&spec, "up").await;
    spec
}

/// Root in a container may change the mode of every file that it can name. The node's `/dev/null` once covered masked paths and was its
/// standard input: `chmod 0 /proc/kcore`, and no program of the node could open its own.
#[tokio::test]
async fn the_nodes_null_is_out_of_reach() {
    let Some(fixture) = fixture() else { return };
    let null = NodesNull::remember();
    let script = "for file in /dev/null /proc/keys /proc/kcore /proc/timer_list /proc/interrupts /proc/self/fd/0; do \
                  chmod 600 $file 2>/dev/null; done; stat -c %a /dev/null; [ -c /proc/keys ] && echo covered";
    let spec = start_up(&fixture, script, |_| {}).await;
    null.check("a program");
    let log = fixture.log(&spec);
    assert!(log.contains(&"stdout F 600".to_owned()) && log.contains(&"stdout F covered".to_owned()), "{log:?}");
    assert_eq!(
        exec(&fixture, &spec, "chmod 640 /proc/self/fd/0; stat -L -c %a /proc/self/fd/0").await.unwrap(),
        "640\n"
    );
    null.check("a command");
    // Nor is there another way to it where the container has done away with its own.
    let script = "rm /dev/null; mkdir /dev/null; echo done";
    assert_eq!(exec(&fixture, &spec, script).await.unwrap(), "done\n");
    let script = "chmod 640 /proc/self/fd/0; cat; readlink /proc/self/fd/0 | grep -c pipe";
    assert_eq!(exec(&fixture, &spec, script).await.unwrap(), "1\n");
    null.check("a command without /dev/null");
    fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
}

/// CVE-2025-31133, CVE-2025-52565: what covers masked paths, and a console, is not taken from a `/dev` that somebody else has filled.
#[tokio::test]
async fn a_forged_null_uncovers_nothing() {
    let Some(fixture) = fixture_with(|image| {
        let dev = image.store.join("high/dev");
        fs::create_dir_all(&dev).unwrap();
        for name in ["null", "console", "pts"] {
            symlink("/proc/sys/kernel/core_pattern", dev.join(name)).unwrap();
        }
    }) else {
        return;
    };
    let pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let look = "stat -c %t:%T /proc/keys; head -c1 /proc/keys; echo x > /proc/sys/kernel/core_pattern; echo end";
    let expected = ["1:3", "sh: can't create /proc/sys/kernel/core_pattern: Read-only file system", "end"];
    let (log, _) = run(&fixture, &format!("[ -e /dev/console ] || echo none; {look}"), |_| {}).await;
    assert_eq!(log[0], "none");
    assert_eq!(log[1..], expected);
    let forged = volume(&fixture, "forged", "/dev");
    symlink("/proc/sys/kernel/core_pattern", forged.host_path.join("null")).unwrap();
    let (log, record) = run(&fixture, look, |spec| spec.mounts = vec![forged]).await;
    assert_eq!(log, expected, "{record:?}");
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), pattern);
}

/// A file of the node, and the words of a script that would find it from a directory outside of the container.
fn beacon(fixture: &Fixture) -> String {
    let file = fixture.folder.path().join("beacon");
    fs::write(&file, "of the node").unwrap();
    let up = "../".repeat(16);
    format!(
        "cat {up}{0} 2>/dev/null || cat ./beacon 2>/dev/null || echo inside",
        file.display().to_string().trim_start_matches('/')
    )
}

/// CVE-2024-21626: no descriptor of the node's is left to a program or a command.
#[tokio::test]
async fn no_descriptor_is_left_open() {
    let Some(fixture) = fixture() else { return };
    // The fourth is of the one who lists.
    let list = "ls /proc/self/fd | sort -n | tail -n 1";
    let spec = start_up(&fixture, list, |_| {}).await;
    assert_eq!(fixture.log(&spec)[0], "stdout F 3");
    assert_eq!(exec(&fixture, &spec, list).await.unwrap(), "3\n");
    fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
}

/// CVE-2024-21626 again: a working directory that is a descriptor of the shim's.
#[tokio::test]
async fn a_working_directory_is_in_the_container_or_the_start_is_rejected() {
    let Some(fixture) = fixture() else { return };
    let script = beacon(&fixture);
    let mut rejected = 0;
    for number in 0..24 {
        let mut spec = spec(&fixture, &script);
        spec.working_dir = Some(format!("/proc/self/fd/{number}").into());
        match start(&fixture, spec.clone()).await {
            Ok(_) => {
                fixture.exit(&spec.id()).await;
                assert_eq!(fixture.log(&spec), ["stdout F inside"], "descriptor {number}");
            }
            Err(error) => {
                let error = message(&error);
                assert!(error.contains("failed to enter the working directory"), "{number}: {error}");
                rejected += 1;
            }
        }
    }
    // Most numbers are of nothing.
    assert!(rejected > 0);
}

/// And the same for a command, whose working directory has become a link since.
#[tokio::test]
async fn a_command_does_not_follow_its_working_directory_out() {
    let Some(fixture) = fixture() else { return };
    let script = beacon(&fixture);
    for number in 3..16 {
        let relink = format!("cd /; rmdir /work && ln -s /proc/self/fd/{number} /work && readlink /work");
        let spec = start_up(&fixture, &relink, |spec| spec.working_dir = Some("/work".into())).await;
        assert_eq!(fixture.log(&spec)[0], format!("stdout F /proc/self/fd/{number}"));
        match exec(&fixture, &spec, &script).await {
            Ok(output) => assert_eq!(output, "inside\n", "descriptor {number}"),
            Err(error) => assert!(error.contains("failed to enter the working directory"), "{number}: {error}"),
        }
        fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
    }
}

/// With `hostPID` the roots of the node's processes have names in the container. A working directory is made and entered while the shim
/// still has all rights.
#[tokio::test]
async fn a_working_directory_is_neither_made_nor_entered_through_a_process_of_the_node() {
    let Some(fixture) = fixture() else { return };
    let made = fixture.folder.path().join("made");
    let root = format!("/proc/{}/root", std::process::id());
    for dir in [format!("{root}{}", made.display()), format!("{root}{}", fixture.folder.path().display()), root.clone()]
    {
        let mut outside = spec(&fixture, "echo started");
        (outside.host_pid, outside.working_dir) = (true, Some(dir.clone().into()));
        let error = message(&start(&fixture, outside).await.unwrap_err());
        assert!(error.contains("failed to enter the working directory"), "{dir}: {error}");
        let relink = format!("cd /; rmdir /work && ln -s {dir} /work && readlink /work");
        let spec = start_up(&fixture, &relink, |spec| {
            (spec.host_pid, spec.working_dir) = (true, Some("/work".into()));
        })
        .await;
        assert_eq!(fixture.log(&spec)[0], format!("stdout F {dir}"));
        let error = exec(&fixture, &spec, "echo started").await.unwrap_err();
        assert!(error.contains("failed to enter the working directory"), "{dir}: {error}");
        fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
    }
    assert!(!made.exists(), "a directory was made on the node");
}

/// In the same way an image could have its users listed in a file of the node's.
#[tokio::test]
async fn users_are_not_looked_up_in_files_of_the_node() {
    let Some(fixture) = fixture_with(|image| {
        let outside = image.store.parent().unwrap().join("outside");
        fs::write(&outside, "someone:x:4711:4711::/:/bin/sh\n").unwrap();
        let passwd = image.store.join("high/etc/passwd");
        fs::create_dir_all(passwd.parent().unwrap()).unwrap();
        symlink(format!("/proc/{}/root{}", std::process::id(), outside.display()), passwd).unwrap();
        image.config.user = "someone".to_owned();
    }) else {
        return;
    };
    let mut spec = spec(&fixture, "id -u");
    spec.host_pid = true;
    let error = message(&start(&fixture, spec).await.unwrap_err());
    assert!(error.contains("no user `someone`"), "{error}");
}

/// Bytes of the program that a container's shim executes, and the open file.
fn program_of(fixture: &Fixture, spec: &ContainerSpec) -> (fs::File, Vec<u8>) {
    let state = fixture.folder.path().join("state/selvedge-container").join(spec.id().to_string()).join("state.json");
    let shim = fixture::pid_in(&fs::read_to_string(state).unwrap(), "shim").unwrap();
    let mut file = fs::File::open(format!("/proc/{shim}/exe")).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    (file, bytes)
}

/// CVE-2019-5736: a program or a command that is `/proc/self/exe` is the shim, in the container. Whoever got hold of its file there cannot
/// write to it, not even when nobody executes it any more.
#[tokio::test]
async fn the_shims_program_cannot_be_overwritten() {
    let Some(fixture) = fixture_with(|image| {
        let evil = image.store.join("high/evil");
        fs::write(&evil, "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
    }) else {
        return;
    };
    // It looks at all processes that it sees, again and again, and tries each that executes what is no file of the image.
    let hunt = "while :; do for process in /proc/[0-9]*; do case $(readlink $process/exe 2>/dev/null) in \
                /bin/*|'') ;; *) echo seen; ( echo x >> $process/exe ) 2>/dev/null && echo overwritten;; esac; done; done & true";
    let first = start_up(&fixture, hunt, |_| {}).await;
    let (kept, before) = program_of(&fixture, &first);
    for words in [&["/proc/self/exe"][..], &["/evil"]] {
        let mut itself = spec(&fixture, "");
        (itself.command, itself.args) = (words.iter().map(|word| (*word).to_owned()).collect(), Vec::new());
        if start(&fixture, itself.clone()).await.is_ok() {
            let record = fixture.exit(&itself.id()).await;
            assert_ne!(record.exit_code, 0, "{words:?}");
        }
        for _ in 0..10 {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            let output = fixture.runtime().exec(&first.id(), words, Duration::from_secs(30)).await;
            assert!(output.is_err() || output.is_ok_and(|output| output.exit_code != 0));
        }
    }
    let log = fixture.log(&first);
    assert!(!log.iter().any(|line| line.contains("overwritten")), "{log:?}");
    fixture.runtime().stop(&first.id(), Duration::ZERO).await.unwrap();
    // With the rights of the node's root: more than anyone in a container has.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&kept));
    let written = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write_all(b"x"));
    assert!(written.is_err(), "the program was written to");
    assert!(fs::OpenOptions::new().write(true).truncate(true).open(&path).is_err(), "the program was truncated");
    let second = start_up(&fixture, "true", |_| {}).await;
    assert!(program_of(&fixture, &second).1 == before, "the program is another");
    fixture.runtime().stop(&second.id(), Duration::ZERO).await.unwrap();
}

/// CVE-2025-52881: what the shim writes about a process goes to the kernel, whatever the container has at `/proc`. No volume can be there
/// (`rights.rs`), but who may mount puts something there when it runs, and commands are run in it later.
#[tokio::test]
async fn nothing_is_written_through_a_forged_proc() {
    let Some(fixture) = fixture() else { return };
    let forged = volume(&fixture, "forged", "/forged");
    let own = forged.host_path.join("self");
    for dir in ["attr", "fd", "task"] {
        fs::create_dir_all(own.join(dir)).unwrap();
    }
    let files = ["oom_score_adj", "attr/exec", "setgroups", "uid_map", "gid_map", "timerslack_ns"];
    for file in files {
        fs::write(own.join(file), "untouched").unwrap();
    }
    let spec = start_up(&fixture, "mount -o bind /forged /proc && cat /proc/self/oom_score_adj", |spec| {
        spec.mounts = vec![forged];
        spec.security.capabilities_add = vec!["SYS_ADMIN".to_owned()];
        spec.oom_score_adj = Some(777);
    })
    .await;
    assert_eq!(fixture.log(&spec)[0], "stdout F untouchedup");
    assert_eq!(exec(&fixture, &spec, "cat /proc/self/attr/exec").await.unwrap(), "untouched");
    let state = fixture.folder.path().join("state/selvedge-container").join(spec.id().to_string()).join("state.json");
    let program = fixture::pid_in(&fs::read_to_string(state).unwrap(), "child").unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{program}/oom_score_adj")).unwrap(), "777\n");
    for file in files {
        assert_eq!(fs::read_to_string(own.join(file)).unwrap(), "untouched", "{file}");
    }
    fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
}

/// A pod may ask for a volume where the kernel's files would be, but in `/proc`. It gets the volume there, and nothing of the node's for it.
#[tokio::test]
async fn volumes_in_the_place_of_the_kernels_files_show_the_volume() {
    let Some(fixture) = fixture() else { return };
    for (path, rest) in [
        ("/sys", "head -c1 /proc/keys; echo x > /proc/sys/kernel/hostname"),
        ("/dev", "head -c1 /proc/keys; touch /sys/x"),
        ("/sys/fs/cgroup", "touch /sys/x"),
    ] {
        let mount = volume(&fixture, &path.replace('/', "-"), path);
        let host_path = mount.host_path.clone();
        fs::write(host_path.join("file"), "of the volume\n").unwrap();
        let script = format!("cat {path}/file; echo written > {path}/new; {rest}; echo end");
        let (log, record) = run(&fixture, &script, |spec| spec.mounts = vec![mount]).await;
        assert_eq!(log.first().map(String::as_str), Some("of the volume"), "{path}: {log:?} {record:?}");
        assert_eq!(log.last().map(String::as_str), Some("end"), "{path}: {log:?}");
        let denied = log[1..log.len() - 1].iter().all(|line| line.contains("Read-only file system"));
        assert!(denied && log.len() == 3, "{path}: {log:?}");
        assert_eq!(fs::read_to_string(host_path.join("new")).unwrap(), "written\n", "{path}");
        assert!(!Path::new(path).join("new").exists(), "{path}: written on the node");
    }
}

/// CVE-2023-27561, CVE-2019-19921: an image whose `/proc`, `/sys` and `/dev` are links. What is mounted follows them inside the image, and what is
/// to be masked is.
#[tokio::test]
async fn links_in_the_place_of_the_kernels_directories_uncover_nothing() {
    let Some(fixture) = fixture_with(|image| {
        for (name, target) in [("proc", "/tmp/../etc"), ("sys", "../../old"), ("dev", "/tmp")] {
            symlink(target, image.store.join("high").join(name)).unwrap();
        }
    }) else {
        return;
    };
    let script = "echo $$; stat -c %t:%T /proc/keys; head -c1 /proc/keys; touch /sys/x; echo x > /proc/sys/kernel/hostname; echo end";
    let mut linked = spec(&fixture, script);
    linked.log_dir = linked.log_dir.join("linked");
    start(&fixture, linked.clone()).await.unwrap();
    fixture.exit(&linked.id()).await;
    let expected = [
        "1",
        "1:3",
        "touch: /sys/x: Read-only file system",
        "sh: can't create /proc/sys/kernel/hostname: Read-only file system",
        "end",
    ];
    assert_eq!(fixture.log(&linked), expected.map(|line| format!("stdout F {line}")));
}
