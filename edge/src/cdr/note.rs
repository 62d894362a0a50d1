//! What the journals say about a call, event by event.

use super::leg::{LegId, OpenLeg, OpenRefer, OpenTransfer};
use super::line::CdrLine;
use crate::reporter::WallClock;
use edge_proto::event::{CallId, Direction, Event, EventKind};
use edge_proto::sip::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// News of a call that its records need. Whether an event is one depends on the event alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Note {
    Start(Box<OpenLeg>),
    /// To an INVITE: 180-183 or 2xx.
    Response {
        leg: LegId,
        code: u16,
        outbound: bool,
        at: Timestamp,
    },
    Refer {
        leg: LegId,
        refer: OpenRefer,
    },
    Attempt {
        call: CallId,
        transfer: OpenTransfer,
    },
    Bridged {
        call: CallId,
        transfer: u32,
    },
    /// With its line in the CDR file, newline excluded.
    End {
        leg: LegId,
        line: String,
    },
}

impl Note {
    /// Whether an event is news of that kind: [`Note::of`] without its making.
    pub fn is_worth(event: &Event) -> bool {
        event.call.is_some()
            && match &event.kind {
                EventKind::CallStarted { .. }
                | EventKind::LegStarted { .. }
                | EventKind::Refer { .. }
                | EventKind::TransferAttempt { .. }
                | EventKind::TransferBridged { .. }
                | EventKind::LegEnded(_) => true,
                EventKind::Response { method, code, .. } => {
                    *method == Method::Invite && matches!(code, 180..=183 | 200..=299)
                }
                _ => false,
            }
    }

    /// What there is to note about an event, its times told by `clock`.
    pub fn of(event: &Event, clock: &WallClock) -> Option<Note> {
        let call = event.call.as_ref()?;
        let leg = || {
            Some(LegId {
                call: call.clone(),
                leg: event.leg?,
            })
        };
        Some(match &event.kind {
            EventKind::CallStarted { .. } | EventKind::LegStarted { .. } => {
                Note::Start(Box::new(OpenLeg::started(event, clock)?))
            }
            EventKind::Response {
                method,
                code: code @ (180..=183 | 200..=299),
                direction,
                ..
            } if *method == Method::Invite => Note::Response {
                leg: leg()?,
                code: *code,
                outbound: *direction == Direction::Outbound,
                at: clock.at(event.at),
            },
            EventKind::Refer { .. } => Note::Refer {
                leg: leg()?,
                refer: OpenRefer::new(event, clock)?,
            },
            EventKind::TransferAttempt {
                id,
                attempt,
                target,
                via,
            } => Note::Attempt {
                call: call.clone(),
                transfer: OpenTransfer {
                    id: *id,
                    attempt: *attempt,
                    target: target.clone(),
                    via: String::from(&**via),
                    completed: false,
                },
            },
            EventKind::TransferBridged { id, .. } => Note::Bridged {
                call: call.clone(),
                transfer: *id,
            },
            EventKind::LegEnded(record) => Note::End {
                leg: LegId {
                    call: record.call.clone(),
                    leg: record.leg,
                },
                line: CdrLine::new(record, clock).to_text(),
            },
            _ => return None,
        })
    }
}
