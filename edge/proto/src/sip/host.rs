//! Hosts and ports as SIP writes them.

use compact_str::CompactString;
use core::fmt;
use core::str::FromStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is wrong with a host or port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("the host is neither a name, an IPv4 address nor a bracketed IPv6 address")]
    Invalid,
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

/// A host (RFC 3261 §25.1 `host`).
///
/// What ends in a number is an address or nothing: `127.1`, `0x7f000001` and `2130706433` would be names here and addresses
/// to a resolver. Other last labels may start with a digit although the grammar wants a letter; containers are named so.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Host {
    /// Lower case, without a trailing dot.
    Name(CompactString),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

impl Host {
    /// The longest DNS name in text form.
    pub const MAX_NAME: usize = 253;

    /// Parses a host; IPv6 addresses in brackets.
    pub fn parse(text: &str) -> Result<Host, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let inner = rest.strip_suffix(']').ok_or(HostError::Invalid)?;
            return parse_ipv6(inner).map(Host::V6).ok_or(HostError::Invalid);
        }
        if text.starts_with(|first: char| first.is_ascii_digit())
            && let Ok(address) = text.parse()
        {
            return Ok(Host::V4(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let top = name.rsplit('.').next().unwrap_or(name);
        if name.len() > Self::MAX_NAME || !name.split('.').all(label) || is_number(top) {
            return Err(HostError::Invalid);
        }
        let mut name = CompactString::from(name);
        name.make_ascii_lowercase();
        Ok(Host::Name(name))
    }

    /// Like [`Host::parse`], but takes an IPv6 address with or without brackets, as `received` and `maddr` may have it
    /// (RFC 5118 §4.5).
    pub fn parse_lenient(text: &str) -> Result<Host, HostError> {
        match text.parse() {
            Ok(address) => Ok(Host::V6(address)),
            Err(_) => Host::parse(text),
        }
    }

    /// The address, when the host is one; IPv4-mapped IPv6 as IPv4.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Host::Name(_) => None,
            Host::V4(address) => Some(IpAddr::V4(*address)),
            Host::V6(address) => Some(IpAddr::V6(*address).to_canonical()),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Host {
        match address {
            IpAddr::V4(address) => Host::V4(address),
            IpAddr::V6(address) => Host::V6(address),
        }
    }
}

impl FromStr for Host {
    type Err = HostError;
    fn from_str(text: &str) -> Result<Host, HostError> {
        Host::parse(text)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::V4(address) => address.fmt(f),
            Host::V6(address) => write!(f, "[{address}]"),
        }
    }
}

/// Whether inet_aton(3) would take the label for a number: decimal, octal or hexadecimal.
fn is_number(label: &str) -> bool {
    match label.split_at_checked(2) {
        Some((prefix, digits)) if prefix.eq_ignore_ascii_case("0x") => {
            digits.bytes().all(|b| b.is_ascii_hexdigit())
        }
        _ => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// An IPv6 address, also with the third colon before an embedded IPv4 address that RFC 3261's grammar produced by mistake and
/// RFC 5118 §4.10 asks to tolerate. It leaves with two.
fn parse_ipv6(text: &str) -> Option<Ipv6Addr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (before, embedded) = text.split_once(":::")?;
    embedded.parse::<Ipv4Addr>().ok()?;
    format!("{before}::{embedded}").parse().ok()
}

/// Parses a port: 1 to 5 digits, not zero.
pub(crate) fn parse_port(text: &str) -> Result<u16, HostError> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(HostError::Port),
        Ok(port) => Ok(port),
    }
}

/// Splits `host[:port]` at the colon that is outside brackets. Neither part is checked.
pub(crate) fn split_host_port(text: &str) -> (&str, Option<&str>) {
    let after_brackets = match text.starts_with('[').then(|| text.find(']')).flatten() {
        Some(bracket) => bracket + 1,
        None => 0,
    };
    match text.split_at_checked(after_brackets) {
        Some((brackets, rest)) => match memchr::memchr(b':', rest.as_bytes()) {
            Some(colon) => {
                let at = brackets.len() + colon;
                let (host, port) = text.split_at_checked(at).unwrap_or((text, ""));
                (host, port.strip_prefix(':'))
            }
            None => (text, None),
        },
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, shown) in [
            ("Example.NET", "example.net"),
            ("example.net.", "example.net"),
            ("a_b.example", "a_b.example"),
            ("localhost", "localhost"),
            ("1and1.example", "1and1.example"),
            ("3f2a9c1b7d11", "3f2a9c1b7d11"),
            ("0xyz", "0xyz"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("[::ffff:192.0.2.1]", "[::ffff:192.0.2.1]"),
            ("[2001:db8:::192.0.2.1]", "[2001:db8::c000:201]"),
        ] {
            assert_eq!(Host::parse(text).unwrap().to_string(), shown);
        }
        assert_eq!(
            Host::parse("[::ffff:192.0.2.1]").unwrap().ip(),
            Some("192.0.2.1".parse().unwrap())
        );
    }

    #[test]
    fn what_resolvers_would_read_as_an_address_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "-a",
            "a-",
            "127.1",
            "127.0.0.01",
            "2130706433",
            "0x7f000001",
            "0X7F.1",
            "127.0.0.0x1",
            "0x",
            "0177.0.0.1",
            "256.0.0.1",
            "1.2.3.4.5",
            "192.0.2.1.",
            "::1",
            "[::1",
            "[::1]x",
            "[]",
            "[192.0.2.1]",
            "[fe80::1%eth0]",
            "[2001:db8:::1]",
            "[2001:db8::::192.0.2.1]",
            "a b",
            "a%2eb",
            "a@b",
            "é.example",
            "a/b",
            "a;b",
            "a\0",
        ] {
            assert!(Host::parse(text).is_err(), "{text:?}");
        }
        assert!(Host::parse(&"a".repeat(64)).is_err());
        assert!(Host::parse(&"a.".repeat(127)).is_ok());
        assert!(Host::parse(&"a.".repeat(128)).is_err());
    }

    #[test]
    fn ports_and_splitting() {
        assert_eq!(parse_port("5060"), Ok(5060));
        for text in ["", "0", "65536", "+5060", "-1", "005060", "5060 ", "1e3"] {
            assert_eq!(parse_port(text), Err(HostError::Port), "{text}");
        }
        assert_eq!(split_host_port("h:1"), ("h", Some("1")));
        assert_eq!(split_host_port("[::1]:1"), ("[::1]", Some("1")));
        assert_eq!(split_host_port("[::1]"), ("[::1]", None));
        assert_eq!(split_host_port("[::1"), ("[", Some(":1")));
    }
}
