//! What a container asks for beyond what every one has: profiles of the node for its system calls, and what it does not get.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use node_runtime::{
    ContainerRuntime, ContainerSpec, HostNamespaces, Mount, PodSpec, RuntimeError, SeccompProfile, Security,
};

use crate::{
    container::{self, OneImage},
    fixture::{self, Fixture, message},
};

/// `mkdir` is denied by a number of its own; so is a socket of one family.
pub const DENIES_SOME: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
    ],
    "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": null},
        {"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_TIME"]}}
    ]
}"#;

/// Puts a profile where the node has them.
pub fn put_profile(folder: &Path, name: &str, text: &[u8]) {
    let path = folder.join("seccomp").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

pub fn with_profile(mut spec: ContainerSpec, path: &str) -> ContainerSpec {
    spec.security.seccomp_profile = Some(SeccompProfile { path: path.into(), ..SeccompProfile::default() });
    spec
}

fn printed(fixture: &Fixture, spec: &ContainerSpec) -> Vec<String> {
    fixture.log(spec).into_iter().filter_map(|line| line.splitn(3, ' ').nth(2).map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_profile_of_app_armor_needs_a_kernel_that_has_it() {
    let Some(fixture) = container::fixture() else { return };
    let named = |profile: &str| {
        let mut spec = container::spec(&fixture, "echo up");
        spec.security.app_armor = Some(profile.to_owned());
        spec
    };
    for profile in ["", "a\nb"] {
        let error = fixture.runtime().check(&named(profile)).unwrap_err();
        assert!(message(&error).contains("the profile has no name"), "{}", message(&error));
    }
    // Where it is, `it::vm` looks.
    if !std::path::Path::new("/sys/module/apparmor").exists() {
        let error = fixture.runtime().check(&named("some")).unwrap_err();
        assert!(message(&error).contains("AppArmor is not enabled on the host"), "{}", message(&error));
    }
}

#[tokio::test]
async fn a_profile_of_the_node_decides_which_calls_a_container_may_make() {
    for (may_gain, adds) in [(None, None), (Some(false), None), (None, Some("SYS_TIME"))] {
        let Some(fixture) = container::fixture() else { return };
        put_profile(fixture.folder.path(), "line/some.json", DENIES_SOME.as_bytes());
        let script =
            "mkdir /made; chmod 700 /tmp && echo changed; grep Seccomp: /proc/self/status; touch /end; exec sleep 1000";
        let mut spec = with_profile(container::spec(&fixture, script), "line/some.json");
        spec.security.allow_privilege_escalation = may_gain;
        spec.security.capabilities_add.extend(adds.map(str::to_owned));
        fixture.start(&spec).await;
        fixture.until_logged(&spec, "Seccomp").await;
        // The rule counts only for who has the capability.
        let changed = if adds.is_some() { "chmod: /tmp: Operation not permitted" } else { "changed" };
        let expected = ["mkdir: can't create directory '/made': No space left on device", changed, "Seccomp:\t2"];
        assert_eq!(printed(&fixture, &spec), expected, "{may_gain:?} {adds:?}");
        let argv = ["mkdir", "/made"].map(str::to_owned).to_vec();
        let output = fixture.runtime().exec(&spec.id(), argv, Duration::from_secs(30)).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.exit_code == 1 && said.contains("No space left on device"), "{output:?}");
        fixture.runtime().stop(&spec.id(), Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_profile_that_is_missing_or_broken_is_rejected_with_its_path() {
    let Some(fixture) = container::fixture() else { return };
    let folder = fixture.folder.path();
    let unknown = |action: &str| format!(r#"{{"defaultAction": "{action}"}}"#).into_bytes();
    let many = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": [{}"read"], "action": "SCMP_ACT_LOG"}}]}}"#,
        r#""read","#.repeat(33_000)
    );
    let argument = br#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG",
        "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#;
    let cases: [(&str, Option<&[u8]>, &str); 12] = [
        ("missing.json", None, "No such file or directory"),
        ("../seccomp/a.json", None, "it must be a relative path without `..`"),
        ("", None, "it must be a relative path"),
        ("link.json", None, "a link in it leads out"),
        ("dir", None, "it is no file"),
        (
            "broken.json",
            Some(b"{\"defaultAction\": "),
            "EOF while parsing a value at line 1 column 18; it must be JSON",
        ),
        ("list.json", Some(b"[]"), "missing field `defaultAction`"),
        (
            "text.json",
            Some(br#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": "all"}"#),
            "invalid type: string \"all\"",
        ),
        ("action.json", Some(&unknown("SCMP_ACT_DENY")), "`SCMP_ACT_DENY` is no action"),
        ("notify.json", Some(&unknown("SCMP_ACT_NOTIFY")), "nobody here decides on `SCMP_ACT_NOTIFY`"),
        ("many.json", Some(many.as_bytes()), "its rules name more than 32768 calls"),
        ("argument.json", Some(argument), "a call has no argument 6"),
    ];
    put_profile(folder, "dir/a.json", b"{}");
    symlink("/etc/hostname", folder.join("seccomp/link.json")).unwrap();
    for (name, text, expected) in cases {
        if let Some(text) = text {
            put_profile(folder, name, text);
        }
        check_rejected(&fixture, name, expected).await;
    }
    put_profile(folder, "long.json", &vec![b' '; 256 * 1024 + 1]);
    check_rejected(&fixture, "long.json", "it is longer than 256 KiB").await;
}

async fn check_rejected(fixture: &Fixture, name: &str, expected: &str) {
    let spec = with_profile(container::spec(fixture, "echo ran"), name);
    let error = container::start(fixture, spec.clone()).await.unwrap_err();
    let path = fixture.folder.path().join("seccomp").join(name);
    let said = message(&error);
    assert!(matches!(error, RuntimeError::Refused { .. }), "{said}");
    assert!(said.contains(&format!("cannot load seccomp profile {path:?}: ")) && said.contains(expected), "{said}");
    // No attempt is spent: the same one starts once the file is there.
    assert!(fixture.runtime().status(&spec.id()).await.is_err());
}

#[tokio::test]
async fn a_volume_takes_the_place_of_nothing_in_proc_but_what_describes_the_machine() {
    let Some(fixture) = container::fixture_with(|image| symlink("/proc", image.store.join("high/kernel")).unwrap())
    else {
        return;
    };
    let volume = fixture.folder.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("uptime"), "1.00 1.00\n").unwrap();
    let start = async |host: &Path, path: &str| {
        let mut spec = container::spec(&fixture, "cat /proc/uptime; test -e /proc/1/status && echo proc");
        spec.container = format!("c{}", path.replace('/', "-"));
        spec.mounts = vec![Mount { host_path: host.to_owned(), container_path: path.into(), ..Mount::default() }];
        container::start(&fixture, spec.clone()).await.map(|_| spec).map_err(|error| message(&error))
    };
    for (host, path, expected) in [
        (volume.clone(), "/proc", "\"/proc\" cannot be mounted because it is not of type proc"),
        (volume.clone(), "/kernel", "\"/proc\" cannot be mounted because it is not of type proc"),
        (volume.clone(), "/proc/1", "\"/proc/1\" cannot be mounted because it is inside /proc"),
        (volume.clone(), "/proc/sys", "\"/proc/sys\" cannot be mounted because it is inside /proc"),
        (volume.join("uptime"), "/kernel/version", "\"/proc/version\" cannot be mounted because it is inside /proc"),
        (volume.clone(), "/proc/made", "failed to mount at /proc/made"),
    ] {
        let error = start(&host, path).await.unwrap_err();
        assert!(error.contains(expected), "{path}: {error}");
    }
    for (host, path, first) in [
        (volume.join("uptime"), "/proc/uptime", "1.00 1.00"),
        (volume.join("uptime"), "/kernel/uptime", "1.00 1.00"),
        (PathBuf::from("/proc"), "/proc", ""),
    ] {
        let spec = start(&host, path).await.unwrap();
        let record = fixture.exit(&spec.id()).await;
        let log = printed(&fixture, &spec);
        assert!(record.exit_code == 0 && log[0].starts_with(first) && log[1] == "proc", "{path}: {log:?} {record:?}");
    }
}

/// The variables of all containers are there where the node has no other memory to keep them in.
#[tokio::test]
async fn who_sees_the_nodes_shared_memory_does_not_see_what_the_agent_keeps_there() {
    let Some((folder, image)) = container::folder_with_image() else { return };
    let kept = tempfile::Builder::new().prefix("selvedge-test-").tempdir_in("/dev/shm").unwrap();
    let mut config = fixture::config(folder.path());
    config.launch_dir = Some(kept.path().to_owned());
    let runtime = ContainerRuntime::open(config, Arc::new(OneImage(image))).unwrap();
    let fixture = Fixture { runtime: Some(Box::new(runtime)), folder };
    let beside = tempfile::Builder::new().prefix("of-another-").tempfile_in("/dev/shm").unwrap();
    let script = format!(
        "ls -A {}; ls -A {} 2>/dev/null; ls {}; echo end",
        kept.path().display(),
        "/dev/shm/selvedge",
        beside.path().display()
    );
    let spec = container::spec(&fixture, &script);
    let host = HostNamespaces { ipc: true, ..HostNamespaces::default() };
    let pod = PodSpec { host, ..container::pod_of(&spec) };
    fixture.runtime().ensure_pod(pod).await.unwrap();
    fixture.runtime().start(spec.clone()).await.unwrap();
    let record = fixture.exit(&spec.id()).await;
    assert_eq!(printed(&fixture, &spec), [&beside.path().display().to_string(), "end"], "{record:?}");
    assert!(fs::read_dir(kept.path()).unwrap().next().is_some(), "its own variables at least are there");
    // Its namespaces are pinned there.
    fixture.runtime().remove_pod(&spec.pod.uid).await.unwrap();
}

#[tokio::test]
async fn a_capability_that_the_node_does_not_have_is_not_given_in_silence() {
    let Some(fixture) = container::fixture() else { return };
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let own = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let own = u64::from_str_radix(own.trim(), 16).unwrap();
    for (number, name) in api_kube::CAPABILITIES.iter().enumerate() {
        let mut spec = container::spec(&fixture, "true");
        spec.security = Security { capabilities_add: vec![(*name).to_owned()], ..Security::default() };
        match (own & 1 << number, fixture.runtime().check(&spec)) {
            (0, Err(error)) => assert!(message(&error).contains(&format!("does not have {name};")), "{error}"),
            (bit, checked) => assert!(bit != 0 && checked.is_ok(), "{name}: {checked:?}"),
        }
    }
}
