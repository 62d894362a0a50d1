//! Sources that no trunk lists get no answer and a close, and those that a reload removes lose their calls.

use super::{Checker, Ending, Facts, Seen};
use crate::scenario::{Change, Side};
use edge_proto::b2bua::{Input, Output};
use edge_proto::id::ConnectionId;
use edge_proto::time::Duration;

#[derive(Default)]
pub struct Access {
    /// A connection that has to be closed before anything else happens.
    unlisted: Option<ConnectionId>,
}

/// Within this time of the reload, BYE has gone out.
const PROMPT: Duration = Duration::from_millis(500);

impl Checker for Access {
    fn name(&self) -> &'static str {
        "access"
    }

    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        match seen {
            Seen::Input(
                _,
                Input::Accepted {
                    connection,
                    listener,
                    remote,
                    ..
                },
            ) if facts.config.allow.lookup(*listener, remote.ip()).is_empty() => {
                self.unlisted = Some(*connection);
            }
            Seen::Output(_, Output::Close { connection }) => {
                self.unlisted.take_if(|own| *own == *connection);
            }
            Seen::Handled { .. } => {
                if let Some(connection) = self.unlisted.take() {
                    faults.push(format!("{connection:?} of an unlisted source stays open"));
                }
            }
            Seen::Sent { to, sip, .. }
                if facts.scenario.places.side_of(to.ip()) == Some(Side::Stranger) =>
            {
                faults.push(format!(
                    "a stranger at {to} got an answer: {}",
                    sip.summary()
                ));
            }
            _ => {}
        }
    }

    fn end(&mut self, facts: &Facts<'_>, _: &Ending, faults: &mut Vec<String>) {
        let gone = matches!(facts.scenario.reload, Some((_, Change::CarrierHostGone)));
        let (Some((_, at)), true) = (facts.before, gone) else {
            return;
        };
        let first = facts.scenario.places.hosts_of(Side::Carrier).next();
        let removed = first.map(|host| facts.scenario.places.hosts[host].address.ip());
        for (call_id, leg) in facts.book.legs() {
            let theirs = leg.inbound && leg.from == removed;
            let up = leg.answered_at.is_some_and(|answered| answered < at)
                && leg.bye_received.is_none_or(|bye| bye + PROMPT > at)
                && leg.bye_sent.is_none_or(|bye| bye > at);
            let ended = leg
                .bye_sent
                .or(leg.bye_received)
                .is_some_and(|bye| bye <= at + PROMPT);
            if theirs && up && !ended {
                faults.push(format!(
                    "call {call_id} of a source that the reload removed at {at:?} went on"
                ));
            }
        }
    }
}
