//! The validated configuration, as far as decisions depend on it. `edge` builds it from TOML; nothing here parses a file.

use crate::id::{ListenerId, TrunkId};
use crate::time::{Duration, Instant};
use crate::trunk::AllowTable;
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A transport for SIP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
}

impl Transport {
    /// Whether the transport retransmits by itself (RFC 3261 §17: no timers A, E, G; D, I, J, K are zero).
    pub const fn is_reliable(self) -> bool {
        !matches!(self, Transport::Udp)
    }

    /// The name in a Via header (RFC 3261 §20.42).
    pub const fn via_name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        }
    }

    /// The `transport` URI parameter and the configuration's name.
    pub const fn uri_name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
        }
    }

    /// 5060, or 5061 for TLS.
    pub const fn default_port(self) -> u16 {
        match self {
            Transport::Tls => 5061,
            Transport::Udp | Transport::Tcp => 5060,
        }
    }
}

/// A string that never prints: passwords and keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(value: impl Into<Box<str>>) -> Self {
        Secret(value.into())
    }

    /// The value itself; for hashing only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Everything the protocol layers need to know. Shared, immutable; a reload makes a new one.
#[derive(Debug)]
pub struct Config {
    /// Hosts that mean this edge, lower case, without brackets: `edge.domains`, listen and advertised addresses.
    pub domains: Vec<String>,
    pub sip: SipConfig,
    /// In the order of the file.
    pub listeners: Vec<Listener>,
    pub media: MediaConfig,
    /// In the order of the file; a [`TrunkId`] is an index. Calls keep their trunk's `Arc` across reloads.
    pub trunks: Vec<Arc<Trunk>>,
    pub routes: Vec<Route>,
    /// Source address -> trunks, per listener.
    pub allow: AllowTable,
}

impl Config {
    pub fn listener(&self, id: ListenerId) -> Option<&Listener> {
        self.listeners.iter().find(|listener| listener.id == id)
    }

    pub fn trunk(&self, id: TrunkId) -> Option<&Arc<Trunk>> {
        self.trunks.get(usize::from(id.0))
    }

    pub fn trunk_named(&self, name: &str) -> Option<&Arc<Trunk>> {
        self.trunks.iter().find(|t| *t.name == *name)
    }
}

/// `[sip]`.
#[derive(Clone, Debug)]
pub struct SipConfig {
    /// RFC 3261 §17.1.1.1; default 500 ms.
    pub t1: Duration,
    /// Default 4 s.
    pub t2: Duration,
    /// Default 5 s.
    pub t4: Duration,
    /// Upper bounds; reaching one refuses new work and touches nothing that exists.
    pub limits: Limits,
}

impl Default for SipConfig {
    fn default() -> Self {
        SipConfig {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
            limits: Limits::default(),
        }
    }
}

/// Per-core limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub calls: usize,
    pub transactions: usize,
    pub connections: usize,
    /// Bytes of one SIP message, headers and body.
    pub message_bytes: usize,
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            calls: 20_000,
            transactions: 100_000,
            connections: 10_000,
            message_bytes: 65_535,
            headers: 256,
        }
    }
}

/// `[[listen]]`. TLS material stays in `edge`.
#[derive(Clone, Debug)]
pub struct Listener {
    pub id: ListenerId,
    pub name: String,
    pub transport: Transport,
    pub address: SocketAddr,
    /// What peers see: `advertise`, else `address`. Never unspecified.
    pub advertised: SocketAddr,
}

/// `[media]`.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    pub ipv4: Option<MediaAddress>,
    pub ipv6: Option<MediaAddress>,
    /// Even ports of this range carry RTP, the next odd one RTCP. Split evenly over the cores.
    pub ports: RangeInclusive<u16>,
    /// A bridged leg that is silent for longer ends its call; zero: never.
    pub timeout: Duration,
}

/// One local media address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MediaAddress {
    /// Where sockets are bound.
    pub bind: IpAddr,
    /// What SDP says.
    pub advertised: IpAddr,
}

/// `[[trunk]]`.
#[derive(Debug)]
pub struct Trunk {
    pub id: TrunkId,
    /// Shared by all that is reported of the trunk.
    pub name: Arc<str>,
    /// Who may signal as this trunk. With digest and no `allow` in the file: 0.0.0.0/0 and ::/0. Empty: nobody (outbound only).
    pub allow: Vec<IpNet>,
    /// Listeners it may use; never empty.
    pub listen: Vec<ListenerId>,
    /// Request-URI hosts (lower case) that select this trunk among several with the same source; empty: no preference.
    pub request_hosts: Vec<String>,
    /// Where its calls go, tried in order; empty: it only makes calls.
    pub uris: Vec<TrunkUri>,
    pub network: Network,
    pub bridge_families: bool,
    pub auth: InboundAuth,
    /// Offered in this order.
    pub digest_algorithms: Vec<DigestAlgorithm>,
    /// Demanded from it.
    pub credentials: Option<Credentials>,
    pub realm: String,
    /// Shown to it when it challenges us: `[trunk.present]`, else `credentials`.
    pub present: Option<PresentedCredentials>,
    pub present_as: PresentAs,
    pub latch: LatchMode,
    /// New calls per second, both directions; 0: unlimited.
    pub max_calls_per_s: u32,
    pub media_encryption: MediaEncryption,
    /// Encoding names, upper case but `telephone-event`, in order of preference.
    pub codecs: Vec<String>,
    /// Concurrent legs; 0: unlimited.
    pub max_calls: u32,
    /// Added to every INVITE sent to this trunk; checked to be free of control characters.
    pub headers: Vec<(String, String)>,
    pub transfer: Option<TransferPolicy>,
    /// What cores share of it (never touched per packet).
    pub load: Arc<TrunkLoad>,
}

/// Counters of one trunk that all cores share; they outlive a reload that keeps the trunk.
#[derive(Debug, Default)]
pub struct TrunkLoad {
    /// Legs alive.
    pub legs: AtomicU32,
    /// The second that is counted (high 32 bits) and the calls in it (low 32 bits).
    rate: AtomicU64,
}

impl Trunk {
    /// Counts a new call against `max_calls_per_s`. `false`: this second's are used up.
    pub fn admit_rate(&self, now: Instant) -> bool {
        if self.max_calls_per_s == 0 {
            return true;
        }
        let second = now.as_nanos() / 1_000_000_000;
        let counted = self
            .load
            .rate
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                let calls = if word >> 32 == second & 0xffff_ffff {
                    word & 0xffff_ffff
                } else {
                    0
                };
                (calls < u64::from(self.max_calls_per_s)).then_some((second << 32) | (calls + 1))
            });
        counted.is_ok()
    }
}

impl Trunk {
    /// A trunk with the contract's defaults: nobody may signal as it, it has no `uri`, and it may use `listen`.
    pub fn new(id: TrunkId, name: impl Into<Arc<str>>, listen: Vec<ListenerId>) -> Trunk {
        Trunk {
            id,
            name: name.into(),
            allow: Vec::new(),
            listen,
            request_hosts: Vec::new(),
            uris: Vec::new(),
            network: Network::Dual,
            bridge_families: false,
            auth: InboundAuth::Ip,
            digest_algorithms: vec![DigestAlgorithm::Sha256, DigestAlgorithm::Md5],
            credentials: None,
            realm: "sip-edge".to_owned(),
            present: None,
            present_as: PresentAs::Caller,
            latch: LatchMode::Signalling,
            max_calls_per_s: 0,
            media_encryption: MediaEncryption::Disabled,
            codecs: ["PCMU", "PCMA", "G722", "telephone-event"]
                .map(str::to_owned)
                .to_vec(),
            max_calls: 0,
            headers: Vec::new(),
            transfer: None,
            load: Arc::default(),
        }
    }
}

/// One `uri` of a trunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrunkUri {
    /// Host name (lower case) or IP literal without brackets.
    pub host: String,
    /// `None`: SRV applies to names (RFC 3263), else the transport's default port.
    pub port: Option<u16>,
    pub transport: Transport,
    /// Written as `sips:`.
    pub sips: bool,
}

/// `network`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    Ipv4,
    Ipv6,
    Dual,
}

impl Network {
    /// Whether the trunk speaks the family of `address`.
    pub fn permits(self, address: IpAddr) -> bool {
        match self {
            Network::Ipv4 => address.is_ipv4(),
            Network::Ipv6 => address.is_ipv6(),
            Network::Dual => true,
        }
    }
}

/// `auth` of a trunk: what a dialog-creating request must show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InboundAuth {
    /// A listed source suffices.
    Ip,
    /// Credentials; `allow` defaults to anyone.
    Digest,
    /// Both.
    DigestAndIp,
}

impl InboundAuth {
    pub fn demands_digest(self) -> bool {
        !matches!(self, InboundAuth::Ip)
    }
}

/// A digest algorithm (RFC 7616 §3.7, RFC 8760).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigestAlgorithm {
    Md5,
    Md5Sess,
    Sha256,
    Sha256Sess,
    Sha512_256,
    Sha512_256Sess,
}

/// A user name and password demanded from a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    pub username: String,
    pub password: Secret,
}

/// A user name and password shown to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresentedCredentials {
    pub username: String,
    pub password: Secret,
    /// Only this realm is answered; `None`: any.
    pub realm: Option<String>,
}

/// `present_as`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PresentAs {
    /// The caller's own number.
    Caller,
    /// A fixed number.
    Fixed(String),
}

/// `latch`: which sources may become a leg's media source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LatchMode {
    /// The SDP address on any port, else the leg's signalling address.
    Signalling,
    /// Any source.
    Any,
    /// The SDP address and port, nothing else.
    Off,
}

/// `media_encryption`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MediaEncryption {
    Disabled,
    Allowed,
    Required,
}

/// `[trunk.transfer]`.
#[derive(Clone, Debug)]
pub struct TransferPolicy {
    /// Bridged transfers per call; 0 disables.
    pub max_transfers: u32,
    pub auth: ReferAuth,
    /// Name of the trunk that originates the new leg for tel: and for hosts that mean this edge.
    pub via: Option<String>,
    /// Allowed targets as written; matched by [`crate::call::policy`].
    pub targets: Vec<String>,
    /// Header name patterns (`*` suffix), case-insensitive.
    pub pass_headers: Vec<String>,
    pub drop_headers: Vec<String>,
    /// URIs tried in order when the target fails.
    pub fallback: Vec<String>,
    pub ring_timeout: Duration,
    pub auth_timeout: Duration,
    pub on_failure: OnFailure,
}

impl Default for TransferPolicy {
    /// The contract's defaults; without `targets` nothing is allowed, and `max_transfers` 0 disables transfers.
    fn default() -> Self {
        let names = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        TransferPolicy {
            max_transfers: 0,
            auth: ReferAuth::Digest,
            via: None,
            targets: Vec::new(),
            pass_headers: names(&["X-*"]),
            drop_headers: names(&[
                "PH-*",
                "Plivo*",
                "FS-*",
                "SipAuth*",
                "ZT-*",
                "Twilio*",
                "ClientRegion",
            ]),
            fallback: Vec::new(),
            ring_timeout: Duration::from_secs(30),
            auth_timeout: Duration::from_secs(5),
            on_failure: OnFailure::Return,
        }
    }
}

/// `auth` of `[trunk.transfer]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReferAuth {
    Digest,
    Dialog,
}

/// `on_failure`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnFailure {
    /// The caller stays with, or goes back to, the transferor.
    Return,
    /// The call ends.
    Hangup,
}

/// `[[route]]`: the first match wins.
#[derive(Clone, Debug)]
pub struct Route {
    pub from: String,
    /// Pattern for the Request-URI's user part; `*` matches any run of characters; a leading + is significant.
    pub number: String,
    /// Trunk names, tried in order.
    pub to: Vec<String>,
    pub rewrite: Option<Rewrite>,
}

/// `rewrite`: remove `strip` from the front if present, then put `prepend` there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewrite {
    pub strip: String,
    pub prepend: String,
}
