//! ServiceCIDR: a range of addresses for Services.

use serde_json::Value;

use crate::{
    checks,
    kit::{Errors, Path, Read, Write},
    strategy::{Part, Strategy, restore_metadata_of},
    table::{Printer, age_of, columns, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    parts: &[Part {
        prepare: |new, old| {
            new.restore("spec", old);
            restore_metadata_of(new, old);
        },
        ..Part::STATUS
    }],
    validate,
    validate_update: Some(validate_update),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

fn validate(range: &Value, errors: &mut Errors) {
    let at = Path::at("spec.cidrs");
    let ranges: Vec<&str> = range.part("spec").texts("cidrs").collect();
    match ranges.len() {
        0 => return errors.required(&at, "at least one CIDR required"),
        1 | 2 => {}
        _ => {
            let shown = format!("{{\"CIDRs\":{}}}", range.part("spec").part("cidrs"));
            return errors.push(crate::FieldError::invalid_as(at.to_string(), &shown, "may only hold up to 2 values"));
        }
    }
    for (number, range) in ranges.iter().enumerate() {
        checks::cidr(range, &at.index(number), errors);
    }
    if let [one, other] = ranges[..]
        && let (Some(one), Some(other)) = (checks::parse_cidr(one), checks::parse_cidr(other))
        && one.address.is_ipv4() == other.address.is_ipv4()
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&at, range.part("spec").part("cidrs").clone(), detail);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let at = Path::at("spec.cidrs");
    let (now, held) = (new.part("spec").items("cidrs"), old.part("spec").items("cidrs"));
    let is_grown = held.len() == 1 && now.len() == 2;
    if now.len() != held.len() && !is_grown {
        return errors.invalid(&at, new.part("spec").part("cidrs").clone(), checks::IMMUTABLE);
    }
    for (number, (now, _)) in now.iter().zip(held).enumerate().filter(|(_, (now, held))| now != held) {
        errors.invalid(&at.index(number), now.clone(), checks::IMMUTABLE);
    }
    if is_grown {
        validate(new, errors);
    }
}

static PRINTER: Printer = Printer {
    columns: columns::SERVICE_CIDR,
    cells: |range, now| {
        let ranges: Vec<&str> = range.part("spec").texts("cidrs").collect();
        vec![name(range), ranges.join(",").into(), age_of(range, now)]
    },
};
