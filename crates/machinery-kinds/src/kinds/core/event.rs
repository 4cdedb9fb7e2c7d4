//! Events: what happened to an object. Two groups serve the same objects under different names of fields.

mod rules;

use jiff::Timestamp;
use machinery_schema::types::Type;
use serde_json::{Map, Value, json};

use crate::{
    kit::{Read, Write},
    metadata::OnUpdate,
    strategy::{Durability, Selectable, Strategy},
    table::{Printer, columns, printers::name, since},
};

/// Events come often, nobody watches one, and what is lost is reported again.
pub(super) static STRATEGY: Strategy = Strategy {
    durability: Durability::Lazy,
    name_field: false,
    create_on_update: true,
    metadata_on_update: OnUpdate::Nothing,
    selectable: &[
        Selectable::field("involvedObject.kind"),
        Selectable::field("involvedObject.namespace"),
        Selectable::field("involvedObject.name"),
        Selectable::field("involvedObject.uid"),
        Selectable::field("involvedObject.apiVersion"),
        Selectable::field("involvedObject.resourceVersion"),
        Selectable::field("involvedObject.fieldPath"),
        Selectable::field("reason"),
        Selectable::field("reportingComponent"),
        // The component that reported it; new and old clients write it in two places.
        Selectable { paths: &["source.component", "reportingComponent"], ..Selectable::field("source") },
        Selectable::field("type"),
    ],
    validate: |event, errors| rules::validate_old(event, "reportingComponent", errors),
    validate_update: Some(|new, _, errors| rules::validate_old(new, "reportingComponent", errors)),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

/// The same objects in the group `events.k8s.io`, whose rules are stricter.
pub(in crate::kinds) static IN_EVENTS_GROUP: Strategy = Strategy {
    stored_as: Some(("", "events", "v1")),
    from_stored: |event| {
        rename(event, |[stored, own]| [stored, own]);
        complete("events.k8s.io", event);
    },
    to_stored,
    metadata_on_update: OnUpdate::Changes,
    // Their values are found under the names that the fields have when they are stored.
    selectable: &[
        Selectable::field("reason"),
        Selectable { paths: &["involvedObject.kind"], ..Selectable::field("regarding.kind") },
        Selectable { paths: &["involvedObject.namespace"], ..Selectable::field("regarding.namespace") },
        Selectable { paths: &["involvedObject.name"], ..Selectable::field("regarding.name") },
        Selectable { paths: &["involvedObject.uid"], ..Selectable::field("regarding.uid") },
        Selectable { paths: &["involvedObject.apiVersion"], ..Selectable::field("regarding.apiVersion") },
        Selectable { paths: &["involvedObject.resourceVersion"], ..Selectable::field("regarding.resourceVersion") },
        Selectable { paths: &["involvedObject.fieldPath"], ..Selectable::field("regarding.fieldPath") },
        Selectable { paths: &["reportingComponent"], ..Selectable::field("reportingController") },
        Selectable::field("type"),
    ],
    validate: |event, errors| rules::validate_new(&stored(event), errors),
    validate_update: Some(|new, old, errors| rules::validate_new_update(&stored(new), &stored(old), errors)),
    printer: &Printer { columns: columns::EVENT, cells: |event, now| cells(&stored(event), now) },
    ..STRATEGY
};

/// Names of fields: as they are stored, and in the group `events.k8s.io`.
const FIELDS: [[&str; 2]; 7] = [
    ["involvedObject", "regarding"],
    ["message", "note"],
    ["reportingComponent", "reportingController"],
    ["source", "deprecatedSource"],
    ["firstTimestamp", "deprecatedFirstTimestamp"],
    ["lastTimestamp", "deprecatedLastTimestamp"],
    ["count", "deprecatedCount"],
];

fn to_stored(event: &mut Value) {
    rename(event, |[stored, own]| [own, stored]);
    complete("", event);
}

/// Puts an event into the form in which a group writes it.
fn complete(group: &str, event: &mut Value) {
    let of = Type::of_kind(group, "v1", "Event").expect("both groups publish events");
    machinery_schema::decode::complete(of, event);
}

fn stored(event: &Value) -> Value {
    let mut event = event.clone();
    to_stored(&mut event);
    event
}

/// Gives fields their names of the other group; `order` says from what to what.
fn rename(event: &mut Value, order: fn([&'static str; 2]) -> [&'static str; 2]) {
    let fields = event.fields();
    let moved: Map<String, Value> = FIELDS
        .into_iter()
        .map(order)
        .filter_map(|[from, to]| fields.remove(from).map(|value| (to.to_owned(), value)))
        .collect();
    fields.extend(moved);
}

static PRINTER: Printer = Printer { columns: columns::EVENT, cells };

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let or_unknown = |time: &str| if time.is_empty() { "<unknown>".to_owned() } else { since(time, now) };
    let series = event.part("series");
    let first = match event.text("firstTimestamp") {
        "" => or_unknown(event.text("eventTime")),
        time => or_unknown(time),
    };
    let last = match event.text("lastTimestamp") {
        _ if !series.is_null() => or_unknown(series.text("lastObservedTime")),
        "" => first.clone(),
        time => or_unknown(time),
    };
    let count = if series.is_null() { event.int("count").max(1) } else { series.int("count") };
    let involved = event.part("involvedObject");
    let kind = involved.text("kind").to_lowercase();
    let target = if involved.text("name").is_empty() { kind } else { format!("{kind}/{}", involved.text("name")) };
    let source = event.part("source");
    let first_of = |one: &'static str, other: &'static str| match source.text(one) {
        "" => event.text(other),
        text => text,
    };
    let component = first_of("component", "reportingComponent");
    let instance = first_of("host", "reportingInstance");
    let source = if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") };
    vec![
        last.into(),
        event.text("type").into(),
        event.text("reason").into(),
        target.into(),
        involved.text("fieldPath").into(),
        source.into(),
        event.text("message").trim().into(),
        first.into(),
        json!(count),
        name(event),
    ]
}
