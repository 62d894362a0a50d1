//! `Via` values (RFC 3261 §20.42).

use crate::sip::grammar::{is_token_byte, take_while, trim, trim_start};
use crate::sip::host::{Host, HostError, parse_port, split_host_port};
use crate::sip::params::{ParamError, Params};
use compact_str::CompactString;
use core::fmt;
use core::str::FromStr;
use std::net::{IpAddr, SocketAddr};

/// What is wrong with a Via.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ViaError {
    #[error("the protocol is not SIP/2.0/transport")]
    Protocol,
    #[error("the sent-by is wrong: {0}")]
    SentBy(#[from] HostError),
    #[error("a parameter is wrong: {0}")]
    Param(#[from] ParamError),
}

/// One Via value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Via {
    /// Upper case: `UDP`, `TCP`, `TLS`, ...
    pub transport: CompactString,
    pub host: Host,
    pub port: Option<u16>,
    pub params: Params,
}

/// What a branch starts with when it identifies its transaction by itself (RFC 3261 §8.1.1.7).
pub const MAGIC_COOKIE: &str = "z9hG4bK";

impl Via {
    /// A Via with a branch and without `received`/`rport`.
    pub fn new(transport: &str, host: Host, port: Option<u16>, branch: &str) -> Via {
        let mut params = Params::new();
        params.set("branch", Some(branch));
        Via {
            transport: upper_case(transport),
            host,
            port,
            params,
        }
    }

    /// Parses one value; white space around `/`, `:`, `;` and `=` is allowed.
    pub fn parse(text: &str) -> Result<Via, ViaError> {
        let (name, rest) = take_while(trim(text), is_token_byte);
        let (version, rest) = protocol_part(rest)?;
        let (transport, rest) = protocol_part(rest)?;
        if !name.eq_ignore_ascii_case("SIP") || version != "2.0" {
            return Err(ViaError::Protocol);
        }
        if !matches!(rest.as_bytes(), [b' ' | b'\t', ..]) {
            return Err(ViaError::Protocol);
        }
        let (sent_by, params) =
            match memchr::memchr(b';', rest.as_bytes()).and_then(|at| rest.split_at_checked(at)) {
                Some((sent_by, params)) => (trim(sent_by), params),
                None => (trim(rest), ""),
            };
        let (host, port) = split_host_port(sent_by);
        Ok(Via {
            transport: upper_case(transport),
            host: Host::parse(trim(host))?,
            port: port.map(|port| parse_port(trim(port))).transpose()?,
            params: Params::parse_header(params)?,
        })
    }

    /// The `branch` parameter.
    pub fn branch(&self) -> Option<&str> {
        self.params.value("branch")
    }

    /// The branch, when it starts with the magic cookie (compared case-insensitively, as §7.3.1 has it for parameters) and
    /// holds something more.
    pub fn rfc3261_branch(&self) -> Option<&str> {
        self.branch().filter(|branch| {
            branch
                .split_at_checked(MAGIC_COOKIE.len())
                .is_some_and(|(cookie, rest)| {
                    cookie.eq_ignore_ascii_case(MAGIC_COOKIE) && !rest.is_empty()
                })
        })
    }

    /// The `received` parameter, with or without brackets around IPv6.
    pub fn received(&self) -> Option<IpAddr> {
        Host::parse_lenient(self.params.value("received")?)
            .ok()?
            .ip()
    }

    /// The `rport` parameter (RFC 3581): `Some(None)` when a client asks for it, `Some(Some(port))` when filled in.
    pub fn rport(&self) -> Option<Option<u16>> {
        match self.params.get("rport")? {
            Some(port) => parse_port(port).ok().map(Some),
            None => Some(None),
        }
    }

    /// The `maddr` parameter.
    pub fn maddr(&self) -> Option<&str> {
        self.params.value("maddr")
    }

    /// Host and port as written: what §17.2.3 compares.
    pub fn sent_by(&self) -> (&Host, Option<u16>) {
        (&self.host, self.port)
    }

    /// Notes where the request really came from: `received` when it differs from sent-by (RFC 3261 §18.2.1) or `rport` was
    /// asked for, and `rport` then (RFC 3581 §4). What the client itself wrote there is overwritten.
    pub fn stamp(&mut self, source: SocketAddr) {
        let address = source.ip().to_canonical();
        let wants_rport = self.params.contains("rport");
        if wants_rport {
            self.params.set("rport", Some(&source.port().to_string()));
        }
        if wants_rport || self.host.ip() != Some(address) {
            self.params.set("received", Some(&address.to_string()));
        } else {
            self.params.remove("received");
        }
    }
}

fn upper_case(transport: &str) -> CompactString {
    let mut transport = CompactString::from(transport);
    transport.make_ascii_uppercase();
    transport
}

/// `SLASH token` at the front of `text`.
fn protocol_part(text: &str) -> Result<(&str, &str), ViaError> {
    let rest = trim_start(text)
        .strip_prefix('/')
        .ok_or(ViaError::Protocol)?;
    let (token, rest) = take_while(trim_start(rest), is_token_byte);
    if token.is_empty() {
        return Err(ViaError::Protocol);
    }
    Ok((token, rest))
}

impl FromStr for Via {
    type Err = ViaError;
    fn from_str(text: &str) -> Result<Via, ViaError> {
        Via::parse(text)
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIP/2.0/{} {}", self.transport, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        self.params.write_header(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Via {
        Via::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn forms() {
        let via = parse(
            "SIP / 2.0\t/ udp  Host.example : 5070 ; branch = z9hG4bK-1 ;rport;received=192.0.2.7",
        );
        assert_eq!(via.transport, "UDP");
        assert_eq!(
            via.sent_by(),
            (&Host::Name("host.example".into()), Some(5070))
        );
        assert_eq!(via.branch(), Some("z9hG4bK-1"));
        assert_eq!(via.rport(), Some(None));
        assert_eq!(via.received(), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(
            via.to_string(),
            "SIP/2.0/UDP host.example:5070;branch=z9hG4bK-1;rport;received=192.0.2.7"
        );
        let via = parse("SIP/2.0/TLS [2001:db8::1]:5061;received=2001:db8::2;rport=7");
        assert_eq!(via.received(), Some("2001:db8::2".parse().unwrap()));
        assert_eq!(via.rport(), Some(Some(7)));
        assert_eq!(via.rfc3261_branch(), None);
        for (branch, ours) in [
            ("z9hG4bK", false),
            ("Z9HG4BKa", true),
            ("1", false),
            ("z9hG4b\u{e9}", false),
        ] {
            assert_eq!(
                Via::new("tcp", Host::V4([192, 0, 2, 1].into()), None, branch)
                    .rfc3261_branch()
                    .is_some(),
                ours
            );
        }
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP ",
            "SIP/2.0 h",
            "HTTP/2.0/UDP h",
            "SIP/3.0/UDP h",
            "SIP/2.0/UDP;h",
            "SIP/2.0/UDP h:",
            "SIP/2.0/UDP h:0",
            "SIP/2.0/UDP h i",
            "SIP/2.0/UDP ::1",
            "SIP/2.0/UDP h;;",
            "SIP/2.0/UDP h;branch=a;branch=b",
            "SIP/2.0/UDP h, SIP/2.0/UDP i",
            "SIP/2.0/UDPh",
        ] {
            assert!(Via::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn stamping_overwrites_what_the_client_claims() {
        let mut via = parse("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;received=198.51.100.9");
        via.stamp("192.0.2.1:5060".parse().unwrap());
        assert_eq!(via.received(), None);
        via.stamp("[::ffff:192.0.2.2]:1024".parse().unwrap());
        assert_eq!(via.received(), Some("192.0.2.2".parse().unwrap()));
        assert_eq!(via.rport(), None);
        let mut via = parse("SIP/2.0/UDP 192.0.2.1;rport;branch=z9hG4bK1");
        via.stamp("192.0.2.1:1024".parse().unwrap());
        assert_eq!(
            via.to_string(),
            "SIP/2.0/UDP 192.0.2.1;rport=1024;branch=z9hG4bK1;received=192.0.2.1"
        );
        let mut via = parse("SIP/2.0/TCP [2001:db8::1]");
        via.stamp("[2001:db8::2]:1".parse().unwrap());
        assert_eq!(
            via.to_string(),
            "SIP/2.0/TCP [2001:db8::1];received=2001:db8::2"
        );
        assert_eq!(parse(&via.to_string()), via);
    }
}
