//! eKuiper's own cases, as far as this version runs them. What it does not run stands in a list that only shrinks: a
//! case that is listed and passes fails the test too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use edge_rules::{Datum, Row, RowSource, Rule, SourceType, parse_select, parse_stream};
use serde_json::Value;

/// `function/case` and why it does not pass.
const RULES_REFUSED: &[(&str, &str)] = &[
    ("TestWindowFuncSQL/TestRowNumber1", "row_number"),
    ("TestAccAggSQL/TestAccAggSql1", "analytic functions"),
    ("TestAccAggSQL/TestAccAggSql3", "analytic functions"),
    ("TestAccAggSQL/TestAccAggSql5", "analytic functions"),
    ("TestSRFSQL/TestSingleSQLRule24", "unnest"),
    ("TestSRFSQL/TestSingleSQLRule19", "unnest"),
    ("TestSRFSQL/TestSingleSQLRule21", "unnest"),
    ("TestSingleSQL/TestAnalyzeFuncAlias1", "analytic functions"),
    ("TestSingleSQL/TestSingleSQLRule2", "last_hit_count"),
    ("TestSingleSQL/TestSingleSQLRule8", "the stream's DDL is cut off in the file of cases"),
    ("TestSingleSQL/TestSingleSQLRule10", "JOIN"),
    ("TestSingleSQL/TestSingleSQLRule12", "JOIN"),
    ("TestSingleSQL/TestAliasOrderBy14", "COUNTWINDOW"),
    ("TestSingleSQL/TestLagAlias", "analytic functions"),
    ("TestSingleSQLWithEventTime/TestSingleSQLRule1", "event time drops a late row"),
    ("TestSingleSQLWithEventTime/TestChanged", "changed_cols"),
    ("TestSingleSQLForBinary/TestSingleSQLRule1", "binary format"),
    ("TestWindowSQL/TestHoppingWindowSQL1", "HOPPINGWINDOW"),
    ("TestWindowSQL/TestHoppingWindowSQL3", "HOPPINGWINDOW"),
    ("TestWindow/TestWindowRule0", "SLIDINGWINDOW"),
    ("TestWindow/TestWindowRule4", "SLIDINGWINDOW"),
    ("TestWindow/TestWindowRule6", "JOIN"),
    ("TestWindow/TestCountWindowRule1", "COUNTWINDOW"),
    ("TestWindow/TestWindowRule11", "JOIN"),
    ("TestWindow/TestWindowRule13", "SLIDINGWINDOW"),
    ("TestEventWindow/TestEventWindowDelayRule0", "SLIDINGWINDOW"),
    ("TestEventWindow/TestEventWindowRule0", "HOPPINGWINDOW"),
    ("TestEventWindow/TestEventWindowRule3", "JOIN"),
    ("TestEventWindow/TestEventWindowRule5", "SESSIONWINDOW"),
    ("TestEventWindow/TestEventWindowRule7", "HOPPINGWINDOW"),
    ("TestEventWindow/TestEventWindowRule9", "HOPPINGWINDOW"),
    ("TestEventWindow/TestSlidingWindowInterval11", "SLIDINGWINDOW"),
    ("TestEventWindow/TestTUMBLINGWindowInterval13", "event time does not close the last windows"),
    ("TestEventSlidingWindow/TestEventWindowRuleDelay", "SLIDINGWINDOW"),
    ("TestWindowError/TestWindowErrorRule1", "on purpose: a wrong row is left out, not its whole window"),
    ("TestWindowError/TestWindowErrorRule3", "JOIN"),
    ("TestWindowError/TestWindowErrorRule5", "on purpose: ORDER BY orders mixed types and does not drop the window"),
];

/// Cases that pass, so that a silently skipped file is noticed.
const RULES_PASSING: usize = 12;
const FUNCTIONS_PASSING: usize = 77;

/// More than any file of cases holds.
const CASES_BYTES_MAX: u64 = 4 << 20;

fn cases(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/data/ekuiper/{name}.json.gz"));
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).take(CASES_BYTES_MAX).read_to_string(&mut text).expect("the cases are gzip");
    serde_json::from_str(&text).expect("the cases are JSON")
}

/// A message with the metadata that eKuiper's mock source gives.
struct Message(Row);

impl RowSource for Message {
    fn column(&self, name: &str) -> Option<Datum> {
        self.0.column(name)
    }

    fn columns(&self, visit: &mut dyn FnMut(&str, Datum)) {
        self.0.columns(visit);
    }

    fn meta(&self, name: &str) -> Option<Datum> {
        (name == "topic").then(|| Datum::from("mock"))
    }
}

/// What the rule emits, one list per emission; errors count as in eKuiper's lists.
fn run(sql: &str, streams: &Value) -> Result<Vec<Value>, String> {
    let select = parse_select(sql).map_err(|error| error.to_string())?;
    let mut known = Vec::new();
    for name in select.streams() {
        let ddl = streams["ddl"][name].as_str().ok_or("no such stream in the cases")?;
        let mut stream = parse_stream(ddl).map_err(|error| error.to_string())?;
        stream.options.source_type = SourceType::Memory;
        known.push(stream);
    }
    let mut rule = Rule::new(&select, &known).map_err(|error| error.to_string())?;
    let name = known[0].name.clone();
    let (mut out, mut emissions) = (Vec::new(), Vec::new());
    let mut keep = |out: &mut Vec<Row>| {
        if !out.is_empty() {
            emissions.push(Value::Array(out.drain(..).map(|row| row.to_json()).collect()));
        }
    };
    for message in streams["data"][&name].as_array().ok_or("no data of the stream")? {
        let row = Row::from(message["Message"].as_object().ok_or("a message is no object")?);
        let at = message["Timestamp"]["$time_ms"].as_i64().ok_or("a message has no time")?;
        rule.tick(at, &mut out);
        keep(&mut out);
        rule.push(&name, at, &Message(row), &mut out);
        keep(&mut out);
    }
    rule.tick(i64::MAX, &mut out);
    keep(&mut out);
    Ok(emissions)
}

#[test]
fn rules_give_what_ekuiper_gives() {
    let (rules, streams) = (cases("rules"), cases("streams"));
    let mut passed = 0;
    let mut wrong = Vec::new();
    for group in rules.as_array().expect("a list of groups") {
        for case in group["rows"].as_array().expect("a list of cases") {
            let Some(sql) = case["Sql"].as_str() else { continue };
            let id = format!("{}/{}", group["func"].as_str().unwrap_or(""), case["Name"].as_str().unwrap_or(""));
            // eKuiper puts errors and empty windows among the rows; here errors are counted and nothing is nothing.
            let expected: Vec<&Value> = case["R"]
                .as_array()
                .expect("a list of emissions")
                .iter()
                .filter(|emission| emission[0].get("error").is_none() && emission != &&Value::Array(Vec::new()))
                .collect();
            let given = run(sql, &streams);
            let matches = given.as_ref().is_ok_and(|given| given.iter().collect::<Vec<_>>() == expected);
            let listed = RULES_REFUSED.iter().any(|(refused, _)| *refused == id);
            match (matches, listed) {
                (true, false) => passed += 1,
                (true, true) => wrong.push(format!("{id} passes: take it off the list")),
                (false, false) => wrong.push(format!("{id}: {sql}\n  expected {expected:?}\n  given {given:?}")),
                (false, true) => {}
            }
        }
    }
    println!("{passed} of eKuiper's rules pass, {} are refused", RULES_REFUSED.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(passed, RULES_PASSING);
}

/// Cases whose answer differs on purpose: `function(arguments)`.
const FUNCTIONS_DIFFERENT: &[(&str, &str)] = &[
    ("array_max([[1,3.2,4.1,2]])", "the largest is 4.1; eKuiper cuts floats off when the first element is an integer"),
    ("object_size([null])", "null in, null out, as everywhere"),
];

fn datum(value: &Value) -> Option<Value> {
    match value {
        Value::Object(members) if members.keys().any(|name| name.starts_with('$')) => None,
        Value::Array(items) => items.iter().map(datum).collect::<Option<Vec<_>>>().map(Value::Array),
        other => Some(other.clone()),
    }
}

#[test]
fn functions_give_what_ekuiper_gives() {
    let groups = cases("functions");
    let stream = parse_stream("CREATE STREAM t () WITH (TYPE=\"memory\")").expect("the statement is right");
    let mut passed = 0;
    let mut wrong = Vec::new();
    let mut unknown: BTreeMap<String, usize> = BTreeMap::new();
    for group in groups.as_array().expect("a list of groups") {
        for case in group["rows"].as_array().expect("a list of cases") {
            let (Some(args), Some(expected)) = (case["args"].as_array(), case.get("result").or(case.get("exp"))) else {
                continue;
            };
            let candidates = [&case["funcName"], &case["name"], &group["builtin"]];
            let names = candidates.into_iter().filter_map(Value::as_str);
            let Some(args) = args.iter().map(datum).collect::<Option<Vec<_>>>() else { continue };
            let columns: Vec<String> = (0..args.len()).map(|at| format!("c{at}")).collect();
            let mut row = Row::new();
            for (name, value) in columns.iter().zip(&args) {
                row.set(name.as_str(), Datum::from(value));
            }
            for name in names.filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')) {
                let sql = format!("SELECT {name}({}) AS x FROM t", columns.join(", "));
                let select = parse_select(&sql).expect("the statement is right");
                let mut rule = match Rule::new(&select, [&stream]) {
                    Ok(rule) => rule,
                    Err(error) => {
                        if error.message.contains("not supported") {
                            *unknown.entry(name.to_owned()).or_default() += 1;
                        }
                        continue;
                    }
                };
                let mut out = Vec::new();
                rule.push("t", 0, &row, &mut out);
                let given = out.first().map(|row| row.get("x").cloned().unwrap_or_default());
                let fails = expected.get("$error").is_some()
                    || expected["$raw"].as_str().is_some_and(|raw| raw.starts_with("error"));
                let matches = match &given {
                    None => fails || case.get("valErr").is_some() || case.get("runErr").is_some(),
                    Some(given) => match datum(expected) {
                        // Whether 10 is written 10 or 10.0 is Go's test framework's freedom there.
                        Some(expected) => {
                            given.to_json() == expected
                                || (expected.is_number() && given.to_json().as_f64() == expected.as_f64())
                        }
                        None => !fails,
                    },
                };
                let id = format!("{name}({})", Value::from(args.clone()));
                if matches {
                    passed += 1;
                } else if !FUNCTIONS_DIFFERENT.iter().any(|(different, _)| *different == id) {
                    wrong.push(format!("{id}: expected {expected}, given {given:?}, {:?}", rule.stats().last_error));
                }
                break;
            }
        }
    }
    println!("{passed} of eKuiper's calls pass; not supported: {unknown:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(passed, FUNCTIONS_PASSING);
}

#[test]
fn aggregates_give_what_ekuiper_gives() {
    let groups = cases("functions");
    let stream = parse_stream("CREATE STREAM t () WITH (TYPE=\"memory\")").expect("the statement is right");
    let columns = [
        ("avg", "avg"),
        ("max", "max"),
        ("min", "min"),
        ("stddev", "stddev"),
        ("stddevs", "stddevs"),
        ("var1", "var"),
        ("vars", "vars"),
    ];
    let mut checked = 0;
    for group in groups.as_array().expect("a list of groups").iter().filter(|group| group["func"] == "TestAggExec") {
        for case in group["rows"].as_array().expect("a list of cases") {
            for (key, function) in columns {
                let sql = format!("SELECT {function}(v) AS x FROM t GROUP BY TUMBLINGWINDOW(ss, 1)");
                let mut rule = Rule::new(&parse_select(&sql).expect("right"), [&stream]).expect("supported");
                let mut out = Vec::new();
                for value in case["args"][0].as_array().expect("a list of values") {
                    let mut row = Row::new();
                    row.set("v", Datum::from(value));
                    rule.push("t", 0, &row, &mut out);
                }
                rule.tick(1_000, &mut out);
                let given = out.first().and_then(|row| row.get("x")).map_or(Value::Null, Datum::to_json);
                let expected = if case[key].get("$error").is_some() { &Value::Null } else { &case[key] };
                assert_eq!(&given, expected, "{function} of {}", case["args"][0]);
                checked += 1;
            }
        }
    }
    println!("{checked} of eKuiper's aggregates pass");
    assert_eq!(checked, 42);
}
