use std::path::{Path, PathBuf};

use super::{EdgeConfig, HubConfig, NodeConfig};

const COMPLETE: &str = "every key has its sentence";

fn samples() -> [(&'static str, String); 3] {
    [
        ("hub.yaml", base_config::sample::<HubConfig>(HubConfig::ENV, HubConfig::DESCRIPTIONS).expect(COMPLETE)),
        ("node.yaml", base_config::sample::<NodeConfig>(NodeConfig::ENV, NodeConfig::DESCRIPTIONS).expect(COMPLETE)),
        ("edge.yaml", base_config::sample::<EdgeConfig>(EdgeConfig::ENV, EdgeConfig::DESCRIPTIONS).expect(COMPLETE)),
    ]
}

fn samples_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/config")
}

/// `SELVEDGE_BLESS=1 cargo test -p selvedge` writes the files anew.
#[test]
fn the_sample_files_of_the_reference_are_those_of_the_code() {
    for (name, sample) in samples() {
        let path = samples_dir().join(name);
        if std::env::var_os("SELVEDGE_BLESS").is_some() {
            std::fs::create_dir_all(samples_dir()).unwrap();
            std::fs::write(&path, &sample).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), sample, "{}", path.display());
    }
}

#[test]
fn the_sample_files_are_read_as_the_defaults() {
    let load = |name: &str| std::fs::read_to_string(samples_dir().join(name)).unwrap();
    let source = |text| base_config::Source { text: Some(text), env: Vec::new() };
    let text = load("hub.yaml");
    assert_eq!(base_config::load_from::<HubConfig>(&source(&text), HubConfig::ENV).unwrap(), HubConfig::default());
    let text = load("node.yaml");
    assert_eq!(base_config::load_from::<NodeConfig>(&source(&text), NodeConfig::ENV).unwrap(), NodeConfig::default());
    let text = load("edge.yaml");
    assert_eq!(base_config::load_from::<EdgeConfig>(&source(&text), EdgeConfig::ENV).unwrap(), EdgeConfig::default());
}

/// What is wrong with the settings of a node.
fn mistakes(text: &str) -> Vec<String> {
    let source = base_config::Source { text: Some(text), env: Vec::new() };
    base_config::load_from::<NodeConfig>(&source, NodeConfig::ENV).expect("a file that can be read").mistakes()
}

#[test]
fn how_pods_are_evicted_and_end_with_the_machine_is_checked() {
    let right = "evictionSoft: {memory.available: 10%}\nevictionSoftGracePeriodSeconds: {memory.available: 90}\n\
                 evictionMaxPodGracePeriodSeconds: 30\nevictionMinimumReclaim: {nodefs.available: 1Gi}\n\
                 shutdownGracePeriodByPodPriority: [{priority: 1000, shutdownGracePeriodSeconds: 10}, \
                 {priority: 0, shutdownGracePeriodSeconds: 20}]\n";
    assert_eq!(mistakes(right), [""; 0]);
    let source = base_config::Source { text: Some(right), env: Vec::new() };
    let config = base_config::load_from::<NodeConfig>(&source, NodeConfig::ENV).unwrap();
    let groups = config.machine_shutdown().unwrap().groups;
    assert_eq!(
        groups.iter().map(|group| (group.priority, group.grace.as_secs())).collect::<Vec<_>>(),
        [(0, 20), (1000, 10)]
    );
    assert_eq!(config.eviction().unwrap().soft.len(), 1);
    let wrong = "evictionHard: {memory.free: 1Mi}\nevictionSoft: {pid.available: 10%}\nevictionMinimumReclaim: {nodefs.available: much}\n\
                 shutdownGracePeriodSeconds: 5\nshutdownGracePeriodByPodPriority: [{priority: 0, shutdownGracePeriodSeconds: 1}, \
                 {priority: 0, shutdownGracePeriodSeconds: 100000}]\n";
    let said = mistakes(wrong);
    let expected = [
        "`evictionHard`: `memory.free` is not watched; use one of memory.available, nodefs.available, nodefs.inodesFree, imagefs.available, pid.available",
        "`evictionSoft`: `pid.available` has no grace period; say how many seconds in evictionSoftGracePeriodSeconds",
        "`evictionMinimumReclaim`: `nodefs.available`: \"much\" is neither a quantity such as 100Mi nor a part such as 10%",
        "`shutdownGracePeriodByPodPriority` is in place of `shutdownGracePeriodSeconds` and `shutdownGracePeriodCriticalPodsSeconds`; leave them out",
        "`shutdownGracePeriodByPodPriority`: priority 0 is there twice",
        "`shutdownGracePeriodByPodPriority`: 100000 s is longer than a day",
    ];
    assert_eq!(said, expected);
}
