//! The tree of a statement. Every expression knows where it stood in the text.

use std::sync::Arc;

use crate::datum::Datum;

/// A range of bytes of the statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Byte after the last.
    pub end: u32,
}

/// A query.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// The statement's text, for errors found later.
    pub text: Arc<str>,
    /// What each row becomes.
    pub fields: Vec<Field>,
    /// The stream read.
    pub from: Source,
    /// Further streams and tables.
    pub joins: Vec<Join>,
    /// `WHERE`.
    pub filter: Option<Expr>,
    /// `GROUP BY` without its window.
    pub dimensions: Vec<Expr>,
    /// The window in `GROUP BY`.
    pub window: Option<Window>,
    /// `HAVING`.
    pub having: Option<Expr>,
    /// `ORDER BY`.
    pub order_by: Vec<OrderBy>,
    /// `LIMIT`.
    pub limit: Option<u64>,
}

impl Select {
    /// Names of the streams and tables that the query reads.
    pub fn streams(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.from).chain(self.joins.iter().map(|join| &join.source)).map(|source| source.name.as_str())
    }
}

/// A stream in `FROM` or `JOIN`.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// `AS alias`.
    pub alias: Option<String>,
    /// Where it stands.
    pub span: Span,
}

/// `… JOIN source ON condition`.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    /// `INNER`, `LEFT`, `RIGHT`, `FULL` or `CROSS`.
    pub kind: String,
    /// What is joined.
    pub source: Source,
    /// `ON`; a cross join has none.
    pub on: Option<Expr>,
}

/// One entry after `SELECT`.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// What to compute.
    pub expr: Expr,
    /// `AS alias`.
    pub alias: Option<String>,
    /// Computed for other expressions only.
    pub invisible: bool,
}

/// One entry of `ORDER BY`.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderBy {
    /// What to order by.
    pub expr: Expr,
    /// `DESC`.
    pub descending: bool,
}

/// A window in `GROUP BY`.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Which.
    pub kind: WindowKind,
    /// The unit of its arguments; a count window has none.
    pub unit: Option<Unit>,
    /// Its arguments after the unit.
    pub arguments: Vec<Expr>,
    /// `FILTER (WHERE …)`.
    pub filter: Option<Expr>,
    /// `OVER (WHEN …)`.
    pub over: Option<Expr>,
    /// Where it stands.
    pub span: Span,
}

/// Kinds of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are eKuiper's own")]
pub enum WindowKind {
    Tumbling,
    Hopping,
    Sliding,
    Session,
    Count,
    State,
}

impl WindowKind {
    /// All, with the names that queries use.
    pub const ALL: [(&'static str, WindowKind); 6] = [
        ("TUMBLINGWINDOW", WindowKind::Tumbling),
        ("HOPPINGWINDOW", WindowKind::Hopping),
        ("SLIDINGWINDOW", WindowKind::Sliding),
        ("SESSIONWINDOW", WindowKind::Session),
        ("COUNTWINDOW", WindowKind::Count),
        ("STATEWINDOW", WindowKind::State),
    ];

    /// The name that queries use.
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// Units of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are eKuiper's own")]
pub enum Unit {
    Dd,
    Hh,
    Mi,
    Ss,
    Ms,
}

impl Unit {
    /// All, with the names that queries use.
    pub const ALL: [(&'static str, Unit); 5] =
        [("dd", Unit::Dd), ("hh", Unit::Hh), ("mi", Unit::Mi), ("ss", Unit::Ss), ("ms", Unit::Ms)];

    /// Length in milliseconds.
    pub fn millis(self) -> i64 {
        match self {
            Unit::Dd => 86_400_000,
            Unit::Hh => 3_600_000,
            Unit::Mi => 60_000,
            Unit::Ss => 1_000,
            Unit::Ms => 1,
        }
    }

    /// The name that queries use.
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, unit)| *unit == self).map_or("", |(name, _)| name)
    }
}

/// An expression and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it stands.
    pub span: Span,
}

/// Kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// A number, a string, `true`, `false`.
    Literal(Datum),
    /// `*`, in `SELECT`, `count(*)` and `meta(*)`; `EXCEPT` and `REPLACE` in `SELECT` only.
    Wildcard {
        /// Columns left out.
        except: Vec<String>,
        /// Columns computed anew.
        replace: Vec<(Expr, String)>,
    },
    /// A column, perhaps of a named stream.
    Column {
        /// `stream.`.
        stream: Option<String>,
        /// The name.
        name: String,
    },
    /// `-x`.
    Negate(Box<Expr>),
    /// `NOT x`.
    Not(Box<Expr>),
    /// `left op right`.
    Binary {
        /// The operator.
        op: BinaryOp,
        /// Left operand.
        left: Box<Expr>,
        /// Right operand.
        right: Box<Expr>,
    },
    /// `CASE [operand] WHEN … THEN … [ELSE …] END`.
    Case {
        /// What the branches are compared with; without it they are conditions.
        operand: Option<Box<Expr>>,
        /// `WHEN`, `THEN`.
        branches: Vec<(Expr, Expr)>,
        /// `ELSE`.
        otherwise: Option<Box<Expr>>,
    },
    /// `value [NOT] IN (list)`, or in an array when the list is one expression without parentheses.
    In {
        /// What is looked for.
        value: Box<Expr>,
        /// Where.
        list: Vec<Expr>,
        /// Whether `list` is one array.
        array: bool,
        /// `NOT`.
        negated: bool,
    },
    /// `value [NOT] BETWEEN low AND high`.
    Between {
        /// What is compared.
        value: Box<Expr>,
        /// Least.
        low: Box<Expr>,
        /// Greatest.
        high: Box<Expr>,
        /// `NOT`.
        negated: bool,
    },
    /// `value [NOT] LIKE pattern`.
    Like {
        /// What is compared.
        value: Box<Expr>,
        /// With `%` for any text and `_` for any character.
        pattern: Box<Expr>,
        /// `NOT`.
        negated: bool,
    },
    /// `base->name` or `base.name`.
    Member {
        /// The object.
        base: Box<Expr>,
        /// The member.
        name: String,
    },
    /// `base[index]`.
    Index {
        /// The array.
        base: Box<Expr>,
        /// From 0; negative from the end.
        index: Box<Expr>,
    },
    /// `base[start:end]`.
    Slice {
        /// The array.
        base: Box<Expr>,
        /// First element.
        start: Option<Box<Expr>>,
        /// Element after the last.
        end: Option<Box<Expr>>,
    },
    /// `name(arguments)`.
    Call {
        /// In lower case.
        name: String,
        /// Arguments.
        arguments: Vec<Expr>,
        /// Whether `OVER (…)` or `FILTER (…)` follows: an analytic call.
        analytic: bool,
    },
}

/// Operators between two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the sign is read")]
pub enum BinaryOp {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    BitOr,
    BitXor,
    Multiply,
    Divide,
    Modulo,
    BitAnd,
}

impl BinaryOp {
    /// The sign.
    pub fn as_str(self) -> &'static str {
        match self {
            BinaryOp::Or => "OR",
            BinaryOp::And => "AND",
            BinaryOp::Equal => "=",
            BinaryOp::NotEqual => "!=",
            BinaryOp::Less => "<",
            BinaryOp::LessOrEqual => "<=",
            BinaryOp::Greater => ">",
            BinaryOp::GreaterOrEqual => ">=",
            BinaryOp::Add => "+",
            BinaryOp::Subtract => "-",
            BinaryOp::BitOr => "|",
            BinaryOp::BitXor => "^",
            BinaryOp::Multiply => "*",
            BinaryOp::Divide => "/",
            BinaryOp::Modulo => "%",
            BinaryOp::BitAnd => "&",
        }
    }

    /// How strongly it binds; eKuiper's five levels.
    pub(crate) fn power(self) -> u8 {
        match self {
            BinaryOp::Or => 1,
            BinaryOp::And => 2,
            BinaryOp::Equal
            | BinaryOp::NotEqual
            | BinaryOp::Less
            | BinaryOp::LessOrEqual
            | BinaryOp::Greater
            | BinaryOp::GreaterOrEqual => COMPARISON_POWER,
            BinaryOp::Add | BinaryOp::Subtract | BinaryOp::BitOr | BinaryOp::BitXor => COMPARISON_POWER + 1,
            BinaryOp::Multiply | BinaryOp::Divide | BinaryOp::Modulo | BinaryOp::BitAnd => COMPARISON_POWER + 2,
        }
    }
}

/// Binding power of comparisons, `IN`, `BETWEEN` and `LIKE`; `NOT` stands just below.
pub(crate) const COMPARISON_POWER: u8 = 3;

/// Whether messages flow or are kept to look things up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// `CREATE STREAM`.
    Stream,
    /// `CREATE TABLE`.
    Table,
}

/// `CREATE STREAM name (columns) WITH (options)`.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamStatement {
    /// Stream or table.
    pub kind: StreamKind,
    /// Its name.
    pub name: String,
    /// Its columns; none: any.
    pub columns: Vec<ColumnDef>,
    /// `WITH (…)`.
    pub options: StreamOptions,
}

/// A declared column.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDef {
    /// Its name.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// `DEFAULT literal`, taken for a message without the column.
    pub default: Option<Datum>,
}

/// Types of columns.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are eKuiper's own")]
pub enum ColumnType {
    Bigint,
    Float,
    String,
    Bytea,
    Datetime,
    Boolean,
    Array(Box<ColumnType>),
    Struct(Vec<ColumnDef>),
}

/// Where a stream's messages come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceType {
    /// The edge plane's bus.
    Edgex,
    /// Rules' `memory` sinks.
    Memory,
    /// An MQTT broker; what eKuiper takes when no type is given.
    #[default]
    Mqtt,
    /// Another one, in lower case.
    Other(String),
}

impl SourceType {
    /// The name that statements use.
    pub fn as_str(&self) -> &str {
        match self {
            SourceType::Edgex => "edgex",
            SourceType::Memory => "memory",
            SourceType::Mqtt => "mqtt",
            SourceType::Other(name) => name,
        }
    }
}

/// How messages are encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON objects.
    #[default]
    Json,
    /// Raw bytes, in the column `self`.
    Binary,
    /// Values with a delimiter between them.
    Delimited,
    /// Protocol buffers, by `SCHEMAID`.
    Protobuf,
    /// Form fields.
    UrlEncoded,
    /// Another one, in lower case.
    Other(String),
}

/// `WITH (…)` of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamOptions {
    /// `TYPE`.
    pub source_type: SourceType,
    /// `DATASOURCE`: topic, path or subject, as the type takes it.
    pub datasource: String,
    /// `FORMAT`.
    pub format: Format,
    /// `KEY`.
    pub key: Option<String>,
    /// `CONF_KEY`.
    pub conf_key: Option<String>,
    /// `STRICT_VALIDATION`: a message that does not fit the columns is an error.
    pub strict_validation: bool,
    /// `TIMESTAMP`: the column that holds the event's time.
    pub timestamp: Option<String>,
    /// `TIMESTAMP_FORMAT`.
    pub timestamp_format: Option<String>,
    /// `RETAIN_SIZE`: rows that a table keeps.
    pub retain_size: Option<u64>,
    /// `SHARED`: one source for all rules.
    pub shared: bool,
    /// `SCHEMAID`.
    pub schema_id: Option<String>,
    /// `KIND="lookup"`: a table that is asked, not read.
    pub lookup: bool,
    /// `DELIMITER`.
    pub delimiter: Option<String>,
    /// `VERSION`: a statement replaces one whose version is less.
    pub version: Option<String>,
    /// `EXTRA`: JSON for the source.
    pub extra: Option<String>,
    /// `TEMP`: not kept over a restart.
    pub temp: bool,
}
