//! POST: a new object.

use base_http::Body;
use bytes::Bytes;
use http::Response;
use machinery_kinds::dedup_owner_references;
use machinery_kinds::services::{ServiceNumbers, service_numbers};
use machinery_merge::Managed;
use machinery_store::{Expect, Op};
use serde_json::Value;
use tracing::warn;

use super::write::{PutError, decode_stored, shown_name};
use crate::admission::Operation;
use crate::object::{is_terminating, metadata, name_of, text_at, timestamp};
use crate::owners::Owners;
use crate::repeats::Repeats;
use crate::request::WriteOptions;
use crate::server::Context;
use crate::status::{ApiError, Result};
use crate::{crd, kinds, services};

/// How often a create is tried when a random name is taken, which is seldom with five characters, or when the namespace is
/// written in the same moment: a storm of labels on it must not fail creates in it.
const TRIES: usize = 100;

/// Kubernetes' alphabet for random names: no vowels, so no words, and nothing that is mistaken for something else.
const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// `prefix` is cut so that the random part fits.
const GENERATE_PREFIX_MAX: usize = 58;

pub(crate) async fn create(context: &Context<'_>, body: &Bytes) -> Result<Response<Body>> {
    if let Some(resource) = context.server.virtual_resource(&context.path) {
        return super::answer::answer(context, &*resource, body);
    }
    let options = WriteOptions::parse(&context.query, "CreateOptions")?;
    let mut object = context.decode_body(body)?;
    let mut warnings = Vec::new();
    let repeats = Repeats::of(&context.headers, body, &object, options.field_validation);
    context.read(&mut object, repeats, options.field_validation, &mut warnings)?;
    context.settle_namespace(&mut object)?;
    warnings.extend(dedup_owner_references(&mut object, false));
    let managed = Owners::of(context).create(&mut object)?;
    let said = warnings.clone();
    create_object(context, object, managed, options, warnings).await.map_err(|error| error.with_warnings(&said))
}

/// What is said of a name that is taken.
fn taken(context: &Context<'_>, name: &str) -> ApiError {
    let held = context.server.store.get(&context.key(name)).and_then(|held| decode_stored(context, &held).ok());
    if held.as_ref().is_some_and(is_terminating) {
        ApiError::is_being_deleted(&context.info, name)
    } else {
        ApiError::already_exists(&context.info, name)
    }
}

/// Creates an object that has been read: the end of a POST, and of a PUT or an apply patch that finds nothing.
///
/// The order is upstream's: plug-ins may change the object, the server sets what is not up to its author, rules are
/// checked, plug-ins look at the result, and it is stored.
pub(crate) async fn create_object(
    context: &Context<'_>,
    mut object: Value,
    managed: Managed,
    options: WriteOptions,
    mut warnings: Vec<String>,
) -> Result<Response<Body>> {
    if !text_at(&object, "/metadata/resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let prefix = text_at(&object, "/metadata/generateName").to_owned();
    let is_generated = name_of(&object).is_empty() && !prefix.is_empty();
    let now = timestamp((context.server.now)());
    crd::check_creatable(&context.info, name_of(&object))?;
    let mut in_namespace = context.check_namespace(shown_name(&object))?;
    context.mutate(Operation::Create, &mut object, None, options, &mut warnings)?;
    warnings.extend(dedup_owner_references(&mut object, true));
    context.apply_defaults(&mut object)?;
    let reservation = match services::are_services(&context.info) {
        true => Some(context.server.services.begin_create(&context.info, &mut object)?),
        false => None,
    };
    // A kind may write the name into other places.
    if is_generated {
        set_generated_name(&mut object, &prefix);
    }
    kinds::prepare_create(&context.info, &mut object, context.identity, &now);
    let errors = context.info.validate(&object);
    if !errors.is_empty() {
        return Err(ApiError::invalid(&context.info, name_of(&object), &errors));
    }
    warnings.extend(context.info.warnings(&object, None));
    // As it will be read back: what the server has set may have defaults of its own.
    context.apply_defaults(&mut object)?;
    context.info.complete(&mut object);
    let mut together = context.validate(Operation::Create, &object, None, options, &mut warnings)?;
    let is_conditional = !together.is_empty();

    // Definitions change what is served: one at a time, and the registry only once the store has it.
    let is_crd = crd::is_crd(&context.info);
    let _guard = if is_crd { Some(context.server.crd_writes.lock().await) } else { None };
    if options.dry_run {
        if context.server.store.get(&context.key(name_of(&object))).is_some() {
            return Err(taken(context, name_of(&object)));
        }
        return context.show(context.with_owners(Context::dry(&object), &managed), true, &warnings);
    }
    let definition = context.definition();
    for _ in 0..TRIES {
        let is_defined = definition.clone().map(|key| Op::Check { key, expect: Expect::Present });
        let checks = in_namespace.take().into_iter().chain(is_defined).chain(together.drain(..)).collect();
        match context.put_if(&object, &managed, Expect::Absent, checks).await {
            Ok(bytes) => {
                if is_crd && let Err(error) = crd::settle(context.server, name_of(&object)).await {
                    warn!(crd = name_of(&object), %error, "A new definition is stored and not served yet.");
                }
                if let Some(reservation) = reservation {
                    reservation.confirm(&ServiceNumbers::default(), &service_numbers(&object));
                }
                return context.show(context.with_owners(bytes, &managed), true, &warnings);
            }
            Err(PutError::Raced) => {
                let is_taken = context.server.store.get(&context.key(name_of(&object))).is_some();
                match (is_taken, is_generated) {
                    (true, true) => {
                        set_generated_name(&mut object, &prefix);
                        // What was allowed under one name need not be under another.
                        together = context.validate(Operation::Create, &object, None, options, &mut warnings)?;
                    }
                    (true, false) => break,
                    (false, _) if definition.as_ref().is_some_and(|key| context.server.store.get(key).is_none()) => {
                        return Err(ApiError::no_such_page());
                    }
                    // What a plug-in relied on is another by now: does it still allow this?
                    (false, _) if is_conditional => {
                        together = context.validate(Operation::Create, &object, None, options, &mut warnings)?;
                    }
                    // The namespace was written meanwhile: is it still one to create in?
                    (false, _) => {}
                }
                in_namespace = context.check_namespace(name_of(&object))?;
            }
            Err(PutError::Refused(error)) => return Err(error),
        }
    }
    Err(taken(context, name_of(&object)))
}

fn set_generated_name(object: &mut Value, prefix: &str) {
    let kept = prefix.char_indices().nth(GENERATE_PREFIX_MAX).map_or(prefix, |(end, _)| &prefix[..end]);
    let random = uuid::Uuid::new_v4();
    let suffix: String = random.as_bytes()[..5]
        .iter()
        .map(|byte| char::from(NAME_ALPHABET[usize::from(*byte) % NAME_ALPHABET.len()]))
        .collect();
    metadata(object).insert("name".to_owned(), format!("{kept}{suffix}").into());
}
