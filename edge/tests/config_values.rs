//! What the keys of a configuration file turn into.

use edge_proto::config::{
    DigestAlgorithm, InboundAuth, LatchMode, Network, OnFailure, PresentAs, ReferAuth, Rewrite,
    Transport, TrunkUri,
};
use edge_proto::id::{ListenerId, TrunkId};
use edge_proto::time::Duration;
use sip_edge::config::{
    AccessMode, Context, Cores, Environment, FastPath, Settings, parse, peer_addresses,
};
use std::path::Path;
use std::sync::atomic::Ordering;

fn read(text: &str, previous: Option<&Settings>) -> Settings {
    let context = Context {
        environment: &Environment::default(),
        previous: previous.map(|settings| &*settings.protocol),
        world_readable: false,
    };
    parse(Path::new("/etc/sip-edge/test.toml"), text, &context).unwrap()
}

fn every_key() -> Settings {
    read(include_str!("config/odd/every-key.toml"), None)
}

#[test]
fn the_sections() {
    let settings = every_key();
    assert_eq!(settings.cores, Cores::List(vec![0, 1]));
    let minute = std::time::Duration::from_secs(60);
    assert_eq!(settings.drain_timeout, Some(minute));
    assert_eq!(settings.fast_path, FastPath::Off);
    assert_eq!(settings.sip_batch, Duration::from_micros(500));
    assert_eq!(settings.sip_overload, Duration::from_secs(1));
    assert_eq!(settings.media.batch, Duration::from_micros(100));
    assert_eq!(settings.media.busy_poll, Duration::from_micros(20));
    assert_eq!(settings.access.interfaces, ["eth0"]);
    assert_eq!(settings.access.mode, AccessMode::Generic);
    assert_eq!(settings.admin.address.to_string(), "[::1]:9091");
    assert_eq!(settings.admin.token_file, Path::new("/etc/sip-edge/token"));
    assert_eq!(settings.cdr_path, Path::new("/var/lib/sip-edge/cdr.jsonl"));
    let servers: Vec<_> = settings
        .dns_servers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        servers,
        ["127.0.0.1:5353", "192.0.2.53:53", "[2001:db8::53]:53"]
    );
    let config = &settings.protocol;
    assert_eq!(config.domains, ["fra.eu.out.example.net", "203.0.113.10"]);
    assert_eq!(config.sip.t1, Duration::from_millis(100));
    assert_eq!(config.sip.t2, Duration::from_millis(800));
    assert_eq!(config.sip.t4, Duration::from_secs(1));
    let listener = config.listener(ListenerId(0)).unwrap();
    assert_eq!(listener.address.to_string(), "0.0.0.0:5060");
    assert_eq!(listener.advertised.to_string(), "203.0.113.10:5070");
    let ipv4 = config.media.ipv4.unwrap();
    assert_eq!(ipv4.bind.to_string(), "192.0.2.1");
    assert_eq!(ipv4.advertised.to_string(), "203.0.113.10");
    assert_eq!(config.media.ipv6.unwrap().advertised.to_string(), "::1");
    assert_eq!(config.media.ports, 10_000..=20_000);
    assert_eq!(config.media.timeout, Duration::from_secs(30));
    let route = &config.routes[0];
    let rewrite = Rewrite {
        strip: "+1".to_owned(),
        prepend: "00".to_owned(),
    };
    assert_eq!(route.rewrite, Some(rewrite));
    assert_eq!(
        (route.from.as_str(), route.number.as_str()),
        ("ai", "+1999*")
    );
}

#[test]
fn a_trunk() {
    let settings = every_key();
    let trunk = settings.protocol.trunk(TrunkId(0)).unwrap();
    let allow: Vec<_> = trunk.allow.iter().map(ToString::to_string).collect();
    assert_eq!(allow, ["127.0.0.3/32", "198.51.100.7/32"]);
    assert_eq!(trunk.request_hosts, ["ai.example.net"]);
    let uri = |host: &str, port| TrunkUri {
        host: host.to_owned(),
        port,
        transport: Transport::Tcp,
        sips: false,
    };
    assert_eq!(
        trunk.uris,
        [uri("127.0.0.3", Some(5070)), uri("ai.example.net", None)]
    );
    assert_eq!(trunk.network, Network::Ipv4);
    assert!(trunk.bridge_families);
    assert_eq!(trunk.auth, InboundAuth::DigestAndIp);
    assert_eq!(trunk.digest_algorithms[0], DigestAlgorithm::Sha512_256);
    assert_eq!(trunk.digest_algorithms.len(), 6);
    let demanded = trunk.credentials.as_ref().unwrap();
    assert_eq!(
        (demanded.username.as_str(), demanded.password.expose()),
        ("trunk-user", "not-a-real-one")
    );
    let shown = trunk.present.as_ref().unwrap();
    assert_eq!(
        (shown.username.as_str(), shown.password.expose()),
        ("present", "not-a-real-one-either")
    );
    assert_eq!(shown.realm.as_deref(), Some("peer.example.net"));
    assert_eq!(trunk.realm, "example.net");
    assert_eq!(trunk.present_as, PresentAs::Fixed("+1234567890".to_owned()));
    assert_eq!(trunk.latch, LatchMode::Off);
    assert_eq!((trunk.max_calls, trunk.max_calls_per_s), (10, 5));
    assert_eq!(trunk.codecs, ["opus", "PCMA", "telephone-event"]);
    let headers: Vec<_> = trunk
        .headers
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    assert_eq!(headers, [("X-Provider", "acme"), ("x-lower", "")]);
    let policy = trunk.transfer.as_ref().unwrap();
    assert_eq!((policy.max_transfers, policy.auth), (3, ReferAuth::Dialog));
    assert_eq!(policy.via.as_deref(), Some("ai"));
    assert_eq!(policy.drop_headers, [] as [&str; 0]);
    assert_eq!(policy.ring_timeout, Duration::from_secs(10));
    assert_eq!(policy.auth_timeout, Duration::from_secs(2));
    assert_eq!(policy.on_failure, OnFailure::Hangup);
}

const SMALL: &str = r#"
[[listen]]
transport = "tcp"
address = "[2001:db8::10]:5060"
[[listen]]
transport = "tcp"
address = "203.0.113.10:5060"
[media]
ports = "10000-20000"
[[trunk]]
name = "a"
auth = "digest"
username = "u"
password = "not-a-real-one"
[[trunk]]
name = "b"
network = "ipv6"
auth = "digest"
username = "v"
password = "not-a-real-one"
"#;

#[test]
fn the_defaults() {
    let settings = read(SMALL, None);
    assert_eq!(settings.cores, Cores::Auto);
    let five_minutes = std::time::Duration::from_secs(300);
    assert_eq!(settings.drain_timeout, Some(five_minutes));
    assert_eq!(settings.fast_path, FastPath::Auto);
    assert_eq!(settings.sip_batch, Duration::from_millis(2));
    assert_eq!(settings.sip_overload, Duration::from_millis(250));
    assert_eq!(settings.media.batch, Duration::from_micros(400));
    assert_eq!(settings.media.busy_poll, Duration::ZERO);
    assert_eq!(settings.access.mode, AccessMode::Auto);
    assert_eq!(settings.admin.address.to_string(), "127.0.0.1:9090");
    assert_eq!(
        settings.admin.token_file,
        Path::new("/etc/sip-edge/admin.token")
    );
    assert_eq!(settings.cdr_path, Path::new("/etc/sip-edge/cdr.jsonl"));
    assert!(settings.dns_servers.is_empty());
    let config = &settings.protocol;
    assert_eq!(config.domains, ["2001:db8::10", "203.0.113.10"]);
    assert_eq!(config.sip.t1, Duration::from_millis(500));
    assert_eq!(config.listeners[0].name, "tcp:[2001:db8::10]:5060");
    // Media uses the addresses of the listeners.
    assert_eq!(config.media.ipv4.unwrap().bind.to_string(), "203.0.113.10");
    assert_eq!(config.media.ipv6.unwrap().bind.to_string(), "2001:db8::10");
    assert_eq!(config.media.timeout, Duration::from_secs(60));
    let [a, b] = config.trunks.as_slice() else {
        panic!("two trunks");
    };
    let anyone = |trunk: &edge_proto::config::Trunk| {
        let nets: Vec<_> = trunk.allow.iter().map(ToString::to_string).collect();
        nets.join(" ")
    };
    assert_eq!(anyone(a), "0.0.0.0/0 ::/0");
    assert_eq!(anyone(b), "::/0");
    assert_eq!(a.listen, [ListenerId(0), ListenerId(1)]);
    assert_eq!(
        a.digest_algorithms,
        [DigestAlgorithm::Sha256, DigestAlgorithm::Md5]
    );
    assert_eq!(a.realm, "sip-edge");
    // The pair that is demanded is also shown, in any realm.
    let shown = a.present.as_ref().unwrap();
    assert_eq!((shown.username.as_str(), &shown.realm), ("u", &None));
}

#[test]
fn what_peers_have_to_list() {
    let settings = read(SMALL, None);
    let [a, b]: [_; 2] = peer_addresses(&settings.protocol).try_into().unwrap();
    assert_eq!(a.trunk, "a");
    assert_eq!(
        a.signalling,
        ["tcp 203.0.113.10:5060", "tcp [2001:db8::10]:5060"]
    );
    assert_eq!(
        a.media,
        [
            "udp 203.0.113.10:10000-20000",
            "udp [2001:db8::10]:10000-20000"
        ]
    );
    assert_eq!(b.signalling, ["tcp [2001:db8::10]:5060"]);
    assert_eq!(b.media, ["udp [2001:db8::10]:10000-20000"]);
}

#[test]
fn a_trunk_that_stays_keeps_its_counters() {
    let first = read(SMALL, None);
    let load = |settings: &Settings, name: &str| {
        let trunk = settings.protocol.trunk_named(name).unwrap();
        trunk.load.legs.fetch_add(1, Ordering::Relaxed)
    };
    assert_eq!(load(&first, "b"), 0);
    let second = read(SMALL, Some(&first));
    assert_eq!(load(&second, "b"), 1);
    assert_eq!(load(&second, "a"), 0);
    let unrelated = read(SMALL, None);
    assert_eq!(load(&unrelated, "b"), 0);
}

#[test]
fn a_listener_that_stays_keeps_its_id_wherever_the_file_has_it() {
    let first = read(SMALL, None);
    let ids = |settings: &Settings| {
        let all = settings.protocol.listeners.iter();
        all.map(|listener| (listener.address.port(), listener.id.0))
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&first), [(5060, 0), (5060, 1)]);
    // The first listener gives way to another, which must not be mistaken for it.
    let changed = SMALL.replace("[2001:db8::10]:5060", "[2001:db8::10]:5070");
    let second = read(&changed, Some(&first));
    assert_eq!(ids(&second), [(5070, 2), (5060, 1)]);
    let kept = second.protocol.listener(ListenerId(1)).unwrap();
    assert_eq!(kept.address.to_string(), "203.0.113.10:5060");
    let carrier = "192.0.2.7".parse().unwrap();
    let allow = &second.protocol.allow;
    assert!(!allow.lookup(ListenerId(1), carrier).is_empty());
    assert!(allow.lookup(ListenerId(0), carrier).is_empty());
    // By now nothing remembers the first one's id.
    let third = read(SMALL, Some(&second));
    assert_eq!(ids(&third), [(5060, 0), (5060, 1)]);
}

#[test]
fn no_secret_is_ever_printed() {
    let settings = every_key();
    let printed = format!("{settings:?}");
    assert!(printed.contains("trunk-user"));
    assert!(!printed.contains("not-a-real-one"));
}

#[test]
fn a_hundred_thousand_prefixes_load() {
    let nets: Vec<String> = (0..100_000u32)
        .map(|n| format!("\"10.{}.{}.{}/32\"", n >> 16, (n >> 8) & 255, n & 255))
        .collect();
    let text = format!(
        "{SMALL}\n[[trunk]]\nname = \"big\"\nallow = [{}]\n",
        nets.join(",")
    );
    let settings = read(&text, None);
    let table = &settings.protocol.allow;
    let found = table.lookup(ListenerId(1), "10.1.2.3".parse().unwrap());
    assert!(found.contains(TrunkId(2)));
    assert!(
        !table
            .lookup(ListenerId(1), "10.2.2.3".parse().unwrap())
            .contains(TrunkId(2))
    );
}

#[test]
fn what_the_machine_says_gives_warnings() {
    let text = SMALL.replace("name = \"a\"", "name = \"a\"\nmax_calls = 6000");
    let environment = Environment {
        credentials: None,
        ephemeral_ports: Some(15_000..=60_999),
        reserved_ports: vec![15_000..=16_000],
        open_files: Some(4096),
        interfaces: Some(vec!["lo".to_owned()]),
    };
    let context = Context {
        environment: &environment,
        previous: None,
        world_readable: true,
    };
    let text = format!("{text}\n[access]\ninterfaces = [\"lo\", \"eth7\"]\n");
    let settings = parse(Path::new("F"), &text, &context).unwrap();
    let said: Vec<_> = settings.warnings.iter().map(ToString::to_string).collect();
    let limits = "the max_calls of all trunks are 6000 legs, whose media needs 12000";
    for expected in [
        format!("F: warning: {limits} sockets where ports need their own (media.steering); the limit of open files is 4096 (RLIMIT_NOFILE, LimitNOFILE of the unit)"),
        format!("F:9:9: warning: media.ports: {limits} ports; these are 10001"),
        "F:9:9: warning: media.ports: the kernel may give port 16001 and others of the range to outgoing sockets (net.ipv4.ip_local_port_range); reserve 10000-20000 in net.ipv4.ip_local_reserved_ports".to_owned(),
        "F:15:12: warning: trunk.a.password: a password in a file that everyone on this machine can read; expected mode 0640, or password_file".to_owned(),
        "F:24:21: warning: access.interfaces[1]: this machine has no interface \"eth7\" now".to_owned(),
    ] {
        assert!(said.contains(&expected), "{expected}\nnot in\n{}", said.join("\n"));
    }
}

#[test]
fn there_are_limits() {
    let context = Context {
        environment: &Environment::default(),
        previous: None,
        world_readable: false,
    };
    let mut text = SMALL.to_owned();
    for n in 0..255 {
        text += &format!("[[trunk]]\nname = \"t{n}\"\nuri = \"sip:198.51.100.1\"\n");
    }
    for n in 0..63 {
        text += &format!(
            "[[listen]]\ntransport = \"tcp\"\naddress = \"203.0.113.11:{}\"\n",
            6000 + n
        );
    }
    let error = parse(Path::new("F"), &text, &context).unwrap_err();
    let messages: Vec<_> = error
        .diagnostics
        .iter()
        .map(|d| (d.key.as_str(), d.message.as_str()))
        .collect();
    assert!(
        messages.contains(&("trunk.t254", "expected at most 256 trunks")),
        "{messages:?}"
    );
    assert!(
        messages.contains(&("listen[64]", "expected at most 64 listeners")),
        "{messages:?}"
    );
}
