//! A query over known streams, compiled: names become slots, and what this version cannot run is refused with its
//! place.

use std::sync::Arc;

use crate::aggregates::Aggregate;
use crate::error::{SqlError, did_you_mean};
use crate::eval::Node;
use crate::functions::{self, ScalarFunction};
use crate::sql::ast::*;

/// What a slot is filled with when a row comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Column(String),
    Meta(String),
    ColumnMeta { column: String, name: String },
}

/// One aggregate of the query.
#[derive(Debug)]
pub(crate) struct AggregateCall {
    pub function: Aggregate,
    /// `None` for `count(*)`.
    pub arguments: Option<Vec<Node>>,
}

/// One entry after `SELECT`.
#[derive(Debug)]
pub(crate) enum Output {
    Value { name: Arc<str>, node: Node },
    Wildcard { except: Vec<String>, replace: Vec<(Arc<str>, Node)> },
}

/// A compiled query.
#[derive(Debug)]
pub(crate) struct Plan {
    pub stream: StreamStatement,
    pub slots: Vec<Slot>,
    pub aliases: Vec<Node>,
    pub aggregates: Vec<AggregateCall>,
    pub filters: Vec<Node>,
    /// Length of the tumbling window in milliseconds.
    pub window_ms: Option<i64>,
    pub dimensions: Vec<Node>,
    pub having: Option<Node>,
    pub outputs: Vec<Output>,
    pub order_by: Vec<(Node, bool)>,
    pub limit: Option<usize>,
}

impl Plan {
    pub(crate) fn new(select: &Select, streams: &[&StreamStatement]) -> Result<Self, SqlError> {
        Compiler::new(select, streams)?.plan()
    }

    /// Whether a window emits one row per group and not one per row taken in.
    pub(crate) fn is_grouped(&self) -> bool {
        !self.aggregates.is_empty() || !self.dimensions.is_empty()
    }

    /// Whether whole rows are needed and not only slots.
    pub(crate) fn has_wildcard(&self) -> bool {
        self.outputs.iter().any(|output| matches!(output, Output::Wildcard { .. }))
    }
}

/// Where an expression stands; it decides what it may contain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// `WHERE`, `GROUP BY`, arguments of aggregates: one row is known.
    Row(&'static str),
    /// `SELECT`, `HAVING`, `ORDER BY`: the group is known too.
    Group,
}

enum AliasState {
    Unseen,
    Compiling,
    Done { at: usize, aggregates: bool },
}

struct Compiler<'a> {
    select: &'a Select,
    stream: &'a StreamStatement,
    /// Alias, its expression, and how far it is.
    aliases: Vec<(&'a str, &'a Expr, AliasState)>,
    compiled: Vec<Node>,
    slots: Vec<Slot>,
    aggregates: Vec<AggregateCall>,
}

impl<'a> Compiler<'a> {
    fn new(select: &'a Select, streams: &[&'a StreamStatement]) -> Result<Self, SqlError> {
        let error = |span, message: String| SqlError::new(&select.text, span, message);
        if let Some(join) = select.joins.first() {
            let hint = "a rule reads one stream; one of TYPE=\"edgex\" has the events of all devices and rules, which a window brings \
                        together"
                .to_owned();
            let message = format!("JOIN (here with `{}`) is not supported by this version", join.source.name);
            return Err(error(join.source.span, message).with_hint(Some(hint)));
        }
        let from = &select.from;
        let Some(stream) = streams.iter().find(|stream| stream.name == from.name) else {
            let names = streams.iter().map(|stream| stream.name.as_str());
            let hint = did_you_mean(&from.name, names)
                .unwrap_or_else(|| format!("apply a Stream with `CREATE STREAM {} …` first", from.name));
            return Err(error(from.span, format!("unknown stream `{}`", from.name)).with_hint(Some(hint)));
        };
        if stream.kind == StreamKind::Table {
            let message = format!("`{}` is a table; this version reads streams only", from.name);
            return Err(error(from.span, message));
        }
        if !matches!(stream.options.source_type, SourceType::Edgex | SourceType::Memory) {
            let message = format!(
                "stream `{}` is of type {}, which is not supported by this version",
                from.name,
                stream.options.source_type.as_str()
            );
            let hint = "`TYPE=\"edgex\"` is".to_owned();
            return Err(error(from.span, message).with_hint(Some(hint)));
        }
        let aliases = select
            .fields
            .iter()
            .filter_map(|field| field.alias.as_deref().map(|alias| (alias, &field.expr, AliasState::Unseen)))
            .collect();
        Ok(Self { select, stream, aliases, compiled: Vec::new(), slots: Vec::new(), aggregates: Vec::new() })
    }

    fn error(&self, span: Span, message: impl Into<String>) -> SqlError {
        SqlError::new(&self.select.text, span, message)
    }

    fn plan(mut self) -> Result<Plan, SqlError> {
        let select = self.select;
        let window_ms = select.window.as_ref().map(|window| self.window(window)).transpose()?;
        let mut filters = Vec::new();
        if let Some(filter) = &select.filter {
            filters.push(self.expr(filter, Place::Row("WHERE"))?);
        }
        if let Some(filter) = select.window.as_ref().and_then(|window| window.filter.as_ref()) {
            filters.push(self.expr(filter, Place::Row("FILTER"))?);
        }
        let mut dimensions = Vec::new();
        for dimension in &select.dimensions {
            dimensions.push(self.expr(dimension, Place::Row("GROUP BY"))?);
        }
        if let (Some(dimension), None) = (select.dimensions.first(), window_ms) {
            let hint = "add `TUMBLINGWINDOW(ss, 10)` to GROUP BY".to_owned();
            return Err(self.error(dimension.span, "GROUP BY needs a window").with_hint(Some(hint)));
        }
        let mut outputs = Vec::new();
        let mut unnamed = 0;
        for field in &select.fields {
            if let Some(output) = self.output(field, &mut unnamed)? {
                outputs.push(output);
            }
        }
        let having = select.having.as_ref().map(|having| self.expr(having, Place::Group)).transpose()?;
        let mut order_by = Vec::new();
        for order in &select.order_by {
            order_by.push((self.expr(&order.expr, Place::Group)?, order.descending));
        }
        let limit = select.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Plan {
            stream: self.stream.clone(),
            slots: self.slots,
            aliases: self.compiled,
            aggregates: self.aggregates,
            filters,
            window_ms,
            dimensions,
            having,
            outputs,
            order_by,
            limit,
        })
    }

    fn window(&self, window: &Window) -> Result<i64, SqlError> {
        if window.kind != WindowKind::Tumbling {
            let message = format!("{} is not supported by this version; TUMBLINGWINDOW is", window.kind.as_str());
            return Err(self.error(window.span, message));
        }
        if let Some(over) = &window.over {
            return Err(self.error(over.span, "OVER after TUMBLINGWINDOW is not supported by this version"));
        }
        let length = match window.arguments.as_slice() {
            [Expr { kind: ExprKind::Literal(crate::Datum::Int(length)), .. }] if *length > 0 => *length,
            _ => return Err(self.error(window.span, "TUMBLINGWINDOW takes a unit and a length above 0")),
        };
        let unit = window.unit.unwrap_or(Unit::Ss);
        // Longer windows would not survive the restarts between.
        const WINDOW_MS_MAX: i64 = 366 * 86_400_000;
        match length.checked_mul(unit.millis()) {
            Some(millis) if millis <= WINDOW_MS_MAX => Ok(millis),
            _ => Err(self.error(window.span, "a window lasts 366 days at most")),
        }
    }

    /// One entry after `SELECT`; `None` when it is invisible.
    fn output(&mut self, field: &'a Field, unnamed: &mut usize) -> Result<Option<Output>, SqlError> {
        if let ExprKind::Wildcard { except, replace } = &field.expr.kind {
            if field.alias.is_some() || field.invisible {
                return Err(self.error(field.expr.span, "`*` takes no alias"));
            }
            let mut replaced = Vec::new();
            for (expr, name) in replace {
                replaced.push((name.as_str().into(), self.expr(expr, Place::Group)?));
            }
            return Ok(Some(Output::Wildcard { except: except.clone(), replace: replaced }));
        }
        let name: Arc<str> = match (&field.alias, &field.expr.kind) {
            (Some(alias), _) => alias.as_str().into(),
            (None, ExprKind::Column { name, .. } | ExprKind::Call { name, .. }) => name.as_str().into(),
            _ => {
                *unnamed += 1;
                format!("kuiper_field_{}", *unnamed - 1).into()
            }
        };
        let node = match &field.alias {
            Some(alias) => {
                let first = self.aliases.iter().position(|(name, ..)| name == alias).unwrap_or_default();
                if std::ptr::eq(self.aliases[first].1, &field.expr) {
                    self.alias(first, Place::Group, field.expr.span)?
                } else {
                    let message = format!("alias `{alias}` is given twice");
                    return Err(self.error(field.expr.span, message));
                }
            }
            None => self.expr(&field.expr, Place::Group)?,
        };
        Ok((!field.invisible).then_some(Output::Value { name, node }))
    }

    fn slot(&mut self, slot: Slot) -> Node {
        let at = self.slots.iter().position(|other| *other == slot).unwrap_or_else(|| {
            self.slots.push(slot);
            self.slots.len() - 1
        });
        Node::Slot(at)
    }

    fn alias(&mut self, index: usize, place: Place, span: Span) -> Result<Node, SqlError> {
        let (name, expr, state) = &mut self.aliases[index];
        let (name, expr) = (*name, *expr);
        match state {
            AliasState::Done { at, aggregates } => {
                if let (true, Place::Row(clause)) = (*aggregates, place) {
                    return Err(self.aggregate_in_row(span, name, clause));
                }
                Ok(Node::Alias(*at))
            }
            AliasState::Compiling => {
                Err(self.error(span, format!("alias `{name}` is computed from itself through other aliases")))
            }
            AliasState::Unseen => {
                *state = AliasState::Compiling;
                let before = self.aggregates.len();
                let node = self.expr_of(expr, Place::Group, Some(index))?;
                let at = self.compiled.len();
                let aggregates = self.aggregates.len() > before || self.uses_aggregates(&node);
                self.compiled.push(node);
                self.aliases[index].2 = AliasState::Done { at, aggregates };
                self.alias(index, place, span)
            }
        }
    }

    /// Whether `node` is known only when its window closes. An alias it refers to was compiled before it.
    fn uses_aggregates(&self, node: &Node) -> bool {
        let any = |nodes: &[Node]| nodes.iter().any(|node| self.uses_aggregates(node));
        let maybe = |node: &Option<Box<Node>>| node.as_ref().is_some_and(|node| self.uses_aggregates(node));
        match node {
            Node::Aggregate(_) | Node::WindowStart | Node::WindowEnd => true,
            Node::Alias(at) => self.uses_aggregates(&self.compiled[*at]),
            Node::Literal(_) | Node::Slot(_) | Node::EventTime => false,
            Node::Negate(inner) | Node::Not(inner) | Node::Member { base: inner, .. } => self.uses_aggregates(inner),
            Node::Binary { left, right, .. }
            | Node::Like { value: left, pattern: right, .. }
            | Node::Index { base: left, index: right } => self.uses_aggregates(left) || self.uses_aggregates(right),
            Node::Case { operand, branches, otherwise } => {
                maybe(operand)
                    || maybe(otherwise)
                    || branches.iter().any(|(when, then)| self.uses_aggregates(when) || self.uses_aggregates(then))
            }
            Node::In { value, list, .. } => self.uses_aggregates(value) || any(list),
            Node::Between { value, low, high, .. } => [value, low, high].iter().any(|node| self.uses_aggregates(node)),
            Node::Slice { base, start, end } => self.uses_aggregates(base) || maybe(start) || maybe(end),
            Node::Call { arguments, .. } => any(arguments),
        }
    }

    fn aggregate_in_row(&self, span: Span, name: &str, clause: &str) -> SqlError {
        let hint = (clause == "WHERE").then(|| "use HAVING for conditions on a window".to_owned());
        let message = format!("`{name}` is known when the window closes and cannot stand in {clause}");
        self.error(span, message).with_hint(hint)
    }

    fn expr(&mut self, expr: &Expr, place: Place) -> Result<Node, SqlError> {
        self.expr_of(expr, place, None)
    }

    /// `within` is the alias whose own expression this is: there its name is the column's.
    fn expr_of(&mut self, expr: &Expr, place: Place, within: Option<usize>) -> Result<Node, SqlError> {
        let mut boxed = |expr: &Expr| self.expr_of(expr, place, within).map(Box::new);
        Ok(match &expr.kind {
            ExprKind::Literal(value) => Node::Literal(value.clone()),
            ExprKind::Wildcard { .. } => {
                return Err(self.error(expr.span, "`*` stands alone after SELECT, in count(*) and in meta(*)"));
            }
            ExprKind::Column { stream, name } => {
                return self.column(stream.as_deref(), name, expr.span, place, within);
            }
            ExprKind::Negate(inner) => Node::Negate(boxed(inner)?),
            ExprKind::Not(inner) => Node::Not(boxed(inner)?),
            ExprKind::Binary { op, left, right } => Node::Binary { op: *op, left: boxed(left)?, right: boxed(right)? },
            ExprKind::Case { operand, branches, otherwise } => {
                let operand = operand.as_deref().map(&mut boxed).transpose()?;
                let otherwise = otherwise.as_deref().map(&mut boxed).transpose()?;
                let mut compiled = Vec::new();
                for (when, then) in branches {
                    compiled.push((*boxed(when)?, *boxed(then)?));
                }
                Node::Case { operand, branches: compiled, otherwise }
            }
            ExprKind::In { value, list, array, negated } => {
                let value = boxed(value)?;
                let list = self.exprs(list, place, within)?;
                Node::In { value, list, array: *array, negated: *negated }
            }
            ExprKind::Between { value, low, high, negated } => {
                Node::Between { value: boxed(value)?, low: boxed(low)?, high: boxed(high)?, negated: *negated }
            }
            ExprKind::Like { value, pattern, negated } => {
                Node::Like { value: boxed(value)?, pattern: boxed(pattern)?, negated: *negated }
            }
            ExprKind::Member { base, name } => Node::Member { base: boxed(base)?, name: name.as_str().into() },
            ExprKind::Index { base, index } => Node::Index { base: boxed(base)?, index: boxed(index)? },
            ExprKind::Slice { base, start, end } => {
                let base = boxed(base)?;
                let start = start.as_deref().map(&mut boxed).transpose()?;
                let end = end.as_deref().map(&mut boxed).transpose()?;
                Node::Slice { base, start, end }
            }
            ExprKind::Call { name, arguments, analytic } => {
                if *analytic {
                    let message = format!("`{name}` with OVER or FILTER is not supported by this version");
                    return Err(self.error(expr.span, message));
                }
                return self.call(name, arguments, expr.span, place, within);
            }
        })
    }

    fn exprs(&mut self, exprs: &[Expr], place: Place, within: Option<usize>) -> Result<Vec<Node>, SqlError> {
        exprs.iter().map(|expr| self.expr_of(expr, place, within)).collect()
    }

    fn column(
        &mut self,
        stream: Option<&str>,
        name: &str,
        span: Span,
        place: Place,
        within: Option<usize>,
    ) -> Result<Node, SqlError> {
        let from = &self.select.from;
        match stream {
            Some(stream) if stream == from.name || Some(stream) == from.alias.as_deref() => {
                self.known_column(name, span)?;
                Ok(self.slot(Slot::Column(name.to_owned())))
            }
            // `a.b` of a column `a` is its member `b`.
            Some(base) => {
                let base = self.column(None, base, span, place, within)?;
                Ok(Node::Member { base: Box::new(base), name: name.into() })
            }
            None => {
                let alias = self.aliases.iter().position(|(alias, ..)| *alias == name);
                if let Some(alias) = alias.filter(|alias| Some(*alias) != within) {
                    return self.alias(alias, place, span);
                }
                self.known_column(name, span)?;
                Ok(self.slot(Slot::Column(name.to_owned())))
            }
        }
    }

    /// A stream that declares columns has no others.
    fn known_column(&self, name: &str, span: Span) -> Result<(), SqlError> {
        let columns = &self.stream.columns;
        if columns.is_empty() || columns.iter().any(|column| column.name.eq_ignore_ascii_case(name)) {
            return Ok(());
        }
        let hint = did_you_mean(name, columns.iter().map(|column| column.name.as_str()))
            .unwrap_or_else(|| format!("a text is written 'in quotes'; declare `{name}` where it is a column"));
        let message = format!("stream `{}` has no column `{name}`", self.stream.name);
        Err(self.error(span, message).with_hint(Some(hint)))
    }

    fn call(
        &mut self,
        name: &str,
        arguments: &[Expr],
        span: Span,
        place: Place,
        within: Option<usize>,
    ) -> Result<Node, SqlError> {
        if let Some(aggregate) = Aggregate::by_name(name) {
            return self.aggregate(aggregate, arguments, span, place, within);
        }
        let no_arguments = |node| {
            if arguments.is_empty() { Ok(node) } else { Err(self.error(span, format!("`{name}` takes no arguments"))) }
        };
        match name {
            "window_start" | "window_end" => {
                if self.select.window.is_none() {
                    return Err(self.error(span, format!("`{name}` needs a window in GROUP BY")));
                }
                if let Place::Row(clause) = place {
                    return Err(self.aggregate_in_row(span, name, clause));
                }
                return no_arguments(if name == "window_end" { Node::WindowEnd } else { Node::WindowStart });
            }
            "event_time" => return no_arguments(Node::EventTime),
            "meta" => return self.meta(arguments, span),
            _ => {}
        }
        let Some(function) = functions::by_name(name) else {
            if functions::EKUIPER_ONLY.contains(&name) {
                return Err(self.error(span, format!("function `{name}` is not supported by this version")));
            }
            let aggregates = Aggregate::ALL.iter().map(|(name, _)| *name);
            let ours = ["window_start", "window_end", "event_time", "meta"];
            let hint = did_you_mean(name, functions::names().chain(aggregates).chain(ours));
            return Err(self.error(span, format!("unknown function `{name}`")).with_hint(hint));
        };
        self.check_arguments(function, arguments, span)?;
        Ok(Node::Call { function, arguments: self.exprs(arguments, place, within)? })
    }

    fn check_arguments(&self, function: &ScalarFunction, arguments: &[Expr], span: Span) -> Result<(), SqlError> {
        if let Some(expected) = function.wrong_count(arguments.len()) {
            let message = format!("`{}` takes {expected}, not {}", function.name, arguments.len());
            return Err(self.error(span, message));
        }
        if let ("cast", [_, Expr { kind: ExprKind::Literal(target), span }]) = (function.name, arguments) {
            let target = target.to_text();
            if !functions::CAST_TYPES.contains(&target.as_str()) {
                let hint = format!("types are {}", functions::CAST_TYPES.join(", "));
                return Err(self.error(*span, format!("`{target}` is no type to cast to")).with_hint(Some(hint)));
            }
        }
        Ok(())
    }

    fn aggregate(
        &mut self,
        function: Aggregate,
        arguments: &[Expr],
        span: Span,
        place: Place,
        within: Option<usize>,
    ) -> Result<Node, SqlError> {
        let name = function.name();
        if let Place::Row(clause) = place {
            return Err(self.aggregate_in_row(span, name, clause));
        }
        if self.select.window.is_none() {
            let hint = "add `GROUP BY TUMBLINGWINDOW(ss, 10)`".to_owned();
            return Err(self.error(span, format!("`{name}` needs a window")).with_hint(Some(hint)));
        }
        if arguments.len() != function.arguments() {
            let message = format!("`{name}` takes {} argument(s), not {}", function.arguments(), arguments.len());
            return Err(self.error(span, message));
        }
        let arguments = match arguments {
            [Expr { kind: ExprKind::Wildcard { .. }, .. }] if function == Aggregate::Count => None,
            arguments => Some(self.exprs(arguments, Place::Row("an aggregate"), within)?),
        };
        self.aggregates.push(AggregateCall { function, arguments });
        Ok(Node::Aggregate(self.aggregates.len() - 1))
    }

    /// `meta(name)`, `meta(stream.name)` and `meta(column->name)`; quotes around the name are taken too.
    fn meta(&mut self, arguments: &[Expr], span: Span) -> Result<Node, SqlError> {
        let slot = match arguments {
            [Expr { kind: ExprKind::Column { name, .. }, .. }] => Slot::Meta(name.clone()),
            [Expr { kind: ExprKind::Literal(crate::Datum::String(name)), .. }] => Slot::Meta(name.to_string()),
            [Expr { kind: ExprKind::Member { base, name }, .. }] => match &base.kind {
                ExprKind::Column { name: column, .. } => {
                    Slot::ColumnMeta { column: column.clone(), name: name.clone() }
                }
                _ => return Err(self.error(span, "`meta` takes a name or `column->name`")),
            },
            [Expr { kind: ExprKind::Wildcard { .. }, .. }] => {
                return Err(self.error(span, "meta(*) is not supported by this version; name what you need"));
            }
            _ => return Err(self.error(span, "`meta` takes one name, as in meta(deviceName)")),
        };
        Ok(self.slot(slot))
    }
}
