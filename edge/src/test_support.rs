//! Values that the unit tests of the reporting modules share.

use edge_proto::config::{
    Config, Credentials, InboundAuth, Listener, MediaConfig, Secret, SipConfig, Transport, Trunk,
    TrunkUri,
};
use edge_proto::event::{
    Cause, Direction, Event, EventKind, HangupBy, LegNumber, LegRecord, MediaRecord, ReferRecord,
    TransferRecord,
};
use edge_proto::id::{ListenerId, TrunkId};
use edge_proto::relay::{DirectionStats, MediaStats};
use edge_proto::sip::Method;
use edge_proto::time::{Duration, Instant};
use edge_proto::trunk::AllowTable;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// The password of every trunk in [`config`]; must never be seen anywhere.
pub const PASSWORD: &str = "hunter2-do-not-print";
/// The number in every event of [`call_with_transfer`].
pub const NUMBER: &str = "+1234567890";
pub const CALL: &str = "00112233445566778899aabbccddeeff";

pub fn trunk(id: u16, name: &str, allow: &[&str]) -> Arc<Trunk> {
    Arc::new(Trunk {
        allow: allow
            .iter()
            .map(|a| a.parse().expect("a network"))
            .collect(),
        uris: vec![TrunkUri {
            host: "192.0.2.10".to_owned(),
            port: Some(5060),
            transport: Transport::Tcp,
            sips: false,
        }],
        auth: InboundAuth::DigestAndIp,
        credentials: Some(Credentials {
            username: "trunk-user".to_owned(),
            password: Secret::new(PASSWORD),
        }),
        max_calls: 10,
        headers: vec![("X-Provider".to_owned(), PASSWORD.to_owned())],
        ..Trunk::new(TrunkId(id), name, vec![ListenerId(0)])
    })
}

/// One TCP listener `public`; trunks `carrier` (192.0.2.0/24), `ai` (198.51.100.0/24) and `agents` (nobody).
pub fn config() -> Config {
    let address = SocketAddr::from(([127, 0, 0, 1], 5060));
    let listeners = vec![Listener {
        id: ListenerId(0),
        name: "public".to_owned(),
        transport: Transport::Tcp,
        address,
        advertised: address,
    }];
    let trunks = vec![
        trunk(0, "carrier", &["192.0.2.0/24"]),
        trunk(1, "ai", &["198.51.100.0/24", "2001:db8::/32"]),
        trunk(2, "agents", &[]),
    ];
    Config {
        domains: Vec::new(),
        sip: SipConfig::default(),
        media: MediaConfig {
            ipv4: None,
            ipv6: None,
            ports: 10_000..=20_000,
            timeout: Duration::from_secs(60),
        },
        routes: Vec::new(),
        allow: AllowTable::build(&listeners, &trunks),
        listeners,
        trunks,
    }
}

pub fn event(ms: u64, leg: Option<LegNumber>, kind: EventKind) -> Event {
    Event {
        at: Instant::from_millis(ms),
        call: Some(Arc::from(CALL)),
        leg,
        kind,
    }
}

fn response(trunk: &str, code: u16, direction: Direction) -> EventKind {
    EventKind::Response {
        trunk: Arc::from(trunk),
        method: Method::Invite,
        code,
        direction,
        elapsed: (code >= 200).then(|| Duration::from_millis(500)),
    }
}

fn uri() -> String {
    format!("sip:{NUMBER}@192.0.2.1")
}

fn source() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 5060))
}

/// The record of a leg that lasted from `start` to `end` (ms) and was answered 500 ms after its start.
pub fn record(leg: LegNumber, trunk: &str, start: u64, end: u64) -> LegRecord {
    let at = Instant::from_millis;
    LegRecord {
        call: Arc::from(CALL),
        leg,
        direction: if leg == 1 {
            Direction::Inbound
        } else {
            Direction::Outbound
        },
        trunk: Arc::from(trunk),
        sip_call_id: format!("leg-{leg}@192.0.2.1"),
        from: uri(),
        to: format!("tel:{NUMBER}"),
        source: Some(source()),
        start: at(start),
        ring: Some(at(start + 100)),
        answer: Some(at(start + 500)),
        end: at(end),
        sip_status: Some(200),
        cause: Cause::Completed,
        hangup_by: HangupBy::Remote,
        refers: Vec::new(),
        transfer: None,
        media: Some(MediaRecord {
            codec: Some("PCMU".to_owned()),
            encryption: "none",
            lane: "io_uring",
            stats: MediaStats {
                received: DirectionStats {
                    packets: 50,
                    bytes: 8_600,
                    lost: 1,
                    jitter_ms: 0.125_49,
                    first_packet: Some(at(start + 520)),
                },
                sent: DirectionStats {
                    packets: 49,
                    bytes: 8_428,
                    ..DirectionStats::default()
                },
                strangers: 3,
            },
        }),
    }
}

/// A whole call: carrier calls, the AI answers and transfers (after a refused try), the human answers, all hang up.
pub fn call_with_transfer() -> Vec<Event> {
    let ai: Arc<str> = Arc::from("ai");
    let agents: Arc<str> = Arc::from("agents");
    let refused = ReferRecord {
        at: Instant::from_millis(3_000),
        target: format!("sip:{NUMBER}@203.0.113.66"),
        status: 403,
        cause: Some(Cause::TargetNotAllowed),
    };
    let accepted = ReferRecord {
        at: Instant::from_millis(4_000),
        target: uri(),
        status: 202,
        cause: None,
    };
    let mut ai_leg = record(2, "ai", 1_010, 6_000);
    ai_leg.refers = vec![refused, accepted];
    let mut human = record(3, "agents", 4_010, 9_000);
    human.transfer = Some(TransferRecord {
        id: 1,
        attempt: 1,
        target: uri(),
        via: agents.clone(),
        result: "completed",
    });
    vec![
        event(
            1_000,
            Some(1),
            EventKind::CallStarted {
                trunk: Arc::from("carrier"),
                from: uri(),
                to: format!("sip:{NUMBER}@203.0.113.1"),
                sip_call_id: "leg-1@192.0.2.1".to_owned(),
                source: source(),
            },
        ),
        event(
            1_010,
            Some(2),
            EventKind::LegStarted {
                trunk: ai.clone(),
                direction: Direction::Outbound,
                sip_call_id: String::new(),
                from: String::new(),
                to: String::new(),
            },
        ),
        event(1_200, Some(2), response("ai", 180, Direction::Inbound)),
        event(
            1_201,
            Some(1),
            response("carrier", 180, Direction::Outbound),
        ),
        event(1_510, Some(2), response("ai", 200, Direction::Inbound)),
        event(
            1_511,
            Some(1),
            response("carrier", 200, Direction::Outbound),
        ),
        event(1_600, Some(1), EventKind::FirstRtp { source: source() }),
        event(
            3_000,
            Some(2),
            EventKind::Refer {
                target: format!("sip:{NUMBER}@203.0.113.66"),
                status: 403,
                cause: Some(Cause::TargetNotAllowed),
                detail: format!("sip:{NUMBER}@203.0.113.66 leads to no trunk"),
            },
        ),
        event(
            3_000,
            Some(2),
            EventKind::TransferEnded {
                trunk: ai.clone(),
                id: 0,
                result: "denied",
                cause: Cause::TargetNotAllowed,
            },
        ),
        event(
            4_000,
            Some(2),
            EventKind::Refer {
                target: uri(),
                status: 202,
                cause: None,
                detail: String::new(),
            },
        ),
        event(
            4_010,
            Some(2),
            EventKind::TransferAttempt {
                id: 1,
                attempt: 1,
                target: uri(),
                via: agents.clone(),
            },
        ),
        event(
            4_010,
            Some(3),
            EventKind::LegStarted {
                trunk: agents,
                direction: Direction::Outbound,
                sip_call_id: "leg-3@192.0.2.1".to_owned(),
                from: uri(),
                to: format!("tel:{NUMBER}"),
            },
        ),
        event(4_510, Some(3), response("agents", 200, Direction::Inbound)),
        event(
            4_520,
            Some(2),
            EventKind::TransferBridged {
                trunk: ai.clone(),
                id: 1,
                elapsed: Duration::from_millis(520),
            },
        ),
        event(
            4_530,
            Some(2),
            EventKind::TransferEnded {
                trunk: ai,
                id: 1,
                result: "completed",
                cause: Cause::Completed,
            },
        ),
        event(6_000, Some(2), EventKind::LegEnded(Box::new(ai_leg))),
        event(9_000, Some(3), EventKind::LegEnded(Box::new(human))),
        event(
            9_001,
            Some(1),
            EventKind::LegEnded(Box::new(record(1, "carrier", 1_000, 9_001))),
        ),
        event(
            9_002,
            None,
            EventKind::CallEnded {
                cause: Cause::Completed,
            },
        ),
    ]
}

/// Takes log lines into memory.
#[derive(Clone, Default)]
pub struct LogSink(Arc<Mutex<Vec<u8>>>);

impl LogSink {
    pub fn text(&self) -> String {
        let bytes = self.0.lock().expect("no panic").clone();
        String::from_utf8(bytes).expect("log lines are text")
    }
}

impl Write for LogSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogSink {
    type Writer = LogSink;

    fn make_writer(&'a self) -> LogSink {
        self.clone()
    }
}
