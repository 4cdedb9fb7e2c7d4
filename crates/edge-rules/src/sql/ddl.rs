//! `CREATE STREAM` and `CREATE TABLE`.

use super::ast::*;
use super::lexer::{TokenKind, tokens};
use super::parser::{Parser, list};
use crate::datum::Datum;
use crate::error::{SqlError, did_you_mean};

const OPTIONS: [&str; 16] = [
    "DATASOURCE",
    "FORMAT",
    "TYPE",
    "KEY",
    "CONF_KEY",
    "STRICT_VALIDATION",
    "TIMESTAMP",
    "TIMESTAMP_FORMAT",
    "RETAIN_SIZE",
    "SHARED",
    "SCHEMAID",
    "KIND",
    "DELIMITER",
    "VERSION",
    "EXTRA",
    "TEMP",
];

const TYPES: [&str; 8] = ["BIGINT", "FLOAT", "STRING", "BYTEA", "DATETIME", "BOOLEAN", "ARRAY", "STRUCT"];

impl Parser<'_> {
    pub(crate) fn create(&mut self) -> Result<StreamStatement, SqlError> {
        if !self.take_word("CREATE") {
            return Err(self.unexpected(&["CREATE"]));
        }
        let kind = if self.take_word("STREAM") {
            StreamKind::Stream
        } else if self.take_word("TABLE") {
            StreamKind::Table
        } else {
            return Err(self.unexpected(&["STREAM", "TABLE"]));
        };
        let name = self.name("a name")?;
        self.expect_sign("(")?;
        let columns = if self.take_sign(")") { Vec::new() } else { self.columns()? };
        let mut options = StreamOptions::default();
        self.expect_word("WITH")?;
        self.expect_sign("(")?;
        self.comma_list(|parser| parser.option(&mut options))?;
        self.expect_sign(")")?;
        Ok(StreamStatement { kind, name, columns, options })
    }

    /// Columns and the bracket after them.
    fn columns(&mut self) -> Result<Vec<ColumnDef>, SqlError> {
        let mut columns: Vec<ColumnDef> = Vec::new();
        loop {
            let span = self.span();
            let name = self.name("the name of a column")?;
            if columns.iter().any(|column| column.name == name) {
                return Err(self.error(span, format!("column `{name}` is declared twice")));
            }
            let column_type = self.nested(Self::column_type)?;
            let default = if self.take_word("DEFAULT") {
                match self.literal() {
                    Some(value) => Some(value),
                    None => return Err(self.unexpected(&["a literal value"])),
                }
            } else {
                None
            };
            columns.push(ColumnDef { name, column_type, default });
            if !self.take_sign(",") {
                break;
            }
        }
        if self.take_sign(")") { Ok(columns) } else { Err(self.unexpected(&[")", ","])) }
    }

    fn column_type(&mut self) -> Result<ColumnType, SqlError> {
        let Some(name) = TYPES.into_iter().find(|name| self.peek_word(name)) else {
            return Err(self.unexpected(&TYPES));
        };
        self.take_word(name);
        Ok(match name {
            "BIGINT" => ColumnType::Bigint,
            "FLOAT" => ColumnType::Float,
            "STRING" => ColumnType::String,
            "BYTEA" => ColumnType::Bytea,
            "DATETIME" => ColumnType::Datetime,
            "BOOLEAN" => ColumnType::Boolean,
            "ARRAY" => {
                self.expect_sign("(")?;
                let element = self.nested(Self::column_type)?;
                self.expect_sign(")")?;
                ColumnType::Array(Box::new(element))
            }
            _ => {
                self.expect_sign("(")?;
                ColumnType::Struct(self.columns()?)
            }
        })
    }

    fn option(&mut self, options: &mut StreamOptions) -> Result<(), SqlError> {
        let span = self.span();
        let name = self.name("the name of an option")?.to_uppercase();
        if !OPTIONS.contains(&name.as_str()) {
            let hint = did_you_mean(&name, OPTIONS).unwrap_or_else(|| format!("options are {}", list(&OPTIONS)));
            return Err(self.error(span, format!("unknown option `{name}`")).with_hint(Some(hint)));
        }
        self.expect_sign("=")?;
        let value_span = self.span();
        let text = match self.literal() {
            Some(Datum::String(text)) => text.to_string(),
            // eKuiper takes text only; numbers and booleans written bare are clear enough.
            Some(other) => other.to_text(),
            None => return Err(self.unexpected(&["a text in quotes"])),
        };
        let wrong = |parser: &Self, kind: &str| {
            Err(parser.error(value_span, format!("option `{name}` is {kind}, not `{text}`")))
        };
        let flag = match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        };
        match name.as_str() {
            "DATASOURCE" => options.datasource = text,
            "TYPE" => {
                options.source_type = match text.to_lowercase().as_str() {
                    "edgex" => SourceType::Edgex,
                    "memory" => SourceType::Memory,
                    "mqtt" => SourceType::Mqtt,
                    other => SourceType::Other(other.to_owned()),
                };
            }
            "FORMAT" => {
                options.format = match text.to_lowercase().as_str() {
                    "json" => Format::Json,
                    "binary" => Format::Binary,
                    "delimited" => Format::Delimited,
                    "protobuf" => Format::Protobuf,
                    "urlencoded" => Format::UrlEncoded,
                    other => Format::Other(other.to_owned()),
                };
            }
            "KEY" => options.key = Some(text),
            "CONF_KEY" => options.conf_key = Some(text),
            "TIMESTAMP" => options.timestamp = Some(text),
            "TIMESTAMP_FORMAT" => options.timestamp_format = Some(text),
            "SCHEMAID" => options.schema_id = Some(text),
            "DELIMITER" => options.delimiter = Some(text),
            "VERSION" => options.version = Some(text),
            "EXTRA" => options.extra = Some(text),
            "RETAIN_SIZE" => match text.parse() {
                Ok(rows) => options.retain_size = Some(rows),
                Err(_) => return wrong(self, "a number of rows"),
            },
            "KIND" => match text.to_lowercase().as_str() {
                "lookup" => options.lookup = true,
                "scan" => options.lookup = false,
                _ => return wrong(self, "`scan` or `lookup`"),
            },
            _ => {
                let Some(flag) = flag else { return wrong(self, "`true` or `false`") };
                match name.as_str() {
                    "STRICT_VALIDATION" => options.strict_validation = flag,
                    "SHARED" => options.shared = flag,
                    _ => options.temp = flag,
                }
            }
        }
        Ok(())
    }
}

/// Whether `name` reads as one word token; the printer asks before it leaves backticks out.
pub(crate) fn is_plain_word(name: &str) -> bool {
    matches!(tokens(name).as_deref(), Ok([first, _]) if matches!(&first.kind, TokenKind::Word(word) if word == name))
}
