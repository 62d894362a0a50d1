//! The paths and what they answer.

use super::access::{Caller, Guard, Operator, guard};
use super::error::ApiError;
use super::{EdgeControl, Readiness, ReloadReport, allow, stream, view};
use crate::clock::Clock;
use crate::metrics::{self, Metrics};
use crate::reporter::{Call, Lookup, Shared};
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore, watch};

const MAX_BODY_BYTES: usize = 16 << 10;
/// Calls in one answer unless the request says otherwise, and at most.
const DEFAULT_LIMIT: usize = 200;
const MAX_LIMIT: usize = 10_000;

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    pub shared: Arc<Shared>,
    pub metrics: Arc<Metrics>,
    pub control: Arc<dyn EdgeControl>,
    pub clock: Clock,
    pub streams: Arc<Semaphore>,
    /// Becomes true when the server stops: live streams end then.
    pub stopped: watch::Receiver<bool>,
    /// One reload at a time.
    pub reloading: Arc<Mutex<()>>,
}

/// All routes.
pub fn router(api: Api, access: Guard) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/v1/calls", get(calls))
        .route("/v1/calls/{id}", get(call))
        .route("/v1/calls/{id}/transfer", post(transfer))
        .route("/v1/trunks", get(trunks))
        .route("/v1/trunks/{name}/allow", get(allow_test))
        .route("/v1/events", get(stream::events))
        .route("/v1/reload", post(reload))
        .route("/v1/drain", post(drain))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(access, guard))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(api)
}

async fn unknown_path() -> ApiError {
    ApiError::not_found("unknown_path", "there is nothing at this path")
}

async fn wrong_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong_method",
        "this path does not know this method",
    )
}

async fn health() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

fn readiness(api: &Api) -> Readiness {
    let readiness = api.control.readiness();
    api.metrics.set_state(readiness.ready, readiness.draining);
    readiness
}

async fn ready(State(api): State<Api>) -> Response {
    let readiness = readiness(&api);
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

async fn scrape(State(api): State<Api>) -> Result<Response, ApiError> {
    api.shared.caught_up().await;
    readiness(&api);
    let text = api
        .metrics
        .render()
        .map_err(|e| ApiError::internal(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

#[derive(Deserialize)]
struct CallFilter {
    /// `active`, `ended` or `all` (the default).
    state: Option<String>,
    limit: Option<usize>,
}

async fn calls(
    State(api): State<Api>,
    caller: Caller,
    filter: Result<Query<CallFilter>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(filter) = filter.map_err(bad_query)?;
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let (active, ended) = match filter.state.as_deref() {
        None | Some("all") => (true, true),
        Some("active") => (true, false),
        Some("ended") => (false, true),
        Some(other) => {
            return Err(ApiError::bad_request(
                "bad_query",
                format!("state is active, ended or all, not {other:?}"),
            ));
        }
    };
    api.shared.caught_up().await;
    let now = api.clock.now();
    let book = api.shared.book();
    let chosen = active
        .then(|| book.active())
        .into_iter()
        .flatten()
        .chain(ended.then(|| book.ended()).into_iter().flatten());
    let list = view::CallList {
        active: book.active_calls(),
        calls: chosen
            .take(limit)
            .map(|call| view::summary(call, now, caller.privacy()))
            .collect(),
    };
    drop(book);
    Ok(Json(list).into_response())
}

/// A copy of the call, so that the book is locked for a moment only.
fn find(api: &Api, id: &str) -> Result<Call, ApiError> {
    match api.shared.book().find(id) {
        Lookup::Found(call) => Ok(call.clone()),
        Lookup::Ambiguous => Err(ApiError::new(
            StatusCode::CONFLICT,
            "ambiguous_call",
            "several calls start with this id; give more of it",
        )),
        Lookup::Unknown => Err(ApiError::not_found(
            "unknown_call",
            "no call with this id is under way or ended recently; older ones are in the CDR file",
        )),
    }
}

async fn call(
    _: Operator,
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    api.shared.caught_up().await;
    let call = find(&api, &id.map_err(bad_path)?)?;
    let records = view::records(&call);
    Ok(Json(view::detail(&call, &records, api.clock.now())).into_response())
}

#[derive(Deserialize)]
struct TransferRequest {
    /// Where the caller shall go: a number, tel:, sip: or sips:.
    target: String,
}

async fn transfer(
    _: Operator,
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    body: Result<Json<TransferRequest>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(request) = body.map_err(|e| ApiError::bad_request("bad_body", e.body_text()))?;
    if request.target.trim().is_empty() {
        return Err(ApiError::bad_request("bad_body", "target is empty"));
    }
    if find(&api, &id.map_err(bad_path)?)?.ended.is_some() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "call_ended",
            "the call is over",
        ));
    }
    Err(ApiError::new(
        StatusCode::NOT_IMPLEMENTED,
        "not_built",
        "transfers from the admin API are not built yet; the agent's REFER is the way",
    ))
}

async fn trunks(State(api): State<Api>, caller: Caller) -> Response {
    let config = api.control.config();
    Json(view::trunks(&config, caller.privacy())).into_response()
}

#[derive(Deserialize)]
struct AllowQuery {
    ip: String,
}

async fn allow_test(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<AllowQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(bad_path)?;
    let Query(query) = query.map_err(bad_query)?;
    let ip: IpAddr = query
        .ip
        .parse()
        .map_err(|_| ApiError::bad_request("bad_query", "ip is not an IPv4 or IPv6 address"))?;
    let config = api.control.config();
    let trunk = config.trunk_named(&name).ok_or_else(|| {
        let names: Vec<&str> = config.trunks.iter().map(|t| &*t.name).collect();
        ApiError::not_found(
            "unknown_trunk",
            format!("no such trunk; there are {}", names.join(", ")),
        )
    })?;
    Ok(Json(allow::test(&config, trunk, ip)).into_response())
}

fn bad_path(rejection: PathRejection) -> ApiError {
    ApiError::bad_request("bad_path", rejection.body_text())
}

pub fn bad_query(rejection: QueryRejection) -> ApiError {
    ApiError::bad_request("bad_query", rejection.body_text())
}

async fn reload(_: Operator, State(api): State<Api>) -> Result<Json<ReloadReport>, ApiError> {
    let Ok(turn) = api.reloading.clone().try_lock_owned() else {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "reload_running",
            "a reload is under way",
        ));
    };
    let control = api.control.clone();
    // Reads files and waits for all cores: not on the thread that serves everyone. The turn is over when it is done, even
    // when the request was given up before.
    let done = tokio::task::spawn_blocking(move || {
        let result = control.reload();
        drop(turn);
        result
    });
    match done.await {
        Ok(Ok(report)) => {
            tracing::info!("configuration reloaded through the admin API");
            Ok(Json(report))
        }
        Ok(Err(message)) => Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "config_refused",
            message,
        )),
        Err(_) => Err(ApiError::internal("the reload failed; see the log")),
    }
}

#[derive(Serialize)]
struct Draining {
    draining: bool,
    /// Calls still under way.
    active: usize,
}

async fn drain(_: Operator, State(api): State<Api>) -> Result<Response, ApiError> {
    tracing::info!("drain requested through the admin API");
    api.control.drain().map_err(|e| ApiError::busy(&e))?;
    let answer = Draining {
        draining: true,
        active: api.shared.book().active_calls(),
    };
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}
