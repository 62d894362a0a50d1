//! Digest authentication (RFC 7616 as profiled for SIP by RFC 3261 §22 and RFC 8760), both sides of it.
//!
//! - [`DigestServer`] challenges peers with stateless keyed nonces and judges what they answer.
//! - [`answer`] answers a peer's challenge with the credentials configured for it.
//!
//! What this edge insists on, beyond the RFCs' minimum:
//! - `qop=auth` with `nc` and `cnonce` from every client: without them a captured response can be replayed.
//! - The digest-uri is the Request-URI (or equivalent to it, RFC 3261 §19.1.4), so a response made for one resource is worth nothing at another.
//! - A nonce belongs to one Call-ID, one core and 30 seconds, and each of its counts is good once.
//! - A nonce of our own is never answered: a peer cannot have our credentials computed over a challenge it got from us.
//! - Peers get no hint whether the user name or the password was wrong.

mod client;
mod hash;
mod header;
mod nonce;
mod params;
#[cfg(test)]
mod properties;
mod replay;
mod server;
#[cfg(test)]
mod tests;

pub use client::{AnswerError, answer, stale};
pub use header::{Authorization, Challenge, peek_username};
pub use params::AuthError;
pub use server::{DigestFailure, DigestServer};

use crate::time::Duration;

/// How long a nonce is good for.
pub const NONCE_LIFETIME: Duration = Duration::from_secs(30);
/// The longest header value looked at, in bytes.
pub const MAX_HEADER_BYTES: usize = 4096;
/// The most parameters one header value may have.
pub const MAX_PARAMETERS: usize = 32;
/// The most Authorization headers of one request that are judged, and the most challenges of one response.
pub const MAX_HEADERS: usize = 8;
