//! What a configuration file may say, and what is reported when it says something else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Source, load, load_from, sample, variable_name};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Config {
    api_port: u16,
    name: String,
    level: Level,
    image_prefixes: Vec<String>,
    labels: BTreeMap<String, String>,
    node_ip: Option<String>,
    journal: Journal,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            api_port: 6443,
            name: "hub".to_owned(),
            level: Level::Info,
            image_prefixes: vec!["/usr/bin".to_owned()],
            labels: BTreeMap::new(),
            node_ip: None,
            journal: Journal { bytes_max: 1024, sync: true },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Info,
    Debug,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Journal {
    bytes_max: u64,
    sync: bool,
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[track_caller]
fn check(text: &str, variables: &[(&str, &str)], change: impl FnOnce(&mut Config)) {
    let mut expected = Config::default();
    change(&mut expected);
    let source = Source { text: Some(text), env: env(variables) };
    assert_eq!(load_from::<Config>(&source, "SELVEDGE_HUB").expect("a sound configuration"), expected);
}

#[track_caller]
fn check_errors(text: &str, variables: &[(&str, &str)], expected: &[&str]) {
    let source = Source { text: Some(text), env: env(variables) };
    let errors = load_from::<Config>(&source, "SELVEDGE_HUB").expect_err("a wrong configuration");
    let reported: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    assert_eq!(reported, expected);
}

#[test]
fn what_is_not_said_is_as_by_default() {
    check("", &[], |_| ());
    check("# nothing\n", &[], |_| ());
    check("journal:\n", &[], |_| ());
    check("apiPort: 1\njournal:\n  sync: false\n", &[], |config| {
        config.api_port = 1;
        config.journal.sync = false;
    });
}

#[test]
fn maps_and_lists_are_taken_as_a_whole() {
    check("imagePrefixes: [/opt]\nlabels:\n  a/b: c\nnodeIp: 10.0.0.1\n", &[], |config| {
        config.image_prefixes = vec!["/opt".to_owned()];
        config.labels = BTreeMap::from([("a/b".to_owned(), "c".to_owned())]);
        config.node_ip = Some("10.0.0.1".to_owned());
    });
}

#[test]
fn a_variable_goes_before_the_file() {
    let variables = [
        ("SELVEDGE_HUB_API_PORT", "2"),
        ("SELVEDGE_HUB_NAME", "7"),
        ("SELVEDGE_HUB_JOURNAL_BYTES_MAX", "9"),
        ("SELVEDGE_HUB_IMAGE_PREFIXES", "[/a, /b]"),
        ("SELVEDGE_HUB_NODE_IP", "10.0.0.1"),
        ("SELVEDGE_NODE_NAME", "of another role"),
    ];
    check("apiPort: 1\n", &variables, |config| {
        config.api_port = 2;
        config.name = "7".to_owned();
        config.journal.bytes_max = 9;
        config.image_prefixes = vec!["/a".to_owned(), "/b".to_owned()];
        config.node_ip = Some("10.0.0.1".to_owned());
    });
}

#[test]
fn a_variable_of_a_list_or_a_map_needs_no_brackets() {
    let check_list = |text: &str, prefixes: &[&str], labels: &[(&str, &str)]| {
        let name = if labels.is_empty() { "SELVEDGE_HUB_IMAGE_PREFIXES" } else { "SELVEDGE_HUB_LABELS" };
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        check("", &[(name, text)], |config| {
            if labels.is_empty() {
                config.image_prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
            }
            config.labels = labels.iter().map(owned).collect();
        });
    };
    check_list("/a", &["/a"], &[]);
    check_list(" /a, /b ,", &["/a", "/b"], &[]);
    check_list("[/a, /b]", &["/a", "/b"], &[]);
    check_list("", &[], &[]);
    check_list("site=hall-2", &[], &[("site", "hall-2")]);
    check_list("site=hall-2, x.io/a = b=c", &[], &[("site", "hall-2"), ("x.io/a", "b=c")]);
    check_list("{site: hall-2}", &[], &[("site", "hall-2")]);
    check_errors(
        "",
        &[("SELVEDGE_HUB_LABELS", "a=b,site: hall-2")],
        &[
            "environment variable `SELVEDGE_HUB_LABELS`: `site: hall-2` is not of the form KEY=VALUE; several have commas between them",
        ],
    );
}

#[test]
fn all_mistakes_are_reported_at_once() {
    check_errors(
        "apiPort: many\nnmae: x\nlevel: loud\njournal:\n  bytesMx: 3\n  sync: 7\n",
        &[("SELVEDGE_HUB_API_PRT", "1"), ("SELVEDGE_HUB_JOURNAL_SYNC", "often")],
        &[
            "line 1: `apiPort`: invalid type: string \"many\", expected u16",
            "line 2: `nmae` is not a setting; did you mean `name`?",
            "line 3: `level`: unknown variant `loud`, expected `info` or `debug`",
            "line 5: `journal.bytesMx` is not a setting; did you mean `journal.bytesMax`?",
            "line 6: `journal.sync`: invalid type: integer `7`, expected a boolean",
            "environment variable `SELVEDGE_HUB_API_PRT` is not a setting; did you mean `SELVEDGE_HUB_API_PORT`?",
            "environment variable `SELVEDGE_HUB_JOURNAL_SYNC`: invalid type: string \"often\", expected a boolean",
        ],
    );
}

#[test]
fn a_key_unlike_any_other_gets_no_guess() {
    check_errors("colour: red\n", &[], &["line 1: `colour` is not a setting"]);
}

#[test]
fn variables_of_kubernetes_services_are_left_alone() {
    let links = [
        ("SELVEDGE_HUB_SERVICE_HOST", "10.0.0.1"),
        ("SELVEDGE_HUB_PORT", "tcp://10.0.0.1:6443"),
        ("SELVEDGE_HUB_PORT_6443_TCP_ADDR", "10.0.0.1"),
    ];
    check("", &links, |_| ());
}

#[test]
fn a_file_that_is_not_there_or_not_yaml_is_an_error() {
    let missing = load::<Config>(Some("/nowhere/hub.yaml".as_ref()), "SELVEDGE_TEST_HUB").expect_err("no such file");
    assert!(missing.to_string().contains("/nowhere/hub.yaml"), "{missing}");
    let source = Source { text: Some("a: [1"), env: vec![] };
    let broken = load_from::<Config>(&source, "SELVEDGE_HUB").expect_err("not YAML");
    assert!(broken.to_string().starts_with("the file is not YAML"), "{broken}");
    check_errors("- a\n", &[], &["the file must hold settings as `key: value`"]);
}

#[test]
fn names_of_variables_follow_the_path() {
    assert_eq!(variable_name("SELVEDGE_HUB", "journal.bytesMax"), "SELVEDGE_HUB_JOURNAL_BYTES_MAX");
}

const DESCRIPTIONS: &[(&str, &str)] = &[
    ("apiPort", "Where the API listens."),
    ("name", "The hub's name."),
    ("level", "How much to log."),
    ("imagePrefixes", "Programs under these directories may be run."),
    ("labels", "Labels of the node."),
    ("nodeIp", "The address that the node reports."),
    ("journal", "The journal."),
    ("journal.bytesMax", "Disk the journal may use."),
    ("journal.sync", "Whether to wait for the disk."),
];

#[test]
fn the_sample_reads_back_as_the_defaults() {
    let text = sample::<Config>("SELVEDGE_HUB", DESCRIPTIONS).expect("every key is described");
    check(&text, &[], |_| ());
    assert!(text.contains("# Where the API listens.\n# SELVEDGE_HUB_API_PORT\napiPort: 6443\n"), "{text}");
    assert!(text.contains("# nodeIp:\n"), "{text}");
}

#[test]
fn a_key_without_a_description_fails_the_sample() {
    let error = sample::<Config>("X", &DESCRIPTIONS[1..]).expect_err("apiPort is not described");
    assert_eq!(error.0, ["apiPort"]);
    let extra: Vec<_> = DESCRIPTIONS.iter().copied().chain([("removed", "No such key.")]).collect();
    assert_eq!(sample::<Config>("X", &extra).expect_err("removed is no key").0, ["removed"]);
}

#[test]
fn a_file_that_does_not_say_its_length_is_bounded_all_the_same() {
    let errors = crate::read(std::path::Path::new("/dev/zero")).expect_err("it never ends");
    assert_eq!(errors.to_string(), "failed to read configuration file /dev/zero: it has more than 1048576 bytes");
}

#[test]
fn a_key_of_a_megabyte_is_one_mistake_and_little_work() {
    let key = "x".repeat(1 << 19);
    let text = format!("? {key}\n: 1\n");
    let errors = load_from::<Config>(&Source { text: Some(&text), env: vec![] }, "T").expect_err("no such setting");
    assert_eq!(errors.0.len(), 1);
    assert_eq!(errors.to_string(), format!("`{}` is not a setting", "x".repeat(128)), "no guess is made");
}
