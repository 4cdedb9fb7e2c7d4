//! Volumes that are put together of several sources.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Options, file_mode, local_path, volumes};
use crate::{
    checks,
    kit::{Errors, Path, Read},
};

const DUPLICATE: &str = "conflicting duplicate paths";

pub(super) fn validate(volume: &Value, options: Options, path: &Path<'_>, errors: &mut Errors) {
    file_mode(volume, "defaultMode", path, errors);
    let mut places = BTreeSet::new();
    let at = path.field("sources");
    for (number, source) in volume.items("sources").iter().enumerate() {
        let at = at.index(number);
        for kind in ["secret", "configMap"] {
            if let Some(keys) = source.some(kind) {
                self::keys(keys, &mut places, &at.field(kind), path, errors);
            }
        }
        if let Some(api) = source.some("downwardAPI") {
            for file in api.items("items") {
                volumes::downward_file(file, &at.field("downwardAPI"), errors);
                let place = file.text("path");
                if !place.is_empty() && !places.insert(place) {
                    errors.invalid(path, place, DUPLICATE);
                }
            }
        }
        if let Some(token) = source.some("serviceAccountToken") {
            self::token(token, options, &at.field("serviceAccountToken"), path, errors);
        }
        if let Some(bundle) = source.some("clusterTrustBundle") {
            let at = at.field("clusterTrustBundle");
            self::bundle(bundle, &at, errors);
            if !places.insert(bundle.text("path")) {
                errors.invalid(path, bundle.text("path"), DUPLICATE);
            }
        }
        let kinds = ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle"];
        if kinds.iter().filter(|kind| source.has(kind)).count() > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

fn keys<'v>(keys: &'v Value, places: &mut BTreeSet<&'v str>, path: &Path<'_>, volume: &Path<'_>, errors: &mut Errors) {
    let name = keys.text("name");
    if name.is_empty() {
        errors.required(&path.field("name"), "");
    }
    let at = path.field("items");
    for (number, item) in keys.items("items").iter().enumerate() {
        volumes::key_to_path(item, &at.index(number), errors);
        let place = item.text("path");
        if !place.is_empty() && !places.insert(place) {
            errors.invalid(volume, name, DUPLICATE);
        }
    }
}

fn token(token: &Value, options: Options, path: &Path<'_>, volume: &Path<'_>, errors: &mut Errors) {
    let seconds = token.int("expirationSeconds");
    let at = path.field("expirationSeconds");
    if seconds < 600 {
        errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    // The path of the volume and not of the source, as upstream has it.
    let place = token.text("path");
    if place.is_empty() {
        errors.required(&volume.field("path"), "");
    } else if !options.any_token_path {
        local_path(place, &volume.field("path"), errors);
    }
}

fn bundle(bundle: &Value, path: &Path<'_>, errors: &mut Errors) {
    match (bundle.some("name"), bundle.some("signerName")) {
        (Some(_), Some(_)) => {
            errors.invalid(path, bundle.clone(), "only one of name and signerName may be used");
        }
        (Some(name), None) => {
            let name = name.as_str().unwrap_or_default();
            if name.is_empty() {
                errors.required(&path.field("name"), "must be a valid object name");
            }
            for message in checks::dns_subdomain(name.rsplit(':').next().unwrap_or_default()) {
                let detail = format!("not a valid clustertrustbundlename: {message}");
                errors.invalid(&path.field("name"), name, detail);
            }
            if let Some(selector) = bundle.some("labelSelector") {
                let detail = "labelSelector must be unset if name is specified";
                errors.invalid(&path.field("labelSelector"), selector.clone(), detail);
            }
        }
        (None, Some(signer)) => {
            if signer.as_str().unwrap_or_default().is_empty() {
                errors.required(&path.field("signerName"), "must be a valid signer name");
            }
            let options = checks::SelectorOptions::default();
            checks::label_selector(bundle.part("labelSelector"), options, &path.field("labelSelector"), errors);
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    super::required_text(bundle, "path", path, errors);
    local_path(bundle.text("path"), &path.field("path"), errors);
}

/// A pod without a service account has no tokens.
pub(super) fn forbid_tokens(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (number, volume) in spec.items("volumes").iter().enumerate() {
        for (position, source) in volume.part("projected").items("sources").iter().enumerate() {
            if source.has("serviceAccountToken") {
                let at = path.field("volumes");
                let at = at.index(number);
                let at = at.field("projected.sources");
                let at = at.index(position);
                let detail = "must not be specified when serviceAccountName is not set";
                errors.forbidden(&at.field("serviceAccountToken"), detail);
            }
        }
    }
}

/// Whether a token of the spec is written outside of its volume.
pub(super) fn has_outer_token_path(spec: &Value) -> bool {
    let sources = spec.items("volumes").iter().flat_map(|volume| volume.part("projected").items("sources"));
    sources.filter_map(|source| source.some("serviceAccountToken")).any(|token| {
        let mut errors = Errors::default();
        local_path(token.text("path"), &Path::ROOT, &mut errors);
        !errors.is_empty()
    })
}
