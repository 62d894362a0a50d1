//! The side that challenges.

use super::hash::{Inputs, Protection};
use super::header::{Authorization, Challenge};
use super::nonce::{NonceKey, Stamp};
use super::params::AuthError;
use super::replay::{Admission, ReplayWindows};
use super::{MAX_HEADERS, NONCE_LIFETIME};
use crate::config::{Credentials, DigestAlgorithm};
use crate::id::CoreId;
use crate::sip::uri::Uri;
use crate::time::Instant;
use std::fmt;
use subtle::ConstantTimeEq;

/// Nonces whose counts are remembered: answered correctly within the last 30 seconds, per core.
const REPLAY_CAPACITY: usize = 65_536;

/// Why credentials were not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DigestFailure {
    /// There were none of the Digest scheme: the normal first round.
    #[error("no credentials")]
    Missing,
    /// The response is right, but for a nonce that is too old, of another call, core or process, or no longer remembered.
    #[error("right credentials for a stale nonce")]
    Stale,
    /// The response is right, but this nonce count was used before.
    #[error("right credentials with a nonce count used before")]
    Replayed,
    #[error("credentials for another realm")]
    WrongRealm,
    #[error("the digest-uri is not the Request-URI")]
    WrongUri,
    #[error("wrong user name")]
    WrongUser,
    #[error("wrong response")]
    WrongResponse,
    /// One that was not offered.
    #[error("an algorithm that was not offered")]
    WrongAlgorithm,
    #[error("malformed credentials: {0}")]
    Malformed(AuthError),
}

impl DigestFailure {
    /// The outcome in [`crate::event::EventKind`] and on the metric. A wrong user and a wrong password look the same.
    pub const fn outcome(self) -> &'static str {
        match self {
            DigestFailure::Missing => "challenged",
            DigestFailure::Stale => "stale",
            DigestFailure::Replayed => "replayed",
            DigestFailure::WrongRealm => "wrong_realm",
            DigestFailure::WrongUri => "wrong_uri",
            DigestFailure::WrongUser | DigestFailure::WrongResponse => "wrong_credentials",
            DigestFailure::WrongAlgorithm => "wrong_algorithm",
            DigestFailure::Malformed(_) => "malformed",
        }
    }

    /// Whether the next challenge says `stale=true` (RFC 7616 §3.3): the client knows the password and may simply try again
    /// with the new nonce. Never so for a wrong response.
    pub const fn is_stale(self) -> bool {
        matches!(self, DigestFailure::Stale | DigestFailure::Replayed)
    }

    /// How much a failure tells about credentials that were meant for us, to pick one of several.
    const fn weight(self) -> u8 {
        match self {
            DigestFailure::Missing => 0,
            DigestFailure::WrongRealm => 1,
            DigestFailure::Malformed(_) => 2,
            _ => 3,
        }
    }
}

/// Challenges peers and judges their credentials; one per core.
pub struct DigestServer {
    key: NonceKey,
    core: CoreId,
    serial: u32,
    windows: ReplayWindows,
}

impl DigestServer {
    /// `key` is shared by all cores and new in each process: nonces carry times of this process's clock.
    pub fn new(key: [u8; 32], core: CoreId) -> Self {
        DigestServer {
            key: NonceKey::new(key),
            core,
            serial: 0,
            windows: ReplayWindows::new(REPLAY_CAPACITY),
        }
    }

    /// Values of WWW-Authenticate, one header each, in the order of `algorithms` (RFC 8760 §2.3). `stale` is
    /// [`DigestFailure::is_stale`] of what was wrong before.
    pub fn challenges(
        &mut self,
        now: Instant,
        realm: &str,
        algorithms: &[DigestAlgorithm],
        call_id: &str,
        stale: bool,
    ) -> Vec<String> {
        self.serial = self.serial.wrapping_add(1);
        let stamp = Stamp {
            minted: now,
            serial: self.serial,
        };
        let nonce = self.key.mint(stamp, self.core, call_id);
        algorithms
            .iter()
            .map(|algorithm| {
                Challenge {
                    realm: realm.to_owned(),
                    nonce: nonce.clone(),
                    opaque: None,
                    algorithm: Some(algorithm.as_str().to_owned()),
                    qop: Some("auth".to_owned()),
                    stale,
                }
                .to_string()
            })
            .collect()
    }

    /// Whether a request proves knowledge of `credentials`. Uses up the nonce count on success.
    ///
    /// `authorizations` are all values of its Authorization headers: a client may show credentials for several realms
    /// (RFC 3261 §22.3); the first [`MAX_HEADERS`] are looked at. The digest-uri must be `request_uri`, literally or as RFC 3261
    /// §19.1.4 compares URIs: RFC 7616 §3.4.6 asks for the same resource, and elements on the way may respell it.
    ///
    /// # Errors
    /// The failure that tells most. [`DigestFailure::Stale`] and [`DigestFailure::Replayed`] only when the response itself is
    /// right.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one fact of the request or of the trunk"
    )]
    pub fn verify<'a>(
        &mut self,
        now: Instant,
        authorizations: impl Iterator<Item = &'a str>,
        method: &str,
        request_uri: &str,
        call_id: &str,
        realm: &str,
        algorithms: &[DigestAlgorithm],
        credentials: &Credentials,
    ) -> Result<(), DigestFailure> {
        let demand = Demand {
            method,
            request_uri,
            realm,
            algorithms,
            credentials,
        };
        let mut failure = DigestFailure::Missing;
        for text in authorizations.take(MAX_HEADERS) {
            let verdict = demand
                .judge(text)
                .and_then(|shown| self.spend(now, &shown, call_id));
            match verdict {
                Ok(()) => return Ok(()),
                Err(found) if found.weight() > failure.weight() => failure = found,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// Whether a nonce was minted under our key, by whichever core for whichever call.
    pub fn is_own_nonce(&self, nonce: &str) -> bool {
        self.key.open(nonce).is_some()
    }

    /// The core that minted a nonce, `None` when it is not one of ours.
    pub fn nonce_core(&self, nonce: &str) -> Option<CoreId> {
        self.key.open(nonce).map(|opened| opened.core)
    }

    /// Uses the nonce count of a response that is right.
    fn spend(&mut self, now: Instant, shown: &Shown, call_id: &str) -> Result<(), DigestFailure> {
        let opened = self.key.open(&shown.nonce).ok_or(DigestFailure::Stale)?;
        let oldest = Instant::from_nanos(
            now.as_nanos()
                .saturating_sub(u64::try_from(NONCE_LIFETIME.as_nanos()).unwrap_or(u64::MAX)),
        );
        // Another core's nonce is another core's to count: accepting it here would let each core accept it once.
        if opened.core != self.core
            || !self.key.is_for(&opened, call_id)
            || opened.stamp.minted < oldest
            || opened.stamp.minted > now
        {
            return Err(DigestFailure::Stale);
        }
        match self.windows.admit(oldest, opened.stamp, shown.count) {
            Admission::Fresh => Ok(()),
            Admission::Replayed => Err(DigestFailure::Replayed),
            Admission::Forgotten => Err(DigestFailure::Stale),
        }
    }
}

impl fmt::Debug for DigestServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestServer")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

/// What a request must match.
struct Demand<'a> {
    method: &'a str,
    request_uri: &'a str,
    realm: &'a str,
    algorithms: &'a [DigestAlgorithm],
    credentials: &'a Credentials,
}

/// What is left to check once the response is right.
struct Shown {
    nonce: String,
    count: u32,
}

impl Demand<'_> {
    /// Everything but the nonce.
    fn judge(&self, text: &str) -> Result<Shown, DigestFailure> {
        let shown = Authorization::parse(text).map_err(|error| match error {
            AuthError::OtherScheme => DigestFailure::Missing,
            error => DigestFailure::Malformed(error),
        })?;
        if shown.realm != self.realm {
            return Err(DigestFailure::WrongRealm);
        }
        let algorithm = shown
            .digest_algorithm()
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or(DigestFailure::WrongAlgorithm)?;
        let missing = |name| DigestFailure::Malformed(AuthError::Missing(name));
        let qop = shown.qop.as_deref().ok_or(missing("qop"))?;
        if !qop.eq_ignore_ascii_case("auth") {
            return Err(DigestFailure::Malformed(AuthError::Invalid("qop")));
        }
        let nc = shown.nc.as_deref().ok_or(missing("nc"))?;
        let count = shown.nonce_count().ok_or(missing("nc"))?;
        let cnonce = shown.cnonce.as_deref().ok_or(missing("cnonce"))?;
        if !is_same_resource(&shown.uri, self.request_uri) {
            return Err(DigestFailure::WrongUri);
        }
        let expected = Inputs {
            algorithm,
            username: &self.credentials.username,
            realm: self.realm,
            password: self.credentials.password.expose(),
            method: self.method,
            uri: &shown.uri,
            nonce: &shown.nonce,
            cnonce,
            protection: Some(Protection { qop, nc }),
        }
        .response();
        // Both are evaluated whatever the first says, so that time does not tell a wrong user from a wrong password.
        let right: bool = expected.as_bytes().ct_eq(shown.response.as_bytes()).into();
        let known: bool = self
            .credentials
            .username
            .as_bytes()
            .ct_eq(shown.username.as_bytes())
            .into();
        match (known && !shown.userhash, right) {
            (false, _) => Err(DigestFailure::WrongUser),
            (true, false) => Err(DigestFailure::WrongResponse),
            (true, true) => Ok(Shown {
                nonce: shown.nonce,
                count,
            }),
        }
    }
}

fn is_same_resource(digest_uri: &str, request_uri: &str) -> bool {
    digest_uri == request_uri
        || match (Uri::parse(digest_uri), Uri::parse(request_uri)) {
            (Ok(shown), Ok(requested)) => shown.equivalent(&requested),
            _ => false,
        }
}
