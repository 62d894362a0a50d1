//! The configuration as it is written: every key with its type and place, nothing compared with anything else yet.

mod trunk;

pub(super) use trunk::{RawPassword, RawPresent, RawTransfer, RawTrunk};

use super::diagnostic::{At, Listed, Place, Sink};
use super::reader::Section;
use super::scalar::{self, Advertise};
use super::{AccessMode, FastPath, MediaSteering};
use edge_proto::config::Transport;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use toml::de::DeTable;

/// The whole file.
#[derive(Debug, Default)]
pub(super) struct RawConfig {
    pub edge: RawEdge,
    pub sip: RawSip,
    pub listen: Vec<RawListen>,
    pub media: RawMedia,
    pub access: RawAccess,
    pub admin: RawAdmin,
    pub cdr_path: Option<At<String>>,
    pub dns_servers: Vec<At<SocketAddr>>,
    pub trunks: Vec<RawTrunk>,
    pub routes: Vec<RawRoute>,
}

/// `[edge]`.
#[derive(Debug, Default)]
pub(super) struct RawEdge {
    /// `None`, or `Ok`: "auto".
    pub cores: Option<At<Result<(), Vec<At<u64>>>>>,
    pub domains: Vec<At<String>>,
    pub drain_timeout_s: Option<At<u64>>,
}

/// `[sip]`.
#[derive(Debug, Default)]
pub(super) struct RawSip {
    pub t1_ms: Option<At<u64>>,
    pub t2_ms: Option<At<u64>>,
    pub t4_ms: Option<At<u64>>,
    pub batch_us: Option<At<u64>>,
    pub overload_ms: Option<At<u64>>,
}

/// `[[listen]]`.
#[derive(Debug)]
pub(super) struct RawListen {
    pub place: Place,
    pub name: Option<At<String>>,
    pub transport: Option<At<Transport>>,
    pub address: Option<At<SocketAddr>>,
    pub advertise: Option<At<Advertise>>,
    pub certificate: Option<At<String>>,
    pub private_key: Option<At<String>>,
    pub client_ca: Option<At<String>>,
}

/// `[media]`.
#[derive(Debug, Default)]
pub(super) struct RawMedia {
    pub place: Option<Place>,
    pub addresses: Option<Listed<IpAddr>>,
    pub advertise: Vec<At<IpAddr>>,
    pub ports: Option<At<RangeInclusive<u16>>>,
    pub fast_path: Option<At<FastPath>>,
    pub steering: Option<At<MediaSteering>>,
    pub timeout_s: Option<At<u64>>,
    pub batch_us: Option<At<u64>>,
    pub busy_poll_us: Option<At<u64>>,
}

/// `[access]`.
#[derive(Debug, Default)]
pub(super) struct RawAccess {
    pub interfaces: Vec<At<String>>,
    pub mode: Option<At<AccessMode>>,
}

/// `[admin]`.
#[derive(Debug, Default)]
pub(super) struct RawAdmin {
    pub address: Option<At<SocketAddr>>,
    pub token_file: Option<At<String>>,
}

/// `[[route]]`.
#[derive(Debug)]
pub(super) struct RawRoute {
    pub place: Place,
    pub from: Option<At<String>>,
    pub number: Option<At<String>>,
    pub to: Option<Listed<String>>,
    pub rewrite: Option<RawRewrite>,
}

/// `rewrite` of a route.
#[derive(Debug)]
pub(super) struct RawRewrite {
    pub strip: Option<At<String>>,
    pub prepend: Option<At<String>>,
}

/// The longest time a key in seconds may say: a day.
const MAX_SECONDS: u64 = 86_400;

/// Packets of a stream come 10 ms apart at the least; keeping them for longer than a part of that would be heard as jitter.
const MAX_BATCH_US: u64 = 2_000;
/// Far below T1, after which a peer sends again over UDP.
const MAX_SIP_BATCH_US: u64 = 20_000;
/// Timer B at its default: after that a caller has given up anyway.
const MAX_OVERLOAD_MS: u64 = 32_000;

/// Longer than between two packets of any stream, so beyond it a thread would never sleep anyway.
const MAX_BUSY_POLL_US: u64 = 20_000;
/// The longest SIP timer base, in milliseconds.
const MAX_TIMER_MS: u64 = 60_000;

impl RawConfig {
    /// Reads every key of the file; what does not fit goes to `sink` and is left out.
    pub fn read(sink: &mut Sink<'_>, table: &DeTable<'_>) -> RawConfig {
        let mut root = Section::root(table);
        let mut raw = RawConfig::default();
        if let Some(section) = root.section(sink, "edge") {
            raw.edge = edge(sink, section);
        }
        if let Some(section) = root.section(sink, "sip") {
            raw.sip = sip(sink, section);
        }
        let sections = root.sections(sink, "listen");
        raw.listen = sections.into_iter().map(|s| listen(sink, s)).collect();
        if let Some(section) = root.section(sink, "media") {
            raw.media = media(sink, section);
        }
        if let Some(section) = root.section(sink, "access") {
            raw.access = access(sink, section);
        }
        if let Some(section) = root.section(sink, "admin") {
            raw.admin = admin(sink, section);
        }
        if let Some(mut section) = root.section(sink, "cdr") {
            raw.cdr_path = section.parsed(sink, "path", scalar::plain_text);
            section.finish(sink);
        }
        if let Some(section) = root.section(sink, "hep") {
            hep(sink, section);
        }
        if let Some(mut section) = root.section(sink, "dns") {
            let servers = section.list(sink, "servers", scalar::dns_server);
            raw.dns_servers = items(servers);
            section.finish(sink);
        }
        let sections = root.sections(sink, "trunk");
        raw.trunks = sections
            .into_iter()
            .map(|s| RawTrunk::read(sink, s))
            .collect();
        let sections = root.sections(sink, "route");
        raw.routes = sections.into_iter().map(|s| route(sink, s)).collect();
        root.finish(sink);
        raw
    }
}

/// The elements of an optional list.
fn items<T>(list: Option<Listed<T>>) -> Vec<At<T>> {
    list.map(|list| list.items).unwrap_or_default()
}

/// Refuses a key whose feature does not exist yet: accepting and ignoring it would mislead.
fn not_built<T>(sink: &mut Sink<'_>, found: Option<At<T>>, feature: &str) {
    if let Some(found) = found {
        sink.error(
            &found.place,
            format!("{feature} is not built yet; remove this key"),
        );
    }
}

fn edge(sink: &mut Sink<'_>, mut section: Section<'_>) -> RawEdge {
    let raw = RawEdge {
        cores: section.word_or_integers(sink, "cores", ("auto", ()), 0..=1023),
        domains: items(section.list(sink, "domains", scalar::host)),
        drain_timeout_s: section.integer(sink, "drain_timeout_s", 0..=MAX_SECONDS),
    };
    section.finish(sink);
    raw
}

fn sip(sink: &mut Sink<'_>, mut section: Section<'_>) -> RawSip {
    let raw = RawSip {
        t1_ms: section.integer(sink, "t1_ms", 1..=MAX_TIMER_MS),
        t2_ms: section.integer(sink, "t2_ms", 1..=MAX_TIMER_MS),
        t4_ms: section.integer(sink, "t4_ms", 1..=MAX_TIMER_MS),
        batch_us: section.integer(sink, "batch_us", 0..=MAX_SIP_BATCH_US),
        overload_ms: section.integer(sink, "overload_ms", 0..=MAX_OVERLOAD_MS),
    };
    section.finish(sink);
    raw
}

fn listen(sink: &mut Sink<'_>, mut section: Section<'_>) -> RawListen {
    let transports = [
        ("tcp", Transport::Tcp),
        ("tls", Transport::Tls),
        ("udp", Transport::Udp),
    ];
    let transport = section.choice(sink, "transport", &transports);
    let transport = section.require(sink, "transport", "\"tcp\" or \"tls\"", transport);
    let address = section.parsed(sink, "address", scalar::socket_address);
    let expected = "an IP address and a port such as \"192.0.2.1:5060\"";
    let raw = RawListen {
        place: section.place.clone(),
        name: section.parsed(sink, "name", scalar::name),
        transport,
        address: section.require(sink, "address", expected, address),
        advertise: section.parsed(sink, "advertise", scalar::advertise),
        certificate: section.parsed(sink, "certificate", scalar::plain_text),
        private_key: section.parsed(sink, "private_key", scalar::plain_text),
        client_ca: section.parsed(sink, "client_ca", scalar::plain_text),
    };
    section.finish(sink);
    raw
}

fn media(sink: &mut Sink<'_>, mut section: Section<'_>) -> RawMedia {
    let fast_path = [("auto", FastPath::Auto), ("off", FastPath::Off)];
    let steering = [
        ("auto", MediaSteering::Auto),
        ("receive", MediaSteering::Receive),
        ("off", MediaSteering::Off),
    ];
    let raw = RawMedia {
        place: Some(section.place.clone()),
        addresses: section.list(sink, "addresses", scalar::ip_address),
        advertise: items(section.list(sink, "advertise", scalar::ip_address)),
        ports: section.parsed(sink, "ports", scalar::port_range),
        fast_path: section.choice(sink, "fast_path", &fast_path),
        steering: section.choice(sink, "steering", &steering),
        timeout_s: section.integer(sink, "timeout_s", 0..=MAX_SECONDS),
        batch_us: section.integer(sink, "batch_us", 0..=MAX_BATCH_US),
        busy_poll_us: section.integer(sink, "busy_poll_us", 0..=MAX_BUSY_POLL_US),
    };
    section.finish(sink);
    raw
}

fn access(sink: &mut Sink<'_>, mut section: Section<'_>) -> RawAccess {
    let modes = [
        ("auto", AccessMode::Auto),
        ("native", AccessMode::Native),
        ("generic", AccessMode::Generic),
        ("userspace", AccessMode::Userspace),
    ];
    let raw = RawAccess {
        interfaces: items(section.list(sink, "interfaces", interface)),
        mode: section.choice(sink, "mode", &modes),
    };
    section.finish(sink);
    raw
}

fn interface(text: &str) -> Result<String, String> {
    let valid = |c: char| c.is_ascii_graphic() && c != '/';
    // IFNAMSIZ, less its terminating zero.
    if text.is_empty() || text.len() > 15 || !text.chars().all(valid) {
        return Err(format!(
            "expected the name of a network interface such as \"eth0\", found {text:?}"
        ));
    }
    Ok(text.to_owned())
}

fn admin(sink: &mut Sink<'_>, mut section: Section<'_>) -> RawAdmin {
    let raw = RawAdmin {
        address: section.parsed(sink, "address", scalar::socket_address),
        token_file: section.parsed(sink, "token_file", scalar::plain_text),
    };
    section.finish(sink);
    raw
}

fn hep(sink: &mut Sink<'_>, mut section: Section<'_>) {
    let address = section.parsed(sink, "address", scalar::socket_address);
    not_built(sink, address, "HEP export");
    section.finish(sink);
}

fn route(sink: &mut Sink<'_>, mut section: Section<'_>) -> RawRoute {
    let from = section.string(sink, "from");
    let number = section.parsed(sink, "number", scalar::plain_text);
    let to = section.one_or_many(sink, "to", |text| Ok(text.to_owned()));
    let rewrite = section.section(sink, "rewrite").map(|mut rewrite| {
        let raw = RawRewrite {
            strip: rewrite.parsed(sink, "strip", scalar::user_text),
            prepend: rewrite.parsed(sink, "prepend", scalar::user_text),
        };
        rewrite.finish(sink);
        raw
    });
    let raw = RawRoute {
        place: section.place.clone(),
        from: section.require(sink, "from", "the name of a trunk", from),
        number: section.require(sink, "number", "a called number such as \"+1999*\"", number),
        to: section.require(sink, "to", "the name of a trunk, or a list of names", to),
        rewrite,
    };
    section.finish(sink);
    raw
}
