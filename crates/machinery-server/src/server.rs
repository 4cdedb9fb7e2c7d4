//! The server: from a request and an identity to an answer.

use std::sync::{Arc, RwLock};

use base_http::{Body, BoxError, ConnectionHandle, Peer, Rejected};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use machinery_schema::{Registry, ResourceInfo};
use machinery_store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::auth::authenticate;
use crate::authorizer::describe;
use crate::request::{ListOptions, Query, ResourcePath, Route};
use crate::status::{ApiError, Reason, Result};
use crate::{
    Access, Admission, Authorizer, Decision, GROUP_MASTERS, Identity, InProcess, NodeDialer, Target, discovery, verbs,
};

/// Requests worked on at a time, watches and logs not counted. Each may hold a body of 3 MiB, so this is what bounds
/// the memory of a hub under a storm; who comes too much is asked to come back in a second.
const REQUESTS_IN_FLIGHT_MAX: usize = 256;

/// Connections of one identity at a time: a node needs one for its kubelet, one for its edge plane, some for tools, and old
/// ones until they are noticed to be dead. One more closes the oldest.
const CONNECTIONS_PER_IDENTITY_MAX: usize = 64;

/// A request's body, whoever it came from.
pub type RequestBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Serves paths that are not Kubernetes', on the same port and with the same identities.
pub trait Extension: Send + Sync {
    /// What its paths begin with, such as `/telemetry/`.
    fn prefix(&self) -> &'static str;

    /// Answers a request that [`Authorizer`] has let through (as [`Target::Path`]).
    fn call<'a>(&'a self, request: Request<RequestBody>, identity: &'a Identity) -> BoxFuture<'a, Response<Body>>;
}

/// What a server is made of.
pub struct ServerConfig {
    /// Where objects are kept.
    pub store: Store,
    /// Who may do what; [`crate::StandardAuthorizer`] for a hub.
    pub authorizer: Arc<dyn Authorizer>,
    /// Plug-ins, asked in this order.
    pub admission: Vec<Box<dyn Admission>>,
    /// How kubelets are reached, for logs.
    pub node_dialer: Arc<dyn NodeDialer>,
    /// Other paths.
    pub extensions: Vec<Arc<dyn Extension>>,
    /// `host:port` of the server, for clients that ask.
    pub address: String,
    /// Ends watches and log streams, so that connections can drain.
    pub shutdown: CancellationToken,
}

/// Why a server could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NewServerError {
    /// The definitions of custom resources could not be listed.
    #[error("failed to list the CustomResourceDefinitions in the store")]
    List(#[source] machinery_store::Expired),
}

/// A Kubernetes API server. Clones share everything.
///
/// Serve it with [`base_http::serve`], of which it is a handler, or call it in process through [`Server::in_process`].
#[derive(Clone)]
pub struct Server(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) admission: Vec<Box<dyn Admission>>,
    pub(crate) node_dialer: Arc<dyn NodeDialer>,
    pub(crate) extensions: Vec<Arc<dyn Extension>>,
    pub(crate) address: String,
    pub(crate) shutdown: CancellationToken,
    pub(crate) registry: RwLock<Registry>,
    /// Held while a CustomResourceDefinition is written, so that registry and store change in the same order.
    pub(crate) crd_writes: tokio::sync::Mutex<()>,
    slots: Semaphore,
}

/// One request to a resource, with everything that was found out about it on the way in.
pub(crate) struct Context<'a> {
    pub(crate) server: &'a Inner,
    pub(crate) identity: &'a Identity,
    pub(crate) info: Arc<ResourceInfo>,
    pub(crate) path: ResourcePath,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
}

impl Server {
    /// Makes a server over a store, with the custom resources whose definitions are in it.
    ///
    /// # Errors
    /// When the store does not list them.
    pub fn new(config: ServerConfig) -> std::result::Result<Self, NewServerError> {
        let registry = crate::crd::load(&config.store).map_err(NewServerError::List)?;
        Ok(Self(Arc::new(Inner {
            store: config.store,
            authorizer: config.authorizer,
            admission: config.admission,
            node_dialer: config.node_dialer,
            extensions: config.extensions,
            address: config.address,
            shutdown: config.shutdown,
            registry: RwLock::new(registry),
            crd_writes: tokio::sync::Mutex::new(()),
            slots: Semaphore::new(REQUESTS_IN_FLIGHT_MAX),
        })))
    }

    /// A transport for a client in the same process, which calls as `identity`.
    pub fn in_process(&self, identity: Identity) -> InProcess {
        InProcess::new(self.clone(), identity)
    }

    /// The resources served now.
    pub fn registry(&self) -> Registry {
        self.0.registry()
    }

    /// Answers a request; without an identity only version and health are answered.
    pub fn handle<'a>(
        &'a self,
        request: Request<RequestBody>,
        identity: Option<&'a Identity>,
    ) -> BoxFuture<'a, Response<Body>> {
        Box::pin(self.handle_unboxed(request, identity))
    }

    async fn handle_unboxed(&self, request: Request<RequestBody>, identity: Option<&Identity>) -> Response<Body> {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        match self.0.answer(request, identity).await {
            Ok(response) => response,
            Err(refusal) => {
                let user = identity.map_or("", |identity| identity.user.as_str());
                if matches!(refusal.reason(), Reason::InternalError | Reason::InsufficientStorage) {
                    error!(%method, path, user, reason = refusal.message(), "Failed to answer a request.");
                } else {
                    debug!(%method, path, user, reason = refusal.message(), "Refused a request.");
                }
                refusal.into_response()
            }
        }
    }

    /// Answers a request from a socket, whose caller shows a certificate or a token.
    async fn handle_peer(&self, request: Request<Incoming>, session: &Session) -> Response<Body> {
        let identity = authenticate(&self.0.store, session.certificate(), request.headers(), jiff::Timestamp::now());
        match identity {
            Ok(identity) => {
                if identity.is_some() {
                    session.connection.mark_authenticated();
                }
                self.handle(request.map(boxed), identity.as_ref()).await
            }
            Err(refusal) => refusal.into_response(),
        }
    }
}

/// A caller's connection.
pub struct Session {
    peer: Peer,
    connection: ConnectionHandle,
}

impl Session {
    fn certificate(&self) -> Option<&[u8]> {
        self.peer.client_cert.as_ref().map(|certificate| certificate.as_ref().as_ref())
    }
}

impl base_http::Handler for Server {
    type Session = Session;

    async fn on_connect(&self, peer: &Peer, connection: &ConnectionHandle) -> std::result::Result<Session, Rejected> {
        let session = Session { peer: peer.clone(), connection: connection.clone() };
        let now = jiff::Timestamp::now();
        // A certificate that is not good is answered with 401 on each request, which says more than a closed connection.
        if let Ok(Some(identity)) = authenticate(&self.0.store, session.certificate(), &HeaderMap::new(), now) {
            connection.mark_authenticated();
            if !identity.is_in(GROUP_MASTERS) {
                connection.count_under(&identity.user, CONNECTIONS_PER_IDENTITY_MAX);
            }
        }
        Ok(session)
    }

    async fn call(&self, request: Request<Incoming>, session: &Session) -> Response<Body> {
        self.handle_peer(request, session).await
    }
}

/// Any body as a [`RequestBody`].
pub(crate) fn boxed<B>(body: B) -> RequestBody
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

impl Inner {
    pub(crate) fn registry(&self) -> Registry {
        self.registry.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    async fn answer(&self, request: Request<RequestBody>, identity: Option<&Identity>) -> Result<Response<Body>> {
        let path = request.uri().path().to_owned();
        if let Some(response) = discovery::open_to_all(self, &path, request.method(), request.uri().query()) {
            return response;
        }
        let identity = identity.ok_or_else(ApiError::unauthorized)?;
        if let Some(extension) = self.extensions.iter().find(|extension| path.starts_with(extension.prefix())) {
            self.authorize_path(identity, request.method(), &path)?;
            return Ok(extension.call(request, identity).await);
        }
        match Route::parse(&path) {
            Route::Resource(resource) => self.answer_resource(request, identity, resource).await,
            route => {
                self.authorize_path(identity, request.method(), &path)?;
                discovery::answer(self, &route, &request)
            }
        }
    }

    fn authorize_path(&self, identity: &Identity, method: &Method, path: &str) -> Result<()> {
        let verb = method.as_str().to_ascii_lowercase();
        let access = Access { identity, verb: &verb, target: Target::Path(path) };
        match self.authorizer.authorize(&access, &self.store) {
            Decision::Allow => Ok(()),
            Decision::Deny(reason) => Err(ApiError::forbidden_path(path, &refusal_text(&access, &reason))),
        }
    }

    async fn answer_resource(
        &self,
        request: Request<RequestBody>,
        identity: &Identity,
        path: ResourcePath,
    ) -> Result<Response<Body>> {
        let query = Query::parse(request.uri().query())?;
        if crate::reviews::is_review(&path) {
            return crate::reviews::answer(self, request, identity, &path).await;
        }
        let registry = self.registry();
        let info = registry.resource(&path.group, &path.version, &path.plural).cloned();
        let verb = verb_of(request.method(), &path, &query)?;
        let Some(info) = info else {
            // Who may not see a resource is not told whether there is one.
            self.authorize_unknown(identity, verb, &path)?;
            return Err(ApiError::no_such_path());
        };
        let options = if matches!(verb, "list" | "watch" | "deletecollection") {
            Some(ListOptions::parse(&query)?)
        } else {
            None
        };
        let selectors = options.as_ref().map(|options| (&options.labels, &options.fields));
        let access = Access {
            identity,
            verb,
            target: Target::Resource {
                group: &path.group,
                resource: &path.plural,
                subresource: path.subresource.as_deref(),
                // A namespace is its own namespace, which matters in messages.
                namespace: path.namespace.as_deref(),
                name: path.name.as_deref(),
                selectors,
            },
        };
        if let Decision::Deny(reason) = self.authorizer.authorize(&access, &self.store) {
            let name = path.name.as_deref().unwrap_or_default();
            return Err(ApiError::forbidden(&info, name, &refusal_text(&access, &reason)));
        }
        check_path(&info, &path, verb)?;

        let (parts, body) = request.into_parts();
        let context = Context { server: self, identity, info, path, query, headers: parts.headers };
        let is_long = verb == "watch" || context.path.subresource.as_deref() == Some("log");
        let _slot =
            if is_long { None } else { Some(self.slots.try_acquire().map_err(|_| ApiError::too_many_requests())?) };
        match (verb, context.path.subresource.as_deref(), options) {
            ("get", Some("log"), _) => verbs::log::log(&context).await,
            ("get", ..) => verbs::read::get(&context),
            ("list", _, Some(options)) => verbs::read::list(&context, &options),
            ("watch", _, Some(options)) => verbs::watch::watch(&context, &options),
            ("create", ..) => verbs::create::create(&context, body).await,
            ("update", ..) => verbs::update::update(&context, body).await,
            ("patch", ..) => verbs::patch::patch(&context, body).await,
            ("delete", ..) => verbs::delete::delete(&context, body).await,
            ("deletecollection", _, Some(options)) => verbs::delete::delete_collection(&context, &options, body).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn authorize_unknown(&self, identity: &Identity, verb: &str, path: &ResourcePath) -> Result<()> {
        let target = Target::Resource {
            group: &path.group,
            resource: &path.plural,
            subresource: path.subresource.as_deref(),
            namespace: path.namespace.as_deref(),
            name: path.name.as_deref(),
            selectors: None,
        };
        let access = Access { identity, verb, target };
        match self.authorizer.authorize(&access, &self.store) {
            Decision::Allow => Ok(()),
            Decision::Deny(reason) => {
                let why = format!("{} is forbidden: {}", path.plural, refusal_text(&access, &reason));
                Err(ApiError::forbidden_path(&path.plural, &why))
            }
        }
    }
}

fn refusal_text(access: &Access<'_>, reason: &str) -> String {
    if reason.is_empty() { describe(access) } else { format!("{}: {reason}", describe(access)) }
}

fn verb_of(method: &Method, path: &ResourcePath, query: &Query) -> Result<&'static str> {
    let has_name = path.name.is_some();
    Ok(match (method.as_str(), has_name) {
        ("GET", true) => "get",
        ("GET", false) if query.flag("watch") => "watch",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PUT", true) => "update",
        ("PATCH", true) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return Err(ApiError::method_not_allowed()),
    })
}

/// Whether the path fits the resource, and the resource takes the verb.
fn check_path(info: &ResourceInfo, path: &ResourcePath, verb: &str) -> Result<()> {
    if path.namespace.is_some() && !info.namespaced {
        return Err(ApiError::no_such_path());
    }
    // Lists and watches may span all namespaces; one object always is in one.
    if info.namespaced && path.namespace.is_none() && !matches!(verb, "list" | "watch") {
        return Err(if path.name.is_none() { ApiError::method_not_allowed() } else { ApiError::no_such_path() });
    }
    let verbs = match &path.subresource {
        None => info.verbs,
        Some(name) => info.subresource(name).ok_or_else(|| no_subresource(info, name))?.verbs,
    };
    if verbs.contains(&verb) && !(verb == "create" && path.name.is_some()) {
        Ok(())
    } else {
        Err(ApiError::method_not_allowed())
    }
}

/// What people will ask for by habit is refused in words.
fn no_subresource(info: &ResourceInfo, name: &str) -> ApiError {
    match (&*info.group, &*info.kind, name) {
        ("", "Pod", "exec" | "attach" | "portforward") => ApiError::not_implemented(&format!(
            "pods/{name} is not served by this version of Selvedge; `kubectl logs` and exec probes are"
        )),
        _ => ApiError::no_such_path(),
    }
}

/// Adds `Warning` headers, which clients show to people.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}
