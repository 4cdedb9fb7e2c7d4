//! ComponentStatus: what the parts of a control plane say of themselves. Nothing stores it.

use serde_json::Value;

use crate::{
    kit::Read,
    strategy::Strategy,
    table::{Printer, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy { printer: &PRINTER, ..Strategy::PLAIN };

static PRINTER: Printer = Printer {
    columns: columns::COMPONENT_STATUS,
    cells: |component, _| {
        let healthy = component.items("conditions").iter().find(|condition| condition.text("type") == "Healthy");
        let (status, message, error) = match healthy {
            Some(condition) if condition.text("status") == "True" => {
                ("Healthy", condition.text("message"), condition.text("error"))
            }
            Some(condition) => ("Unhealthy", condition.text("message"), condition.text("error")),
            None => ("Unknown", "", ""),
        };
        [name(component)].into_iter().chain([status, message, error].map(Value::from)).collect()
    },
};
