//! The formats of `format.NAME().validate(…)`, in the words of the rules that other objects have.

use crate::{go_url::Url, names};

/// What is wrong with text; nothing when it has the format.
pub(super) fn validate(format: &str, text: &str) -> Vec<String> {
    let masked = match text.strip_suffix('-') {
        Some(rest) if text.len() > 1 => {
            let mut chars: Vec<char> = rest.chars().collect();
            chars.pop();
            chars.into_iter().chain(['a']).collect()
        }
        _ => text.to_owned(),
    };
    let problem = |found: Option<String>| {
        found.into_iter().flat_map(|found| found.split(",must").map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    match format {
        "dns1123Label" => names::dns_1123_label(text),
        "dns1123LabelPrefix" => names::dns_1123_label(&masked),
        "dns1123Subdomain" => problem(names::dns_1123_subdomain(text)),
        "dns1123SubdomainPrefix" => problem(names::dns_1123_subdomain(&masked)),
        "dns1035Label" => names::dns_1035_label(text).into_iter().collect(),
        "dns1035LabelPrefix" => names::dns_1035_label(&masked).into_iter().collect(),
        "qualifiedName" => names::qualified_name(text),
        "labelValue" => names::label_value(text),
        "uri" => Url::parse_request(text).err().into_iter().collect(),
        "uuid" => wrong(!crate::structural::validates_format("uuid", text), "does not match the UUID format"),
        "byte" => wrong(!crate::structural::validates_format("byte", text), "invalid base64"),
        "date" => wrong(!crate::structural::validates_format("date", text), "invalid date"),
        "datetime" => wrong(!crate::structural::validates_format("datetime", text), "invalid datetime"),
        _ => Vec::new(),
    }
}

fn wrong(is_wrong: bool, why: &str) -> Vec<String> {
    if is_wrong { vec![why.to_owned()] } else { Vec::new() }
}

/// How long the pattern of a format is, for costs.
pub(super) fn regex_size(format: &str) -> u64 {
    match format {
        "dns1123Label" | "dns1123LabelPrefix" => 30,
        "dns1123Subdomain" | "dns1123SubdomainPrefix" => 60,
        "dns1035Label" | "dns1035LabelPrefix" => 30,
        "qualifiedName" => 60,
        "labelValue" => 40,
        "uri" => 1000,
        "uuid" => 72,
        "byte" => 128,
        _ => 48,
    }
}
