//! `[media]`.

use super::listen::{Listeners, is_usable};
use super::value_or;
use crate::config::diagnostic::{At, Listed, Place, Sink};
use crate::config::environment::Environment;
use crate::config::raw::RawMedia;
use crate::config::{Cores, MediaSettings, MediaSteering};
use edge_proto::config::{Config, MediaAddress, MediaConfig};
use edge_proto::time::Duration;
use std::net::IpAddr;
use std::ops::RangeInclusive;

const DEFAULT_PORTS: RangeInclusive<u16> = 10_000..=60_000;
const DEFAULT_TIMEOUT_S: u64 = 60;
/// Beyond it little more is saved, and it is nothing beside the 20 ms between packets of a stream.
const DEFAULT_BATCH_US: u64 = 400;
/// A transferred call holds three legs for a while, each with a port for RTP and one for RTCP.
const PORTS_PER_CALL: usize = 6;
/// RTP and RTCP.
const PORTS_PER_LEG: u64 = 2;
/// Connections, listeners, rings and files that no leg's media uses.
const OTHER_FILES: u64 = 1024;
/// Sockets that the flows of a core share at an address, and where their ports are looked for.
const SHARED_PER_CORE: usize = 4;
const FIRST_UNPRIVILEGED: u16 = 1024;
/// Fewer calls than this are a mistake rather than a wish.
const FEW_CALLS: usize = 50;

pub(super) fn media(
    sink: &mut Sink<'_>,
    raw: &RawMedia,
    listen: &Listeners,
    environment: &Environment,
) -> Option<MediaConfig> {
    let mut found: [Option<MediaAddress>; 2] = match &raw.addresses {
        Some(listed) => bound(sink, listed),
        None => of_listeners(sink, raw, listen),
    };
    for advertised in &raw.advertise {
        advertise(sink, &mut found, advertised);
    }
    let [ipv4, ipv6] = found;
    for address in [ipv4, ipv6].into_iter().flatten() {
        if !is_usable(address.advertised) {
            let place = raw.addresses.as_ref().map(|listed| &listed.place);
            let place = place
                .or(raw.place.as_ref())
                .cloned()
                .unwrap_or_else(Place::file);
            sink.error(
                &place,
                format!(
                    "peers cannot be told {}; expected advertise with an address of that family",
                    address.advertised
                ),
            );
        }
    }
    let ports = raw
        .ports
        .as_ref()
        .map_or(DEFAULT_PORTS, |ports| ports.value.clone());
    check_ports(sink, raw, &ports, environment);
    Some(MediaConfig {
        ipv4,
        ipv6,
        ports,
        timeout: Duration::from_secs(value_or(&raw.timeout_s, DEFAULT_TIMEOUT_S)),
    })
}

/// How the media threads run.
pub(super) fn settings(raw: &RawMedia) -> MediaSettings {
    MediaSettings {
        steering: raw
            .steering
            .as_ref()
            .map_or_else(Default::default, |at| at.value),
        batch: Duration::from_micros(value_or(&raw.batch_us, DEFAULT_BATCH_US)),
        busy_poll: Duration::from_micros(value_or(&raw.busy_poll_us, 0)),
    }
}

const fn family(address: IpAddr) -> usize {
    if address.is_ipv4() { 0 } else { 1 }
}

fn family_name(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn bound(sink: &mut Sink<'_>, listed: &Listed<IpAddr>) -> [Option<MediaAddress>; 2] {
    let mut found = [None, None];
    for At { value: bind, place } in &listed.items {
        let Some(slot) = found.get_mut(family(*bind)) else {
            continue;
        };
        if bind.is_multicast() {
            sink.error(
                place,
                "expected an address of this machine, found a multicast address",
            );
        } else if bind.to_canonical() != *bind {
            sink.error(
                place,
                format!("{bind} is an IPv4 address; write {}", bind.to_canonical()),
            );
        } else if slot.is_some() {
            sink.error(
                place,
                format!(
                    "a second {} address; expected at most one of each family",
                    family_name(*bind)
                ),
            );
        } else {
            *slot = Some(MediaAddress {
                bind: *bind,
                advertised: *bind,
            });
        }
    }
    if listed.written == 0 {
        sink.error(&listed.place, "expected at least one address");
    }
    found
}

/// Without `addresses`: those of the first listener of each family.
fn of_listeners(
    sink: &mut Sink<'_>,
    raw: &RawMedia,
    listen: &Listeners,
) -> [Option<MediaAddress>; 2] {
    let mut found = [None, None];
    for listener in &listen.list {
        if let Some(slot @ None) = found.get_mut(family(listener.address.ip())) {
            *slot = Some(MediaAddress {
                bind: listener.address.ip(),
                advertised: listener.advertised.ip(),
            });
        }
    }
    if found == [None, None] && listen.complete {
        let place = raw.place.clone().unwrap_or_else(Place::file);
        sink.error(&place, "the key \"addresses\" is missing");
    }
    found
}

fn advertise(sink: &mut Sink<'_>, found: &mut [Option<MediaAddress>; 2], at: &At<IpAddr>) {
    let address = at.value;
    let Some(Some(slot)) = found.get_mut(family(address)) else {
        sink.error(
            &at.place,
            format!(
                "there is no {} address in addresses that it could stand for",
                family_name(address)
            ),
        );
        return;
    };
    if !is_usable(address) {
        sink.error(
            &at.place,
            format!("expected an address that peers can reach, found {address}"),
        );
    } else if slot.advertised != slot.bind && slot.advertised != address {
        sink.error(
            &at.place,
            format!(
                "a second {} address; expected at most one of each family",
                family_name(address)
            ),
        );
    } else {
        slot.advertised = address;
    }
}

/// Where findings about the ports belong.
fn ports_place(raw: &RawMedia) -> Place {
    let place = raw.ports.as_ref().map(|ports| &ports.place);
    place
        .or(raw.place.as_ref())
        .cloned()
        .unwrap_or_else(Place::file)
}

fn check_ports(
    sink: &mut Sink<'_>,
    raw: &RawMedia,
    ports: &RangeInclusive<u16>,
    environment: &Environment,
) {
    let place = ports_place(raw);
    let calls = ports.len() / PORTS_PER_CALL;
    if calls == 0 {
        sink.error(
            &place,
            format!(
                "{} ports are too few: a call with a transfer needs {PORTS_PER_CALL}",
                ports.len()
            ),
        );
    } else if calls < FEW_CALLS {
        sink.warning(
            &place,
            format!(
                "{} ports carry {calls} calls with transfers at a time",
                ports.len()
            ),
        );
    }
    if let Some(port) = environment.contested_port(ports) {
        sink.warning(
            &place,
            format!(
                "the kernel may give port {port} and others of the range to outgoing sockets (net.ipv4.ip_local_port_range); \
                 reserve {}-{} in net.ipv4.ip_local_reserved_ports",
                ports.start(),
                ports.end()
            ),
        );
    }
}

/// Whether flows may come to share sockets, whose ports are none of theirs.
pub(super) fn check_steering(sink: &mut Sink<'_>, raw: &RawMedia, config: &Config, cores: &Cores) {
    if settings(raw).steering == MediaSteering::Off {
        return;
    }
    let ports = &config.media.ports;
    let left = (FIRST_UNPRIVILEGED..=u16::MAX).filter(|port| !ports.contains(port));
    let left = left.count();
    let cores = match cores {
        Cores::List(list) => list.len(),
        Cores::Auto => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let needed = cores * SHARED_PER_CORE;
    if left < needed {
        sink.warning(
            &ports_place(raw),
            format!(
                "{left} ports outside of it are left for the sockets that flows share, and {cores} cores take up to {needed}; \
                 without them flows have sockets of their own (steering)"
            ),
        );
    }
}

/// Compares the calls that the trunks may carry, where they say, with the ports and the open files that these need.
pub(super) fn check_capacity(
    sink: &mut Sink<'_>,
    raw: &RawMedia,
    config: &Config,
    environment: &Environment,
) {
    let legs: u64 = config
        .trunks
        .iter()
        .map(|trunk| u64::from(trunk.max_calls))
        .sum();
    let needed = legs * PORTS_PER_LEG;
    let ports = config.media.ports.len();
    let wanted = format!("the max_calls of all trunks are {legs} legs, whose media needs {needed}");
    if needed > ports as u64 {
        sink.warning(
            &ports_place(raw),
            format!("{wanted} ports; these are {ports}"),
        );
    }
    let files = environment.open_files.unwrap_or(u64::MAX);
    if needed.saturating_add(OTHER_FILES) > files {
        sink.warning(
            &Place::file(),
            format!("{wanted} sockets where ports need their own (media.steering); the limit of open files is {files} (RLIMIT_NOFILE, LimitNOFILE of the unit)"),
        );
    }
}
