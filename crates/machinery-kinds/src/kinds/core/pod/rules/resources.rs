//! Amounts of resources: of a container, of the pod as a whole, and claims of devices.

use std::collections::BTreeSet;

use api_kube::Quantity;
use serde_json::Value;

use super::{Context, containers_of};
use crate::{
    checks,
    kinds::{
        core::pod::resources::{aggregate, amounts, is_pod_level},
        internal,
        resources::{container_resource_name, is_huge_page, may_be_overcommitted, resource_name, resource_quantity},
    },
    kit::{Errors, Path, Read},
};

type CheckName = fn(&str, &Path<'_>, &mut Errors);

pub(super) fn of_container(context: &Context<'_>, container: &Value, path: &Path<'_>, errors: &mut Errors) {
    requirements(context, container.part("resources"), container_resource_name, path, errors);
}

/// What the pod needs beside its containers.
pub(super) fn overhead(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let limits = serde_json::json!({"limits": context.spec.part("overhead")});
    requirements(context, &limits, container_resource_name, path, errors);
}

fn requirements(context: &Context<'_>, resources: &Value, check: CheckName, path: &Path<'_>, errors: &mut Errors) {
    let limits = amounts(resources.part("limits"));
    let requests = amounts(resources.part("requests"));
    let (limits_at, requests_at) = (path.field("limits"), path.field("requests"));
    for (name, quantity) in &limits {
        amount(context, name, *quantity, check, &limits_at.key(name), errors);
    }
    for (name, quantity) in &requests {
        amount(context, name, *quantity, check, &requests_at.key(name), errors);
        match limits.get(name) {
            Some(limit) if quantity != limit && !may_be_overcommitted(name) => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.invalid(&requests_at, quantity.to_string(), detail);
            }
            Some(limit) if quantity > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&requests_at, quantity.to_string(), detail);
            }
            None if !may_be_overcommitted(name) => {
                errors.required(&limits_at, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    let has = |is: &dyn Fn(&str) -> bool| limits.keys().chain(requests.keys()).any(|name| is(name));
    if has(&is_huge_page) && !has(&|name| matches!(name, "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    claims_of_container(context, resources.items("claims"), &path.field("claims"), errors);
}

fn amount(
    context: &Context<'_>,
    name: &str,
    quantity: Quantity,
    check: CheckName,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    check(name, path, errors);
    resource_quantity(name, &quantity.to_string().into(), path, errors);
    if is_huge_page(name) && !context.options.any_huge_page_amount && !is_divisible(name, quantity) {
        let detail = format!("{quantity} is not positive integer multiple of {name}");
        errors.invalid(path, quantity.to_string(), detail);
    }
}

/// Whether an amount is one of whole pages, whose size is in the name of the resource.
fn is_divisible(name: &str, quantity: Quantity) -> bool {
    let size = name.strip_prefix("hugepages-").and_then(|size| size.parse::<Quantity>().ok());
    size.is_some_and(|size| {
        size > Quantity::ZERO && size.milli_value() % 1000 == 0 && quantity.value() % size.value().max(1) == 0
    })
}

/// Whether a container of the spec has an amount that is not one of whole pages.
pub(super) fn has_indivisible_huge_pages(spec: &Value) -> bool {
    containers_of(spec).any(|(_, _, container)| {
        let resources = container.part("resources");
        ["limits", "requests"].iter().any(|list| {
            amounts(resources.part(list))
                .iter()
                .any(|(name, quantity)| is_huge_page(name) && !is_divisible(name, *quantity))
        })
    })
}

fn pod_resource(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let before = errors.len();
    resource_name(name, path, errors);
    if errors.len() == before && !is_pod_level(name) {
        errors.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
}

/// Resources of the pod as a whole.
pub(super) fn of_pod(context: &Context<'_>, path: &Path<'_>, errors: &mut Errors) {
    let Some(resources) = context.spec.some("resources") else { return };
    let path = path.field("resources");
    if context.os() == Some("windows") {
        errors.forbidden(&path, "may not be set for a windows pod");
        return;
    }
    if resources.has("claims") {
        errors.forbidden(&path.field("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(context, resources, pod_resource, &path, errors);
    let (requests, limits) = (amounts(resources.part("requests")), amounts(resources.part("limits")));
    let at = path.field("requests");
    for (name, sum) in aggregate(context.spec, "requests") {
        if let Some(request) = requests.get(&name).filter(|request| sum > **request) {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&at.key(&name), request.to_string(), detail);
        }
    }
    let at = path.field("limits");
    for (name, sum) in aggregate(context.spec, "limits").into_iter().filter(|(name, _)| is_huge_page(name)) {
        if let Some(limit) = limits.get(&name).filter(|limit| sum > **limit) {
            let detail = format!("must be greater than or equal to aggregate container limits of {sum}");
            errors.invalid(&at.key(&name), limit.to_string(), detail);
        }
    }
    let at = path.field("containers");
    for (number, container) in context.spec.items("containers").iter().enumerate() {
        for (name, amount) in amounts(container.part("resources").part("limits")) {
            if let Some(limit) = limits.get(&name).filter(|limit| amount > **limit) {
                let detail = format!("must be less than or equal to pod limits of {limit}");
                errors.invalid(&at.index(number).key(&name).field("limits"), amount.to_string(), detail);
            }
        }
    }
}

/// The claims of devices of the pod.
pub(super) fn claims_of_pod(spec: &Value, metadata: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    let is_mirror = metadata.is_some_and(|metadata| metadata.part("annotations").has(super::annotations::MIRROR));
    let mut names = BTreeSet::new();
    for (number, claim) in spec.items("resourceClaims").iter().enumerate() {
        if is_mirror {
            errors.forbidden(&Path::ROOT, "static pods do not support resource claims");
            continue;
        }
        let at = path.index(number);
        let name = claim.text("name");
        if name.is_empty() {
            errors.required(&at.field("name"), "");
        } else if !names.insert(name) {
            errors.duplicate(&at.field("name"), name);
        } else {
            errors.invalid_each(&at.field("name"), name, checks::dns_label(name));
        }
        let shown = || internal::json("PodResourceClaim", claim);
        match (claim.has("resourceClaimName"), claim.has("resourceClaimTemplateName")) {
            (true, true) => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid_as(&at, &shown(), detail);
            }
            (false, false) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid_as(&at, &shown(), detail);
            }
            _ => {}
        }
        for key in ["resourceClaimName", "resourceClaimTemplateName"] {
            if claim.has(key) {
                let name = claim.text(key);
                errors.invalid_each(&at.field(key), name, checks::dns_subdomain(name));
            }
        }
    }
}

/// Which of the pod's claims a container uses.
fn claims_of_container(context: &Context<'_>, claims: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for (number, claim) in claims.iter().enumerate() {
        let at = path.index(number);
        let (name, request) = (claim.text("name"), claim.text("request"));
        if name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        if names.contains(name) {
            errors.duplicate(&at, name);
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                errors.invalid_each(&at.field("request"), request, checks::dns_label(request));
                key = format!("{name}/{request}");
            }
            if names.contains(&key) {
                errors.duplicate(&at, key.as_str());
            } else if request.is_empty() {
                let has_part = |other: &String| other.split_once('/').is_some_and(|(claim, _)| claim == name);
                for _ in names.iter().filter(|other| has_part(other)) {
                    errors.duplicate(&at, name);
                }
            }
            names.insert(key);
        }
        if !context.claims.contains(name) {
            let known = context.claims.iter().copied().collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { " which is empty".to_owned() } else { format!(": {known}") };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{known}");
            errors.not_found_because(&at, name, &detail);
        }
    }
}
