//! Runs a checked expression, and counts what it costs as upstream does.

use std::sync::Arc;

use super::{
    ast::{Expr, Fold, Id},
    check::Checked,
    library,
    parse::ACCUMULATOR,
    value::{Fields, List, Lit, Val, concat},
};
use crate::go_regex;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EvalError(pub String);

impl EvalError {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn no_overload() -> Self {
        Self::new("no such overload")
    }

    fn is_cost(&self) -> bool {
        self.0.starts_with("operation cancelled")
    }
}

pub(crate) type Result<'v> = std::result::Result<Val<'v>, EvalError>;

/// A run of one expression.
pub(crate) struct Run<'r, 'v> {
    checked: &'r Checked,
    /// Variables by name; the last one of a name counts.
    scope: Vec<(&'r str, Val<'v>)>,
    pub cost: u64,
    cost_max: u64,
    copied: usize,
}

/// Entries of maps that one run copies.
const COPIED_MAX: usize = 5_000_000;

/// Bytes of a compiled pattern that are made for one unit of cost; so all rules for one object make 640 MB at most, one
/// after the other, in some seconds. Patterns of real rules take some dozens of a million.
const BYTES_PER_COST: u64 = 64;

const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;

impl<'r, 'v> Run<'r, 'v> {
    pub fn new(checked: &'r Checked, own: Val<'v>, old: Option<Val<'v>>, cost_max: u64) -> Self {
        let mut scope = vec![("self", own)];
        scope.extend(old.map(|old| ("oldSelf", old)));
        Self { checked, scope, cost: 0, cost_max, copied: 0 }
    }

    pub fn value(&mut self) -> Result<'v> {
        self.eval(self.checked.ast.root)
    }

    fn spend(&mut self, cost: u64) -> std::result::Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.cost_max {
            return Err(EvalError::new("operation cancelled: actual cost limit exceeded"));
        }
        Ok(())
    }

    /// Pays for a pattern that is not compiled yet. An object may bring thousands of them, each of which takes milliseconds
    /// where upstream's cost counts its characters.
    fn compile(&mut self, pattern: &str) -> std::result::Result<(), EvalError> {
        if go_regex::is_compiled(pattern) {
            return Ok(());
        }
        let bytes = go_regex::weigh(pattern).unwrap_or_default();
        self.spend(u64::from(bytes) / BYTES_PER_COST)
    }

    /// What upstream does in constant time and this program by copying; ends runs that would take seconds.
    fn copy(&mut self, entries: usize) -> std::result::Result<(), EvalError> {
        self.copied = self.copied.saturating_add(entries);
        if self.copied > COPIED_MAX {
            return Err(EvalError::new("operation cancelled: actual cost limit exceeded"));
        }
        Ok(())
    }

    fn eval(&mut self, id: Id) -> Result<'v> {
        let checked = self.checked;
        match checked.ast.node(id) {
            Expr::Literal(lit) => Ok(literal(lit)),
            Expr::Ident(name) => {
                self.spend(1)?;
                let held = self.scope.iter().rev().find(|(held, _)| held == name);
                match held {
                    Some((_, value)) => Ok(value.clone()),
                    None if name == "oldSelf" => Err(EvalError::new("no such attribute(s): oldSelf")),
                    None => Ok(Val::Type(name.as_str().into())),
                }
            }
            Expr::Select { operand, field, is_test } => {
                let value = self.eval(*operand)?;
                self.select(value, field, *is_test)
            }
            Expr::List(items) => {
                let items = items.iter().map(|item| self.eval(*item)).collect::<std::result::Result<Vec<_>, _>>()?;
                self.spend(LIST_COST)?;
                Ok(Val::list(items))
            }
            Expr::Map(entries) => {
                let mut made: Vec<(Val<'v>, Val<'v>)> = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let (key, value) = (self.eval(*key)?, self.eval(*value)?);
                    if made.iter().any(|(held, _)| held.equals(&key)) {
                        return Err(EvalError::new(format!("Failed with repeated key {}", library::shown(&key))));
                    }
                    made.push((key, value));
                }
                self.spend(MAP_COST)?;
                Ok(Val::Map(Fields::Made(Arc::new(made))))
            }
            Expr::Call { function, name, target, args } => {
                let name = if function.is_empty() { name.as_str() } else { function };
                self.call(id, name, *target, args)
            }
            Expr::Fold(fold) => self.fold(fold),
        }
    }

    fn select(&mut self, value: Val<'v>, field: &str, is_test: bool) -> Result<'v> {
        if !is_test {
            self.spend(1)?;
        }
        match value {
            Val::Map(fields) => match (fields.get_text(field), is_test) {
                (found, true) => Ok(Val::Bool(found.is_some())),
                (Some(found), false) => Ok(found),
                (None, false) => Err(EvalError::new(format!("no such key: {field}"))),
            },
            Val::Optional(None) => Ok(if is_test { Val::Bool(false) } else { Val::Optional(None) }),
            Val::Optional(Some(inner)) => match &*inner {
                Val::Map(fields) if is_test => Ok(Val::Bool(fields.get_text(field).is_some())),
                Val::Map(fields) => Ok(Val::Optional(fields.get_text(field).map(Arc::new))),
                _ => Err(EvalError::no_overload()),
            },
            _ => Err(EvalError::no_overload()),
        }
    }

    fn call(&mut self, id: Id, name: &str, target: Option<Id>, args: &[Id]) -> Result<'v> {
        match name {
            "_&&_" | "_||_" => return self.logical(name == "_||_", args),
            "_?_:_" => {
                return match self.eval(args[0])? {
                    Val::Bool(true) => self.eval(args[1]),
                    Val::Bool(false) => self.eval(args[2]),
                    _ => Err(EvalError::no_overload()),
                };
            }
            "@not_strictly_false" => {
                return match self.eval(args[0]) {
                    Ok(Val::Bool(false)) => Ok(Val::Bool(false)),
                    Err(error) if error.is_cost() => Err(error),
                    _ => Ok(Val::Bool(true)),
                };
            }
            "or" | "orValue" if target.is_some() => {
                let first = self.eval(target.unwrap_or_default())?;
                self.spend(1)?;
                return match first {
                    Val::Optional(None) => self.eval(args[0]),
                    Val::Optional(Some(inner)) if name == "orValue" => Ok((*inner).clone()),
                    Val::Optional(Some(inner)) => Ok(Val::Optional(Some(inner))),
                    _ => Err(EvalError::no_overload()),
                };
            }
            "_[_]" | "_[?_]" | "_?._" => {
                let (value, key) = (self.eval(args[0])?, self.eval(args[1])?);
                self.spend(1)?;
                return index(value, &key, name != "_[_]");
            }
            _ => {}
        }
        if let Some(grown) = self.grow(name, args)? {
            return Ok(grown);
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in target.iter().chain(args) {
            values.push(self.eval(*arg)?);
        }
        if let Some(cost) = library::list_cost(name, &values) {
            self.spend(cost)?;
            return library::call(name, &values);
        }
        let overloads = self.checked.overloads.get(&id).map_or(&[][..], Vec::as_slice);
        let result = match (name, values.as_slice()) {
            ("_==_", [a, b]) => Ok(Val::Bool(a.equals(b))),
            ("_!=_", [a, b]) => Ok(Val::Bool(!a.equals(b))),
            ("@in", [item, Val::List(list)]) => Ok(Val::Bool(list.iter().any(|held| held.equals(item)))),
            ("@in", [key, Val::Map(fields)]) => Ok(Val::Bool(fields.get(key).is_some())),
            ("_+_", [Val::List(a), Val::List(b)]) => Ok(concat(a, b)),
            ("cel.@mapInsert", [Val::Map(fields), key, value]) => {
                self.insert(fields, vec![(key.clone(), value.clone())])
            }
            ("cel.@mapInsert", [Val::Map(fields), Val::Map(added)]) => self.insert(fields, added.entries()),
            ("matches" | "find" | "findAll", [Val::Text(_), Val::Text(pattern), ..]) => {
                self.compile(pattern)?;
                library::call(name, &values)
            }
            _ => library::call(name, &values),
        };
        let overload = overloads.first().copied().unwrap_or_default();
        let cost = library::cost(name, overload, &values, result.as_ref().ok());
        self.spend(cost)?;
        result
    }

    /// A map with more entries.
    fn insert(&mut self, fields: &Fields<'v>, added: Vec<(Val<'v>, Val<'v>)>) -> Result<'v> {
        self.copy(fields.len().saturating_add(added.len()))?;
        let mut entries = fields.entries();
        for (key, value) in added {
            if entries.iter().any(|(held, _)| held.equals(&key)) {
                return Err(EvalError::new(format!("insert failed: key {} already exists", library::shown(&key))));
            }
            entries.push((key, value));
        }
        Ok(Val::Map(Fields::Made(Arc::new(entries))))
    }

    /// Appends to an accumulator without copying it: otherwise `map` and `filter` would take quadratic time.
    fn grow(&mut self, name: &str, args: &[Id]) -> std::result::Result<Option<Val<'v>>, EvalError> {
        let (Some(first), "_+_") = (args.first(), name) else { return Ok(None) };
        let checked = self.checked;
        if !matches!(checked.ast.node(*first), Expr::Ident(name) if name == ACCUMULATOR) {
            return Ok(None);
        }
        let Some(at) = self.scope.iter().rposition(|(held, _)| *held == ACCUMULATOR) else { return Ok(None) };
        // That of `exists_one` is a number.
        if !matches!(self.scope[at].1, Val::List(_)) {
            return Ok(None);
        }
        self.spend(1)?;
        let added = self.eval(args[1])?;
        self.spend(1)?;
        let Val::List(added) = added else { return Err(EvalError::no_overload()) };
        match std::mem::replace(&mut self.scope[at].1, Val::Null) {
            Val::List(List::Made(mut items)) => {
                Arc::make_mut(&mut items).extend(added.iter());
                Ok(Some(Val::List(List::Made(items))))
            }
            Val::List(list) => Ok(Some(concat(&list, &added))),
            _ => Err(EvalError::no_overload()),
        }
    }

    /// One side decides even when the other has no value.
    fn logical(&mut self, decisive: bool, args: &[Id]) -> Result<'v> {
        let first = self.eval(args[0]);
        match &first {
            Ok(Val::Bool(flag)) if *flag == decisive => return first,
            Err(error) if error.is_cost() => return first,
            _ => {}
        }
        let second = self.eval(args[1]);
        match (first, second) {
            (_, Ok(Val::Bool(flag))) if flag == decisive => Ok(Val::Bool(decisive)),
            (_, Err(error)) if error.is_cost() => Err(error),
            (Ok(Val::Bool(_)), Ok(Val::Bool(_))) => Ok(Val::Bool(!decisive)),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Err(EvalError::no_overload()),
        }
    }

    fn fold(&mut self, fold: &'r Fold) -> Result<'v> {
        let range = self.eval(fold.range)?;
        let init = self.eval(fold.init)?;
        let base = self.scope.len();
        self.scope.push((&fold.accu, init));
        let items: Vec<(Val<'v>, Option<Val<'v>>)> = match (&range, &fold.var2) {
            (Val::List(list), None) => list.iter().map(|item| (item, None)).collect(),
            (Val::List(list), Some(_)) => {
                (0_i64..).zip(list.iter()).map(|(at, item)| (Val::Int(at), Some(item))).collect()
            }
            (Val::Map(fields), None) => fields.entries().into_iter().map(|(key, _)| (key, None)).collect(),
            (Val::Map(fields), Some(_)) => {
                fields.entries().into_iter().map(|(key, value)| (key, Some(value))).collect()
            }
            _ => {
                self.scope.truncate(base);
                return Err(EvalError::no_overload());
            }
        };
        // The accumulator lives in the scope alone, so that a list can grow in its place.
        let mut failed: Option<EvalError> = None;
        for (first, second) in items {
            self.scope.truncate(base + 1);
            let continues = if failed.is_some() { Val::Bool(true) } else { self.eval(fold.condition)? };
            if matches!(continues, Val::Bool(false)) {
                break;
            }
            self.scope.push((&fold.var, first));
            if let (Some(name), Some(second)) = (&fold.var2, second) {
                self.scope.push((name, second));
            }
            let step = match failed.take() {
                None => self.eval(fold.step),
                Some(error) => self.step_after_error(fold, error),
            };
            match step {
                Ok(value) => self.scope[base].1 = value,
                Err(error) if error.is_cost() => {
                    self.scope.truncate(base);
                    return Err(error);
                }
                Err(error) => failed = Some(error),
            }
        }
        self.scope.truncate(base + 1);
        let result = match failed {
            None => self.eval(fold.result),
            Some(error) => Err(error),
        };
        self.scope.truncate(base);
        result
    }

    /// A later item may decide `all` and `exists` after one has failed.
    fn step_after_error(&mut self, fold: &'r Fold, error: EvalError) -> Result<'v> {
        let Expr::Call { function, args, .. } = self.checked.ast.node(fold.step) else { return Err(error) };
        let decisive = match *function {
            "_&&_" => false,
            "_||_" => true,
            _ => return Err(error),
        };
        match self.eval(args[1]) {
            Ok(Val::Bool(flag)) if flag == decisive => Ok(Val::Bool(decisive)),
            Err(cost) if cost.is_cost() => Err(cost),
            _ => Err(error),
        }
    }
}

fn index<'v>(value: Val<'v>, key: &Val<'v>, is_optional: bool) -> Result<'v> {
    let (value, is_optional) = match value {
        Val::Optional(None) => return Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => ((*inner).clone(), true),
        other => (other, is_optional),
    };
    let found = match (&value, key) {
        (Val::List(list), key) => {
            let at = match key {
                Val::Int(at) => *at,
                Val::Uint(at) => i64::try_from(*at).unwrap_or(i64::MAX),
                Val::Double(at) if at.fract() == 0.0 => *at as i64,
                _ => return Err(EvalError::no_overload()),
            };
            let found = usize::try_from(at).ok().and_then(|at| list.get(at));
            found.ok_or_else(|| EvalError::new(format!("index out of bounds: {at}")))
        }
        (Val::Map(fields), key) => {
            fields.get(key).ok_or_else(|| EvalError::new(format!("no such key: {}", library::shown(key))))
        }
        _ => return Err(EvalError::no_overload()),
    };
    match (found, is_optional) {
        (Ok(found), true) => Ok(Val::some(found)),
        (Err(_), true) => Ok(Val::Optional(None)),
        (found, false) => found,
    }
}

fn literal<'v>(lit: &Lit) -> Val<'v> {
    match lit {
        Lit::Null => Val::Null,
        Lit::Bool(flag) => Val::Bool(*flag),
        Lit::Int(number) => Val::Int(*number),
        Lit::Uint(number) => Val::Uint(*number),
        Lit::Double(number) => Val::Double(*number),
        Lit::Text(text) => Val::text(text),
        Lit::Bytes(bytes) => Val::Bytes(bytes.as_slice().into()),
    }
}

/// A list of an evaluation, for the library.
pub(super) fn items<'v>(list: &List<'v>) -> Vec<Val<'v>> {
    list.iter().collect()
}
