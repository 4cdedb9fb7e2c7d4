//! From a table to classic BPF.
//!
//! The kernel runs the filter at every system call, so the number is looked for in a tree: neighbours with the same answer
//! become one range, and a range is found after some seven comparisons instead of three hundred. Classic BPF has no loops and
//! jumps forward by at most 255 instructions where a condition decides; longer ways go by an unconditional jump.

use alloc::{borrow::Cow, collections::BTreeMap, vec, vec::Vec};

use crate::CapabilitySet;

/// One instruction of classic BPF, laid out as the kernel's `sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SockFilter {
    /// What to do.
    pub code: u16,
    /// Instructions to skip when the condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

/// As one number, in which it can be handed on.
impl From<SockFilter> for u64 {
    fn from(SockFilter { code, jt, jf, k }: SockFilter) -> Self {
        Self::from(code) << 48 | Self::from(jt) << 40 | Self::from(jf) << 32 | Self::from(k)
    }
}

impl From<u64> for SockFilter {
    fn from(bits: u64) -> Self {
        Self { code: (bits >> 48) as u16, jt: (bits >> 40) as u8, jf: (bits >> 32) as u8, k: bits as u32 }
    }
}

/// A profile on one architecture.
pub(crate) struct Table {
    /// The kernel's number of the architecture (`AUDIT_ARCH_…`).
    pub audit: u32,
    /// The highest number that the profile knows, private calls of the architecture apart.
    pub newest: u32,
    pub rules: &'static [Rule],
}

/// Numbers with the same answer under the same conditions.
pub(crate) struct Rule {
    /// Capabilities the container must all have for the rule to count.
    pub with: u64,
    /// Capabilities of which it must have none.
    pub without: u64,
    pub answer: Answer,
    /// All must hold; where one does not, the next rule for the same number is tried, and after the last EPERM is answered.
    pub args: &'static [Arg],
    /// First and last, in ascending order.
    pub numbers: &'static [(u32, u32)],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Allow,
    Errno(u16),
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// Below a number of 32 bits.
    Below {
        index: u8,
        value: u32,
    },
    Equal {
        index: u8,
        value: u64,
    },
    NotEqual {
        index: u8,
        value: u64,
    },
    AtLeast {
        index: u8,
        value: u64,
    },
    /// Below a number of 64 bits.
    Less {
        index: u8,
        value: u64,
    },
    /// What is left of it under the mask.
    Masked {
        index: u8,
        mask: u64,
        value: u64,
    },
}

/// `ld [k]`: a word of `seccomp_data`.
pub(crate) const LOAD: u16 = 0x20;
/// `jeq k`.
pub(crate) const EQUAL: u16 = 0x15;
/// `jge k`, unsigned.
pub(crate) const AT_LEAST: u16 = 0x35;
/// `ja k`.
pub(crate) const JUMP: u16 = 0x05;
/// `and k`.
pub(crate) const AND: u16 = 0x54;
/// `ret k`.
pub(crate) const RETURN: u16 = 0x06;

pub(crate) const ALLOW: u32 = 0x7fff_0000;
pub(crate) const ERRNO: u32 = 0x0005_0000;
pub(crate) const KILL_PROCESS: u32 = 0x8000_0000;

pub(crate) const EPERM: u32 = 1;
pub(crate) const ENOSYS: u32 = 38;

/// Offsets in `seccomp_data`.
const AT_NUMBER: u32 = 0;
const AT_ARCH: u32 = 4;
const AT_ARGS: u32 = 16;

/// A conditional jump takes one byte.
const NEAR_MAX: usize = 255;

/// What is done with one number.
#[derive(Clone, PartialEq)]
enum Decision {
    Return(u32),
    /// The first whose conditions hold.
    Conditions(Vec<(Cow<'static, [Arg]>, u32)>),
}

/// What is done with each number of one architecture.
pub(crate) struct Decisions {
    audit: u32,
    by_number: BTreeMap<u32, Decision>,
    /// Where no rule says anything, and where no condition holds.
    default: u32,
    /// Above this number nothing is known, and this is the answer.
    beyond: (u32, u32),
}

/// Where a decision begins; it holds up to the next one.
struct Range {
    first: u32,
    decision: Decision,
}

/// The filter for a machine that knows the architectures of all `tables`.
pub(crate) fn filter(tables: &[&Table], granted: CapabilitySet) -> Vec<SockFilter> {
    let decisions: Vec<Decisions> = tables.iter().map(|table| Decisions::of_table(table, granted)).collect();
    program(&decisions)
}

/// The filter for a machine that knows these architectures.
pub(crate) fn program(architectures: &[Decisions]) -> Vec<SockFilter> {
    let body = |decisions: &Decisions| tree(&ranges(decisions), decisions.default);
    let bodies: Vec<Vec<SockFilter>> = architectures.iter().map(body).collect();
    let mut program = vec![op(LOAD, AT_ARCH)];
    // Each architecture has a test and a jump; after them comes the answer to every other one.
    let mut ahead = 2 * architectures.len() + 1;
    for (decisions, body) in architectures.iter().zip(&bodies) {
        program.push(jump(EQUAL, decisions.audit, 0, 1));
        ahead -= 2;
        program.push(op(JUMP, ahead as u32));
        ahead += body.len() + 1;
    }
    program.push(op(RETURN, KILL_PROCESS));
    for body in bodies {
        program.push(op(LOAD, AT_NUMBER));
        program.extend(body);
    }
    program
}

fn ranges(decisions: &Decisions) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let mut push = |first: u32, decision: Decision| {
        if ranges.last().is_none_or(|last| last.decision != decision) {
            ranges.push(Range { first, decision });
        }
    };
    let (newest, beyond) = decisions.beyond;
    let unknown = |number: u32| Decision::Return(if number > newest { beyond } else { decisions.default });
    let mut next = 0;
    for (number, decision) in &decisions.by_number {
        if next < *number {
            push(next, unknown(next));
            if next <= newest && newest + 1 < *number {
                push(newest + 1, unknown(*number));
            }
        }
        push(*number, decision.clone());
        next = *number + 1;
    }
    if next <= newest {
        push(next, unknown(next));
        next = newest + 1;
    }
    push(next, unknown(u32::MAX));
    ranges
}

impl Decisions {
    pub(crate) fn new(audit: u32, default: u32, beyond: (u32, u32)) -> Self {
        Self { audit, by_number: BTreeMap::new(), default, beyond }
    }

    /// What the rules that count say of each number they name.
    fn of_table(table: &Table, granted: CapabilitySet) -> Self {
        let mut decisions = Self::new(table.audit, ERRNO | EPERM, (table.newest, ERRNO | ENOSYS));
        for rule in table.rules {
            if !granted.has_all(rule.with) || granted.has_any(rule.without) {
                continue;
            }
            let answer = match rule.answer {
                Answer::Allow => ALLOW,
                Answer::Errno(number) => ERRNO | u32::from(number),
            };
            for number in rule.numbers.iter().flat_map(|(first, last)| *first..=*last) {
                decisions.add(number, Cow::Borrowed(rule.args), answer);
            }
        }
        decisions
    }

    /// Adds what a rule says of a number.
    pub(crate) fn add(&mut self, number: u32, args: Cow<'static, [Arg]>, answer: u32) {
        match self.by_number.entry(number).or_insert_with(|| Decision::Conditions(Vec::new())) {
            // A rule without conditions says all there is to say.
            Decision::Return(_) => {}
            decision if args.is_empty() => *decision = Decision::Return(answer),
            Decision::Conditions(conditions) => conditions.push((args, answer)),
        }
    }
}

fn tree(ranges: &[Range], default: u32) -> Vec<SockFilter> {
    if let [range] = ranges {
        return leaf(&range.decision, default);
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let (first, below, above) = (above[0].first, tree(below, default), tree(above, default));
    let mut program = match u8::try_from(below.len()) {
        Ok(near) => vec![jump(AT_LEAST, first, near, 0)],
        Err(_) => vec![jump(AT_LEAST, first, 0, 1), op(JUMP, below.len() as u32)],
    };
    program.extend(below);
    program.extend(above);
    program
}

fn leaf(decision: &Decision, default: u32) -> Vec<SockFilter> {
    let conditions = match decision {
        Decision::Return(answer) => return vec![op(RETURN, *answer)],
        Decision::Conditions(conditions) => conditions,
    };
    let mut program = Vec::new();
    for (args, answer) in conditions {
        program.extend(condition(args, *answer));
    }
    program.push(op(RETURN, default));
    program
}

/// Returns `answer` when all of `args` hold; otherwise runs into what follows.
fn condition(args: &[Arg], answer: u32) -> Vec<SockFilter> {
    let mut program = Vec::new();
    // Tests whose way out is not known yet, and whether it is taken when they hold.
    let mut ways_out: Vec<(usize, bool)> = Vec::new();
    let mut test = |program: &mut Vec<SockFilter>, code, k, out_when| {
        ways_out.push((program.len(), out_when));
        program.push(jump(code, k, 0, 0));
    };
    for arg in args {
        match *arg {
            Arg::Below { index, value } => {
                program.push(op(LOAD, high(index)));
                test(&mut program, EQUAL, 0, false);
                program.push(op(LOAD, low(index)));
                test(&mut program, AT_LEAST, value, true);
            }
            Arg::Equal { index, value } => {
                program.push(op(LOAD, high(index)));
                test(&mut program, EQUAL, (value >> 32) as u32, false);
                program.push(op(LOAD, low(index)));
                test(&mut program, EQUAL, value as u32, false);
            }
            Arg::NotEqual { index, value } => {
                program.push(op(LOAD, high(index)));
                program.push(jump(EQUAL, (value >> 32) as u32, 0, 2));
                program.push(op(LOAD, low(index)));
                test(&mut program, EQUAL, value as u32, true);
            }
            Arg::AtLeast { index, value } => {
                program.push(op(LOAD, high(index)));
                if let Some(more) = ((value >> 32) as u32).checked_add(1) {
                    program.push(jump(AT_LEAST, more, 3, 0));
                }
                test(&mut program, EQUAL, (value >> 32) as u32, false);
                program.push(op(LOAD, low(index)));
                test(&mut program, AT_LEAST, value as u32, false);
            }
            Arg::Less { index, value } => {
                program.push(op(LOAD, high(index)));
                if let Some(more) = ((value >> 32) as u32).checked_add(1) {
                    test(&mut program, AT_LEAST, more, true);
                }
                program.push(jump(EQUAL, (value >> 32) as u32, 0, 2));
                program.push(op(LOAD, low(index)));
                test(&mut program, AT_LEAST, value as u32, true);
            }
            Arg::Masked { index, mask, value } => {
                for (at, mask, value) in
                    [(high(index), (mask >> 32) as u32, (value >> 32) as u32), (low(index), mask as u32, value as u32)]
                {
                    if mask != 0 {
                        program.extend([op(LOAD, at), op(AND, mask)]);
                        test(&mut program, EQUAL, value, false);
                    }
                }
            }
        }
    }
    program.push(op(RETURN, answer));
    for (at, out_when) in ways_out {
        let skipped = program.len() - at - 1;
        assert!(skipped <= NEAR_MAX, "a rule has at most six arguments, of some four instructions each");
        let way = if out_when { &mut program[at].jt } else { &mut program[at].jf };
        *way = skipped as u8;
    }
    program
}

/// All architectures here are little-endian: the low half of an argument comes first.
const fn low(index: u8) -> u32 {
    AT_ARGS + 8 * index as u32
}

const fn high(index: u8) -> u32 {
    low(index) + 4
}

const fn op(code: u16, k: u32) -> SockFilter {
    SockFilter { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> SockFilter {
    SockFilter { code, jt, jf, k }
}
