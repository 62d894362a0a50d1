//! The daemon on a guarded interface: what it answers and refuses, with XDP and after XDP was taken off, across reloads,
//! crashes and upgrades.

use crate::xdp_support::daemon::{Daemon, Site, get, metric};
use crate::xdp_support::netns::{Peer, mount_sys};
use crate::xdp_support::traffic::{connect, knock, ping, until};
use crate::xdp_support::{bpf, privileged};
use aya::programs::XdpMode;
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use sip_edge::access::interface;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TEN: &str = r#""192.0.2.10/32", "2001:db8::10/128""#;
const TWENTY: &str = r#""192.0.2.20/32", "2001:db8::20/128""#;
const ON_EDGE0: &str = r#"interfaces = ["edge0"]"#;
const PINS: &str = "/sys/fs/bpf/sip-edge";

fn request(transport: &str) -> String {
    format!(
        "OPTIONS sip:192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/{transport} 192.0.2.10:5060;branch=z9hG4bKprobe\r\n\
         Max-Forwards: 70\r\nFrom: <sip:probe@example.net>;tag=1\r\nTo: <sip:192.0.2.1>\r\n\
         Call-ID: probe@example.net\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

/// What an OPTIONS over TCP is answered with; empty where the connection is closed instead.
fn ask(from: &str, to: &str) -> String {
    let mut stream = connect(from, to);
    // A peer that is refused may find the connection reset while it writes.
    let _ = stream.write_all(request("TCP").as_bytes());
    read_some(&mut stream)
}

fn read_some(stream: &mut impl Read) -> String {
    let mut bytes = [0; 4096];
    match stream.read(&mut bytes) {
        Ok(length) => String::from_utf8_lossy(&bytes[..length]).into_owned(),
        Err(fault) if fault.kind() == ErrorKind::ConnectionReset => String::new(),
        Err(fault) => panic!("{fault}"),
    }
}

fn ask_over_tls(certificate: CertificateDer<'static>) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("192.0.2.1").unwrap();
    let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut socket = connect("192.0.2.10:0", "192.0.2.1:5061");
    let mut stream = Stream::new(&mut session, &mut socket);
    stream.write_all(request("TLS").as_bytes()).unwrap();
    read_some(&mut stream)
}

const OK: &str = "SIP/2.0 200";

/// `host` is answered on every listener.
fn is_served(peer: &Peer, host: &'static str) {
    peer.run(move || {
        assert!(ask(&format!("192.0.2.{host}:0"), "192.0.2.1:5060").starts_with(OK));
        assert!(ask(&format!("[2001:db8::{host}]:0"), "[2001:db8::1]:5060").starts_with(OK));
    });
}

fn dropped(listener: &str) -> f64 {
    metric(&format!(
        "sip_edge_access_dropped_packets_total{{listener=\"{listener}\",reason=\"unlisted\"}}"
    ))
}

/// XDP drops what `host` sends to the listeners.
fn is_dropped(peer: &Peer, host: &'static str) {
    let before = ["tcp4", "tls4", "tcp6"].map(dropped);
    let _knockers = peer.run(move || {
        [
            (format!("192.0.2.{host}:0"), "192.0.2.1:5060"),
            (format!("192.0.2.{host}:0"), "192.0.2.1:5061"),
            (format!("[2001:db8::{host}]:0"), "[2001:db8::1]:5060"),
        ]
        .map(|(from, to)| knock(&from, to))
    });
    until("dropped SYNs", || {
        ["tcp4", "tls4", "tcp6"]
            .iter()
            .zip(before)
            .all(|(listener, before)| dropped(listener) > before)
    });
}

/// Without XDP: the kernel takes the connection, the edge closes it without a word.
fn is_refused_by_userspace(peer: &Peer, host: &'static str) {
    peer.run(move || {
        assert_eq!(ask(&format!("192.0.2.{host}:0"), "192.0.2.1:5060"), "");
        assert_eq!(
            ask(&format!("[2001:db8::{host}]:0"), "[2001:db8::1]:5060"),
            ""
        );
    });
}

const DETACHED: &str = "sip_edge_access_xdp_detached_total{interface=\"edge0\"}";

/// What the metrics say, in whatever mode.
fn attached() -> f64 {
    let series =
        |mode| format!("sip_edge_access_xdp_attached{{interface=\"edge0\",mode=\"{mode}\"}}");
    metric(&series("native")) + metric(&series("none"))
}

#[test]
fn the_daemon_refuses_with_and_without_xdp_and_says_which() {
    if !privileged("the_daemon_refuses_with_and_without_xdp_and_says_which") {
        return;
    }
    mount_sys();
    let peer = Peer::linked();
    let site = Site::new();
    site.write(ON_EDGE0, TEN);
    let daemon = site.run();
    assert!(
        get("/readyz").contains("\"problems\":[]"),
        "{}",
        get("/readyz")
    );
    assert_eq!(attached(), 1.0);
    is_served(&peer, "10");
    let certificate = site.certificate.der().clone();
    assert!(peer.run(|| ask_over_tls(certificate)).starts_with(OK));
    is_dropped(&peer, "20");
    peer.run(|| ping("192.0.2.20", "192.0.2.1", 1));

    // Taken off, and somebody else's program in its place: it is not fought for, and userspace refuses alone.
    bpf::detach("edge0");
    let other = bpf::Occupied::new("edge0", XdpMode::Driver);
    daemon.says("detached by someone else");
    daemon.says("another XDP program is attached");
    // The log is told first.
    until("readiness says so", || {
        get("/readyz").contains("another XDP program is attached")
    });
    assert!(get("/readyz").contains("\"ready\":true"));
    assert_eq!(metric(DETACHED), 1.0);
    assert_eq!(attached(), 0.0);
    is_refused_by_userspace(&peer, "20");
    is_served(&peer, "10");
    drop(other);
    daemon.says("XDP attached (native)");
    until("readiness after the other is gone", || {
        get("/readyz").contains("\"problems\":[]")
    });
    assert_eq!(attached(), 1.0);
    is_dropped(&peer, "20");

    // Taken off again, and nobody in its place.
    bpf::detach("edge0");
    daemon.says("detached by someone else");
    daemon.says("XDP attached (native)");
    assert_eq!(metric(DETACHED), 2.0);

    // A bad file changes nothing; a good one attaches XDP again, and turns the tables.
    site.write_text("[access]\ninterfaces = 5\n");
    daemon.signal(Signal::HUP);
    daemon.says("configuration not reloaded");
    is_served(&peer, "10");
    site.write(ON_EDGE0, TWENTY);
    daemon.signal(Signal::HUP);
    daemon.says("configuration reloaded");
    until("readiness after a reload", || {
        get("/readyz").contains("\"problems\":[]")
    });
    is_served(&peer, "20");
    is_dropped(&peer, "10");

    daemon.end(Signal::TERM);
    assert_eq!(bpf::program("edge0"), None);
    assert!(!Path::new(PINS).exists());
}

/// The directories of pins of one layout version.
fn pinned(version: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(Path::new(PINS).join(version)) else {
        return Vec::new();
    };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Nothing of `.20` gets an answer, not even a refusal. The ping's reply comes after whatever the SYN would have caused.
fn gets_no_answer(peer: &Peer) {
    peer.run(|| {
        let socket = knock("192.0.2.20:0", "192.0.2.1:5060");
        ping("192.0.2.20", "192.0.2.1", 2);
        assert!(socket.take_error().unwrap().is_none());
        let fault = socket.peer_addr().unwrap_err();
        assert_eq!(fault.kind(), ErrorKind::NotConnected);
    });
}

fn crash(daemon: Daemon) {
    daemon.end(Signal::KILL);
}

#[test]
fn a_crash_leaves_the_filter_in_force_and_the_next_start_takes_it_over() {
    if !privileged("a_crash_leaves_the_filter_in_force_and_the_next_start_takes_it_over") {
        return;
    }
    mount_sys();
    let peer = Peer::linked();
    let site = Site::new();
    site.write(ON_EDGE0, TEN);
    let daemon = site.run();
    let [ref directory] = *pinned("v1") else {
        panic!("{:?}", pinned("v1"));
    };
    for name in ["control", "flows", "drops", "bounds6", "link-edge0"] {
        assert!(directory.join(name).exists(), "{name}");
    }
    let (program, link) = (bpf::program("edge0"), bpf::link("edge0"));
    crash(daemon);
    assert_eq!((bpf::program("edge0"), bpf::link("edge0")), (program, link));
    gets_no_answer(&peer);

    // As if another version had left it there.
    fs::rename(Path::new(PINS).join("v1"), Path::new(PINS).join("v0")).unwrap();
    let daemon = site.run();
    // The same attachment with another program: there was no moment without one.
    assert_eq!(bpf::link("edge0"), link);
    assert_ne!(bpf::program("edge0"), program);
    assert_eq!((pinned("v0").len(), pinned("v1").len()), (0, 1));
    is_served(&peer, "10");
    is_dropped(&peer, "20");

    // An attachment in another mode is replaced.
    crash(daemon);
    site.write("interfaces = [\"edge0\"]\nmode = \"generic\"", TEN);
    let daemon = site.run();
    let found = interface::query("edge0").unwrap();
    assert!(
        found.native.is_none() && found.generic.is_some(),
        "{found:?}"
    );
    is_dropped(&peer, "20");

    // An interface that is not guarded any more is let go.
    crash(daemon);
    site.write("interfaces = []", TEN);
    let daemon = site.run();
    assert_eq!(bpf::program("edge0"), None);
    assert!(pinned("v1").is_empty(), "{:?}", pinned("v1"));
    is_refused_by_userspace(&peer, "20");
    daemon.end(Signal::TERM);
}
