//! NetworkPolicy: who may talk to which pods.

mod rules;

use serde_json::{Value, json};

use crate::{
    checks,
    kit::{Path, Read, Write},
    strategy::Strategy,
    table::{Printer, age_of, columns, printers::name, printers::selector},
};

/// The lists of rules, and of the peers in each.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

pub(super) static STRATEGY: Strategy = Strategy {
    generation: true,
    defaults: |policy| {
        let spec = policy.make("spec");
        if spec.items("policyTypes").is_empty() {
            let has_egress = !spec.items("egress").is_empty();
            spec.set("policyTypes", if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
        }
        for (direction, _) in DIRECTIONS {
            for rule in spec.items_mut(direction) {
                rule.items_mut("ports").iter_mut().for_each(|port| port.default_to("protocol", "TCP"));
            }
        }
    },
    validate: |policy, errors| rules::validate(policy, None, errors),
    validate_update: Some(|new, old, errors| rules::validate(new, Some(old), errors)),
    warnings: |policy, _| warnings(policy),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

fn warnings(policy: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let (at, spec) = (Path::at("spec"), policy.part("spec"));
    for (direction, peers) in DIRECTIONS {
        let at = at.field(direction);
        for (number, rule) in spec.items(direction).iter().enumerate() {
            let at = at.index(number);
            let at = at.field(peers);
            for (number, peer) in rule.items(peers).iter().enumerate().filter(|(_, peer)| peer.has("ipBlock")) {
                let (at, block) = (at.index(number), peer.part("ipBlock"));
                let at = at.field("ipBlock");
                warnings.extend(checks::cidr_warnings(block.text("cidr"), &at.field("cidr")));
                let at = at.field("except");
                for (number, except) in block.texts("except").enumerate() {
                    warnings.extend(checks::cidr_warnings(except, &at.index(number)));
                }
            }
        }
    }
    warnings
}

static PRINTER: Printer = Printer {
    columns: columns::NETWORK_POLICY,
    cells: |policy, now| {
        vec![name(policy), selector(policy.part("spec").some("podSelector")).into(), age_of(policy, now)]
    },
};
