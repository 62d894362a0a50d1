//! Names, asked of a DNS server that the test is.

use super::*;
use edge_proto::b2bua::ResolveQuery;
use edge_proto::id::ResolveId;
use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::net::UdpSocket;

/// Answers, by lower-case name without the final dot. A name that is not here does not exist; an empty list is no answer at
/// all.
type Zone = HashMap<(&'static str, RecordType), Vec<RData>>;

/// A DNS server on a thread; asked for `stop.invalid` it ends.
struct DnsServer {
    address: SocketAddr,
    asked: mpsc::Receiver<(String, RecordType)>,
}

impl DnsServer {
    fn start(zone: Zone) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (asked_sender, asked) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, source)) = socket.recv_from(&mut buffer) {
                let Ok(query) = Message::from_vec(&buffer[..length]) else {
                    continue;
                };
                let question = query.queries[0].clone();
                let name = question.name().to_string().to_lowercase();
                let name = name.trim_end_matches('.');
                if name == "stop.invalid" {
                    return;
                }
                let _ = asked_sender.send((name.to_owned(), question.query_type()));
                let mut response = query.clone().into_response();
                response.metadata.message_type = MessageType::Response;
                response.edns = None;
                let known = |kind| {
                    zone.iter()
                        .find(|((n, k), _)| *n == name && *k == kind)
                        .map(|(_, data)| data)
                };
                match known(question.query_type()).or_else(|| known(RecordType::CNAME)) {
                    Some(data) if data.is_empty() => continue,
                    Some(data) => {
                        for data in data {
                            let owner = question.name().clone();
                            response.add_answer(Record::from_rdata(owner, 60, data.clone()));
                        }
                    }
                    None => {
                        let exists = zone.keys().any(|(n, _)| *n == name);
                        response.metadata.response_code = if exists {
                            ResponseCode::NoError
                        } else {
                            ResponseCode::NXDomain
                        };
                    }
                }
                socket.send_to(&response.to_vec().unwrap(), source).unwrap();
            }
        });
        DnsServer { address, asked }
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        let mut query = Message::query();
        let name = Name::from_utf8("stop.invalid.").unwrap();
        query.add_query(hickory_resolver::proto::op::Query::query(
            name,
            RecordType::A,
        ));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = socket.send_to(&query.to_vec().unwrap(), self.address);
    }
}

fn a(last: u8) -> RData {
    RData::A(A::new(192, 0, 2, last))
}

fn aaaa(last: u16) -> RData {
    RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
}

fn srv(priority: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(
        priority,
        1,
        port,
        Name::from_utf8(target).unwrap(),
    ))
}

fn edge(server: &DnsServer) -> Edge {
    Edge::start(Options {
        transports: Vec::new(),
        resolver: ResolverSettings {
            servers: vec![server.address],
            ..ResolverSettings::default()
        },
        ..Options::default()
    })
}

fn query(host: &str, port: Option<u16>, transport: Transport) -> ResolveQuery {
    ResolveQuery {
        host: host.to_owned(),
        port,
        transport,
        ipv4: true,
        ipv6: true,
    }
}

fn resolve(edge: &Edge, query: ResolveQuery) -> Result<Vec<String>, String> {
    edge.does([Output::Resolve {
        id: ResolveId(42),
        query,
    }]);
    match edge.next() {
        Input::Resolved {
            id: ResolveId(42),
            result,
        } => result.map(|all| all.iter().map(ToString::to_string).collect()),
        other => panic!("expected Resolved, got {other:?}"),
    }
}

#[test]
fn srv_records_give_hosts_and_ports_by_priority_and_then_their_addresses() {
    let server = DnsServer::start(Zone::from([
        (
            ("_sip._tcp.example.net", RecordType::SRV),
            vec![
                srv(20, 5080, "backup.example.net."),
                srv(10, 5070, "main.example.net."),
                srv(15, 5075, "gone.example.net."),
            ],
        ),
        (("main.example.net", RecordType::A), vec![a(1), a(2)]),
        (("main.example.net", RecordType::AAAA), vec![aaaa(1)]),
        (("backup.example.net", RecordType::A), vec![a(9)]),
    ]));
    let edge = edge(&server);
    // A target that does not exist is passed over.
    assert_eq!(
        resolve(&edge, query("example.net", None, Transport::Tcp)).unwrap(),
        [
            "[2001:db8::1]:5070",
            "192.0.2.1:5070",
            "192.0.2.2:5070",
            "192.0.2.9:5080"
        ]
    );
    let only_v4 = ResolveQuery {
        ipv6: false,
        ..query("example.net", None, Transport::Tcp)
    };
    assert_eq!(
        resolve(&edge, only_v4).unwrap(),
        ["192.0.2.1:5070", "192.0.2.2:5070", "192.0.2.9:5080"]
    );
}

#[test]
fn each_transport_asks_for_its_service_and_falls_back_to_its_port() {
    let server = DnsServer::start(Zone::from([(
        ("pbx.example.net", RecordType::A),
        vec![a(7)],
    )]));
    let edge = edge(&server);
    for (transport, service, address) in [
        (
            Transport::Tcp,
            "_sip._tcp.pbx.example.net",
            "192.0.2.7:5060",
        ),
        (
            Transport::Tls,
            "_sips._tcp.pbx.example.net",
            "192.0.2.7:5061",
        ),
        (
            Transport::Udp,
            "_sip._udp.pbx.example.net",
            "192.0.2.7:5060",
        ),
    ] {
        assert_eq!(
            resolve(&edge, query("pbx.example.net", None, transport)).unwrap(),
            [address]
        );
        let services: Vec<_> = server
            .asked
            .try_iter()
            .filter(|(_, kind)| *kind == RecordType::SRV)
            .collect();
        assert_eq!(services, [(service.to_owned(), RecordType::SRV)]);
    }
}

#[test]
fn a_port_means_no_srv() {
    let server = DnsServer::start(Zone::from([
        (
            ("_sip._tcp.example.net", RecordType::SRV),
            vec![srv(1, 9, "main.example.net.")],
        ),
        (("example.net", RecordType::A), vec![a(3)]),
    ]));
    let edge = edge(&server);
    assert_eq!(
        resolve(&edge, query("example.net", Some(5099), Transport::Tcp)).unwrap(),
        ["192.0.2.3:5099"]
    );
    assert!(
        server
            .asked
            .try_iter()
            .all(|(_, kind)| kind != RecordType::SRV)
    );
}

#[test]
fn what_is_not_there_is_told_apart() {
    let server = DnsServer::start(Zone::from([
        (
            ("_sip._tcp.closed.example.net", RecordType::SRV),
            vec![srv(0, 0, ".")],
        ),
        (("closed.example.net", RecordType::A), vec![a(1)]),
        (("v4.example.net", RecordType::A), vec![a(1)]),
        (
            ("trap.example.net", RecordType::A),
            vec![RData::A(A::new(0, 0, 0, 0))],
        ),
    ]));
    let edge = edge(&server);
    let error = |query| resolve(&edge, query).unwrap_err();
    assert_eq!(
        error(query("none.example.net", None, Transport::Tcp)),
        "none.example.net: no such host, or it has no address (A or AAAA)"
    );
    let only_v6 = ResolveQuery {
        ipv4: false,
        ..query("v4.example.net", Some(5060), Transport::Tcp)
    };
    assert_eq!(
        error(only_v6),
        "v4.example.net: no such host, or it has no IPv6 address (AAAA)"
    );
    assert!(
        error(query("closed.example.net", None, Transport::Tcp)).contains("offers no such service")
    );
    assert_eq!(
        error(query("trap.example.net", Some(1), Transport::Tcp)),
        "trap.example.net: no address"
    );
    let too_long = "x".repeat(64);
    assert!(error(query(&too_long, Some(1), Transport::Tcp)).contains("not a host name"));
}

#[test]
fn a_server_that_does_not_answer_costs_a_bounded_time() {
    let server = DnsServer::start(Zone::from([(
        ("mute.example.net", RecordType::A),
        Vec::new(),
    )]));
    let edge = Edge::start(Options {
        transports: Vec::new(),
        resolver: ResolverSettings {
            servers: vec![server.address],
            attempt: Duration::from_millis(10),
            total: Duration::from_millis(200),
            avoid_ports: Some(10_000..=60_000),
        },
        ..Options::default()
    });
    let only_v4 = ResolveQuery {
        ipv6: false,
        ..query("mute.example.net", Some(5060), Transport::Tcp)
    };
    let error = resolve(&edge, only_v4).unwrap_err();
    assert!(error.starts_with("mute.example.net: no"), "{error}");
}

#[test]
fn an_answer_has_at_most_sixteen_addresses() {
    let server = DnsServer::start(Zone::from([(
        ("many.example.net", RecordType::A),
        (1..=40).map(a).collect(),
    )]));
    let edge = edge(&server);
    let found = resolve(&edge, query("many.example.net", Some(5060), Transport::Tcp)).unwrap();
    assert_eq!(found.len(), 16);
}

#[test]
fn aliases_are_followed() {
    let main = || Name::from_utf8("main.example.net.").unwrap();
    let server = DnsServer::start(Zone::from([
        (
            ("alias.example.net", RecordType::CNAME),
            vec![RData::CNAME(CNAME(main()))],
        ),
        (("main.example.net", RecordType::A), vec![a(5)]),
    ]));
    let edge = edge(&server);
    assert_eq!(
        resolve(
            &edge,
            query("alias.example.net", Some(5060), Transport::Tcp)
        )
        .unwrap(),
        ["192.0.2.5:5060"]
    );
}

#[test]
fn localhost_needs_no_server() {
    let server = DnsServer::start(Zone::new());
    let edge = edge(&server);
    let found = resolve(&edge, query("localhost", None, Transport::Tls)).unwrap();
    assert!(found.contains(&"127.0.0.1:5061".to_owned()), "{found:?}");
    assert_eq!(server.asked.try_iter().count(), 0);
}

#[test]
fn many_lookups_at_once_are_all_answered() {
    let server = DnsServer::start(Zone::from([(
        ("busy.example.net", RecordType::A),
        vec![a(1)],
    )]));
    let edge = edge(&server);
    edge.does((0..500).map(|id| Output::Resolve {
        id: ResolveId(id),
        query: ResolveQuery {
            ipv6: false,
            ..query("busy.example.net", Some(5060), Transport::Tcp)
        },
    }));
    let mut answered: Vec<u64> = (0..500)
        .map(|_| match edge.next() {
            Input::Resolved { id, result } => {
                assert_eq!(result.unwrap().len(), 1);
                id.0
            }
            other => panic!("{other:?}"),
        })
        .collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(0..500));
}
