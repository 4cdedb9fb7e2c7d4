//! A hub that has lost or restored its store, another hub, and a certificate that has expired: pods run on.
//!
//! Absence is no deletion: a list of a hub that does not know a pod because it has forgotten it stops nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::program::Selvedge;
use testkit::wait::eventually;

use super::{PATIENCE, Site};

impl Site {
    fn ensure_runs_on(&self, programs: &[u32]) -> Result<()> {
        // What stops a pod sends it a signal at once; two statuses of the node later nothing has.
        for _ in 0..2 {
            let status = self.status().map_err(anyhow::Error::msg)?;
            let now = self.wait_programs(0..programs.len(), Duration::ZERO).with_context(|| status.to_string())?;
            ensure!(now == programs, "{programs:?} became {now:?}: {status}");
        }
        Ok(())
    }
}

#[test]
fn another_hub_under_the_address_stops_no_pod_and_is_named() -> Result<()> {
    let mut site = Site::start_tunnelled()?;
    site.create_pods(0..2)?;
    let programs = site.wait_programs(0..2, PATIENCE)?;
    let mut other = Selvedge::start(&site.dir.path().join("other"), &["hub"])?;
    let address = other.address("hub-api")?;
    site.proxy.set_hub(&address);
    let before = site.proxy.connections();
    site.proxy.reset_connections();
    eventually("the other hub among the errors", PATIENCE, || {
        let errors = site.status()?["lastErrors"].to_string();
        if errors.contains("another CA") { Ok(()) } else { Err(errors) }
    })?;
    ensure!(site.proxy.connections() > before);
    site.ensure_runs_on(&programs)?;
    // The right one again.
    site.proxy.set_hub(&site.hub_address);
    site.create_pods(2..3)?;
    site.wait_programs(2..3, PATIENCE)?;
    site.ensure_runs_on(&programs)?;
    site.node.kill();
    Ok(())
}
