//! Names and addresses: DNS, host names, ports of the host.

use serde_json::Value;

use super::{Options, one_of};
use crate::{
    checks,
    kit::{Errors, Path, Read},
};

const NAMESERVERS_MAX: usize = 3;
const SEARCH_PATHS_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;
const HOST_NAME_BYTES_MAX: usize = 64;

/// On the host's network a port of a container is the host's own.
pub(super) fn ports_of_host(spec: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    if !spec.flag("hostNetwork") {
        return;
    }
    let at = path.field("containers");
    for (number, container) in spec.items("containers").iter().enumerate() {
        for (position, port) in container.items("ports").iter().enumerate() {
            let host_port = port.int("hostPort");
            if (options.is_pod || host_port != 0) && host_port != port.int("containerPort") {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&at.index(number).field("ports").index(position).field("hostPort"), host_port, detail);
            }
        }
    }
}

pub(super) fn dns_policy(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    one_of(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], path, errors);
}

pub(super) fn dns_config(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let config = spec.some("dnsConfig");
    let servers = path.field("nameservers");
    if spec.text("dnsPolicy") == "None" {
        let Some(config) = config else {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        };
        if config.items("nameservers").is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&servers, detail);
            return;
        }
    }
    let Some(config) = config else { return };
    if config.items("nameservers").len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.invalid(&servers, config.items("nameservers"), detail);
    }
    for (number, server) in config.texts("nameservers").enumerate() {
        checks::legacy_ip(server, &[], &servers.index(number), errors);
    }
    let at = path.field("searches");
    let searches = config.items("searches");
    if searches.len() > SEARCH_PATHS_MAX {
        let detail = format!("must not have more than {SEARCH_PATHS_MAX} search paths");
        errors.invalid(&at, searches, detail);
    }
    let characters: usize = config.texts("searches").map(str::len).sum::<usize>() + searches.len().saturating_sub(1);
    if characters > SEARCH_CHARS_MAX {
        let detail =
            format!("must not have more than {SEARCH_CHARS_MAX} characters (including spaces) in the search list");
        errors.invalid(&at, searches, detail);
    }
    for (number, search) in config.texts("searches").enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        errors.invalid_each(&at.index(number), search, checks::dns_subdomain_with_underscore(search));
    }
    let at = path.field("options");
    for (number, option) in config.items("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.required(&at.index(number), "must not be empty");
        }
    }
}

pub(super) fn host_aliases(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (number, alias) in spec.items("hostAliases").iter().enumerate() {
        let at = path.index(number);
        checks::legacy_ip(alias.text("ip"), &[], &at.field("ip"), errors);
        let at = at.field("hostnames");
        for (number, name) in alias.texts("hostnames").enumerate() {
            errors.invalid_each(&at.index(number), name, checks::dns_subdomain(name));
        }
    }
}

pub(super) fn host_name_override(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !spec.has("hostnameOverride") {
        return;
    }
    let at = path.field("hostnameOverride");
    if spec.flag("setHostnameAsFQDN") {
        errors.forbidden(&at, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.flag("hostNetwork") {
        errors.forbidden(&at, "may not be specified when hostNetwork is true");
    }
    let name = spec.text("hostnameOverride");
    if name.len() > HOST_NAME_BYTES_MAX {
        errors.too_long(&at, HOST_NAME_BYTES_MAX);
    }
    errors.invalid_each(&at, name, checks::dns_subdomain(name));
}
