//! `[[trunk]]`.

mod credentials;
mod tls;
mod uri;

pub(super) use tls::clients as tls_clients;

use super::listen::Listeners;
use super::{transfer, value_or};
use crate::config::codec;
use crate::config::credential::Files;
use crate::config::diagnostic::{At, Listed, Place, Sink};
use crate::config::raw::RawTrunk;
use edge_proto::call::policy::{HeaderPattern, is_sips_own};
use edge_proto::config::{
    Config, InboundAuth, LatchMode, MediaEncryption, Network, PresentAs, ReferAuth, Trunk,
};
use edge_proto::id::{ListenerId, TrunkId};
use edge_proto::trunk::{TrunkSet, canonical_net};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;

const MAX_HEADERS: usize = 32;

/// What a trunk is judged by, besides itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    /// The directory of the file.
    pub files: Files<'a>,
    pub listen: &'a Listeners,
    pub domains: &'a [String],
    pub names: &'a Names,
    pub previous: Option<&'a Config>,
}

/// The names of all trunks, also of those that are refused, and whether each has a `uri`.
#[derive(Debug)]
pub(super) struct Names(BTreeMap<String, bool>);

impl Names {
    pub fn of(sink: &mut Sink<'_>, raw: &[RawTrunk]) -> Names {
        let mut names = BTreeMap::new();
        for trunk in raw {
            let Some(name) = &trunk.name else {
                continue;
            };
            let callable = trunk.uri.is_some();
            if names.insert(name.value.clone(), callable).is_some() {
                let message = format!("another trunk is already named \"{}\"", name.value);
                sink.error(&name.place, message);
            }
        }
        Names(names)
    }

    /// Reports a name that no trunk has.
    pub fn expect_trunk(&self, sink: &mut Sink<'_>, name: &At<String>) -> bool {
        let known = self.0.contains_key(&name.value);
        if !known {
            let all: Vec<_> = self.0.keys().take(20).map(String::as_str).collect();
            let all = if all.is_empty() {
                vec!["those that have a name"]
            } else {
                all
            };
            let message = format!(
                "there is no trunk {:?}; expected one of {}",
                name.value,
                all.join(", ")
            );
            sink.error(&name.place, message);
        }
        known
    }

    /// Reports a name that no trunk has, or whose trunk has no `uri` to send calls to.
    pub fn expect_callable(&self, sink: &mut Sink<'_>, name: &At<String>) {
        if self.expect_trunk(sink, name) && self.0.get(&name.value) == Some(&false) {
            let message = format!(
                "trunk \"{}\" has no uri, so nothing can be sent to it",
                name.value
            );
            sink.error(&name.place, message);
        }
    }
}

pub(super) fn trunks(sink: &mut Sink<'_>, raw: &[RawTrunk], scope: &Scope<'_>) -> Vec<Arc<Trunk>> {
    if raw.is_empty() {
        sink.error(
            &Place::file(),
            "there is no [[trunk]]; expected at least one",
        );
    }
    if let Some(extra) = raw.get(TrunkSet::CAPACITY) {
        sink.error(
            &extra.place,
            format!("expected at most {} trunks", TrunkSet::CAPACITY),
        );
    }
    let ids = (0..=u16::MAX).map(TrunkId);
    let build = |(raw, id): (&RawTrunk, TrunkId)| Arc::new(trunk(sink, raw, id, scope));
    raw.iter().zip(ids).map(build).collect()
}

fn trunk(sink: &mut Sink<'_>, raw: &RawTrunk, id: TrunkId, scope: &Scope<'_>) -> Trunk {
    let name = raw
        .name
        .as_ref()
        .map_or_else(String::new, |name| name.value.clone());
    let listen = listen(sink, raw, scope);
    let mut trunk = Trunk::new(id, name, listen);
    trunk.network = value_or(&raw.network, Network::Dual);
    trunk.bridge_families = value_or(&raw.bridge_families, false);
    trunk.auth = value_or(&raw.auth, InboundAuth::Ip);
    trunk.latch = value_or(&raw.latch, LatchMode::Signalling);
    trunk.max_calls = narrow(&raw.max_calls);
    trunk.max_calls_per_s = narrow(&raw.max_calls_per_s);
    trunk.request_hosts = raw.request_hosts.iter().map(|h| h.value.clone()).collect();
    trunk.present_as = raw
        .present_as
        .as_ref()
        .map_or(PresentAs::Caller, |p| p.value.clone());
    trunk.media_encryption = media_encryption(sink, raw);
    credentials::apply(sink, raw, scope.files, &mut trunk);
    trunk.allow = allow(sink, raw, trunk.network, trunk.auth);
    trunk.uris = uri::uris(sink, raw, &trunk, scope);
    codecs(sink, raw, &mut trunk);
    headers(sink, raw, &mut trunk);
    trunk.transfer = raw
        .transfer
        .as_ref()
        .map(|transfer| transfer::policy(sink, transfer, &trunk, scope.names));
    let previous = scope
        .previous
        .and_then(|config| config.trunk_named(&trunk.name));
    if let Some(previous) = previous {
        trunk.load = Arc::clone(&previous.load);
    }
    trunk
}

fn narrow(found: &Option<At<u64>>) -> u32 {
    u32::try_from(value_or(found, 0)).unwrap_or(u32::MAX)
}

fn listen(sink: &mut Sink<'_>, raw: &RawTrunk, scope: &Scope<'_>) -> Vec<ListenerId> {
    let known = &scope.listen.list;
    if raw.listen.is_empty() {
        return known.iter().map(|listener| listener.id).collect();
    }
    let mut listen = Vec::new();
    for name in &raw.listen {
        if !scope.listen.names.contains(&name.value) {
            let all = scope.listen.names.join(", ");
            let message = format!(
                "there is no listener {:?}; expected one of {all}",
                name.value
            );
            sink.error(&name.place, message);
        }
        let found = known.iter().find(|listener| listener.name == name.value);
        if let Some(listener) = found
            && !listen.contains(&listener.id)
        {
            listen.push(listener.id);
        }
    }
    listen
}

fn media_encryption(sink: &mut Sink<'_>, raw: &RawTrunk) -> MediaEncryption {
    let found = raw.media_encryption.as_ref();
    if let Some(found) = found
        && found.value != MediaEncryption::Disabled
    {
        sink.error(&found.place, "SRTP is not built yet; expected \"disabled\"");
    }
    found.map_or(MediaEncryption::Disabled, |found| found.value)
}

/// Who may signal as this trunk, canonical.
fn allow(sink: &mut Sink<'_>, raw: &RawTrunk, network: Network, auth: InboundAuth) -> Vec<IpNet> {
    let Some(listed) = &raw.allow else {
        return default_allow(sink, raw, network, auth);
    };
    let mut allow = Vec::with_capacity(listed.written);
    for At { value: net, place } in &listed.items {
        let canonical = canonical_net(*net);
        if net.addr() != net.network() {
            sink.warning(
                place,
                format!("{net} has bits behind its prefix length; taken as {canonical}"),
            );
        }
        if !network.permits(canonical.addr()) {
            let family = if canonical.addr().is_ipv4() {
                "IPv4"
            } else {
                "IPv6"
            };
            sink.error(
                place,
                format!("{net} is {family}, which the network of this trunk excludes"),
            );
        }
        allow.push(canonical);
    }
    check_open(sink, raw, listed, &allow, auth);
    allow
}

fn default_allow(
    sink: &mut Sink<'_>,
    raw: &RawTrunk,
    network: Network,
    auth: InboundAuth,
) -> Vec<IpNet> {
    let place = raw.auth.as_ref().map_or(&raw.place, |auth| &auth.place);
    match auth {
        InboundAuth::Ip => Vec::new(),
        InboundAuth::DigestAndIp => {
            sink.error(place, "auth = \"digest+ip\" needs the key \"allow\"");
            Vec::new()
        }
        InboundAuth::Digest => {
            sink.warning(
                place,
                "without allow everyone may try credentials here (0.0.0.0/0 and ::/0)",
            );
            let transfer = raw.transfer.as_ref().and_then(|t| t.auth.as_ref());
            if let Some(refer) = transfer.filter(|auth| auth.value == ReferAuth::Dialog) {
                open_dialog(sink, &refer.place, "without allow everyone is listed");
            }
            let anyone = [IpNet::V4(Default::default()), IpNet::V6(Default::default())];
            let permitted = |net: &IpNet| network.permits(net.addr());
            anyone.into_iter().filter(permitted).collect()
        }
    }
}

/// Judges an `allow` that lists everyone, in one prefix or put together from several.
fn check_open(
    sink: &mut Sink<'_>,
    raw: &RawTrunk,
    listed: &Listed<IpNet>,
    allow: &[IpNet],
    auth: InboundAuth,
) {
    let together = IpNet::aggregate(&allow.to_vec());
    let Some(everyone) = together.into_iter().find(|net| net.prefix_len() == 0) else {
        return;
    };
    let culprit = listed.items.iter().find(|net| net.value.prefix_len() == 0);
    let place = culprit.map_or(&listed.place, |net| &net.place);
    if auth == InboundAuth::Ip {
        sink.error(
            place,
            format!("{everyone} lists everyone, and with auth = \"ip\" nobody proves anything; expected auth = \"digest\", or addresses"),
        );
    } else {
        sink.warning(
            place,
            format!("{everyone} lists everyone: credentials alone protect this trunk"),
        );
    }
    let transfer = raw.transfer.as_ref().and_then(|t| t.auth.as_ref());
    if let Some(refer) = transfer.filter(|auth| auth.value == ReferAuth::Dialog) {
        open_dialog(
            sink,
            &refer.place,
            &format!("allow lists everyone ({everyone})"),
        );
    }
}

fn open_dialog(sink: &mut Sink<'_>, place: &Place, why: &str) {
    sink.error(
        place,
        format!("\"dialog\" trusts a REFER because its source is listed, and {why}; expected \"digest\", or addresses in allow"),
    );
}

fn codecs(sink: &mut Sink<'_>, raw: &RawTrunk, trunk: &mut Trunk) {
    let Some(listed) = &raw.codecs else {
        return;
    };
    let mut codecs: Vec<String> = Vec::new();
    for codec in &listed.items {
        if codecs.contains(&codec.value) {
            sink.error(&codec.place, format!("\"{}\" is listed twice", codec.value));
        }
        codecs.push(codec.value.clone());
    }
    if listed.items.len() == listed.written && !codec::speaks(&codecs) {
        sink.error(&listed.place, "expected at least one codec for speech");
    }
    trunk.codecs = codecs;
}

fn headers(sink: &mut Sink<'_>, raw: &RawTrunk, trunk: &mut Trunk) {
    for (name, value) in &raw.headers {
        let text = name.value.as_str();
        if text.ends_with('*') || HeaderPattern::parse(text).is_none() {
            sink.error(&name.place, format!("{text:?} is not a header name"));
        } else if is_sips_own(text) {
            sink.error(
                &name.place,
                format!("{text} is a header that SIP itself uses; it cannot be set"),
            );
        }
        if value.value.chars().any(|c| c.is_control() && c != '\t') {
            sink.error(
                &value.place,
                "expected a header value without control characters",
            );
        }
        if value.value.len() > 1024 {
            sink.error(&value.place, "expected at most 1024 bytes");
        }
        let same = |(other, _): &(String, String)| other.eq_ignore_ascii_case(text);
        if trunk.headers.iter().any(same) {
            sink.error(
                &name.place,
                format!("{text} is there twice; the case of a name does not matter"),
            );
        }
        trunk
            .headers
            .push((name.value.clone(), value.value.trim().to_owned()));
    }
    if let Some((extra, _)) = raw.headers.get(MAX_HEADERS) {
        sink.error(
            &extra.place,
            format!("expected at most {MAX_HEADERS} headers"),
        );
    }
}
