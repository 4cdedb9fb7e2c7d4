//! The way of a request to a resource: who may, by which route, in which turn, on which thread.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base_http::{Body, BodyPermit};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use machinery_kinds::{Registry, ResourceInfo};
use machinery_store::Key;

use super::{Context, Inner, Origin, RequestBody, warn};
use crate::bodies::{self, LEASE_BODY_BYTES_MAX};
use crate::dispatch::{check_path, connected, verb_of};
use crate::flow::{Entry, Lane};
use crate::heavy;
use crate::negotiate::{self, BODY_BYTES_MAX, Form, Media, Output};
use crate::outgoing;
use crate::request::{ListOptions, Query, ResourcePath};
use crate::status::{ApiError, Result};
use crate::work::Workers;
use crate::{
    Access, Authorizer as _, Decision, GROUP_MASTERS, GROUP_NODES, Identity, VirtualResource, flow_schemas, verbs,
};

/// Options of a deletion and questions about oneself are small.
const SMALL_BODY_BYTES_MAX: usize = 64 * 1024;

/// The same for nodes: what they write are statuses, events and leases. A node that was broken into has no use of more.
const NODE_BODY_BYTES_MAX: usize = 768 * 1024;

/// A request that has not been answered after this time will not be; as kube-apiserver's `--request-timeout`. A write
/// that has begun is finished all the same.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

impl Inner {
    /// Answers a request to a resource; who may use one that upstream has given up is warned whatever comes of it.
    pub(super) async fn answer_resource(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        identity: &Identity,
        path: ResourcePath,
        origin: Origin,
    ) -> Result<Response<Body>> {
        let warnings: Vec<String> = deprecation(&path).into_iter().map(str::to_owned).collect();
        let mut is_authorized = false;
        match self.route_resource(request, identity, path, origin, &mut is_authorized).await {
            Ok(mut response) => {
                warn(&mut response, &warnings);
                Ok(response)
            }
            Err(error) if is_authorized => Err(error.with_warnings(&warnings)),
            Err(error) => Err(error),
        }
    }

    async fn route_resource(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        identity: &Identity,
        path: ResourcePath,
        origin: Origin,
        is_authorized: &mut bool,
    ) -> Result<Response<Body>> {
        let query = Query::parse(request.uri().query())?;
        if let Some(review) = crate::reviews::Review::of(&path) {
            crate::reviews::check_path(request.method(), &path)?;
            // Asked again when the body is there; nothing is read from who may not.
            self.authorize_resource(identity, "create", &path, None)?;
            let lane = Lane::of(identity, None);
            let turn = self.enter(identity, lane, origin)?;
            let (parts, body) = request.into_parts();
            let (body, held) = self.read(identity, lane, body, SMALL_BODY_BYTES_MAX).await?;
            let (server, identity) = (self.clone(), identity.clone());
            let answer = async move {
                let _held = held;
                outgoing::check(&server, &identity)?;
                crate::reviews::answer(&server, &parts.headers, &body, &identity, &path, &query, review)
            };
            return self.work(turn, answer).await;
        }
        let registry = self.registry();
        let info = registry.resource(&path.group, &path.version, &path.plural).cloned();
        let verb = verb_of(request.method(), &path, &query);
        let shown_verb = if verb.is_empty() { request.method().as_str().to_lowercase() } else { verb.to_owned() };
        // Who may not see a resource does not learn whether there is one, nor what is wrong with the question.
        let options = matches!(verb, "list" | "watch" | "deletecollection").then(|| ListOptions::parse(&query));
        let asked = options.as_ref().and_then(|options| options.as_ref().ok());
        self.authorize_resource(identity, &shown_verb, &path, asked)?;
        *is_authorized = true;
        let Some(info) = info else { return Err(self.not_served(&registry, &path.group)) };
        check_path(&info, &path, request.method(), verb)?;
        check_patch(&info, verb, request.headers())?;
        let connected = connected(&path);
        let output = match connected {
            Some(_) => Output { form: Form::Object, media: Media::Json },
            None => negotiate::output(&info, verb, request.headers(), &query)?,
        };
        let mut options = options.transpose()?;
        if let (Some(options), Some(name)) = (&mut options, path.name.as_deref().filter(|_| path.is_watch)) {
            options.only(name)?;
        }
        let lane = match Lane::of(identity, Some((verb, &path))) {
            // It has been made large, and costs what others do.
            Lane::Lease if self.stored_bytes(&info, &path) > LEASE_BODY_BYTES_MAX => Lane::Shared,
            lane => lane,
        };
        if let Some(options) = &options
            && lane != Lane::Masters
        {
            options.check_conditions()?;
        }

        if let Some(connected) = connected {
            let turn = self.open_stream(identity, lane, origin)?.map(Arc::new);
            let headers = request.headers().clone();
            let turn_of = turn.clone();
            let context = Context { server: self, identity, verb, info, path, query, headers, output, turn: turn_of };
            let response = (connected.connect)(&context, request).await?;
            return Ok(response.map(|body| body.holding(turn)));
        }
        let turn = self.enter(identity, lane, origin)?;
        let stream = if verb == "watch" { self.open_stream(identity, lane, origin)? } else { None };
        let (parts, body) = request.into_parts();
        let (body, held) = match verb {
            "create" | "update" | "patch" if identity.is_in(GROUP_NODES) => {
                self.read(identity, lane, body, NODE_BODY_BYTES_MAX).await?
            }
            "create" | "update" | "patch" => self.read(identity, lane, body, BODY_BYTES_MAX).await?,
            "delete" | "deletecollection" => self.read(identity, lane, body, SMALL_BODY_BYTES_MAX).await?,
            _ => (Bytes::new(), None),
        };
        let changed = match (verb, origin) {
            ("create" | "update" | "patch", Origin::Peer) => {
                let media = negotiate::content_type(&parts.headers);
                let (sent, values_max) = (heavy::Weight::of_body(media, &body), heavy::values_max(identity));
                if sent.known_values(media).is_some_and(|values| values > values_max) {
                    return Err(ApiError::too_large(format!("the body has more than {values_max} values")));
                }
                let stored = key_of(&info, &path).and_then(|key| self.store.get(&key));
                Some(stored.map_or(sent, |object| sent.and(heavy::Weight::of_object(&object.bytes))))
            }
            _ => None,
        };
        // Before a place is taken, so that those who wait for this hold up nobody.
        let turns = async {
            let is_change = matches!(verb, "update" | "patch") && lane == Lane::Shared;
            let change = match key_of(&info, &path).filter(|_| is_change && bodies::is_weak(identity)) {
                Some(key) => Some(self.changes.take(format!("{}\n{key}", identity.user)).await),
                None => None,
            };
            let heavy = match changed {
                Some(weight) => self.heavy.turn(&identity.user, lane, weight).await,
                None => None,
            };
            (change, heavy)
        };
        let turns =
            tokio::time::timeout(REQUEST_TIMEOUT, turns).await.map_err(|_| ApiError::timed_out(REQUEST_TIMEOUT))?;
        // A body may have taken long to come: what the resource is now decides how the object is pruned and indexed.
        let info = self.registry().resource(&path.group, &path.version, &path.plural).cloned();
        let info = info.ok_or_else(|| self.not_served(&registry, &path.group))?;
        let (server, identity, counted) = (self.clone(), identity.clone(), turn.clone());
        let answer = async move {
            let _held = (held, turns);
            outgoing::check(&server, &identity)?;
            let context = Context {
                server: &server,
                identity: &identity,
                verb,
                info,
                path,
                query,
                headers: parts.headers,
                output,
                turn: counted,
            };
            let is_flow_control = flow_schemas::may_change(verb, &context.path);
            let act = verbs::binding::act(&context);
            let answered = match (verb, options) {
                ("create", _) if act.is_some() => {
                    let act = act.expect("it was looked at just now");
                    verbs::binding::create(&context, act, &body).await
                }
                ("get", _) if verbs::scale::is_scale(&context) => verbs::scale::get(&context),
                ("update", _) if verbs::scale::is_scale(&context) => verbs::scale::update(&context, &body).await,
                ("patch", _) if verbs::scale::is_scale(&context) => verbs::scale::patch(&context, &body).await,
                ("get", _) => verbs::read::get(&context),
                ("list", Some(options)) => verbs::read::list(&context, &options).await,
                ("watch", Some(options)) => verbs::watch::watch(&context, &options, stream).await,
                ("create", _) => verbs::create::create(&context, &body).await,
                ("update", _) => verbs::update::update(&context, &body).await,
                ("patch", _) => verbs::patch::patch(&context, &body).await,
                ("delete", _) => verbs::delete::delete(&context, &body).await,
                ("deletecollection", Some(options)) => {
                    verbs::delete::delete_collection(&context, &options, &body).await
                }
                _ => Err(ApiError::method_not_allowed()),
            };
            if is_flow_control && answered.is_ok() {
                flow_schemas::report(&server).await;
            }
            let warnings: Vec<String> = context.info.deprecation().map(str::to_owned).into_iter().collect();
            let answered = match answered {
                Ok(mut response) => {
                    warn(&mut response, &warnings);
                    Ok(response)
                }
                Err(error) => Err(error.with_warnings(&warnings)),
            };
            match (answered, output.media) {
                (Ok(response), Media::Yaml) => Ok(negotiate::as_yaml(response).await),
                (Ok(response), Media::Protobuf) if context.verb != "watch" => {
                    Ok(negotiate::as_protobuf(response).await)
                }
                (answered, _) => answered,
            }
        };
        self.work(turn, answer).await
    }

    /// What answers creates at a path, if nothing of it is stored.
    pub(crate) fn virtual_resource(&self, path: &ResourcePath) -> Option<Arc<dyn VirtualResource>> {
        let target = (path.group.as_str(), path.plural.as_str(), path.subresource.as_deref());
        self.virtual_resources.iter().find(|resource| resource.target() == target).cloned()
    }

    /// What is said where nothing is served: a group of upstream's own has a `Status` for that, and everything else a page.
    fn not_served(&self, registry: &Registry, group: &str) -> ApiError {
        let is_own = registry.is_builtin_group(group);
        if is_own { ApiError::no_such_path() } else { ApiError::no_such_page() }
    }

    /// How large the object is that a request changes.
    fn stored_bytes(&self, info: &ResourceInfo, path: &ResourcePath) -> usize {
        let stored = key_of(info, path).and_then(|key| self.store.get(&key));
        stored.map_or(0, |object| object.bytes.len())
    }

    /// Counts a request of an identity; in-process callers are not counted.
    pub(super) fn enter(&self, identity: &Identity, lane: Lane, origin: Origin) -> Result<Option<Arc<Entry>>> {
        match origin {
            Origin::InProcess => Ok(None),
            Origin::Peer => {
                let entry = self.flow.enter(&identity.user, lane).map_err(|_| ApiError::too_many_requests())?;
                Ok(Some(Arc::new(entry)))
            }
        }
    }

    pub(super) fn open_stream(&self, identity: &Identity, lane: Lane, origin: Origin) -> Result<Option<Entry>> {
        match origin {
            Origin::InProcess => Ok(None),
            Origin::Peer => {
                self.flow.open_stream(&identity.user, lane).map(Some).map_err(|_| ApiError::too_many_requests())
            }
        }
    }

    /// Reads a request's body within the budgets, before it takes anything else.
    pub(super) async fn read(
        &self,
        identity: &Identity,
        lane: Lane,
        body: RequestBody,
        bytes_max: usize,
    ) -> Result<(Bytes, Option<BodyPermit>)> {
        let read = self.bodies.read(identity, lane, body, bytes_max).await;
        let (body, permit) = read.map_err(|error| ApiError::body(&error))?;
        Ok((body, Some(permit)))
    }

    /// Does the work of a request on the pool when its turn has come. A client that leaves takes its place in the queue
    /// along; work that has begun is finished.
    pub(super) async fn work<F>(&self, turn: Option<Arc<Entry>>, answer: F) -> Result<Response<Body>>
    where
        F: Future<Output = Result<Response<Body>>> + Send + 'static,
    {
        let done = async {
            let place = match &turn {
                Some(entry) => Some(entry.admit().await),
                None => None,
            };
            let done = self.work.spawn(&Workers::of(turn.as_ref()), async move {
                let answered = answer.await;
                drop(place);
                answered
            });
            // The panic is in the log, with its place in the code; it costs this request and nothing else.
            done.await.map_err(|error| ApiError::internal(format!("the request's handler ended early: {error}")))?
        };
        tokio::time::timeout(REQUEST_TIMEOUT, done).await.map_err(|_| ApiError::timed_out(REQUEST_TIMEOUT))?
    }

    pub(crate) fn authorize_resource(
        &self,
        identity: &Identity,
        verb: &str,
        path: &ResourcePath,
        options: Option<&ListOptions>,
    ) -> Result<()> {
        let target = path.target(options.map(|options| (&options.labels, &options.fields)));
        let access = Access { identity, verb, target, object: None };
        match self.authorizer.authorize(&access, &self.store) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(ApiError::forbidden_access(&access, &reason)),
        }
    }
}

/// The object of a request, if it has one.
fn key_of(info: &ResourceInfo, path: &ResourcePath) -> Option<Key> {
    let name = path.name.as_ref()?;
    Some(Key::new(&info.storage_key, path.namespace.as_deref().unwrap_or_default(), name))
}

impl Lane {
    /// The places that a request may take. Of leases, only what keeps one: lists and watches are as everybody's.
    pub(super) fn of(identity: &Identity, act: Option<(&str, &ResourcePath)>) -> Self {
        if identity.is_in(GROUP_MASTERS) {
            return Self::Masters;
        }
        match act {
            Some(("get" | "create" | "update" | "patch", path))
                if path.group == "coordination.k8s.io" && path.plural == "leases" =>
            {
                Self::Lease
            }
            _ => Self::Shared,
        }
    }
}

/// Upstream's router passes no patch on whose type it does not know.
fn check_patch(info: &ResourceInfo, verb: &str, headers: &HeaderMap) -> Result<()> {
    const PATCHES: [&str; 4] = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];
    if verb != "patch" || info.is_custom() {
        return Ok(());
    }
    let types = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_known = types.split(',').any(|one| PATCHES.contains(&one.split(';').next().unwrap_or_default().trim()));
    if is_known { Ok(()) } else { Err(ApiError::unrouted_media_type()) }
}

/// What upstream says to whoever uses a resource that it has given up.
fn deprecation(path: &ResourcePath) -> Option<&'static str> {
    match (path.group.as_str(), path.version.as_str(), path.plural.as_str()) {
        ("", "v1", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "v1", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        _ => None,
    }
}
