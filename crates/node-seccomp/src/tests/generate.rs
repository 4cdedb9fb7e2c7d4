//! Writes `tables.rs` from the profiles.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write as _,
    fs,
    string::{String, ToString},
    vec::Vec,
};

use super::profile::{self, Arg, MACHINES, Machine, PRIVATE_FIRST, Profile, Rule};

#[test]
fn tables_are_those_of_the_profiles() {
    let mut text = String::from(
        "//! Generated from `profiles/*.json` by `tests/generate.rs`; do not edit. One rule a line.\n\n\
         use crate::compile::{Answer::{Allow, Errno}, Arg::{Below, Equal, Masked}, Rule, Table};\n",
    );
    for machine in &MACHINES {
        table(&mut text, "RUNTIME_DEFAULT", &profile::runtime_default(), machine);
    }
    for machine in MACHINES.iter().filter(|machine| machine.table != "I386") {
        table(&mut text, "WASM_WORKER", &profile::wasm_worker(), machine);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tables.rs");
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, &text).unwrap();
    }
    assert!(fs::read_to_string(path).unwrap() == text, "tables.rs is old: run this test with UPDATE_EXPECT=1");
}

fn table(text: &mut String, name: &str, profile: &Profile, machine: &Machine) {
    let newest = profile.newest(machine);
    writeln!(
        text,
        "\npub(crate) static {name}_{}: Table = Table {{ audit: {:#x}, newest: {newest}, rules: &[",
        machine.table, machine.audit
    )
    .unwrap();
    for rule in profile.syscalls.iter().filter(|rule| rule.is_for(machine)) {
        line(text, rule, machine);
    }
    text.push_str("] };\n");
}

fn line(text: &mut String, rule: &Rule, machine: &Machine) {
    let numbers: BTreeSet<u32> = rule.names.iter().filter_map(|name| (machine.number)(name)).collect();
    if numbers.is_empty() {
        return;
    }
    let answer = match rule.errno_ret {
        None => "Allow".to_string(),
        Some(number) => std::format!("Errno({number})"),
    };
    let args: Vec<String> = rule.args.iter().map(arg).collect();
    writeln!(
        text,
        "Rule {{ with: {:#x}, without: {:#x}, answer: {answer}, args: &[{}], numbers: &{:?} }},",
        rule.includes.mask(),
        rule.excludes.mask(),
        args.join(", "),
        spans(&numbers),
    )
    .unwrap();
}

fn arg(arg: &Arg) -> String {
    let Arg { index, value, value_two, op, .. } = arg;
    match op.as_str() {
        "SCMP_CMP_LT" => std::format!("Below {{ index: {index}, value: {value} }}"),
        "SCMP_CMP_EQ" => std::format!("Equal {{ index: {index}, value: {value:#x} }}"),
        "SCMP_CMP_MASKED_EQ" => std::format!("Masked {{ index: {index}, mask: {value:#x}, value: {value_two:#x} }}"),
        other => panic!("{other} is new in the profile: teach it to the compiler"),
    }
}

/// Neighbours as one pair; a private call has none.
fn spans(numbers: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == number && number < PRIVATE_FIRST => *last = number,
            _ => spans.push((number, number)),
        }
    }
    spans
}
