//! `cargo xtask test`: everything that can fail, in the order of its price.

use anyhow::{Result, bail};

use crate::install::{Tools, install};
use crate::run::{PROFILE, cargo, run, say, target_dir};

/// The suites to which a hub is its Kubernetes API alone.
const NEEDS_AN_API: [&str; 2] = ["hostile_hub", "stock_cluster"];
/// The suites of nodes that need more of it, and what.
const NEEDS_A_HUB: [(&str, &str); 6] = [
    (
        "pods",
        "its workloads are placed by a hub's DaemonSets beside devices, rules and exports, which no stock controller assigns",
    ),
    ("join", "tokens for one box, names bound to keys, refused keys of deleted Nodes are a hub's"),
    ("tokens", "it reads what a hub's store keeps, and restarts the hub"),
    ("up, fleet, data_path, observe, newcomer", "they are about the hub, the edge plane or their telemetry"),
    ("attack", "the hub is what is attacked"),
    (
        "kubectl, clients, differential, snapshots, bad_input, commands, terminal, docs",
        "no node takes part, or our command line is what they check",
    ),
];

/// The suites of the hub's controllers and scheduler that run before Kubernetes' own API server as well; each test has one of its own.
const CONTROLLERS: [&str; 5] = ["daemons", "jobs", "over_api", "replicated", "scaled"];
/// Those of their tests that need more of ours, and what.
const NEEDS_OURS: &[(&str, &[&str])] = &[
    ("the test adds an API of its own to our server", &["autoscaling::"]),
    (
        "the test adds an admission plug-in of its own to our server",
        &["what_the_api_rejects_is_said_and_tried_few_times"],
    ),
    (
        "the test gives priorities without classes, which an admission plug-in rejects",
        &["a_pod_of_higher_priority_takes_the_place_of_others"],
    ),
    ("other controllers of ours take part", &["others::"]),
    ("the test counts requests before they reach our server", &["a_large_set_creates_in_batches_and_holds_up_nobody"]),
    (
        "garbage collection is another controller's",
        &["a_daemon_set_follows_the_labels_of_nodes", "orphans_are_adopted_by_a_set_of_the_same_name"],
    ),
    ("it counts every write of the store", &["a_cron_job_starts_the_most_recent_time_once"]),
];

/// Runs unit tests and the black-box suites against the built program.
pub fn test(args: &[String]) -> Result<()> {
    let (mut all, mut may_install, mut unit, mut black_box, mut filter) = (false, true, true, true, None);
    let (mut release, mut bless, mut real_cluster) = (false, false, false);
    for arg in args {
        match arg.as_str() {
            "--all" => all = true,
            // What is shipped is under test, not what is tested is shipped: the black-box half runs on the release binary.
            "--release" => (release, unit) = (true, false),
            // No unit test has a control plane.
            "--real-cluster" => (real_cluster, unit) = (true, false),
            "--bless" => bless = true,
            "--no-install" => may_install = false,
            "--unit" => black_box = false,
            "--black-box" => unit = false,
            // Black-box too, in a machine of its own.
            "--vm" => (filter, unit) = (Some("vm::".to_owned()), false),
            "--" => {}
            flag if flag.starts_with('-') => bail!("`{flag}` is no flag of `cargo xtask test`; see `cargo xtask help`"),
            // All of it is black-box: no unit test needs to be built for it.
            name @ "differential" => (filter, unit) = (Some(name.to_owned()), false),
            name => filter = Some(name.to_owned()),
        }
    }
    if real_cluster {
        crate::peers::install(&["kube-apiserver", "kube-controller-manager"].map(str::to_owned))?;
    }
    let tools = if may_install { install()? } else { Tools::found() };
    crate::example::build()?;
    // One selection of packages for all that is built here: cargo unites features over a selection, so another one
    // would compile the same dependencies anew.
    let mut select = vec!["test", "--profile", PROFILE, "--workspace"];
    match (unit, black_box) {
        (true, true) => {}
        (true, false) => select.extend(["--exclude", "selvedge-tests"]),
        (false, true) => select.extend(["--test", "black-box", "--test", "program"]),
        (false, false) => bail!("--unit and --black-box leave nothing to run; give one of them, or none"),
    }
    say("Building tests and the program");
    let mut build = select.clone();
    build.push("--no-run");
    run(&mut cargo(&build))?;
    say(if all { "All tests, long ones at full size" } else { "All tests" });
    let mut command = cargo(&select);
    tools.export(&mut command);
    // Cargo builds the program beside the tests, because the package `selvedge` has a test of its own.
    let mut program = target_dir().join(PROFILE).join("selvedge");
    if release {
        crate::bench::build_release()?;
        program = target_dir().join("release/selvedge");
        command.env("SELVEDGE_PROFILE", "release");
    }
    command.env("SELVEDGE_BIN", program);
    command.env("SELVEDGE_TEST_SIZE", if all { "full" } else { "small" });
    if bless {
        // What expect-test looks at: snapshots are written anew, to be read as a difference.
        command.env("UPDATE_EXPECT", "1");
    }
    if real_cluster {
        say("Before Kubernetes' own API server, etcd and controllers");
        for (suite, why) in NEEDS_A_HUB {
            println!("not run: {suite}: {why}");
        }
        command.env("SELVEDGE_API", "kube-apiserver");
    } else if let Some(filter) = &filter {
        command.arg(filter);
    }
    // Each black-box test runs a hub, a node and their pods: more than two at once measure the machine, not us.
    command.args(["--", "--test-threads", "2"]);
    if real_cluster {
        // What cannot run there says so, which is seen of tests that pass, too.
        command.arg("--show-output");
        match &filter {
            Some(filter) => command.arg(filter),
            None => command.args(NEEDS_AN_API),
        };
    }
    run(&mut command)?;
    if real_cluster && filter.is_none() {
        return controllers_before_stock(&tools);
    }
    if !(unit && filter.is_none()) {
        return Ok(());
    }
    if !may_install && !crate::fuzz::has_compiler() {
        if std::env::var("CI").is_ok_and(|ci| ci == "true") {
            bail!("fuzzing needs a C++ compiler, and in CI a skip is a failure");
        }
        println!("skipped: fuzzing, which needs a C++ compiler");
        return Ok(());
    }
    crate::fuzz::all(all)?;
    if all { crate::coverage::coverage() } else { Ok(()) }
}

/// The hub's controllers before Kubernetes' own API server alone: they use nothing of ours that it has not.
fn controllers_before_stock(tools: &Tools) -> Result<()> {
    say("The hub's controllers and scheduler before Kubernetes' own API server and etcd");
    let mut command = cargo(&["test", "--profile", PROFILE, "--workspace", "--no-fail-fast"]);
    for suite in CONTROLLERS {
        command.args(["--test", suite]);
    }
    tools.export(&mut command);
    command.env("SELVEDGE_API", "kube-apiserver");
    command.args(["--", "--test-threads", "2"]);
    for (why, tests) in NEEDS_OURS {
        for test in *tests {
            println!("not run: {test}: {why}");
            command.args(["--skip", test]);
        }
    }
    run(&mut command)
}
