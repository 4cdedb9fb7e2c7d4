//! Aggregates, fed row by row so that a window costs its groups and not its rows.

use crate::datum::Datum;
use crate::eval::{Eval, EvalError, fail, typed};

/// Aggregates that queries may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aggregate {
    Avg,
    Count,
    Max,
    Min,
    Sum,
    LastValue,
    Stddev,
    Stddevs,
    Var,
    Vars,
}

impl Aggregate {
    pub(crate) const ALL: [(&'static str, Aggregate); 10] = [
        ("avg", Aggregate::Avg),
        ("count", Aggregate::Count),
        ("max", Aggregate::Max),
        ("min", Aggregate::Min),
        ("sum", Aggregate::Sum),
        ("last_value", Aggregate::LastValue),
        ("stddev", Aggregate::Stddev),
        ("stddevs", Aggregate::Stddevs),
        ("var", Aggregate::Var),
        ("vars", Aggregate::Vars),
    ];

    pub(crate) fn by_name(name: &str) -> Option<Aggregate> {
        Self::ALL.into_iter().find(|(other, _)| *other == name).map(|(_, aggregate)| aggregate)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, other)| *other == self).map_or("", |(name, _)| name)
    }

    pub(crate) fn arguments(self) -> usize {
        if self == Aggregate::LastValue { 2 } else { 1 }
    }

    pub(crate) fn start(self) -> Accumulator {
        match self {
            Aggregate::Count => Accumulator::Count(0),
            Aggregate::Sum | Aggregate::Avg => {
                Accumulator::Total { mean: self == Aggregate::Avg, count: 0, integers: 0, floats: 0.0, is_float: false }
            }
            Aggregate::Max | Aggregate::Min => Accumulator::Extreme { largest: self == Aggregate::Max, best: None },
            Aggregate::LastValue => Accumulator::Last(Datum::Null),
            Aggregate::Stddev | Aggregate::Stddevs | Aggregate::Var | Aggregate::Vars => {
                Accumulator::Spread { of: self, count: 0, mean: 0.0, squares: 0.0 }
            }
        }
    }
}

/// What an aggregate has seen so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Accumulator {
    Count(i64),
    /// Integers are added as integers while nothing else comes, so that their sum is exact; their average is cut off
    /// as eKuiper's. A float makes the rest of the window floats.
    Total {
        mean: bool,
        count: i64,
        integers: i64,
        floats: f64,
        is_float: bool,
    },
    Extreme {
        largest: bool,
        best: Option<Datum>,
    },
    Last(Datum),
    /// Welford's running mean and sum of squared distances: no catastrophic cancellation.
    Spread {
        of: Aggregate,
        count: i64,
        mean: f64,
        squares: f64,
    },
}

impl Accumulator {
    /// Takes one row in; on an error nothing has changed. Nulls are passed over.
    pub(crate) fn add(&mut self, arguments: &[Datum]) -> Result<(), EvalError> {
        let Some(value) = arguments.first() else { return Ok(()) };
        match self {
            Accumulator::Last(last) => {
                let ignore_null = match arguments.get(1) {
                    Some(Datum::Bool(ignore)) => *ignore,
                    other => {
                        return fail(format!(
                            "last_value takes true or false, not {}",
                            typed(other.unwrap_or(&Datum::Null))
                        ));
                    }
                };
                if !(ignore_null && value.is_null()) {
                    *last = value.clone();
                }
                Ok(())
            }
            _ if value.is_null() => Ok(()),
            Accumulator::Count(count) => {
                *count += 1;
                Ok(())
            }
            Accumulator::Total { mean, count, integers, floats, is_float } => {
                match value {
                    Datum::Int(value) if !*is_float => match integers.checked_add(*value) {
                        Some(total) => *integers = total,
                        None => return fail(format!("the sum of the window and {value} does not fit int64")),
                    },
                    Datum::Int(value) => *floats += *value as f64,
                    Datum::Float(value) => {
                        if !*is_float {
                            *floats = *integers as f64;
                            *is_float = true;
                        }
                        *floats += value;
                    }
                    other => return fail(invalid(if *mean { "avg" } else { "sum" }, other)),
                }
                *count += 1;
                Ok(())
            }
            Accumulator::Extreme { largest, best } => {
                let name = if *largest { "max" } else { "min" };
                let better = match (&*best, value) {
                    (None, Datum::Int(_) | Datum::Float(_) | Datum::String(_)) => true,
                    (Some(Datum::Int(_) | Datum::Float(_)), Datum::Int(_) | Datum::Float(_))
                    | (Some(Datum::String(_)), Datum::String(_)) => {
                        let order = value.order(best.as_ref().unwrap_or(value));
                        if *largest { order.is_gt() } else { order.is_lt() }
                    }
                    _ => return fail(invalid(name, value)),
                };
                if better {
                    *best = Some(value.clone());
                }
                Ok(())
            }
            Accumulator::Spread { of, count, mean, squares } => {
                let value = match value {
                    Datum::Int(value) => *value as f64,
                    Datum::Float(value) => *value,
                    other => return fail(invalid(of.name(), other)),
                };
                *count += 1;
                let before = value - *mean;
                *mean += before / *count as f64;
                *squares += before * (value - *mean);
                Ok(())
            }
        }
    }

    /// The result; null where no value was seen.
    pub(crate) fn finish(&self) -> Eval {
        Ok(match self {
            Accumulator::Count(count) => Datum::Int(*count),
            Accumulator::Total { count: 0, .. } => Datum::Null,
            Accumulator::Total { mean, count, integers, floats, is_float } => match (*mean, *is_float) {
                (true, true) => Datum::Float(*floats / *count as f64),
                (true, false) => Datum::Int(*integers / *count),
                (false, true) => Datum::Float(*floats),
                (false, false) => Datum::Int(*integers),
            },
            Accumulator::Extreme { best, .. } => best.clone().unwrap_or_default(),
            Accumulator::Last(last) => last.clone(),
            Accumulator::Spread { count: 0, .. } => Datum::Null,
            Accumulator::Spread { of, count, squares, .. } => {
                let sample = matches!(of, Aggregate::Stddevs | Aggregate::Vars);
                let freedom = if sample { *count - 1 } else { *count };
                if freedom == 0 {
                    return Ok(Datum::Null);
                }
                let variance = *squares / freedom as f64;
                let root = matches!(of, Aggregate::Stddev | Aggregate::Stddevs);
                Datum::Float(if root { variance.sqrt() } else { variance })
            }
        })
    }
}

fn invalid(name: &str, value: &Datum) -> String {
    format!("run {name} function error: found invalid arg {}", typed(value))
}
