use std::sync::Arc;

use serde_json::{Value, json};

use super::{Decl, compile, declare_place, rules::Validator};
use crate::schema::{Rule, Schema};

fn rule(text: &str) -> Rule {
    Rule { rule: text.into(), ..Rule::default() }
}

fn declared(schema: &Value) -> Arc<Decl> {
    let schema = Schema::read(schema).expect("a small schema");
    declare_place(&schema, true).expect("a schema with a type")
}

fn spec() -> Value {
    json!({"type": "object", "properties": {
        "a-b": {"type": "string", "maxLength": 10},
        "in": {"type": "integer"},
        "names": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 8}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "port": {"x-kubernetes-int-or-string": true},
    }})
}

/// What is wrong with a rule over [`spec`].
fn wrong(text: &str) -> String {
    compile(&rule(text), &declared(&spec())).map(drop).unwrap_err()
}

/// The messages of one rule over an object.
fn run(schema: &Value, text: &str, object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut schema = schema.clone();
    schema["x-kubernetes-validations"] = json!([{"rule": text}]);
    let schema = Schema::read(&schema).expect("a small schema");
    compile(&schema.rules[0], &declare_place(&schema, true).expect("a type")).expect("a good rule");
    let Some(rules) = Validator::new(&schema, true) else { return Vec::new() };
    rules.validate(&schema, object, old, "", true).into_iter().map(|error| error.message).collect()
}

fn holds(text: &str) -> bool {
    run(&spec(), text, &json!({"names": ["x", "y"], "in": 3, "labels": {"k": "v"}, "port": "http"}), None).is_empty()
}

#[test]
fn type_errors_have_the_place_and_words_of_cel_go() {
    let shown = wrong("self.replicas > 1");
    let expected = "compilation failed: ERROR: <input>:1:5: undefined field 'replicas'\n | self.replicas > 1\n | ....^";
    assert_eq!(shown, expected);
    assert!(wrong("self.__in__ > 'a'").contains("found no matching overload for '_>_' applied to '(int, string)'"));
    assert!(wrong("nobody").contains("undeclared reference to 'nobody' (in container '')"));
    assert_eq!(wrong("self.__in__"), "cel expression must evaluate to a bool");
    assert!(wrong("[1, 'a'].size() > 0").contains("expected type 'int' but found 'string'"));
}

#[test]
fn syntax_errors_have_the_words_of_antlr() {
    assert!(wrong("self.__in__ >").contains("Syntax error: mismatched input '<EOF>' expecting"));
}

#[test]
fn a_reserved_word_is_selected_as_it_is_or_escaped() {
    let schema = json!({"type": "object", "properties": {"namespace": {"type": "string", "maxLength": 5}}});
    for rule in ["self.namespace == 'x'", "self.__namespace__ == 'x'", "has(self.namespace)"] {
        assert!(run(&schema, rule, &json!({"namespace": "x"}), None).is_empty(), "{rule}");
    }
    assert_eq!(run(&schema, "self.namespace == 'x'", &json!({"namespace": "y"}), None).len(), 1);
}

#[test]
fn a_set_that_has_something_twice_is_no_other_set() {
    let schema = json!({"type": "object", "properties": {
        "d": {"type": "array", "maxItems": 5, "items": {"type": "integer"}, "x-kubernetes-list-type": "set"},
    }});
    let fails = |d: Value| run(&schema, "self.d == [1, 2]", &json!({"d": d}), None).len();
    assert_eq!((fails(json!([1, 2])), fails(json!([2, 1])), fails(json!([1, 1]))), (0, 0, 1));
}

#[test]
fn rules_decide() {
    assert!(holds("self.names.all(n, n.size() == 1)"));
    assert!(!holds("self.names.exists_one(n, true)"));
    assert!(holds("self.names.exists_one(n, n == 'x') && self.labels.exists_one(k, k == 'k')"));
    assert!(!holds("self.names.exists_one(n, n == 'z')"));
    assert!(holds("has(self.__in__) && !has(self.a__dash__b)"));
    assert!(holds("self.names.map(n, n + '!').join(',') == 'x!,y!'"));
    assert!(holds("self.names.filter(n, n != 'x') == ['y']"));
    assert!(holds("type(self.port) == string && self.port == 'http'"));
    assert!(holds("self.labels['k'].upperAscii() == 'V' && 'k' in self.labels"));
    assert!(holds("quantity('1Ki').isGreaterThan(quantity('1k')) && ip('10.0.0.1').family() == 4"));
    assert!(holds("self.?a__dash__b.orValue('none') == 'none'"));
    assert!(holds("self.__in__ / 0 == 1 || true"));
    assert!(holds("self.labels.all(k, v, k == 'k' && v == 'v')"));
}

#[test]
fn lists_are_sorted_sliced_and_flattened() {
    assert!(holds("[3, 1, 2].sort() == [1, 2, 3] && ['b', 'a'].sort() == ['a', 'b'] && [].sort() == []"));
    assert!(holds("[{'n': 2}, {'n': 1}].sortBy(x, x.n).map(x, x.n) == [1, 2]"));
    assert!(holds("self.names.sortBy(n, -n.size()) == self.names && self.names.map(n, n).sortBy(n, n)[0] == 'x'"));
    assert!(holds("[1, 2, 1, 3, 2].distinct() == [1, 2, 3] && [1, 2].reverse() == [2, 1]"));
    assert!(holds("lists.range(3) == [0, 1, 2] && lists.range(0) == [] && lists.range(-1) == []"));
    assert!(holds("[1, 2, 3].slice(1, 3) == [2, 3] && [1].slice(1, 1) == []"));
    assert!(holds("[[1], [2, 3]].flatten() == [1, 2, 3] && [[[1]]].flatten(2) == [1] && [[1]].flatten(0) == [[1]]"));
    assert!(holds("self.names.first().value() == 'x' && self.names.last().orValue('') == 'y'"));
    assert!(holds("![].first().hasValue() && !self.names.filter(n, n == 'z').last().hasValue()"));
    assert!(holds("[optional.of(1), optional.none()].unwrapOpt() == [1] && optional.unwrap([optional.of(2)]) == [2]"));
    assert!(holds("self.names.transformMapEntry(i, n, {n: i}) == {'x': 0, 'y': 1}"));
    let fails = |rule: &str| run(&spec(), rule, &json!({"names": ["x"]}), None).join("");
    for (rule, expected) in [
        ("[1].slice(0, 2) == []", "cannot slice(0, 2), list is length 1"),
        ("[1].slice(-1, 0) == []", "cannot slice(-1, 0), negative indexes not supported"),
        ("[1].slice(1, 0) == []", "cannot slice(1, 0), start index must be less than or equal to end index"),
        ("[[1]].flatten(-1) == []", "level must be non-negative"),
        (
            "self.names.transformMapEntry(i, n, {'k': i}) == {} && self.names.map(n, [n, n]).flatten().transformMapEntry(i, n, {n: i}) == {}",
            "failed rule",
        ),
        ("['a', 'a'].transformMapEntry(i, n, {n: i}) == {}", "insert failed: key a already exists"),
    ] {
        assert!(fails(rule).contains(expected), "{rule}: {}", fails(rule));
    }
}

#[test]
fn what_kubernetes_has_not_got_is_not_known() {
    for (rule, expected) in [
        ("cel.bind(x, self.__in__, x == 1)", "undeclared reference to 'bind' (in container '')"),
        ("cel.bind(x, self.__in__, x == 1)", "1:1: undeclared reference to 'cel' (in container '')"),
        ("self.a__dash__b.reverse() == 'a'", "found no matching overload for 'reverse' applied to 'string.()'"),
        ("self.names.flatten() == ['a']", "found no matching overload for 'flatten' applied to 'list(string).()'"),
        ("lists.range('a') == []", "1:12: found no matching overload for 'lists.range' applied to '(string)'"),
        ("[{'a': 1}].sort() == []", "found no matching overload for 'sort' applied to 'list(map(string, int)).()'"),
        (
            "[{'a': 1}].sortBy(x, x) == []",
            "found no matching overload for '@sortByAssociatedKeys' applied to \
             'list(map(string, int)).(list(map(string, int)))'",
        ),
        (
            "'a'.sortBy(x, x) == []",
            "1:1: sortBy can only be applied to a list, identifier, comprehension, call or select expression",
        ),
        ("self.names.sortBy(x.y, 1) == []", "argument is not an identifier"),
        ("self.names.sortBy(x, x, x) == []", "undeclared reference to 'sortBy' (in container '')"),
        ("math.greatest(1, 2) == 2", "1:1: undeclared reference to 'math' (in container '')"),
    ] {
        assert!(wrong(rule).contains(expected), "{rule}: {}", wrong(rule));
    }
}

/// By which factor kube-apiserver 1.36 says that a rule exceeds its budget.
#[test]
fn costs_of_lists_are_those_of_upstream() {
    let schema = json!({"type": "object", "properties": {
        "q": {"type": "array", "maxItems": 10, "items": {"type": "integer"}},
        "u": {"type": "array", "items": {"type": "integer"}},
        "ul": {"type": "array", "items": {"type": "string"}},
        "ll": {"type": "array", "maxItems": 5, "items": {"type": "array", "maxItems": 6, "items": {"type": "integer"}}},
    }});
    let cost = |text: &str| compile(&rule(text), &declared(&schema)).expect("a good rule").cost_max;
    for (rule, factor) in [
        ("lists.range(100000000) == [1]", "10.0"),
        ("self.u.all(x, self.u.slice(0,2).size() > 1)", "3.1"),
        ("self.u.all(x, self.ll.flatten().size() > 1)", "3.6"),
        ("self.u.all(x, [self.u].flatten().size() > 1)", "4.6"),
        ("self.u.all(x, [self.u].flatten(3).size() > 1)", "4.9"),
    ] {
        #[expect(clippy::cast_precision_loss, reason = "a factor of one digit")]
        let found = cost(rule) as f64 / 10_000_000.0;
        assert_eq!(format!("{found:.1}"), factor, "{rule}");
    }
    for rule in ["self.ul.sort() == self.ul", "self.u.distinct() == self.u", "lists.range(self.q[0]) == [1]"] {
        assert!(cost(rule) > 1_000_000_000, "{rule}: {}", cost(rule));
    }
    for rule in ["self.u.reverse() == self.u", "self.ul.slice(0,2) == self.ul", "self.q.sortBy(x, -x) == self.q"] {
        assert!(cost(rule) < 10_000_000, "{rule}: {}", cost(rule));
    }
}

#[test]
fn a_list_is_paid_for_before_it_is_made() {
    let errors = run(&spec(), "lists.range(self.__in__).size() > 0", &json!({"in": 9_000_000_000_i64}), None);
    assert!(errors.join("").contains("running out of cost budget"), "{errors:?}");
}

#[test]
fn a_failed_rule_says_which() {
    let object = json!({"in": 1});
    assert_eq!(run(&spec(), "self.__in__ > 1", &object, None), ["Invalid value: failed rule: self.__in__ > 1"]);
    let errors = run(&spec(), "1 / (self.__in__ - 1) > 0", &object, None);
    assert_eq!(errors, ["Invalid value: \"object\": division by zero evaluating rule: 1 / (self.__in__ - 1) > 0"]);
}

#[test]
fn rules_about_changes_need_an_old_self() {
    let (old, new) = (json!({"in": 5}), json!({"in": 4}));
    assert!(run(&spec(), "self.__in__ >= oldSelf.__in__", &new, None).is_empty());
    assert_eq!(run(&spec(), "self.__in__ >= oldSelf.__in__", &new, Some(&old)).len(), 1);
    // What was wrong before and has not changed stays allowed.
    assert!(run(&spec(), "self.__in__ > 9", &new, Some(&new)).is_empty());
}

#[test]
fn costs_follow_the_sizes_that_a_schema_allows() {
    let cost = |schema: &Value, text: &str| compile(&rule(text), &declared(schema)).expect("a good rule").cost_max;
    let bounded = cost(&spec(), "self.names.all(n, n.contains('a'))");
    assert!(bounded < 100, "{bounded}");
    let endless = json!({"type": "array", "items": {"type": "string"}});
    assert!(cost(&endless, "self.all(n, self.all(m, n.contains(m)))") > 10_000_000);
}

#[test]
fn a_run_ends_when_it_costs_too_much() {
    let schema = json!({"type": "array", "items": {"type": "integer"}});
    let object: Value = (0..3_000).collect();
    let errors = run(&schema, "self.all(a, self.all(b, a + b >= 0))", &object, None);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("call cost exceeds limit"), "{errors:?}");
}

#[test]
fn long_lists_are_built_in_time() {
    let schema = json!({"type": "array", "items": {"type": "integer"}});
    let object: Value = (0..100_000).collect();
    let before = std::time::Instant::now();
    let _ = run(&schema, "self.map(a, a).size() == 100000", &object, None);
    assert!(before.elapsed() < std::time::Duration::from_secs(5), "{:?}", before.elapsed());
}

#[test]
fn nothing_nests_without_end() {
    let small = std::thread::Builder::new().stack_size(512 * 1024);
    let thread = small.spawn(|| {
        for text in [
            "(".repeat(5_000),
            "[".repeat(5_000),
            format!("true{}", " && true".repeat(5_000)),
            format!("1{} > 0", "+1".repeat(5_000)),
            format!("self{}", ".a".repeat(5_000)),
            format!("{}true", "!".repeat(5_001)),
            format!("true ? true : {}true", "true ? true : ".repeat(1_000)),
            format!("1{} > 0", "+1".repeat(150)),
        ] {
            let _ = compile(&rule(&text), &declared(&spec()));
        }
        assert!(holds(&format!("1{} > 0", "+1".repeat(150))));
    });
    thread.expect("a thread starts").join().expect("no expression exhausts the stack");
}
