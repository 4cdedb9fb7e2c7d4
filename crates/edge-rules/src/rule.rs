//! A running rule: rows in, rows out, and the window between.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::aggregates::Accumulator;
use crate::datum::{Datum, Row};
use crate::error::SqlError;
use crate::eval::{EvalError, Node, Scope, fail, is_true};
use crate::functions;
use crate::plan::{Output, Plan, Slot};
use crate::source::RowSource;
use crate::sql::ast::{Select, StreamStatement};

/// Groups that a window may have; a gateway has fewer devices, so more of them is a mistake in GROUP BY.
pub const GROUPS_MAX: usize = 10_000;

/// Rows that a window without aggregates may hold: about 20 MB of ten columns each.
pub const WINDOW_ROWS_MAX: usize = 50_000;

/// What a rule has done since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleStats {
    /// Rows taken in.
    pub rows_in: u64,
    /// Rows emitted.
    pub rows_out: u64,
    /// Rows that could not be computed, and were left out.
    pub errors: u64,
    /// Why the last of them could not.
    pub last_error: Option<String>,
}

/// A query in service. See the crate's example.
#[derive(Debug)]
pub struct Rule {
    plan: Plan,
    window: Option<WindowState>,
    stats: RuleStats,
    memo: RefCell<Vec<Option<Datum>>>,
}

#[derive(Debug)]
struct WindowState {
    start_ms: i64,
    /// In the order in which they came.
    groups: Vec<Group>,
    by_key: HashMap<Box<[u8]>, usize>,
}

/// A group of a window; without aggregates and dimensions, one row.
#[derive(Debug)]
struct Group {
    /// Of its first row: what plain columns are in the output.
    slots: Vec<Datum>,
    /// The first row as a whole, where the query asks for `*`.
    row: Option<Row>,
    accumulators: Vec<Accumulator>,
}

impl Rule {
    /// Compiles a query over the streams that it names.
    ///
    /// # Errors
    /// An unknown stream, column or function, or something that this version does not run, with its place.
    pub fn new<'a>(select: &Select, streams: impl IntoIterator<Item = &'a StreamStatement>) -> Result<Self, SqlError> {
        let streams: Vec<&StreamStatement> = streams.into_iter().collect();
        let plan = Plan::new(select, &streams)?;
        let memo = RefCell::new(vec![None; plan.aliases.len()]);
        Ok(Self { plan, window: None, stats: RuleStats::default(), memo })
    }

    /// Takes one row of `stream` in at `now_ms` (milliseconds since 1970) and appends what comes out. Windows that
    /// ended before are emitted first. A row that cannot be computed is counted in [`Rule::stats`] and left out.
    pub fn push(&mut self, stream: &str, now_ms: i64, row: &dyn RowSource, out: &mut Vec<Row>) {
        self.tick(now_ms, out);
        if stream != self.plan.stream.name {
            return;
        }
        self.stats.rows_in += 1;
        let emitted = out.len();
        if let Err(error) = self.take(now_ms, row, out) {
            self.stats.errors += 1;
            self.stats.last_error = Some(error.0);
        }
        self.stats.rows_out += (out.len() - emitted) as u64;
    }

    /// Emits the window if it has ended at `now_ms`.
    pub fn tick(&mut self, now_ms: i64, out: &mut Vec<Row>) {
        let Some(length) = self.plan.window_ms else { return };
        let due = self.window.as_ref().is_some_and(|window| {
            // A clock that was set back would leave the window open for as long; its rows are whole, so they go out.
            now_ms >= window.start_ms + length || now_ms < window.start_ms.saturating_sub(length)
        });
        if due {
            self.flush(now_ms, out);
        }
    }

    /// When [`Rule::tick`] has something to do, in milliseconds since 1970; `None` while no window is open.
    pub fn next_deadline(&self) -> Option<i64> {
        Some(self.window.as_ref()?.start_ms + self.plan.window_ms?)
    }

    /// What the rule has done.
    pub fn stats(&self) -> &RuleStats {
        &self.stats
    }

    fn scope<'a>(&'a self, slots: &'a [Datum], aggregates: &'a [Datum], window: (i64, i64), now_ms: i64) -> Scope<'a> {
        self.memo.borrow_mut().fill(None);
        Scope { slots, aggregates, aliases: &self.plan.aliases, memo: &self.memo, window, now_ms }
    }

    fn take(&mut self, now_ms: i64, row: &dyn RowSource, out: &mut Vec<Row>) -> Result<(), EvalError> {
        let checked = self.declared(row)?;
        let (columns, meta): (&dyn RowSource, _) = (checked.as_ref().map_or(row, |row| row as &dyn RowSource), row);
        let slots: Vec<Datum> = self
            .plan
            .slots
            .iter()
            .map(|slot| match slot {
                Slot::Column(name) => columns.column(name),
                Slot::Meta(name) => meta.meta(name),
                Slot::ColumnMeta { column, name } => meta.column_meta(column, name),
            })
            .map(Option::unwrap_or_default)
            .collect();
        let whole = self.plan.has_wildcard().then(|| {
            let mut whole = Row::new();
            columns.columns(&mut |name, value| whole.set(name, value));
            whole
        });
        let scope = self.scope(&slots, &[], (now_ms, now_ms), now_ms);
        for filter in &self.plan.filters {
            if !is_true(&filter.eval(&scope)?, "WHERE")? {
                return Ok(());
            }
        }
        let Some(length) = self.plan.window_ms else {
            let having = self.plan.having.as_ref();
            if having.map_or(Ok(true), |having| is_true(&having.eval(&scope)?, "HAVING"))? && self.plan.limit != Some(0)
            {
                out.push(project(&self.plan.outputs, &scope, whole.as_ref())?);
            }
            return Ok(());
        };
        let mut key = Vec::new();
        for dimension in &self.plan.dimensions {
            group_key(&dimension.eval(&scope)?, &mut key);
        }
        let mut arguments = Vec::with_capacity(self.plan.aggregates.len());
        for aggregate in &self.plan.aggregates {
            arguments.push(match &aggregate.arguments {
                None => vec![Datum::Bool(true)],
                Some(nodes) => nodes.iter().map(|node| node.eval(&scope)).collect::<Result<Vec<_>, _>>()?,
            });
        }
        let grouped = self.plan.is_grouped();
        let start_ms = now_ms.div_euclid(length) * length;
        let window =
            self.window.get_or_insert_with(|| WindowState { start_ms, groups: Vec::new(), by_key: HashMap::new() });
        let known = if grouped { window.by_key.get(key.as_slice()).copied() } else { None };
        if known.is_none() {
            let (limit, what) = if grouped { (GROUPS_MAX, "groups") } else { (WINDOW_ROWS_MAX, "rows") };
            if window.groups.len() >= limit {
                return fail(format!("the window holds {limit} {what}, as many as it may; further ones are left out"));
            }
        }
        // A row counts in all aggregates or in none, so a change is made on copies; they are a few words each.
        let mut accumulators: Vec<Accumulator> = match known {
            Some(at) => window.groups[at].accumulators.clone(),
            None => self.plan.aggregates.iter().map(|aggregate| aggregate.function.start()).collect(),
        };
        for (accumulator, arguments) in accumulators.iter_mut().zip(&arguments) {
            accumulator.add(arguments)?;
        }
        match known {
            Some(at) => window.groups[at].accumulators = accumulators,
            None => {
                if grouped {
                    window.by_key.insert(key.into_boxed_slice(), window.groups.len());
                }
                window.groups.push(Group { slots, row: whole, accumulators });
            }
        }
        Ok(())
    }

    /// The row with its declared types and defaults; `None` when the stream takes messages as they are.
    fn declared(&self, row: &dyn RowSource) -> Result<Option<Row>, EvalError> {
        let stream = &self.plan.stream;
        if stream.columns.is_empty() {
            return Ok(None);
        }
        let mut declared = Row::new();
        let whole = self.plan.has_wildcard();
        for column in &stream.columns {
            // A column that the query does not read cannot make its row wrong.
            let is_read = |slot: &Slot| matches!(slot, Slot::Column(name) if name.eq_ignore_ascii_case(&column.name));
            if !whole && !self.plan.slots.iter().any(is_read) {
                continue;
            }
            let value = match row.column(&column.name) {
                None | Some(Datum::Null) => column.default.clone(),
                Some(value) if stream.options.strict_validation => Some(
                    functions::convert(&value, &column.column_type)
                        .map_err(|error| EvalError(format!("field {} type mismatch: {error}", column.name)))?,
                ),
                value => value,
            };
            if let Some(value) = value {
                declared.set(column.name.as_str(), value);
            }
        }
        Ok(Some(declared))
    }

    fn flush(&mut self, now_ms: i64, out: &mut Vec<Row>) {
        let Some(window) = self.window.take() else { return };
        let bounds = (window.start_ms, window.start_ms + self.plan.window_ms.unwrap_or(0));
        let mut emitted: Vec<(Vec<Datum>, Row)> = Vec::new();
        let mut failed = Vec::new();
        for group in &window.groups {
            match self.emit(group, bounds, now_ms) {
                Ok(Some(row)) => emitted.push(row),
                Ok(None) => {}
                Err(error) => failed.push(error),
            }
        }
        if let Some(last) = failed.last() {
            self.stats.errors += failed.len() as u64;
            self.stats.last_error = Some(last.0.clone());
        }
        let descending: Vec<bool> = self.plan.order_by.iter().map(|(_, descending)| *descending).collect();
        emitted.sort_by(|(left, _), (right, _)| {
            left.iter()
                .zip(right)
                .zip(&descending)
                .map(|((left, right), descending)| if *descending { right.order(left) } else { left.order(right) })
                .find(|order| order.is_ne())
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        emitted.truncate(self.plan.limit.unwrap_or(usize::MAX));
        self.stats.rows_out += emitted.len() as u64;
        out.extend(emitted.into_iter().map(|(_, row)| row));
    }

    /// The row of a group and what it is ordered by; `None` when HAVING leaves it out.
    fn emit(&self, group: &Group, bounds: (i64, i64), now_ms: i64) -> Result<Option<(Vec<Datum>, Row)>, EvalError> {
        let aggregates = group.accumulators.iter().map(Accumulator::finish).collect::<Result<Vec<_>, _>>()?;
        let scope = self.scope(&group.slots, &aggregates, bounds, now_ms);
        if let Some(having) = &self.plan.having
            && !is_true(&having.eval(&scope)?, "HAVING")?
        {
            return Ok(None);
        }
        let order: Vec<Datum> =
            self.plan.order_by.iter().map(|(node, _)| node.eval(&scope)).collect::<Result<Vec<_>, _>>()?;
        Ok(Some((order, project(&self.plan.outputs, &scope, group.row.as_ref())?)))
    }
}

/// The output row; null columns are left out, as eKuiper does by default.
fn project(outputs: &[Output], scope: &Scope<'_>, whole: Option<&Row>) -> Result<Row, EvalError> {
    fn set(row: &mut Row, name: &std::sync::Arc<str>, node: &Node, scope: &Scope<'_>) -> Result<(), EvalError> {
        let value = node.eval(scope)?;
        if !value.is_null() {
            row.set(name.clone(), value);
        }
        Ok(())
    }
    let mut row = Row::new();
    for output in outputs {
        match output {
            Output::Value { name, node } => set(&mut row, name, node, scope)?,
            Output::Wildcard { except, replace } => {
                for (name, value) in whole.iter().flat_map(|whole| whole.iter()) {
                    if !value.is_null() && !except.iter().any(|except| except == name) {
                        row.set(name, value.clone());
                    }
                }
                for (name, node) in replace {
                    set(&mut row, name, node, scope)?;
                }
            }
        }
    }
    Ok(row)
}

/// Bytes that are equal for equal values only.
fn group_key(value: &Datum, key: &mut Vec<u8>) {
    let text = match value {
        // 1 and 1.0 are equal, so they are one group.
        Datum::Float(value) if value.fract() == 0.0 && value.abs() < 9.0e15 => (*value as i64).to_string(),
        other => other.to_text(),
    };
    key.push(match value {
        Datum::Null => 0,
        Datum::Bool(_) => 1,
        Datum::Int(_) | Datum::Float(_) => 2,
        Datum::String(_) => 3,
        Datum::Bytes(_) => 4,
        Datum::Array(_) => 5,
        Datum::Object(_) => 6,
    });
    key.extend((text.len() as u64).to_le_bytes());
    key.extend(text.as_bytes());
}
