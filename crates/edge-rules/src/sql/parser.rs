//! Tokens to a query: a precedence parser of our own, so that errors name their place.

use super::NESTING_MAX;
use super::ast::*;
use super::lexer::{Token, TokenKind, tokens};
use crate::datum::Datum;
use crate::error::{SqlError, did_you_mean};

/// Words that end an expression, so they cannot be column names without backticks.
pub(crate) const RESERVED: [&str; 36] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP",
    "BY",
    "HAVING",
    "ORDER",
    "LIMIT",
    "AS",
    "AND",
    "OR",
    "NOT",
    "IN",
    "BETWEEN",
    "LIKE",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "TRUE",
    "FALSE",
    "ASC",
    "DESC",
    "JOIN",
    "INNER",
    "LEFT",
    "RIGHT",
    "FULL",
    "CROSS",
    "ON",
    "INVISIBLE",
    "FILTER",
    "OVER",
    "EXCEPT",
    "CREATE",
];

/// Reads tokens one after the other.
pub(crate) struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    nesting: usize,
}

impl<'a> Parser<'a> {
    pub(crate) fn new(text: &'a str) -> Result<Self, SqlError> {
        Ok(Self { text, tokens: tokens(text)?, at: 0, nesting: 0 })
    }

    // --- tokens ---

    fn peek(&self) -> &TokenKind {
        &self.tokens[self.at].kind
    }

    pub(crate) fn span(&self) -> Span {
        self.tokens[self.at].span
    }

    fn advance(&mut self) -> TokenKind {
        let kind = self.peek().clone();
        // The last token is the end; it stays.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        kind
    }

    pub(crate) fn error(&self, span: Span, message: impl Into<String>) -> SqlError {
        SqlError::new(self.text, span, message)
    }

    /// The next token is none of `expected`.
    pub(crate) fn unexpected(&self, expected: &[&str]) -> SqlError {
        let span = self.span();
        let (message, word) = match self.peek() {
            TokenKind::End => ("unexpected end of the statement".to_owned(), None),
            TokenKind::Word(word) => (format!("unexpected `{word}`"), Some(word.as_str())),
            _ => (format!("unexpected `{}`", &self.text[span.start as usize..span.end as usize]), None),
        };
        let hint = word
            .and_then(|word| did_you_mean(word, expected.iter().copied().filter(|one| one.len() > 1)))
            .or_else(|| (!expected.is_empty()).then(|| format!("expected {}", list(expected))));
        self.error(span, message).with_hint(hint)
    }

    pub(crate) fn peek_word(&self, word: &str) -> bool {
        matches!(self.peek(), TokenKind::Word(next) if next.eq_ignore_ascii_case(word))
    }

    pub(crate) fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek_word(word);
        if found {
            self.advance();
        }
        found
    }

    fn peek_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), TokenKind::Sign(next) if *next == sign)
    }

    pub(crate) fn take_sign(&mut self, sign: &str) -> bool {
        let found = self.peek_sign(sign);
        if found {
            self.advance();
        }
        found
    }

    pub(crate) fn expect_word(&mut self, word: &'static str) -> Result<(), SqlError> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected(&[word])) }
    }

    pub(crate) fn expect_sign(&mut self, sign: &'static str) -> Result<(), SqlError> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.unexpected(&[sign])) }
    }

    /// A name: a word that is not reserved, or any text in backticks.
    pub(crate) fn name(&mut self, what: &'static str) -> Result<String, SqlError> {
        match self.peek() {
            TokenKind::Word(word) if !is_reserved(word) => {
                let name = word.clone();
                self.advance();
                Ok(name)
            }
            TokenKind::Quoted(name) if !name.is_empty() => {
                let name = name.clone();
                self.advance();
                Ok(name)
            }
            TokenKind::Word(word) => {
                let hint = format!("write `{word}` in backticks where it is a name");
                Err(self.unexpected(&[]).with_hint(Some(hint)))
            }
            _ => Err(self.unexpected(&[what])),
        }
    }

    pub(crate) fn literal(&mut self) -> Option<Datum> {
        let value = match self.peek() {
            TokenKind::String(text) => Datum::from(text.as_str()),
            TokenKind::Int(value) => Datum::Int(*value),
            TokenKind::Float(value) => Datum::Float(*value),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("true") => Datum::Bool(true),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("false") => Datum::Bool(false),
            _ => return None,
        };
        self.advance();
        Some(value)
    }

    /// Nothing but a semicolon may follow.
    pub(crate) fn end(&mut self) -> Result<(), SqlError> {
        self.take_sign(";");
        match self.peek() {
            TokenKind::End => Ok(()),
            _ => Err(self.unexpected(&["WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "the end of the statement"])),
        }
    }

    /// Runs `parse` one level deeper, so that no text can exhaust the stack.
    pub(crate) fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, SqlError>) -> Result<T, SqlError> {
        if self.nesting == NESTING_MAX {
            return Err(self.error(self.span(), format!("nested deeper than {NESTING_MAX} levels")));
        }
        self.nesting += 1;
        let parsed = parse(self);
        self.nesting -= 1;
        parsed
    }

    /// `one, two, …`.
    pub(crate) fn comma_list<T>(
        &mut self,
        mut parse: impl FnMut(&mut Self) -> Result<T, SqlError>,
    ) -> Result<Vec<T>, SqlError> {
        let mut items = vec![parse(self)?];
        while self.take_sign(",") {
            items.push(parse(self)?);
        }
        Ok(items)
    }

    // --- SELECT ---

    pub(crate) fn select(&mut self) -> Result<Select, SqlError> {
        self.expect_word("SELECT")?;
        let fields = self.comma_list(Self::field)?;
        if !self.take_word("FROM") {
            return Err(self.unexpected(&["FROM", "AS", ","]));
        }
        let from = self.source()?;
        let mut joins = Vec::new();
        while let Some(join) = self.join()? {
            joins.push(join);
        }
        let filter = if self.take_word("WHERE") { Some(self.expr()?) } else { None };
        let (mut dimensions, mut window) = (Vec::new(), None);
        if self.take_word("GROUP") {
            self.expect_word("BY")?;
            loop {
                match self.window()? {
                    Some(second) if window.is_some() => {
                        return Err(self.error(second.span, "a query has one window at most"));
                    }
                    Some(first) => window = Some(first),
                    None => dimensions.push(self.expr()?),
                }
                if !self.take_sign(",") {
                    break;
                }
            }
        }
        let having = if self.take_word("HAVING") { Some(self.expr()?) } else { None };
        let mut order_by = Vec::new();
        if self.take_word("ORDER") {
            self.expect_word("BY")?;
            order_by = self.comma_list(|parser| {
                let expr = parser.expr()?;
                let descending = parser.take_word("DESC");
                if !descending {
                    parser.take_word("ASC");
                }
                Ok(OrderBy { expr, descending })
            })?;
        }
        let limit = if self.take_word("LIMIT") { Some(self.count()?) } else { None };
        Ok(Select { text: self.text.into(), fields, from, joins, filter, dimensions, window, having, order_by, limit })
    }

    fn count(&mut self) -> Result<u64, SqlError> {
        match *self.peek() {
            TokenKind::Int(count) if count >= 0 => {
                self.advance();
                Ok(count.unsigned_abs())
            }
            _ => Err(self.unexpected(&["a number of rows"])),
        }
    }

    fn field(&mut self) -> Result<Field, SqlError> {
        let span = self.span();
        let expr = if self.take_sign("*") { self.wildcard(span)? } else { self.expr()? };
        let alias = if self.take_word("AS") { Some(self.name("a name")?) } else { None };
        let invisible = self.take_word("INVISIBLE");
        Ok(Field { expr, alias, invisible })
    }

    fn wildcard(&mut self, span: Span) -> Result<Expr, SqlError> {
        let (mut except, mut replace) = (Vec::new(), Vec::new());
        if self.take_word("EXCEPT") {
            self.expect_sign("(")?;
            except = self.comma_list(|parser| parser.name("a column"))?;
            self.expect_sign(")")?;
        }
        if self.take_word("REPLACE") {
            self.expect_sign("(")?;
            replace = self.comma_list(|parser| {
                let expr = parser.expr()?;
                parser.expect_word("AS")?;
                Ok((expr, parser.name("a column")?))
            })?;
            self.expect_sign(")")?;
        }
        Ok(Expr { kind: ExprKind::Wildcard { except, replace }, span })
    }

    fn source(&mut self) -> Result<Source, SqlError> {
        let span = self.span();
        let name = self.name("the name of a stream")?;
        let alias = if self.take_word("AS") { Some(self.name("a name")?) } else { None };
        self.refuse_second_source(&name)?;
        Ok(Source { name, alias, span })
    }

    /// What other dialects of SQL have after the name of a table: a name for it without `AS`, and a second table.
    fn refuse_second_source(&self, name: &str) -> Result<(), SqlError> {
        const MAY_FOLLOW: [&str; 12] =
            ["WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "ON"];
        let hint = match self.peek() {
            TokenKind::Sign(",") => "a rule reads one stream, so one name follows FROM".to_owned(),
            TokenKind::Word(word) if !MAY_FOLLOW.iter().any(|known| word.eq_ignore_ascii_case(known)) => {
                did_you_mean(word, MAY_FOLLOW)
                    .unwrap_or_else(|| format!("a second name for `{name}` needs AS: `{name} AS {word}`"))
            }
            _ => return Ok(()),
        };
        Err(self.unexpected(&[]).with_hint(Some(hint)))
    }

    fn join(&mut self) -> Result<Option<Join>, SqlError> {
        let kinds = ["INNER", "LEFT", "RIGHT", "FULL", "CROSS"];
        let kind = kinds.into_iter().find(|kind| self.peek_word(kind));
        match kind {
            Some(_) => {
                self.advance();
                self.expect_word("JOIN")?;
            }
            None if self.take_word("JOIN") => {}
            None => return Ok(None),
        }
        let source = self.source()?;
        let on = if self.take_word("ON") { Some(self.expr()?) } else { None };
        Ok(Some(Join { kind: kind.unwrap_or("INNER").to_owned(), source, on }))
    }

    fn window(&mut self) -> Result<Option<Window>, SqlError> {
        let span = self.span();
        let TokenKind::Word(word) = self.peek() else { return Ok(None) };
        let Some((_, kind)) = WindowKind::ALL.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) else {
            return Ok(None);
        };
        if self.tokens[self.at + 1].kind != TokenKind::Sign("(") {
            return Ok(None);
        }
        self.advance();
        self.expect_sign("(")?;
        let mut unit = None;
        if !matches!(kind, WindowKind::Count | WindowKind::State) {
            let units = Unit::ALL.map(|(name, _)| name);
            let TokenKind::Word(word) = self.peek() else { return Err(self.unexpected(&units)) };
            let found = Unit::ALL.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
            let Some((_, found)) = found else {
                return Err(self.unexpected(&[]).with_hint(Some(format!("a window's unit is {}", list(&units)))));
            };
            unit = Some(found);
            self.advance();
            self.expect_sign(",")?;
        }
        let arguments = self.comma_list(Self::expr)?;
        let end = self.span();
        self.expect_sign(")")?;
        let mut filter = None;
        if self.take_word("FILTER") {
            self.expect_sign("(")?;
            self.expect_word("WHERE")?;
            filter = Some(self.expr()?);
            self.expect_sign(")")?;
        }
        let mut over = None;
        if self.take_word("OVER") {
            self.expect_sign("(")?;
            self.expect_word("WHEN")?;
            over = Some(self.expr()?);
            self.expect_sign(")")?;
        }
        Ok(Some(Window { kind, unit, arguments, filter, over, span: Span { start: span.start, end: end.end } }))
    }

    // --- expressions ---

    pub(crate) fn expr(&mut self) -> Result<Expr, SqlError> {
        self.expr_above(0)
    }

    /// An expression of operators that bind more strongly than `power`.
    fn expr_above(&mut self, power: u8) -> Result<Expr, SqlError> {
        self.nested(|parser| {
            let mut left = parser.prefix()?;
            // A chain such as `a + b + c` makes a tree as deep as it is long, and the evaluator walks it.
            let mut links = 0;
            while let Some(longer) = parser.infix(&left, power)? {
                left = longer;
                links += 1;
                if parser.nesting + links > NESTING_MAX {
                    return Err(parser.error(left.span, format!("an expression of more than {NESTING_MAX} steps")));
                }
            }
            Ok(left)
        })
    }

    /// `left` with the operator that follows, when that binds more strongly than `power`.
    fn infix(&mut self, left: &Expr, power: u8) -> Result<Option<Expr>, SqlError> {
        if let Some(op) = self.binary_op() {
            if op.power() <= power {
                return Ok(None);
            }
            self.advance();
            let right = self.expr_above(op.power())?;
            let span = Span { start: left.span.start, end: right.span.end };
            let kind = ExprKind::Binary { op, left: Box::new(left.clone()), right: Box::new(right) };
            return Ok(Some(Expr { kind, span }));
        }
        if power >= COMPARISON_POWER {
            return Ok(None);
        }
        let before = self.at;
        let negated = self.take_word("NOT");
        let value = Box::new(left.clone());
        let kind = if self.take_word("IN") {
            if self.take_sign("(") {
                let list = self.comma_list(Self::expr)?;
                self.expect_sign(")")?;
                ExprKind::In { value, list, array: false, negated }
            } else {
                ExprKind::In { value, list: vec![self.expr_above(COMPARISON_POWER)?], array: true, negated }
            }
        } else if self.take_word("BETWEEN") {
            let low = Box::new(self.expr_above(COMPARISON_POWER)?);
            self.expect_word("AND")?;
            let high = Box::new(self.expr_above(COMPARISON_POWER)?);
            ExprKind::Between { value, low, high, negated }
        } else if self.take_word("LIKE") {
            ExprKind::Like { value, pattern: Box::new(self.expr_above(COMPARISON_POWER)?), negated }
        } else if negated {
            return Err(self.unexpected(&["IN", "BETWEEN", "LIKE"]));
        } else {
            self.at = before;
            return Ok(None);
        };
        let end = self.tokens[self.at.saturating_sub(1)].span.end;
        Ok(Some(Expr { kind, span: Span { start: left.span.start, end } }))
    }

    fn binary_op(&self) -> Option<BinaryOp> {
        Some(match self.peek() {
            TokenKind::Sign(sign) => match *sign {
                "=" => BinaryOp::Equal,
                "!=" | "<>" => BinaryOp::NotEqual,
                "<" => BinaryOp::Less,
                "<=" => BinaryOp::LessOrEqual,
                ">" => BinaryOp::Greater,
                ">=" => BinaryOp::GreaterOrEqual,
                "+" => BinaryOp::Add,
                "-" => BinaryOp::Subtract,
                "|" => BinaryOp::BitOr,
                "^" => BinaryOp::BitXor,
                "*" => BinaryOp::Multiply,
                "/" => BinaryOp::Divide,
                "%" => BinaryOp::Modulo,
                "&" => BinaryOp::BitAnd,
                _ => return None,
            },
            TokenKind::Word(word) if word.eq_ignore_ascii_case("AND") => BinaryOp::And,
            TokenKind::Word(word) if word.eq_ignore_ascii_case("OR") => BinaryOp::Or,
            _ => return None,
        })
    }

    fn prefix(&mut self) -> Result<Expr, SqlError> {
        let span = self.span();
        if self.take_word("NOT") {
            let inner = self.expr_above(COMPARISON_POWER - 1)?;
            let span = Span { start: span.start, end: inner.span.end };
            return Ok(Expr { kind: ExprKind::Not(Box::new(inner)), span });
        }
        if self.take_sign("-") {
            let inner = self.nested(Self::prefix)?;
            let span = Span { start: span.start, end: inner.span.end };
            let kind = match inner.kind {
                ExprKind::Literal(Datum::Int(value)) => ExprKind::Literal(Datum::Int(-value)),
                ExprKind::Literal(Datum::Float(value)) => ExprKind::Literal(Datum::Float(-value)),
                _ => ExprKind::Negate(Box::new(inner)),
            };
            return Ok(Expr { kind, span });
        }
        let mut base = self.primary()?;
        let mut links = 0;
        while let Some(longer) = self.postfix(&base)? {
            base = longer;
            links += 1;
            if self.nesting + links > NESTING_MAX {
                return Err(self.error(base.span, format!("an expression of more than {NESTING_MAX} steps")));
            }
        }
        Ok(base)
    }

    /// `base` with the `->name`, `.name` or `[…]` that follows.
    fn postfix(&mut self, base: &Expr) -> Result<Option<Expr>, SqlError> {
        let boxed = Box::new(base.clone());
        let kind = if self.take_sign("->") || self.take_sign(".") {
            ExprKind::Member { base: boxed, name: self.name("the name of a member")? }
        } else if self.take_sign("[") {
            let start = if self.peek_sign(":") { None } else { Some(Box::new(self.expr()?)) };
            let kind = match start {
                Some(index) if !self.peek_sign(":") => ExprKind::Index { base: boxed, index },
                start => {
                    self.expect_sign(":")?;
                    let end = if self.peek_sign("]") { None } else { Some(Box::new(self.expr()?)) };
                    ExprKind::Slice { base: boxed, start, end }
                }
            };
            self.expect_sign("]")?;
            kind
        } else {
            return Ok(None);
        };
        let end = self.tokens[self.at.saturating_sub(1)].span.end;
        Ok(Some(Expr { kind, span: Span { start: base.span.start, end } }))
    }

    fn primary(&mut self) -> Result<Expr, SqlError> {
        let span = self.span();
        if let Some(value) = self.literal() {
            return Ok(Expr { kind: ExprKind::Literal(value), span });
        }
        if self.take_sign("(") {
            let inner = self.expr()?;
            self.expect_sign(")")?;
            return Ok(inner);
        }
        if self.take_word("CASE") {
            return self.case(span);
        }
        if !matches!(self.peek(), TokenKind::Word(_) | TokenKind::Quoted(_)) {
            return Err(self.unexpected(&["an expression"]));
        }
        let is_word = matches!(self.peek(), TokenKind::Word(_));
        let name = self.name("an expression")?;
        if is_word && self.take_sign("(") {
            return self.call(name.to_lowercase(), span);
        }
        // Whether `a.b` is column b of stream a or member b of column a is known when streams are.
        if self.take_sign(".") {
            let end = self.span().end;
            let column = self.name("the name of a column")?;
            let kind = ExprKind::Column { stream: Some(name), name: column };
            return Ok(Expr { kind, span: Span { start: span.start, end } });
        }
        Ok(Expr { kind: ExprKind::Column { stream: None, name }, span })
    }

    fn case(&mut self, span: Span) -> Result<Expr, SqlError> {
        let operand = if self.peek_word("WHEN") { None } else { Some(Box::new(self.expr()?)) };
        let mut branches = Vec::new();
        while self.take_word("WHEN") {
            let when = self.expr()?;
            self.expect_word("THEN")?;
            branches.push((when, self.expr()?));
        }
        if branches.is_empty() {
            return Err(self.unexpected(&["WHEN"]));
        }
        let otherwise = if self.take_word("ELSE") { Some(Box::new(self.expr()?)) } else { None };
        let end = self.span().end;
        if !self.take_word("END") {
            return Err(self.unexpected(&["WHEN", "ELSE", "END"]));
        }
        Ok(Expr { kind: ExprKind::Case { operand, branches, otherwise }, span: Span { start: span.start, end } })
    }

    fn call(&mut self, name: String, span: Span) -> Result<Expr, SqlError> {
        let mut arguments = Vec::new();
        if !self.peek_sign(")") {
            arguments = self.comma_list(|parser| {
                let span = parser.span();
                if parser.take_sign("*") {
                    return Ok(Expr { kind: ExprKind::Wildcard { except: Vec::new(), replace: Vec::new() }, span });
                }
                parser.expr()
            })?;
        }
        let end = self.span().end;
        if !self.take_sign(")") {
            return Err(self.unexpected(&[")", ","]));
        }
        let mut analytic = false;
        for word in ["FILTER", "OVER"] {
            if self.peek_word(word) {
                analytic = true;
                self.advance();
                self.expect_sign("(")?;
                self.analytic_clause()?;
                self.expect_sign(")")?;
            }
        }
        Ok(Expr { kind: ExprKind::Call { name, arguments, analytic }, span: Span { start: span.start, end } })
    }

    /// What stands in `OVER (…)`; it is checked and not kept, because analytic calls are refused when planned.
    fn analytic_clause(&mut self) -> Result<(), SqlError> {
        if self.take_word("PARTITION") {
            self.expect_word("BY")?;
            self.comma_list(Self::expr)?;
        }
        if self.take_word("WHEN") || self.take_word("WHERE") {
            self.expr()?;
        }
        Ok(())
    }
}

pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(word))
}

/// `` `a`, `b` or c ``: words and signs in backticks, descriptions bare.
pub(crate) fn list(items: &[&str]) -> String {
    let shown: Vec<String> =
        items.iter().map(|item| if item.contains(' ') { (*item).to_owned() } else { format!("`{item}`") }).collect();
    match shown.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
