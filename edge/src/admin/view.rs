//! Calls and trunks as JSON.

use crate::cdr::CdrLine;
use crate::reporter::{Call, Leg, LegState, Published, TimelineItem, rfc3339};
use edge_proto::config::{
    Config, DigestAlgorithm, InboundAuth, LatchMode, MediaEncryption, Network, OnFailure,
    ReferAuth, TransferPolicy, Trunk, TrunkUri,
};
use edge_proto::event::{Event, LegRecord, Number, Privacy};
use edge_proto::time::Instant;
use serde::Serialize;
use std::sync::atomic::Ordering;

/// `GET /v1/calls`.
#[derive(Serialize)]
pub struct CallList {
    /// Calls alive, listed or not.
    pub active: usize,
    pub calls: Vec<CallSummary>,
}

#[derive(Serialize)]
pub struct CallSummary {
    pub call: String,
    /// `active` or `ended`.
    pub state: &'static str,
    pub core: u8,
    pub start: String,
    pub end: Option<String>,
    pub duration_ms: u64,
    pub cause: Option<&'static str>,
    /// The caller's number and the one that was called, as leg 1 shows them.
    pub from: Option<String>,
    pub to: Option<String>,
    pub legs: Vec<LegSummary>,
}

#[derive(Serialize)]
pub struct LegSummary {
    pub leg: u8,
    pub direction: &'static str,
    pub trunk: String,
    pub state: &'static str,
}

/// `GET /v1/calls/{id}`.
#[derive(Serialize)]
pub struct CallDetail<'a> {
    pub call: &'a str,
    pub state: &'static str,
    pub core: u8,
    pub start: String,
    pub end: Option<String>,
    pub duration_ms: u64,
    pub cause: Option<&'static str>,
    pub legs: Vec<LegDetail<'a>>,
    pub timeline: Vec<TimelineLine>,
}

#[derive(Serialize)]
pub struct LegDetail<'a> {
    state: &'static str,
    #[serde(flatten)]
    facts: LegFacts<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum LegFacts<'a> {
    /// Over: what its CDR says.
    Ended(Box<CdrLine<'a>>),
    Alive {
        leg: u8,
        direction: &'static str,
        trunk: &'a str,
        from: Option<String>,
        to: Option<String>,
        start: String,
        ring: Option<String>,
        answer: Option<String>,
        duration_ms: u64,
    },
}

/// One line of a timeline.
#[derive(Serialize)]
pub struct TimelineLine {
    at: Option<String>,
    leg: Option<u8>,
    kind: &'static str,
    detail: String,
    reason: Option<String>,
}

fn millis(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_since(from).as_millis()).unwrap_or(u64::MAX)
}

fn state(call: &Call) -> &'static str {
    if call.ended.is_some() {
        "ended"
    } else {
        "active"
    }
}

/// A call in the list, its numbers shown or masked. `now`: for calls that are alive.
pub fn summary(call: &Call, now: Instant, privacy: Privacy) -> CallSummary {
    let caller = call.legs.first();
    let (from, to) = caller.and_then(|leg| call.parties(leg)).unzip();
    let number = |n: Option<String>| n.map(|n| Number(&n, privacy).to_string());
    CallSummary {
        call: call.id.to_string(),
        state: state(call),
        core: call.core.0,
        start: rfc3339(call.clock.at(call.started)),
        end: call.ended.map(|(at, _)| rfc3339(call.clock.at(at))),
        duration_ms: millis(call.started, call.ended.map_or(now, |(at, _)| at)),
        cause: call.ended.map(|(_, cause)| cause.as_str()),
        from: number(from),
        to: number(to),
        legs: call
            .legs
            .iter()
            .map(|leg| LegSummary {
                leg: leg.number,
                direction: leg.direction.as_str(),
                trunk: leg.trunk.to_string(),
                state: leg.state.as_str(),
            })
            .collect(),
    }
}

/// The records of the legs of a call that are over, by leg, for [`detail`].
pub fn records(call: &Call) -> Vec<Option<LegRecord>> {
    call.legs.iter().map(|leg| call.record(leg)).collect()
}

/// Everything about a call. Only for the operator: numbers are shown.
pub fn detail<'a>(
    call: &'a Call,
    records: &'a [Option<LegRecord>],
    now: Instant,
) -> CallDetail<'a> {
    CallDetail {
        call: &call.id,
        state: state(call),
        core: call.core.0,
        start: rfc3339(call.clock.at(call.started)),
        end: call.ended.map(|(at, _)| rfc3339(call.clock.at(at))),
        duration_ms: millis(call.started, call.ended.map_or(now, |(at, _)| at)),
        cause: call.ended.map(|(_, cause)| cause.as_str()),
        legs: call
            .legs
            .iter()
            .zip(records)
            .map(|(l, record)| leg(call, l, record.as_ref(), now))
            .collect(),
        timeline: call.timeline().map(|item| line(call, item)).collect(),
    }
}

fn leg<'a>(
    call: &'a Call,
    leg: &'a Leg,
    record: Option<&'a LegRecord>,
    now: Instant,
) -> LegDetail<'a> {
    let utc = |at| rfc3339(call.clock.at(at));
    let (from, to) = call.parties(leg).unzip();
    let facts = match record {
        Some(record) if leg.state == LegState::Ended => {
            LegFacts::Ended(Box::new(CdrLine::new(record, &call.clock)))
        }
        _ => LegFacts::Alive {
            leg: leg.number,
            direction: leg.direction.as_str(),
            trunk: &leg.trunk,
            from,
            to,
            start: utc(leg.start),
            ring: leg.ring.map(utc),
            answer: leg.answer.map(utc),
            duration_ms: millis(leg.start, now),
        },
    };
    LegDetail {
        state: leg.state.as_str(),
        facts,
    }
}

fn line(call: &Call, item: TimelineItem) -> TimelineLine {
    match item {
        TimelineItem::Event(event) => {
            let at = rfc3339(call.clock.at(event.at));
            event_line(&event, at, Privacy::Shown)
        }
        TimelineItem::Omitted(lines) => TimelineLine {
            at: None,
            leg: None,
            kind: "omitted",
            detail: format!("{lines} events of this long call are not kept"),
            reason: None,
        },
    }
}

fn event_line(event: &Event, at: String, privacy: Privacy) -> TimelineLine {
    let entry = event.entry(privacy);
    TimelineLine {
        at: Some(at),
        leg: entry.leg,
        kind: entry.kind,
        detail: entry.detail,
        reason: entry.reason,
    }
}

/// One event of the live stream.
#[derive(Serialize)]
pub struct StreamLine<'a> {
    call: Option<&'a str>,
    core: u8,
    #[serde(flatten)]
    line: TimelineLine,
}

/// The kind, and the line.
pub fn stream_line(published: &Published, privacy: Privacy) -> (&'static str, StreamLine<'_>) {
    let event = &published.event;
    let at = rfc3339(published.clock.at(event.at));
    let line = event_line(event, at, privacy);
    let stream = StreamLine {
        call: event.call.as_deref(),
        core: published.core.0,
        line,
    };
    (stream.line.kind, stream)
}

/// `GET /v1/trunks`.
#[derive(Serialize)]
pub struct TrunkList<'a> {
    pub trunks: Vec<TrunkView<'a>>,
}

/// A trunk without its secrets.
#[derive(Serialize)]
pub struct TrunkView<'a> {
    name: &'a str,
    /// Legs alive.
    active: u32,
    /// 0: unlimited; so is the next.
    max_calls: u32,
    max_calls_per_s: u32,
    auth: &'static str,
    username: Option<&'a str>,
    digest_algorithms: Vec<&'static str>,
    allow: Vec<String>,
    listen: Vec<&'a str>,
    request_hosts: &'a [String],
    uri: Vec<String>,
    network: &'static str,
    bridge_families: bool,
    latch: &'static str,
    media_encryption: &'static str,
    codecs: &'a [String],
    transfer: Option<TransferView<'a>>,
}

#[derive(Serialize)]
struct TransferView<'a> {
    max_transfers: u32,
    auth: &'static str,
    via: Option<&'a str>,
    targets: &'a [String],
    fallback: &'a [String],
    ring_timeout_s: u64,
    auth_timeout_s: u64,
    on_failure: &'static str,
}

/// All trunks of the configuration. Transfer targets are numbers: masked where numbers are.
pub fn trunks(config: &Config, privacy: Privacy) -> TrunkList<'_> {
    TrunkList {
        trunks: config
            .trunks
            .iter()
            .map(|t| trunk(config, t, privacy))
            .collect(),
    }
}

fn trunk<'a>(config: &'a Config, trunk: &'a Trunk, privacy: Privacy) -> TrunkView<'a> {
    let shown = privacy == Privacy::Shown;
    TrunkView {
        name: &trunk.name,
        active: trunk.load.legs.load(Ordering::Relaxed),
        max_calls: trunk.max_calls,
        max_calls_per_s: trunk.max_calls_per_s,
        auth: match trunk.auth {
            InboundAuth::Ip => "ip",
            InboundAuth::Digest => "digest",
            InboundAuth::DigestAndIp => "digest+ip",
        },
        username: trunk
            .credentials
            .as_ref()
            .map(|c| c.username.as_str())
            .filter(|_| shown),
        digest_algorithms: trunk.digest_algorithms.iter().map(algorithm).collect(),
        allow: trunk.allow.iter().map(ToString::to_string).collect(),
        listen: trunk
            .listen
            .iter()
            .filter_map(|id| config.listener(*id))
            .map(|l| l.name.as_str())
            .collect(),
        request_hosts: &trunk.request_hosts,
        uri: trunk.uris.iter().map(uri).collect(),
        network: match trunk.network {
            Network::Ipv4 => "ipv4",
            Network::Ipv6 => "ipv6",
            Network::Dual => "dual",
        },
        bridge_families: trunk.bridge_families,
        latch: match trunk.latch {
            LatchMode::Signalling => "signalling",
            LatchMode::Any => "any",
            LatchMode::Off => "off",
        },
        media_encryption: match trunk.media_encryption {
            MediaEncryption::Disabled => "disabled",
            MediaEncryption::Allowed => "allowed",
            MediaEncryption::Required => "required",
        },
        codecs: &trunk.codecs,
        transfer: trunk.transfer.as_ref().map(|t| transfer(t, shown)),
    }
}

fn transfer(policy: &TransferPolicy, shown: bool) -> TransferView<'_> {
    TransferView {
        max_transfers: policy.max_transfers,
        auth: match policy.auth {
            ReferAuth::Digest => "digest",
            ReferAuth::Dialog => "dialog",
        },
        via: policy.via.as_deref(),
        targets: if shown { &policy.targets } else { &[] },
        fallback: if shown { &policy.fallback } else { &[] },
        ring_timeout_s: policy.ring_timeout.as_secs(),
        auth_timeout_s: policy.auth_timeout.as_secs(),
        on_failure: match policy.on_failure {
            OnFailure::Return => "return",
            OnFailure::Hangup => "hangup",
        },
    }
}

fn algorithm(algorithm: &DigestAlgorithm) -> &'static str {
    match algorithm {
        DigestAlgorithm::Md5 => "MD5",
        DigestAlgorithm::Md5Sess => "MD5-sess",
        DigestAlgorithm::Sha256 => "SHA-256",
        DigestAlgorithm::Sha256Sess => "SHA-256-sess",
        DigestAlgorithm::Sha512_256 => "SHA-512-256",
        DigestAlgorithm::Sha512_256Sess => "SHA-512-256-sess",
    }
}

fn uri(uri: &TrunkUri) -> String {
    let scheme = if uri.sips { "sips" } else { "sip" };
    let host = if uri.host.contains(':') {
        format!("[{}]", uri.host)
    } else {
        uri.host.clone()
    };
    let port = uri.port.map_or_else(String::new, |p| format!(":{p}"));
    format!(
        "{scheme}:{host}{port};transport={}",
        uri.transport.uri_name()
    )
}
