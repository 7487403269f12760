//! A shortcut around the router for the one call that costs less than being routed.

use std::convert::Infallible;
use std::task::{Context, Poll};

use http::{Request, Response};
use marquee_proto::encoded::recommendation_service_server::RecommendationServiceServer;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tower::{Layer, Service};

use super::recommendation::Recommendation;

const RECOMMEND: &str = "/marquee.v1.RecommendationService/Recommend";

type Direct = RecommendationServiceServer<Recommendation>;

/// Hands Recommend to its service and everything else on.
#[derive(Clone)]
pub(super) struct Shortcut {
    /// `None` where there is no such service.
    pub(super) recommend: Option<Direct>,
}

impl Shortcut {
    /// For a listener without Recommend.
    pub(super) fn none() -> Shortcut {
        Shortcut { recommend: None }
    }
}

impl<S> Layer<S> for Shortcut {
    type Service = Shortened<S>;

    fn layer(&self, rest: S) -> Shortened<S> {
        Shortened { recommend: self.recommend.clone(), rest }
    }
}

/// A service with a shortcut.
#[derive(Clone)]
pub(super) struct Shortened<S> {
    recommend: Option<Direct>,
    rest: S,
}

impl<S> Service<Request<Body>> for Shortened<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.rest.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match &mut self.recommend {
            Some(recommend) if request.uri().path() == RECOMMEND => recommend.call(request),
            _ => Box::pin(self.rest.call(request)),
        }
    }
}
