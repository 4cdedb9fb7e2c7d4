//! Kinds of the group `flowcontrol.apiserver.k8s.io`: which requests wait when the server is busy.
//!
//! - [`rules`]: what schemas and levels must be.
//! - [`bootstrap`]: those that are there from the start; the mandatory ones among them cannot be other than they are.

pub(crate) mod bootstrap;
mod rules;
#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::{
    kit::{Read, Write},
    metadata::OnUpdate,
    strategy::{Part, Strategy, restore_metadata_of},
    table::{Printer, age_of, columns, printers::name},
};

/// What is special about a kind of this group.
pub(crate) fn strategy(kind: &str) -> Option<&'static Strategy> {
    Some(match kind {
        "FlowSchema" => &FLOW_SCHEMA,
        "PriorityLevelConfiguration" => &PRIORITY_LEVEL,
        _ => return None,
    })
}

static FLOW_SCHEMA: Strategy = Strategy {
    generation: true,
    metadata_on_update: OnUpdate::Whole,
    defaults: |schema| {
        let spec = schema.make("spec");
        if spec.int("matchingPrecedence") == 0 {
            spec.set("matchingPrecedence", 1000);
        }
    },
    parts: &[Part {
        prepare: restore_all_but_own_status,
        validate: |new, _, errors| rules::conditions(new.part("status"), errors),
        ..Part::STATUS
    }],
    validate: rules::flow_schema,
    printer: &Printer { columns: columns::FLOW_SCHEMA, cells: flow_schema_cells },
    ..Strategy::PLAIN
};

static PRIORITY_LEVEL: Strategy = Strategy {
    generation: true,
    metadata_on_update: OnUpdate::Whole,
    defaults: default_priority_level,
    parts: &[Part {
        prepare: restore_all_but_own_status,
        validate: |new, _, errors| rules::conditions(new.part("status"), errors),
        ..Part::STATUS
    }],
    validate: rules::priority_level,
    printer: &Printer { columns: columns::PRIORITY_LEVEL_CONFIGURATION, cells: priority_level_cells },
    ..Strategy::PLAIN
};

/// A status is written alone: not even labels come with it.
fn restore_all_but_own_status(new: &mut Value, old: &Value) {
    restore_metadata_of(new, old);
    new.restore("spec", old);
}

fn default_priority_level(level: &mut Value) {
    let spec = level.make("spec");
    if let Some(exempt) = spec.some_mut("exempt") {
        exempt.default_to("nominalConcurrencyShares", 0);
        exempt.default_to("lendablePercent", 0);
    }
    if let Some(limited) = spec.some_mut("limited") {
        limited.default_to("nominalConcurrencyShares", 30);
        limited.default_to("lendablePercent", 0);
        let response = limited.make("limitResponse");
        if let Some(queuing) = response.some_mut("queuing") {
            for (key, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                if queuing.int(key) == 0 {
                    queuing.set(key, value);
                }
            }
        }
    }
}

fn flow_schema_cells(schema: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let (spec, conditions) = (schema.part("spec"), schema.part("status").items("conditions"));
    let dangling = conditions.iter().find(|condition| condition.text("type") == "Dangling");
    vec![
        name(schema),
        spec.part("priorityLevelConfiguration").text("name").into(),
        spec.int("matchingPrecedence").into(),
        spec.some("distinguisherMethod").map_or("<none>", |method| method.text("type")).into(),
        age_of(schema, now),
        dangling.map_or("?", |condition| condition.text("status")).into(),
    ]
}

fn priority_level_cells(level: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let spec = level.part("spec");
    let limited = spec.some("limited");
    let queuing = limited.and_then(|limited| limited.part("limitResponse").some("queuing"));
    let number = |of: Option<&Value>, key: &str| of.map_or_else(|| "<none>".into(), |of| Value::from(of.int(key)));
    vec![
        name(level),
        spec.text("type").into(),
        number(limited, "nominalConcurrencyShares"),
        number(queuing, "queues"),
        number(queuing, "handSize"),
        number(queuing, "queueLengthLimit"),
        age_of(level, now),
    ]
}
