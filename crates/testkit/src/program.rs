//! Starts the built program as a person would, and stops it by its process id.
//!
//! Every instance has its own directory and ports; what it prints is kept and shown when a test fails. Dropping an
//! instance kills it and, by `selvedge reset`, the pods it left running. A program that has panicked fails its test, whatever else
//! the test has seen: controllers and connections survive a panic, and what they do next may hide it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::wait::eventually;

/// The program under test: `SELVEDGE_BIN`, set by `cargo xtask test`.
pub fn binary() -> PathBuf {
    match std::env::var_os("SELVEDGE_BIN") {
        Some(path) => path.into(),
        None => panic!("SELVEDGE_BIN is not set: run these tests with `cargo xtask test`"),
    }
}

/// One running role.
pub struct Selvedge {
    child: Child,
    program: PathBuf,
    data_dir: PathBuf,
    log_path: PathBuf,
    args: Vec<String>,
    environment: Vec<(String, String)>,
    resets_at_drop: bool,
}

impl Selvedge {
    /// Starts `selvedge ARGS --data-dir DATA_DIR --ports ephemeral`.
    pub fn start(data_dir: &Path, args: &[&str]) -> Result<Self> {
        Self::start_on(data_dir, args, "ephemeral")
    }

    /// As [`Selvedge::start`] with `--ports PORTS`.
    pub fn start_on(data_dir: &Path, args: &[&str], ports: &str) -> Result<Self> {
        Self::start_with(data_dir, args, ports, &[])
    }

    /// As [`Selvedge::start_on`], with environment variables.
    pub fn start_with(data_dir: &Path, args: &[&str], ports: &str, environment: &[(&str, &str)]) -> Result<Self> {
        fs::create_dir_all(data_dir).with_context(|| format!("failed to make {}", data_dir.display()))?;
        let log_path = data_dir.with_extension("log");
        let environment = own(environment);
        let args = args.iter().map(|arg| (*arg).to_owned()).chain(["--ports".to_owned(), ports.to_owned()]).collect();
        let program = binary();
        let child = spawn(&program, data_dir, &log_path, &args, &environment)?;
        Ok(Self { child, program, data_dir: data_dir.to_owned(), log_path, args, environment, resets_at_drop: true })
    }

    /// The directory given to it.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has printed.
    pub fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.log_path) {
            let _ = file.seek(SeekFrom::Start(0));
            let mut bytes = Vec::new();
            let _ = file.read_to_end(&mut bytes);
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        text
    }

    /// Waits until a listener is in `ports.json`; answers `ip:port`.
    pub fn address(&mut self, listener: &str) -> Result<String> {
        let path = self.data_dir.join("ports.json");
        eventually(&format!("listener {listener} in ports.json"), Duration::from_secs(30), || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the program ended with {status}:\n{}", tail(&self.log())));
            }
            let text = fs::read_to_string(&path).map_err(|error| format!("no ports.json: {error}"))?;
            let ports: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            // What listens on every address is reached on loopback.
            let address = ports["listeners"][listener].as_str().ok_or(text)?.replace("0.0.0.0", "127.0.0.1");
            // A file of an earlier run may still name a port nobody listens on.
            std::net::TcpStream::connect(&address).map_err(|error| format!("{address}: {error}"))?;
            Ok(address)
        })
    }

    /// Kills it at once, as a power cut would, and leaves its pods to themselves.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets it do nothing until [`Selvedge::thaw`]; its connections stay open.
    pub fn freeze(&self) {
        signal(self.pid(), libc::SIGSTOP);
    }

    /// Lets it continue.
    pub fn thaw(&self) {
        signal(self.pid(), libc::SIGCONT);
    }

    /// Sends SIGINT and waits for the end; answers how long it took and how it ended.
    pub fn interrupt(&mut self, deadline: Duration) -> Result<(Duration, ExitStatus)> {
        let start = Instant::now();
        signal(self.child.id(), libc::SIGINT);
        while start.elapsed() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok((start.elapsed(), status));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("still running {deadline:?} after SIGINT:\n{}", tail(&self.log()))
    }

    /// Starts the same again, on the same directory. The one before must have ended.
    pub fn start_again(&mut self, ports: &str) -> Result<()> {
        let last = self.args.len() - 1;
        self.args[last] = ports.to_owned();
        self.child = spawn(&self.program, &self.data_dir, &self.log_path, &self.args, &self.environment)?;
        Ok(())
    }

    /// Adds or drops arguments for the next [`Selvedge::start_again`].
    pub fn change_args(&mut self, change: impl FnOnce(&mut Vec<String>)) {
        let ports = self.args.split_off(self.args.len() - 2);
        change(&mut self.args);
        self.args.extend(ports);
    }

    /// Another copy of the program for the next [`Selvedge::start_again`].
    pub fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// Environment variables for the next [`Selvedge::start_again`].
    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        self.environment = own(environment);
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("still running after {deadline:?}:\n{}", tail(&self.log()))
    }
}

impl Drop for Selvedge {
    fn drop(&mut self) {
        // Shown by the test runner only when the test failed.
        println!("── {} {}\n{}", binary().display(), self.args.join(" "), tail(&self.log()));
        self.kill();
        if self.resets_at_drop {
            let _ = run(["reset", "--yes", "--data-dir"].iter().map(OsStr::new).chain([self.data_dir.as_os_str()]));
        }
        let log = self.log();
        if let Some(at) = log.find("panicked at").filter(|_| !std::thread::panicking()) {
            let said: Vec<&str> = log[at..].lines().take(3).collect();
            panic!("the program {}", said.join("\n"));
        }
    }
}

fn own(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn spawn(
    program: &Path,
    data_dir: &Path,
    log_path: &Path,
    args: &Vec<String>,
    environment: &[(String, String)],
) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log_path)?;
    Command::new(program)
        .args(args)
        .arg("--data-dir")
        .arg(data_dir)
        // Pods have the machine's own network: no test changes that of the machine it runs on, unless it says so itself.
        .env("SELVEDGE_NODE_POD_SUBNET", "none")
        // The machine's own logs are not the tests'.
        .env("SELVEDGE_NODE_LOG_LINKS_DIR", "none")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("failed to start {}", program.display()))
}

/// Runs the program to its end.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Outcome> {
    Outcome::of(Command::new(binary()).args(args).stdin(Stdio::null()))
}

/// How a program that ended by itself ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it was.
    pub command: String,
    /// Exit code; -1 when it was killed.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Outcome {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Result<Self> {
        let output = command.output().with_context(|| format!("failed to start {:?}", command.get_program()))?;
        Ok(Self {
            command: format!("{command:?}"),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What it printed, when it ended well.
    pub fn ok(self) -> Result<String> {
        if self.code == 0 {
            return Ok(self.stdout);
        }
        bail!("{} ended with {}:\n{}{}", self.command, self.code, self.stdout, self.stderr)
    }

    /// What it complained of, when it ended badly.
    pub fn refused(self) -> Result<String> {
        if self.code != 0 {
            return Ok(format!("{}{}", self.stdout, self.stderr));
        }
        bail!("{} should have been refused but printed:\n{}", self.command, self.stdout)
    }
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill takes plain numbers; a process that has ended is an error that does not matter here.
    unsafe { libc::kill(pid as i32, signal) };
}

/// The last lines of a log.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
