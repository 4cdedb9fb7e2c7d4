//! One shell in which a page is followed: its variables last from block to block, as a reader's do.
//!
//! It runs in a network of its own, where port 6443 is free whatever else runs on the machine, and in a directory of its own
//! that has of a clone what the pages use: `examples`, and `target/ci/selvedge`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use testkit::kubectl::Kubectl;
use testkit::program::{binary, run, tail};
use testkit::wait::eventually;

use super::pattern::{is_equal, is_printed, is_same_set, lines};
use crate::common::{PATIENCE, root};

/// Where the pages' reader has the clone.
const HOME: &str = "/home/me/selvedge";

/// How long a state may take to become what the page shows: two windows of ten seconds, and a start on a busy machine.
const SETTLING: Duration = Duration::from_secs(45);

/// How long a killed role may take to end.
const RESET_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks.
const POLL_PERIOD: Duration = Duration::from_millis(150);

/// Commands that change nothing: asked again until they print what the page shows.
const LOOKS: &[&str] =
    &["kubectl get", "kubectl logs", "kubectl describe", "kubectl rollout status", "selvedge status", "curl "];

/// Pods and devices come in the order in which they started, files as the disk has them, requests by their random names.
const UNORDERED: &[&str] = &["selvedge status", "selvedge reset", "kubectl get csr"];

/// Roles, which stay.
const ROLES: &[&str] = &["up", "hub", "node", "edge"];

pub struct Shell {
    bash: Child,
    input: std::process::ChildStdin,
    done: Receiver<String>,
    /// The directory, its links resolved.
    dir: PathBuf,
    commands: usize,
    /// The token that was printed last; a page shows its ends.
    token: String,
    // Last, so that it is removed after what writes into it has ended.
    _dir: tempfile::TempDir,
}

impl Shell {
    /// Starts it; `None` where something is missing, with a printed reason.
    pub fn start() -> Result<Option<Self>> {
        // SAFETY: geteuid only returns a number.
        if unsafe { libc::geteuid() } != 0 {
            testkit::skip("a network of its own needs root");
            return Ok(None);
        }
        let Some((_, kubectl)) = Kubectl::installed().pop() else {
            testkit::skip("no kubectl; `cargo xtask test` installs it unless --no-install is given");
            return Ok(None);
        };
        let Some(python) = std::env::var_os("SELVEDGE_PYTHON") else {
            testkit::skip("no pymodbus; `cargo xtask test` installs it unless --no-install is given");
            return Ok(None);
        };
        let temporary = tempfile::tempdir()?;
        let dir = temporary.path().canonicalize()?.join("selvedge");
        fs::create_dir_all(dir.join("target/ci"))?;
        fs::create_dir(dir.join("bin"))?;
        symlink(root().join("examples"), dir.join("examples"))?;
        symlink(binary().canonicalize()?, dir.join("target/ci/selvedge"))?;
        symlink(kubectl, dir.join("bin/kubectl"))?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["--noprofile", "--norc"])
            .current_dir(&dir)
            .env("PATH", format!("{0}/target/ci:{0}/bin:{path}", dir.display()))
            .env("HOME", dir.join("home"))
            // What the pages leave to its default must not be this machine's.
            .env("SELVEDGE_DATA_DIR", dir.join(".state"))
            .env("PYTHON", python)
            .env("MODBUS_SERVER", root().join("tests/fixtures/modbus_server.py"))
            .env_remove("KUBECONFIG")
            .env_remove("SELVEDGE_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A group of its own, so that all it started can be ended with it.
            .process_group(0);
        // SAFETY: only system calls, which are safe between fork and exec.
        unsafe { command.pre_exec(own_namespaces) };
        let mut bash = command.spawn().context("failed to start bash in a network of its own")?;
        let input = bash.stdin.take().context("its input is a pipe")?;
        let output = BufReader::new(bash.stdout.take().context("its output is a pipe")?);
        let (done_tx, done) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| done_tx.send(line)));
        let mut shell = Self { bash, input, done, dir, commands: 0, token: String::new(), _dir: temporary };
        // A page shows what a terminal does.
        shell.send("ls() { command ls -C \"$@\"; }")?;
        Ok(Some(shell))
    }

    /// Makes a file that a page shows.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
        fs::write(path, text).with_context(|| format!("failed to write {name}"))
    }

    /// Runs a command that the page does not show; it must end well. A role must say where it is.
    pub fn run(&mut self, command: &str) -> Result<()> {
        if let Some(role) = role_of(command) {
            return self.start_role(role, command, &[]);
        }
        let (code, printed) = self.execute(command)?;
        ensure!(code == 0, "it ended with {code}:\n{printed}");
        Ok(())
    }

    /// Runs a command and compares what it prints.
    pub fn check(&mut self, command: &str, page: &[String]) -> Result<()> {
        if let Some(role) = role_of(command) {
            return self.start_role(role, command, page);
        }
        let is_look = LOOKS.iter().any(|look| command.starts_with(look));
        let start = Instant::now();
        loop {
            let (_, printed) = self.execute(command)?;
            let printed = lines(&printed);
            let is_unordered = UNORDERED.iter().any(|one| command.starts_with(one));
            if is_equal(page, &printed) || (is_unordered && is_same_set(page, &printed)) {
                return Ok(());
            }
            if !is_look || start.elapsed() > SETTLING {
                bail!("the page shows\n{}\nand it prints\n{}", page.join("\n"), printed.join("\n"));
            }
            std::thread::sleep(POLL_PERIOD);
        }
    }

    /// Starts a role in the background and waits until it has printed what the page shows.
    fn start_role(&mut self, role: &str, command: &str, page: &[String]) -> Result<()> {
        let command = self.with_token(command);
        // What `cargo xtask up` becomes, once it has built what is under test here anyway.
        let name = if command.contains("--node-name") { "" } else { " --node-name box" };
        let command = command.replace("cargo xtask up", &format!("selvedge up --example examples/first-light{name}"));
        let is_up = role == "up" && !command.contains("--data-dir");
        let data_dir = if is_up { " --data-dir .selvedge" } else { "" };
        self.commands += 1;
        let log = self.dir.join(format!("output-{}", self.commands));
        self.send(&format!("{command}{data_dir} > {} 2>&1 < /dev/null & {role}=$!", log.display()))?;
        // Where a page shows nothing of it, it runs once it says where it is.
        let running = ["selvedge: …".to_owned()];
        let page = if page.is_empty() { &running } else { page };
        let start = Instant::now();
        loop {
            let printed = self.shown(&fs::read_to_string(&log).unwrap_or_default());
            if is_printed(page, &lines(&printed)) {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                bail!("the page shows\n{}\nand it prints\n{}", page.join("\n"), tail(&printed));
            }
            std::thread::sleep(POLL_PERIOD);
        }
    }

    /// Runs a command to its end; returns its exit code and what it printed, as the page's reader would see it.
    fn execute(&mut self, command: &str) -> Result<(i32, String)> {
        let command = self.with_token(command);
        self.commands += 1;
        let log = self.dir.join(format!("output-{}", self.commands));
        File::create(&log)?;
        self.send(&format!("{{ {command}\n}} > {} 2>&1 < /dev/null", log.display()))?;
        self.send("echo $?")?;
        let code = match self.done.recv_timeout(PATIENCE) {
            Ok(code) => code.parse().context("an exit code")?,
            Err(RecvTimeoutError::Timeout) => bail!("it did not end:\n{}", fs::read_to_string(&log)?),
            Err(RecvTimeoutError::Disconnected) => bail!("the shell ended:\n{}", fs::read_to_string(&log)?),
        };
        let printed = fs::read_to_string(&log)?;
        fs::remove_file(&log)?;
        if printed.starts_with("sv1.") {
            self.token = printed.trim().to_owned();
        }
        Ok((code, self.shown(&printed)))
    }

    fn send(&mut self, line: &str) -> Result<()> {
        writeln!(self.input, "{line}").context("the shell has ended")
    }

    /// A page shows a token's ends; the reader types his own.
    fn with_token(&self, command: &str) -> String {
        let words = command.split(' ').map(|word| if is_shortened_token(word) { self.token.as_str() } else { word });
        words.collect::<Vec<_>>().join(" ")
    }

    fn shown(&self, printed: &str) -> String {
        printed.replace(&*self.dir.to_string_lossy(), HOME)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // SAFETY: kill takes plain numbers; the group is the shell's own and the shell has not been waited for.
        unsafe { libc::kill(-(self.bash.id() as i32), libc::SIGKILL) };
        let _ = self.bash.wait();
        // The pods of a node outlive it. A role that was killed may hold its lock for a moment longer.
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.path().join("ports.json").exists() {
                let args = [Path::new("reset"), Path::new("--yes"), Path::new("--data-dir"), &entry.path()];
                if let Err(error) = eventually("reset", RESET_TIMEOUT, || run(args).and_then(|outcome| outcome.ok())) {
                    println!("pods may be left: {error:#}");
                }
            }
        }
    }
}

fn is_shortened_token(word: &str) -> bool {
    word.starts_with("sv1.") && word.contains('…')
}

/// The role that a command starts, when it is one that stays.
fn role_of(command: &str) -> Option<&'static str> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let role = match words.as_slice() {
        ["cargo", "xtask", "up", ..] => "up",
        ["selvedge", "hub", "backup" | "restore", ..] => return None,
        ["selvedge", role, rest @ ..] if !rest.contains(&"--check-config") && !rest.contains(&"--help") => role,
        _ => return None,
    };
    ROLES.iter().find(|one| **one == role).copied()
}

/// Leaves the network of the test for a fresh one, whose loopback is switched on, and keeps mounts to itself: a page may put
/// a name into `/etc/hosts`.
fn own_namespaces() -> std::io::Result<()> {
    let check = |result: libc::c_int| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) };
    // SAFETY: system calls with values of our own; the request lives until they return.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS))?;
        let none = std::ptr::null();
        check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()))?;
        let socket = check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0))?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        check(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &request))?;
        libc::close(socket);
    }
    Ok(())
}

#[test]
fn roles_stay_and_other_commands_end() {
    assert_eq!(role_of("cargo xtask up"), Some("up"));
    assert_eq!(role_of("selvedge hub --data-dir .hub"), Some("hub"));
    for ends in [
        "selvedge hub --config hub.yaml --check-config",
        "selvedge hub restore --check hub.backup",
        "selvedge status --data-dir .hub",
        "kubectl get nodes",
    ] {
        assert_eq!(role_of(ends), None, "{ends}");
    }
    assert!(is_shortened_token("sv1.4bfc….88wcim.x") && !is_shortened_token("sv1.4bfc.88wcim.x"));
}
