//! How objects are converted between versions.

use std::collections::HashSet;

use serde_json::Value;

use super::{items, text};
use crate::{FieldError, go_url::Url, names::dns_1035_label};

/// Versions of the review that webhooks and this API can speak.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

pub(super) fn check(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(conversion) = spec.get("conversion").filter(|conversion| conversion.is_object()) else { return errors };
    let strategy = text(conversion, "strategy");
    if strategy != "None" && spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.push(FieldError::invalid("spec.conversion.strategy", &strategy.into(), detail));
    }
    match strategy {
        "" => errors.push(FieldError::required("spec.conversion.strategy", "")),
        "None" | "Webhook" => {}
        other => {
            let supported = ["None", "Webhook"];
            errors.push(FieldError::not_supported("spec.conversion.strategy", &other.into(), &supported));
        }
    }
    let webhook = conversion.get("webhook").unwrap_or(&Value::Null);
    let client = webhook.get("clientConfig").filter(|client| client.is_object());
    let versions = items(webhook, "conversionReviewVersions");
    let client_path = "spec.conversion.webhookClientConfig";
    let versions_path = "spec.conversion.conversionReviewVersions";
    if strategy == "Webhook" {
        match client {
            None => errors.push(FieldError::required(client_path, "required when strategy is set to Webhook")),
            Some(client) => errors.extend(check_client(client, client_path)),
        }
        errors.extend(check_review_versions(versions, versions_path));
    } else {
        let detail = "should not be set when strategy is not set to Webhook";
        if client.is_some() {
            errors.push(FieldError::forbidden(client_path, detail));
        }
        if !versions.is_empty() {
            errors.push(FieldError::forbidden(versions_path, detail));
        }
    }
    errors
}

fn check_client(client: &Value, path: &str) -> Vec<FieldError> {
    let given = |key: &str| client.get(key).filter(|value| !value.is_null());
    match (given("url"), given("service")) {
        (Some(url), None) => check_url(url.as_str().unwrap_or_default(), &format!("{path}.url")),
        (None, Some(service)) => check_service(service, &format!("{path}.service")),
        _ => vec![FieldError::required(path, "exactly one of url or service is required")],
    }
}

fn check_url(text: &str, path: &str) -> Vec<FieldError> {
    let form = "; desired format: https://host[/path]";
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => {
            return vec![FieldError::required(path, &format!("url must be a valid URL: {error}{form}"))];
        }
    };
    let mut errors = Vec::new();
    if url.scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{form}");
        errors.push(FieldError::invalid(path, &url.scheme.as_str().into(), detail));
    }
    if url.host.is_empty() {
        errors.push(FieldError::invalid(path, &url.host.as_str().into(), format!("host must be specified{form}")));
    }
    let user = url.user.as_deref().unwrap_or_default();
    if url.user.is_some() {
        errors.push(FieldError::invalid(path, &user.into(), "user information is not permitted in the URL"));
    }
    if !url.fragment.is_empty() {
        let detail = "fragments are not permitted in the URL";
        errors.push(FieldError::invalid(path, &url.fragment.as_str().into(), detail));
    }
    if !url.query.is_empty() {
        let detail = "query parameters are not permitted in the URL";
        errors.push(FieldError::invalid(path, &url.query.as_str().into(), detail));
    }
    errors
}

fn check_service(service: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, detail) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
        if text(service, key).is_empty() {
            errors.push(FieldError::required(format!("{path}.{key}"), detail));
        }
    }
    let port = service.get("port").and_then(Value::as_i64).unwrap_or(443);
    if !(1..=65_535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(format!("{path}.port"), &port.into(), detail));
    }
    let Some(url_path) = service.get("path").and_then(Value::as_str) else { return errors };
    let path = format!("{path}.path");
    if !url_path.starts_with('/') {
        errors.push(FieldError::invalid(path.as_str(), &url_path.into(), "must start with a '/'"));
    }
    let inner = url_path.strip_prefix('/').unwrap_or(url_path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if url_path == "/" {
        return errors;
    }
    for (position, step) in inner.split('/').enumerate() {
        if step.is_empty() {
            let detail = format!("segment[{position}] may not be empty");
            errors.push(FieldError::invalid(path.as_str(), &url_path.into(), detail));
        } else if let Some(why) = crate::names::dns_1123_subdomain(step) {
            let detail = format!("segment[{position}]: {why}");
            errors.push(FieldError::invalid(path.as_str(), &url_path.into(), detail));
        }
    }
    errors
}

fn check_review_versions(versions: &[Value], path: &str) -> Vec<FieldError> {
    if versions.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for (position, version) in versions.iter().enumerate() {
        let path = format!("{path}[{position}]");
        if !seen.insert(version) {
            errors.push(FieldError::invalid(path, version, "duplicate version"));
        } else if let Some(why) = dns_1035_label(version.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(path, version, why));
        }
    }
    if !versions.iter().any(|version| version.as_str().is_some_and(|version| REVIEW_VERSIONS.contains(&version))) {
        let detail = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(FieldError::invalid(path, &Value::from(versions.to_vec()), detail));
    }
    errors
}
