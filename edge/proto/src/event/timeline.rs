//! A call's timeline: every event in an engineer's words.
//!
//! The same words go to the admin API (numbers shown, the reader is authenticated) and to the log (numbers hidden).

use super::redact::{Number, Privacy, Text};
use super::{Cause, Direction, Event, EventKind, HangupBy, LegNumber, LegRecord};
use crate::sip::status::reason_phrase;
use crate::time::{Duration, Instant};

/// One line of a call's timeline, `{at, leg, kind, detail, reason}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineEntry {
    pub at: Instant,
    pub leg: Option<LegNumber>,
    /// A stable name in snake case to search for; see [`EventKind::describe`].
    pub kind: &'static str,
    /// What happened.
    pub detail: String,
    /// Why, where there is a why. After a verdict it starts with the cause's name and a colon.
    pub reason: Option<String>,
}

/// An event in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    pub kind: &'static str,
    pub detail: String,
    pub reason: Option<String>,
}

impl Description {
    fn new(kind: &'static str, detail: String) -> Self {
        Description {
            kind,
            detail,
            reason: None,
        }
    }

    fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into()).filter(|r| !r.is_empty());
        self
    }
}

impl Event {
    /// The line this event adds to its call's timeline; `None` when it belongs to no call. Numbers are shown.
    pub fn timeline(&self) -> Option<TimelineEntry> {
        self.call.as_ref()?;
        Some(self.entry(Privacy::Shown))
    }

    /// The event in words, whether or not it belongs to a call.
    pub fn entry(&self, privacy: Privacy) -> TimelineEntry {
        let Description {
            kind,
            detail,
            reason,
        } = self.kind.describe(privacy);
        TimelineEntry {
            at: self.at,
            leg: self.leg,
            kind,
            detail,
            reason,
        }
    }
}

impl EventKind {
    /// The event in words.
    ///
    /// Kinds: `call_started`, `leg_started`, `request`, `response`, `digest`, `routed`, `refer`, `header_dropped`,
    /// `transfer_attempt`, `transfer_bridged`, `transfer_ended`, `first_rtp`, `leg_ended`, `call_ended`, `access_dropped`,
    /// `connection`, `malformed`, `overflow`, and whatever a [`EventKind::Note`] brings.
    pub fn describe(&self, privacy: Privacy) -> Description {
        let number = |n| Number(n, privacy);
        let text = |t| Text(t, privacy);
        match self {
            EventKind::CallStarted {
                trunk,
                from,
                to,
                source,
                ..
            } => Description::new(
                "call_started",
                format!(
                    "call from {} to {}, from trunk {trunk} at {source}",
                    number(from),
                    number(to)
                ),
            ),
            EventKind::LegStarted {
                trunk, direction, ..
            } => Description::new(
                "leg_started",
                match direction {
                    Direction::Inbound => format!("inbound leg from trunk {trunk}"),
                    Direction::Outbound => format!("outbound leg to trunk {trunk}"),
                },
            ),
            EventKind::Request { .. } | EventKind::Response { .. } | EventKind::Digest { .. } => {
                self.describe_signalling()
            }
            EventKind::Routed {
                to,
                number: dialled,
            } => Description::new(
                "routed",
                format!("number {} goes to trunk {to}", number(dialled)),
            ),
            EventKind::Refer { .. }
            | EventKind::HeaderDropped { .. }
            | EventKind::TransferAttempt { .. }
            | EventKind::TransferBridged { .. }
            | EventKind::TransferEnded { .. } => self.describe_transfer(privacy),
            EventKind::FirstRtp { source } => Description::new(
                "first_rtp",
                format!("first RTP packet of this leg's peer, from {source}"),
            ),
            EventKind::Note {
                kind,
                detail,
                reason,
            } => Description::new(kind, text(detail).to_string()).because(
                reason
                    .as_deref()
                    .map(|r| text(r).to_string())
                    .unwrap_or_default(),
            ),
            EventKind::LegEnded(record) => describe_leg_end(record),
            EventKind::CallEnded { cause } => {
                Description::new("call_ended", "the call is over".to_owned())
                    .because(explain(*cause, ""))
            }
            EventKind::AccessDropped {
                listener,
                source,
                reason,
            } => Description::new(
                "access_dropped",
                format!("{source} dropped at listener {listener}"),
            )
            .because(*reason),
            EventKind::Connection {
                transport,
                remote,
                detail,
                ..
            } => Description::new(
                "connection",
                format!(
                    "{} connection with {remote}: {}",
                    transport.via_name(),
                    text(detail)
                ),
            ),
            EventKind::Malformed { source, fault } => Description::new(
                "malformed",
                format!("a message from {source} could not be understood"),
            )
            .because(text(fault).to_string()),
            EventKind::Overflow { queue } => {
                Description::new("overflow", format!("the {queue} queue was full"))
            }
        }
    }

    fn describe_signalling(&self) -> Description {
        match self {
            EventKind::Request {
                trunk,
                method,
                direction,
            } => Description::new("request", format!("{method} {}", way(*direction, trunk))),
            EventKind::Response {
                trunk,
                method,
                code,
                direction,
                elapsed,
            } => {
                let after = elapsed.map_or_else(String::new, |e| format!(" after {}", seconds(e)));
                let phrase = reason_phrase(*code);
                Description::new(
                    "response",
                    format!(
                        "{code} {phrase} to {method} {}{after}",
                        way(*direction, trunk)
                    ),
                )
            }
            EventKind::Digest { trunk, outcome } => describe_digest(trunk, outcome),
            _ => Description::new("unknown", String::new()),
        }
    }

    fn describe_transfer(&self, privacy: Privacy) -> Description {
        match self {
            EventKind::Refer {
                target,
                status,
                cause,
                detail,
            } => {
                let (target, detail) = (Number(target, privacy), Text(detail, privacy).to_string());
                match cause {
                    None => Description::new(
                        "refer",
                        format!("REFER to {target} accepted with {status}"),
                    )
                    .because(detail),
                    Some(cause) => Description::new(
                        "refer",
                        format!("REFER to {target} refused with {status}"),
                    )
                    .because(explain(*cause, &detail)),
                }
            }
            EventKind::HeaderDropped { name, rule } => Description::new(
                "header_dropped",
                format!(
                    "header {} of the REFER is not passed on to the target",
                    Text(name, privacy)
                ),
            )
            .because(Text(rule, privacy).to_string()),
            EventKind::TransferAttempt {
                id,
                attempt,
                target,
                via,
            } => Description::new(
                "transfer_attempt",
                format!(
                    "transfer {id}, attempt {attempt}: calling {} over trunk {via}",
                    Number(target, privacy)
                ),
            ),
            EventKind::TransferBridged { id, elapsed, .. } => Description::new(
                "transfer_bridged",
                format!(
                    "transfer {id}: caller and target are bridged, {} after the 202",
                    seconds(*elapsed)
                ),
            ),
            EventKind::TransferEnded {
                id, result, cause, ..
            } => {
                let detail = match id {
                    // Transfers count from 1: this REFER never became one.
                    0 => format!("no transfer: {result}"),
                    _ => format!("transfer {id}: {result}"),
                };
                let end = Description::new("transfer_ended", detail);
                match cause {
                    // What it means for a call is not what it means for a transfer, and that it succeeded needs no reason.
                    Cause::Completed => end,
                    _ => end.because(explain(*cause, "")),
                }
            }
            _ => Description::new("unknown", String::new()),
        }
    }
}

fn way(direction: Direction, trunk: &str) -> String {
    match direction {
        Direction::Inbound => format!("received from {trunk}"),
        Direction::Outbound => format!("sent to {trunk}"),
    }
}

fn seconds(duration: Duration) -> String {
    // Rounded.
    let millis = (duration.as_nanos() + 500_000) / 1_000_000;
    format!("{}.{:03} s", millis / 1_000, millis % 1_000)
}

/// `name: what it means here`, or its general meaning when nothing more is known.
fn explain(cause: Cause, detail: &str) -> String {
    let detail = if detail.is_empty() {
        cause.meaning()
    } else {
        detail
    };
    format!("{}: {detail}", cause.as_str())
}

fn describe_digest(trunk: &str, outcome: &'static str) -> Description {
    let refused = |why: &str| {
        Description::new("digest", format!("credentials of {trunk} refused"))
            .because(format!("{outcome}: {why}"))
    };
    match outcome {
        "challenged" => Description::new("digest", format!("{trunk} is asked for credentials")),
        "accepted" => Description::new("digest", format!("credentials of {trunk} accepted")),
        "answered" => Description::new(
            "digest",
            format!("{trunk} asks for credentials: the request is sent again with them"),
        ),
        "unanswered" => Description::new(
            "digest",
            format!("{trunk} asks for credentials, and is shown none"),
        ),
        "reflected" => Description::new(
            "digest",
            format!("the challenge of {trunk} is not answered"),
        )
        .because("reflected: it carries a nonce that this edge minted"),
        "stale" => refused("the nonce has expired; a new one was sent, with stale=true"),
        "replayed" => refused("this nonce count was used before"),
        "wrong_realm" => refused("they are for another realm than the trunk's"),
        "wrong_uri" => refused("their uri is not the Request-URI"),
        "wrong_credentials" => refused("the user name or the response does not match"),
        "malformed" => refused("the Authorization header is incomplete or cannot be parsed"),
        _ => refused("they did not verify"),
    }
}

fn describe_leg_end(record: &LegRecord) -> Description {
    let trunk = &record.trunk;
    let who = match record.hangup_by {
        HangupBy::Local => "the other side of the call",
        HangupBy::Remote => "its own peer",
        HangupBy::Edge => "the edge",
    };
    let length = seconds(record.end.saturating_since(record.start));
    let answered = match (record.answer, record.sip_status) {
        (Some(answer), _) => format!(
            "answered for {}",
            seconds(record.end.saturating_since(answer))
        ),
        (None, Some(status)) => format!("not answered, INVITE ended with {status}"),
        (None, None) => "not answered, INVITE got no final response".to_owned(),
    };
    let side = match record.direction {
        Direction::Inbound => "from",
        Direction::Outbound => "to",
    };
    Description::new(
        "leg_ended",
        format!("leg {side} {trunk} ended by {who} after {length}, {answered}"),
    )
    .because(explain(record.cause, ""))
}

#[cfg(test)]
mod tests;
