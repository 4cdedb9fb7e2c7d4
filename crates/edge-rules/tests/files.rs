//! Runs the rules in `tests/cases`: each file carries what goes in and what should come out.
//!
//! ```text
//! -- stream CREATE STREAM …            (default: an edgex stream without columns)
//! -- in  vibration {"rms": 7.1}        a message; `@1000` before the name sets the clock in milliseconds
//! -- out {"rms": 7.1}                  the next row that comes out
//! -- tick 10000                        time passes
//! -- error unexpected `FORM` at …      the statement should be refused so
//! ```

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;

use edge_rules::{Row, Rule, SqlError, parse_select, parse_stream};

fn check(name: &str, text: &str) {
    let directives: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("-- ")).map(str::trim).collect();
    let made = (|| -> Result<Rule, SqlError> {
        let select = parse_select(text)?;
        let mut streams = Vec::new();
        for stream in directives.iter().filter_map(|line| line.strip_prefix("stream ")) {
            streams.push(parse_stream(stream)?);
        }
        for name in select.streams() {
            if !streams.iter().any(|stream| stream.name == name) {
                streams.push(parse_stream(&format!("CREATE STREAM {name} () WITH (TYPE=\"edgex\")"))?);
            }
        }
        Rule::new(&select, &streams)
    })();
    let expected = directives.iter().find_map(|line| line.strip_prefix("error "));
    let mut rule = match (made, expected) {
        (Ok(rule), None) => rule,
        (Err(error), Some(expected)) => return assert_eq!(error.to_string(), expected.trim(), "{name}"),
        (Ok(_), Some(expected)) => panic!("{name}: should be refused: {expected}"),
        (Err(error), None) => panic!("{name}: {error}"),
    };
    let (mut now_ms, mut out) = (0, Vec::new());
    let mut given: VecDeque<String> = VecDeque::new();
    for line in directives {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut rest = rest.trim();
        match word {
            "in" => {
                if let Some((clock, after)) = rest.strip_prefix('@').and_then(|rest| rest.split_once(' ')) {
                    now_ms = clock.parse().unwrap_or_else(|_| panic!("{name}: `{clock}` is no time"));
                    rest = after.trim();
                }
                let (stream, row) = rest.split_once(' ').unwrap_or_else(|| panic!("{name}: in STREAM {{…}}"));
                let row = Row::from_json(row).unwrap_or_else(|| panic!("{name}: `{row}` is no object"));
                rule.push(stream, now_ms, &row, &mut out);
            }
            "tick" => {
                now_ms = rest.parse().unwrap_or_else(|_| panic!("{name}: `{rest}` is no time"));
                rule.tick(now_ms, &mut out);
            }
            "out" => {
                let row = Row::from_json(rest).unwrap_or_else(|| panic!("{name}: `{rest}` is no object"));
                assert_eq!(given.pop_front(), Some(row.to_json().to_string()), "{name}: {:?}", rule.stats());
            }
            _ => {}
        }
        given.extend(out.drain(..).map(|row| row.to_json().to_string()));
    }
    assert!(given.is_empty(), "{name}: further rows came out: {given:?}");
}

#[test]
fn rule_files_do_what_they_say() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut checked = 0;
    for entry in fs::read_dir(folder).expect("the folder of cases is there") {
        let path = entry.expect("its entries can be listed").path();
        let text = fs::read_to_string(&path).expect("a case can be read");
        check(&path.display().to_string(), &text);
        checked += 1;
    }
    assert!(checked > 0, "there are cases");
}
