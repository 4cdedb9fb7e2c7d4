//! What a NetworkPolicy must be.

use std::net::IpAddr;

use serde_json::Value;

use super::DIRECTIONS;
use crate::{
    checks::{self, Cidr, SelectorOptions},
    kit::{Errors, Path, Read},
};

/// Rules for the whole; `old` when it is a new version.
pub(super) fn validate(policy: &Value, old: Option<&Value>, errors: &mut Errors) {
    let before = old.map_or(&Value::Null, |old| old.part("spec"));
    let options = SelectorOptions::for_update([before.part("podSelector")]);
    let held: Vec<&str> = DIRECTIONS
        .into_iter()
        .flat_map(|(direction, peers)| before.items(direction).iter().flat_map(move |rule| rule.items(peers)))
        .flat_map(|peer| [peer.part("ipBlock").text("cidr")].into_iter().chain(peer.part("ipBlock").texts("except")))
        .collect();
    let (at, spec) = (Path::at("spec"), policy.part("spec"));
    checks::label_selector(spec.part("podSelector"), options, &at.field("podSelector"), errors);
    for (direction, peers) in DIRECTIONS {
        let at = at.field(direction);
        for (number, rule) in spec.items(direction).iter().enumerate() {
            let at = at.index(number);
            for (number, port) in rule.items("ports").iter().enumerate() {
                let at = at.field("ports");
                check_port(port, &at.index(number), errors);
            }
            for (number, peer) in rule.items(peers).iter().enumerate() {
                let at = at.field(peers);
                check_peer(peer, options, &held, &at.index(number), errors);
            }
        }
    }
    let types_at = at.field("policyTypes");
    if spec.items("policyTypes").len() > 2 {
        let shown = spec.part("policyTypes").clone();
        return errors.invalid(&types_at, shown, "may not specify more than two policyTypes");
    }
    for (number, kind) in spec.texts("policyTypes").enumerate() {
        if !matches!(kind, "Ingress" | "Egress") {
            errors.not_supported(&types_at.index(number), kind, &["Ingress", "Egress"]);
        }
    }
}

fn check_port(port: &Value, at: &Path<'_>, errors: &mut Errors) {
    let protocol = port.text("protocol");
    if port.has("protocol") && !checks::is_protocol(protocol) {
        errors.not_supported(&at.field("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let (end, end_at) = (port.some_int("endPort"), at.field("endPort"));
    match port.part("port") {
        Value::Null => {
            if let Some(end) = end {
                errors.invalid(&end_at, end, "may not be specified when `port` is not specified");
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                errors.invalid(&end_at, end, "may not be specified when `port` is non-numeric");
            }
            errors.invalid_each(&at.field("port"), name, checks::port_name(name));
        }
        number => {
            let number = number.as_i64().unwrap_or_default();
            for message in checks::port_number(number) {
                errors.invalid(&at.field("port"), number, message);
            }
            if let Some(end) = end {
                if end < number {
                    errors.invalid(&end_at, number, "must be greater than or equal to `port`");
                }
                for message in checks::port_number(end) {
                    errors.invalid(&end_at, end, message);
                }
            }
        }
    }
}

fn check_peer(peer: &Value, options: SelectorOptions, held: &[&str], at: &Path<'_>, errors: &mut Errors) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"].into_iter().filter(|field| peer.has(field)) {
        count += 1;
        checks::label_selector(peer.part(field), options, &at.field(field), errors);
    }
    if peer.has("ipBlock") {
        count += 1;
        check_block(peer.part("ipBlock"), held, &at.field("ipBlock"), errors);
    }
    if count == 0 {
        errors.required(at, "must specify a peer");
    } else if count > 1 && peer.has("ipBlock") {
        errors.forbidden(at, "may not specify both ipBlock and another peer");
    }
}

fn check_block(block: &Value, held: &[&str], at: &Path<'_>, errors: &mut Errors) {
    let range = block.text("cidr");
    if range.is_empty() {
        return errors.required(&at.field("cidr"), "");
    }
    checks::legacy_cidr(range, held, &at.field("cidr"), errors);
    let Some(range) = checks::parse_cidr(range) else { return };
    let at = at.field("except");
    for (number, except) in block.texts("except").enumerate() {
        checks::legacy_cidr(except, held, &at.index(number), errors);
        if let Some(inner) = checks::parse_cidr(except)
            && !is_strictly_within(inner, range)
        {
            errors.invalid(&at.index(number), except, "must be a strict subset of `cidr`");
        }
    }
}

fn is_strictly_within(inner: Cidr, outer: Cidr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(outer.bits.min(128))).unwrap_or(0);
    inner.address.is_ipv4() == outer.address.is_ipv4()
        && bits(inner.address) & mask == bits(outer.address) & mask
        && outer.bits < inner.bits
}
