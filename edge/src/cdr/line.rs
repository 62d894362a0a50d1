//! One call detail record as JSON.

use super::leg::{LegId, OpenLeg};
use crate::reporter::{Stamp, WallClock};
use edge_proto::event::{Cause, Direction, HangupBy, LegRecord, MediaRecord, ReferRecord};
use edge_proto::relay::DirectionStats;
use edge_proto::time::Instant;
use jiff::Timestamp;
use serde::Serialize;
use std::net::SocketAddr;

/// A line of the CDR file: every field is always there, `null` where there is nothing to say.
#[derive(Serialize, Debug)]
pub struct CdrLine<'a> {
    /// The edge's id of the call, the same on each of its legs.
    call: &'a str,
    leg: u8,
    /// `inbound` or `outbound`, seen from the edge.
    direction: &'static str,
    trunk: &'a str,
    sip_call_id: &'a str,
    from: &'a str,
    to: &'a str,
    /// The peer's signalling address; null when it was never located.
    source: Option<SocketAddr>,
    /// RFC 3339, UTC, microseconds; so are `ring` (first 180 or 183), `answer` (200) and `end`.
    start: Stamp,
    ring: Option<Stamp>,
    answer: Option<Stamp>,
    end: Stamp,
    /// From `start` to `end`; time talked is `end` minus `answer`.
    duration_ms: u64,
    /// Final status of the leg's INVITE; null when there was none.
    sip_status: Option<u16>,
    cause: &'static str,
    /// Null but for 4240 and 4250.
    cause_code: Option<u16>,
    /// `local` (the other side of the call), `remote` (the leg's peer) or `edge`.
    hangup_by: &'static str,
    /// Each REFER that arrived on this leg, with its verdict.
    refers: Vec<Refer<'a>>,
    /// On a leg that a transfer originated, else null.
    transfer: Option<Transfer<'a>>,
    /// Null when no media was set up.
    media: Option<Media<'a>>,
}

#[derive(Serialize, Debug)]
struct Refer<'a> {
    at: Stamp,
    target: &'a str,
    status: u16,
    /// Null when accepted.
    cause: Option<&'a str>,
}

#[derive(Serialize, Debug)]
struct Transfer<'a> {
    id: u32,
    attempt: u32,
    target: &'a str,
    via: &'a str,
    result: &'static str,
}

#[derive(Serialize, Debug)]
struct Media<'a> {
    codec: Option<&'a str>,
    encryption: &'static str,
    lane: &'static str,
    /// From the leg's peer.
    received: MediaDirection,
    /// To the leg's peer.
    sent: MediaDirection,
    /// Packets from sources that neither SDP nor the latch allows; none was relayed.
    strangers: u64,
}

#[derive(Serialize, Debug)]
struct MediaDirection {
    packets: u64,
    bytes: u64,
    /// Known for what is received; null for what is sent.
    lost: Option<u64>,
    jitter_ms: Option<f64>,
    /// From `start` to the first packet; null when there was none.
    first_packet_ms: Option<u64>,
}

impl<'a> CdrLine<'a> {
    /// The line for `record`, its times told by `clock`.
    pub fn new(record: &'a LegRecord, clock: &WallClock) -> Self {
        let utc = |at: Instant| Stamp::new(clock.at(at));
        CdrLine {
            call: &record.call,
            leg: record.leg,
            direction: record.direction.as_str(),
            trunk: &record.trunk,
            sip_call_id: &record.sip_call_id,
            from: &record.from,
            to: &record.to,
            source: record.source,
            start: utc(record.start),
            ring: record.ring.map(utc),
            answer: record.answer.map(utc),
            end: utc(record.end),
            duration_ms: millis_between(record.start, record.end),
            sip_status: record.sip_status,
            cause: record.cause.as_str(),
            cause_code: record.cause.code(),
            hangup_by: record.hangup_by.as_str(),
            refers: record.refers.iter().map(|r| refer(r, clock)).collect(),
            transfer: record.transfer.as_ref().map(|t| Transfer {
                id: t.id,
                attempt: t.attempt,
                target: &t.target,
                via: &t.via,
                result: t.result,
            }),
            media: record.media.as_ref().map(|m| media(m, record.start)),
        }
    }

    /// The line of a leg that was open when the edge ended unexpectedly, at about `end`. What nobody knows any more is null.
    pub(super) fn of_restart(leg: &'a OpenLeg, end: Timestamp) -> Self {
        // The clock may have been set back in between.
        let end = end.max(leg.latest());
        let lasted = end
            .as_microsecond()
            .saturating_sub(leg.start.as_microsecond());
        let direction = if leg.inbound {
            Direction::Inbound
        } else {
            Direction::Outbound
        };
        let cause = Cause::EdgeRestart;
        CdrLine {
            call: &leg.id.call,
            leg: leg.id.leg,
            direction: direction.as_str(),
            trunk: &leg.trunk,
            sip_call_id: &leg.sip_call_id,
            from: &leg.from,
            to: &leg.to,
            source: leg.source,
            start: Stamp::new(leg.start),
            ring: leg.ring.map(Stamp::new),
            answer: leg.answer.map(Stamp::new),
            end: Stamp::new(end),
            duration_ms: u64::try_from(lasted / 1_000).unwrap_or(0),
            sip_status: leg.answer.map(|_| 200),
            cause: cause.as_str(),
            cause_code: cause.code(),
            hangup_by: HangupBy::Edge.as_str(),
            refers: leg
                .refers
                .iter()
                .map(|refer| Refer {
                    at: Stamp::new(refer.at),
                    target: &refer.target,
                    status: refer.status,
                    cause: refer.cause.as_deref(),
                })
                .collect(),
            transfer: leg.transfer.as_ref().map(|t| Transfer {
                id: t.id,
                attempt: t.attempt,
                target: &t.target,
                via: &t.via,
                result: if t.completed { "completed" } else { "failed" },
            }),
            media: None,
        }
    }

    /// The line without its newline.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The bytes of the line, newline included.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Serializing plain structs with string keys into memory cannot fail; an empty line would be noticed by `verify`.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// Lines of legs that ended, in one piece of memory.
#[derive(Default, Debug)]
pub(super) struct Lines {
    /// Each with its newline.
    text: Vec<u8>,
    /// Each with where its line ends.
    legs: Vec<(LegId, usize)>,
}

impl Lines {
    /// Adds the line for `record`, its times told by `clock`.
    pub fn add(&mut self, record: &LegRecord, clock: &WallClock) {
        let leg = LegId {
            call: record.call.clone(),
            leg: record.leg,
        };
        // As in `CdrLine::to_bytes`.
        let _ = serde_json::to_writer(&mut self.text, &CdrLine::new(record, clock));
        self.end(leg);
    }

    fn end(&mut self, leg: LegId) {
        self.text.push(b'\n');
        self.legs.push((leg, self.text.len()));
    }

    #[cfg(test)]
    pub fn of<'a>(lines: impl IntoIterator<Item = (LegId, &'a str)>) -> Lines {
        let mut all = Lines::default();
        for (leg, line) in lines {
            all.text.extend_from_slice(line.as_bytes());
            all.end(leg);
        }
        all
    }

    /// All of them, newlines included.
    pub fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// Each with its newline.
    pub fn iter(&self) -> impl Iterator<Item = (&LegId, &[u8])> {
        let mut start = 0;
        self.legs.iter().map(move |(leg, end)| {
            let line = self.text.get(start..*end).unwrap_or_default();
            start = *end;
            (leg, line)
        })
    }

    /// None any more; the memory stays.
    pub fn clear(&mut self) {
        self.text.clear();
        self.legs.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.legs.is_empty()
    }
}

fn millis_between(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_since(from).as_millis()).unwrap_or(u64::MAX)
}

fn refer<'a>(record: &'a ReferRecord, clock: &WallClock) -> Refer<'a> {
    Refer {
        at: Stamp::new(clock.at(record.at)),
        target: &record.target,
        status: record.status,
        cause: record.cause.map(|c| c.as_str()),
    }
}

fn media(record: &MediaRecord, start: Instant) -> Media<'_> {
    let stats = &record.stats;
    let first = |d: &DirectionStats| d.first_packet.map(|at| millis_between(start, at));
    let jitter = stats.received.jitter_ms;
    Media {
        codec: record.codec.as_deref(),
        encryption: record.encryption,
        lane: record.lane,
        received: MediaDirection {
            packets: stats.received.packets,
            bytes: stats.received.bytes,
            lost: Some(stats.received.lost),
            // Microseconds are more than RTP clocks resolve; NaN would not be JSON.
            jitter_ms: jitter
                .is_finite()
                .then(|| (jitter * 1_000.0).round() / 1_000.0),
            first_packet_ms: first(&stats.received),
        },
        sent: MediaDirection {
            packets: stats.sent.packets,
            bytes: stats.sent.bytes,
            lost: None,
            jitter_ms: None,
            first_packet_ms: first(&stats.sent),
        },
        strangers: stats.strangers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::record;
    use edge_proto::event::{Cause, TransferRecord};
    use std::sync::Arc;

    fn clock() -> WallClock {
        let utc = "2026-03-01T12:00:00Z".parse().expect("a valid time");
        WallClock::new(Instant::ZERO, utc)
    }

    fn json(record: &LegRecord) -> String {
        let line = CdrLine::new(record, &clock()).to_bytes();
        String::from_utf8(line).expect("JSON is text")
    }

    #[test]
    fn a_line_has_the_promised_fields_in_the_promised_form() {
        let mut record = record(3, "agents", 1_000, 5_001);
        record.refers = vec![ReferRecord {
            at: Instant::from_millis(2_000),
            target: "tel:+1234567890".to_owned(),
            status: 403,
            cause: Some(Cause::TransferLimit),
        }];
        record.transfer = Some(TransferRecord {
            id: 1,
            attempt: 2,
            target: "tel:+1234567890".to_owned(),
            via: Arc::from("agents"),
            result: "completed",
        });
        assert_eq!(
            json(&record),
            concat!(
                r#"{"call":"00112233445566778899aabbccddeeff","leg":3,"direction":"outbound","trunk":"agents","#,
                r#""sip_call_id":"leg-3@192.0.2.1","from":"sip:+1234567890@192.0.2.1","to":"tel:+1234567890","#,
                r#""source":"192.0.2.7:5060","start":"2026-03-01T12:00:01.000000Z","ring":"2026-03-01T12:00:01.100000Z","#,
                r#""answer":"2026-03-01T12:00:01.500000Z","end":"2026-03-01T12:00:05.001000Z","duration_ms":4001,"#,
                r#""sip_status":200,"cause":"completed","cause_code":null,"hangup_by":"remote","#,
                r#""refers":[{"at":"2026-03-01T12:00:02.000000Z","target":"tel:+1234567890","status":403,"cause":"transfer_limit"}],"#,
                r#""transfer":{"id":1,"attempt":2,"target":"tel:+1234567890","via":"agents","result":"completed"},"#,
                r#""media":{"codec":"PCMU","encryption":"none","lane":"io_uring","#,
                r#""received":{"packets":50,"bytes":8600,"lost":1,"jitter_ms":0.125,"first_packet_ms":520},"#,
                r#""sent":{"packets":49,"bytes":8428,"lost":null,"jitter_ms":null,"first_packet_ms":null},"strangers":3}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn only_the_two_numbered_causes_have_a_code() {
        let code = |cause| {
            let mut record = record(1, "carrier", 0, 1);
            record.cause = cause;
            let value: serde_json::Value = serde_json::from_str(&json(&record)).expect("JSON");
            value.get("cause_code").cloned()
        };
        assert_eq!(code(Cause::SipAuthFailed), Some(4240.into()));
        assert_eq!(code(Cause::SipAuthTimeout), Some(4250.into()));
        for &cause in Cause::ALL {
            if !matches!(cause, Cause::SipAuthFailed | Cause::SipAuthTimeout) {
                assert_eq!(code(cause), Some(serde_json::Value::Null), "{cause:?}");
            }
        }
    }

    #[test]
    fn peers_text_cannot_break_a_line() {
        let mut record = record(1, "carrier", 0, 1);
        record.from = "\"a\r\n{}\" <sip:x@192.0.2.1>\u{2028}".to_owned();
        let line = json(&record);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with("}\n"));
    }
}
