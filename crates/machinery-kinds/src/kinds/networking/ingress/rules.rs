//! What an Ingress must be.

use serde_json::Value;

use super::CLASS_ANNOTATION;
use crate::{
    checks,
    kinds::{core::service::balancer_name, networking::ingress_class::typed_reference},
    kit::{Errors, Path, Read},
};

/// What the old object has already and keeps.
#[derive(Clone, Copy, Default)]
struct Options {
    any_secret_name: bool,
    any_wildcard_rule: bool,
}

pub(super) fn validate_create(ingress: &Value, errors: &mut Errors) {
    validate(ingress.part("spec"), Options::default(), errors);
    let annotations = ingress.part("metadata").part("annotations");
    if let (Some(old), Some(class)) =
        (annotations.part(CLASS_ANNOTATION).as_str(), ingress.part("spec").part("ingressClassName").as_str())
        && old != class
    {
        let detail = "must match `ingressClassName` when both are specified";
        errors.invalid(&Path::at("annotations").field(CLASS_ANNOTATION), old, detail);
    }
}

pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let before = old.part("spec");
    let options = Options {
        any_secret_name: before.items("tls").iter().any(|tls| !secret_name(tls.text("secretName")).is_empty()),
        any_wildcard_rule: before.items("rules").iter().filter(|rule| rule.text("host").contains('*')).any(|rule| {
            let mut errors = Errors::default();
            check_http(rule, &Path::ROOT, &mut errors);
            !errors.is_empty()
        }),
    };
    validate(new.part("spec"), options, errors);
}

pub(super) fn validate_status(new: &Value, old: &Value, errors: &mut Errors) {
    let at = Path::at("status.loadBalancer.ingress");
    let points = |ingress: &Value| ingress.part("status").part("loadBalancer").items("ingress").to_vec();
    let before = points(old);
    let held: Vec<&str> = before.iter().map(|point| point.text("ip")).collect();
    for (number, point) in points(new).iter().enumerate() {
        let at = at.index(number);
        if !point.text("ip").is_empty() {
            checks::legacy_ip(point.text("ip"), &held, &at.field("ip"), errors);
        }
        balancer_name(point.text("hostname"), &at.field("hostname"), errors);
    }
}

fn validate(spec: &Value, options: Options, errors: &mut Errors) {
    let at = Path::at("spec");
    let (rules, backend) = (spec.items("rules"), spec.part("defaultBackend"));
    if rules.is_empty() && backend.is_null() {
        errors.invalid(&at, spec.part("rules").clone(), "either `defaultBackend` or `rules` must be specified");
    }
    if !backend.is_null() {
        check_backend(backend, &at.field("defaultBackend"), errors);
    }
    for (number, rule) in rules.iter().enumerate() {
        let at = at.field("rules");
        check_rule(rule, options, &at.index(number), errors);
    }
    for (number, tls) in spec.items("tls").iter().enumerate() {
        let at = at.field("tls");
        let at = at.index(number);
        for (number, host) in tls.texts("hosts").enumerate() {
            let hosts = at.field("hosts");
            errors.invalid_each(&hosts.index(number), host, host_messages(host));
        }
        if !options.any_secret_name {
            let name = tls.text("secretName");
            errors.invalid_each(&at.field("secretName"), name, secret_name(name));
        }
    }
    if let Some(class) = spec.part("ingressClassName").as_str() {
        errors.invalid_each(&at.field("ingressClassName"), class, checks::dns_subdomain(class));
    }
}

fn secret_name(name: &str) -> checks::Messages {
    if name.is_empty() { checks::Messages::new() } else { checks::dns_subdomain(name) }
}

fn host_messages(host: &str) -> checks::Messages {
    if host.contains('*') { checks::wildcard_dns_subdomain(host) } else { checks::dns_subdomain(host) }
}

fn check_rule(rule: &Value, options: Options, at: &Path<'_>, errors: &mut Errors) {
    let host = rule.text("host");
    if !host.is_empty() {
        if checks::parse_ip(host).is_some() {
            errors.invalid(&at.field("host"), host, "must be a DNS name, not an IP address");
        }
        errors.invalid_each(&at.field("host"), host, host_messages(host));
    }
    if !host.contains('*') || !options.any_wildcard_rule {
        check_http(rule, at, errors);
    }
}

fn check_http(rule: &Value, at: &Path<'_>, errors: &mut Errors) {
    let Some(http) = rule.some("http") else { return };
    let at = at.field("http");
    let at = at.field("paths");
    if http.items("paths").is_empty() {
        errors.required(&at, "");
    }
    for (number, path) in http.items("paths").iter().enumerate() {
        check_path(path, &at.index(number), errors);
    }
}

fn check_path(path: &Value, at: &Path<'_>, errors: &mut Errors) {
    let Some(kind) = path.part("pathType").as_str() else {
        return errors.required(&at.field("pathType"), "pathType must be specified");
    };
    let (text, text_at) = (path.text("path"), at.field("path"));
    let is_absolute = text.starts_with('/');
    match kind {
        "Exact" | "Prefix" => {
            if !is_absolute {
                errors.invalid(&text_at, text, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|bad| text.contains(bad)) {
                errors.invalid(&text_at, text, format!("must not contain '{bad}'"));
            }
            for bad in ["/..", "/."].into_iter().filter(|bad| text.ends_with(bad)) {
                errors.invalid(&text_at, text, format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !is_absolute {
                errors.invalid(&text_at, text, "must be an absolute path");
            }
        }
        other => {
            errors.not_supported(&at.field("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]);
        }
    }
    check_backend(path.part("backend"), &at.field("backend"), errors);
}

fn check_backend(backend: &Value, at: &Path<'_>, errors: &mut Errors) {
    let (resource, service) = (backend.part("resource"), backend.part("service"));
    match (resource.is_null(), service.is_null()) {
        (false, false) => errors.invalid(at, "", "cannot set both resource and service backends"),
        (false, true) => typed_reference(resource, &at.field("resource"), errors),
        (true, true) => errors.invalid(at, "", "resource or service backend is required"),
        (true, false) => {
            let service_at = at.field("service");
            match service.text("name") {
                "" => errors.required(&service_at.field("name"), ""),
                name => errors.invalid_each(&service_at.field("name"), name, checks::dns_label(name)),
            }
            let port_at = service_at.field("port");
            let port = service.part("port");
            match (port.text("name"), port.int("number")) {
                ("", 0) => errors.required(at, "port name or number is required"),
                ("", number) => {
                    for message in checks::port_number(number) {
                        errors.invalid(&port_at.field("number"), number, message);
                    }
                }
                (name, 0) => errors.invalid_each(&port_at.field("name"), name, checks::port_name(name)),
                _ => errors.invalid(at, "", "cannot set both port name & port number"),
            }
        }
    }
}
