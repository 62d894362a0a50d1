//! From what is written to what is meant: names resolved, defaults filled in, contradictions refused.
//!
//! First every section by itself; then, when nothing is wrong so far, what several of them mean together ([`overlap`],
//! [`transfer::cross_check`]), which could only guess where one is broken.

mod listen;
mod media;
mod overlap;
mod route;
mod transfer;
mod trunk;

use super::credential::Files;
use super::diagnostic::{At, Place, Sink};
use super::raw::{RawAccess, RawConfig, RawEdge, RawSip};
use super::{AccessMode, AccessSettings, AdminSettings, Context, Cores, Settings};
use crate::control::tls::TlsSettings;
use edge_proto::config::{Config, Listener, SipConfig};
use edge_proto::id::CoreId;
use edge_proto::time::Duration;
use edge_proto::trunk::{AllowTable, canonical_host};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Judges the whole file. `None` when something is so wrong that there is nothing to build; other errors are in `sink`.
pub(super) fn settings(
    sink: &mut Sink<'_>,
    raw: &RawConfig,
    file: &Path,
    context: &Context<'_>,
) -> Option<Settings> {
    let base = file.parent().unwrap_or(Path::new("."));
    let files = Files {
        base,
        credentials: context.environment.credentials.as_deref(),
    };
    let cores = cores(sink, &raw.edge);
    let sip = sip(sink, &raw.sip);
    let listen = listen::listeners(sink, &raw.listen, files, context.previous);
    let domains = domains(&raw.edge, &listen.list);
    let media = media::media(sink, &raw.media, &listen, context.environment);
    let names = trunk::Names::of(sink, &raw.trunks);
    let scope = trunk::Scope {
        files,
        listen: &listen,
        domains: &domains,
        names: &names,
        previous: context.previous,
    };
    let trunks = trunk::trunks(sink, &raw.trunks, &scope);
    let routes = route::routes(sink, &raw.routes, &names);
    let access = access(sink, &raw.access, context);
    if sink.has_errors() {
        return None;
    }
    let tls = TlsSettings {
        servers: listen.tls,
        clients: trunk::tls_clients(sink, &raw.trunks, &trunks, files),
    };
    let protocol = Config {
        domains,
        sip,
        allow: AllowTable::build(&listen.list, &trunks),
        listeners: listen.list,
        media: media?,
        trunks,
        routes,
    };
    overlap::check(sink, &protocol, &raw.trunks);
    transfer::cross_check(sink, &protocol, &raw.trunks);
    media::check_capacity(sink, &raw.media, &protocol, context.environment);
    media::check_steering(sink, &raw.media, &protocol, &cores);
    let cdr_path = path_or(base, &raw.cdr_path, "cdr.jsonl");
    Some(Settings {
        file: file.to_owned(),
        protocol: Arc::new(protocol),
        cores,
        sip_batch: Duration::from_micros(value_or(&raw.sip.batch_us, DEFAULT_SIP_BATCH_US)),
        sip_overload: Duration::from_millis(value_or(
            &raw.sip.overload_ms,
            DEFAULT_SIP_OVERLOAD_MS,
        )),
        drain_timeout: match value_or(&raw.edge.drain_timeout_s, DEFAULT_DRAIN_S) {
            0 => None,
            seconds => Some(std::time::Duration::from_secs(seconds)),
        },
        tls: Arc::new(tls),
        fast_path: raw
            .media
            .fast_path
            .as_ref()
            .map(|f| f.value)
            .unwrap_or_default(),
        media: media::settings(&raw.media),
        access,
        admin: AdminSettings {
            address: value_or(&raw.admin.address, DEFAULT_ADMIN),
            // Beside the CDR file: a directory that the service may write and that outlives it.
            token_file: raw.admin.token_file.as_ref().map_or_else(
                || cdr_path.with_file_name("admin.token"),
                |found| base.join(&found.value),
            ),
        },
        cdr_path,
        dns_servers: raw.dns_servers.iter().map(|server| server.value).collect(),
        warnings: Vec::new(),
    })
}

const DEFAULT_DRAIN_S: u64 = 300;
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// The value of a key, or its default.
fn value_or<T: Copy>(found: &Option<At<T>>, default: T) -> T {
    found.as_ref().map_or(default, |found| found.value)
}

/// A path of the file, from the file's directory.
fn path_or(base: &Path, found: &Option<At<String>>, default: &str) -> PathBuf {
    base.join(found.as_ref().map_or(default, |found| &found.value))
}

fn cores(sink: &mut Sink<'_>, raw: &RawEdge) -> Cores {
    let Some(At {
        value: Err(listed),
        place,
    }) = &raw.cores
    else {
        return Cores::Auto;
    };
    let mut list: Vec<usize> = Vec::new();
    for core in listed {
        let number = usize::try_from(core.value).unwrap_or(usize::MAX);
        if list.contains(&number) {
            sink.error(&core.place, format!("core {number} is listed twice"));
        }
        list.push(number);
    }
    if list.is_empty() {
        sink.error(place, "expected \"auto\" or at least one core");
    }
    if list.len() > usize::from(CoreId::MAX_CORES) {
        sink.error(
            place,
            format!("expected at most {} cores", CoreId::MAX_CORES),
        );
    }
    Cores::List(list)
}

/// Too short to be noticed in a call's setup, long enough for a busy core to find several messages at a time.
const DEFAULT_SIP_BATCH_US: u64 = 2_000;
/// Half of T1, after which a peer sends again over UDP, to a core that has too much to do already.
const DEFAULT_SIP_OVERLOAD_MS: u64 = 250;

fn sip(sink: &mut Sink<'_>, raw: &RawSip) -> SipConfig {
    let default = SipConfig::default();
    let millis = |key: &Option<At<u64>>, default: Duration| {
        key.as_ref()
            .map_or(default, |ms| Duration::from_millis(ms.value))
    };
    let sip = SipConfig {
        t1: millis(&raw.t1_ms, default.t1),
        t2: millis(&raw.t2_ms, default.t2),
        t4: millis(&raw.t4_ms, default.t4),
        ..default
    };
    if sip.t2 < sip.t1 {
        let culprit = raw.t2_ms.as_ref().or(raw.t1_ms.as_ref());
        let place = culprit.map_or_else(Place::file, |t| t.place.clone());
        sink.error(
            &place,
            format!(
                "T2 ({} ms) is shorter than T1 ({} ms), so retransmissions could not slow down (RFC 3261 §17.1.2.1)",
                sip.t2.as_millis(),
                sip.t1.as_millis()
            ),
        );
    }
    sip
}

/// Hosts that mean this edge: `edge.domains`, and the addresses of the listeners.
fn domains(raw: &RawEdge, listeners: &[Listener]) -> Vec<String> {
    let mut domains: Vec<String> = raw.domains.iter().map(|d| d.value.clone()).collect();
    let addresses = listeners
        .iter()
        .flat_map(|l| [l.address.ip(), l.advertised.ip()]);
    let known = addresses.filter(|address| !address.is_unspecified());
    domains.extend(known.map(|address| canonical_host(&address.to_string())));
    let mut seen = std::collections::BTreeSet::new();
    domains.retain(|domain| seen.insert(domain.clone()));
    domains
}

fn access(sink: &mut Sink<'_>, raw: &RawAccess, context: &Context<'_>) -> AccessSettings {
    let mut interfaces: Vec<String> = Vec::new();
    for interface in &raw.interfaces {
        let name = &interface.value;
        if interfaces.contains(name) {
            sink.error(&interface.place, format!("\"{name}\" is listed twice"));
        }
        let known = context.environment.interfaces.as_ref();
        if known.is_some_and(|known| !known.contains(name)) {
            sink.warning(
                &interface.place,
                format!("this machine has no interface \"{name}\" now"),
            );
        }
        interfaces.push(name.clone());
    }
    let mode = value_or(&raw.mode, AccessMode::Auto);
    if let Some(found) = &raw.mode
        && interfaces.is_empty()
        && matches!(mode, AccessMode::Native | AccessMode::Generic)
    {
        sink.warning(&found.place, "without interfaces XDP attaches nowhere");
    }
    AccessSettings { interfaces, mode }
}
