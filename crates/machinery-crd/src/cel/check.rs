//! The type checker: what an expression's parts are, and the words of cel-go where they do not fit.

use std::{collections::HashMap, sync::Arc};

use super::{
    ast::{Ast, Expr, Fold, Id, Issue},
    functions::{FUNCTIONS, Overload},
    types::{Decl, DeclKind, Type, escape, is_reserved, type_of},
    value::Lit,
};

/// What the checker has found out.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub ast: Ast,
    pub types: Vec<Type>,
    /// The ways in which each call may be meant.
    pub overloads: HashMap<Id, Vec<&'static str>>,
    pub uses_old_self: bool,
}

/// Checks an expression over `self` and `oldSelf`.
pub(super) fn check(ast: Ast, decl: &Arc<Decl>, is_old_optional: bool) -> Result<Checked, Vec<Issue>> {
    let own = type_of(decl);
    let old = if is_old_optional { Type::Optional(Box::new(own.clone())) } else { own.clone() };
    check_in(ast, vec![("self".to_owned(), own), ("oldSelf".to_owned(), old)])
}

/// Checks an expression over values with these names and types.
pub(super) fn check_in(ast: Ast, scopes: Vec<(String, Type)>) -> Result<Checked, Vec<Issue>> {
    let count = ast.nodes.len();
    let mut checker = Checker {
        ast,
        types: vec![Type::Error; count],
        overloads: HashMap::new(),
        scopes,
        issues: Vec::new(),
        mixed: Vec::new(),
        takes_mixed: false,
        bindings: Vec::new(),
        uses_old_self: false,
    };
    let root = checker.ast.root;
    checker.visit(root);
    for issues in [checker.issues.split_off(0), checker.mixed.split_off(0)] {
        if !issues.is_empty() {
            return Err(issues);
        }
    }
    let types = (0..count).map(|id| checker.resolve(&checker.types[id].clone())).collect();
    Ok(Checked { ast: checker.ast, types, overloads: checker.overloads, uses_old_self: checker.uses_old_self })
}

struct Checker {
    ast: Ast,
    types: Vec<Type>,
    overloads: HashMap<Id, Vec<&'static str>>,
    scopes: Vec<(String, Type)>,
    issues: Vec<Issue>,
    /// Members of lists that are not like the others, which Kubernetes refuses once everything else is right.
    mixed: Vec<Issue>,
    /// Within the arguments of `format`, which may be of any types.
    takes_mixed: bool,
    /// What type parameters stand for, as far as it is known.
    bindings: Vec<Option<Type>>,
    uses_old_self: bool,
}

impl Checker {
    fn issue(&mut self, id: Id, text: String) -> Type {
        let at = self.ast.places[id];
        self.issues.push(Issue { at, text });
        Type::Error
    }

    fn fresh(&mut self) -> Type {
        self.bindings.push(None);
        // Parameters of signatures are 0 and 1; those of the checker come after.
        Type::Param(self.bindings.len() + 1)
    }

    fn bound(&self, number: usize) -> Option<&Type> {
        number.checked_sub(2).and_then(|number| self.bindings.get(number)).and_then(Option::as_ref)
    }

    /// A type with everything filled in that is known; the rest is dynamic.
    fn resolve(&self, of: &Type) -> Type {
        self.substitute(of, true)
    }

    fn substitute(&self, of: &Type, to_dyn: bool) -> Type {
        let inner = |of: &Type| Box::new(self.substitute(of, to_dyn));
        match of {
            Type::Param(number) => match self.bound(*number) {
                Some(bound) => self.substitute(&bound.clone(), to_dyn),
                None if to_dyn => Type::Dyn,
                None => of.clone(),
            },
            Type::List(item) => Type::List(inner(item)),
            Type::Map(key, value) => Type::Map(inner(key), inner(value)),
            Type::Optional(value) => Type::Optional(inner(value)),
            other => other.clone(),
        }
    }

    fn visit(&mut self, id: Id) -> Type {
        let of = match self.ast.nodes[id].clone() {
            Expr::Literal(lit) => literal(&lit),
            Expr::Ident(name) => self.ident(id, &name),
            Expr::Select { operand, field, is_test } => self.select(id, operand, &field, is_test),
            Expr::Call { function, name, target, args } => {
                let name = if function.is_empty() { name.as_str() } else { function };
                self.call(id, name, target, &args)
            }
            Expr::List(items) => {
                let item = self.joined(&items);
                Type::List(Box::new(item))
            }
            Expr::Map(entries) => {
                let (keys, values): (Vec<Id>, Vec<Id>) = entries.into_iter().unzip();
                let (key, value) = (self.joined(&keys), self.joined(&values));
                Type::Map(Box::new(key), Box::new(value))
            }
            Expr::Fold(fold) => self.fold(&fold),
        };
        self.types[id] = of.clone();
        of
    }

    /// The one type of items; Kubernetes refuses others.
    fn joined(&mut self, items: &[Id]) -> Type {
        let mut joined: Option<Type> = None;
        for item in items {
            let of = self.visit(*item);
            match joined.clone() {
                None => joined = Some(of),
                Some(first) => {
                    if !self.assign(&first, &of) {
                        if !self.takes_mixed {
                            let (first, of) = (self.resolve(&first), self.resolve(&of));
                            let text = format!("expected type '{first}' but found '{of}'");
                            self.mixed.push(Issue { at: self.ast.places[*item], text });
                        }
                        joined = Some(Type::Dyn);
                    }
                }
            }
        }
        joined.unwrap_or_else(|| self.fresh())
    }

    fn ident(&mut self, id: Id, name: &str) -> Type {
        if let Some((_, of)) = self.scopes.iter().rev().find(|(held, _)| held == name) {
            let of = of.clone();
            self.uses_old_self |= name == "oldSelf";
            return of;
        }
        if matches!(
            name,
            "int" | "uint" | "double" | "bool" | "string" | "bytes" | "list" | "map" | "null_type" | "type"
        ) {
            return Type::Type;
        }
        self.issue(id, format!("undeclared reference to '{name}' (in container '')"))
    }

    fn select(&mut self, id: Id, operand: Id, field: &str, is_test: bool) -> Type {
        let of = self.visit(operand);
        let of = self.substitute(&of, false);
        let (inner, is_optional) = match &of {
            Type::Optional(inner) => ((**inner).clone(), true),
            other => (other.clone(), false),
        };
        let found = self.field(id, &inner, field);
        match found {
            Type::Error => Type::Error,
            _ if is_test => Type::Bool,
            found if is_optional => Type::Optional(Box::new(found)),
            found => found,
        }
    }

    fn field(&mut self, id: Id, of: &Type, field: &str) -> Type {
        match of {
            Type::Error => Type::Error,
            Type::Dyn => Type::Dyn,
            Type::Param(_) => Type::Dyn,
            Type::Map(_, value) => (**value).clone(),
            Type::Object(object) => {
                let DeclKind::Object(fields) = &object.0.kind else { return Type::Dyn };
                // A reserved word may be selected as it is, where the grammar takes it for a name.
                let escaped = || fields.get(escape(field).filter(|_| is_reserved(field))?.as_str());
                match fields.get(field).or_else(escaped) {
                    Some(decl) => type_of(decl),
                    None => self.issue(id, format!("undefined field '{field}'")),
                }
            }
            other => {
                let other = self.resolve(other);
                self.issue(id, format!("type '{other}' does not support field selection"))
            }
        }
    }

    fn call(&mut self, id: Id, name: &str, target: Option<Id>, args: &[Id]) -> Type {
        if name == "_?._" {
            return self.optional_select(id, args[0], args[1]);
        }
        // A name with a dot may be a function of a library.
        if let Some(target) = target
            && let Some(space) = self.space(target)
            && let Some((full, overloads)) = FUNCTIONS.get_key_value(format!("{space}.{name}").as_str())
        {
            let place = Expr::Call { function: full, name: (*full).to_owned(), target: None, args: args.to_vec() };
            self.ast.nodes[id] = place;
            self.types[target] = Type::Dyn;
            let types: Vec<Type> = args.iter().map(|arg| self.visit(*arg)).collect();
            return self.overload(id, full, overloads, &types, false);
        }
        let mut types = Vec::with_capacity(args.len() + 1);
        let known = FUNCTIONS.get(name);
        if let Some(target) = target {
            types.push(self.visit(target));
        }
        let outer = std::mem::replace(&mut self.takes_mixed, name == "format");
        let argument_types: Vec<Type> = args.iter().map(|arg| self.visit(*arg)).collect();
        self.takes_mixed = outer;
        types.extend(argument_types);
        let Some(overloads) = known else {
            return self.issue(id, format!("undeclared reference to '{name}' (in container '')"));
        };
        let of = self.overload(id, name, overloads, &types, target.is_some());
        self.literal_arguments(name, target, args);
        of
    }

    /// The dotted name of nodes that are names alone and no variables.
    fn space(&self, id: Id) -> Option<String> {
        match &self.ast.nodes[id] {
            Expr::Ident(name) if !self.scopes.iter().any(|(held, _)| held == name) => Some(name.clone()),
            Expr::Select { operand, field, is_test: false } => Some(format!("{}.{field}", self.space(*operand)?)),
            _ => None,
        }
    }

    fn optional_select(&mut self, id: Id, operand: Id, name: Id) -> Type {
        let of = self.visit(operand);
        let of = self.substitute(&of, false);
        self.types[name] = Type::Text;
        let Expr::Literal(Lit::Text(field)) = self.ast.nodes[name].clone() else { return Type::Error };
        let inner = match &of {
            Type::Optional(inner) => (**inner).clone(),
            other => other.clone(),
        };
        self.overloads.insert(id, vec!["select_optional_field"]);
        match self.field(id, &inner, &field) {
            Type::Error => Type::Error,
            found => Type::Optional(Box::new(found)),
        }
    }

    fn overload(&mut self, id: Id, name: &str, overloads: &[Overload], types: &[Type], is_member: bool) -> Type {
        if types.contains(&Type::Error) {
            return Type::Error;
        }
        let mut result: Option<Type> = None;
        let mut ids = Vec::new();
        for overload in overloads.iter().filter(|overload| overload.is_member == is_member) {
            if overload.params.len() != types.len() {
                continue;
            }
            let (first, second) = (self.fresh(), self.fresh());
            let own = |of: &Type| instantiate(of, &first, &second);
            let before = self.bindings.clone();
            let fits = overload.params.iter().zip(types).all(|(param, of)| self.assign(&own(param), of));
            if !fits {
                self.bindings = before;
                continue;
            }
            ids.push(overload.id);
            let found = own(&overload.result);
            result = Some(match result {
                None => found,
                Some(held) if self.resolve(&held) == self.resolve(&found) => held,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> = types.iter().map(|of| self.resolve(of).to_string()).collect();
            let shown = match (is_member, shown.split_first()) {
                (true, Some((receiver, args))) => format!("{receiver}.({})", args.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            return self.issue(id, format!("found no matching overload for '{name}' applied to '{shown}'"));
        };
        self.overloads.insert(id, ids);
        self.substitute(&result, false)
    }

    /// Literals that would fail whenever they are used.
    fn literal_arguments(&mut self, name: &str, target: Option<Id>, args: &[Id]) {
        let last = args.last().copied().filter(|_| args.len() + usize::from(target.is_some()) <= 2);
        let Some(last) = last else { return };
        let Expr::Literal(Lit::Text(text)) = self.ast.nodes[last].clone() else { return };
        let is_bad = match name {
            "matches" => crate::go_regex::weigh(&text).is_err(),
            "duration" => api_kube::go_duration::parse(&text).is_err(),
            "timestamp" => text.parse::<jiff::Timestamp>().is_err(),
            _ => false,
        };
        if is_bad {
            self.issue(last, format!("invalid {name} argument"));
        }
    }

    fn fold(&mut self, fold: &Fold) -> Type {
        let range = self.visit(fold.range);
        let range = self.substitute(&range, false);
        let accu = self.visit(fold.init);
        let (first, second) = match &range {
            Type::List(item) => (Type::Int, (**item).clone()),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn | Type::Error | Type::Param(_) => (Type::Dyn, Type::Dyn),
            other => {
                let other = self.resolve(other);
                let text = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.issue(fold.range, text);
                (Type::Error, Type::Error)
            }
        };
        let held = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        match &fold.var2 {
            Some(var2) => {
                self.scopes.push((fold.var.clone(), first));
                self.scopes.push((var2.clone(), second));
            }
            None => {
                let of = if matches!(range, Type::List(_)) { second } else { first };
                self.scopes.push((fold.var.clone(), of));
            }
        }
        self.visit(fold.condition);
        let step = self.visit(fold.step);
        if step != Type::Error && !self.assign(&accu, &step) {
            let (accu, step) = (self.resolve(&accu), self.resolve(&step));
            self.issue(fold.step, format!("expected type '{accu}' but found '{step}'"));
        }
        self.scopes.truncate(held + 1);
        let result = self.visit(fold.result);
        self.scopes.truncate(held);
        self.substitute(&result, false)
    }

    /// Whether a value of `found` may be where `expected` is; binds parameters.
    fn assign(&mut self, expected: &Type, found: &Type) -> bool {
        let (expected, found) = (self.substitute(expected, false), self.substitute(found, false));
        match (&expected, &found) {
            (Type::Param(a), Type::Param(b)) if a == b => true,
            (Type::Param(number), other) | (other, Type::Param(number)) => {
                let slot = number.saturating_sub(2);
                if occurs(*number, other) {
                    return false;
                }
                self.bindings[slot] = Some(other.clone());
                true
            }
            (Type::Dyn | Type::Error, _) | (_, Type::Dyn | Type::Error) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assign(a, b),
            (Type::Map(a, b), Type::Map(c, d)) => self.assign(a, c) && self.assign(b, d),
            // What has no value may be null.
            (Type::Null, Type::Object(_) | Type::Duration | Type::Timestamp | Type::Named(_))
            | (Type::Object(_) | Type::Duration | Type::Timestamp | Type::Named(_), Type::Null) => true,
            (a, b) => a == b,
        }
    }
}

fn occurs(number: usize, of: &Type) -> bool {
    match of {
        Type::Param(other) => *other == number,
        Type::List(inner) | Type::Optional(inner) => occurs(number, inner),
        Type::Map(key, value) => occurs(number, key) || occurs(number, value),
        _ => false,
    }
}

fn instantiate(of: &Type, first: &Type, second: &Type) -> Type {
    let inner = |of: &Type| Box::new(instantiate(of, first, second));
    match of {
        Type::Param(0) => first.clone(),
        Type::Param(1) => second.clone(),
        Type::List(item) => Type::List(inner(item)),
        Type::Map(key, value) => Type::Map(inner(key), inner(value)),
        Type::Optional(value) => Type::Optional(inner(value)),
        other => other.clone(),
    }
}

fn literal(lit: &Lit) -> Type {
    match lit {
        Lit::Null => Type::Null,
        Lit::Bool(_) => Type::Bool,
        Lit::Int(_) => Type::Int,
        Lit::Uint(_) => Type::Uint,
        Lit::Double(_) => Type::Double,
        Lit::Text(_) => Type::Text,
        Lit::Bytes(_) => Type::Bytes,
    }
}
