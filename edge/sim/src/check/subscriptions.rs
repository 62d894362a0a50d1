//! The implicit subscriptions of accepted REFERs, as their messages show them.

use super::{Facts, Seen};
use crate::wire::Sip;
use edge_proto::id::ConnectionId;
use edge_proto::time::Instant;
use std::collections::BTreeMap;

/// In multiples of T1: how long the answer to a NOTIFY is waited for.
pub const CAP_T1: u32 = 8;

/// One subscription.
pub struct Subscription {
    /// CSeq of its REFER.
    pub cseq: u32,
    /// The transferor wants no NOTIFY.
    pub quiet: bool,
    /// Status and state of each NOTIFY.
    pub told: Vec<(u16, String)>,
    /// The NOTIFY that is not answered: its branch, connection and time.
    pub open: Option<(String, ConnectionId, Instant)>,
    /// When the final NOTIFY was sent.
    pub final_at: Option<Instant>,
    /// The transferor refused a NOTIFY, or did not answer it in time.
    pub dead: bool,
    /// The connection broke under the last NOTIFY: it may be sent once more.
    pub lost: bool,
    /// The last NOTIFY is one that was sent before.
    again: bool,
}

impl Subscription {
    /// Whether nothing more can be asked of the edge.
    pub fn is_beyond_help(&self) -> bool {
        self.dead || self.lost
    }
}

/// Answers to a NOTIFY that say that there is no subscription (RFC 6665 §4.2.2, RFC 5057).
const ENDING: [u16; 13] = [
    404, 405, 410, 416, 480, 481, 482, 483, 484, 485, 489, 501, 604,
];

/// All of them, by the Call-ID of the transferor's dialog.
#[derive(Default)]
pub struct Subscriptions {
    pub all: BTreeMap<String, Vec<Subscription>>,
}

impl Subscriptions {
    /// Takes in what was seen. Faults are those of the order of NOTIFYs.
    pub fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        // A NOTIFY that times out ends its subscription (RFC 6665 §4.2.2, RFC 3261 timer F).
        let timeout = facts.t1() * 64;
        for subscription in self.all.values_mut().flatten() {
            let late =
                |(_, _, at): &mut (_, _, Instant)| facts.now.saturating_since(*at) >= timeout;
            if subscription.open.take_if(late).is_some() {
                subscription.dead = true;
            }
        }
        match seen {
            Seen::Decided { sip, .. }
                if sip.cseq().1 == "REFER" && (200..300).contains(&sip.code()) =>
            {
                self.accepted(sip);
            }
            Seen::Decided { conn, sip, .. } if sip.method() == "NOTIFY" => {
                if let Err(fault) = self.notified(facts, *conn, sip) {
                    faults.push(format!("{fault}: {}", sip.summary()));
                }
            }
            Seen::Received { sip, .. } if sip.cseq().1 == "NOTIFY" && sip.code() >= 200 => {
                self.answered(sip);
            }
            Seen::Ended(conn) => {
                for subscription in self.all.values_mut().flatten() {
                    if subscription.open.take_if(|open| open.1 == *conn).is_some() {
                        subscription.dead |= subscription.again;
                        subscription.lost = true;
                    }
                }
            }
            _ => {}
        }
    }

    fn accepted(&mut self, sip: &Sip) {
        let list = self.all.entry(sip.call_id().to_owned()).or_default();
        let cseq = sip.cseq().0;
        if list.iter().any(|known| known.cseq == cseq) {
            return;
        }
        list.push(Subscription {
            cseq,
            quiet: sip.header("refer-sub") == "false",
            told: Vec::new(),
            open: None,
            final_at: None,
            dead: false,
            lost: false,
            again: false,
        });
    }

    fn notified(&mut self, facts: &Facts<'_>, conn: ConnectionId, sip: &Sip) -> Result<(), String> {
        let list = self
            .all
            .get_mut(sip.call_id())
            .ok_or("a NOTIFY in a dialog without an accepted REFER")?;
        let id = match sip.header("event").split_once(";id=") {
            Some((_, id)) => id.parse().ok(),
            // Those that nobody wanted to hear of are no subscriptions.
            None => list.iter().find(|s| !s.quiet).map(|first| first.cseq),
        };
        let subscription = list
            .iter_mut()
            .find(|subscription| Some(subscription.cseq) == id)
            .ok_or("a NOTIFY about a REFER that was not accepted")?;
        let state = sip.header("subscription-state").to_owned();
        let code = sip
            .body
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        let code: u16 = code.ok_or("a NOTIFY without a sipfrag")?;
        let terminated = state == "terminated;reason=noresource";
        let active = state
            .strip_prefix("active;expires=")
            .is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|seconds| seconds > 0));
        if subscription.quiet {
            return Err("a NOTIFY that the transferor did not want".to_owned());
        }
        if subscription.dead {
            return Err("a NOTIFY after the transferor refused one".to_owned());
        }
        let again = std::mem::take(&mut subscription.lost)
            && subscription.told.last().is_some_and(|last| last.0 == code);
        subscription.again = again;
        if subscription.final_at.is_some() && !again {
            return Err("a NOTIFY after the final one".to_owned());
        }
        if terminated == active || terminated != (code >= 200) {
            return Err(format!("status {code} does not go with {state:?}"));
        }
        if subscription.told.is_empty() && code != 100 {
            return Err("the first NOTIFY does not say 100".to_owned());
        }
        if let Some((_, _, at)) = &subscription.open
            && facts.now.saturating_since(*at) < facts.t1() * CAP_T1
        {
            return Err("a NOTIFY before the one before was answered".to_owned());
        }
        subscription.told.push((code, state));
        subscription.open = Some((sip.branch().to_owned(), conn, facts.now));
        if terminated {
            subscription.final_at = Some(facts.now);
        }
        Ok(())
    }

    fn answered(&mut self, sip: &Sip) {
        for subscription in self.all.values_mut().flatten() {
            let own = |open: &mut (String, ConnectionId, Instant)| open.0 == sip.branch();
            if subscription.open.take_if(own).is_some() && ENDING.contains(&sip.code()) {
                subscription.dead = true;
            }
        }
    }
}
