//! Answers that are not what was asked for change nothing, are reported, and are over with the next good one.

use anyhow::{Result, ensure};
use bytes::Bytes;
use testkit::proxy::{Action, Rule};
use testkit::wait::eventually;

use super::{PATIENCE, Site, WATCH_OF_PODS};

#[test]
fn a_line_without_an_end_is_given_up() -> Result<()> {
    const ENDLESS_BYTES: usize = 64 * 1024 * 1024;
    let site = Site::start()?;
    let mut line = br#"{"type":"ADDED","object":{"kind":"Pod","note":""#.to_vec();
    line.resize(ENDLESS_BYTES, b'x');
    let inject = Action::InjectWatchLine(Bytes::from(line));
    let rule = site.proxy.rule(Rule::new("GET", WATCH_OF_PODS).times(1).then(inject));
    let (_, before) = site.proxy.bytes();
    site.proxy.reset_connections();
    eventually("a watch that is given up", PATIENCE, || {
        let passed = site.proxy.requests().into_iter().find(|one| one.rule == Some(rule));
        let is_over = passed.as_ref().is_some_and(|one| one.end.is_some());
        if is_over { Ok(()) } else { Err(format!("{passed:?}")) }
    })?;
    let (_, after) = site.proxy.bytes();
    ensure!(after - before < ENDLESS_BYTES as u64 / 4, "{} bytes were read of a line without an end", after - before);
    site.create_pods(0..1)?;
    site.wait_programs(0..1, PATIENCE)?;
    Ok(())
}
