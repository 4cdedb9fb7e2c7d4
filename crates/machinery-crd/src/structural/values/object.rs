//! Checks of objects and lists, and of what is in them.

use serde_json::{Map, Value};

use super::{Checker, Outcome, ValueError, What};
use crate::{
    schema::{Items, Limits, Schema, SchemaOrBool},
    structural::MapList,
};

impl Checker<'_> {
    pub(super) fn check_items(
        &mut self,
        schema: &Schema,
        limits: &Limits,
        items: &[Value],
        old: Option<&Value>,
        outcome: &mut Outcome,
        depth: usize,
    ) {
        if let Some(Items::One(item)) = &schema.items {
            let old = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let old = MapList::new(schema, old);
            for (position, inner) in items.iter().enumerate() {
                let mark = self.path.len();
                self.path.push_str(&format!("[{position}]"));
                let found = self.check_against_old(item, inner, old.get(schema, inner), depth + 1);
                outcome.merge(found);
                self.path.truncate(mark);
            }
        }
        let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let path = &self.path;
        if let Some(min) = limits.items_min.filter(|min| size < *min) {
            let text = format!("{path} in body should have at least {min} items");
            outcome.add(ValueError::invalid(path, &size.into(), text));
        }
        if let Some(max) = limits.items_max.filter(|max| size > *max) {
            let text = format!("{path} in body should have at most {max} items");
            outcome.add(ValueError { text, name: Some(path.clone()), what: What::TooMany { found: size, max } });
        }
        outcome.passed += 1;
    }

    pub(super) fn check_object(
        &mut self,
        schema: &Schema,
        limits: &Limits,
        map: &Map<String, Value>,
        old: Option<&Value>,
        outcome: &mut Outcome,
        depth: usize,
    ) {
        let size = i64::try_from(map.len()).unwrap_or(i64::MAX);
        if let Some(min) = limits.properties_min.filter(|min| size < *min) {
            let text = format!("{} in body should have at least {min} properties", self.path);
            outcome.add(ValueError::invalid(&self.path, &size.into(), text));
        }
        if let Some(max) = limits.properties_max.filter(|max| size > *max) {
            let text = format!("{} in body should have at most {max} properties", self.path);
            let what = What::TooMany { found: size, max };
            outcome.add(ValueError { text, name: Some(self.path.clone()), what });
        }
        let is_root = self.path.is_empty();
        let old = old.and_then(Value::as_object);
        // The identity of an object is converted on its way, so its old form says nothing.
        let old_of = |name: &str| match name {
            "apiVersion" | "kind" if is_root => None,
            _ => old.and_then(|old| old.get(name)),
        };
        match schema.additional.as_ref() {
            Some(SchemaOrBool::Bool(false)) => {
                for name in map.keys().filter(|name| !schema.properties.contains_key(name.as_str())) {
                    let text = format!("{}.{name} in body is a forbidden property", self.path);
                    outcome.add(ValueError::invalid(&self.path, &name.as_str().into(), text));
                }
            }
            Some(SchemaOrBool::Schema(additional)) => {
                for (name, value) in map.iter().filter(|(name, _)| !schema.properties.contains_key(name.as_str())) {
                    // Further keys have a dot before them even at the root.
                    let mark = self.path.len();
                    self.path.push('.');
                    crate::bounded::push_bounded(&mut self.path, name);
                    let found = self.check_against_old(additional, value, old_of(name), depth + 1);
                    outcome.merge(found);
                    self.path.truncate(mark);
                }
            }
            _ => {}
        }
        if !self.may_spend(schema.properties.len()) {
            return;
        }
        for (name, property) in &schema.properties {
            if let Some(value) = map.get(&**name) {
                let mark = self.enter(name);
                let found = self.check_against_old(property, value, old_of(name), depth + 1);
                outcome.merge(found);
                self.path.truncate(mark);
            }
        }
        for name in schema.required.iter().filter(|name| !map.contains_key(&***name)) {
            let name = format!("{}.{name}", self.path);
            let text = format!("{name} in body is required");
            outcome.add(ValueError { text, name: Some(name), what: What::Required });
        }
    }
}
