//! Tokens into trees, macros expanded, with the words of cel-go's (ANTLR's) syntax errors.

use super::{
    ast::{Ast, Expr, Fold, Id, Issue},
    lex::{Spanned, Token, tokens},
    types::is_reserved,
    value::Lit,
};

/// Expressions nested deeper are refused: recursion must not exhaust a stack.
const DEPTH_MAX: usize = 60;

/// The same for the tree.
const TREE_DEPTH_MAX: usize = 200;

/// Characters of an expression, as upstream limits them.
const SOURCE_CHARS_MAX: usize = 100_000;

/// Nodes of an expression: macros copy nothing, so there are about as many as tokens.
const NODES_MAX: usize = 50_000;

/// The accumulator of a macro, which no author can name.
pub(super) const ACCUMULATOR: &str = "@result";

/// What `sortBy` calls the list that it sorts.
const SORTED: &str = "@__sortBy_input__";

const NOT_A_NAME: &str = "argument must be a simple name";
const NOT_AN_IDENTIFIER: &str = "argument is not an identifier";

const PRIMARY: &str =
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

pub(super) fn parse(source: &[char]) -> Result<Ast, Vec<Issue>> {
    if source.len() > SOURCE_CHARS_MAX {
        let text =
            format!("expression code point size exceeds limit: size: {}, limit {SOURCE_CHARS_MAX}", source.len());
        return Err(vec![Issue { at: 0, text }]);
    }
    let (tokens, lex_errors) = tokens(source);
    let issues = lex_errors.into_iter().map(|(at, text)| Issue { at, text }).collect();
    let mut parser = Parser { tokens, at: 0, ast: Ast::default(), issues, depth: 0, is_lost: false };
    let root = parser.expression();
    parser.ast.root = root;
    if !parser.is_lost && parser.peek().token != Token::End {
        let unexpected = parser.peek().clone();
        let is_last = parser.tokens.get(parser.at + 1).is_some_and(|next| next.token == Token::End);
        let what = if is_last { "extraneous" } else { "mismatched" };
        parser.issue(unexpected.at, format!("Syntax error: {what} input '{}' expecting <EOF>", unexpected.text));
    }
    if parser.issues.is_empty() && is_too_deep(&parser.ast) {
        parser.issue(0, format!("expression recursion limit exceeded: {TREE_DEPTH_MAX}"));
    }
    if parser.issues.is_empty() { Ok(parser.ast) } else { Err(parser.issues) }
}

/// Long chains make deep trees, although the parser does not descend for them.
fn is_too_deep(ast: &Ast) -> bool {
    let mut open = vec![(ast.root, 0)];
    while let Some((id, depth)) = open.pop() {
        if depth > TREE_DEPTH_MAX {
            return true;
        }
        let mut below = |id: Id| open.push((id, depth + 1));
        match ast.node(id) {
            Expr::Literal(_) | Expr::Ident(_) => {}
            Expr::Select { operand, .. } => below(*operand),
            Expr::Call { target, args, .. } => target.iter().chain(args).for_each(|id| below(*id)),
            Expr::List(items) => items.iter().for_each(|id| below(*id)),
            Expr::Map(entries) => entries.iter().for_each(|(key, value)| {
                below(*key);
                below(*value);
            }),
            Expr::Fold(fold) => {
                [fold.range, fold.init, fold.condition, fold.step, fold.result].into_iter().for_each(below);
            }
        }
    }
    false
}

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
    ast: Ast,
    issues: Vec<Issue>,
    depth: usize,
    /// After the first error that cannot be recovered from, nothing further is reported.
    is_lost: bool,
}

impl Parser {
    fn peek(&self) -> &Spanned {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn is(&self, sign: &str) -> bool {
        matches!(&self.peek().token, Token::Sign(found) if *found == sign)
    }

    fn take(&mut self, sign: &str) -> Option<usize> {
        self.is(sign).then(|| {
            let at = self.peek().at;
            self.at += 1;
            at
        })
    }

    fn issue(&mut self, at: usize, text: String) {
        if !self.is_lost {
            self.issues.push(Issue { at, text });
        }
    }

    fn lose(&mut self, at: usize, text: String) -> Id {
        self.issue(at, text);
        self.is_lost = true;
        self.at = self.tokens.len() - 1;
        self.node(at, Expr::Literal(Lit::Null))
    }

    fn node(&mut self, at: usize, expr: Expr) -> Id {
        self.ast.nodes.push(expr);
        self.ast.places.push(at);
        if self.ast.nodes.len() > NODES_MAX && !self.is_lost {
            self.is_lost = true;
            self.issues.push(Issue { at, text: format!("expression has more than {NODES_MAX} parts") });
            self.at = self.tokens.len() - 1;
        }
        self.ast.nodes.len() - 1
    }

    fn call(&mut self, at: usize, function: &'static str, args: Vec<Id>) -> Id {
        self.node(at, Expr::Call { function, name: function.to_owned(), target: None, args })
    }

    fn expect(&mut self, sign: &'static str) {
        if self.take(sign).is_none() && !self.is_lost {
            let found = self.peek().clone();
            let text = match found.token {
                Token::End => format!("Syntax error: missing '{sign}' at '<EOF>'"),
                _ => format!("Syntax error: mismatched input '{}' expecting '{sign}'", found.text),
            };
            self.lose(found.at, text);
        }
    }

    fn expression(&mut self) -> Id {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let at = self.peek().at;
            self.depth -= 1;
            return self.lose(at, format!("expression recursion limit exceeded: {DEPTH_MAX}"));
        }
        let condition = self.binary(0);
        let id = match self.take("?") {
            None => condition,
            Some(at) => {
                let then = self.binary(0);
                self.expect(":");
                let otherwise = self.expression();
                self.call(at, "_?_:_", vec![condition, then, otherwise])
            }
        };
        self.depth -= 1;
        id
    }

    /// Operators by precedence, the weakest first; all are left-associative.
    fn binary(&mut self, level: usize) -> Id {
        const LEVELS: [&[(&str, &str)]; 5] = [
            &[("||", "_||_")],
            &[("&&", "_&&_")],
            &[
                ("<=", "_<=_"),
                (">=", "_>=_"),
                ("<", "_<_"),
                (">", "_>_"),
                ("==", "_==_"),
                ("!=", "_!=_"),
                ("in", "@in"),
            ],
            &[("+", "_+_"), ("-", "_-_")],
            &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
        ];
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1);
        while let Some((sign, function)) = operators.iter().find(|(sign, _)| self.is(sign)) {
            let at = self.take(sign).unwrap_or_default();
            let right = self.binary(level + 1);
            left = self.call(at, function, vec![left, right]);
        }
        left
    }

    fn unary(&mut self) -> Id {
        for (sign, function) in [("!", "!_"), ("-", "-_")] {
            let Some(first) = self.is(sign).then(|| self.peek().at) else { continue };
            let mut count = 0;
            while self.take(sign).is_some() {
                count += 1;
            }
            // The sign of a number belongs to it.
            if sign == "-" && count == 1 {
                match self.peek().token.clone() {
                    Token::Int(text) => {
                        let at = first;
                        self.at += 1;
                        let number = self.int(at, &format!("-{text}"));
                        return self.members(number);
                    }
                    Token::Float(float) => {
                        self.at += 1;
                        let number = self.node(first, Expr::Literal(Lit::Double(-float)));
                        return self.members(number);
                    }
                    _ => {}
                }
            }
            let operand = self.member();
            return if count % 2 == 0 { operand } else { self.call(first, function, vec![operand]) };
        }
        self.member()
    }

    fn int(&mut self, at: usize, text: &str) -> Id {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", text),
        };
        let parsed = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16),
            None => format!("{sign}{digits}").parse(),
        };
        match parsed {
            Ok(number) => self.node(at, Expr::Literal(Lit::Int(number))),
            Err(_) => {
                self.issue(at, "invalid int literal".to_owned());
                self.node(at, Expr::Literal(Lit::Null))
            }
        }
    }

    fn member(&mut self) -> Id {
        let primary = self.primary();
        self.members(primary)
    }

    fn members(&mut self, mut operand: Id) -> Id {
        loop {
            if self.is_lost {
                return operand;
            }
            if let Some(at) = self.take(".") {
                let is_optional = self.take("?").is_some();
                let field = match self.peek().token.clone() {
                    Token::Ident(name) => name,
                    Token::EscapedIdent(name) => name,
                    _ => {
                        let found = self.peek().clone();
                        let shown = if found.token == Token::End { String::new() } else { found.text.clone() };
                        self.issue(found.at, format!("Syntax error: no viable alternative at input '.{shown}'"));
                        if found.token == Token::End {
                            self.is_lost = true;
                        }
                        return operand;
                    }
                };
                self.at += 1;
                if !is_optional && self.is("(") {
                    let open = self.peek().at;
                    self.at += 1;
                    let args = self.arguments(")");
                    operand = self.member_call(open, operand, &field, args);
                } else if is_optional {
                    let name = self.node(at, Expr::Literal(Lit::Text(field)));
                    operand = self.call(at, "_?._", vec![operand, name]);
                } else {
                    operand = self.node(at, Expr::Select { operand, field, is_test: false });
                }
            } else if let Some(at) = self.take("[") {
                let function = if self.take("?").is_some() { "_[?_]" } else { "_[_]" };
                let index = self.expression();
                self.expect("]");
                operand = self.call(at, function, vec![operand, index]);
            } else {
                return operand;
            }
        }
    }

    fn arguments(&mut self, close: &'static str) -> Vec<Id> {
        let mut args = Vec::new();
        while !self.is(close) && !self.is_lost {
            args.push(self.expression());
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect(close);
        args
    }

    fn primary(&mut self) -> Id {
        let found = self.peek().clone();
        let at = found.at;
        let literal = match found.token {
            Token::Sign("true") => Lit::Bool(true),
            Token::Sign("false") => Lit::Bool(false),
            Token::Sign("null") => Lit::Null,
            Token::Float(float) => Lit::Double(float),
            Token::Text(text) => Lit::Text(text),
            Token::Bytes(bytes) => Lit::Bytes(bytes),
            Token::Int(text) => {
                self.at += 1;
                return self.int(at, &text);
            }
            Token::Uint(text) => {
                self.at += 1;
                let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => text.parse(),
                };
                return match parsed {
                    Ok(number) => self.node(at, Expr::Literal(Lit::Uint(number))),
                    Err(_) => {
                        self.issue(at, "invalid uint literal".to_owned());
                        self.node(at, Expr::Literal(Lit::Null))
                    }
                };
            }
            Token::Ident(_) | Token::Sign(".") => return self.identifier(),
            Token::Sign("(") => {
                self.at += 1;
                let inner = self.expression();
                self.expect(")");
                return inner;
            }
            Token::Sign("[") => {
                self.at += 1;
                let items = self.arguments("]");
                return self.node(at, Expr::List(items));
            }
            Token::Sign("{") => {
                self.at += 1;
                return self.map(at);
            }
            _ => {
                let next = self.tokens.get(self.at + 1).map(|next| next.token.clone());
                let starts = match &next {
                    Some(Token::Sign(sign)) => {
                        matches!(*sign, "[" | "{" | "(" | "." | "-" | "!" | "true" | "false" | "null")
                    }
                    Some(Token::End | Token::EscapedIdent(_)) | None => false,
                    Some(_) => true,
                };
                if starts && found.token != Token::End {
                    // ANTLR deletes one token when what follows fits.
                    self.issue(at, format!("Syntax error: extraneous input '{}' expecting {PRIMARY}", found.text));
                    self.at += 1;
                    return self.unary();
                }
                return self.lose(at, format!("Syntax error: mismatched input '{}' expecting {PRIMARY}", found.text));
            }
        };
        self.at += 1;
        self.node(at, Expr::Literal(literal))
    }

    fn map(&mut self, at: usize) -> Id {
        let mut entries = Vec::new();
        while !self.is("}") && !self.is_lost {
            let key = self.expression();
            self.expect(":");
            let value = self.expression();
            entries.push((key, value));
            if self.take(",").is_none() {
                break;
            }
        }
        self.expect("}");
        self.node(at, Expr::Map(entries))
    }

    fn identifier(&mut self) -> Id {
        self.take(".");
        let found = self.peek().clone();
        let Token::Ident(name) = found.token else {
            return self.lose(found.at, format!("Syntax error: no viable alternative at input '.{}'", found.text));
        };
        self.at += 1;
        if is_reserved(&name) {
            self.issue(found.at, format!("reserved identifier: {name}"));
        }
        if !self.is("(") {
            return self.node(found.at, Expr::Ident(name));
        }
        let open = self.peek().at;
        self.at += 1;
        let args = self.arguments(")");
        if self.is_lost {
            return self.node(open, Expr::Literal(Lit::Null));
        }
        if name == "has" && args.len() == 1 {
            if let Expr::Select { operand, field, .. } = self.ast.nodes[args[0]].clone() {
                return self.node(open, Expr::Select { operand, field, is_test: true });
            }
            let at = self.ast.places[args[0]];
            self.issue(at, "invalid argument to has() macro".to_owned());
        }
        self.node(open, Expr::Call { function: "", name, target: None, args })
    }

    fn member_call(&mut self, at: usize, target: Id, name: &str, args: Vec<Id>) -> Id {
        if !self.is_lost
            && let Some(id) = self.macro_call(at, target, name, &args)
        {
            return id;
        }
        self.node(at, Expr::Call { function: "", name: name.to_owned(), target: Some(target), args })
    }

    /// The name of a macro's variable.
    fn variable(&mut self, id: Id, wrong: &str) -> String {
        match &self.ast.nodes[id] {
            Expr::Ident(name) => name.clone(),
            _ => {
                let at = self.ast.places[id];
                self.issue(at, wrong.to_owned());
                "@bad".to_owned()
            }
        }
    }

    fn macro_call(&mut self, at: usize, target: Id, name: &str, args: &[Id]) -> Option<Id> {
        if name == "sortBy" && args.len() == 2 {
            return Some(self.sort_by(at, target, args));
        }
        if matches!(name, "optMap" | "optFlatMap") && args.len() == 2 {
            let var = self.variable(args[0], &format!("{name}() variable name must be a simple identifier"));
            let method = |parser: &mut Self, name: &str| {
                parser.node(
                    at,
                    Expr::Call { function: "", name: name.to_owned(), target: Some(target), args: Vec::new() },
                )
            };
            let has_value = method(self, "hasValue");
            let value = method(self, "value");
            let bound = self.bound(at, var, value, args[1]);
            let space = |parser: &mut Self, name: &str, args: Vec<Id>| {
                parser.node(at, Expr::Call { function: "", name: format!("optional.{name}"), target: None, args })
            };
            let then = if name == "optMap" { space(self, "of", vec![bound]) } else { bound };
            let none = space(self, "none", Vec::new());
            return Some(self.call(at, "_?_:_", vec![has_value, then, none]));
        }
        let (one, two) = match (name, args.len()) {
            ("all" | "exists" | "exists_one" | "existsOne" | "filter", 2) | ("map", 2 | 3) => (true, false),
            ("all" | "exists" | "exists_one" | "existsOne" | "transformList" | "transformMap", 3)
            | ("transformMapEntry", 3)
            | ("transformList" | "transformMap" | "transformMapEntry", 4) => (false, true),
            _ => (false, false),
        };
        if !one && !two {
            return None;
        }
        // Upstream has two ways to say it.
        let wrong = if matches!(name, "map" | "filter") { NOT_AN_IDENTIFIER } else { NOT_A_NAME };
        let var = self.variable(args[0], wrong);
        let var2 = two.then(|| self.variable(args[1], wrong));
        let body = &args[if two { 2 } else { 1 }..];
        let accu = |parser: &mut Self| parser.node(at, Expr::Ident(ACCUMULATOR.to_owned()));
        let literal = |parser: &mut Self, lit: Lit| parser.node(at, Expr::Literal(lit));
        let (init, condition, step, result);
        match name {
            "all" => {
                init = literal(self, Lit::Bool(true));
                let held = accu(self);
                condition = self.call(at, "@not_strictly_false", vec![held]);
                let held = accu(self);
                step = self.call(at, "_&&_", vec![held, body[0]]);
                result = accu(self);
            }
            "exists" => {
                init = literal(self, Lit::Bool(false));
                let held = accu(self);
                let not = self.call(at, "!_", vec![held]);
                condition = self.call(at, "@not_strictly_false", vec![not]);
                let held = accu(self);
                step = self.call(at, "_||_", vec![held, body[0]]);
                result = accu(self);
            }
            "exists_one" | "existsOne" => {
                init = literal(self, Lit::Int(0));
                condition = literal(self, Lit::Bool(true));
                let (held, one) = (accu(self), literal(self, Lit::Int(1)));
                let more = self.call(at, "_+_", vec![held, one]);
                let held = accu(self);
                step = self.call(at, "_?_:_", vec![body[0], more, held]);
                let (held, one) = (accu(self), literal(self, Lit::Int(1)));
                result = self.call(at, "_==_", vec![held, one]);
            }
            "transformMapEntry" => {
                init = self.node(at, Expr::Map(Vec::new()));
                condition = literal(self, Lit::Bool(true));
                let (filter, entry) = if body.len() == 2 { (Some(body[0]), body[1]) } else { (None, body[0]) };
                let held = accu(self);
                let insert = self.call(at, "cel.@mapInsert", vec![held, entry]);
                step = self.filtered(at, filter, insert);
                result = accu(self);
            }
            "transformMap" => {
                init = self.node(at, Expr::Map(Vec::new()));
                condition = literal(self, Lit::Bool(true));
                let (filter, value) = if body.len() == 2 { (Some(body[0]), body[1]) } else { (None, body[0]) };
                let (held, key) = (accu(self), self.node(at, Expr::Ident(var.clone())));
                let insert = self.call(at, "cel.@mapInsert", vec![held, key, value]);
                step = self.filtered(at, filter, insert);
                result = accu(self);
            }
            _ => {
                init = self.node(at, Expr::List(Vec::new()));
                condition = literal(self, Lit::Bool(true));
                let (filter, value) = match (name, body) {
                    ("filter", [predicate]) => (Some(*predicate), self.node(at, Expr::Ident(var.clone()))),
                    (_, [predicate, value]) => (Some(*predicate), *value),
                    (_, body) => (None, body[0]),
                };
                let (held, item) = (accu(self), self.node(at, Expr::List(vec![value])));
                let append = self.call(at, "_+_", vec![held, item]);
                step = self.filtered(at, filter, append);
                result = accu(self);
            }
        }
        let fold = Fold { range: target, var, var2, accu: ACCUMULATOR.to_owned(), init, condition, step, result };
        Some(self.node(at, Expr::Fold(Box::new(fold))))
    }

    /// `list.sortBy(x, key)`: the list, bound to a name, in the order of its keys.
    fn sort_by(&mut self, at: usize, target: Id, args: &[Id]) -> Id {
        if matches!(self.ast.nodes[target], Expr::Literal(_) | Expr::Map(_)) {
            let place = self.ast.places[target];
            let text = "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            self.issue(place, text.to_owned());
            return target;
        }
        let input = |parser: &mut Self| parser.node(at, Expr::Ident(SORTED.to_owned()));
        let (list, mapped) = (input(self), input(self));
        let keys = self.macro_call(at, mapped, "map", args).expect("`map` of two arguments is a macro");
        let sort =
            Expr::Call { function: "", name: "@sortByAssociatedKeys".to_owned(), target: Some(list), args: vec![keys] };
        let sort = self.node(at, sort);
        self.bound(at, SORTED.to_owned(), target, sort)
    }

    /// An expression in which a name is bound to a value: a loop over nothing, whose accumulator has the name.
    fn bound(&mut self, at: usize, name: String, value: Id, result: Id) -> Id {
        let range = self.node(at, Expr::List(Vec::new()));
        let condition = self.node(at, Expr::Literal(Lit::Bool(false)));
        let step = self.node(at, Expr::Ident(name.clone()));
        let (var, init) = ("#unused".to_owned(), value);
        let fold = Fold { range, var, var2: None, accu: name, init, condition, step, result };
        self.node(at, Expr::Fold(Box::new(fold)))
    }

    fn filtered(&mut self, at: usize, filter: Option<Id>, step: Id) -> Id {
        let Some(filter) = filter else { return step };
        let held = self.node(at, Expr::Ident(ACCUMULATOR.to_owned()));
        self.call(at, "_?_:_", vec![filter, step, held])
    }
}
