//! Profiles of people: each comparison at its edges, and what wins over what.

use std::{vec, vec::Vec};

use super::{interpreter::run, profile::MACHINES};
use crate::{
    Action, Arch, Compare, Condition, NamedRule, ProfileError,
    compile::{ENOSYS, ERRNO, KILL_PROCESS},
    localhost,
};

const AMD64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const DENIED: u32 = ERRNO | 1;

fn number(name: &str) -> u32 {
    (MACHINES[0].number)(name).unwrap()
}

fn rule<'a>(names: &[&'a str], action: Action, conditions: &[Condition]) -> NamedRule<'a> {
    NamedRule { names: names.to_vec(), action, conditions: conditions.to_vec() }
}

fn when(index: u8, compare: Compare, value: u64, value_two: u64) -> Condition {
    Condition { index, compare, value, value_two }
}

#[test]
fn every_comparison_is_exact_over_all_64_bits() {
    let edges = [0, 1, 7, u64::from(u32::MAX), 1 << 32, (7 << 32) | 7, u64::MAX - 1, u64::MAX];
    let near = |value: u64| [value.wrapping_sub(1), value, value.wrapping_add(1), value ^ 1 << 32, value ^ 1 << 63];
    let values: Vec<u64> = edges.into_iter().flat_map(near).collect();
    type Holds = fn(u64, u64, u64) -> bool;
    let comparisons: [(Compare, Holds); 7] = [
        (Compare::NotEqual, |arg, value, _| arg != value),
        (Compare::Less, |arg, value, _| arg < value),
        (Compare::AtMost, |arg, value, _| arg <= value),
        (Compare::Equal, |arg, value, _| arg == value),
        (Compare::AtLeast, |arg, value, _| arg >= value),
        (Compare::Greater, |arg, value, _| arg > value),
        (Compare::MaskedEqual, |arg, value, two| arg & value == two),
    ];
    for (compare, holds) in comparisons {
        for value in &values {
            for two in [0, *value & 0x5555_5555_5555_5555] {
                let rules = [rule(&["read"], Action::ALLOW, &[when(2, compare, *value, two)])];
                let filter = localhost(Arch::Amd64, false, Action::errno(1), &rules).unwrap();
                for arg in &values {
                    let expected = if holds(*arg, *value, two) { ALLOW } else { DENIED };
                    let found = run(&filter, AMD64, number("read"), &[9, 9, *arg, 9, 9, 9]);
                    assert_eq!(found, expected, "{compare:?} {value:#x} {two:#x}: {arg:#x}");
                }
            }
        }
    }
}

#[test]
fn the_first_rule_that_holds_decides_and_one_without_conditions_alone() {
    let rules = [
        rule(&["read", "write", "no_such_call"], Action::ALLOW, &[]),
        rule(&["write"], Action::KILL_PROCESS, &[when(0, Compare::Equal, 1, 0)]),
        rule(&["socket"], Action::errno(13), &[when(0, Compare::Equal, 1, 0), when(1, Compare::Equal, 2, 0)]),
        rule(&["socket"], Action::LOG, &[when(0, Compare::Equal, 1, 0)]),
        // One argument twice: either will do.
        rule(&["ioctl"], Action::ALLOW, &[when(1, Compare::Equal, 5, 0), when(1, Compare::Equal, 6, 0)]),
        rule(&["ptrace"], Action::TRAP, &[]),
        rule(&["kill"], Action::KILL_THREAD, &[]),
        rule(&["getpid"], Action::trace(7), &[]),
        rule(&["mount"], Action::errno(1), &[when(0, Compare::Equal, 1, 0)]),
        rule(&["mount"], Action::ALLOW, &[]),
    ];
    let filter = localhost(Arch::Amd64, false, Action::errno(1), &rules).unwrap();
    for (name, args, expected) in [
        ("read", [0, 0], ALLOW),
        ("write", [1, 0], ALLOW),
        ("socket", [1, 2], ERRNO | 13),
        ("socket", [1, 3], 0x7ffc_0000),
        ("socket", [2, 2], DENIED),
        ("ioctl", [0, 5], ALLOW),
        ("ioctl", [0, 6], ALLOW),
        ("ioctl", [0, 7], DENIED),
        ("ptrace", [0, 0], 0x0003_0000),
        ("kill", [0, 0], 0),
        ("getpid", [0, 0], 0x7ff0_0007),
        ("mount", [1, 0], ALLOW),
        ("close", [0, 0], DENIED),
        // Above all that are named.
        ("io_uring_setup", [0, 0], ERRNO | ENOSYS),
    ] {
        let found = run(&filter, AMD64, number(name), &[args[0], args[1], 0, 0, 0, 0]);
        assert_eq!(found, expected, "{name}{args:?}");
    }
    assert_eq!(run(&filter, I386, 3, &[0; 6]), KILL_PROCESS, "the profile does not name it");
}

#[test]
fn a_profile_that_lets_pass_what_it_does_not_name_lets_no_x32_pass() {
    let rules = [rule(&["chmod"], Action::errno(1), &[])];
    let filter = localhost(Arch::Amd64, true, Action::ALLOW, &rules).unwrap();
    assert_eq!(run(&filter, AMD64, number("chmod"), &[0; 6]), DENIED);
    assert_eq!(run(&filter, AMD64, 4000, &[0; 6]), ALLOW);
    assert_eq!(run(&filter, I386, 15, &[0; 6]), DENIED, "chmod of the 32-bit sibling");
    assert_eq!(run(&filter, AMD64, 0x4000_0000 | number("chmod"), &[0; 6]), ERRNO | ENOSYS);
    assert_eq!(run(&filter, AMD64, 0x4000_0000, &[0; 6]), ERRNO | ENOSYS);
}

#[test]
fn what_cannot_be_a_filter_says_so() {
    let rules = [rule(&["read"], Action::ALLOW, &[when(6, Compare::Equal, 0, 0)])];
    assert_eq!(localhost(Arch::Amd64, false, Action::errno(1), &rules), Err(ProfileError::NoSuchArgument(6)));
    let many: Vec<Condition> = (0..2000).map(|value| when(0, Compare::Equal, value, 0)).collect();
    let rules = vec![rule(&["read"], Action::ALLOW, &many)];
    assert!(matches!(localhost(Arch::Amd64, false, Action::errno(1), &rules), Err(ProfileError::TooLong(_))));
}
