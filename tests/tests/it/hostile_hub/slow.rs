//! A hub that is slow, or fails for one thing, holds up nothing else; a thin line carries all there is to know.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::wait::eventually;

use super::{PATIENCE, Site};

/// How long a container that ended twice waits before its second start.
const BACK_OFF: Duration = Duration::from_secs(10);

#[test]
fn a_hub_that_hangs_and_one_that_freezes_are_left_for_one_that_answers() -> Result<()> {
    let site = Site::start()?;
    site.create_pods(0..2)?;
    let before = site.wait_programs(0..2, PATIENCE)?;
    // Nothing is answered any more, on a line that is open: only a deadline can end it.
    site.proxy.freeze();
    site.create_pods(2..3)?;
    let frozen = site.proxy.connections();
    eventually("another connection", PATIENCE, || {
        let now = site.proxy.connections();
        if now > frozen { Ok(()) } else { Err(now) }
    })?;
    site.proxy.thaw();
    site.wait_programs(2..3, PATIENCE)?;
    ensure!(site.wait_programs(0..2, Duration::ZERO)? == before);
    Ok(())
}
