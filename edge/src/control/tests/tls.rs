//! TLS in both roles against certificates of every kind.

use super::pki::{Issued, Pki};
use super::*;
use crate::control::tls::{
    TlsClientFiles, TlsFileError, TlsServerFiles, client_config, server_config, warnings,
};
use edge_proto::b2bua::TlsTarget;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;

fn server_settings(issued: &Issued, client_ca: Option<PathBuf>) -> TlsSettings {
    let files = TlsServerFiles {
        certificate: issued.certificate.clone(),
        private_key: issued.private_key.clone(),
        client_ca,
    };
    TlsSettings {
        servers: [(ListenerId(0), server_config(&files).unwrap())].into(),
        ..TlsSettings::default()
    }
}

fn client_settings(files: &TlsClientFiles) -> TlsSettings {
    TlsSettings {
        clients: [("agents".to_owned(), client_config(files).unwrap())].into(),
        ..TlsSettings::default()
    }
}

fn tls_edge(tls: TlsSettings, reaction: Reaction) -> Edge {
    Edge::start(Options {
        transports: vec![Transport::Tls],
        tls,
        reaction,
        ..Options::default()
    })
}

/// A client that is not ours.
fn rustls_client(
    edge: &Edge,
    roots: RootCertStore,
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<&Issued>,
) -> StreamOwned<ClientConnection, TcpStream> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(issued) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&issued.certificate).unwrap()],
                PrivateKeyDer::from_pem_file(&issued.private_key).unwrap(),
            )
            .unwrap(),
    };
    let name = ServerName::try_from("edge.example.net").unwrap();
    StreamOwned::new(
        ClientConnection::new(Arc::new(config), name).unwrap(),
        edge.client(),
    )
}

fn accepted(edge: &Edge) -> ConnectionId {
    match edge.next() {
        Input::Accepted { connection, .. } => connection,
        other => panic!("expected Accepted, got {other:?}"),
    }
}

fn tls_failure(edge: &Edge, connection: ConnectionId) -> String {
    match edge.closed(connection) {
        CloseReason::TlsFailed(text) => text,
        other => panic!("expected TlsFailed, got {other:?}"),
    }
}

#[test]
fn both_versions_carry_data_both_ways_and_end_with_close_notify() {
    let pki = Pki::new();
    let edge = tls_edge(server_settings(&pki.good("edge.example.net"), None), echo());
    for version in [&version::TLS12, &version::TLS13] {
        let mut client = rustls_client(&edge, pki.roots(), &[version], None);
        let sent = pattern(300_000);
        client.write_all(&sent).unwrap();
        let mut got = vec![0; sent.len()];
        client.read_exact(&mut got).unwrap();
        assert!(got == sent);
        let connection = accepted(&edge);
        assert!(edge.received(connection, sent.len()) == sent);
        edge.does([transmit(connection, "bye"), Output::Close { connection }]);
        let mut rest = Vec::new();
        // Without close_notify rustls would report UnexpectedEof here.
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"bye");
    }
}

#[test]
fn a_peers_close_notify_ends_the_connection_and_what_was_queued_still_goes_out() {
    let pki = Pki::new();
    let edge = tls_edge(server_settings(&pki.good("edge.example.net"), None), echo());
    let mut client = rustls_client(&edge, pki.roots(), rustls::ALL_VERSIONS, None);
    client.write_all(b"OPTIONS").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    let connection = accepted(&edge);
    assert_eq!(edge.received(connection, 7), b"OPTIONS");
    assert_eq!(edge.closed(connection), CloseReason::Peer);
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"OPTIONS");
    drop(client);
    edge.wait_until_empty();
}

#[test]
fn client_certificates_are_demanded_and_judged() {
    let (pki, stranger) = (Pki::new(), Pki::named("Another Authority"));
    let edge = tls_edge(
        server_settings(&pki.good("edge.example.net"), Some(pki.ca())),
        echo(),
    );
    let expired = pki.issue("late.example.net", |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let stranger = stranger.good("stranger.example.net");
    let cases = [
        (None, "peer showed no certificate"),
        (Some(&stranger), "unknown issuer"),
        (Some(&expired), "expired at 2001-01-01T00:00:00Z"),
    ];
    for (identity, fault) in cases {
        for version in [&version::TLS12, &version::TLS13] {
            let mut client = rustls_client(&edge, pki.roots(), &[version], identity);
            // With TLS 1.3 the client is done before it learns of the refusal.
            let _ = client.write_all(b"REGISTER");
            let error = client.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
            let connection = accepted(&edge);
            let text = tls_failure(&edge, connection);
            assert!(text.contains(fault), "{text}");
        }
    }
    let good = pki.good("carrier.example.net");
    let mut client = rustls_client(&edge, pki.roots(), rustls::ALL_VERSIONS, Some(&good));
    client.write_all(b"INVITE").unwrap();
    let mut got = [0; 6];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"INVITE");
}

/// A ClientHello as a TLS 1.1 client would send it (RFC 4346 §7.4.1.2).
fn client_hello_1_1(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![0x03, 0x02];
    body.extend([7; 32]);
    body.push(0); // no session
    body.extend([0x00, 0x02, 0x00, 0x2f]); // TLS_RSA_WITH_AES_128_CBC_SHA
    body.extend([0x01, 0x00]); // no compression
    body.extend(extensions);
    handshake_record(1, &body)
}

fn handshake_record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    let mut record = vec![0x16, 0x03, 0x02, 0x00, length + 4, kind, 0, 0, length];
    record.extend(body);
    record
}

#[test]
fn tls_1_1_is_refused_with_the_alert_that_says_so() {
    let pki = Pki::new();
    let edge = tls_edge(
        server_settings(&pki.good("edge.example.net"), None),
        nothing(),
    );
    // signature_algorithms: ecdsa_secp256r1_sha256; a TLS 1.1 client has no reason to send it, a crippled library may.
    let signature_algorithms = [0, 8, 0x00, 0x0d, 0, 4, 0, 2, 0x04, 0x03];
    const HANDSHAKE_FAILURE: u8 = 40;
    const PROTOCOL_VERSION: u8 = 70;
    for (extensions, alert) in [
        (&[][..], HANDSHAKE_FAILURE),
        (&signature_algorithms[..], PROTOCOL_VERSION),
    ] {
        let mut client = edge.client();
        client.write_all(&client_hello_1_1(extensions)).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        // A record of the type alert, fatal.
        assert_eq!(got.first(), Some(&0x15));
        assert!(got.ends_with(&[2, alert]), "{got:?}");
        let connection = accepted(&edge);
        let text = tls_failure(&edge, connection);
        assert!(text.starts_with("protocol version"), "{text}");
    }
}

#[test]
fn plain_sip_on_a_tls_port_is_told_apart() {
    let pki = Pki::new();
    let edge = tls_edge(
        server_settings(&pki.good("edge.example.net"), None),
        nothing(),
    );
    let mut client = edge.client();
    client
        .write_all(b"OPTIONS sip:edge.example.net SIP/2.0\r\n")
        .unwrap();
    let connection = accepted(&edge);
    let text = tls_failure(&edge, connection);
    assert!(text.contains("does not speak TLS"), "{text}");
}

#[test]
fn a_handshake_has_a_deadline_and_its_abandonment_a_text() {
    let pki = Pki::new();
    let mut options = Options {
        transports: vec![Transport::Tls],
        tls: server_settings(&pki.good("edge.example.net"), None),
        ..Options::default()
    };
    options.limits.handshake = Duration::from_millis(30);
    let edge = Edge::start(options);
    let (client, connection) = edge.accepted();
    let text = tls_failure(&edge, connection);
    assert!(text.contains("no TLS handshake within 30ms"), "{text}");
    drop(client);

    let edge = tls_edge(
        server_settings(&pki.good("edge.example.net"), None),
        nothing(),
    );
    let (client, connection) = edge.accepted();
    drop(client);
    let text = tls_failure(&edge, connection);
    assert!(text.contains("during the TLS handshake"), "{text}");
}

#[test]
fn a_refused_source_gets_no_handshake() {
    let pki = Pki::new();
    let edge = tls_edge(
        server_settings(&pki.good("edge.example.net"), None),
        Box::new(|input| match input {
            Input::Accepted { connection, .. } => vec![Output::Close {
                connection: *connection,
            }],
            _ => Vec::new(),
        }),
    );
    let mut client = edge.client();
    let _ = client.write_all(&client_hello_1_1(&[]));
    let mut got = Vec::new();
    let _ = client.read_to_end(&mut got);
    assert_eq!(got, b"");
}

const FIRST: ConnectionId = ConnectionId::originated(CoreId(0), 1);

fn connect_tls(remote: SocketAddr, server_name: &str) -> Output {
    Output::Connect {
        connection: FIRST,
        transport: Transport::Tls,
        local: "127.0.0.1".parse().unwrap(),
        remote,
        tls: Some(TlsTarget {
            server_name: server_name.to_owned(),
            trunk: "agents".into(),
        }),
    }
}

fn client_edge(files: &TlsClientFiles) -> Edge {
    Edge::start(Options {
        tls: client_settings(files),
        transports: Vec::new(),
        ..Options::default()
    })
}

fn trusting(ca: PathBuf) -> TlsClientFiles {
    TlsClientFiles {
        ca: Some(ca),
        ..TlsClientFiles::default()
    }
}

/// How a connection of an edge that trusts `trusted` to a server with `issued` under `name` fails.
fn refusal(trusted: &Pki, issued: &Issued, name: &str) -> String {
    let server = tls_edge(server_settings(issued, None), echo());
    let client = client_edge(&trusting(trusted.ca()));
    client.does([
        connect_tls(server.address(), name),
        transmit(FIRST, "INVITE"),
    ]);
    let text = tls_failure(&client, FIRST);
    let connection = accepted(&server);
    // The other side is told by alert, and never sees a byte of SIP.
    let told = tls_failure(&server, connection);
    assert!(told.starts_with("peer refused"), "{told}");
    text
}

#[test]
fn an_outbound_connection_is_verified_and_then_carries_what_waited() {
    let pki = Pki::new();
    let server = tls_edge(
        server_settings(&pki.good("agents.example.net"), None),
        echo(),
    );
    let client = client_edge(&trusting(pki.ca()));
    let sent = pattern(200_000);
    client.does([
        connect_tls(server.address(), "agents.example.net"),
        transmit(FIRST, sent.clone()),
    ]);
    assert!(matches!(
        client.next(),
        Input::Connected {
            connection: FIRST,
            ..
        }
    ));
    assert!(client.received(FIRST, sent.len()) == sent);
    assert!(client.noted().starts_with("TLS established: TLSv1_3"));
    client.does([Output::Close { connection: FIRST }]);
    client.wait_until_empty();
    server.wait_until_empty();
}

#[test]
fn an_expired_certificate_is_refused() {
    let pki = Pki::new();
    let expired = pki.issue("agents.example.net", |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    assert_eq!(
        refusal(&pki, &expired, "agents.example.net"),
        "certificate expired at 2001-01-01T00:00:00Z"
    );
}

#[test]
fn a_self_signed_certificate_and_one_of_another_authority_are_refused() {
    let pki = Pki::new();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["agents.example.net".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let self_signed = Issued {
        certificate: pki.write("self.pem", &certificate.pem()),
        private_key: pki.write("self.key", &key.serialize_pem()),
    };
    let text = refusal(&pki, &self_signed, "agents.example.net");
    assert!(text.contains("unknown issuer (self-signed"), "{text}");
    for (authority, fault) in [
        ("Another Authority", "unknown issuer"),
        ("Test Authority", "not signed by the authority it names"),
    ] {
        let other = Pki::named(authority);
        let issued = other.good("agents.example.net");
        let text = refusal(&pki, &issued, "agents.example.net");
        assert!(text.contains(fault), "{text}");
    }
}

#[test]
fn a_wrong_name_is_refused_and_the_names_are_listed() {
    let pki = Pki::new();
    assert_eq!(
        refusal(&pki, &pki.good("other.example.net"), "agents.example.net"),
        "certificate is not valid for agents.example.net (it names other.example.net)"
    );
    // RFC 5922 §7.2.
    assert_eq!(
        refusal(&pki, &pki.good("*.example.net"), "agents.example.net"),
        "certificate is not valid for agents.example.net (it names *.example.net)"
    );
}

#[test]
fn a_peer_that_demands_a_client_certificate_gets_it_or_says_why_not() {
    let pki = Pki::new();
    let server = tls_edge(
        server_settings(&pki.good("agents.example.net"), Some(pki.ca())),
        echo(),
    );
    let without = client_edge(&trusting(pki.ca()));
    without.does([connect_tls(server.address(), "agents.example.net")]);
    // With TLS 1.3 the handshake is over for the client when the server judges the certificate.
    assert!(matches!(without.next(), Input::Connected { .. }));
    let text = tls_failure(&without, FIRST);
    assert!(text.contains("it demands a client certificate"), "{text}");

    let own = pki.good("edge.example.net");
    let with = client_edge(&TlsClientFiles {
        certificate: Some(own.certificate),
        private_key: Some(own.private_key),
        ..trusting(pki.ca())
    });
    with.does([
        connect_tls(server.address(), "agents.example.net"),
        transmit(FIRST, "INVITE"),
    ]);
    assert!(matches!(with.next(), Input::Connected { .. }));
    assert_eq!(with.received(FIRST, 6), b"INVITE");
}

#[test]
fn a_server_that_speaks_only_tls_1_1_is_refused() {
    let pki = Pki::new();
    let client = client_edge(&trusting(pki.ca()));
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    client.does([connect_tls(
        server.local_addr().unwrap(),
        "agents.example.net",
    )]);
    let (mut stream, _) = server.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // ServerHello (RFC 4346 §7.4.1.3).
    let mut body = vec![0x03, 0x02];
    body.extend([9; 32]);
    body.extend([0x00, 0x00, 0x2f, 0x00]);
    stream.write_all(&handshake_record(2, &body)).unwrap();
    let text = tls_failure(&client, FIRST);
    assert!(text.starts_with("protocol version"), "{text}");
}

#[test]
fn what_cannot_begin_fails_with_its_reason() {
    let client = client_edge(&trusting(Pki::new().ca()));
    let anywhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    client.does([Output::Connect {
        connection: FIRST,
        transport: Transport::Tls,
        local: "127.0.0.1".parse().unwrap(),
        remote: anywhere,
        tls: Some(TlsTarget {
            server_name: "agents.example.net".into(),
            trunk: "unknown".into(),
        }),
    }]);
    assert_eq!(
        tls_failure(&client, FIRST),
        "trunk unknown has no TLS settings"
    );
    client.does([connect_tls(anywhere, "not a name")]);
    assert_eq!(
        tls_failure(&client, FIRST),
        "not a name is neither a host name nor an address"
    );
}

#[test]
fn files_are_checked_with_errors_that_name_them() {
    let pki = Pki::new();
    let good = pki.good("edge.example.net");
    let other = pki.good("other.example.net");
    let load = |certificate: &PathBuf, private_key: &PathBuf| {
        server_config(&TlsServerFiles {
            certificate: certificate.clone(),
            private_key: private_key.clone(),
            client_ca: None,
        })
        .unwrap_err()
    };
    let missing = pki.directory.path().join("missing.pem");
    let error = load(&missing, &good.private_key);
    assert!(matches!(error, TlsFileError::Read { .. }));
    assert!(error.to_string().contains("missing.pem: cannot read"));
    assert!(matches!(
        load(&good.private_key, &good.private_key),
        TlsFileError::NoCertificate { .. }
    ));
    assert!(matches!(
        load(&good.certificate, &good.certificate),
        TlsFileError::NoPrivateKey { .. }
    ));
    assert!(matches!(
        load(&good.certificate, &other.private_key),
        TlsFileError::KeyMismatch { .. }
    ));
    let broken = pki.write(
        "broken.pem",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
    );
    assert!(matches!(
        load(&broken, &good.private_key),
        TlsFileError::NotPem { .. }
    ));
    let nonsense = pki.write(
        "nonsense.pem",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    assert!(matches!(
        load(&nonsense, &good.private_key),
        TlsFileError::BadCertificate { number: 1, .. }
    ));
    let half = client_config(&TlsClientFiles {
        certificate: Some(good.certificate.clone()),
        ..trusting(pki.ca())
    });
    assert!(matches!(half, Err(TlsFileError::HalfAClientCertificate)));
}

#[test]
fn a_certificate_that_peers_will_refuse_is_warned_about() {
    let pki = Pki::new();
    assert_eq!(
        warnings(&pki.good("edge.example.net").certificate).unwrap(),
        Vec::<String>::new()
    );
    let expired = pki.issue("old.example.net", |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let texts = warnings(&expired.certificate).unwrap();
    assert!(texts[0].ends_with("old.example.net.pem: certificate expired at 2001-01-01T00:00:00Z"));
    let early = pki.issue("new.example.net", |params| {
        params.not_before = date_time_ymd(2900, 1, 1);
        params.not_after = date_time_ymd(2901, 1, 1);
    });
    assert!(warnings(&early.certificate).unwrap()[0].contains("not valid before 2900-01-01"));
}
