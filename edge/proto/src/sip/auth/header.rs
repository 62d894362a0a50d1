//! Challenges (WWW-Authenticate, Proxy-Authenticate) and credentials (Authorization, Proxy-Authorization) as values.

use super::params::{AuthError, Params, Quoted};
use crate::config::DigestAlgorithm;
use std::fmt;

/// A Digest challenge (RFC 7616 §3.3). Strings are unescaped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenge {
    pub realm: String,
    pub nonce: String,
    /// Returned as it came.
    pub opaque: Option<String>,
    /// The name as written, known here or not; absent means MD5.
    pub algorithm: Option<String>,
    /// The list as written, such as `auth,auth-int`; absent means RFC 2069.
    pub qop: Option<String>,
    /// The last answer was right, only its nonce was too old.
    pub stale: bool,
}

impl Challenge {
    /// Parses one header value. Unknown parameters (`domain`, `charset`, extensions) are ignored.
    ///
    /// # Errors
    /// [`AuthError::OtherScheme`] for Basic and others; realm and nonce are mandatory.
    pub fn parse(text: &str) -> Result<Self, AuthError> {
        let params = Params::parse(text)?;
        Ok(Challenge {
            realm: params.require("realm")?,
            nonce: params.require("nonce")?,
            opaque: params.owned("opaque"),
            algorithm: params.optional_token("algorithm")?,
            qop: params.owned("qop"),
            stale: params.flag("stale"),
        })
    }

    /// The algorithm to answer with, `None` when it is unknown here.
    pub fn digest_algorithm(&self) -> Option<DigestAlgorithm> {
        known_algorithm(self.algorithm.as_deref())
    }

    /// Whether the `qop` list has `auth`.
    pub fn offers_auth(&self) -> bool {
        self.qop.as_deref().is_some_and(|list| {
            list.split(',')
                .any(|option| option.trim().eq_ignore_ascii_case("auth"))
        })
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Digest realm={}, nonce={}",
            Quoted(&self.realm),
            Quoted(&self.nonce)
        )?;
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", Quoted(opaque))?;
        }
        if self.stale {
            f.write_str(", stale=true")?;
        }
        if let Some(algorithm) = &self.algorithm {
            write!(f, ", algorithm={algorithm}")?;
        }
        if let Some(qop) = &self.qop {
            write!(f, ", qop={}", Quoted(qop))?;
        }
        Ok(())
    }
}

/// Digest credentials (RFC 7616 §3.4). Strings are unescaped.
///
/// `Debug` prints them: none is a secret by itself, but a response can be attacked offline, so keep them out of logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authorization {
    pub username: String,
    pub realm: String,
    pub nonce: String,
    /// The digest-uri.
    pub uri: String,
    /// Hexadecimal, as written.
    pub response: String,
    /// The name as written, known here or not; absent means MD5.
    pub algorithm: Option<String>,
    pub cnonce: Option<String>,
    pub opaque: Option<String>,
    /// As written: the text goes into the hash.
    pub qop: Option<String>,
    /// Eight hexadecimal digits, as written: the text goes into the hash.
    pub nc: Option<String>,
    /// `username` is a hash (RFC 7616 §3.4.4), which this edge never offers.
    pub userhash: bool,
}

impl Authorization {
    /// Parses one header value. Unknown parameters are ignored.
    ///
    /// # Errors
    /// [`AuthError::OtherScheme`] for Basic and others; username, realm, nonce, uri and response are mandatory; `nc` must be
    /// eight hexadecimal digits and not zero.
    pub fn parse(text: &str) -> Result<Self, AuthError> {
        let params = Params::parse(text)?;
        let nc = params.owned("nc");
        if nc.as_deref().is_some_and(|nc| count(nc).is_none()) {
            return Err(AuthError::Invalid("nc"));
        }
        Ok(Authorization {
            username: params.require("username")?,
            realm: params.require("realm")?,
            nonce: params.require("nonce")?,
            uri: params.require("uri")?,
            response: params.require("response")?,
            algorithm: params.optional_token("algorithm")?,
            cnonce: params.owned("cnonce"),
            opaque: params.owned("opaque"),
            qop: params.optional_token("qop")?,
            nc,
            userhash: params.flag("userhash"),
        })
    }

    /// The algorithm used, `None` when it is unknown here.
    pub fn digest_algorithm(&self) -> Option<DigestAlgorithm> {
        known_algorithm(self.algorithm.as_deref())
    }

    /// `nc` as a number, never zero.
    pub fn nonce_count(&self) -> Option<u32> {
        self.nc.as_deref().and_then(count)
    }
}

impl fmt::Display for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Digest username={}, realm={}, nonce={}, uri={}, response={}",
            Quoted(&self.username),
            Quoted(&self.realm),
            Quoted(&self.nonce),
            Quoted(&self.uri),
            Quoted(&self.response)
        )?;
        if let Some(algorithm) = &self.algorithm {
            write!(f, ", algorithm={algorithm}")?;
        }
        if let Some(cnonce) = &self.cnonce {
            write!(f, ", cnonce={}", Quoted(cnonce))?;
        }
        if let Some(opaque) = &self.opaque {
            write!(f, ", opaque={}", Quoted(opaque))?;
        }
        if let Some(qop) = &self.qop {
            write!(f, ", qop={qop}")?;
        }
        if let Some(nc) = &self.nc {
            write!(f, ", nc={nc}")?;
        }
        if self.userhash {
            f.write_str(", userhash=true")?;
        }
        Ok(())
    }
}

/// The user name in an Authorization header, unverified: good for choosing among trunks that share a source, for nothing else.
pub fn peek_username(authorization: &str) -> Option<String> {
    Params::parse(authorization).ok()?.owned("username")
}

fn known_algorithm(name: Option<&str>) -> Option<DigestAlgorithm> {
    match name {
        None => Some(DigestAlgorithm::Md5),
        Some(name) => DigestAlgorithm::from_name(name),
    }
}

/// RFC 7616 §3.4 `nc-value`: exactly eight hexadecimal digits, counted from one.
fn count(nc: &str) -> Option<u32> {
    if nc.len() != 8 || !nc.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(nc, 16).ok().filter(|&value| value > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_as_carriers_write_it() {
        let challenge = Challenge::parse(
            "Digest realm=\"a \\\"b\\\"\",domain=\"sip:example.net\",nonce=\"n\",opaque=\"\",stale=TRUE,algorithm=\"md5\",qop=\"auth-int, auth\"",
        )
        .unwrap();
        assert_eq!(challenge.realm, "a \"b\"");
        assert_eq!(challenge.opaque.as_deref(), Some(""));
        assert_eq!(challenge.digest_algorithm(), Some(DigestAlgorithm::Md5));
        assert!(challenge.stale && challenge.offers_auth());
        assert_eq!(Challenge::parse(&challenge.to_string()), Ok(challenge));
    }

    #[test]
    fn auth_int_alone_is_not_auth() {
        let challenge =
            Challenge::parse("Digest realm=\"r\",nonce=\"n\",qop=\"auth-int\"").unwrap();
        assert!(!challenge.offers_auth());
    }

    #[test]
    fn missing_and_impossible_parameters_are_named() {
        assert_eq!(
            Challenge::parse("Digest realm=\"r\""),
            Err(AuthError::Missing("nonce"))
        );
        let base = "Digest username=\"u\",realm=\"r\",nonce=\"n\",uri=\"sip:x\",response=\"0\"";
        assert!(Authorization::parse(base).is_ok());
        for (extra, name) in [
            ("nc=1", "nc"),
            ("nc=00000000", "nc"),
            ("nc=0000000g", "nc"),
            ("nc=000000001", "nc"),
            ("nc=\"+0000001\"", "nc"),
            ("algorithm=\"M D5\"", "algorithm"),
            ("qop=\"\"", "qop"),
        ] {
            assert_eq!(
                Authorization::parse(&format!("{base},{extra}")),
                Err(AuthError::Invalid(name)),
                "{extra}"
            );
        }
    }

    #[test]
    fn the_user_name_can_be_read_without_the_rest() {
        assert_eq!(
            peek_username("Digest realm=\"r\", username=\"a\\\\b\""),
            Some("a\\b".into())
        );
        assert_eq!(peek_username("Basic dTpw"), None);
    }
}
