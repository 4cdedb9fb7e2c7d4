use super::*;

const SOME: &[u8] = br#"{
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 13,
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
    ],
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "comment": "all do"},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["vm86"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390"]}}
    ]
}"#;

fn check(granted: &[&str], expected: &[&str]) {
    let granted: Vec<String> = granted.iter().map(|name| (*name).to_owned()).collect();
    let rules = of_node(SOME, &granted).unwrap();
    let names: Vec<&str> =
        rules["syscalls"].as_array().unwrap().iter().filter_map(|rule| rule["names"][0].as_str()).collect();
    assert_eq!(names, expected, "{granted:?}");
    assert_eq!((&rules["defaultErrnoRet"], &rules["flags"][0]), (&json!(13), &json!("SECCOMP_FILTER_FLAG_LOG")));
    let keys: Vec<_> = rules["syscalls"][0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["action", "names"], "others know no more of a rule");
    compile(&rules).unwrap();
}

#[test]
fn rules_of_a_file_count_for_those_whom_they_name() {
    check(&[], &["read", "ptrace"]);
    check(&["CAP_SYS_ADMIN"], &["read", "mount"]);
}

#[test]
fn architectures_are_those_that_the_file_names_and_the_machines_own() {
    let (_, native) = native();
    for (profile, others) in [
        (json!({}), vec![]),
        (json!({"architectures": [native, "SCMP_ARCH_X32"]}), vec!["SCMP_ARCH_X32"]),
        (json!({"archMap": [{"architecture": native, "subArchitectures": ["SCMP_ARCH_ARM"]}]}), vec!["SCMP_ARCH_ARM"]),
        (json!({"archMap": [{"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]}]}), vec![]),
    ] {
        assert_eq!(architectures(&profile), [vec![native], others].concat(), "{profile}");
    }
}

#[test]
fn the_common_profile_read_as_a_file_is_the_one_that_is_built_in() {
    for number in [0, 1 << 21, u64::MAX] {
        let names = api_kube::CAPABILITIES.iter().enumerate().filter(|(bit, _)| number & 1 << bit != 0);
        let granted: Vec<String> = names.map(|(_, name)| format!("CAP_{name}")).collect();
        let rules = of_node(DEFAULT.as_bytes(), &granted).unwrap();
        assert_eq!(rules, default(&granted));
        compile(&rules).unwrap();
    }
}

proptest::proptest! {
    #[test]
    fn whatever_is_in_a_file_it_is_a_filter_or_rejected(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = of_node(&bytes, &[]).and_then(|rules| compile(&rules));
        let mut text = SOME.to_vec();
        let at = bytes.len() * 7 % text.len();
        text.splice(at..(at + bytes.len() / 20).min(text.len()), bytes.iter().copied().take(3));
        let _ = of_node(&text, &[]).and_then(|rules| compile(&rules));
    }
}
