//! Statements of rules and streams, and rows that run through them.
//!
//! Input: a statement; after an empty line, rows as JSON, one a line.

#![no_main]

use std::sync::LazyLock;

use edge_rules::{Row, Rule, StreamStatement, parse_expr, parse_select, parse_stream};
use libfuzzer_sys::fuzz_target;

static STREAM: LazyLock<StreamStatement> = LazyLock::new(|| {
    parse_stream(r#"CREATE STREAM demo () WITH (DATASOURCE="demo", FORMAT="JSON", TYPE="edgex")"#).expect("it is sound")
});

fuzz_target!(|text: &str| {
    let (statement, rows) = text.split_once("\n\n").unwrap_or((text, ""));
    let _ = parse_expr(statement);
    if let Ok(stream) = parse_stream(statement) {
        run("SELECT * FROM demo", &stream, rows);
    }
    run(statement, &STREAM, rows);
});

fn run(statement: &str, stream: &StreamStatement, rows: &str) {
    let Ok(select) = parse_select(statement) else { return };
    let Ok(mut rule) = Rule::new(&select, [stream]) else { return };
    let mut out = Vec::new();
    let mut now_ms = 1_700_000_000_000;
    for line in rows.lines() {
        if let Some(row) = Row::from_json(line) {
            rule.push(&stream.name, now_ms, &row, &mut out);
        }
        now_ms += 400;
    }
    rule.tick(now_ms + 86_400_000, &mut out);
    for row in out {
        let _ = row.to_json().to_string();
    }
}
