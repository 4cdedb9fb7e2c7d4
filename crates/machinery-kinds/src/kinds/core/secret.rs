//! Secret: data that its type says more about.

use api_kube::base64_text;
use serde_json::{Value, json};

use crate::{
    kinds::data::{BYTES_MAX, check_key, check_sealed, decoded_bytes},
    kit::{Errors, Path, Read, Write},
    metadata::OnUpdate,
    strategy::{Selectable, Strategy},
    table::{Printer, age_of, columns, printers::keys, printers::name},
};

pub(super) static STRATEGY: Strategy = Strategy {
    metadata_on_update: OnUpdate::WholeAndChanges,
    selectable: &[Selectable::field("type")],
    prepare_create: |secret, _| move_string_data(secret),
    prepare_update: |new, _| move_string_data(new),
    defaults: |secret| {
        move_string_data(secret);
        secret.default_text("type", "Opaque");
    },
    validate,
    validate_update: Some(|new, old, errors| {
        if new.text("type") != old.text("type") {
            errors.invalid(&Path::at("type"), new.text("type"), "field is immutable");
        }
        check_sealed(new, old, &["data"], errors);
        validate(new, errors);
    }),
    printer: &PRINTER,
    ..Strategy::PLAIN
};

static PRINTER: Printer = Printer {
    columns: columns::SECRET,
    cells: |secret, now| {
        vec![name(secret), secret.text("type").into(), keys(secret, "/data").into(), age_of(secret, now)]
    },
};

/// `stringData` is for writing only: it wins over `data` and is stored encoded.
fn move_string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) = secret.unset("stringData") else { return };
    for (key, value) in plain {
        let encoded = base64_text::encode(value.as_str().unwrap_or_default().as_bytes());
        secret.make("data").set(&key, encoded);
    }
}

const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

fn validate(secret: &Value, errors: &mut Errors) {
    let data_at = Path::at("data");
    let mut bytes = 0;
    for (key, value) in secret.entries("data") {
        check_key(&data_at.key(key), key, errors);
        bytes += value.as_str().map_or(0, decoded_bytes);
    }
    if bytes > BYTES_MAX {
        errors.too_long(&data_at, BYTES_MAX);
    }
    let data = secret.part("data");
    match secret.text("type") {
        "kubernetes.io/service-account-token"
            if secret.part("metadata").part("annotations").text(ACCOUNT_NAME).is_empty() =>
        {
            errors.required(&Path::at("metadata.annotations").key(ACCOUNT_NAME), "");
        }
        "kubernetes.io/dockercfg" => check_docker_config(data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => check_docker_config(data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !data.has("username") && !data.has("password") => {
            errors.required(&data_at.key("username"), "");
            errors.required(&data_at.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if data.text("ssh-privatekey").is_empty() => {
            errors.required(&data_at.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"].into_iter().filter(|key| !data.has(key)) {
                errors.required(&data_at.key(key), "");
            }
        }
        _ => {}
    }
}

/// The configuration of a container registry's client is a JSON object.
fn check_docker_config(data: &Value, key: &str, errors: &mut Errors) {
    let at = Path::at("data");
    if !data.has(key) {
        errors.required(&at.key(key), "");
        return;
    }
    // Whether it is base64 has been checked with the types.
    let bytes = base64_text::decode(data.text(key)).unwrap_or_default();
    if let Err(error) = crate::kinds::go_json::check_object(&bytes) {
        errors.invalid(&at.key(key), json!("<secret contents redacted>"), error);
    }
}
