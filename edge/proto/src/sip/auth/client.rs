//! The side that is challenged.

use super::MAX_HEADERS;
use super::hash::{Inputs, Protection};
use super::header::{Authorization, Challenge};
use super::params::AuthError;
use super::server::DigestServer;
use crate::config::PresentedCredentials;

/// Why a challenge is not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the response carries no Digest challenge")]
    NoChallenge,
    #[error("malformed challenge: {0}")]
    Malformed(AuthError),
    /// The peer reflects a challenge of ours, to have us compute the answer to it.
    #[error("the challenge has a nonce of our own")]
    OwnNonce,
    #[error("the challenge is for a realm that our credentials are not for")]
    WrongRealm,
    #[error("no algorithm of the challenge is known here")]
    UnsupportedAlgorithm,
    #[error("the challenge demands a quality of protection other than auth")]
    UnsupportedQop,
}

impl AnswerError {
    /// The outcome in [`crate::event::EventKind`] and on the metric.
    pub const fn outcome(self) -> &'static str {
        match self {
            AnswerError::NoChallenge | AnswerError::Malformed(_) => "malformed",
            AnswerError::OwnNonce => "reflected",
            AnswerError::WrongRealm => "wrong_realm",
            AnswerError::UnsupportedAlgorithm | AnswerError::UnsupportedQop => "wrong_algorithm",
        }
    }
}

/// The Authorization (or Proxy-Authorization) value that answers a 401 (or 407).
///
/// `challenges` are all values of its WWW-Authenticate (or Proxy-Authenticate) headers: the first whose realm, algorithm and
/// qop fit is answered (RFC 8760 §2.4: the topmost one that is supported). With `qop` it is `auth`; without, the answer is
/// that of RFC 2069 (RFC 3261 §22.4). `uri` is the Request-URI that the request will carry; `cnonce` is fresh and random; `nc`
/// counts the requests sent with this nonce from 1. `own` tells our nonces from others'.
///
/// # Errors
/// [`AnswerError::OwnNonce`] when any of the challenges has a nonce that we minted, else what was wrong with the challenge
/// that came nearest.
pub fn answer<'a>(
    challenges: impl Iterator<Item = &'a str>,
    presented: &PresentedCredentials,
    method: &str,
    uri: &str,
    cnonce: &str,
    nc: u32,
    own: &DigestServer,
) -> Result<String, AnswerError> {
    let mut chosen = Err(AnswerError::NoChallenge);
    for text in challenges.take(MAX_HEADERS) {
        let challenge = match Challenge::parse(text) {
            Ok(challenge) => challenge,
            Err(AuthError::OtherScheme) => continue,
            Err(error) => {
                chosen = nearer(chosen, AnswerError::Malformed(error));
                continue;
            }
        };
        if own.is_own_nonce(&challenge.nonce) {
            return Err(AnswerError::OwnNonce);
        }
        if chosen.is_ok() {
            continue;
        }
        chosen = match unanswerable(&challenge, presented) {
            Some(error) => nearer(chosen, error),
            None => Ok(challenge),
        };
    }
    let challenge = chosen?;
    let algorithm = challenge
        .digest_algorithm()
        .ok_or(AnswerError::UnsupportedAlgorithm)?;
    let nc = format!("{nc:08x}");
    let protected = challenge.qop.is_some();
    let response = Inputs {
        algorithm,
        username: &presented.username,
        realm: &challenge.realm,
        password: presented.password.expose(),
        method,
        uri,
        nonce: &challenge.nonce,
        cnonce,
        protection: protected.then_some(Protection {
            qop: "auth",
            nc: &nc,
        }),
    }
    .response();
    Ok(Authorization {
        username: presented.username.clone(),
        realm: challenge.realm,
        nonce: challenge.nonce,
        uri: uri.to_owned(),
        response: response.as_str().to_owned(),
        // Absent when it was absent: servers that do not know the parameter exist.
        algorithm: challenge.algorithm,
        // RFC 2617 §3.2.2 forbids cnonce without qop, but a session algorithm cannot be verified without it.
        cnonce: (protected || algorithm.is_session()).then(|| cnonce.to_owned()),
        opaque: challenge.opaque,
        qop: protected.then(|| "auth".to_owned()),
        nc: protected.then_some(nc),
        userhash: false,
    }
    .to_string())
}

/// Whether a challenge says that only the nonce was too old: worth one more try with the same credentials.
pub fn stale<'a>(challenges: impl Iterator<Item = &'a str>) -> bool {
    challenges
        .take(MAX_HEADERS)
        .filter_map(|text| Challenge::parse(text).ok())
        .any(|challenge| challenge.stale)
}

fn unanswerable(challenge: &Challenge, presented: &PresentedCredentials) -> Option<AnswerError> {
    if presented
        .realm
        .as_ref()
        .is_some_and(|realm| *realm != challenge.realm)
    {
        Some(AnswerError::WrongRealm)
    } else if challenge.digest_algorithm().is_none() {
        Some(AnswerError::UnsupportedAlgorithm)
    } else if challenge.qop.is_some() && !challenge.offers_auth() {
        Some(AnswerError::UnsupportedQop)
    } else {
        None
    }
}

/// Keeps a choice, or else the error of the challenge that came nearest to being answered.
fn nearer(
    chosen: Result<Challenge, AnswerError>,
    error: AnswerError,
) -> Result<Challenge, AnswerError> {
    fn rank(error: AnswerError) -> u8 {
        match error {
            AnswerError::NoChallenge => 0,
            AnswerError::Malformed(_) => 1,
            AnswerError::WrongRealm => 2,
            AnswerError::UnsupportedAlgorithm => 3,
            AnswerError::UnsupportedQop => 4,
            AnswerError::OwnNonce => 5,
        }
    }
    match chosen {
        Err(before) if rank(error) > rank(before) => Err(error),
        kept => kept,
    }
}
