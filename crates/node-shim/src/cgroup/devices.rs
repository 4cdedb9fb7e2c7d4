//! Which devices a group may use: a list for version 1, a program in the kernel for version 2.
//!
//! A container of an image may make device nodes (`MKNOD` is among the rights that engines give), so the kernel has to be the one that
//! says which of them open. Programs of the node cannot make any, and need no list.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use super::{CgroupPaths, at, set};

/// A device by its number; `None` is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Allowed {
    major: u32,
    minor: Option<u32>,
}

/// What programs expect of every machine, and terminals: all are character devices.
const ALLOWED: [Allowed; 8] = [
    Allowed { major: 1, minor: Some(3) },
    Allowed { major: 1, minor: Some(5) },
    Allowed { major: 1, minor: Some(7) },
    Allowed { major: 1, minor: Some(8) },
    Allowed { major: 1, minor: Some(9) },
    Allowed { major: 5, minor: Some(0) },
    Allowed { major: 5, minor: Some(2) },
    Allowed { major: 136, minor: None },
];

impl CgroupPaths {
    /// Lets what is in the group use the devices of every container, and make nodes of any.
    ///
    /// # Errors
    /// When the kernel cannot: a container of an image is not started without.
    pub fn guard_devices(&self) -> io::Result<()> {
        if self.is_v2() {
            return attach(self.controller("devices")?, &program());
        }
        let path = self.controller("devices")?;
        set(path, "devices.deny", "a")?;
        for rule in ["c *:* m", "b *:* m"] {
            set(path, "devices.allow", rule)?;
        }
        for Allowed { major, minor } in ALLOWED {
            let minor = minor.map_or_else(|| "*".to_owned(), |minor| minor.to_string());
            set(path, "devices.allow", format!("c {major}:{minor} rwm"))?;
        }
        Ok(())
    }
}

/// An instruction of the kernel's virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    value: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, value }
}

/// `r2 = *(u32 *)(r1 + offset)` and the like; the codes are those of `linux/bpf.h`.
const LOAD_WORD: u8 = 0x61;
const MOVE_VALUE: u8 = 0xb7;
const MOVE: u8 = 0xbf;
const SHIFT_RIGHT: u8 = 0x77;
const AND: u8 = 0x57;
const JUMP_IF_NOT: u8 = 0x55;
const EXIT: u8 = 0x95;

/// `BPF_DEVCG_DEV_CHAR` and `BPF_DEVCG_ACC_MKNOD`.
const CHARACTER_DEVICE: i32 = 2;
const MAKE_NODE: i32 = 1;

/// The kernel hands over `{ access << 16 | type, major, minor }` and takes 1 for yes.
fn program() -> Vec<Instruction> {
    let answer = |yes: i32| [instruction(MOVE_VALUE, 0, 0, 0, yes), instruction(EXIT, 0, 0, 0, 0)];
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
        // Whoever only makes a node cannot open it by that.
        instruction(JUMP_IF_NOT, 3, 0, 2, MAKE_NODE),
    ];
    program.extend(answer(1));
    for Allowed { major, minor } in ALLOWED {
        // Each test skips what is left of its own block: the tests after it and the answer.
        let tests = [Some((2, CHARACTER_DEVICE)), Some((4, major as i32)), minor.map(|minor| (5, minor as i32))];
        let tests: Vec<(u8, i32)> = tests.into_iter().flatten().collect();
        for (number, (register, value)) in tests.iter().enumerate() {
            let left = tests.len() - number - 1 + answer(1).len();
            program.push(instruction(JUMP_IF_NOT, *register, 0, left as i16, *value));
        }
        program.extend(answer(1));
    }
    program.extend(answer(0));
    program
}

fn attach(group: &Path, program: &[Instruction]) -> io::Result<()> {
    /// The part of `union bpf_attr` for BPF_PROG_LOAD that every kernel with this program type has.
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        program_type: u32,
        instructions: u32,
        program: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        attach_type: u32,
        flags: u32,
    }
    const PROG_LOAD: i32 = 5;
    const PROG_ATTACH: i32 = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const ATTACH_CGROUP_DEVICE: u32 = 6;
    let bytes: Vec<u8> = program.iter().flat_map(encode).collect();
    let load = Load {
        program_type: TYPE_CGROUP_DEVICE,
        instructions: program.len() as u32,
        program: bytes.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        attach_type: ATTACH_CGROUP_DEVICE,
        ..Load::default()
    };
    // SAFETY: the struct has the kernel's layout, and what it points to outlives the call.
    let loaded = unsafe { bpf(PROG_LOAD, &raw const load, size_of::<Load>()) }?;
    // SAFETY: a descriptor that the call has just made is nobody else's.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded as i32) };
    let dir = File::open(group).map_err(|error| at(group, error))?;
    let attach = Attach {
        target: dir.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: 0,
    };
    // SAFETY: as above.
    unsafe { bpf(PROG_ATTACH, &raw const attach, size_of::<Attach>()) }.map(drop)
}

/// # Safety
/// `attributes` points to `size` bytes in the layout of `command`.
unsafe fn bpf<T>(command: i32, attributes: *const T, size: usize) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size) } {
        -1 => {
            let error = io::Error::last_os_error();
            Err(io::Error::new(error.kind(), format!("failed to guard the container's devices: {error}")))
        }
        result => Ok(result),
    }
}

fn encode(one: &Instruction) -> [u8; 8] {
    let mut bytes = [0; 8];
    (bytes[0], bytes[1]) = (one.code, one.registers);
    bytes[2..4].copy_from_slice(&one.offset.to_ne_bytes());
    bytes[4..].copy_from_slice(&one.value.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Does what the kernel does with the few instructions that are used.
    fn run(kind: u32, access: u32, major: u32, minor: u32) -> i32 {
        let context = [access << 16 | kind, major, minor];
        let (program, mut registers, mut at) = (program(), [0_u64; 6], 0);
        for _ in 0..program.len() {
            let one = program[at];
            let (to, from) = (usize::from(one.registers & 15), usize::from(one.registers >> 4));
            at += 1;
            match one.code {
                LOAD_WORD => registers[to] = u64::from(context[one.offset as usize / 4]),
                MOVE => registers[to] = registers[from],
                MOVE_VALUE => registers[to] = one.value as u64,
                SHIFT_RIGHT => registers[to] >>= one.value,
                AND => registers[to] &= one.value as u64,
                JUMP_IF_NOT if registers[to] != one.value as u64 => at += one.offset as usize,
                JUMP_IF_NOT => {}
                EXIT => return registers[0] as i32,
                code => panic!("{code:x}"),
            }
        }
        panic!("it does not end");
    }

    #[test]
    fn the_program_says_yes_to_what_is_listed_and_no_to_all_else() {
        let (block, char, make, read, write) = (1, 2, 1, 2, 4);
        for (kind, access, major, minor, expected) in [
            (char, read, 1, 3, 1),
            (char, read | write, 1, 9, 1),
            (char, read | write, 5, 2, 1),
            (char, read | write, 136, 0, 1),
            (char, write, 136, 4711, 1),
            (char, read, 1, 1, 0),
            (char, read, 1, 4, 0),
            (char, read, 5, 1, 0),
            (block, read, 1, 3, 0),
            (block, read, 8, 0, 0),
            (block, make, 8, 0, 1),
            (char, make, 1, 1, 1),
            (char, make | read, 1, 1, 0),
        ] {
            assert_eq!(run(kind, access, major, minor), expected, "{kind} {access} {major}:{minor}");
        }
    }
}
