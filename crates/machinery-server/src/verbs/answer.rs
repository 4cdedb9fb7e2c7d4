//! POST to what is not stored; see [`crate::VirtualResource`].

use std::cell::RefCell;

use base_http::Body;
use bytes::Bytes;
use http::Response;
use serde_json::Value;

use crate::VirtualResource;
use crate::admission::Operation;
use crate::heavy::values_max;
use crate::negotiate::decode_body;
use crate::request::WriteOptions;
use crate::server::{Context, warn};
use crate::status::{self, ApiError, Result};

pub(crate) fn answer(context: &Context<'_>, resource: &dyn VirtualResource, body: &Bytes) -> Result<Response<Body>> {
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let mut object = decode_body(&context.headers, body, values_max(context.identity))?;
    let kind = resource.kind();
    let version =
        if kind.group.is_empty() { kind.version.to_owned() } else { format!("{}/{}", kind.group, kind.version) };
    let fields = object.as_object_mut().ok_or_else(|| ApiError::bad_request("the body must be an object"))?;
    let mut set = |field: &str, expected: &str| match fields.get(field).and_then(Value::as_str).unwrap_or_default() {
        "" => {
            fields.insert(field.to_owned(), expected.into());
            Ok(())
        }
        found if found == expected => Ok(()),
        found if field == "apiVersion" => Err(ApiError::bad_request(format!(
            "the API version in the data ({found}) does not match the expected API version ({expected})"
        ))),
        found => Err(ApiError::bad_request(format!(
            "{found} in version {:?} cannot be handled as a {expected}: no kind {found:?} is registered for version {version:?}",
            kind.version
        ))),
    };
    set("apiVersion", &version)?;
    set("kind", kind.kind)?;
    let refuse = |error| ApiError::admission(&context.info, context.name(), error);
    let (said, commits) = (RefCell::default(), RefCell::default());
    let request = context.admission_request(Operation::Create, context.name(), None, options, &said, &commits);
    for plugin in &context.server.admission {
        plugin.mutate(&request, &mut object).map_err(refuse)?;
    }
    let mut admit = |object: &Value| {
        let plugins = context.server.admission.iter();
        plugins.map(|plugin| plugin.validate(&request, object)).collect::<std::result::Result<(), _>>()
    };
    let answered = resource.create(&request, object, jiff::Timestamp::now(), &mut admit).map_err(refuse)?;
    let mut response = status::created(answered.to_string());
    warn(&mut response, &said.borrow());
    Ok(response)
}
