//! A client's transport without a socket: controllers of the same program call the server as anyone would, at the cost of a call.

use std::convert::Infallible;
use std::task::{Context, Poll};

use base_http::{Body, BoxError};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};

use crate::server::{Origin, boxed};
use crate::{Identity, Server};

/// A `tower::Service` for `kube::Client::new`, calling as one identity.
#[derive(Clone)]
pub struct InProcess {
    server: Server,
    identity: Identity,
}

impl InProcess {
    pub(crate) fn new(server: Server, identity: Identity) -> Self {
        Self { server, identity }
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { server, identity } = self.clone();
        Box::pin(async move { Ok(server.handle_from(request.map(boxed), Some(&identity), Origin::InProcess).await) })
    }
}
