//! `[[trunk]]`, `[trunk.present]` and `[trunk.transfer]` as they are written.

use super::{MAX_SECONDS, items, not_built};
use crate::config::diagnostic::{At, Listed, Place, Sink};
use crate::config::reader::Section;
use crate::config::scalar;
use edge_proto::config::{
    DigestAlgorithm, InboundAuth, LatchMode, MediaEncryption, Network, OnFailure, PresentAs,
    ReferAuth, Secret, TrunkUri,
};
use ipnet::IpNet;

/// `[[trunk]]`.
#[derive(Debug)]
pub(in crate::config) struct RawTrunk {
    pub place: Place,
    pub name: Option<At<String>>,
    /// Host bits kept.
    pub allow: Option<Listed<IpNet>>,
    pub listen: Vec<At<String>>,
    pub request_hosts: Vec<At<String>>,
    pub uri: Option<Listed<TrunkUri>>,
    pub network: Option<At<Network>>,
    pub bridge_families: Option<At<bool>>,
    pub auth: Option<At<InboundAuth>>,
    pub digest_algorithms: Option<Listed<DigestAlgorithm>>,
    pub username: Option<At<String>>,
    pub password: RawPassword,
    pub realm: Option<At<String>>,
    pub present: Option<RawPresent>,
    pub present_as: Option<At<PresentAs>>,
    pub latch: Option<At<LatchMode>>,
    pub max_calls_per_s: Option<At<u64>>,
    pub media_encryption: Option<At<MediaEncryption>>,
    pub codecs: Option<Listed<String>>,
    pub max_calls: Option<At<u64>>,
    pub headers: Vec<(At<String>, At<String>)>,
    pub tls_ca: Option<At<String>>,
    pub tls_certificate: Option<At<String>>,
    pub tls_private_key: Option<At<String>>,
    pub tls_wildcards: Option<At<bool>>,
    pub transfer: Option<RawTransfer>,
}

/// `password` or `password_file`.
#[derive(Debug, Default)]
pub(in crate::config) struct RawPassword {
    pub inline: Option<At<Secret>>,
    pub file: Option<At<String>>,
}

impl RawPassword {
    /// The place of whichever is there.
    pub fn place(&self) -> Option<&Place> {
        let inline = self.inline.as_ref().map(|inline| &inline.place);
        inline.or_else(|| self.file.as_ref().map(|file| &file.place))
    }

    fn read(sink: &mut Sink<'_>, section: &mut Section<'_>) -> RawPassword {
        RawPassword {
            inline: section.parsed(sink, "password", |text| Ok(Secret::new(text))),
            file: section.parsed(sink, "password_file", scalar::plain_text),
        }
    }
}

/// `[trunk.present]`.
#[derive(Debug)]
pub(in crate::config) struct RawPresent {
    pub place: Place,
    pub username: Option<At<String>>,
    pub password: RawPassword,
    pub realm: Option<At<String>>,
}

/// `[trunk.transfer]`.
#[derive(Debug)]
pub(in crate::config) struct RawTransfer {
    pub place: Place,
    pub max_transfers: Option<At<u64>>,
    pub auth: Option<At<ReferAuth>>,
    pub via: Option<At<String>>,
    pub targets: Vec<At<String>>,
    pub pass_headers: Option<Listed<String>>,
    pub drop_headers: Option<Listed<String>>,
    pub fallback: Vec<At<String>>,
    pub ring_timeout_s: Option<At<u64>>,
    pub auth_timeout_s: Option<At<u64>>,
    pub on_failure: Option<At<OnFailure>>,
}

const NETWORKS: [(&str, Network); 3] = [
    ("ipv4", Network::Ipv4),
    ("ipv6", Network::Ipv6),
    ("dual", Network::Dual),
];

const AUTHS: [(&str, InboundAuth); 3] = [
    ("ip", InboundAuth::Ip),
    ("digest", InboundAuth::Digest),
    ("digest+ip", InboundAuth::DigestAndIp),
];

const ALGORITHMS: [(&str, DigestAlgorithm); 6] = [
    ("MD5", DigestAlgorithm::Md5),
    ("MD5-sess", DigestAlgorithm::Md5Sess),
    ("SHA-256", DigestAlgorithm::Sha256),
    ("SHA-256-sess", DigestAlgorithm::Sha256Sess),
    ("SHA-512-256", DigestAlgorithm::Sha512_256),
    ("SHA-512-256-sess", DigestAlgorithm::Sha512_256Sess),
];

const LATCHES: [(&str, LatchMode); 3] = [
    ("signalling", LatchMode::Signalling),
    ("any", LatchMode::Any),
    ("off", LatchMode::Off),
];

const ENCRYPTIONS: [(&str, MediaEncryption); 3] = [
    ("disabled", MediaEncryption::Disabled),
    ("allowed", MediaEncryption::Allowed),
    ("required", MediaEncryption::Required),
];

impl RawTrunk {
    pub fn read(sink: &mut Sink<'_>, mut section: Section<'_>) -> RawTrunk {
        let name = section.parsed(sink, "name", scalar::name);
        let algorithm = |text: &str| crate::config::reader::one_of(text, &ALGORITHMS);
        let raw = RawTrunk {
            place: section.place.clone(),
            name: section.require(sink, "name", "a name that no other trunk has", name),
            allow: section.list(sink, "allow", scalar::prefix),
            listen: items(section.list(sink, "listen", |text| Ok(text.to_owned()))),
            request_hosts: items(section.list(sink, "request_hosts", scalar::host)),
            uri: section.one_or_many(sink, "uri", scalar::trunk_uri),
            network: section.choice(sink, "network", &NETWORKS),
            bridge_families: section.boolean(sink, "bridge_families"),
            auth: section.choice(sink, "auth", &AUTHS),
            digest_algorithms: section.list(sink, "digest_algorithms", algorithm),
            username: section.parsed(sink, "username", credential_text),
            password: RawPassword::read(sink, &mut section),
            realm: section.parsed(sink, "realm", credential_text),
            present: section.section(sink, "present").map(|s| present(sink, s)),
            present_as: section.parsed(sink, "present_as", present_as),
            latch: section.choice(sink, "latch", &LATCHES),
            max_calls_per_s: section.integer(sink, "max_calls_per_s", 0..=u64::from(u32::MAX)),
            media_encryption: section.choice(sink, "media_encryption", &ENCRYPTIONS),
            codecs: section.list(sink, "codecs", super::super::codec::parse),
            max_calls: section.integer(sink, "max_calls", 0..=u64::from(u32::MAX)),
            headers: section.string_map(sink, "headers"),
            tls_ca: section.parsed(sink, "tls_ca", scalar::plain_text),
            tls_certificate: section.parsed(sink, "tls_certificate", scalar::plain_text),
            tls_private_key: section.parsed(sink, "tls_private_key", scalar::plain_text),
            tls_wildcards: section.boolean(sink, "tls_wildcards"),
            transfer: section.section(sink, "transfer").map(|s| transfer(sink, s)),
        };
        section.finish(sink);
        raw
    }
}

fn present(sink: &mut Sink<'_>, mut section: Section<'_>) -> RawPresent {
    let username = section.parsed(sink, "username", credential_text);
    let raw = RawPresent {
        place: section.place.clone(),
        username: section.require(sink, "username", "the user name to show", username),
        password: RawPassword::read(sink, &mut section),
        realm: section.parsed(sink, "realm", credential_text),
    };
    section.finish(sink);
    raw
}

fn transfer(sink: &mut Sink<'_>, mut section: Section<'_>) -> RawTransfer {
    let any = |text: &str| Ok(text.to_owned());
    let auths = [("digest", ReferAuth::Digest), ("dialog", ReferAuth::Dialog)];
    let failures = [("return", OnFailure::Return), ("hangup", OnFailure::Hangup)];
    let raw = RawTransfer {
        place: section.place.clone(),
        max_transfers: section.integer(sink, "max_transfers", 0..=100),
        auth: section.choice(sink, "auth", &auths),
        via: section.string(sink, "via"),
        targets: items(section.list(sink, "targets", any)),
        pass_headers: section.list(sink, "pass_headers", any),
        drop_headers: section.list(sink, "drop_headers", any),
        fallback: items(section.list(sink, "fallback", any)),
        ring_timeout_s: section.integer(sink, "ring_timeout_s", 1..=MAX_SECONDS),
        auth_timeout_s: section.integer(sink, "auth_timeout_s", 1..=MAX_SECONDS),
        on_failure: section.choice(sink, "on_failure", &failures),
    };
    let hold_music = section.string(sink, "hold_music");
    not_built(sink, hold_music, "hold music");
    section.finish(sink);
    raw
}

/// A user name or realm: it will stand between quotes in a header.
fn credential_text(text: &str) -> Result<String, String> {
    scalar::plain_text(text)
}

fn present_as(text: &str) -> Result<PresentAs, String> {
    if text == "caller" {
        return Ok(PresentAs::Caller);
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "+-._*#".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
        return Err(format!(
            "expected \"caller\" or a number such as \"+1234567890\", found {text:?}"
        ));
    }
    Ok(PresentAs::Fixed(text.to_owned()))
}
