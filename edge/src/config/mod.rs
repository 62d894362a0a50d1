//! The configuration: text, to typed keys with their places ([`raw`]), to validated [`Settings`].
//!
//! Everything that is wrong is reported at once, each finding with file, line, column and key. What the protocol layers need
//! is an [`edge_proto::config::Config`]; the rest of [`Settings`] is for this crate.

mod codec;
mod credential;
mod diagnostic;
mod environment;
mod peers;
mod raw;
mod reader;
mod scalar;
mod secret;
mod validate;

pub use diagnostic::{ConfigError, Diagnostic, Severity};
pub use environment::Environment;
pub use peers::{PeerAddresses, peer_addresses};

use crate::control::tls::TlsSettings;
use diagnostic::{At, Place, Sink};
use edge_proto::config::Config;
use edge_proto::time::Duration;
use raw::RawConfig;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::de::DeTable;

/// A configuration file that may be put in force.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file it came from. Relative paths in it are relative to its directory; here they are resolved.
    pub file: PathBuf,
    pub protocol: Arc<Config>,
    pub cores: Cores,
    /// `edge.drain_timeout_s`; `None`: a drain waits for the last call, however long that takes.
    pub drain_timeout: Option<std::time::Duration>,
    /// `sip.batch_us`; zero: inputs never wait.
    pub sip_batch: Duration,
    /// `sip.overload_ms`; zero: waiting messages refuse no new calls.
    pub sip_overload: Duration,
    /// Certificates are loaded and checked.
    pub tls: Arc<TlsSettings>,
    pub fast_path: FastPath,
    pub media: MediaSettings,
    pub access: AccessSettings,
    pub admin: AdminSettings,
    /// `cdr.path`.
    pub cdr_path: PathBuf,
    /// `dns.servers`; empty: those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// What works, perhaps not as meant.
    pub warnings: Vec<Diagnostic>,
}

/// `edge.cores`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cores {
    /// All that the process may run on.
    Auto,
    /// These, in order; never empty.
    List(Vec<usize>),
}

/// Certificate files of a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsServerFiles {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    /// Given: a peer must show a certificate that one of these authorities signed.
    pub client_ca: Option<PathBuf>,
}

/// Certificate files for connections to a trunk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsClientFiles {
    /// Authorities instead of the system's.
    pub ca: Option<PathBuf>,
    /// Shown when the peer asks for a client certificate; with `private_key`.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
}

/// `media.fast_path`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FastPath {
    /// The fastest lane there is for a flow.
    #[default]
    Auto,
    /// The io_uring lane alone.
    Off,
}

/// `media.steering`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MediaSteering {
    /// Flows share sockets, as far as the host permits it.
    #[default]
    Auto,
    /// They share those that receive, and send by their own: routing and IPsec policies see their ports.
    Receive,
    /// Each flow has sockets of its own alone.
    Off,
}

/// What of `[media]` is for the media threads alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MediaSettings {
    /// `media.steering`.
    pub steering: MediaSteering,
    /// `media.batch_us`; zero: packets are never kept.
    pub batch: Duration,
    /// `media.busy_poll_us`; zero: the media threads sleep whenever nothing is there.
    pub busy_poll: Duration,
}

/// `[access]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessSettings {
    /// Where XDP attaches; empty: the check in userspace alone.
    pub interfaces: Vec<String>,
    pub mode: AccessMode,
}

/// `access.mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AccessMode {
    /// Native where the driver can, else generic.
    #[default]
    Auto,
    Native,
    Generic,
    /// No XDP.
    Userspace,
}

/// `[admin]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdminSettings {
    pub address: SocketAddr,
    /// Holds the bearer token; generated when the file does not exist.
    pub token_file: PathBuf,
}

/// Reads and checks a configuration file.
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
    load_after(path, None)
}

/// Like [`load`], for a reload: trunks that are still there keep the counters of their legs.
pub fn load_after(path: &Path, previous: Option<&Config>) -> Result<Settings, ConfigError> {
    /// 100,000 prefixes are about 4 MB.
    const MAX_BYTES: u64 = 64 << 20;
    let failed = |what: &str, error: std::io::Error| {
        ConfigError::whole_file(path, format!("cannot {what} the file: {error}"))
    };
    let metadata = std::fs::metadata(path).map_err(|error| failed("find", error))?;
    if metadata.len() > MAX_BYTES {
        let message = format!("the file is larger than {MAX_BYTES} bytes");
        return Err(ConfigError::whole_file(path, message));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed("read", error))?;
    let world_readable = metadata.mode() & 0o004 != 0;
    let context = Context {
        environment: &Environment::probe(),
        previous,
        world_readable,
    };
    parse(path, &text, &context)
}

/// What a text is judged by, besides itself and the files that it names.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub environment: &'a Environment,
    /// The configuration in force.
    pub previous: Option<&'a Config>,
    /// Everyone on this machine can read the file.
    pub world_readable: bool,
}

/// Reads and checks the text of a configuration file that is, or would be, at `path`.
pub fn parse(path: &Path, text: &str, context: &Context<'_>) -> Result<Settings, ConfigError> {
    let mut sink = Sink::new(path, text);
    let (table, faults) = DeTable::parse_recoverable(text);
    for fault in &faults {
        let place = Place {
            offset: fault.span().map(|span| span.start),
            ..Place::file()
        };
        sink.error(&place, fault.message());
    }
    // What a broken text seems to say is not worth judging.
    let settings = if faults.is_empty() {
        let raw = RawConfig::read(&mut sink, table.get_ref());
        warn_of_readable_passwords(&mut sink, &raw, context);
        validate::settings(&mut sink, &raw, path, context)
    } else {
        None
    };
    let refused = sink.has_errors();
    let diagnostics = sink.finish();
    match settings.filter(|_| !refused) {
        Some(settings) => Ok(Settings {
            warnings: diagnostics,
            ..settings
        }),
        None => Err(ConfigError { diagnostics }),
    }
}

fn warn_of_readable_passwords(sink: &mut Sink<'_>, raw: &RawConfig, context: &Context<'_>) {
    let presented = |t: &raw::RawTrunk| t.present.as_ref().and_then(|p| p.password.inline.clone());
    let passwords = raw.trunks.iter().flat_map(|trunk| {
        let demanded = trunk.password.inline.clone();
        demanded.into_iter().chain(presented(trunk))
    });
    if context.world_readable
        && let Some(At { place, .. }) = passwords.into_iter().next()
    {
        sink.warning(
            &place,
            "a password in a file that everyone on this machine can read; expected mode 0640, or password_file",
        );
    }
}
