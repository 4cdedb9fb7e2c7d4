//! The agent is killed at random moments, with shims or programs or alone, while its hub is away, lies, or is itself.
//!
//! Each pod's program holds a lock and writes a line with its own token every 20 ms. What must hold after every round:
//!
//! ```text
//! the lock was free when a program came ──▶ no two at a time      a token never comes back after another ──▶ the same, by the log
//! every log grows again                 ──▶ none is lost          since the last kill                    ──▶ how long that took
//! ```
//!
//! Shims and programs die after the agent, as in a power cut or by a kernel short of memory: what a running agent sees end is
//! held back longer each time, as it should be. Seeds: `SEED=42` repeats the decisions of a run, not its timing.

use std::collections::HashSet;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use testkit::image::{Compression, Entry, Image};
use testkit::process;
use testkit::program::{run, signal};
use testkit::proxy::{Action, Rule};

use super::lies::{EXPIRED, LIES};
use super::{LIST_OF_PODS, PATIENCE, PODS, Site, WATCH_OF_PODS};
use crate::common::{is_full, keep_figures, kill_with_pods};

/// What a test asserts on any machine; the figure that is aimed at is in the report.
const BACK_MAX: Duration = Duration::from_secs(5);
const POLL_PERIOD: Duration = Duration::from_millis(5);
/// What every other pod is a container of.
const IMAGE: &str = "example.com/programs:1";
/// Longest pause between two acts: it spans what the agent does in a start.
const PAUSE_MS_MAX: u64 = 120;

/// Holds the lock, and writes its token every 20 ms. A lock that is taken is said in the file of overlaps.
const PROGRAM: &str = r#"use Fcntl qw(:flock O_WRONLY O_APPEND O_CREAT);
my ($mark, $base) = @ARGV;
open(my $urandom, "<", "/dev/urandom") or die $!; read($urandom, my $bytes, 8); my $token = unpack("H*", $bytes);
sysopen(my $lock, "$base.lock", O_WRONLY | O_CREAT) or die $!;
sysopen(my $log, "$base.log", O_WRONLY | O_APPEND | O_CREAT) or die $!;
if (!flock($lock, LOCK_EX | LOCK_NB)) {
  sysopen(my $overlaps, "$base.overlap", O_WRONLY | O_APPEND | O_CREAT) or die $!;
  syswrite($overlaps, "$token\n"); exit 7;
}
while (1) { syswrite($log, "$token\n"); select(undef, undef, undef, 0.02); }"#;

/// What is known of one pod's log.
struct Log {
    base: PathBuf,
    offset: u64,
    token: String,
    seen: HashSet<String>,
}

impl Log {
    fn new(base: PathBuf) -> Self {
        Self { base, offset: 0, token: String::new(), seen: HashSet::new() }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        let name = self.base.file_name().unwrap_or_default().to_string_lossy();
        self.base.with_file_name(format!("{name}.{suffix}"))
    }

    fn len(&self) -> u64 {
        std::fs::metadata(self.path("log")).map_or(0, |metadata| metadata.len())
    }

    /// Reads what is new; two programs at a time show in it.
    fn check(&mut self) -> Result<()> {
        let path = self.path("log");
        let mut file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        self.offset += text.len() as u64;
        for token in text.lines() {
            if token == self.token {
                continue;
            }
            ensure!(self.seen.insert(token.to_owned()), "{}: {token} wrote before and after another", path.display());
            token.clone_into(&mut self.token);
        }
        let overlaps = std::fs::read_to_string(self.path("overlap")).unwrap_or_default();
        ensure!(overlaps.is_empty(), "{}: a second program ran beside the first one: {overlaps}", path.display());
        Ok(())
    }
}

/// How the hub is in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hub {
    Away,
    Lying,
    Honest,
}

/// What dies with the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Alone,
    Programs,
    Shims,
    All,
}

impl Site {
    /// Every other one is a container of an image, where the tests' user may have these.
    fn lock_pod(&self, number: usize, base: &Path) -> Value {
        let mut pod = self.pod(number);
        let args = json!(["-e", PROGRAM, self.mark(number), base.to_string_lossy()]);
        if number.is_multiple_of(2) || !has_images() {
            let container = &mut pod["spec"]["containers"][0];
            container["image"] = "file:///usr/bin/perl".into();
            container["args"] = args;
            return pod;
        }
        let out = base.parent().map(|dir| dir.to_string_lossy().into_owned()).unwrap_or_default();
        pod["spec"]["runtimeClassName"] = Value::Null;
        pod["spec"]["volumes"] = json!([
            {"name": "programs", "hostPath": {"path": "/usr"}}, {"name": "out", "hostPath": {"path": out}},
        ]);
        let container = &mut pod["spec"]["containers"][0];
        container["image"] = IMAGE.into();
        container["imagePullPolicy"] = "Never".into();
        container["command"] = json!(["/usr/bin/perl"]);
        container["args"] = args;
        container["volumeMounts"] = json!([
            {"name": "programs", "mountPath": "/usr", "readOnly": true}, {"name": "out", "mountPath": out},
        ]);
        pod
    }

    /// Gives the node an image in which the machine's own programs run, once they are mounted.
    fn import_image(&self) -> Result<()> {
        let names = ["bin", "lib", "lib64"].map(|name| Entry::symlink(name, format!("usr/{name}")));
        let entries: Vec<Entry> = names.into_iter().chain([Entry::directory("usr")]).collect();
        let archive = self.dir.path().join("programs.tar");
        std::fs::write(&archive, Image::new().layer(&entries, Compression::Gzip).docker_archive(IMAGE))?;
        let data_dir = self.node.data_dir().to_string_lossy().into_owned();
        run(["image", "import", &archive.to_string_lossy(), "--data-dir", &data_dir])?.ok()?;
        Ok(())
    }

    /// Processes of these pods' programs.
    fn lock_programs(&self) -> Vec<u32> {
        let prefix = format!("0.{:010}", self.salt);
        let found = process::find(|words| words.get(3).is_some_and(|word| word.starts_with(&prefix)));
        let mut pids: Vec<u32> = found.into_iter().map(|(pid, _)| pid).collect();
        pids.sort_unstable();
        pids
    }

    /// The shims of this node, and whatever bears its directory in its name.
    fn shims(&self) -> Vec<u32> {
        let own = self.dir.path().join("node").to_string_lossy().into_owned();
        let agent = self.node.pid();
        let found = process::find(|words| words.iter().any(|word| word.contains(&own)));
        found.into_iter().map(|(pid, _)| pid).filter(|pid| *pid != agent).collect()
    }

    fn set_mode(&self, hub: Hub, random: &mut fastrand::Rng) {
        self.proxy.clear();
        self.proxy.set_away(hub == Hub::Away);
        if hub == Hub::Lying {
            let lie = LIES[random.usize(..LIES.len())];
            let line = ["[]\n", "5\n", "{\"type\":\"DELETED\"}\n", EXPIRED][random.usize(..4)];
            let line = Action::InjectWatchLine(Bytes::from_static(line.as_bytes()));
            self.proxy.rule(Rule::new("GET", WATCH_OF_PODS).then(line));
            self.proxy.rule(Rule::new("GET", LIST_OF_PODS).then(Action::json(lie)));
            let others =
                [Action::Abort, Action::Hang, Action::json("[]"), Action::status(500, "{}"), Action::LoseAnswer];
            let other = others[random.usize(..others.len())].clone();
            self.proxy.rule(Rule::new("PATCH|PUT|POST", "").times(3).then(other));
        }
    }

    /// Kills the agent and what dies with it, some at random.
    fn die(&mut self, death: Death, random: &mut fastrand::Rng) -> Result<()> {
        self.node.kill();
        let victims = match death {
            Death::Alone => Vec::new(),
            Death::Programs => self.lock_programs(),
            Death::Shims => self.shims(),
            Death::All => return kill_with_pods(&mut self.node),
        };
        for victim in victims {
            if random.bool() {
                signal(victim, libc::SIGKILL);
            }
        }
        Ok(())
    }
}

/// Images of containers are root's.
fn has_images() -> bool {
    // SAFETY: it has no arguments and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn pause(random: &mut fastrand::Rng) {
    // Not for a state to come about: the moment of the next act is what the seed chooses.
    std::thread::sleep(Duration::from_millis(random.u64(..PAUSE_MS_MAX)));
}

/// Waits until each pod has one program and all of them write; how long after `start` the last of these had come. What dies with
/// its shim may still write a line: three lines from one and the same set of programs are none of that.
fn wait_back(site: &Site, logs: &[Log], start: Instant) -> Result<Duration> {
    const LINES_BYTES: u64 = 3 * 17;
    let mut programs = Vec::new();
    let (mut came, mut lens) = (start.elapsed(), Vec::new());
    loop {
        let now = site.lock_programs();
        if now != programs {
            (programs, came) = (now, start.elapsed());
            lens = logs.iter().map(Log::len).collect();
        }
        let is_writing = |(log, len): (&Log, &u64)| log.len() >= len + LINES_BYTES;
        if programs.len() == logs.len() && logs.iter().zip(&lens).all(is_writing) {
            return Ok(came);
        }
        let took = start.elapsed();
        ensure!(took < BACK_MAX, "{programs:?} are not {} after {took:?}: {:?}", logs.len(), site.status());
        std::thread::sleep(POLL_PERIOD);
    }
}

fn kill_loop(name: &str, rounds: usize, pods: usize) -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut site = Site::start()?;
    if has_images() {
        site.import_image()?;
    }
    let out = site.dir.path().join("out");
    std::fs::create_dir(&out)?;
    let mut logs: Vec<Log> = (0..pods).map(|number| Log::new(out.join(format!("p{number}")))).collect();
    for (number, log) in logs.iter().enumerate() {
        site.api.create(PODS, &site.lock_pod(number, &log.base))?;
    }
    site.wait_shown(0..pods, PATIENCE)?;
    let (mut times, mut kills) = (Vec::new(), 0);
    for round in 0..rounds {
        let hub = [Hub::Away, Hub::Away, Hub::Away, Hub::Lying, Hub::Lying, Hub::Honest][random.usize(..6)];
        site.set_mode(hub, &mut random);
        pause(&mut random);
        let deaths = random.usize(1..=3);
        let mut last = Instant::now();
        let mut story = format!("round {round}, hub {hub:?}");
        for number in 0..deaths {
            if number > 0 {
                pause(&mut random);
            }
            let death = [Death::Alone, Death::Programs, Death::Shims, Death::All][random.usize(..4)];
            story += &format!(", {death:?}");
            site.die(death, &mut random).with_context(|| story.clone())?;
            kills += 1;
            last = Instant::now();
            site.node.start_again("ephemeral")?;
        }
        let took = wait_back(&site, &logs, last).with_context(|| story.clone())?;
        times.push(took);
        for log in &mut logs {
            log.check().with_context(|| story.clone())?;
        }
    }
    // With an honest hub all are as they were, and end when they are deleted.
    site.set_mode(Hub::Honest, &mut random);
    site.wait_shown(0..pods, PATIENCE)?;
    for number in 0..pods {
        site.api.delete(&format!("{PODS}/p{number}"))?;
    }
    testkit::wait::eventually("no program of a deleted pod", PATIENCE, || {
        let (programs, shims) = (site.lock_programs(), site.shims());
        if programs.is_empty() && shims.is_empty() { Ok(()) } else { Err(format!("{programs:?} {shims:?}")) }
    })?;
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64();
    let lines: usize = logs.iter().map(|log| log.seen.len()).sum();
    let came_to = json!({
        "figure": name, "rounds": rounds, "kills": kills, "pods": pods, "programs": lines, "unit": "s",
        "value": at(0.5), "p90": at(0.9), "max": at(1.0), "seed": seed,
    });
    println!("{came_to}");
    if is_full() { keep(came_to) } else { Ok(()) }
}

/// Keeps what a run of the full size came to, beside those under other names.
fn keep(came_to: Value) -> Result<()> {
    let columns = ["figure", "rounds", "kills", "pods", "programs", "value", "p90", "max", "seed"];
    keep_figures("node-kills", came_to, &columns, |rows| {
        format!(
            "# Random kills of a node\n\n`cargo xtask test --all kills_`: the agent dies at random moments, alone or with shims, programs or all of the node; in half \
         of the rounds the hub is away, in a third it lies. No program ran beside another of its pod, none was lost. Seconds from the last kill of a round \
         until all pods run.\n\n| run | rounds | kills | pods | programs started | p50 | p90 | max | seed |\n|---|---|---|---|---|---|---|---|---|\n{rows}"
        )
    })
}

/// Five runs of 200 rounds in the full size, so that none lasts long; the first one alone in the small one.
fn part(name: &str) -> Result<()> {
    match (is_full(), name) {
        (true, _) => kill_loop(name, 200, 10),
        (false, "a") => kill_loop(name, 20, 10),
        (false, _) => {
            println!("runs at full size (`cargo xtask test --all`)");
            Ok(())
        }
    }
}

#[test]
fn kills_a() -> Result<()> {
    part("a")
}

#[test]
fn kills_b() -> Result<()> {
    part("b")
}

#[test]
fn kills_c() -> Result<()> {
    part("c")
}

#[test]
fn kills_d() -> Result<()> {
    part("d")
}

#[test]
fn kills_e() -> Result<()> {
    part("e")
}
