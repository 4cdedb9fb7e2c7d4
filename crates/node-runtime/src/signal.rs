//! Signals by their names.

/// The number of a signal as images and pods write it: `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`.
pub(crate) fn signal(name: &str) -> Result<i32, String> {
    const NAMES: [(&str, i32); 31] = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("ILL", libc::SIGILL),
        ("TRAP", libc::SIGTRAP),
        ("ABRT", libc::SIGABRT),
        ("BUS", libc::SIGBUS),
        ("FPE", libc::SIGFPE),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("SEGV", libc::SIGSEGV),
        ("USR2", libc::SIGUSR2),
        ("PIPE", libc::SIGPIPE),
        ("ALRM", libc::SIGALRM),
        ("TERM", libc::SIGTERM),
        ("STKFLT", libc::SIGSTKFLT),
        ("CHLD", libc::SIGCHLD),
        ("CONT", libc::SIGCONT),
        ("STOP", libc::SIGSTOP),
        ("TSTP", libc::SIGTSTP),
        ("TTIN", libc::SIGTTIN),
        ("TTOU", libc::SIGTTOU),
        ("URG", libc::SIGURG),
        ("XCPU", libc::SIGXCPU),
        ("XFSZ", libc::SIGXFSZ),
        ("VTALRM", libc::SIGVTALRM),
        ("PROF", libc::SIGPROF),
        ("WINCH", libc::SIGWINCH),
        ("IO", libc::SIGIO),
        ("PWR", libc::SIGPWR),
        ("SYS", libc::SIGSYS),
    ];
    /// As programs count them: the C library keeps the first two of the kernel's to itself.
    const RT_MIN: i32 = 34;
    const RT_MAX: i32 = 64;
    let unknown = || format!("the stop signal `{name}` is none");
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let plus = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u8>().ok().map(i32::from) };
    let number = if let Some(rest) = short.strip_prefix("RTMIN") {
        plus(rest.strip_prefix('+').unwrap_or(rest)).map(|more| RT_MIN + more)
    } else if let Some(rest) = short.strip_prefix("RTMAX") {
        plus(rest.strip_prefix('-').unwrap_or(rest)).map(|less| RT_MAX - less)
    } else {
        let known = NAMES.iter().find(|(known, _)| *known == short).map(|(_, number)| *number);
        known.or_else(|| short.parse().ok())
    };
    number.filter(|number| (1..=RT_MAX).contains(number)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_written_in_several_ways() {
        for (name, expected) in
            [("SIGTERM", 15), ("term", 15), ("3", 3), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGRTMIN", 34)]
        {
            assert_eq!(signal(name), Ok(expected), "{name}");
        }
        for name in ["", "SIG", "0", "65", "-1", "SIGNONE", "RTMIN+99"] {
            assert!(signal(name).is_err(), "{name}");
        }
    }
}
