//! Filters for system calls as files describe them: the profile that engines have in common, and those of the node (`Localhost`).
//!
//! The form is that of the OCI runtime specification (`linux.seccomp`), which containerd reads, with what Docker and CRI-O write beside it:
//! `archMap`, and `includes` and `excludes` of rules. What counts here is worked out first; other runtimes get that as it is, our own
//! shim the instructions that it comes to. A file is the node's administrator's, yet what is half understood is rejected: a filter that
//! lets more pass than its author meant protects nobody.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use node_seccomp::{Action, Arch, Compare, Condition, NamedRule, ProfileError};
use node_shim::{
    ContainerSpec,
    beneath::{self, Links},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{RuntimeError, oci};

/// What containerd calls its default profile has the content of this one.
const DEFAULT: &str = include_str!("../../node-seccomp/profiles/runtime-default.json");

/// Ten times the profile of Docker, which names all calls there are.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Calls that rules name, each as often as its rule has arguments: what it takes to compile a profile is in proportion.
const NAMED_MAX: usize = 32 * 1024;
/// The kernel's, too: `ERRNO` with a higher one is this one.
const ERRNO_MAX: u16 = 4095;
/// Where a profile says no number.
const EPERM: u16 = 1;

/// Reads the profile that a container names, if it does, in the form that is needed: for another runtime, or our shim.
///
/// # Errors
/// When there is no such file, or no filter comes out of it. The error says what to do.
pub(crate) fn read(dir: &Path, spec: &mut ContainerSpec, for_another: bool) -> Result<(), RuntimeError> {
    // A privileged container has no filter, whatever it names.
    if spec.security.privileged {
        spec.security.seccomp_profile = None;
    }
    let id = spec.id();
    let granted = oci::capabilities(&spec.security);
    let Some(profile) = &mut spec.security.seccomp_profile else { return Ok(()) };
    let path = dir.join(&profile.path);
    let compiled = load(dir, &profile.path).and_then(|text| {
        let rules = of_node(&text, &granted)?;
        Ok((compile(&rules)?, rules))
    });
    let (filter, rules) = compiled.map_err(|why| RuntimeError::Refused {
        id,
        reason: format!("cannot load seccomp profile \"{}\": {why}", path.display()),
    })?;
    match for_another {
        true => profile.oci = rules.to_string(),
        false => profile.filter = filter,
    }
    Ok(())
}

fn load(dir: &Path, path: &Path) -> Result<Vec<u8>, String> {
    let put = |error: io::Error| format!("{error}; put the profile there, or use `seccompProfile: RuntimeDefault`");
    let root = beneath::open_path(dir).map_err(put)?;
    let found = beneath::open(root.as_fd(), path, Links::Followed).map_err(|why| {
        format!("{why}; put the profile there: `localhostProfile` is a path below the node's {}", dir.display())
    })?;
    let is_file =
        rustix::fs::fstat(&found).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file());
    if !is_file {
        return Err("it is no file".to_owned());
    }
    let mut text = Vec::new();
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(put)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(put)?;
    match text.len() as u64 {
        length if length > FILE_BYTES_MAX => Err(format!("it is longer than {} KiB", FILE_BYTES_MAX / 1024)),
        _ => Ok(text),
    }
}

/// The profile that engines have in common, for a container with these capabilities.
pub(crate) fn default(granted: &[String]) -> Value {
    let mut profile: Value = serde_json::from_str(DEFAULT).expect("the profile is part of this program and tested");
    json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": architectures(&profile),
        "syscalls": rules_that_count(&mut profile, granted),
    })
}

/// The same of a file of the node. It has `flags`, too.
fn of_node(text: &[u8], granted: &[String]) -> Result<Value, String> {
    let broken = |error: serde_json::Error| format!("{error}; it must be JSON of the OCI runtime specification");
    let mut profile: Value = serde_json::from_slice(text).map_err(broken)?;
    let mut rules = Map::new();
    for key in ["defaultAction", "defaultErrnoRet", "flags"] {
        match &profile[key] {
            Value::Null => {}
            value => drop(rules.insert(key.to_owned(), value.clone())),
        }
    }
    rules.insert("architectures".to_owned(), json!(architectures(&profile)));
    rules.insert("syscalls".to_owned(), rules_that_count(&mut profile, granted));
    Ok(Value::Object(rules))
}

/// The name of this machine's architecture in `includes`, and in `architectures`.
const fn native() -> (&'static str, &'static str) {
    match Arch::NATIVE {
        Some(Arch::Arm64) => ("arm64", "SCMP_ARCH_AARCH64"),
        Some(Arch::Arm) => ("arm", "SCMP_ARCH_ARM"),
        _ => ("amd64", "SCMP_ARCH_X86_64"),
    }
}

/// Those whose calls are looked at: its own, and those that the profile names.
fn architectures(profile: &Value) -> Vec<String> {
    let (_, native) = native();
    let of_map = profile["archMap"].as_array().into_iter().flatten().find(|entry| entry["architecture"] == native);
    let named = [Some(&profile["architectures"]), of_map.map(|entry| &entry["subArchitectures"])];
    let named = named.into_iter().flatten().filter_map(Value::as_array).flatten().filter_map(Value::as_str);
    let mut all = vec![native.to_owned()];
    for name in named {
        if all.iter().all(|one| one != name) {
            all.push(name.to_owned());
        }
    }
    all
}

/// Takes the rules that count for these capabilities here.
fn rules_that_count(profile: &mut Value, granted: &[String]) -> Value {
    let (arch, _) = native();
    let has = |list: &Value, test: &dyn Fn(&str) -> bool| {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).any(test)
    };
    let is_granted = |name: &str| granted.iter().any(|one| one == name);
    let counts = |rule: &Map<String, Value>| {
        let of = |key: &str, what: &str| rule.get(key).and_then(|when| when.get(what)).cloned().unwrap_or_default();
        let arches = of("includes", "arches");
        !has(&of("includes", "caps"), &|name| !is_granted(name))
            && !has(&of("excludes", "caps"), &is_granted)
            && (arches.is_null() || has(&arches, &|name| name == arch))
            && !has(&of("excludes", "arches"), &|name| name == arch)
    };
    let mut rules = Vec::new();
    let all = match profile.get_mut("syscalls") {
        Some(Value::Array(all)) => all,
        None | Some(Value::Null) => return json!([]),
        // Whoever reads it says what is wrong.
        Some(other) => return other.take(),
    };
    for rule in all {
        match rule.take() {
            Value::Object(mut rule) if counts(&rule) => {
                for name in ["includes", "excludes", "comment"] {
                    rule.remove(name);
                }
                rules.push(Value::Object(rule));
            }
            Value::Object(_) => {}
            other => rules.push(other),
        }
    }
    Value::Array(rules)
}

/// `linux.seccomp`, as far as it says what is let pass.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile<'a> {
    default_action: &'a str,
    default_errno_ret: Option<u16>,
    #[serde(borrow)]
    architectures: Vec<&'a str>,
    #[serde(borrow)]
    syscalls: Vec<Rule<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule<'a> {
    #[serde(borrow)]
    names: Vec<&'a str>,
    action: &'a str,
    errno_ret: Option<u16>,
    #[serde(borrow)]
    args: Option<Vec<Arg<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arg<'a> {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: &'a str,
}

/// The instructions that a profile comes to, as the shim is given them.
fn compile(rules: &Value) -> Result<Vec<u64>, String> {
    let profile = Profile::deserialize(rules).map_err(|error| error.to_string())?;
    let named = |rule: &Rule<'_>| rule.names.len() * rule.args.as_ref().map_or(1, |args| args.len().max(1));
    if profile.syscalls.iter().map(named).sum::<usize>() > NAMED_MAX {
        return Err(format!("its rules name more than {NAMED_MAX} calls and arguments"));
    }
    let mut named_rules = Vec::new();
    for rule in &profile.syscalls {
        let conditions = rule.args.iter().flatten().map(condition).collect::<Result<_, _>>()?;
        let action = action(rule.action, rule.errno_ret)?;
        named_rules.push(NamedRule { names: rule.names.clone(), action, conditions });
    }
    let default = action(profile.default_action, profile.default_errno_ret)?;
    let arch = Arch::NATIVE.ok_or("this version has no filters for this machine's architecture")?;
    let with_sibling = profile.architectures.iter().any(|name| ["SCMP_ARCH_X86", "SCMP_ARCH_ARM"].contains(name));
    match node_seccomp::localhost(arch, with_sibling, default, &named_rules) {
        Ok(filter) => Ok(filter.into_iter().map(u64::from).collect()),
        Err(ProfileError::NoSuchArgument(index)) => Err(format!("a call has no argument {index}, they are 0 to 5")),
        Err(ProfileError::TooLong(length)) => {
            Err(format!("it comes to {length} instructions, and the kernel takes 4096; name fewer arguments"))
        }
    }
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, String> {
    let errno = errno.unwrap_or(EPERM);
    if errno > ERRNO_MAX {
        return Err(format!("{errno} is no error number"));
    }
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::ALLOW,
        "SCMP_ACT_ERRNO" => Action::errno(errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => Action::KILL_PROCESS,
        "SCMP_ACT_LOG" => Action::LOG,
        "SCMP_ACT_TRACE" => Action::trace(errno),
        "SCMP_ACT_TRAP" => Action::TRAP,
        "SCMP_ACT_NOTIFY" => return Err("nobody here decides on `SCMP_ACT_NOTIFY`; use another action".to_owned()),
        _ => return Err(format!("`{name}` is no action; `SCMP_ACT_ERRNO` and `SCMP_ACT_ALLOW` are some")),
    })
}

fn condition(arg: &Arg<'_>) -> Result<Condition, String> {
    let compare = match arg.op {
        "SCMP_CMP_NE" => Compare::NotEqual,
        "SCMP_CMP_LT" => Compare::Less,
        "SCMP_CMP_LE" => Compare::AtMost,
        "SCMP_CMP_EQ" => Compare::Equal,
        "SCMP_CMP_GE" => Compare::AtLeast,
        "SCMP_CMP_GT" => Compare::Greater,
        "SCMP_CMP_MASKED_EQ" => Compare::MaskedEqual,
        other => return Err(format!("`{other}` is no comparison; `SCMP_CMP_EQ` is one")),
    };
    Ok(Condition { index: arg.index, compare, value: arg.value, value_two: arg.value_two })
}

#[cfg(test)]
mod tests;
