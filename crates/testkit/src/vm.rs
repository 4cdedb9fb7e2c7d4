//! A virtual machine in which the built program is the only one beside busybox: for power cuts, reboots, clocks, full memory.
//!
//! QEMU emulates it (`-accel tcg`), so it needs neither rights nor a kernel module, and is some ten times slower than the machine that it
//! runs on: for errors, not for figures. Kernel and busybox are Debian's, unpacked by `cargo xtask install`.
//!
//! ```text
//!   initramfs ── modules, switch_root ──▶ ext4 on /dev/vda ── /sbin/init ──▶ a shell on port 9000, and the role given as `start`
//!
//!   host 127.0.0.1:PORT ──▶ guest 10.0.2.15:6443, :9000          guest 10.0.2.2 ──▶ what listens on the host's loopback
//! ```
//!
//! [`Machine::cut`] kills QEMU: what the guest had not flushed is lost, as in a power cut. What it had flushed is in the host's cache
//! of the image, which outlives QEMU. Everything that is awaited has a deadline, and whatever fails shows the console's last lines.

mod initramfs;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::program::{Outcome, tail};
use crate::wait::eventually;

/// It takes seven seconds where nothing else runs.
const BOOT_MAX: Duration = Duration::from_secs(180);
/// For a command in the guest.
const COMMAND_MAX: Duration = Duration::from_secs(60);
/// How often ports are chosen anew: another process may take one between its choice and QEMU's start.
const START_TRIES: usize = 3;

const API_PORT: u16 = 6443;
const SHELL_PORT: u16 = 9000;

/// Runs on the disk as the first process. The shell is for tests; `start` is the guest's own.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp; mount -t tmpfs run /run; mount -t cgroup2 cgroup2 /sys/fs/cgroup
ifconfig lo 127.0.0.1 up; ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up; route add default gw 10.0.2.2; hostname box
nc -ll -p 9000 -e /bin/sh &
. /etc/start
while :; do wait; sleep 1; done
"#;

/// What is emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// A PC.
    Amd64,
    /// QEMU's board `virt`.
    Arm64,
}

impl Arch {
    fn tools(self) -> Option<PathBuf> {
        let variable = match self {
            Self::Amd64 => "SELVEDGE_VM_AMD64",
            Self::Arm64 => "SELVEDGE_VM_ARM64",
        };
        std::env::var_os(variable).map(PathBuf::from)
    }

    fn emulator(self) -> Command {
        let (program, options): (_, &[&str]) = match self {
            Self::Amd64 => ("qemu-system-x86_64", &["-cpu", "max", "-append", "console=ttyS0 quiet"]),
            Self::Arm64 => {
                let options = &["-M", "virt", "-cpu", "cortex-a53", "-append", "console=ttyAMA0 quiet"];
                ("qemu-system-aarch64", options)
            }
        };
        let mut command = Command::new(program);
        command.args(options);
        command
    }
}

/// What a machine is like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its processor.
    pub arch: Arch,
    /// The program under test, as it is on the host. Shared libraries that it needs are put beside it.
    pub program: PathBuf,
    /// Shell commands that start it, in the background: `selvedge up --data-dir /data &`.
    pub start: String,
    /// Its memory.
    pub memory_mib: u32,
    /// Its disk, with the program on it.
    pub disk_mib: u64,
    /// Time of its clock at each boot, such as `1970-01-02`; the host's where it is absent.
    pub clock: Option<String>,
    /// More files on its disk, by path from its root.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl Setup {
    /// The built program as `start` has it, on a PC with plenty of everything.
    pub fn new(start: &str) -> Self {
        let (arch, program) = (Arch::Amd64, crate::program::binary());
        Self { arch, program, start: start.to_owned(), memory_mib: 512, disk_mib: 512, clock: None, files: Vec::new() }
    }
}

/// A machine with its disk.
pub struct Machine {
    setup: Setup,
    tools: PathBuf,
    dir: PathBuf,
    qemu: Option<Child>,
    /// The host's ports for the guest's API and shell.
    ports: [u16; 2],
}

impl Machine {
    /// Makes its disk in `dir`, which the caller owns. `None` after a reason was printed, where what it needs is not installed.
    ///
    /// # Errors
    /// When the disk cannot be made.
    pub fn create(dir: &Path, setup: Setup) -> Result<Option<Self>> {
        let Some(tools) = setup.arch.tools() else {
            crate::skip(&format!("no virtual machine for {:?}; `cargo xtask install` installs one", setup.arch));
            return Ok(None);
        };
        fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
        fs::write(dir.join("initramfs"), initramfs::of(&tools)?)?;
        let machine = Self { setup, tools, dir: dir.to_owned(), qemu: None, ports: [0; 2] };
        machine.create_disk()?;
        Ok(Some(machine))
    }

    fn create_disk(&self) -> Result<()> {
        let tree = self.dir.join("tree");
        for dir in ["bin", "data", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "var"] {
            fs::create_dir_all(tree.join(dir))?;
        }
        let busybox = tree.join("bin/busybox");
        fs::copy(self.tools.join("busybox"), &busybox).context("failed to copy busybox")?;
        // Busybox of another processor cannot be asked for its names here: the guest makes the links.
        let script = format!("#!/bin/busybox sh\n[ -e /bin/sh ] || /bin/busybox --install -s /bin\n{INIT}");
        let init = tree.join("sbin/init");
        fs::write(&init, script)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
        fs::write(tree.join("etc/group"), "root:x:0:\n")?;
        fs::write(tree.join("etc/start"), &self.setup.start)?;
        for (path, bytes) in &self.setup.files {
            let path = tree.join(path);
            fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
            fs::write(&path, bytes).with_context(|| format!("failed to write {}", path.display()))?;
        }
        let program = tree.join("bin/selvedge");
        fs::copy(&self.setup.program, &program).context("failed to copy the program")?;
        if self.setup.arch == Arch::Amd64 {
            // Symbols are of no use there, and make up a quarter.
            Outcome::of(Command::new("strip").arg(&program))?.ok()?;
            copy_libraries(&program, &tree)?;
        }
        let image = fs::File::create(self.dir.join("disk"))?;
        image.set_len(self.setup.disk_mib << 20)?;
        // Nothing is left to be initialised by the kernel while tests run.
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0", "-d"]);
        Outcome::of(mkfs.arg(&tree).arg(self.dir.join("disk")))?.ok()?;
        fs::remove_dir_all(&tree).context("failed to clean up")
    }

    /// Switches it on, and waits for its shell; how long that took.
    ///
    /// # Errors
    /// When QEMU ends, or there is no shell in time.
    pub fn boot(&mut self) -> Result<Duration> {
        ensure!(self.qemu.is_none(), "it runs");
        let start = Instant::now();
        for left in (0..START_TRIES).rev() {
            self.ports = free_ports()?;
            self.qemu = Some(self.spawn()?);
            match self.wait_shell() {
                Ok(()) => break,
                Err(error) if left == 0 || !self.log().contains("host forwarding") => return Err(error),
                Err(_) => self.cut(),
            }
        }
        Ok(start.elapsed())
    }

    fn spawn(&self) -> Result<Child> {
        let [api, shell] = self.ports;
        let forward = |host: u16, guest: u16| format!("hostfwd=tcp:127.0.0.1:{host}-:{guest}");
        let at = |name: &str| self.dir.join(name).display().to_string();
        let mut command = self.setup.arch.emulator();
        // With a thread for each processor QEMU 7.2 now and then loses an interrupt between them, and the guest hangs in its kernel.
        command.args(["-accel", "tcg,thread=single", "-smp", "2", "-m", &self.setup.memory_mib.to_string()]);
        command.args(["-display", "none", "-monitor", "none", "-no-user-config"]);
        command.args(["-chardev", &format!("file,id=console,append=on,path={}", at("console")), "-serial"]);
        command.args(["chardev:console", "-kernel"]).arg(self.tools.join("vmlinuz"));
        command.args(["-initrd", &at("initramfs")]);
        command.args(["-drive", &format!("file={},if=virtio,format=raw,cache=writeback", at("disk"))]);
        let network = format!("user,id=net,{},{}", forward(api, API_PORT), forward(shell, SHELL_PORT));
        // Without a ROM to boot from, which is a package of its own.
        command.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net,romfile="]);
        if let Some(clock) = &self.setup.clock {
            command.args(["-rtc", &format!("base={clock}")]);
        }
        let log = fs::File::create(self.dir.join("qemu.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("failed to start {:?}", command.get_program()))
    }

    /// Waits until commands can be run, after a boot or a reboot.
    ///
    /// # Errors
    /// When QEMU ends, or there is no shell in time.
    pub fn wait_shell(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let error = match self.run_within("true", Duration::from_secs(5)) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let ended = self.qemu.as_mut().and_then(|qemu| qemu.try_wait().ok().flatten());
            if ended.is_some() || start.elapsed() > BOOT_MAX {
                bail!("no shell ({error:#}), QEMU: {ended:?} {}\n{}", self.log(), tail(&self.console()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Takes its power away.
    pub fn cut(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }

    /// Runs shell commands in the guest, as root; what they printed when they ended well.
    ///
    /// # Errors
    /// When they end with another code than 0, or not in time.
    pub fn run(&self, commands: &str) -> Result<String> {
        self.run_within(commands, COMMAND_MAX)
    }

    fn run_within(&self, commands: &str, deadline: Duration) -> Result<String> {
        const MARK: &str = "\nended with ";
        let address = ([127, 0, 0, 1], self.ports[1]).into();
        let mut stream = TcpStream::connect_timeout(&address, deadline).context("failed to reach the guest's shell")?;
        stream.set_read_timeout(Some(deadline))?;
        stream.write_all(format!("( {commands}\n) 2>&1; printf '\\nended with %d' $?\nexit\n").as_bytes())?;
        let (mut printed, start) = (Vec::new(), Instant::now());
        let mut part = [0; 4096];
        loop {
            let read = stream.read(&mut part).with_context(|| format!("no end of `{commands}` in the guest"))?;
            printed.extend_from_slice(&part[..read]);
            if read == 0 {
                break;
            }
            ensure!(start.elapsed() < deadline, "`{commands}` runs for more than {deadline:?}");
        }
        let _ = stream.shutdown(Shutdown::Both);
        let printed = String::from_utf8_lossy(&printed);
        match printed.rsplit_once(MARK) {
            Some((printed, "0")) => Ok(printed.to_owned()),
            Some((printed, code)) => bail!("`{commands}` ended with {code} in the guest:\n{printed}"),
            None => bail!("the guest's shell ended before `{commands}` did: {printed}"),
        }
    }

    /// Has its kernel start anew, and waits for its shell.
    ///
    /// # Errors
    /// When QEMU ends, or no other kernel runs in time.
    pub fn reboot(&mut self) -> Result<()> {
        let boot_id =
            |machine: &Self| machine.run_within("cat /proc/sys/kernel/random/boot_id", Duration::from_secs(5));
        let before = boot_id(self)?;
        self.run("sync; (sleep 1; reboot -f) < /dev/null > /dev/null 2>&1 &")?;
        eventually("another kernel", BOOT_MAX, || match boot_id(self) {
            Ok(now) if now != before => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    /// Time of its clock from the next boot on; the host's where it is absent.
    pub fn set_clock(&mut self, clock: Option<&str>) {
        self.setup.clock = clock.map(str::to_owned);
    }

    /// Where the host reaches the guest's port 6443.
    pub fn api_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Waits for the kubeconfig of the guest's hub (`data_dir` is the guest's), and puts it here with the address that the host
    /// reaches.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn kubeconfig(&self, data_dir: &str) -> Result<PathBuf> {
        let text = eventually("a kubeconfig in the guest", BOOT_MAX, || {
            self.run(&format!("cat {data_dir}/kubeconfig")).map_err(|error| format!("{error:#}"))
        })?;
        let inside = format!("127.0.0.1:{API_PORT}");
        ensure!(text.contains(&inside), "no address {inside} in the guest's kubeconfig: {text}");
        let path = self.dir.join("kubeconfig");
        fs::write(&path, text.replace(&inside, &self.api_address()))?;
        Ok(path)
    }

    /// What its serial console has shown in all boots.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join("console")).unwrap_or_default()).into_owned()
    }

    /// What QEMU itself said.
    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Shown by the test runner only when the test failed.
        println!("── console of the virtual machine\n{}", tail(&self.console()));
        self.cut();
    }
}

/// Copies the shared libraries of a program to where it looks for them. A static one has none.
fn copy_libraries(program: &Path, tree: &Path) -> Result<()> {
    let printed = Outcome::of(Command::new("ldd").arg(program))?.stdout;
    for library in printed.split_whitespace().filter(|word| word.starts_with('/')).map(OsStr::new) {
        let target = tree.join(Path::new(library).strip_prefix("/").expect("filtered above"));
        fs::create_dir_all(target.parent().expect("a file is in a directory"))?;
        fs::copy(library, &target).with_context(|| format!("failed to copy {}", target.display()))?;
    }
    Ok(())
}

fn free_ports() -> Result<[u16; 2]> {
    // Both at a time: one that was released may be given out again.
    let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port()])
}
