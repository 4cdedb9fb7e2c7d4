//! A fleet of hollow nodes as a process: see `testkit::hollow`.

fn main() -> anyhow::Result<()> {
    testkit::hollow::run(testkit::hollow::Plan::parse(std::env::args().skip(1))?)
}
