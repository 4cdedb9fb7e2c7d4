//! Classic BPF as the kernel runs it over `seccomp_data`, with its checks.

use crate::compile::{AND, AT_LEAST, EQUAL, JUMP, LOAD, RETURN, SockFilter};

pub fn run(program: &[SockFilter], audit: u32, number: u32, args: &[u64; 6]) -> u32 {
    run_counted(program, audit, number, args).0
}

/// The answer, and after how many instructions it was found.
pub fn run_counted(program: &[SockFilter], audit: u32, number: u32, args: &[u64; 6]) -> (u32, usize) {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&audit.to_le_bytes());
    for (slot, arg) in data[16..].chunks_mut(8).zip(args) {
        slot.copy_from_slice(&arg.to_le_bytes());
    }
    let (mut at, mut accumulator) = (0, 0);
    for steps in 1.. {
        let SockFilter { code, jt, jf, k } = program[at];
        at += 1;
        let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            LOAD => {
                assert!(k % 4 == 0 && k < 64, "the kernel takes whole words of its data only");
                let word = &data[k as usize..k as usize + 4];
                accumulator = u32::from_le_bytes(word.try_into().unwrap());
            }
            AND => accumulator &= k,
            EQUAL => branch(accumulator == k),
            AT_LEAST => branch(accumulator >= k),
            JUMP => at += k as usize,
            RETURN => return (k, steps),
            other => panic!("instruction {other:#x} is not one of ours"),
        }
    }
    unreachable!("a program without loops ends")
}
