//! Scalar functions, one table: name, how many arguments, what null does, and the function itself.

mod collections;
mod convert;
mod math;
mod text;
mod time;

use crate::datum::Datum;
use crate::eval::Eval;

pub(crate) use convert::{CAST_TYPES, convert};

/// A function of one row.
#[derive(Debug)]
pub(crate) struct ScalarFunction {
    pub name: &'static str,
    least: usize,
    most: usize,
    nulls: Nulls,
    body: Body,
}

/// What a null argument does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nulls {
    /// The result is null, without a call.
    Spread,
    /// The function sees it.
    Seen,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Plain(fn(&[Datum]) -> Eval),
    Timed(fn(&[Datum], i64) -> Eval),
}

const MANY: usize = usize::MAX;

const fn plain(name: &'static str, least: usize, most: usize, body: fn(&[Datum]) -> Eval) -> ScalarFunction {
    ScalarFunction { name, least, most, nulls: Nulls::Spread, body: Body::Plain(body) }
}

const fn sees_null(name: &'static str, least: usize, most: usize, body: fn(&[Datum]) -> Eval) -> ScalarFunction {
    ScalarFunction { name, least, most, nulls: Nulls::Seen, body: Body::Plain(body) }
}

const fn timed(name: &'static str, least: usize, most: usize, body: fn(&[Datum], i64) -> Eval) -> ScalarFunction {
    ScalarFunction { name, least, most, nulls: Nulls::Spread, body: Body::Timed(body) }
}

static FUNCTIONS: &[ScalarFunction] = &[
    plain("abs", 1, 1, math::abs),
    plain("acos", 1, 1, |arguments| math::real(arguments, f64::acos)),
    plain("asin", 1, 1, |arguments| math::real(arguments, f64::asin)),
    plain("atan", 1, 1, |arguments| math::real(arguments, f64::atan)),
    plain("atan2", 2, 2, |arguments| math::real2(arguments, f64::atan2)),
    plain("bitand", 2, 2, |arguments| math::bits(arguments, |left, right| left & right)),
    plain("bitor", 2, 2, |arguments| math::bits(arguments, |left, right| left | right)),
    plain("bitxor", 2, 2, |arguments| math::bits(arguments, |left, right| left ^ right)),
    plain("bitnot", 1, 1, |arguments| math::bits(arguments, |value, _| !value)),
    plain("ceil", 1, 1, |arguments| math::real(arguments, f64::ceil)),
    plain("ceiling", 1, 1, |arguments| math::real(arguments, f64::ceil)),
    plain("cos", 1, 1, |arguments| math::real(arguments, f64::cos)),
    plain("cosh", 1, 1, |arguments| math::real(arguments, f64::cosh)),
    plain("cot", 1, 1, |arguments| math::real(arguments, |value| 1.0 / value.tan())),
    plain("degrees", 1, 1, |arguments| math::real(arguments, f64::to_degrees)),
    plain("exp", 1, 1, |arguments| math::real(arguments, f64::exp)),
    plain("floor", 1, 1, |arguments| math::real(arguments, f64::floor)),
    plain("ln", 1, 1, |arguments| math::positive(arguments, f64::ln)),
    plain("log", 1, 2, math::log),
    plain("mod", 2, 2, math::modulo),
    plain("pi", 0, 0, |_| Ok(Datum::Float(std::f64::consts::PI))),
    plain("pow", 2, 2, |arguments| math::real2(arguments, f64::powf)),
    plain("power", 2, 2, |arguments| math::real2(arguments, f64::powf)),
    plain("radians", 1, 1, |arguments| math::real(arguments, f64::to_radians)),
    plain("round", 1, 2, math::round),
    plain("sign", 1, 1, math::sign),
    plain("sin", 1, 1, |arguments| math::real(arguments, f64::sin)),
    plain("sinh", 1, 1, |arguments| math::real(arguments, f64::sinh)),
    plain("sqrt", 1, 1, |arguments| math::positive(arguments, f64::sqrt)),
    plain("tan", 1, 1, |arguments| math::real(arguments, f64::tan)),
    plain("tanh", 1, 1, |arguments| math::real(arguments, f64::tanh)),
    plain("trunc", 2, 2, math::trunc),
    plain("concat", 1, MANY, text::concat),
    plain("endswith", 2, 2, |arguments| text::compare(arguments, |text, other| text.ends_with(other))),
    plain("startswith", 2, 2, |arguments| text::compare(arguments, |text, other| text.starts_with(other))),
    plain("indexof", 2, 2, text::indexof),
    plain("length", 1, 1, text::length),
    plain("lower", 1, 1, |arguments| text::map(arguments, str::to_lowercase)),
    plain("upper", 1, 1, |arguments| text::map(arguments, str::to_uppercase)),
    plain("trim", 1, 1, |arguments| text::map(arguments, |text| text.trim().to_owned())),
    plain("ltrim", 1, 1, |arguments| text::map(arguments, |text| text.trim_start().to_owned())),
    plain("rtrim", 1, 1, |arguments| text::map(arguments, |text| text.trim_end().to_owned())),
    plain("reverse", 1, 1, |arguments| text::map(arguments, |text| text.chars().rev().collect())),
    plain("lpad", 2, 2, |arguments| text::pad(arguments, true)),
    plain("rpad", 2, 2, |arguments| text::pad(arguments, false)),
    plain("numbytes", 1, 1, text::numbytes),
    plain("substring", 2, 3, text::substring),
    plain("split_value", 3, 3, text::split_value),
    plain("chr", 1, 1, text::chr),
    plain("cast", 2, 2, convert::cast),
    plain("encode", 2, 2, convert::encode),
    plain("decode", 2, 2, convert::decode),
    plain("hex2dec", 1, 1, convert::hex2dec),
    plain("dec2hex", 1, 1, convert::dec2hex),
    sees_null("to_json", 1, 1, convert::to_json),
    plain("parse_json", 1, 1, convert::parse_json),
    sees_null("isnull", 1, 1, |arguments| Ok(Datum::Bool(arguments[0].is_null()))),
    sees_null("coalesce", 1, MANY, collections::coalesce),
    plain("cardinality", 1, 1, collections::cardinality),
    plain("array_cardinality", 1, 1, collections::cardinality),
    sees_null("array_create", 1, MANY, collections::array_create),
    sees_null("array_contains", 2, 2, collections::array_contains),
    plain("array_position", 2, 2, collections::array_position),
    plain("array_max", 1, 1, |arguments| collections::array_extreme(arguments, true)),
    plain("array_min", 1, 1, |arguments| collections::array_extreme(arguments, false)),
    plain("element_at", 2, 2, collections::element_at),
    plain("keys", 1, 1, collections::keys),
    plain("values", 1, 1, collections::values),
    plain("object_size", 1, 1, collections::object_size),
    timed("now", 0, 1, time::now),
    timed("current_timestamp", 0, 1, time::now),
    timed("cur_date", 0, 0, time::date),
    timed("current_date", 0, 0, time::date),
    timed("cur_time", 0, 1, time::time),
    timed("current_time", 0, 1, time::time),
    timed("tstamp", 0, 0, |_, now_ms| Ok(Datum::Int(now_ms))),
];

/// eKuiper's functions that this version does not have: known words, so the message can say so. It only shrinks.
pub(crate) const EKUIPER_ONLY: &[&str] = &[
    "collect",
    "merge_agg",
    "deduplicate",
    "median",
    "percentile_cont",
    "percentile_disc",
    "last_hit_count",
    "last_hit_time",
    "last_agg_hit_count",
    "last_agg_hit_time",
    "inc_avg",
    "inc_count",
    "inc_max",
    "inc_min",
    "inc_sum",
    "inc_collect",
    "inc_last_value",
    "inc_merge_agg",
    "lag",
    "latest",
    "changed_col",
    "had_changed",
    "acc_sum",
    "acc_min",
    "acc_max",
    "acc_avg",
    "acc_count",
    "changed_cols",
    "row_number",
    "unnest",
    "extract",
    "conv",
    "rand",
    "format",
    "format_time",
    "regexp_matches",
    "regexp_replace",
    "regexp_substr",
    "local_time",
    "local_timestamp",
    "date_calc",
    "date_diff",
    "day",
    "day_name",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "from_days",
    "from_unix_time",
    "hour",
    "last_day",
    "microsecond",
    "minute",
    "month",
    "month_name",
    "second",
    "convert_tz",
    "to_seconds",
    "compress",
    "decompress",
    "md5",
    "sha1",
    "sha256",
    "sha384",
    "sha512",
    "crc32",
    "json_path_exists",
    "json_path_query",
    "json_path_query_first",
    "array_last_position",
    "array_contains_any",
    "array_remove",
    "array_intersect",
    "array_union",
    "array_except",
    "repeat",
    "sequence",
    "array_flatten",
    "array_distinct",
    "array_map",
    "array_join",
    "array_shuffle",
    "array_concat",
    "array_sort",
    "kvpair_array_to_obj",
    "object",
    "zip",
    "items",
    "object_construct",
    "object_concat",
    "erase",
    "object_pick",
    "obj_to_kvpair_array",
    "newuuid",
    "rule_id",
    "rule_start",
    "mqtt",
    "window_trigger",
    "get_keyed_state",
    "delay",
    "bypass",
    "props",
];

/// The function called `name`, in lower case.
pub(crate) fn by_name(name: &str) -> Option<&'static ScalarFunction> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

/// All names.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|function| function.name)
}

impl ScalarFunction {
    /// What is taken, when `count` arguments are not.
    pub(crate) fn wrong_count(&self, count: usize) -> Option<String> {
        if (self.least..=self.most).contains(&count) {
            return None;
        }
        let plural = if self.least == 1 { "" } else { "s" };
        Some(match (self.least, self.most) {
            (least, MANY) => format!("at least {least} argument{plural}"),
            (least, most) if least == most => format!("{least} argument{plural}"),
            (least, most) => format!("{least} to {most} arguments"),
        })
    }

    /// Calls it with as many arguments as it takes.
    pub(crate) fn call(&self, arguments: &[Datum], now_ms: i64) -> Eval {
        if self.nulls == Nulls::Spread && arguments.iter().any(Datum::is_null) {
            return Ok(Datum::Null);
        }
        match self.body {
            Body::Plain(body) => body(arguments),
            Body::Timed(body) => body(arguments, now_ms),
        }
    }
}
