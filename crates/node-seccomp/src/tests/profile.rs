//! A profile as it is published, and what it says of one call: the oracle, written without a thought for speed.

use std::{string::String, vec::Vec};

use serde::Deserialize;

use crate::{
    CapabilitySet,
    compile::{ALLOW, ENOSYS, EPERM, ERRNO},
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    pub default_action: String,
    pub default_errno_ret: u32,
    #[serde(default, rename = "archMap")]
    _arch_map: serde_json::Value,
    pub syscalls: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    pub names: Vec<String>,
    pub action: String,
    #[serde(default)]
    pub errno_ret: Option<u32>,
    #[serde(default)]
    pub args: Vec<Arg>,
    #[serde(default, rename = "comment")]
    _comment: String,
    #[serde(default)]
    pub includes: Conditions,
    #[serde(default)]
    pub excludes: Conditions,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Arg {
    pub index: u8,
    pub value: u64,
    /// With `MASKED_EQ` the first number is the mask; left out, nothing may be left under it.
    #[serde(default)]
    pub value_two: u64,
    pub op: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Conditions {
    #[serde(default)]
    pub caps: Vec<String>,
    #[serde(default)]
    pub arches: Vec<String>,
    /// All that are named are older than any kernel on which the node runs.
    #[serde(default, rename = "minKernel")]
    _min_kernel: String,
}

/// An architecture as the kernel, the profile and the list of numbers know it.
pub struct Machine {
    pub table: &'static str,
    pub audit: u32,
    /// What `includes.arches` holds: the native one, also for its 32-bit sibling.
    pub native: &'static str,
    pub number: fn(&str) -> Option<u32>,
    /// Every call, by name.
    pub all: fn() -> Vec<(&'static str, u32)>,
}

macro_rules! number {
    ($module:ident) => {
        |name: &str| name.parse::<syscalls::$module::Sysno>().ok().map(|number| number.id() as u32)
    };
}

macro_rules! all {
    ($module:ident) => {
        || syscalls::$module::Sysno::iter().map(|call| (call.name(), call.id() as u32)).collect()
    };
}

/// Private calls of ARM, which no list of the kernel's has.
const PRIVATE_OF_ARM: [(&str, u32); 3] = [("breakpoint", 0x0f_0001), ("cacheflush", 0x0f_0002), ("set_tls", 0x0f_0005)];

fn all_of_arm() -> Vec<(&'static str, u32)> {
    let listed: fn() -> Vec<(&'static str, u32)> = all!(arm);
    let is_private = |name: &str| PRIVATE_OF_ARM.iter().any(|(private, _)| *private == name);
    listed().into_iter().filter(|(name, _)| !is_private(name)).chain(PRIVATE_OF_ARM).collect()
}

fn arm_number(name: &str) -> Option<u32> {
    let private = PRIVATE_OF_ARM.iter().find(|(private, _)| *private == name);
    private.map_or_else(|| number!(arm)(name), |(_, number)| Some(*number))
}

pub const MACHINES: [Machine; 4] = [
    Machine { table: "AMD64", audit: 0xc000_003e, native: "amd64", number: number!(x86_64), all: all!(x86_64) },
    Machine { table: "I386", audit: 0x4000_0003, native: "amd64", number: number!(x86), all: all!(x86) },
    Machine { table: "ARM64", audit: 0xc000_00b7, native: "arm64", number: number!(aarch64), all: all!(aarch64) },
    Machine { table: "ARM", audit: 0x4000_0028, native: "arm", number: arm_number, all: all_of_arm },
];

/// Above the calls of all architectures, below the private ones of ARM.
pub const PRIVATE_FIRST: u32 = 0x0f_0000;

pub fn runtime_default() -> Profile {
    serde_json::from_str(include_str!("../../profiles/runtime-default.json")).unwrap()
}

pub fn wasm_worker() -> Profile {
    serde_json::from_str(include_str!("../../profiles/wasm-worker.json")).unwrap()
}

/// The kernel's numbers, of those that the profile names.
pub fn capability(name: &str) -> u8 {
    match name {
        "CAP_DAC_READ_SEARCH" => 2,
        "CAP_SYS_MODULE" => 16,
        "CAP_SYS_RAWIO" => 17,
        "CAP_SYS_CHROOT" => 18,
        "CAP_SYS_PTRACE" => 19,
        "CAP_SYS_PACCT" => 20,
        "CAP_SYS_ADMIN" => 21,
        "CAP_SYS_BOOT" => 22,
        "CAP_SYS_NICE" => 23,
        "CAP_SYS_TIME" => 25,
        "CAP_SYS_TTY_CONFIG" => 26,
        "CAP_SYSLOG" => 34,
        "CAP_PERFMON" => 38,
        "CAP_BPF" => 39,
        other => panic!("{other} is new in the profile: give it its number"),
    }
}

impl Conditions {
    pub fn mask(&self) -> u64 {
        self.caps.iter().fold(0, |mask, name| mask | 1 << capability(name))
    }
}

impl Rule {
    /// Whether it is for this architecture at all; capabilities decide at a container's start.
    pub fn is_for(&self, machine: &Machine) -> bool {
        let names = |arches: &[String]| arches.iter().any(|arch| arch == machine.native);
        (self.includes.arches.is_empty() || names(&self.includes.arches)) && !names(&self.excludes.arches)
    }

    pub fn counts(&self, machine: &Machine, granted: CapabilitySet) -> bool {
        let granted = |name: &String| granted.0 >> capability(name) & 1 == 1;
        self.is_for(machine) && self.includes.caps.iter().all(granted) && !self.excludes.caps.iter().any(granted)
    }

    fn answer(&self, profile: &Profile) -> u32 {
        match self.action.as_str() {
            "SCMP_ACT_ALLOW" => ALLOW,
            "SCMP_ACT_ERRNO" => ERRNO | self.errno_ret.unwrap_or(profile.default_errno_ret),
            other => panic!("{other} is new in the profile: teach it to the compiler"),
        }
    }
}

impl Arg {
    fn holds(&self, args: &[u64; 6]) -> bool {
        let arg = args[usize::from(self.index)];
        match self.op.as_str() {
            "SCMP_CMP_EQ" => arg == self.value,
            "SCMP_CMP_LT" => arg < self.value,
            "SCMP_CMP_MASKED_EQ" => arg & self.value == self.value_two,
            other => panic!("{other} is new in the profile: teach it to the compiler"),
        }
    }
}

impl Profile {
    /// The numbers that the profile knows here, by name.
    pub fn known(&self, machine: &Machine) -> impl Iterator<Item = u32> {
        self.syscalls.iter().flat_map(|rule| &rule.names).filter_map(|name| (machine.number)(name))
    }

    pub fn newest(&self, machine: &Machine) -> u32 {
        self.known(machine).filter(|number| *number < PRIVATE_FIRST).max().unwrap()
    }

    /// What is to happen with one call.
    pub fn says(&self, machine: &Machine, granted: CapabilitySet, number: u32, args: &[u64; 6]) -> u32 {
        assert_eq!((self.default_action.as_str(), self.default_errno_ret), ("SCMP_ACT_ERRNO", EPERM));
        let rules = self.syscalls.iter().filter(|rule| {
            let named = rule.names.iter().any(|name| (machine.number)(name) == Some(number));
            named && rule.counts(machine, granted)
        });
        let mut known = false;
        for rule in rules {
            known = true;
            if rule.args.iter().all(|arg| arg.holds(args)) {
                return rule.answer(self);
            }
        }
        ERRNO | if !known && number > self.newest(machine) { ENOSYS } else { EPERM }
    }
}
