//! What a rule can cost at most, from the sizes that its schema allows: the estimate of cel-go with Kubernetes' libraries.

use std::{collections::HashMap, ops::Add, sync::Arc};

use super::{
    ast::{Expr, Fold, Id},
    check::Checked,
    parse::ACCUMULATOR,
    types::{Decl, DeclKind, Type},
    value::Lit,
};

/// From the least to the most; of costs and of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub min: u64,
    pub max: u64,
}

const STRING_FACTOR: f64 = 0.1;
const REGEX_FACTOR: f64 = 0.25;
const UNKNOWN: Range = Range { min: 0, max: u64::MAX };
/// The longest pattern among the formats.
const FORMAT_REGEX: Range = Range { min: 0, max: 128 };

impl Range {
    const fn exactly(count: u64) -> Self {
        Self { min: count, max: count }
    }

    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn scale(self, factor: f64) -> Self {
        Self { min: scale(self.min, factor), max: scale(self.max, factor) }
    }

    fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

impl Add for Range {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as upstream")]
fn scale(count: u64, factor: f64) -> u64 {
    // The conversion saturates.
    (count as f64 * factor).ceil() as u64
}

/// The cost of an expression whose `self` is declared so.
pub(super) fn estimate(checked: &Checked, decl: &Arc<Decl>) -> Range {
    let mut coster = Coster { checked, root: decl, paths: HashMap::new(), sizes: HashMap::new(), locals: Vec::new() };
    coster.cost(checked.ast.root)
}

/// The way from `self` to a value.
type Path = Vec<String>;

struct Local {
    name: String,
    path: Option<Path>,
    size: Option<Range>,
}

struct Coster<'c> {
    checked: &'c Checked,
    root: &'c Arc<Decl>,
    paths: HashMap<Id, Path>,
    sizes: HashMap<Id, Range>,
    locals: Vec<Local>,
}

impl Coster<'_> {
    fn cost(&mut self, id: Id) -> Range {
        let checked = self.checked;
        match checked.ast.node(id) {
            Expr::Literal(_) => Range::exactly(0),
            Expr::Ident(name) => {
                match self.locals.iter().rev().find(|local| local.name == *name) {
                    Some(local) => {
                        let (path, size) = (local.path.clone(), local.size);
                        self.note(id, path, size);
                    }
                    None => self.note(id, Some(vec![name.clone()]), None),
                }
                Range::exactly(1)
            }
            Expr::Select { operand, field, is_test } => {
                let mut sum = self.cost(*operand);
                if !is_test && matches!(self.checked.types[*operand], Type::Map(..) | Type::Object(_)) {
                    sum = sum + Range::exactly(1);
                }
                self.extend_path(*operand, id, field);
                sum
            }
            Expr::Call { function, name, target, args } => {
                let name = if function.is_empty() { name.as_str() } else { function };
                self.call(id, name, *target, args)
            }
            Expr::List(items) => items.iter().fold(Range::exactly(10), |sum, item| sum + self.cost(*item)),
            Expr::Map(entries) => {
                let parts = entries.iter().flat_map(|(key, value)| [*key, *value]);
                parts.fold(Range::exactly(30), |sum, part| sum + self.cost(part))
            }
            Expr::Fold(fold) => self.fold(id, fold),
        }
    }

    fn note(&mut self, id: Id, path: Option<Path>, size: Option<Range>) {
        if let Some(path) = path {
            self.paths.insert(id, path);
        }
        if let Some(size) = size {
            self.sizes.insert(id, size);
        }
    }

    fn extend_path(&mut self, from: Id, to: Id, step: &str) {
        if let Some(path) = self.paths.get(&from) {
            let mut path = path.clone();
            path.push(step.to_owned());
            self.paths.insert(to, path);
        }
    }

    fn fold(&mut self, id: Id, fold: &Fold) -> Range {
        let mut sum = self.cost(fold.range) + self.cost(fold.init);
        let range_size = self.size(fold.range);
        let held = self.locals.len();
        let accu = Local {
            name: fold.accu.clone(),
            path: self.paths.get(&fold.init).cloned(),
            size: self.known_size(fold.init),
        };
        self.locals.push(accu);
        // A name for a value is a loop over nothing.
        let is_bind = matches!(self.checked.ast.node(fold.range), Expr::List(items) if items.is_empty())
            && fold.accu != ACCUMULATOR;
        if is_bind {
            sum = sum + self.cost(fold.result);
            if let Some(size) = self.known_size(fold.result) {
                self.sizes.insert(id, size);
            }
            self.locals.truncate(held);
            return sum;
        }
        let is_list = !matches!(self.checked.types[fold.range], Type::Map(..));
        let steps = match (&fold.var2, is_list) {
            (None, true) => [Some("@items"), None],
            (None, false) => [Some("@keys"), None],
            (Some(_), true) => [Some("@indices"), Some("@items")],
            (Some(_), false) => [Some("@keys"), Some("@values")],
        };
        let names = [Some(&fold.var), fold.var2.as_ref()];
        for (name, step) in names.into_iter().zip(steps) {
            let (Some(name), Some(step)) = (name, step) else { continue };
            let path = self.paths.get(&fold.range).map(|path| [&path[..], &[step.to_owned()]].concat());
            self.locals.push(Local { name: name.clone(), path, size: None });
        }
        let each = self.cost(fold.condition) + self.cost(fold.step);
        self.locals.truncate(held + 1);
        sum = sum + self.cost(fold.result);
        self.locals.truncate(held);
        let size = match self.checked.ast.node(fold.init) {
            Expr::Literal(_) => self.known_size(fold.init),
            Expr::List(_) | Expr::Map(_) => Some(range_size),
            _ => None,
        };
        if let Some(size) = size {
            self.sizes.insert(id, size);
        }
        sum + range_size.times(each)
    }

    /// The size of a node; of one that is not known, anything.
    fn size(&self, id: Id) -> Range {
        self.known_size(id).unwrap_or_else(|| self.size_of_type(id))
    }

    fn size_of_type(&self, id: Id) -> Range {
        match self.checked.types[id] {
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Duration | Type::Timestamp | Type::Null => {
                Range::exactly(1)
            }
            _ => UNKNOWN,
        }
    }

    fn known_size(&self, id: Id) -> Option<Range> {
        if let Some(size) = self.sizes.get(&id) {
            return Some(*size);
        }
        let count = match self.checked.ast.node(id) {
            Expr::Literal(Lit::Text(text)) => Some(text.chars().count()),
            Expr::Literal(Lit::Bytes(bytes)) => Some(bytes.len()),
            Expr::Literal(_) => Some(1),
            Expr::List(items) => Some(items.len()),
            Expr::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(count) = count {
            return Some(Range::exactly(count as u64));
        }
        self.declared_size(self.paths.get(&id)?)
    }

    fn declared_size(&self, path: &[String]) -> Option<Range> {
        let mut decl = self.root;
        for step in path.get(1..)? {
            decl = match (&decl.kind, step.as_str()) {
                (DeclKind::List(inner), "@items" | "@values") | (DeclKind::Map(inner), "@items" | "@values") => inner,
                // A key's length is not declared.
                (DeclKind::Map(_), "@keys") => return Some(Range::exactly(0)),
                (DeclKind::Object(fields), name) => fields.get(name)?,
                _ => return None,
            };
        }
        Some(Range { min: 0, max: decl.elements_max })
    }

    /// The size of an item of a list, and whether it is text.
    fn item(&self, list: Id) -> Option<(Range, bool)> {
        let Type::List(item) = &self.checked.types[list] else { return None };
        let declared = self.paths.get(&list).and_then(|path| {
            let path = [&path[..], &["@items".to_owned()]].concat();
            self.declared_size(&path)
        });
        Some((declared.unwrap_or(UNKNOWN), matches!(**item, Type::Text | Type::Bytes)))
    }

    fn call(&mut self, id: Id, name: &str, target: Option<Id>, args: &[Id]) -> Range {
        let on_target = target.map_or(Range::exactly(0), |target| self.cost(target));
        let costs: Vec<Range> = args.iter().map(|arg| self.cost(*arg)).collect();
        let args_cost = costs.iter().fold(Range::exactly(0), |sum, cost| sum + *cost);
        let checked = self.checked;
        let Some(overloads) = checked.overloads.get(&id) else { return on_target + args_cost };
        let mut cost: Option<Range> = None;
        let mut size: Option<Range> = None;
        for overload in overloads {
            let (found, result) = match *overload {
                "logical_and" | "logical_or" => (Range { min: costs[0].min, max: (costs[0] + costs[1]).max }, None),
                "conditional" => {
                    let result = self.size(args[1]).union(self.size(args[2]));
                    (costs[0] + costs[1].union(costs[2]), Some(result))
                }
                overload => {
                    let (own, result) = self.function(name, overload, target, args);
                    (own + args_cost, result)
                }
            };
            cost = Some(cost.map_or(found, |cost| cost.union(found)));
            if let Some(result) = result {
                size = Some(size.map_or(result, |size| size.union(result)));
            }
            match *overload {
                "index_list" => self.extend_path(args[0], id, "@items"),
                "index_map" => self.extend_path(args[0], id, "@values"),
                _ => {}
            }
        }
        if let Some(size) = size {
            self.sizes.insert(id, size);
        }
        on_target + cost.unwrap_or(Range::exactly(0))
    }

    /// A whole number that is written in the expression.
    fn whole(&self, id: Option<&Id>, otherwise: u64) -> u64 {
        match id.map(|id| self.checked.ast.node(*id)) {
            Some(Expr::Literal(Lit::Int(number))) => u64::try_from(*number).unwrap_or(0),
            _ => otherwise,
        }
    }

    /// The cost of one function without that of its arguments, and the size of its result where that is known.
    #[expect(clippy::cast_precision_loss, reason = "as upstream")]
    fn function(&self, name: &str, overload: &str, target: Option<Id>, args: &[Id]) -> (Range, Option<Range>) {
        let one = Range::exactly(1);
        let all: Vec<Id> = target.into_iter().chain(args.iter().copied()).collect();
        let size = |at: usize| all.get(at).map_or(UNKNOWN, |id| self.size(*id));
        let tenth = |size: Range| size.scale(STRING_FACTOR);
        match (name, overload) {
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", _) => {
                let Some((item, is_text)) = all.first().and_then(|list| self.item(*list)) else {
                    return (tenth(size(0)), None);
                };
                let each = if is_text { one + tenth(item) } else { one };
                (size(0).times(each), None)
            }
            (_, "list_slice") => {
                let end = self.whole(all.get(2), size(0).max);
                made(1.0, Range::exactly(end.wrapping_sub(self.whole(all.get(1), 0))))
            }
            (_, "lists_range") => made(1.0, Range::exactly(self.whole(all.first(), u64::MAX))),
            (_, "list_reverse") => made(1.0, size(0)),
            (_, "list_flatten") => made(1.0, size(0)),
            (_, "list_flatten_int") => made(self.whole(all.get(1), u64::MAX) as f64, size(0)),
            (_, "list_distinct") => made(2.0, size(0).times(size(0))),
            ("sort", overload) => made(compare_factor(overload), size(0).times(size(0))),
            ("@sortByAssociatedKeys", overload) => made(compare_factor(overload), size(1).times(size(1))),
            ("ip", "cidr_ip") => (one, None),
            ("url" | "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver", _) => {
                (tenth(size(0)), None)
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim", _) => (tenth(size(0)), Some(size(0))),
            ("replace", _) => (size(0).scale(2.0 * STRING_FACTOR), Some(replaced(size(0), size(1), size(2)))),
            ("split", _) => {
                let count = all.get(2).and_then(|id| match self.checked.ast.node(*id) {
                    Expr::Literal(Lit::Int(count)) => u64::try_from(*count).ok(),
                    _ => None,
                });
                let result = Range { min: 0, max: count.unwrap_or(size(0).max) };
                (size(0).scale(2.0 * STRING_FACTOR), Some(result))
            }
            ("join", _) => {
                let list = size(0);
                let item = all.first().and_then(|list| self.item(*list)).map_or(UNKNOWN, |(item, _)| item);
                let mut result = list.times(item);
                if all.len() > 1 {
                    let gaps = Range { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
                    result = result + size(1).times(gaps);
                }
                (tenth(result), Some(result))
            }
            ("find" | "findAll" | "matches", _) => (tenth(size(0) + one).times(size(1).scale(REGEX_FACTOR)), None),
            ("ip.isCanonical", _) => (size(0).scale(2.0 * STRING_FACTOR), None),
            ("containsIP" | "containsCIDR", _) => {
                let address = tenth(Range { min: 4, max: 16 }.times(Range::exactly(2)));
                let text = if overload.ends_with("_string") { tenth(size(1)) } else { Range::exactly(0) };
                (address + text, None)
            }
            ("validate", _) => (tenth(size(1)).times(FORMAT_REGEX.scale(REGEX_FACTOR)), None),
            ("sets.contains" | "sets.intersects", _) => (size(0).times(size(1)), None),
            ("sets.equivalent", _) => (size(0).times(size(1)).times(Range::exactly(2)), None),
            (_, "add_string" | "add_bytes") => (tenth(size(0) + size(1)), Some(size(0) + size(1))),
            (_, "add_list") => (one, Some(size(0) + size(1))),
            (_, "equals" | "not_equals") if matches!(self.checked.types[args[0]], Type::Named(_)) => (one, None),
            (_, "less_string" | "less_bytes" | "equals" | "not_equals") => {
                let max = size(0).max.min(size(1).max);
                (tenth(Range { min: u64::from(max > 0), max }), None)
            }
            (_, "in_list") => (size(1), None),
            ("contains", _) => (tenth(size(0)).times(tenth(size(1))), None),
            ("startsWith" | "endsWith", _) => (tenth(size(1)), None),
            (_, "string_to_bytes") => {
                let given = size(0);
                (tenth(given), Some(Range { min: given.min, max: given.max.saturating_mul(4) }))
            }
            (_, "bytes_to_string") => (tenth(size(0)), Some(Range { min: size(0).min / 4, max: size(0).max })),
            (_, "strings_quote" | "string_format") => (tenth(size(0)), None),
            (_, "to_dyn") => (one, all.first().and_then(|id| self.known_size(*id))),
            _ => (one, None),
        }
    }
}

/// A call that makes a list: so much for each item, and for the call and the list.
fn made(factor: f64, items: Range) -> (Range, Option<Range>) {
    (items.scale(factor) + Range::exactly(11), Some(items))
}

/// What it costs to compare two items while a list is sorted.
fn compare_factor(overload: &str) -> f64 {
    let is_text = overload.starts_with("list_string_") || overload.starts_with("list_bytes_");
    if is_text { 2.0 + STRING_FACTOR } else { 2.0 }
}

/// How long text can be after a replacement.
fn replaced(text: Range, sought: Range, by: Range) -> Range {
    let count = |len: u64, part: u64| if len == u64::MAX { len } else { len.div_ceil(part) };
    let (mut times, mut kept) = (Range::exactly(0), Range::exactly(0));
    // An empty text is found around every character.
    if sought.min == 0 {
        times.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if by.max <= sought.min {
        kept.max = text.max;
    } else {
        times.max = count(text.max, sought.min);
    }
    if sought.max == 0 {
        times.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if sought.max <= by.min {
        kept.min = text.min;
    } else {
        times.min = count(text.min, sought.max);
    }
    times.times(by) + kept
}
