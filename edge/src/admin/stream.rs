//! `GET /v1/events`: events as they happen (server-sent events).

use super::access::Caller;
use super::error::ApiError;
use super::routes::{Api, bad_query};
use super::view;
use crate::reporter::Published;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use edge_proto::event::Privacy;
use futures_util::stream;
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Streams open at once.
pub const MAX_STREAMS: usize = 16;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
pub struct Filter {
    /// Only events of this call.
    call: Option<String>,
}

struct Listener {
    events: Receiver<Published>,
    call: Option<String>,
    privacy: Privacy,
    stopped: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

pub async fn events(
    State(api): State<Api>,
    caller: Caller,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let Query(filter) = filter.map_err(bad_query)?;
    let permit = api
        .streams
        .clone()
        .try_acquire_owned()
        .map_err(|_| ApiError::busy("too many event streams are open"))?;
    let listener = Listener {
        events: api.shared.subscribe(),
        call: filter.call,
        privacy: caller.privacy(),
        stopped: api.stopped.clone(),
        _permit: permit,
    };
    let stream = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok::<Event, Infallible>(event), listener))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Listener {
    /// The next event that is wanted; `None` when the edge stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let received = tokio::select! {
                received = self.events.recv() => received,
                _ = self.stopped.wait_for(|stopped| *stopped) => return None,
            };
            match received {
                Ok(published) if self.wants(&published) => {
                    let (kind, line) = view::stream_line(&published, self.privacy);
                    let event = Event::default().event(kind);
                    // A line is plain data; should it ever not serialize, it is skipped.
                    if let Ok(event) = event.json_data(line) {
                        return Some(event);
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let event = Event::default().event("lagged");
                    return event
                        .json_data(serde_json::json!({ "missed": missed }))
                        .ok();
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn wants(&self, published: &Published) -> bool {
        let call = published.event.call.as_deref();
        self.call
            .as_deref()
            .is_none_or(|wanted| call == Some(wanted))
    }
}
