//! What all writes share: decoding, the way through schema and plug-ins, the commit.

use std::cell::RefCell;
use std::sync::Arc;

use base_http::Body;
use bytes::{Bytes, BytesMut};
use http::Response;
use machinery_kinds::ResourceInfo;
use machinery_merge::Managed;
use machinery_store::{CommitError, Expect, Key, Object, Op, Revision};
use serde_json::Value;

use crate::admission::{AdmissionRequest, Operation};
use crate::authorizer::Authorizer as _;
use crate::heavy::values_max;
use crate::negotiate::{Arity, BODY_BYTES_MAX, Form, partial_of_bytes, table};
use crate::object::{Encoded, decode, metadata, name_of, text_at};
use crate::owners::compact;
use crate::repeats::Repeats;
use crate::request::{FieldValidation, WriteOptions};
use crate::server::{Context, warn};
use crate::status::{self, ApiError, Result};
use crate::{Access, Decision, Target, kinds, object, services, typed};

/// An object with all its parts in place is a little larger than what the client sent.
const OBJECT_BYTES_MAX: usize = BODY_BYTES_MAX + 64 * 1024;

/// As much as an object's owners may be as JSON, all together: the fields of one request, and those of many of usual size. Every
/// reader pays for them.
const OWNERS_BYTES_MAX: usize = BODY_BYTES_MAX;

/// Owners that are smaller than this as they are stored are smaller than [`OWNERS_BYTES_MAX`] as JSON, whatever they own.
const OWNERS_COMPACT_BYTES_SMALL: usize = 32 * 1024;

/// Rejects owners that have become too large. Upstream drops all of them then, and nobody learns that there are no conflicts any more.
fn check_owners(managed: &Managed) -> Result<(), PutError> {
    let bytes = managed.to_json().map_or(0, |entries| entries.len());
    if bytes <= OWNERS_BYTES_MAX {
        return Ok(());
    }
    Err(PutError::Refused(ApiError::too_large(format!(
        "metadata.managedFields would have {bytes} bytes, which is more than the {OWNERS_BYTES_MAX} that an object may have: apply it \
         under fewer managers, or begin anew with a patch that sets metadata.managedFields to [{{}}]"
    ))))
}

impl Context<'_> {
    /// Checks that an object has the name that the URL has.
    pub(crate) fn check_name(&self, sent: &Value) -> Result<()> {
        let in_url = self.name();
        match name_of(sent) {
            "" => Err(ApiError::bad_request(format!(
                "the name of the object ({in_url} based on URL) was undeterminable: name must be provided"
            ))),
            name if name == in_url => Ok(()),
            name => Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({in_url})"
            ))),
        }
    }

    /// The name that the store has for the resource.
    pub(crate) fn resource_key(&self) -> String {
        self.info.storage_key.to_string()
    }

    /// The namespace of the request; empty for cluster-scoped resources.
    pub(crate) fn namespace(&self) -> &str {
        self.path.namespace.as_deref().unwrap_or_default()
    }

    /// The name of the request; empty when it names no object.
    pub(crate) fn name(&self) -> &str {
        self.path.name.as_deref().unwrap_or_default()
    }

    /// The store's key of an object of the request's resource and namespace.
    pub(crate) fn key(&self, name: &str) -> Key {
        Key::new(&self.resource_key(), self.namespace(), name)
    }

    /// The object of the request, as last written.
    pub(crate) fn stored(&self) -> Result<Arc<Object>> {
        let object = self.server.store.get(&self.key(self.name()));
        object.ok_or_else(|| ApiError::not_found(&self.info, self.name()))
    }

    /// Reads an object that a client sent, or that a patch made: its kind must be the URL's, its types right; defaults are
    /// filled in.
    pub(crate) fn read(
        &self,
        object: &mut Value,
        repeats: Repeats,
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        self.check_kind(object)?;
        decode_as(&self.info, object, repeats, validation, warnings)?;
        self.apply_defaults(object)
    }

    /// Fills in what an author may leave out.
    pub(crate) fn apply_defaults(&self, object: &mut Value) -> Result<()> {
        self.info.apply_defaults(object).map_err(|error| ApiError::too_large(error.to_string()))
    }

    /// Decodes the body of a request that sends an object of the resource's kind.
    pub(crate) fn decode_body(&self, body: &Bytes) -> Result<Value> {
        typed::decode(&self.headers, body, values_max(self.identity), &self.info.kind).map_err(|error| {
            let number = typed::number_beyond(&self.headers, body).filter(|_| self.info.is_custom());
            let why =
                number.map(|number| format!("json: cannot unmarshal number {number} into Go value of type float64"));
            why.map_or(error, |why| refused(&self.info, &why))
        })
    }

    /// Fills in `apiVersion` and `kind` where the client left them out, and refuses others than the URL's.
    pub(crate) fn check_kind(&self, object: &mut Value) -> Result<()> {
        typed::check_kind(&self.server.registry(), typed::Kind::of(&self.info), object)
    }

    /// Fills in the namespace where the client left it out, and refuses another than the URL's.
    pub(crate) fn settle_namespace(&self, object: &mut Value) -> Result<()> {
        let fields = metadata(object);
        match fields.get("namespace").and_then(Value::as_str).unwrap_or_default() {
            "" if self.namespace().is_empty() => drop(fields.remove("namespace")),
            "" => drop(fields.insert("namespace".to_owned(), self.namespace().into())),
            found if found == self.namespace() => {}
            _ => {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
        Ok(())
    }

    /// Decides again whether the caller may do this, now with the stored object in hand: in the step that reads, changes or
    /// deletes it, so that nothing that happened since the request came can make it another's.
    pub(crate) fn authorize_object(&self, object: &Object) -> Result<()> {
        let mut target = self.path.target(None);
        if let Target::Resource { name, .. } = &mut target {
            *name = Some(&object.key.name);
        }
        let access = Access { identity: self.identity, verb: self.verb, target, object: Some(object) };
        match self.server.authorizer.authorize(&access, &self.server.store) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(ApiError::forbidden_access(&access, &reason)),
        }
    }

    pub(crate) fn admission_request<'a>(
        &'a self,
        operation: Operation,
        name: &'a str,
        old: Option<&'a Value>,
        options: WriteOptions,
        warnings: &'a RefCell<Vec<String>>,
        commits: &'a RefCell<Vec<Op>>,
    ) -> AdmissionRequest<'a> {
        AdmissionRequest {
            operation,
            info: &self.info,
            subresource: self.path.subresource.as_deref(),
            namespace: self.namespace(),
            name,
            identity: self.identity,
            old,
            dry_run: options.dry_run,
            store: &self.server.store,
            warnings,
            commits,
        }
    }

    /// The first phase of admission: plug-ins may change the object. When one did, all see it once more.
    pub(crate) fn mutate(
        &self,
        operation: Operation,
        object: &mut Value,
        old: Option<&Value>,
        options: WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let name = name_of(object).to_owned();
        let (said, commits) = (RefCell::default(), RefCell::default());
        let request = self.admission_request(operation, &name, old, options, &said, &commits);
        let mut run = || {
            self.server.admission.iter().try_fold(false, |changed, plugin| {
                Ok::<_, crate::AdmissionError>(plugin.mutate(&request, object)? | changed)
            })
        };
        let changed = run().and_then(|changed| if changed { run() } else { Ok(false) });
        warnings.append(&mut said.borrow_mut());
        changed.map(|_| ()).map_err(|error| ApiError::admission(&self.info, shown_name(object), error))
    }

    /// The second phase of admission: plug-ins look at the object in its final form. Gives what a create is to be committed
    /// together with.
    pub(crate) fn validate(
        &self,
        operation: Operation,
        object: &Value,
        old: Option<&Value>,
        options: WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Op>> {
        let name = name_of(object);
        let (said, commits) = (RefCell::default(), RefCell::default());
        let request = self.admission_request(operation, name, old, options, &said, &commits);
        for plugin in &self.server.admission {
            plugin.validate(&request, object).map_err(|error| ApiError::admission(&self.info, name, error))?;
        }
        warnings.append(&mut said.borrow_mut());
        Ok(commits.into_inner())
    }

    /// Has plug-ins make a pod what it is on the node that it is bound to.
    pub(crate) fn place(&self, node: &str, pod: &mut Value, options: WriteOptions) -> Result<()> {
        let (name, stored) = (name_of(pod).to_owned(), pod.clone());
        let (said, commits) = (RefCell::default(), RefCell::default());
        let request = self.admission_request(Operation::Create, &name, Some(&stored), options, &said, &commits);
        for plugin in &self.server.admission {
            plugin.bind(&request, node, pod).map_err(|error| ApiError::admission(&self.info, &name, error))?;
        }
        Ok(())
    }

    /// Nothing is created in a namespace that is missing or being deleted. Returns what must still hold of the namespace
    /// when the object is written: a deletion that begins in between would leave the object behind.
    pub(crate) fn check_namespace(&self, name: &str) -> Result<Option<Op>> {
        if self.namespace().is_empty() {
            return Ok(None);
        }
        let key = Key::new("/namespaces", "", self.namespace());
        let namespace = self.server.store.get(&key);
        let namespace = namespace.ok_or_else(|| ApiError::namespace_not_found(self.namespace()))?;
        // The phase is an index field, so nothing is decoded for a create.
        if namespace.field("status.phase") == Some("Terminating") {
            return Err(ApiError::namespace_terminating(&self.info, name, self.namespace()));
        }
        Ok(Some(Op::Check { key, expect: Expect::Revision(namespace.revision) }))
    }

    /// Writes an object and gives it back as stored. What is decoded of it takes several times its size and is dropped
    /// before the wait for the disk, where many writes are at a time.
    pub(crate) async fn put(&self, object: Value, managed: &Managed, expect: Expect) -> Result<Bytes, PutError> {
        let put = self.encode(&object, managed, expect)?;
        drop(object);
        self.commit(put, Vec::new()).await
    }

    /// The definition of a custom object. It must still be there when one is written: an object under a deleted definition
    /// would come back with it.
    pub(crate) fn definition(&self) -> Option<Key> {
        self.info.is_custom().then(|| Key::new(crate::crd::RESOURCE, "", &self.info.qualified_name()))
    }

    /// Writes an object if `also` holds, or is written, in the same commit.
    pub(crate) async fn put_if(
        &self,
        object: &Value,
        managed: &Managed,
        expect: Expect,
        also: Vec<Op>,
    ) -> Result<Bytes, PutError> {
        self.commit(self.encode(object, managed, expect)?, also).await
    }

    fn encode(&self, object: &Value, managed: &Managed, expect: Expect) -> Result<Put, PutError> {
        // A few kinds are stored as another, which is what they are found by, too.
        let stored_as = self.info.stored_as().and_then(|(group, version, plural)| {
            let registry = self.server.registry();
            let stored = registry.resource(group, version, plural)?.clone();
            let mut object = object.clone();
            self.info.convert_to_stored(&mut object);
            object["apiVersion"] = stored.api_version().into();
            Some((stored, object))
        });
        let (info, object) = stored_as.as_ref().map_or((&self.info, object), |(info, object)| (info, object));
        let encoded = Arc::new(Encoded::new(object));
        if encoded.len() > OBJECT_BYTES_MAX {
            let error = machinery_kinds::FieldError::too_long("[]", OBJECT_BYTES_MAX);
            return Err(PutError::Refused(ApiError::invalid(&self.info, name_of(object), &[error])));
        }
        let index = object::index_fields(info, object);
        let owners = compact(managed);
        if owners.as_ref().is_some_and(|owners| owners.len() > OWNERS_COMPACT_BYTES_SMALL) {
            check_owners(managed)?;
        }
        let for_store = encoded.clone();
        let op = Op::Put {
            key: self.key(name_of(object)),
            expect,
            encode: Box::new(move |revision| machinery_store::Encoded {
                bytes: for_store.at(revision),
                managed: owners,
                index,
            }),
        };
        Ok(Put { op, encoded, is_terminating: object::is_terminating(object) })
    }

    async fn commit(&self, put: Put, also: Vec<Op>) -> Result<Bytes, PutError> {
        let Put { op, encoded, is_terminating } = put;
        let (ops, durability) = (also.into_iter().chain([op]).collect(), kinds::durability(&self.info));
        // Whoever makes space on a full disk begins with this, or ends a wait with it.
        let revisions = if is_terminating {
            self.server.store.commit_deletion(ops, durability).await
        } else {
            self.server.store.commit(ops, durability).await
        };
        match revisions {
            Ok(revisions) => Ok(encoded.at(revisions.last().copied().unwrap_or_default())),
            Err(CommitError::Conflict { .. } | CommitError::NotFound) => Err(PutError::Raced),
            Err(error) => Err(PutError::Refused(ApiError::commit(&error))),
        }
    }

    /// What a dry run answers: the object at the revision it has, or none.
    pub(crate) fn dry(object: &Value) -> Bytes {
        let revision = text_at(object, "/metadata/resourceVersion").parse().unwrap_or(Revision(0));
        let bytes = Encoded::new(object).at(revision);
        if revision == Revision(0) {
            // An object that was never stored has no revision.
            let mut object: Value = object.clone();
            object::metadata(&mut object).remove("resourceVersion");
            return object.to_string().into();
        }
        bytes
    }

    /// An object in the form that the client wants, as the answer to a write or a get.
    pub(crate) fn show(&self, bytes: Bytes, is_new: bool, warnings: &[String]) -> Result<Response<Body>> {
        let body = self.shown(bytes)?;
        let mut response = if is_new { status::created(body) } else { status::ok(body) };
        warn(&mut response, warnings);
        Ok(response)
    }

    fn shown(&self, bytes: Bytes) -> Result<Bytes> {
        let bytes = object::as_seen(&self.info, &bytes);
        let decoded = || {
            serde_json::from_slice::<Value>(&bytes)
                .map_err(|error| ApiError::internal(format!("a stored object cannot be read: {error}")))
        };
        Ok(match self.output.form {
            Form::Object => bytes,
            Form::Partial(_, Arity::List) => {
                let kind = super::read::go_type(&self.info.group, &self.info.kind, self.info.is_custom());
                let why =
                    format!("you requested PartialObjectMetadataList, but the requested object is not a list ({kind})");
                return Err(ApiError::no_such_form(why));
            }
            Form::Partial(version, Arity::One) => {
                let mut shown = BytesMut::new();
                partial_of_bytes(&bytes, version, &mut shown);
                shown.freeze()
            }
            Form::Table(version, include) => table(&self.info, &decoded()?, version, include).to_string().into(),
        })
    }
}

/// The error of a body that is no object of a kind.
fn refused(info: &ResourceInfo, error: &str) -> ApiError {
    let (kind, version) = (&info.kind, &info.version);
    ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
}

/// Reads what a client sent as an object of a kind: unknown fields are dropped, as the client wants them treated; `repeats` is
/// what its text has twice.
pub(super) fn decode_as(
    info: &ResourceInfo,
    object: &mut Value,
    repeats: Repeats,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let unknown = info.decode(object).map_err(|error| refused(info, &error.to_string()))?;
    let repeats = if info.is_custom() { repeats } else { repeats.without(&unknown) };
    match validation {
        FieldValidation::Strict => match repeats.strict_error(&unknown) {
            None => {}
            Some(error) => return Err(refused(info, &error)),
        },
        FieldValidation::Warn => warnings.extend(repeats.warnings(&unknown)),
        FieldValidation::Ignore => {}
    }
    Ok(())
}

/// What a rejection by a plug-in calls an object, which may have no name yet.
pub(crate) fn shown_name(object: &Value) -> &str {
    let names = [name_of(object), text_at(object, "/metadata/generateName")];
    names.into_iter().find(|name| !name.is_empty()).unwrap_or("Unknown")
}

/// An object on its way into the store.
struct Put {
    op: Op,
    encoded: Arc<Encoded>,
    is_terminating: bool,
}

/// Why a put did not happen.
pub(crate) enum PutError {
    /// The object is not what was expected any more; look again.
    Raced,
    /// Anything else.
    Refused(ApiError),
}

/// Takes `stored` away, and gives the revision of that. Those who watch see it for the last time as `last`.
pub(crate) async fn remove(context: &Context<'_>, stored: &Object, last: Bytes) -> Result<Revision, PutError> {
    let delete = Op::Delete {
        key: stored.key.clone(),
        expect: Expect::Revision(stored.revision),
        final_bytes: Box::new(move |revision| object::with_revision(&last, revision)),
    };
    match context.server.store.commit(vec![delete], kinds::durability(&context.info)).await {
        Ok(revisions) => {
            if services::are_services(&context.info) {
                if let Ok(service) = decode_stored(context, stored) {
                    context.server.services.release(&service);
                }
                services::delete_endpoints(&context.server.store, stored).await;
            }
            Ok(revisions.last().copied().unwrap_or_default())
        }
        Err(CommitError::Conflict { .. }) => Err(PutError::Raced),
        // Somebody else deleted it, and no one may say that it was still there.
        Err(CommitError::NotFound) => Err(PutError::Refused(ApiError::not_found(&context.info, &stored.key.name))),
        Err(error) => Err(PutError::Refused(ApiError::commit(&error))),
    }
}

/// The stored object with the revision it has.
pub(crate) fn decode_stored(context: &Context<'_>, stored: &Object) -> Result<Value> {
    decode(&context.info, stored)
}
