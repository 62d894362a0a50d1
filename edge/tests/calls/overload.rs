//! A core that has more to do than it can: new calls are refused, and taken again when it has caught up.

use crate::harness::wire::header;
use crate::harness::{Edge, EdgeConfig, Net, Wire, wait};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use tempfile::TempDir;

const REFUSED: &str = "sip_edge_ring_overflow_total{core=\"0\",ring=\"signalling\"}";

/// A listed peer that asks faster than anybody can answer, until it is dropped.
struct Flood {
    stream: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(from: IpAddr, to: SocketAddr) -> Flood {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        let local = SocketAddr::new(from, 0);
        socket.bind(&local.into()).expect("a loopback address");
        socket.connect(&to.into()).expect("a listed source");
        let stream: TcpStream = socket.into();
        let question = format!(
            "OPTIONS sip:{to} SIP/2.0\r\nVia: SIP/2.0/TCP {from}:5060;branch=z9hG4bKflood\r\nMax-Forwards: 70\r\n\
             From: <sip:probe@{from}>;tag=1\r\nTo: <sip:{to}>\r\nCall-ID: flood\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
        );
        let many = question.repeat(200);
        let end = || stream.try_clone().expect("a second handle");
        let (mut asking, mut hearing) = (end(), end());
        let asks = move || while asking.write_all(many.as_bytes()).is_ok() {};
        let hears = move || {
            let mut answers = [0; 65_536];
            while matches!(hearing.read(&mut answers), Ok(1..)) {}
        };
        Flood {
            stream,
            threads: vec![std::thread::spawn(asks), std::thread::spawn(hears)],
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The final answer to a new call, whose platform nobody plays.
fn called(net: &Net, edge: &Edge, attempt: usize) -> String {
    let mut wire = Wire::connect(net.carrier, edge.sip);
    let local = wire.local();
    let invite = format!(
        "INVITE sip:+19995550123@{to} SIP/2.0
         Via: SIP/2.0/TCP {local};branch=z9hG4bKcall{attempt}
         Max-Forwards: 70
         From: <sip:+1234567890@{local}>;tag=1
         To: <sip:+19995550123@{to}>
         Call-ID: call-{attempt}
         CSeq: 1 INVITE
         Contact: <sip:{local};transport=tcp>",
        to = edge.sip,
    );
    wire.send(&invite, "");
    loop {
        let answer = wire.next().expect("an answer");
        if !answer.starts_with("SIP/2.0 1") {
            return answer;
        }
    }
}

#[test]
fn a_core_that_cannot_keep_up_refuses_new_calls_until_it_can() {
    let (net, dir) = (Net::v4(), TempDir::new().expect("a directory"));
    let config = EdgeConfig {
        sip: "overload_ms = 20".into(),
        ..EdgeConfig::default()
    };
    let edge = Edge::start(&net, dir.path(), &config);
    assert_eq!(edge.metric(REFUSED), Some(0.0));
    let mut attempts = 0;
    let mut call = || {
        attempts += 1;
        called(&net, &edge, attempts)
    };
    let flood = Flood::start(net.ai, edge.sip);
    let refusal = wait::until("a refusal", || {
        Some(call()).filter(|answer| answer.starts_with("SIP/2.0 503"))
    });
    assert_eq!(header(&refusal, "Retry-After"), Some("5"));
    // A trunk that cannot be reached is refused otherwise, and with a reason.
    assert_eq!(header(&refusal, "Reason"), None);
    wait::until("the refusal is counted", || {
        (edge.metric(REFUSED) > Some(0.0)).then_some(())
    });
    drop(flood);
    let taken = wait::until("a call is taken", || {
        Some(call()).filter(|answer| !answer.starts_with("SIP/2.0 503"))
    });
    assert!(taken.contains("unreachable"), "{taken}");
}
