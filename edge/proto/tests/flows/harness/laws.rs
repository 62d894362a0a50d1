//! What holds in every flow, whatever it is about.

use super::peers::Site;
use edge_proto::event::{DIGEST_OUTCOMES, Event, EventKind};
use edge_proto::sip::{HeaderName, Message};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What was seen of the edge's messages so far.
#[derive(Default)]
pub struct Laws {
    /// (branch, method) of the requests -> their bytes.
    requests: BTreeMap<(String, String), String>,
    /// (Call-ID, From tag, To tag, CSeq) of the requests -> their branch.
    sequence: BTreeMap<(String, String, String, u32), String>,
    /// (branch, CSeq) of the final responses -> their bytes.
    finals: BTreeMap<(String, String), String>,
    /// Call-ID and To tag of the dialogs that the edge has ended.
    ended: BTreeSet<(String, String)>,
    /// (Call-ID, From tag, Event) -> the status of the last NOTIFY.
    subscriptions: BTreeMap<(String, String, String), u16>,
    /// Call-ID -> the edge's last description.
    descriptions: BTreeMap<(SocketAddr, String), String>,
    /// Texts that a flow lets through although they belong to another party (a kept Referred-By).
    pub may_show: Vec<String>,
}

impl Laws {
    /// A message of the edge reached `peer`.
    pub fn sent(&mut self, site: &Site, peer: SocketAddr, message: &Message) {
        let text = String::from_utf8_lossy(message.raw()).into_owned();
        assert!(!text.contains("s3cret"), "a password is shown:\n{text}");
        self.hides_topology(site, peer, &text);
        if message.is_request() {
            self.request(message, &text);
        } else {
            self.response(message, &text);
        }
        self.description(peer, message, &text);
    }

    fn hides_topology(&self, site: &Site, peer: SocketAddr, text: &str) {
        let mut shown = text.to_owned();
        for allowed in &self.may_show {
            shown = shown.replace(allowed, "");
        }
        for other in [site.carrier, site.ai, site.human, site.spare] {
            let other = other.ip().to_string();
            // Whole addresses only: 2001:db8::1 is a part of 2001:db8::10.
            let found = shown.match_indices(&other).any(|(at, _)| {
                let after = shown[at + other.len()..].chars().next();
                !after.is_some_and(|c| c.is_ascii_hexdigit() || c == '.')
            });
            assert!(
                !found || peer.ip().to_string() == other,
                "{peer} is shown {other}:\n{text}"
            );
        }
    }

    fn request(&mut self, message: &Message, text: &str) {
        let method = message.cseq().method.as_str().to_owned();
        let branch = message.top_via().branch().unwrap_or_default().to_owned();
        assert!(branch.starts_with("z9hG4bK"), "{text}");
        assert!(message.header(HeaderName::MaxForwards).is_some(), "{text}");
        let earlier = self
            .requests
            .insert((branch.clone(), method.clone()), text.to_owned());
        if let Some(earlier) = earlier {
            assert_eq!(earlier, text, "another request with the same branch");
            return;
        }
        if matches!(method.as_str(), "ACK" | "CANCEL") {
            return;
        }
        let call_id = message.call_id().to_owned();
        let from = message.from_tag().unwrap_or_default().to_owned();
        let to = message.to_tag().unwrap_or_default().to_owned();
        let number = message.cseq().number;
        let place = (call_id.clone(), from.clone(), to.clone(), number);
        if let Some(other) = self.sequence.insert(place, branch.clone()) {
            panic!("CSeq used twice, by {other} and {branch}:\n{text}");
        }
        let dialog = (call_id.clone(), to.clone());
        assert!(
            // A BYE whose connection was lost is sent again.
            to.is_empty() || method == "BYE" || !self.ended.contains(&dialog),
            "a request in a dialog that the edge has ended:\n{text}"
        );
        match method.as_str() {
            "BYE" => {
                self.ended.insert(dialog);
            }
            "NOTIFY" => self.notify(message, (call_id, from)),
            "INVITE" => assert!(message.contact().is_some_and(|c| c.is_ok()), "{text}"),
            _ => {}
        }
    }

    /// RFC 3515: 100 first, and nothing after the final status.
    fn notify(&mut self, message: &Message, dialog: (String, String)) {
        let text = String::from_utf8_lossy(message.raw()).into_owned();
        let event = message.header(HeaderName::Event).expect("Event").to_owned();
        let state = message
            .header(HeaderName::SubscriptionState)
            .expect("Subscription-State");
        assert_eq!(message.content_type(), Some("message/sipfrag;version=2.0"));
        let body = String::from_utf8_lossy(message.body()).into_owned();
        let key = (dialog.0, dialog.1, event);
        let code: u16 = body[8..11].parse().expect("a status");
        let last = code >= 200;
        match self.subscriptions.get(&key) {
            None => assert_eq!(code, 100, "the first NOTIFY says 100:\n{text}"),
            // One whose connection was lost is sent again.
            Some(&before) if before == code => {}
            Some(&before) => {
                assert!(before < 200, "a NOTIFY after the final one:\n{text}");
                assert_ne!(code, 100, "100 again:\n{text}");
            }
        }
        if last {
            assert_eq!(state, "terminated;reason=noresource");
        } else {
            assert!(state.starts_with("active;expires="), "{state}");
        }
        self.subscriptions.insert(key, code);
    }

    fn response(&mut self, message: &Message, text: &str) {
        let code = message.status().unwrap_or_default();
        assert!(
            code == 100 || message.to_tag().is_some(),
            "a response without a To-tag:\n{text}"
        );
        let branch = message.top_via().branch().unwrap_or_default().to_owned();
        let cseq = message.header(HeaderName::CSeq).unwrap_or_default();
        let key = (branch, cseq.to_owned());
        match self.finals.get(&key) {
            Some(earlier) => assert_eq!(earlier, text, "two final responses, or one after it"),
            None if code >= 200 => {
                self.finals.insert(key, text.to_owned());
            }
            None => {}
        }
    }

    /// RFC 3264 §8: the origin stays, and its version counts the changes.
    fn description(&mut self, peer: SocketAddr, message: &Message, text: &str) {
        let body = String::from_utf8_lossy(message.body()).into_owned();
        if !body.starts_with("v=0") {
            return;
        }
        let key = (peer, message.call_id().to_owned());
        let Some(earlier) = self.descriptions.insert(key, body.clone()) else {
            return;
        };
        let (id, version, rest) = origin(&body);
        let (id_before, version_before, rest_before) = origin(&earlier);
        if id != id_before {
            // Only a call that moved to another address (family) starts anew.
            assert_eq!(message.cseq().method.as_str(), "INVITE", "{text}");
            assert!(message.to_tag().is_none(), "a new session id:\n{text}");
            return;
        }
        let grown = u64::from(rest != rest_before);
        assert_eq!(version, version_before + grown, "{earlier}\n{body}");
    }
}

/// Session id, version, and everything else of a description.
fn origin(body: &str) -> (String, u64, String) {
    let line = body
        .lines()
        .find(|line| line.starts_with("o="))
        .expect("o=");
    let mut words = line.split(' ').skip(1);
    let id = words.next().expect("an id").to_owned();
    let version = words.next().expect("a version");
    let version = version.parse().expect("a number");
    (id, version, body.replace(line, ""))
}

/// At the end of a flow: every leg that began has one CDR line, and every call one end.
pub fn reported(events: &[Event]) {
    let mut legs: BTreeMap<(String, u8), usize> = BTreeMap::new();
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    for event in events {
        let debug = format!("{event:?}");
        assert!(!debug.contains("s3cret"), "a password is shown: {debug}");
        is_foreseen(&event.kind);
        let Some(call) = event.call.as_deref() else {
            continue;
        };
        match (&event.kind, event.leg) {
            (EventKind::CallStarted { .. }, Some(leg)) => {
                calls.entry(call.to_owned()).or_default();
                legs.entry((call.to_owned(), leg)).or_default();
            }
            (EventKind::LegStarted { .. }, Some(leg)) => {
                legs.entry((call.to_owned(), leg)).or_default();
            }
            (EventKind::LegEnded(_), Some(leg)) => {
                *legs.entry((call.to_owned(), leg)).or_default() += 1;
            }
            (EventKind::CallEnded { .. }, _) => {
                *calls.entry(call.to_owned()).or_default() += 1;
            }
            _ => {}
        }
    }
    for ((call, leg), count) in legs {
        assert_eq!(count, 1, "CDR lines of leg {leg} of call {call}");
    }
    for (call, count) in calls {
        assert_eq!(count, 1, "ends of call {call}");
    }
}

/// The metrics begin at zero for what is foreseen: anything else would be a series that starts with its first event.
fn is_foreseen(kind: &EventKind) {
    match kind {
        EventKind::LegEnded(record) => {
            let (cause, direction) = (record.cause, record.direction);
            assert!(cause.ends_leg(direction), "{direction:?} leg: {cause:?}");
        }
        EventKind::TransferEnded { result, cause, .. } => {
            let results = cause.transfer_results();
            assert!(results.contains(result), "{result} because of {cause:?}");
        }
        EventKind::Digest { outcome, .. } => assert!(DIGEST_OUTCOMES.contains(outcome)),
        _ => {}
    }
}
