//! Errors, windows and the printer; eKuiper's own cases are in `tests/ekuiper.rs`.

use proptest::prelude::*;

use crate::{
    BinaryOp, Datum, Expr, ExprKind, NESTING_MAX, Row, Rule, STATEMENT_BYTES_MAX, Span, parse_expr, parse_select,
    parse_stream,
};

const PRESS: &str = r#"CREATE STREAM press () WITH (TYPE="edgex")"#;

fn rule(stream: &str, select: &str) -> Result<Rule, String> {
    let stream = parse_stream(stream).map_err(|error| error.to_string())?;
    let select = parse_select(select).map_err(|error| error.to_string())?;
    Rule::new(&select, [&stream]).map_err(|error| error.to_string())
}

fn check_error(select: &str, expected: &str) {
    assert_eq!(rule(PRESS, select).err().as_deref(), Some(expected), "{select}");
}

fn check_stream_error(stream: &str, expected: &str) {
    assert_eq!(parse_stream(stream).err().map(|error| error.to_string()).as_deref(), Some(expected), "{stream}");
}

#[test]
fn an_error_names_its_place_and_the_next_step() {
    check_error("SELECT a FORM press", "unexpected `FORM` at line 1, column 10; did you mean `FROM`?");
    check_error("SELECT a\nFROM press\nWHER a > 1", "unexpected `WHER` at line 3, column 1; did you mean `WHERE`?");
    check_error("SELECT avgg(a) FROM press", "unknown function `avgg` at line 1, column 8; did you mean `avg`?");
    check_error("SELECT a FROM pres", "unknown stream `pres` at line 1, column 15; did you mean `press`?");
    check_error("SELECT 'ä', §", "unexpected character `§` at line 1, column 13");
    check_error("SELECT a FROM", "unexpected end of the statement at line 1, column 14; expected the name of a stream");
    check_error("SELECT (a FROM press", "unexpected `FROM` at line 1, column 11; expected `)`");
    check_error("SELECT 'a FROM press", "the text that starts here is not closed by `'` at line 1, column 8");
    check_error(
        "SELECT 99999999999999999999 FROM press",
        "`99999999999999999999` does not fit a BIGINT at line 1, column 8",
    );
    check_error(
        "SELECT 1 FROM from",
        "unexpected `from` at line 1, column 15; write `from` in backticks where it is a name",
    );
    check_error("SELECT sqrt() FROM press", "`sqrt` takes 1 argument, not 0 at line 1, column 8");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    check_error(
        "SELECT avg(a) FROM press GROUP BY HOPPINGWINDOW(ss, 10, 5)",
        "HOPPINGWINDOW is not supported by this version; TUMBLINGWINDOW is at line 1, column 35",
    );
    check_error(
        "SELECT a FROM press JOIN other ON press.a = other.a",
        "JOIN (here with `other`) is not supported by this version at line 1, column 26; a rule reads one stream; one of \
         TYPE=\"edgex\" has the events of all devices and rules, which a window brings together",
    );
    for (from, column, hint) in [
        ("press p", 21, "a second name for `press` needs AS: `press AS p`"),
        ("press p JOIN other o ON p.a = o.a", 21, "a second name for `press` needs AS: `press AS p`"),
        ("press JOIN other o ON press.a = o.a", 32, "a second name for `other` needs AS: `other AS o`"),
        ("press WHER a > 1", 21, "did you mean `WHERE`?"),
        ("press JION other", 21, "did you mean `JOIN`?"),
    ] {
        let sql = format!("SELECT a FROM {from}");
        let found = parse_select(&sql).expect_err("it cannot be read").to_string();
        assert!(found.contains(&format!("column {column}; {hint}")), "{sql}: {found}");
    }
    check_error(
        "SELECT a FROM press, other",
        "unexpected `,` at line 1, column 20; a rule reads one stream, so one name follows FROM",
    );
    check_error("SELECT lag(a) FROM press", "function `lag` is not supported by this version at line 1, column 8");
    check_error(
        "SELECT avg(a) FROM press",
        "`avg` needs a window at line 1, column 8; add `GROUP BY TUMBLINGWINDOW(ss, 10)`",
    );
    check_error(
        "SELECT avg(a) AS m FROM press WHERE m > 1 GROUP BY TUMBLINGWINDOW(ss, 1)",
        "`m` is known when the window closes and cannot stand in WHERE at line 1, column 37; \
         use HAVING for conditions on a window",
    );
    check_error(
        "SELECT a + 1 AS b, b + 1 AS a FROM press",
        "alias `b` is computed from itself through other aliases at line 1, column 20",
    );
    let mqtt = rule("CREATE STREAM press () WITH (DATASOURCE=\"x\")", "SELECT a FROM press").err();
    assert_eq!(
        mqtt.as_deref(),
        Some(
            "stream `press` is of type mqtt, which is not supported by this version at line 1, column 15; \
             `TYPE=\"edgex\"` is"
        ),
    );
}

#[test]
fn what_the_reference_shows_instead_of_a_join_is_taken() {
    for sql in [
        "SELECT last_value(a, true) AS x, last_value(b, true) AS y FROM press GROUP BY TUMBLINGWINDOW(ss, 10)",
        "SELECT count(*) AS n, p.a AS x FROM press AS p WHERE x > 1 GROUP BY x, TUMBLINGWINDOW(ss, 1) HAVING n > 2 ORDER BY n",
    ] {
        let stream = "CREATE STREAM press () WITH (TYPE=\"edgex\")";
        assert_eq!(rule(stream, sql).err(), None, "{sql}");
    }
}

#[test]
fn a_stream_is_checked_when_it_is_made() {
    check_stream_error(
        "CREATE STREAM s () WITH (TYP=\"edgex\")",
        "unknown option `TYP` at line 1, column 26; did you mean `TYPE`?",
    );
    check_stream_error(
        "CREATE STREAM s (a INT) WITH (TYPE=\"edgex\")",
        "unexpected `INT` at line 1, column 20; \
         expected `BIGINT`, `FLOAT`, `STRING`, `BYTEA`, `DATETIME`, `BOOLEAN`, `ARRAY` or `STRUCT`",
    );
    check_stream_error(
        "CREATE STREAM s (a BIGINT, a FLOAT) WITH (TYPE=\"edgex\")",
        "column `a` is declared twice at line 1, column 28",
    );
    check_stream_error(
        "CREATE STREAM s () WITH (SHARED=\"maybe\")",
        "option `SHARED` is `true` or `false`, not `maybe` at line 1, column 33",
    );
    let columns = "CREATE STREAM press (temp FLOAT, tags ARRAY(STRUCT(k STRING))) WITH (TYPE=\"edgex\")";
    assert_eq!(
        rule(columns, "SELECT tmp FROM press").err().as_deref(),
        Some("stream `press` has no column `tmp` at line 1, column 8; did you mean `temp`?"),
    );
}

#[test]
fn hostile_statements_are_refused_and_do_not_exhaust_the_stack() {
    let deep = [
        format!("SELECT {}a{} FROM press", "(".repeat(5000), ")".repeat(5000)),
        format!("SELECT {}a FROM press", "- ".repeat(5000)),
        format!("SELECT {}a FROM press", "NOT ".repeat(5000)),
        format!("SELECT a{} FROM press", " + a".repeat(5000)),
        format!("SELECT a{} FROM press", "[0]".repeat(5000)),
        format!("SELECT {}a FROM press", "abs(".repeat(5000)),
    ];
    for statement in deep {
        let error = parse_select(&statement).err().map(|error| error.message).unwrap_or_default();
        assert!(error.contains(&NESTING_MAX.to_string()), "{error}");
    }
    let long = format!("SELECT a FROM press -- {}", "x".repeat(STATEMENT_BYTES_MAX));
    assert!(parse_select(&long).is_err());
    let types = format!("CREATE STREAM s (a {}) WITH (TYPE=\"edgex\")", "ARRAY(".repeat(5000));
    assert!(parse_stream(&types).is_err());
}

fn rows(rule: &mut Rule, rows: &[(i64, &str)], last_tick_ms: i64) -> Vec<String> {
    let mut out = Vec::new();
    for (at, row) in rows {
        rule.push("press", *at, &Row::from_json(row).expect("the test's row is JSON"), &mut out);
    }
    rule.tick(last_tick_ms, &mut out);
    out.iter().map(|row| row.to_json().to_string()).collect()
}

#[test]
fn a_window_ends_on_natural_time() {
    let mut rule = rule(
        PRESS,
        "SELECT count(*) AS n, window_start() AS s, window_end() AS e FROM press \
                                GROUP BY TUMBLINGWINDOW(ss, 10)",
    )
    .unwrap();
    let out = rows(&mut rule, &[(12_345, "{}"), (19_999, "{}"), (20_000, "{}")], 29_999);
    assert_eq!(out, [r#"{"e":20000,"n":2,"s":10000}"#]);
    assert_eq!(rule.next_deadline(), Some(30_000));
}

#[test]
fn a_clock_set_back_does_not_hold_a_window_open() {
    let mut rule = rule(PRESS, "SELECT count(*) AS n FROM press GROUP BY TUMBLINGWINDOW(ss, 10)").unwrap();
    let out = rows(&mut rule, &[(2_000_000, "{}"), (5_000, "{}")], 10_000);
    assert_eq!(out, [r#"{"n":1}"#, r#"{"n":1}"#]);
}

#[test]
fn a_row_that_fails_is_counted_and_changes_nothing() {
    let mut rule = rule(
        PRESS,
        "SELECT sum(a) AS a, avg(b) AS b, count(*) AS n FROM press \
                                GROUP BY TUMBLINGWINDOW(ss, 10)",
    )
    .unwrap();
    let out = rows(
        &mut rule,
        &[(0, r#"{"a":1,"b":2}"#), (1, r#"{"a":1,"b":"x"}"#), (2, r#"{"a":9223372036854775807}"#)],
        10_000,
    );
    assert_eq!(out, [r#"{"a":1,"b":2,"n":1}"#]);
    assert_eq!(rule.stats().errors, 2);
    assert_eq!(
        rule.stats().last_error.as_deref(),
        Some("the sum of the window and 9223372036854775807 does not fit int64"),
    );
}

#[test]
fn a_window_of_too_many_groups_keeps_the_first() {
    let mut rule = rule(PRESS, "SELECT a, count(*) AS n FROM press GROUP BY a, TUMBLINGWINDOW(ss, 10)").unwrap();
    let mut out = Vec::new();
    for a in 0..=crate::GROUPS_MAX {
        let mut row = Row::new();
        row.set("a", Datum::Int(a as i64));
        rule.push("press", 0, &row, &mut out);
    }
    rule.tick(10_000, &mut out);
    assert_eq!((out.len(), rule.stats().errors), (crate::GROUPS_MAX, 1));
}

#[test]
fn an_edgex_event_is_a_row() {
    use api_edge::edgex::{Event, Reading, Value, ValueType};
    let reading = |name: &str, value: Value| Reading {
        id: "r".into(),
        origin: 7,
        device_name: "press-4".into(),
        resource_name: name.into(),
        profile_name: "press".into(),
        value_type: ValueType::Float64,
        units: Some("mm/s".into()),
        media_type: None,
        value,
    };
    let event = Event {
        api_version: "v3".into(),
        id: "e".into(),
        device_name: "press-4".into(),
        profile_name: "press".into(),
        source_name: "all".into(),
        origin: 42,
        readings: vec![reading("Rms", Value::Float(7.5)), reading("Count", Value::Uint(3))],
        tags: [("hall".to_owned(), "2".into())].into(),
    };
    let mut rule = rule(
        PRESS,
        "SELECT rms, Count + 1 AS n, meta(deviceName) AS device, meta(origin) AS at, meta(hall) AS hall, \
         meta(Rms->units) AS units FROM press WHERE meta(sourceName) = 'all'",
    )
    .unwrap();
    let mut out = Vec::new();
    rule.push("press", 0, &crate::EventRow(&event), &mut out);
    let expected = r#"{"at":42,"device":"press-4","hall":"2","n":4,"rms":7.5,"units":"mm/s"}"#;
    assert_eq!(out[0].to_json().to_string(), expected);
}

fn any_expr() -> impl Strategy<Value = Expr> {
    let expr = |kind| Expr { kind, span: Span::default() };
    let leaf = prop_oneof![
        any::<u32>().prop_map(|n| ExprKind::Literal(Datum::Int(n.into()))),
        (-1.0e9f64..1.0e9).prop_map(|n| ExprKind::Literal(Datum::Float(n))),
        ".*".prop_map(|text: String| ExprKind::Literal(Datum::from(text))),
        any::<bool>().prop_map(|flag| ExprKind::Literal(Datum::Bool(flag))),
        "\\PC{1,8}".prop_map(|name: String| ExprKind::Column { stream: None, name }),
        ("[a-z]{1,5}", "[a-zA-Z]{1,6}").prop_map(|(stream, name)| ExprKind::Column { stream: Some(stream), name }),
    ]
    .prop_map(expr);
    let ops = prop::sample::select(vec![
        BinaryOp::Or,
        BinaryOp::And,
        BinaryOp::Equal,
        BinaryOp::Less,
        BinaryOp::Add,
        BinaryOp::Subtract,
        BinaryOp::Multiply,
        BinaryOp::BitAnd,
        BinaryOp::BitXor,
        BinaryOp::Modulo,
    ]);
    leaf.prop_recursive(5, 40, 4, move |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        prop_oneof![
            (ops.clone(), boxed.clone(), boxed.clone()).prop_map(|(op, left, right)| ExprKind::Binary {
                op,
                left,
                right
            }),
            boxed.clone().prop_map(ExprKind::Not),
            (boxed.clone(), "[a-z]{1,6}").prop_map(|(base, name)| ExprKind::Member { base, name }),
            (boxed.clone(), boxed.clone()).prop_map(|(base, index)| ExprKind::Index { base, index }),
            (boxed.clone(), prop::option::of(boxed.clone()), prop::option::of(boxed.clone()))
                .prop_map(|(base, start, end)| ExprKind::Slice { base, start, end }),
            (boxed.clone(), prop::collection::vec(inner.clone(), 1..4), any::<bool>())
                .prop_map(|(value, list, negated)| ExprKind::In { value, list, array: false, negated }),
            (boxed.clone(), boxed.clone(), boxed.clone(), any::<bool>())
                .prop_map(|(value, low, high, negated)| ExprKind::Between { value, low, high, negated }),
            (boxed.clone(), boxed.clone(), any::<bool>()).prop_map(|(value, pattern, negated)| ExprKind::Like {
                value,
                pattern,
                negated
            }),
            (
                prop::option::of(boxed.clone()),
                prop::collection::vec((inner.clone(), inner.clone()), 1..3),
                prop::option::of(boxed.clone()),
            )
                .prop_map(|(operand, branches, otherwise)| ExprKind::Case { operand, branches, otherwise }),
            ("f_[a-z]{1,6}", prop::collection::vec(inner, 0..3)).prop_map(|(name, arguments)| ExprKind::Call {
                name,
                arguments,
                analytic: false
            }),
        ]
        .prop_map(expr)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}") {
        let _ = (parse_select(&text), parse_stream(&text), parse_expr(&text));
    }

    #[test]
    fn no_mix_of_words_makes_the_parser_panic(words in prop::collection::vec(prop::sample::select(vec![
        "SELECT", "FROM", "WHERE", "GROUP", "BY", "a", "b.c", "(", ")", ",", "*", "CASE", "WHEN", "THEN", "END", "IN",
        "NOT", "BETWEEN", "AND", "LIKE", "'x'", "1", "2.5", "-", "->", "[", "]", ":", "TUMBLINGWINDOW", "ss", "avg",
        "ORDER", "LIMIT", "AS", "CREATE", "STREAM", "WITH", "=", "TYPE", "`q`",
    ]), 0..30)) {
        let text = words.join(" ");
        let _ = (parse_select(&text), parse_stream(&text), parse_expr(&text));
    }

    #[test]
    fn what_is_printed_parses_to_the_same(expr in any_expr()) {
        let text = expr.to_string();
        let parsed = parse_expr(&text).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(parsed.to_string(), text);
    }

    #[test]
    fn windows_together_hold_every_row_once(
        steps in prop::collection::vec((0i64..4_000, -1_000i64..1_000, 0i64..3), 1..60),
    ) {
        let sql = "SELECT k, sum(v) AS s, count(*) AS n FROM press GROUP BY k, TUMBLINGWINDOW(ss, 5)";
        let mut rule = rule(PRESS, sql).map_err(TestCaseError::fail)?;
        let (mut now, mut total, mut out) = (0, 0, Vec::new());
        for (pause, value, key) in &steps {
            now += pause;
            total += value;
            let mut row = Row::new();
            row.set("k", Datum::Int(*key));
            row.set("v", Datum::Int(*value));
            rule.push("press", now, &row, &mut out);
        }
        rule.tick(i64::MAX, &mut out);
        let sum = |name: &str| out.iter().map(|row| match row.get(name) {
            Some(Datum::Int(value)) => *value,
            _ => 0,
        }).sum::<i64>();
        prop_assert_eq!((sum("s"), sum("n")), (total, steps.len() as i64));
    }
}

/// A sort that is handed what is no order may stop with a panic.
#[test]
fn values_of_all_types_are_in_one_order() {
    let exact = 1_i64 << 53;
    let numbers = [exact - 1, exact, exact + 1, exact + 2, i64::MIN, i64::MAX, 0, -1].map(Datum::Int);
    let floats = [exact as f64, i64::MAX as f64, i64::MIN as f64, 0.0, -0.0, 0.5, f64::NAN, f64::INFINITY, -f64::NAN];
    let others = [Datum::Null, Datum::Bool(true), Datum::from("a".to_owned())];
    let all: Vec<Datum> = numbers.into_iter().chain(floats.map(Datum::Float)).chain(others).collect();
    for (a, b, c) in triples(&all) {
        assert_eq!(a.order(b), b.order(a).reverse(), "{a:?} {b:?}");
        if a.order(b).is_le() && b.order(c).is_le() {
            assert!(a.order(c).is_le(), "{a:?} {b:?} {c:?}");
        }
    }
    let sorted = |mut some: Vec<Datum>| {
        some.sort_by(Datum::order);
        some
    };
    assert_eq!(
        sorted(vec![Datum::Int(exact + 1), Datum::Float(exact as f64), Datum::Int(exact - 1)]),
        [Datum::Int(exact - 1), Datum::Float(exact as f64), Datum::Int(exact + 1)],
    );
}

/// Every three of them.
fn triples(all: &[Datum]) -> impl Iterator<Item = (&Datum, &Datum, &Datum)> {
    all.iter().flat_map(move |a| all.iter().flat_map(move |b| all.iter().map(move |c| (a, b, c))))
}
