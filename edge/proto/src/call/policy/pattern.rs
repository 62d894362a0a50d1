//! Patterns of the targets that a REFER may name: `targets` of `[trunk.transfer]`.

use super::glob::Glob;
use crate::sip::grammar::percent_decode;
use crate::trunk::canonical_host;

/// One entry of `targets`.
///
/// Matching works on the parsed and unescaped components of a target, one by one, so `*` never reaches across one: no text
/// in a user part can pretend to be a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetPattern {
    /// `+1234567890`, `+1*`, `support`: a tel: number with its separators removed (RFC 3966 §5.1.1), or the user of a sip: or
    /// sips: target that goes to the trunk's `via`.
    Number(Glob),
    /// `tel:+1*`: tel: targets alone.
    Tel(Glob),
    /// `sip:*@192.0.2.4`, `sips:+1*@*.example.net:5061`.
    Sip {
        sips: bool,
        user: Glob,
        host: Glob,
        /// `None`: any port that the trunk's configuration knows; resolving the target sees to that.
        port: Option<u16>,
    },
}

/// What is wrong with a pattern.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    #[error("is empty")]
    Empty,
    #[error("has the scheme \"{0}\"; only sip:, sips: and tel: targets exist")]
    Scheme(String),
    #[error("has a host and no scheme; write sip: in front of it")]
    NoScheme,
    #[error("has no user part; write sip:*@host to allow every user")]
    NoUser,
    #[error("has no host")]
    NoHost,
    #[error("has a password; a target with one is always refused")]
    Password,
    #[error("has URI parameters or headers, which patterns do not match on")]
    Parameters,
    #[error("has a port that is not a number from 1 to 65535")]
    Port,
    #[error("has more than one @")]
    ManyAts,
    #[error("has a % that two hexadecimal digits do not follow, or escapes that are no UTF-8 text")]
    Escape,
    #[error("contains {0:?}, which cannot be part of a target")]
    Character(char),
}

/// The components of a target that patterns look at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Candidate<'a> {
    Tel {
        /// Separators removed.
        number: &'a str,
    },
    Sip {
        sips: bool,
        /// Unescaped.
        user: &'a str,
        /// As [`canonical_host`] writes it.
        host: &'a str,
        port: Option<u16>,
        /// The target goes to the transferor's `via`.
        to_via: bool,
    },
}

impl TargetPattern {
    /// Reads one entry of `targets`.
    pub fn parse(text: &str) -> Result<TargetPattern, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if let Some(bad) = text.chars().find(|&c| !is_pattern_char(c)) {
            return Err(PatternError::Character(bad));
        }
        match text.split_once(':') {
            None if text.contains('@') => Err(PatternError::NoScheme),
            None => Ok(TargetPattern::Number(number_glob(text)?)),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tel") => {
                if rest.is_empty() {
                    return Err(PatternError::NoUser);
                }
                Ok(TargetPattern::Tel(number_glob(rest)?))
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("sip") => sip(false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("sips") => sip(true, rest),
            Some((scheme, _)) => Err(PatternError::Scheme(scheme.to_owned())),
        }
    }

    /// Whether the pattern allows every number of the trunk's `via`.
    pub fn allows_any_number(&self) -> bool {
        match self {
            TargetPattern::Number(glob) | TargetPattern::Tel(glob) => glob.is_any(),
            TargetPattern::Sip { .. } => false,
        }
    }

    pub(super) fn matches(&self, candidate: &Candidate<'_>) -> bool {
        match (self, candidate) {
            (TargetPattern::Number(glob) | TargetPattern::Tel(glob), Candidate::Tel { number }) => {
                glob.matches(number)
            }
            (TargetPattern::Number(glob), Candidate::Sip { user, to_via, .. }) => {
                *to_via && glob.matches(user)
            }
            (
                TargetPattern::Sip {
                    sips,
                    user,
                    host,
                    port,
                },
                Candidate::Sip {
                    sips: target_sips,
                    user: target_user,
                    host: target_host,
                    port: target_port,
                    ..
                },
            ) => {
                let default = if *target_sips { 5061 } else { 5060 };
                sips == target_sips
                    && port.is_none_or(|port| port == target_port.unwrap_or(default))
                    && user.matches(target_user)
                    && host.matches(target_host)
            }
            _ => false,
        }
    }
}

fn is_pattern_char(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}')
}

fn sip(sips: bool, rest: &str) -> Result<TargetPattern, PatternError> {
    let (user, host_port) = rest.split_once('@').ok_or(PatternError::NoUser)?;
    if host_port.contains('@') {
        return Err(PatternError::ManyAts);
    }
    if user.is_empty() {
        return Err(PatternError::NoUser);
    }
    if user.contains(':') {
        return Err(PatternError::Password);
    }
    if host_port.contains([';', '?']) {
        return Err(PatternError::Parameters);
    }
    let (host, port) = split_port(host_port)?;
    if host.is_empty() {
        return Err(PatternError::NoHost);
    }
    Ok(TargetPattern::Sip {
        sips,
        user: Glob::try_map(user, unescape)?,
        host: Glob::new(&canonical_host(host)),
        port,
    })
}

fn split_port(host_port: &str) -> Result<(&str, Option<u16>), PatternError> {
    let after_host = if host_port.starts_with('[') {
        host_port.find(']').map_or(0, |end| end + 1)
    } else {
        0
    };
    let colon = host_port
        .get(after_host..)
        .and_then(|tail| tail.find(':'))
        .map(|at| at + after_host);
    let Some((host, port)) = colon.and_then(|at| host_port.split_at_checked(at)) else {
        return Ok((host_port, None));
    };
    match port.strip_prefix(':').unwrap_or(port) {
        "*" => Ok((host, None)),
        digits => match digits.parse() {
            Ok(port) if port > 0 => Ok((host, Some(port))),
            _ => Err(PatternError::Port),
        },
    }
}

/// A number pattern without visual separators (RFC 3966 §5.1.1) where it looks like a telephone number.
fn number_glob(text: &str) -> Result<Glob, PatternError> {
    if text.contains([';', '?']) {
        return Err(PatternError::Parameters);
    }
    let glob = |text: &str| Glob::try_map(text, unescape);
    if text.chars().all(|c| is_dialled(c) || is_separator(c)) {
        return glob(&text.replace(is_separator, ""));
    }
    glob(text)
}

/// A visual separator of RFC 3966 §5.1.1.
pub(super) fn is_separator(c: char) -> bool {
    matches!(c, '-' | '.' | '(' | ')')
}

/// What a telephone number is made of; `*` is also the wildcard.
pub(super) fn is_dialled(c: char) -> bool {
    c.is_ascii_digit() || matches!(c, '+' | '*' | '#')
}

fn unescape(part: &str) -> Result<String, PatternError> {
    let text = percent_decode(part, |_| true);
    text.map(String::from).ok_or(PatternError::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sip_target<'a>(user: &'a str, host: &'a str, port: Option<u16>) -> Candidate<'a> {
        Candidate::Sip {
            sips: false,
            user,
            host,
            port,
            to_via: false,
        }
    }

    fn matches(pattern: &str, candidate: &Candidate<'_>) -> bool {
        TargetPattern::parse(pattern).unwrap().matches(candidate)
    }

    #[test]
    fn a_bare_number_matches_tel_and_what_goes_to_via() {
        let tel = Candidate::Tel {
            number: "+1234567890",
        };
        for pattern in [
            "+1234567890",
            "+1 ",
            "+1-234-567-890",
            "+1*",
            "*",
            "tel:+1*",
        ] {
            match TargetPattern::parse(pattern) {
                Ok(parsed) => assert!(parsed.matches(&tel), "{pattern}"),
                Err(error) => assert_eq!(error, PatternError::Character(' ')),
            }
        }
        assert!(!matches("1234567890", &tel), "a leading + is significant");
        assert!(!matches("sip:+1*@192.0.2.4", &tel));
        let mut sip = sip_target("+1234567890", "edge.example.net", None);
        assert!(!matches("+1*", &sip));
        assert!(!matches("tel:+1*", &sip));
        if let Candidate::Sip { to_via, .. } = &mut sip {
            *to_via = true;
        }
        assert!(matches("+1*", &sip));
        assert!(!matches("tel:+1*", &sip));
    }

    #[test]
    fn a_wildcard_stays_in_its_component() {
        assert!(matches(
            "sip:*@192.0.2.4",
            &sip_target("bob", "192.0.2.4", None)
        ));
        assert!(!matches(
            "sip:*@192.0.2.4",
            &sip_target("bob", "192.0.2.40", None)
        ));
        let disguised = sip_target("x@192.0.2.4", "203.0.113.9", None);
        assert!(!matches("sip:*@192.0.2.4", &disguised));
        assert!(matches(
            "sip:a*@*.example.net",
            &sip_target("ab", "x.example.net", None)
        ));
        assert!(!matches(
            "sip:a*@*.example.net",
            &sip_target("ab", "example.net", None)
        ));
        assert!(!matches(
            "sip:a*@*.example.net",
            &sip_target("b", "x.example.net", None)
        ));
    }

    #[test]
    fn scheme_host_and_port_are_compared_as_parsed() {
        let target = sip_target("bob", "2001:db8::4", Some(5070));
        assert!(matches("sip:bob@[2001:DB8:0::4]:5070", &target));
        assert!(matches("SIP:bob@[2001:db8::4]", &target));
        assert!(matches("sip:bob@[2001:db8::4]:*", &target));
        assert!(!matches("sip:bob@[2001:db8::4]:5060", &target));
        assert!(!matches("sips:bob@[2001:db8::4]", &target));
        let plain = sip_target("bob", "host.example.net", None);
        assert!(matches("sip:bob@HOST.example.net:5060", &plain));
        assert!(!matches("sip:bob@host.example.net:5061", &plain));
        assert!(
            !matches("sip:Bob@host.example.net", &plain),
            "users have a case"
        );
    }

    #[test]
    fn escapes_in_a_pattern_are_literal() {
        assert!(matches("sip:a%2Ab@h", &sip_target("a*b", "h", None)));
        assert!(!matches("sip:a%2Ab@h", &sip_target("axb", "h", None)));
        assert!(matches("sip:%61%20b@h", &sip_target("a b", "h", None)));
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        use PatternError as E;
        for (text, expected) in [
            ("", E::Empty),
            ("http://example.net", E::Scheme("http".to_owned())),
            ("bob@example.net", E::NoScheme),
            ("sip*:bob@example.net", E::Scheme("sip*".to_owned())),
            ("sip:example.net", E::NoUser),
            ("sip:@example.net", E::NoUser),
            ("tel:", E::NoUser),
            ("sip:bob@", E::NoHost),
            ("sip:bob@:5060", E::NoHost),
            ("sip:bob:secret@example.net", E::Password),
            ("sip:bob@example.net;transport=tcp", E::Parameters),
            ("sip:bob@example.net?Subject=x", E::Parameters),
            ("tel:+1;phone-context=x", E::Parameters),
            ("sip:bob@example.net:0", E::Port),
            ("sip:bob@example.net:sip", E::Port),
            ("sip:bob@evil@example.net", E::ManyAts),
            ("sip:b%4@example.net", E::Escape),
            ("sip:b%+4b@example.net", E::Escape),
            ("sip:b%ff@example.net", E::Escape),
            ("sip:bob@exa mple.net", E::Character(' ')),
            ("sip:<bob>@example.net", E::Character('<')),
        ] {
            assert_eq!(TargetPattern::parse(text), Err(expected), "{text}");
        }
    }
}
