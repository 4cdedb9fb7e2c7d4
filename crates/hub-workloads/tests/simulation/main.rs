//! All controllers of the hub in a simulated world, from a seed.
//!
//! The API server, the controllers, the scheduler and the store are the real ones. Simulated are time, which is paused and jumps
//! from one deadline to the next; the kubelets; the people; and the ways between them, on which watches are late and requests fail
//! or lose their response. A step is one thing that somebody does, or that breaks, and the time until the next.
//!
//! `SEED=42 cargo test -p hub-workloads --test simulation one_seed -- --nocapture` runs a seed again and prints every step. What is
//! drawn is the same each time. What may differ: the server's uids are random, and some maps of the controllers are walked in an
//! order that differs between processes; so a seed that fails mostly, but not surely, fails again in the same step.
//!
//! The two hundred seeds of 10,000 steps are run in ten parts, each by its name: `cargo xtask test --all --unit seeds_0_to_19`.
//!
//! | module | what |
//! | --- | --- |
//! | `api` | the server, asked synchronously; the ways of the controllers to it |
//! | `feed` | what controllers read, and how late |
//! | `kubelet` | nodes, their links and their pods |
//! | `user` | what people do |
//! | `truth` | what is really there, and what must hold at every moment |
//! | `rest` | what must hold once everything is quiet |
//! | `world` | steps |
//! | `loops` | input that never becomes good: how often its objects are looked at |

mod api;
mod feed;
mod kubelet;
mod loops;
mod metrics;
mod rest;
mod truth;
mod user;
mod world;

use std::time::Instant;

/// Steps of a seed.
const STEPS: u32 = 10_000;
/// Steps of a seed in the short form of the test.
const STEPS_SMALL: u32 = 300;

fn is_full() -> bool {
    std::env::var("SELVEDGE_TEST_SIZE").is_ok_and(|size| size == "full")
}

/// Runs seeds; each that fails says how it is run again.
fn check(seeds: std::ops::Range<u64>, steps: u32) {
    let began = Instant::now();
    let steps = std::env::var("STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(steps);
    let mut failed = Vec::new();
    for seed in seeds.clone() {
        if let Err(report) = world::run(seed, steps) {
            let again = format!("SEED={seed} STEPS={steps} cargo test -p hub-workloads --test simulation one_seed");
            println!("seed {seed}: {report}\nAgain: {again}\n");
            failed.push(seed);
        }
    }
    println!("{} seeds of {steps} steps in {:?}", seeds.end - seeds.start, began.elapsed());
    assert!(failed.is_empty(), "seeds {failed:?} failed, as said above");
}

/// A part of the two hundred seeds: all of it at full size, the start of its first seeds otherwise.
fn part(index: u64) {
    const PARTS: u64 = 10;
    const SEEDS: u64 = 200;
    let each = SEEDS / PARTS;
    match is_full() {
        true => check(index * each..(index + 1) * each, STEPS),
        false => check(index * each..index * each + 1, STEPS_SMALL),
    }
}

/// `SEED` names one to look at; otherwise a few steps of the first.
#[test]
fn one_seed() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    check(seed.unwrap_or(0)..seed.unwrap_or(0) + 1, if seed.is_some() { STEPS } else { STEPS_SMALL / 2 });
}

macro_rules! parts {
    ($($name:ident: $index:literal;)+) => { $(
        #[test]
        fn $name() {
            part($index);
        }
    )+ };
}

parts! {
    seeds_0_to_19: 0;
    seeds_20_to_39: 1;
    seeds_40_to_59: 2;
    seeds_60_to_79: 3;
    seeds_80_to_99: 4;
    seeds_100_to_119: 5;
    seeds_120_to_139: 6;
    seeds_140_to_159: 7;
    seeds_160_to_179: 8;
    seeds_180_to_199: 9;
}
