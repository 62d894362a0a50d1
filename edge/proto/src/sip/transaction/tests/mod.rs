//! The layer in virtual time, message by message.

mod cancel;
mod channel;
mod client;
mod limits;
mod old_style;
mod server;

use super::*;
use crate::config::{Limits, SipConfig};
use crate::id::{ConnectionId, CoreId, ListenerId};
use crate::sip::builder::ResponseBuilder;
use crate::sip::message::Message;
use crate::sip::method::Method;
use crate::time::Duration;
use std::net::SocketAddr;

/// A UDP peer.
fn udp() -> Hop {
    udp_from("192.0.2.1:5060")
}

fn udp_from(remote: &str) -> Hop {
    let remote: SocketAddr = remote.parse().unwrap();
    Hop::Datagram {
        listener: ListenerId(0),
        remote,
    }
}

/// A TCP connection.
fn tcp(serial: u64) -> Hop {
    Hop::Stream(ConnectionId::accepted(CoreId(0), serial))
}

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn with_limit(transactions: usize) -> TransactionLayer {
    let config = SipConfig {
        limits: Limits {
            transactions,
            ..Limits::default()
        },
        ..SipConfig::default()
    };
    TransactionLayer::new(&config, Fingerprints::new([7; 16]))
}

fn layer() -> TransactionLayer {
    with_limit(100)
}

fn parse(text: impl Into<Bytes>) -> Message {
    let raw = text.into();
    Message::parse(raw.clone(), &MessageLimits::default())
        .unwrap_or_else(|fault| panic!("{fault}\n{}", String::from_utf8_lossy(&raw)))
}

/// A request as a peer or the user would send it; `extra` holds whole header lines.
struct Request<'a> {
    method: &'a str,
    branch: &'a str,
    sent_by: &'a str,
    call_id: &'a str,
    to_tag: &'a str,
    cseq: u32,
    extra: &'a str,
}

const INVITE: Request<'static> = Request {
    method: "INVITE",
    branch: ";branch=z9hG4bK-1",
    sent_by: "192.0.2.1:5060",
    call_id: "call-1",
    to_tag: "",
    cseq: 7,
    extra: "",
};

impl Request<'_> {
    fn bytes(&self) -> Bytes {
        let Request {
            method,
            branch,
            sent_by,
            call_id,
            to_tag,
            cseq,
            extra,
        } = self;
        Bytes::from(format!(
            "{method} sip:+1234567890@192.0.2.9 SIP/2.0\r\n\
             Via: SIP/2.0/UDP {sent_by}{branch}\r\n\
             Max-Forwards: 70\r\n\
             From: \"Caller\" <sip:caller@example.net>;tag=from-1\r\n\
             To: <sip:+1234567890@192.0.2.9>{to_tag}\r\n\
             Call-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\n\
             {extra}\
             Content-Length: 0\r\n\r\n"
        ))
    }

    fn message(&self) -> Message {
        parse(self.bytes())
    }

    /// As a client transaction of `layer`.
    fn start(&self, layer: &mut TransactionLayer, now: Instant, hop: Hop) -> ClientKey {
        let reliable = matches!(hop, Hop::Stream(_));
        let branch = self.branch.strip_prefix(";branch=").unwrap();
        let method = Method::from_token(self.method);
        layer
            .start(now, hop, reliable, method, branch, self.bytes())
            .unwrap()
    }

    /// As a new server transaction of `layer`.
    fn receive(&self, layer: &mut TransactionLayer, now: Instant, hop: Hop) -> ServerKey {
        match self.offer(layer, now, hop) {
            RequestDisposition::New(key) => key,
            other => panic!("not new: {other:?}"),
        }
    }

    fn offer(&self, layer: &mut TransactionLayer, now: Instant, hop: Hop) -> RequestDisposition {
        let reliable = matches!(hop, Hop::Stream(_));
        layer.on_request(now, hop, reliable, &self.message())
    }
}

/// A response to `request`, with a To tag if it needs one.
fn answer(request: &Message, code: u16, to_tag: &str) -> Bytes {
    let builder = ResponseBuilder::to(request, code);
    if to_tag.is_empty() {
        builder.build()
    } else {
        builder.to_tag(to_tag).build()
    }
}

fn respond(
    layer: &mut TransactionLayer,
    now: Instant,
    key: ServerKey,
    request: &Message,
    code: u16,
) {
    assert!(layer.respond(now, key, code, answer(request, code, "to-1")));
}

/// One output, readable: `INVITE`, `200` (the first or second word of the start line) or an event.
fn show(output: TransactionOutput) -> String {
    match output {
        TransactionOutput::Transmit { bytes, .. } => {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            let mut words = text.split(' ');
            let first = words.next().unwrap();
            if first == "SIP/2.0" {
                words.next().unwrap().to_owned()
            } else {
                first.to_owned()
            }
        }
        TransactionOutput::Event(event) => {
            let name = format!("{event:?}");
            name.split('(').next().unwrap().to_owned()
        }
    }
}

/// What is to be done now.
fn drain(layer: &mut TransactionLayer) -> Vec<String> {
    std::iter::from_fn(|| layer.poll_output())
        .map(show)
        .collect()
}

/// The messages to be sent now.
fn sent(layer: &mut TransactionLayer) -> Vec<(Hop, Message)> {
    std::iter::from_fn(|| layer.poll_output())
        .filter_map(|output| match output {
            TransactionOutput::Transmit { hop, bytes } => Some((hop, parse(bytes))),
            TransactionOutput::Event(_) => None,
        })
        .collect()
}

/// What happens by timers alone, in milliseconds from the epoch, up to and including `until`.
fn run(layer: &mut TransactionLayer, until: Instant) -> Vec<(u64, String)> {
    let mut log = Vec::new();
    while let Some(now) = layer.poll_timeout().filter(|&due| due <= until) {
        layer.handle_timeout(now);
        let millis = now.as_nanos() / 1_000_000;
        log.extend(drain(layer).into_iter().map(|what| (millis, what)));
    }
    log
}

/// Nothing is left of any transaction.
fn assert_empty(layer: &TransactionLayer) {
    assert_eq!(layer.counts(), (0, 0));
    assert!(layer.client_index.is_empty());
    assert!(layer.server_index.is_empty());
    assert!(layer.request_index.is_empty());
    assert!(layer.client_hops.is_empty());
    assert!(layer.server_hops.is_empty());
    assert!(layer.timers.is_empty());
    assert!(layer.outputs.is_empty());
}

/// Later than every timer that a transaction which stopped at `now` can have: 64*T1 and then timer D.
fn after_everything(now: Instant) -> Instant {
    now + Duration::from_secs(32) + Duration::from_secs(32)
}

fn events(pairs: &[(u64, &str)]) -> Vec<(u64, String)> {
    pairs
        .iter()
        .map(|&(ms, what)| (ms, what.to_owned()))
        .collect()
}
