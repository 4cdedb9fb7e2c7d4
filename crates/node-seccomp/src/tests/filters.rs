//! Every number with many arguments, through the compiled filter and through the profile itself.

use std::{collections::BTreeSet, vec::Vec};

use super::{
    interpreter::{run, run_counted},
    profile::{self, MACHINES, Machine, Profile},
};
use crate::{
    Action, Arch, CapabilitySet, Compare, Condition, NamedRule,
    compile::{ALLOW, ENOSYS, EPERM, ERRNO, KILL_PROCESS, SockFilter},
    localhost, runtime_default, wasm_worker,
};

/// What the kernel takes.
const INSTRUCTIONS_MAX: usize = 4096;

fn machine(table: &str) -> &'static Machine {
    MACHINES.iter().find(|machine| machine.table == table).unwrap()
}

/// Every number that is known, those around them, x32's, ARM's private ones, and the ends.
fn numbers(profile: &Profile, machine: &Machine) -> Vec<u32> {
    let newest = profile.newest(machine);
    let mut numbers: BTreeSet<u32> = (0..=newest + 8).collect();
    numbers.extend(profile.known(machine).flat_map(|number| [number.saturating_sub(1), number, number + 1]));
    numbers.extend([0x0f_0000, 0x0f_0003, 0x3fff_ffff, 0x4000_0000, 0x4000_0029, 0x7fff_ffff, u32::MAX]);
    numbers.into_iter().collect()
}

/// Every value that a rule compares with, those around it, and the same with something in the upper half.
fn values(profile: &Profile) -> Vec<u64> {
    let args = profile.syscalls.iter().flat_map(|rule| &rule.args);
    let values = args.flat_map(|arg| [arg.value, arg.value_two]).chain([0, 1, 17, 0x1000_0000, 0x003d_0f00]);
    let near = values.flat_map(|value| [value.wrapping_sub(1), value, value + 1, value | 1 << 32]);
    near.collect::<BTreeSet<_>>().into_iter().collect()
}

fn check(filter: &[SockFilter], profile: &Profile, machine: &Machine, granted: CapabilitySet) {
    assert!(filter.len() < INSTRUCTIONS_MAX, "{} instructions", filter.len());
    let values = values(profile);
    for number in numbers(profile, machine) {
        let has_args = profile
            .syscalls
            .iter()
            .any(|rule| !rule.args.is_empty() && rule.names.iter().any(|name| (machine.number)(name) == Some(number)));
        let mut cases = std::vec![[0; 6], [u64::MAX; 6]];
        if has_args {
            cases.extend((0..3).flat_map(|index| {
                values.iter().map(move |value| {
                    let mut args = [0; 6];
                    args[index] = *value;
                    args
                })
            }));
        }
        for args in cases {
            let (does, should) =
                (run(filter, machine.audit, number, &args), profile.says(machine, granted, number, &args));
            assert_eq!(does, should, "{} call {number} with {args:x?} for capabilities {granted:x?}", machine.table);
        }
    }
}

/// Nothing, each capability that the profile names by itself, Docker's fourteen, all.
fn capability_sets() -> Vec<CapabilitySet> {
    let profile = profile::runtime_default();
    let named = profile.syscalls.iter().flat_map(|rule| rule.includes.caps.iter().chain(&rule.excludes.caps));
    let named: BTreeSet<u8> = named.map(|name| profile::capability(name)).collect();
    let single = named.into_iter().map(|number| CapabilitySet::EMPTY.with(number));
    single.chain([CapabilitySet::EMPTY, CapabilitySet(0xa804_25fb), CapabilitySet(u64::MAX)]).collect()
}

#[test]
fn the_default_filter_says_what_the_profile_says() {
    let profile = profile::runtime_default();
    for granted in capability_sets() {
        for (arch, tables) in
            [(Arch::Amd64, ["AMD64", "I386"].as_slice()), (Arch::Arm64, &["ARM64", "ARM"]), (Arch::Arm, &["ARM"])]
        {
            let filter = runtime_default(arch, granted);
            for table in tables {
                check(&filter, &profile, machine(table), granted);
            }
        }
    }
}

#[test]
fn the_workers_filter_says_what_its_profile_says() {
    let profile = profile::wasm_worker();
    for (arch, table) in [(Arch::Amd64, "AMD64"), (Arch::Arm64, "ARM64"), (Arch::Arm, "ARM")] {
        check(&wasm_worker(arch), &profile, machine(table), CapabilitySet::EMPTY);
    }
}

#[test]
fn what_matters_most_is_as_everyone_knows_it() {
    let filter = runtime_default(Arch::Amd64, CapabilitySet::EMPTY);
    let call = |name: &str, first: u64| {
        let amd64 = machine("AMD64");
        run(&filter, amd64.audit, (amd64.number)(name).unwrap(), &[first, 0, 0, 0, 0, 0])
    };
    let (denied, unknown) = (ERRNO | EPERM, ERRNO | ENOSYS);
    for (name, first, answer) in [
        ("read", 0, ALLOW),
        ("execve", 0, ALLOW),
        ("socket", 2, ALLOW),
        ("socket", 16, ALLOW),
        ("socket", 40, denied),
        ("clone", 17, ALLOW),
        ("clone", 0x1000_0000, denied),
        ("clone3", 0, unknown),
        ("unshare", 0, denied),
        ("mount", 0, denied),
        ("keyctl", 0, denied),
        ("bpf", 0, denied),
        ("init_module", 0, denied),
        ("kexec_load", 0, denied),
        ("personality", 0, ALLOW),
        ("personality", 4, denied),
    ] {
        assert_eq!(call(name, first), answer, "{name}({first:#x})");
    }
}

#[test]
fn another_architecture_ends_the_process() {
    for arch in [Arch::Amd64, Arch::Arm64, Arch::Arm] {
        let own: &[&str] = match arch {
            Arch::Amd64 => &["AMD64", "I386"],
            Arch::Arm64 => &["ARM64", "ARM"],
            Arch::Arm => &["ARM"],
        };
        for machine in MACHINES.iter().filter(|machine| !own.contains(&machine.table)) {
            assert_eq!(run(&runtime_default(arch, CapabilitySet::EMPTY), machine.audit, 0, &[0; 6]), KILL_PROCESS);
        }
        for machine in MACHINES.iter().filter(|machine| own.first() != Some(&machine.table)) {
            // A worker is this very program: its 32-bit sibling has no business either.
            assert_eq!(run(&wasm_worker(arch), machine.audit, 0, &[0; 6]), KILL_PROCESS);
        }
    }
}

#[test]
fn a_number_is_found_after_few_steps() {
    let amd64 = machine("AMD64");
    let filter = runtime_default(Arch::Amd64, CapabilitySet::EMPTY);
    let plain = |number: &u32| {
        let conditional = ["socket", "personality", "clone"].map(|name| (amd64.number)(name).unwrap());
        !conditional.contains(number)
    };
    let steps = (0..500).filter(plain).map(|number| run_counted(&filter, amd64.audit, number, &[0; 6]).1);
    let most = steps.max().unwrap();
    assert!(most <= 14, "{most} instructions are run at a system call");
    // What is held in the kernel per filter, and compiled per start.
    for arch in [Arch::Amd64, Arch::Arm64, Arch::Arm] {
        let sizes = (runtime_default(arch, CapabilitySet::EMPTY).len(), wasm_worker(arch).len());
        assert!(sizes.0 < 900 && sizes.1 < 350, "{arch:?}: {sizes:?}");
    }
}

/// What is compiled of names and what is compiled of tables say the same.
#[test]
fn the_common_profile_is_the_same_when_it_is_read_from_a_file() {
    let profile = profile::runtime_default();
    let compare = |op: &str| match op {
        "SCMP_CMP_EQ" => Compare::Equal,
        "SCMP_CMP_NE" => Compare::NotEqual,
        "SCMP_CMP_LT" => Compare::Less,
        "SCMP_CMP_MASKED_EQ" => Compare::MaskedEqual,
        other => panic!("{other} is new in the profile"),
    };
    let condition = |arg: &profile::Arg| Condition {
        index: arg.index,
        compare: compare(&arg.op),
        value: arg.value,
        value_two: arg.value_two,
    };
    for granted in [CapabilitySet::EMPTY, CapabilitySet(1 << 21), CapabilitySet(u64::MAX)] {
        for (arch, tables) in [(Arch::Amd64, ["AMD64", "I386"]), (Arch::Arm64, ["ARM64", "ARM"])] {
            let machines = tables.map(machine);
            let rules: Vec<NamedRule<'_>> = profile
                .syscalls
                .iter()
                .filter(|rule| rule.counts(machines[0], granted))
                .map(|rule| NamedRule {
                    names: rule.names.iter().map(|name| &**name).collect(),
                    action: match rule.action.as_str() {
                        "SCMP_ACT_ALLOW" => Action::ALLOW,
                        _ => Action::errno(rule.errno_ret.unwrap_or(EPERM) as u16),
                    },
                    conditions: rule.args.iter().map(condition).collect(),
                })
                .collect();
            let filter = localhost(arch, true, Action::errno(EPERM as u16), &rules).unwrap();
            for machine in machines {
                check(&filter, &profile, machine, granted);
            }
        }
    }
}
