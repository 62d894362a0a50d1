//! Where the log goes: standard error, as text or as JSON lines.

use crate::log::LogGuard;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// The library's warnings are about what peers send, as often as they like; their handshakes' failures are reported by us.
const DEFAULT: &str = "info,rustls=error";

/// How to log.
#[derive(Args, Debug)]
pub(super) struct LogArgs {
    /// What to log: error, warn, info, debug or trace; or by module, as in "info,sip_edge::control=debug"
    #[arg(
        long,
        value_name = "FILTER",
        env = "SIP_EDGE_LOG",
        default_value = DEFAULT
    )]
    log: String,
    /// How to write it
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum LogFormat {
    /// One line of text for each event
    Text,
    /// One JSON object for each event
    Json,
}

impl LogArgs {
    /// Sends the log of all threads to standard error from here on, for as long as the guard lives. The error says what is wrong
    /// with the filter.
    pub fn install(&self) -> Result<LogGuard, String> {
        let filter = EnvFilter::try_new(&self.log)
            .map_err(|error| format!("--log {:?}: {error}", self.log))?;
        match self.log_format {
            LogFormat::Text => crate::log::text(filter),
            LogFormat::Json => crate::log::json(filter),
        }
    }
}
