//! Every request gets exactly one final response.

use super::{Checker, Ending, Facts, Seen};
use crate::wire::Sip;
use bytes::Bytes;
use edge_proto::id::ConnectionId;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Finals {
    requests: BTreeMap<(String, String), Request>,
    /// Connections that carried at least one whole message. Others carry noise, which is answered or not.
    known: BTreeSet<ConnectionId>,
    ended: BTreeSet<ConnectionId>,
}

struct Request {
    summary: String,
    conn: ConnectionId,
    /// How often it arrived.
    copies: usize,
    finals: Vec<Bytes>,
}

impl Checker for Finals {
    fn name(&self) -> &'static str {
        "finals"
    }

    fn see(&mut self, _: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>) {
        match seen {
            Seen::Received { conn, sip, .. } => {
                self.known.insert(*conn);
                if sip.is_request() && sip.method() != "ACK" {
                    self.requests
                        .entry(key(sip))
                        .or_insert_with(|| Request {
                            summary: sip.summary(),
                            conn: *conn,
                            copies: 0,
                            finals: Vec::new(),
                        })
                        .copies += 1;
                }
            }
            Seen::Sent { conn, sip, .. } if sip.code() >= 200 && self.known.contains(conn) => {
                self.answered(sip, faults);
            }
            Seen::Ended(conn) => {
                self.ended.insert(*conn);
            }
            _ => {}
        }
    }

    fn end(&mut self, _: &Facts<'_>, _: &Ending, faults: &mut Vec<String>) {
        for request in self.requests.values() {
            if request.finals.is_empty() && !self.ended.contains(&request.conn) {
                faults.push(format!("never answered: {}", request.summary));
            }
        }
    }
}

impl Finals {
    fn answered(&mut self, sip: &Sip, faults: &mut Vec<String>) {
        let Some(request) = self.requests.get_mut(&key(sip)) else {
            return faults.push(format!("a response to nothing: {}", sip.summary()));
        };
        let again = request.finals.contains(&sip.raw);
        // A 2xx to INVITE is repeated until its ACK comes (RFC 3261 §13.3.1.4).
        let repeats = sip.cseq().1 == "INVITE" && sip.code() < 300;
        if again && (repeats || request.copies > 1) {
            return;
        }
        request.finals.push(sip.raw.clone());
        if request.finals.len() > request.copies {
            faults.push(format!(
                "{} final responses to {} copies of {}, the last: {}",
                request.finals.len(),
                request.copies,
                request.summary,
                sip.summary()
            ));
        }
    }
}

fn key(sip: &Sip) -> (String, String) {
    (sip.branch().to_owned(), sip.cseq().1.to_owned())
}
