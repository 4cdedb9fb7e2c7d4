//! A client's transport without a socket: controllers of the same program call the server as anyone would, at the cost of a call.

use std::convert::Infallible;
use std::task::{Context, Poll};

use base_http::{Body, BoxError};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};

use crate::server::{Origin, boxed};
use crate::{Identity, Server};

/// A `tower::Service` for `kube::Client::new`, calling as one identity.
#[derive(Clone)]
pub struct InProcess {
    server: Server,
    identity: Identity,
    user_agent: Option<HeaderValue>,
}

impl InProcess {
    pub(crate) fn new(server: Server, identity: Identity) -> Self {
        Self { server, identity, user_agent: None }
    }

    /// The same, which says who it is: the manager of the fields that it writes has this name.
    pub fn with_user_agent(self, name: &'static str) -> Self {
        Self { user_agent: Some(HeaderValue::from_static(name)), ..self }
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Self { server, identity, user_agent } = self.clone();
        if let Some(user_agent) = user_agent {
            request.headers_mut().entry(USER_AGENT).or_insert(user_agent);
        }
        Box::pin(async move { Ok(server.handle_from(request.map(boxed), Some(&identity), Origin::InProcess).await) })
    }
}
