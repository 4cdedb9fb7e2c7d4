//! A disk that is full, read-only or has lost a file: the agent starts, pods run, and what is deleted ends.

use anyhow::Result;

use super::{PATIENCE, Site};
use crate::bad_input::{SmallDisk, fill};
use crate::common::kill_with_pods;

#[test]
fn after_a_power_cut_with_a_full_disk_all_pods_run_again() -> Result<()> {
    let Some(disk) = SmallDisk::mount(24 * 1024 * 1024)? else { return Ok(()) };
    let mut site = Site::start_on(disk.path())?;
    site.create_pods(0..4)?;
    site.wait_programs(0..4, PATIENCE)?;
    site.wait_shown(0..4, PATIENCE)?;
    fill(&disk.path().join("ballast"))?;
    site.proxy.set_away(true);
    kill_with_pods(&mut site.node)?;
    site.node.start_again("ephemeral")?;
    site.wait_programs(0..4, PATIENCE).map(|_| ())
}
