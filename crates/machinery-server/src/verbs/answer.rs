//! POST to what is not stored; see [`crate::VirtualResource`].

use std::cell::RefCell;

use base_http::Body;
use bytes::Bytes;
use http::Response;
use serde_json::Value;

use crate::VirtualResource;
use crate::admission::Operation;
use crate::heavy::values_max;
use crate::request::WriteOptions;
use crate::server::{Context, warn};
use crate::status::{self, ApiError, Result};

pub(crate) fn answer(context: &Context<'_>, resource: &dyn VirtualResource, body: &Bytes) -> Result<Response<Body>> {
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let kind = resource.kind();
    let mut warnings = Vec::new();
    let max = values_max(context.identity);
    let mut object = kind.read(&context.headers, body, max, options.field_validation, &mut warnings)?;
    resource.apply_defaults(&mut object);
    let subresource = context.path.subresource.as_deref().unwrap_or_default();
    kind.own(&context.headers, &context.query, subresource, &mut object)?;
    // What is answered to whoever creates something in a namespace is created in it.
    context.check_namespace(context.name())?;
    let refuse = |error| ApiError::admission(&context.info, context.name(), error);
    let (said, commits) = (RefCell::default(), RefCell::default());
    let request = context.admission_request(Operation::Create, context.name(), None, options, &said, &commits);
    for plugin in &context.server.admission {
        plugin.mutate(&request, &mut object).map_err(refuse)?;
    }
    let mut admit = |object: &Value| {
        let mut plugins = context.server.admission.iter();
        plugins.try_for_each(|plugin| plugin.validate(&request, object))
    };
    let answered = resource.create(&request, object, (context.server.now)(), &mut admit).map_err(refuse)?;
    warnings.append(&mut said.borrow_mut());
    let mut response = status::created(kind.complete(answered).to_string());
    warn(&mut response, &warnings);
    Ok(response)
}
