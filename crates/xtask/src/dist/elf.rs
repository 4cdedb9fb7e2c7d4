//! What a program's header says: which machine it is for, and whether it needs a loader.

use anyhow::{Result, bail, ensure};

use super::Arch;

const MACHINE_AT: usize = 18;
const HEADERS_AT: usize = 32;
const HEADER_SIZE_AT: usize = 54;
const HEADER_COUNT_AT: usize = 56;
/// The type of the header that names a loader.
const INTERPRETER: u32 = 3;

/// Rejects what is no static program for an architecture.
pub fn check_static(program: &[u8], arch: Arch) -> Result<()> {
    match machine(program)? {
        machine if machine == arch.elf_machine() => {}
        machine => {
            bail!("it is for another machine: ELF number {machine}, and {} is {}", arch.name(), arch.elf_machine())
        }
    }
    ensure!(
        !has_interpreter(program)?,
        "it is not static: it names a loader, which an image of it alone does not have"
    );
    Ok(())
}

fn machine(program: &[u8]) -> Result<u16> {
    // 64 bits, little endian: all that is built for.
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "it is no program of 64 bits");
    number(program, MACHINE_AT).map(u16::from_le_bytes)
}

fn has_interpreter(program: &[u8]) -> Result<bool> {
    let at = usize::try_from(number(program, HEADERS_AT).map(u64::from_le_bytes)?)?;
    let size = usize::from(number(program, HEADER_SIZE_AT).map(u16::from_le_bytes)?);
    let count = usize::from(number(program, HEADER_COUNT_AT).map(u16::from_le_bytes)?);
    for header in 0..count {
        let at = header.checked_mul(size).and_then(|offset| offset.checked_add(at));
        let Some(at) = at else { bail!("its headers are beyond all memory") };
        if number(program, at).map(u32::from_le_bytes)? == INTERPRETER {
            return Ok(true);
        }
    }
    Ok(false)
}

fn number<const N: usize>(program: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = at.checked_add(N).and_then(|end| program.get(at..end)).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| anyhow::anyhow!("it ends in its header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        // The test itself is one, for the machine that it runs on.
        let program = std::fs::read(std::env::current_exe().expect("a path")).expect("it can be read");
        let (own, other) = match std::env::consts::ARCH {
            "aarch64" => (Arch::Arm64, Arch::Amd64),
            _ => (Arch::Amd64, Arch::Arm64),
        };
        let said = |arch| check_static(&program, arch).expect_err("it is not").to_string();
        assert!(said(own).contains("names a loader"), "{}", said(own));
        assert!(said(other).contains("another machine"), "{}", said(other));
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for length in [0, 4, 18, 40] {
            check_static(&b"\x7fELF\x02\x01\0\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"[..length], Arch::Amd64)
                .expect_err("no whole header");
        }
    }
}
