//! The server: from a request and an identity to an answer.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use base_http::{Body, BodyBudget, BoxError, Close, ConnectionHandle, Connections, Peer, PeerAddr, Rejected};
use base_observe::Metrics;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use machinery_kinds::{Registry, ResourceInfo};
use machinery_store::Store;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::audit::{self, Audit, AuditEvent};
use crate::auth::{AuthRequest, Authenticator, authenticate};
use crate::authorizer::Union;
use crate::bodies::Bodies;
use crate::dispatch::verb_of;
use crate::flow::{Entry, Flow, FlowLimits, Lane};
use crate::heavy::{Heavy, Turns};
use crate::metrics::{self, RequestMetrics};
use crate::negotiate::{self, Media, Output};
use crate::outgoing::{self, Outgoing};
use crate::request::{Query, ResourcePath, Route};
use crate::services::{ServiceBooks, ServiceRange};
use crate::status::{ApiError, Reason, Result};
use crate::work::WorkPool;
use crate::{
    Access, Admission, AuthenticateError, AuthenticatedBasics, Authorizer, BootstrapTokenAuthenticator,
    CertificateAuthenticator, Decision, ExtensionGroup, GROUP_MASTERS, Identity, InProcess, NoNodes, NodeDialer,
    SystemMasters, Target, VirtualResource, discovery, impersonation,
};

mod route;

/// How often it is looked whether the certificate of an open connection has expired.
const EXPIRATION_PERIOD: Duration = Duration::from_secs(60);

/// Connections of one identity at a time: a node needs one for its kubelet, one for its edge plane, some for tools, and old
/// ones until they are noticed to be dead. One more closes the oldest.
const CONNECTIONS_PER_IDENTITY_MAX: usize = 64;

/// The same for bearers of one token: a token made for many uses lets a whole fleet join, and each box of it has a connection
/// for as long as its certificate is being signed. It is a quarter of the places for those without a certificate.
const CONNECTIONS_PER_TOKEN_MAX: usize = 256;

/// A request's body, whoever it came from.
pub type RequestBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Serves paths that are not Kubernetes', on the same port and with the same identities.
pub trait Extension: Send + Sync {
    /// What its paths begin with, such as `/telemetry/`.
    fn prefix(&self) -> &'static str;

    /// The API group that is behind the prefix, where there is one: clients find it by discovery, and who may read it is decided
    /// as of any resource.
    fn api_group(&self) -> Option<ExtensionGroup> {
        None
    }

    /// Answers a request that [`Authorizer`] has let through (as [`Target::Path`], or as the resource that it is).
    fn call<'a>(&'a self, request: Request<RequestBody>, identity: &'a Identity) -> BoxFuture<'a, Response<Body>>;
}

/// What a server is made of. [`ServerConfig::new`] has what every Kubernetes API has; policy is added to it.
pub struct ServerConfig {
    /// Where objects are kept.
    pub store: Store,
    /// Who is calling, asked in this order.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    /// Whether a caller without credentials is `system:anonymous`, whom the authorizers judge as anybody else, as in
    /// kube-apiserver. Otherwise it is answered with 401, but for version and health.
    pub anonymous: bool,
    /// What tokens that are meant for this API say of their audience; the first is what a token request gets that names none.
    pub audiences: Vec<String>,
    /// Who may do what, asked in this order.
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    /// Plug-ins, asked in this order.
    pub admission: Vec<Arc<dyn Admission>>,
    /// Whether somebody runs who serves the finalizers `orphan` and `foregroundDeletion` of a kind (group, kind). On objects
    /// of other kinds a deletion does not set them, because nobody would take them away: orphans are released at once, and
    /// dependents deleted in the background.
    pub garbage_collected: fn(group: &str, kind: &str) -> bool,
    /// Takes an event for each write and each request in another's name.
    pub audit: Option<Arc<dyn Audit>>,
    /// How kubelets are reached, for logs.
    pub node_dialer: Arc<dyn NodeDialer>,
    /// Other paths.
    pub extensions: Vec<Arc<dyn Extension>>,
    /// Resources that are answered and not stored.
    pub virtual_resources: Vec<Arc<dyn VirtualResource>>,
    /// `host:port` of the server, for clients that ask.
    pub address: String,
    /// Where cluster addresses and node ports of Services come from.
    pub services: ServiceRange,
    /// The version of Kubernetes that is served, such as `v1.36.0+NAME`.
    pub version: &'static str,
    /// What the server's figures are added to, and what `/metrics` shows.
    pub metrics: Metrics,
    /// Called by a thread of the pool that works on requests when it has nothing to do; for an allocator that takes back what a
    /// thread has freed only from that thread.
    pub on_thread_park: fn(),
    /// What time it is, for what is written into objects; simulations have a clock of their own.
    pub now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>,
    /// Ends watches and log streams, so that connections can drain.
    pub shutdown: CancellationToken,
}

impl ServerConfig {
    /// A server of one store for administrators: certificates and bootstrap tokens are recognised, `system:masters` may do
    /// everything, others may look at discovery and ask about themselves.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            authenticators: vec![Arc::new(CertificateAuthenticator), Arc::<BootstrapTokenAuthenticator>::default()],
            anonymous: false,
            audiences: Vec::new(),
            authorizers: vec![Arc::new(SystemMasters), Arc::new(AuthenticatedBasics)],
            admission: Vec::new(),
            garbage_collected: |_, _| false,
            audit: None,
            node_dialer: Arc::new(NoNodes),
            extensions: Vec::new(),
            virtual_resources: Vec::new(),
            address: "localhost:6443".to_owned(),
            services: ServiceRange::default(),
            version: "v1.36.0",
            metrics: Metrics::new(),
            on_thread_park: || {},
            now: Arc::new(jiff::Timestamp::now),
            shutdown: CancellationToken::new(),
        }
    }
}

/// Why a server could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NewServerError {
    /// The definitions of custom resources could not be listed.
    #[error("failed to list the CustomResourceDefinitions in the store")]
    List(#[source] machinery_store::Expired),
    /// The threads for the work of requests could not be started.
    #[error("failed to start the threads that work on requests")]
    StartWork(#[source] std::io::Error),
}

/// A Kubernetes API server. Clones share everything.
///
/// Serve it with [`base_http::serve`], of which it is a handler, or call it in process through [`Server::in_process`].
#[derive(Clone)]
pub struct Server(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) authenticators: Vec<Arc<dyn Authenticator>>,
    pub(crate) anonymous: bool,
    pub(crate) audiences: Vec<String>,
    pub(crate) authorizer: Union,
    pub(crate) admission: Vec<Arc<dyn Admission>>,
    pub(crate) garbage_collected: fn(&str, &str) -> bool,
    pub(crate) audit: Option<Arc<dyn Audit>>,
    pub(crate) node_dialer: Arc<dyn NodeDialer>,
    pub(crate) extensions: Vec<Arc<dyn Extension>>,
    virtual_resources: Vec<Arc<dyn VirtualResource>>,
    pub(crate) address: String,
    pub(crate) version: &'static str,
    pub(crate) now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) registry: RwLock<Registry>,
    /// Which Service has which address and port.
    pub(crate) services: ServiceBooks,
    /// Held while a CustomResourceDefinition is written, so that registry and store change in the same order.
    pub(crate) crd_writes: tokio::sync::Mutex<()>,
    pub(crate) flow: Flow,
    pub(crate) work: WorkPool,
    pub(crate) bodies: Bodies,
    pub(crate) heavy: Heavy,
    /// Who changes which object, of those that are not trusted.
    pub(crate) changes: Turns,
    /// What waits for clients to take it.
    pub(crate) outgoing: BodyBudget,
    /// OpenAPI documents that were requested, shared by all who read them.
    pub(crate) documents: crate::documents::Documents,
    pub(crate) metrics: Metrics,
    requests: RequestMetrics,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A socket: it takes its turn among all identities.
    Peer,
    /// This process: its own parts bound what they have in flight, and must not wait behind everybody else.
    InProcess,
}

/// One request to a resource, with everything that was found out about it on the way in.
pub(crate) struct Context<'a> {
    pub(crate) server: &'a Arc<Inner>,
    pub(crate) identity: &'a Identity,
    pub(crate) verb: &'static str,
    pub(crate) info: Arc<ResourceInfo>,
    pub(crate) path: ResourcePath,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// The form that the answer should have.
    pub(crate) output: Output,
    /// What counts the request against its identity; an answer that is made while it is sent keeps it.
    pub(crate) turn: Option<Arc<Entry>>,
}

impl Server {
    /// Makes a server over a store, with the custom resources whose definitions are in it.
    ///
    /// # Errors
    /// When the store does not list them.
    pub fn new(config: ServerConfig) -> std::result::Result<Self, NewServerError> {
        let registry = crate::crd::load(&config.store).map_err(NewServerError::List)?;
        let inner = Arc::new(Inner {
            requests: RequestMetrics::new(&config.metrics),
            services: ServiceBooks::open(config.services, &config.store),
            store: config.store,
            authenticators: config.authenticators,
            anonymous: config.anonymous,
            audiences: config.audiences,
            authorizer: Union::new(config.authorizers),
            admission: config.admission,
            garbage_collected: config.garbage_collected,
            audit: config.audit,
            node_dialer: config.node_dialer,
            extensions: config.extensions,
            virtual_resources: config.virtual_resources,
            address: config.address,
            version: config.version,
            now: config.now,
            shutdown: config.shutdown,
            registry: RwLock::new(registry),
            crd_writes: tokio::sync::Mutex::new(()),
            flow: Flow::new(FlowLimits::default()),
            work: WorkPool::new(config.on_thread_park).map_err(NewServerError::StartWork)?,
            bodies: Bodies::new(),
            heavy: Heavy::new(),
            changes: Turns::default(),
            outgoing: BodyBudget::new(outgoing::BUDGET),
            documents: crate::documents::Documents::default(),
            metrics: config.metrics,
        });
        metrics::register(&inner.metrics, &inner);
        Ok(Self(inner))
    }

    /// Where cluster addresses and node ports of Services come from.
    pub fn service_range(&self) -> &ServiceRange {
        self.0.services.range()
    }

    /// The port of the server's own address; 6443 when it names none.
    pub fn port(&self) -> u16 {
        let port = self.0.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.unwrap_or(6443)
    }

    /// A transport for a client in the same process, which calls as `identity`.
    pub fn in_process(&self, identity: Identity) -> InProcess {
        InProcess::new(self.clone(), identity)
    }

    /// Where its objects are.
    pub fn store(&self) -> &Store {
        &self.0.store
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
        Box::pin(async move {
            let Some(identity) = identity else { return self.handle_from(request, None, Origin::Peer).await };
            let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
            match Outgoing::begin(&self.0, identity, Lane::of(identity, None)) {
                Ok(outgoing) => outgoing.answer(is_read, self.handle_from(request, Some(identity), Origin::Peer).await),
                Err(refusal) => *refusal,
            }
        })
    }

    pub(crate) async fn handle_from(
        &self,
        request: Request<RequestBody>,
        identity: Option<&Identity>,
        origin: Origin,
    ) -> Response<Body> {
        let (began, received) = (Instant::now(), jiff::Timestamp::now());
        let (counted_verb, resource) = self.0.labels(&request);
        let (mut parts, body) = request.into_parts();
        let (method, uri, verb) = (parts.method.clone(), parts.uri.clone(), audit::verb(&parts));
        let error_media = negotiate::error_media(&parts.headers);
        let source = parts.extensions.get::<PeerAddr>().copied();
        let user_agent = parts.headers.get(http::header::USER_AGENT).cloned();
        // Who is not known is somebody too, where the server lets such callers ask.
        let anonymous = (identity.is_none() && self.0.anonymous).then(Identity::anonymous);
        let identity = identity.or(anonymous.as_ref());
        let impersonated = impersonation::take(&self.0, &mut parts, identity);
        let (impersonated, answered) = match impersonated {
            Ok(impersonated) => {
                let effective = impersonated.as_ref().or(identity);
                let answered = self.0.answer(Request::from_parts(parts, body), effective, origin).await;
                (impersonated, answered)
            }
            Err(error) => (None, Err(error)),
        };
        let is_refused = answered.is_err();
        let response = answered.unwrap_or_else(|error| {
            let (path, user) = (uri.path(), identity.map_or("", |identity| identity.user.as_str()));
            if matches!(error.reason(), Reason::InternalError | Reason::InsufficientStorage) {
                error!(%method, path, user, reason = error.message(), "Failed to answer a request.");
            } else {
                debug!(%method, path, user, reason = error.message(), "Rejected a request.");
            }
            error.into_response()
        });
        let response = match error_media {
            Media::Yaml if is_refused => negotiate::as_yaml(response).await,
            Media::Protobuf if is_refused => negotiate::as_protobuf(response).await,
            _ => response,
        };
        let code = response.status().as_u16();
        self.0.requests.count(counted_verb, &resource, code, began.elapsed());
        self.0.record(&AuditEvent {
            caller: identity,
            impersonated: impersonated.as_ref(),
            verb: &verb,
            uri: &uri,
            code,
            source: match source {
                Some(PeerAddr::Tcp(address)) => Some(address.ip()),
                Some(PeerAddr::Unix) | None => None,
            },
            user_agent: user_agent.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default(),
            received,
        });
        response
    }

    /// Answers a request from a socket, whose caller shows a certificate or a token.
    async fn handle_peer(&self, mut request: Request<Incoming>, session: &Session) -> Response<Body> {
        let peer = &session.peer;
        request.extensions_mut().insert(peer.addr);
        match self.identify(peer, request.headers()) {
            Ok(identity) => {
                if let Some(identity) = &identity {
                    session.note_caller(identity);
                }
                let response = self.handle(request.map(boxed), identity.as_ref()).await;
                if response.extensions().get::<outgoing::Overrun>().is_some() {
                    // Whoever has a thousand responses to take and takes none is not reported to a thousand times more.
                    session.connection.close(Close::AtOnce);
                }
                response
            }
            Err(error) => reject_credentials(peer, &error),
        }
    }

    /// Answers a request whose caller is known by what its peer and its headers show, without a socket between.
    pub async fn handle_credentials(&self, request: Request<RequestBody>, peer: &Peer) -> Response<Body> {
        match self.identify(peer, request.headers()) {
            Ok(identity) => self.handle(request, identity.as_ref()).await,
            Err(error) => reject_credentials(peer, &error),
        }
    }

    /// Who is at the other end of a connection, by its certificate or by a request's headers.
    ///
    /// # Errors
    /// When a credential is shown that is not good, or no longer.
    pub fn identify(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> std::result::Result<Option<Identity>, AuthenticateError> {
        let client_cert = peer.client_cert.as_ref().map(|certificate| certificate.as_ref().as_ref());
        let now = jiff::Timestamp::now();
        let request = AuthRequest { client_cert, headers, store: &self.0.store, now, audiences: None };
        authenticate(&self.0.authenticators, &request)
    }

    /// Closes the connections of a user whose certificate is good no longer, with everything that is open on them; returns how
    /// many. To be called after what its authenticator looks at has changed.
    pub fn close_rejected(&self, connections: &Connections<Session>, user: &str) -> usize {
        connections.close_where(Close::AtOnce, |_, session| {
            session.user.as_deref() == Some(user) && self.identify(&session.peer, &HeaderMap::new()).is_err()
        })
    }

    /// Closes, until the server shuts down, connections whose certificate has expired, within a minute: their requests are
    /// refused at once, but what streams on them would continue. Spawn it once beside serving.
    pub async fn run_expirations(self, connections: Connections<Session>) {
        let mut looks = tokio::time::interval(EXPIRATION_PERIOD);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.0.shutdown.cancelled() => return,
                _ = looks.tick() => {}
            }
            let closed = Self::close_expired(&connections, jiff::Timestamp::now());
            if closed > 0 {
                info!(closed, "Closed connections whose certificate has expired.");
            }
        }
    }

    /// Closes the connections whose certificate has expired; returns how many.
    pub fn close_expired(connections: &Connections<Session>, now: jiff::Timestamp) -> usize {
        let has_expired = |session: &Session| session.expires_s.is_some_and(|expires_s| expires_s < now.as_second());
        // Closing makes sessions that begin meanwhile begin anew, so it is not done for nothing.
        if !connections.list().iter().any(|(_, session)| has_expired(session)) {
            return 0;
        }
        connections.close_where(Close::AtOnce, |_, session| has_expired(session))
    }
}

/// A caller's connection.
pub struct Session {
    peer: Peer,
    connection: ConnectionHandle,
    /// Whose certificate was shown when it was opened.
    user: Option<String>,
    /// Until when that certificate is valid, in seconds since 1970.
    expires_s: Option<i64>,
    /// Whose token was shown last, when no certificate was.
    bearer: Mutex<Option<String>>,
}

impl Session {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// A request has proved who calls.
    fn note_caller(&self, identity: &Identity) {
        self.connection.mark_authenticated();
        if self.user.is_some() {
            return;
        }
        if self.peer.client_cert.is_some() {
            // Its certificate was not accepted when it connected, and is now: a node that was deleted is back. The connection
            // has the limits of an unauthenticated client; the next one has a node's.
            return self.connection.close(Close::Gracefully);
        }
        let mut bearer = self.bearer.lock();
        if bearer.as_deref() != Some(identity.user.as_str()) {
            self.connection.count_under(&identity.user, CONNECTIONS_PER_TOKEN_MAX);
            *bearer = Some(identity.user.clone());
        }
    }
}

impl base_http::Handler for Server {
    type Session = Session;

    async fn on_connect(&self, peer: &Peer, connection: &ConnectionHandle) -> std::result::Result<Session, Rejected> {
        let expires_s = peer.client_cert.as_ref().and_then(|certificate| base_pki::client_identity(certificate).ok());
        let mut session = Session {
            peer: peer.clone(),
            connection: connection.clone(),
            user: None,
            expires_s: expires_s.map(|client| client.not_after),
            bearer: Mutex::default(),
        };
        // A certificate that is not good is answered with 401 on each request, which says more than a closed connection.
        if let Ok(Some(identity)) = self.identify(peer, &HeaderMap::new()) {
            connection.mark_authenticated();
            if !identity.is_in(GROUP_MASTERS) {
                connection.count_under(&identity.user, CONNECTIONS_PER_IDENTITY_MAX);
            }
            session.user = Some(identity.user);
        }
        Ok(session)
    }

    async fn call(&self, request: Request<Incoming>, session: &Session) -> Response<Body> {
        self.handle_peer(request, session).await
    }
}

fn reject_credentials(peer: &Peer, error: &AuthenticateError) -> Response<Body> {
    debug!(addr = ?peer.addr, %error, "Rejected a caller's credentials.");
    ApiError::unauthorized_because(&error.reason).into_response()
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

    /// How a request is counted: by its verb, and by its resource if that is served.
    fn labels(&self, request: &Request<RequestBody>) -> (&'static str, String) {
        let Route::Resource(path) = Route::parse(request.uri().path()) else { return ("other", String::new()) };
        let query = Query::parse(request.uri().query()).unwrap_or_default();
        let verb = match verb_of(request.method(), &path, &query) {
            "" => "other",
            verb => verb,
        };
        let registry = self.registry.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let info = registry.resource(&path.group, &path.version, &path.plural);
        (verb, info.map(|info| info.qualified_name()).unwrap_or_default())
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        identity: Option<&Identity>,
        origin: Origin,
    ) -> Result<Response<Body>> {
        let path = request.uri().path().to_owned();
        if let Some(response) = discovery::open_to_all(self, &path, request.method(), request.uri().query()) {
            if let Some(identity) = identity.filter(|_| self.anonymous) {
                self.authorize_path(identity, request.method(), &path)?;
            }
            return response;
        }
        let identity = identity.ok_or_else(ApiError::unauthorized)?;
        if let Some(extension) = self.extensions.iter().find(|extension| path.starts_with(extension.prefix())) {
            match (extension.api_group(), Route::parse(&path)) {
                (Some(_), Route::Resource(resource)) => {
                    let query = Query::parse(request.uri().query())?;
                    let verb = match verb_of(request.method(), &resource, &query) {
                        "" => request.method().as_str().to_lowercase(),
                        verb => verb.to_owned(),
                    };
                    self.authorize_resource(identity, &verb, &resource, None)?;
                }
                (group, route) => {
                    self.authorize_path(identity, request.method(), &path)?;
                    if let Some(document) = group.and_then(|group| discovery::of_extension(&group, &route)) {
                        return Ok(document);
                    }
                }
            }
            return Ok(extension.call(request, identity).await);
        }
        match Route::parse(&path) {
            Route::Resource(resource) => self.answer_resource(request, identity, resource, origin).await,
            route => {
                self.authorize_path(identity, request.method(), &path)?;
                let turn = self.enter(identity, Lane::of(identity, None), origin)?;
                let (server, request) = (self.clone(), request.map(drop));
                let answer = async move {
                    let answered = discovery::answer(&server, &route, &request)?;
                    let is_yaml = negotiate::error_media(request.headers()) == Media::Yaml;
                    Ok(if is_yaml { negotiate::as_yaml(answered).await } else { answered })
                };
                self.work(turn, answer).await
            }
        }
    }

    fn authorize_path(&self, identity: &Identity, method: &Method, path: &str) -> Result<()> {
        let verb = method.as_str().to_ascii_lowercase();
        let access = Access { identity, verb: &verb, target: Target::Path(path), object: None };
        match self.authorizer.authorize(&access, &self.store) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(ApiError::forbidden_access(&access, &reason)),
        }
    }

    /// Records writes, and everything that is done in another's name, in the audit log.
    fn record(&self, event: &AuditEvent<'_>) {
        if let Some(impersonated) = event.impersonated
            && event.is_write()
        {
            let (user, path) = (event.caller.map_or("", |caller| caller.user.as_str()), event.uri.path());
            let (impersonated, verb, code) = (impersonated.user.as_str(), event.verb, event.code);
            info!(user, impersonated, verb, path, code, "Answered a request in another's name.");
        }
        if let Some(audit) = self.audit.as_ref().filter(|_| event.is_kept()) {
            audit.record(event);
        }
    }
}

/// Adds `Warning` headers, which clients show to people, as many as headers can carry.
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in machinery_kinds::limit_warnings(warnings.iter().cloned()) {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}
