//! Filters of profiles that people write: `seccompProfile: Localhost`, in the form of the OCI runtime specification.
//!
//! What is compiled is what runc makes of the same profile with libseccomp: the first rule of a number whose conditions hold decides, one
//! without conditions decides alone; conditions that name one argument twice are rules of their own; names that no call here has are
//! passed over; and where what is unknown is not let pass, a number above all that the profile names fails with ENOSYS. What is stricter:
//! x32 is never let pass, whatever the profile says.

use alloc::{borrow::Cow, vec, vec::Vec};

use crate::{
    Arch, SockFilter,
    compile::{self, Arg, Decisions, ENOSYS, ERRNO},
    names,
};

/// Numbers of x32 are above this, those of all others below.
const X32_FIRST: u32 = 0x4000_0000;
/// Private calls of ARM begin here: they say nothing of how new a profile is.
const PRIVATE_FIRST: u32 = 0x0f_0000;
/// What the kernel takes.
const INSTRUCTIONS_MAX: usize = 4096;

/// What happens with a call, as the kernel encodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action(u32);

impl Action {
    /// It is let pass.
    pub const ALLOW: Self = Self(0x7fff_0000);
    /// It is let pass, and the kernel logs it.
    pub const LOG: Self = Self(0x7ffc_0000);
    /// The thread gets SIGSYS.
    pub const TRAP: Self = Self(0x0003_0000);
    /// The thread ends.
    pub const KILL_THREAD: Self = Self(0);
    /// The process ends.
    pub const KILL_PROCESS: Self = Self(0x8000_0000);

    /// It fails with this number.
    #[must_use]
    pub const fn errno(number: u16) -> Self {
        Self(0x0005_0000 | number as u32)
    }

    /// Whoever traces the thread decides, and is given this number.
    #[must_use]
    pub const fn trace(number: u16) -> Self {
        Self(0x7ff0_0000 | number as u32)
    }

    /// Whether a call that is not known may still be made.
    const fn lets_pass(self) -> bool {
        matches!(self.0 & 0xffff_0000, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000)
    }
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// `SCMP_CMP_NE`.
    NotEqual,
    /// `SCMP_CMP_LT`.
    Less,
    /// `SCMP_CMP_LE`.
    AtMost,
    /// `SCMP_CMP_EQ`.
    Equal,
    /// `SCMP_CMP_GE`.
    AtLeast,
    /// `SCMP_CMP_GT`.
    Greater,
    /// `SCMP_CMP_MASKED_EQ`: the first value is the mask, the second what is left under it.
    MaskedEqual,
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which one, 0 to 5.
    pub index: u8,
    /// How it is compared.
    pub compare: Compare,
    /// With what.
    pub value: u64,
    /// The second value of those that have one.
    pub value_two: u64,
}

/// What is said of some calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRule<'a> {
    /// Names of calls.
    pub names: Vec<&'a str>,
    /// What happens with them.
    pub action: Action,
    /// All must hold.
    pub conditions: Vec<Condition>,
}

/// Why there is no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileError {
    /// Calls have six arguments.
    NoSuchArgument(u8),
    /// The kernel takes 4,096 instructions.
    TooLong(usize),
}

/// The filter of a profile. `with_sibling` is whether calls of the 32-bit architecture that the same machine runs are looked at: those of
/// one that the profile does not name end the process.
///
/// # Errors
/// When the profile cannot be a filter.
pub fn localhost(
    arch: Arch,
    with_sibling: bool,
    default: Action,
    rules: &[NamedRule<'_>],
) -> Result<Vec<SockFilter>, ProfileError> {
    let mut architectures = Vec::new();
    for machine in names::machines(arch).iter().take(if with_sibling { 2 } else { 1 }) {
        architectures.push(decisions(machine, default, rules)?);
    }
    let program = compile::program(&architectures);
    match program.len() {
        length if length > INSTRUCTIONS_MAX => Err(ProfileError::TooLong(length)),
        _ => Ok(program),
    }
}

fn decisions(machine: &names::Machine, default: Action, rules: &[NamedRule<'_>]) -> Result<Decisions, ProfileError> {
    let numbers =
        |rule: &NamedRule<'_>| -> Vec<u32> { rule.names.iter().filter_map(|name| machine.number(name)).collect() };
    let newest = rules.iter().flat_map(numbers).filter(|number| *number < PRIVATE_FIRST).max().unwrap_or(0);
    let beyond = match default.lets_pass() {
        true => (X32_FIRST - 1, ERRNO | ENOSYS),
        false => (newest, ERRNO | ENOSYS),
    };
    let mut decisions = Decisions::new(machine.audit, default.0, beyond);
    for rule in rules {
        // What happens anyway needs no rule; with conditions it would keep a later one from its say.
        if rule.action == default {
            continue;
        }
        let mut all = Vec::new();
        for condition in &rule.conditions {
            all.push(arg(condition)?);
        }
        let indices = rule.conditions.iter().map(|condition| condition.index).collect::<Vec<u8>>();
        let has_twice = indices.iter().enumerate().any(|(at, index)| indices[..at].contains(index));
        let alternatives = if has_twice { all.into_iter().map(|arg| vec![arg]).collect() } else { vec![all] };
        for number in numbers(rule) {
            for args in &alternatives {
                // What never holds says nothing.
                if let Some(args) = args.iter().cloned().collect::<Option<Vec<Vec<Arg>>>>() {
                    decisions.add(number, Cow::Owned(args.into_iter().flatten().collect()), rule.action.0);
                }
            }
        }
    }
    Ok(decisions)
}

/// The tests of one condition: none where it always holds, nothing where it never does.
fn arg(condition: &Condition) -> Result<Option<Vec<Arg>>, ProfileError> {
    let Condition { index, compare, value, value_two } = *condition;
    if index > 5 {
        return Err(ProfileError::NoSuchArgument(index));
    }
    Ok(match compare {
        Compare::Equal => Some(vec![Arg::Equal { index, value }]),
        Compare::NotEqual => Some(vec![Arg::NotEqual { index, value }]),
        Compare::AtLeast => Some(vec![Arg::AtLeast { index, value }]),
        Compare::Less => Some(vec![Arg::Less { index, value }]),
        Compare::Greater => value.checked_add(1).map(|value| vec![Arg::AtLeast { index, value }]),
        Compare::AtMost => Some(value.checked_add(1).map(|value| Arg::Less { index, value }).into_iter().collect()),
        Compare::MaskedEqual => Some(vec![Arg::Masked { index, mask: value, value: value_two }]),
    })
}
