//! Who asks, and how many may at once.

use super::error::ApiError;
use super::token::Token;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use edge_proto::event::Privacy;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Requests worked on at once; live streams have a bound of their own.
const MAX_REQUESTS: usize = 32;
/// A request that is not answered by then is given up: a slow body, or a reload that hangs on a dead disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// What every request passes first.
#[derive(Clone)]
pub struct Guard {
    token: Token,
    /// The listener is reachable from this machine only.
    loopback: bool,
    requests: Arc<Semaphore>,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// Anybody on this machine.
    Local,
    /// Holds the token.
    Operator,
}

impl Caller {
    /// How numbers are shown to them.
    pub fn privacy(self) -> Privacy {
        match self {
            Caller::Local => Privacy::Redacted,
            Caller::Operator => Privacy::Shown,
        }
    }
}

impl Guard {
    pub fn new(token: Token, loopback: bool) -> Self {
        Guard {
            token,
            loopback,
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
        }
    }

    fn identify(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            if self.loopback {
                return Ok(Caller::Local);
            }
            return Err(ApiError::unauthorized(
                "this listener is not loopback: every request needs the bearer token",
            ));
        };
        // RFC 7235 §2.1: the scheme is case-insensitive. RFC 6750 §2.1: one space.
        let presented = value
            .as_bytes()
            .split_at_checked(7)
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
            .map(|(_, token)| token);
        match presented {
            Some(token) if self.token.matches(token) => Ok(Caller::Operator),
            Some(_) => Err(ApiError::unauthorized("the bearer token is wrong")),
            None => Err(ApiError::unauthorized(
                "the Authorization header is no bearer token",
            )),
        }
    }
}

/// Middleware: identifies the caller and bounds what is worked on.
pub async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let caller = match guard.identify(request.headers()) {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    let Ok(_permit) = guard.requests.try_acquire() else {
        return ApiError::busy("too many requests at once").into_response();
    };
    request.extensions_mut().insert(caller);
    match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::busy("the request took too long").into_response(),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Set for every request by `guard`; without it nobody is let in.
        parts
            .extensions
            .get::<Caller>()
            .copied()
            .ok_or_else(|| ApiError::unauthorized("the caller is not known"))
    }
}

/// Extractor for what only the holder of the token may.
pub struct Operator;

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Caller::from_request_parts(parts, state).await? {
            Caller::Operator => Ok(Operator),
            Caller::Local => Err(ApiError::unauthorized(
                "this needs the bearer token of the token file",
            )),
        }
    }
}
