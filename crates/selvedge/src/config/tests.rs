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
