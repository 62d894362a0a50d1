//! The texts of the configuration that mean something: addresses, prefixes, hosts, URIs, port ranges, names.

use edge_proto::config::{Transport, TrunkUri};
use edge_proto::sip::uri::{Host, Uri};
use edge_proto::trunk::canonical_host;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// The longest name of a trunk or listener, in bytes. Names are metric labels.
const MAX_NAME: usize = 64;

/// An IP address and a port.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let parsed = text.parse::<SocketAddr>().ok().filter(|a| a.port() > 0);
    parsed.ok_or_else(|| {
        format!("expected an IP address and a port such as \"192.0.2.1:5060\" or \"[2001:db8::1]:5060\", found {text:?}")
    })
}

/// `advertise` of a listener: an address, perhaps with a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Advertise {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

pub(super) fn advertise(text: &str) -> Result<Advertise, String> {
    if let Ok(ip) = ip_address(text) {
        return Ok(Advertise { ip, port: None });
    }
    let address = text.parse::<SocketAddr>().ok().filter(|a| a.port() > 0);
    let advertise = address.map(|address| Advertise {
        ip: address.ip(),
        port: Some(address.port()),
    });
    advertise.ok_or_else(|| {
        format!("expected an IP address, or one with a port such as \"203.0.113.10:5060\", found {text:?}")
    })
}

pub(super) fn ip_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        format!("expected an IP address such as \"192.0.2.1\" or \"2001:db8::1\", found {text:?}")
    })
}

/// A DNS server: an address, perhaps with a port; 53 without.
pub(super) fn dns_server(text: &str) -> Result<SocketAddr, String> {
    advertise(text)
        .map(|server| SocketAddr::new(server.ip, server.port.unwrap_or(53)))
        .map_err(|_| {
            format!("expected the address of a DNS server such as \"192.0.2.53\" or \"127.0.0.1:5353\", found {text:?}")
        })
}

/// A prefix or an address, host bits kept.
pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    let parsed = text.parse::<IpNet>().ok().or_else(address);
    parsed.ok_or_else(|| {
        format!("expected an IP address or prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\", found {text:?}")
    })
}

/// `LOW-HIGH`.
pub(super) fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let split = text.split_once('-');
    let bounds = split.and_then(|(low, high)| {
        let low: u16 = low.trim().parse().ok()?;
        Some((low, high.trim().parse().ok()?))
    });
    match bounds {
        Some((low, high)) if (1024..high).contains(&low) => Ok(low..=high),
        _ => Err(format!(
            "expected two ports from 1024 to 65535, the lower one first, such as \"10000-60000\", found {text:?}"
        )),
    }
}

/// A host name or address, as hosts are compared.
pub(super) fn host(text: &str) -> Result<String, String> {
    let bracketed = match text.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => text.to_owned(),
    };
    match Host::parse(&bracketed) {
        Ok(_) => Ok(canonical_host(text)),
        Err(fault) => Err(format!(
            "expected a host name or an IP address, found {text:?}: {fault}"
        )),
    }
}

/// A name for a trunk or a listener.
pub(super) fn name(text: &str) -> Result<String, String> {
    let fits =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '[' | ']');
    if text.is_empty() || text.len() > MAX_NAME || !text.chars().all(fits) {
        return Err(format!(
            "expected a name of 1 to {MAX_NAME} letters, digits, \"-\", \"_\" and \".\", found {text:?}"
        ));
    }
    Ok(text.to_owned())
}

/// Text that will stand in a SIP header or a file name: not empty, no control characters, no more than 1,024 bytes.
pub(super) fn plain_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("expected some text, found an empty string".to_owned());
    }
    if text.len() > 1024 {
        return Err("expected at most 1024 bytes".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("expected text without control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// Text for the user part of a URI, possibly empty.
pub(super) fn user_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    plain_text(text)
}

/// `uri` of a trunk: where its calls go.
pub(super) fn trunk_uri(text: &str) -> Result<TrunkUri, String> {
    const EXPECTED: &str =
        "expected a URI such as \"sip:192.0.2.4:5060;transport=tcp\" or \"sips:sip.example.net\"";
    let uri = match Uri::parse(text) {
        Ok(Uri::Sip(uri)) => uri,
        Ok(other) => {
            return Err(format!("{EXPECTED}, found the scheme {}:", other.scheme()));
        }
        Err(fault) => return Err(format!("{EXPECTED}, found {text:?}: {fault}")),
    };
    if uri.user.is_some() || uri.password.is_some() {
        return Err(format!(
            "{EXPECTED}, found a user part; the called number takes its place"
        ));
    }
    if !uri.headers.is_empty() {
        return Err(format!("{EXPECTED}, found headers"));
    }
    if let Some((other, _)) = uri
        .params
        .iter()
        .find(|(name, _)| !name.eq_ignore_ascii_case("transport"))
    {
        return Err(format!("{EXPECTED}, found the parameter {other:?}"));
    }
    let transport = match uri.transport().map(str::to_ascii_lowercase).as_deref() {
        None if uri.params.contains("transport") => {
            return Err(format!("{EXPECTED}, found transport without a value"));
        }
        Some("tls") => Transport::Tls,
        None | Some("tcp") if uri.sips => Transport::Tls,
        None | Some("tcp") => Transport::Tcp,
        Some("udp") if !uri.sips => Transport::Udp,
        Some(other) => {
            let scheme = uri.scheme();
            return Err(format!(
                "{EXPECTED}, found transport={other} in a {scheme}: URI"
            ));
        }
    };
    Ok(TrunkUri {
        host: canonical_host(&uri.host.to_string()),
        port: uri.port,
        transport,
        sips: uri.sips,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trunk_uris() {
        let read = |text| trunk_uri(text).map(|u| (u.host, u.port, u.transport, u.sips));
        let host = |text: &str| text.to_owned();
        assert_eq!(
            read("sip:192.0.2.4"),
            Ok((host("192.0.2.4"), None, Transport::Tcp, false))
        );
        assert_eq!(
            read("sip:[2001:DB8::4]:5070;transport=TLS"),
            Ok((host("2001:db8::4"), Some(5070), Transport::Tls, false))
        );
        assert_eq!(
            read("sips:SIP.example.net;transport=tcp"),
            Ok((host("sip.example.net"), None, Transport::Tls, true))
        );
        assert_eq!(
            read("sip:h;transport=udp"),
            Ok((host("h"), None, Transport::Udp, false))
        );
        for bad in [
            "192.0.2.4",
            "tel:+1",
            "sip:bob@h",
            "sip:h;lr",
            "sip:h?a=b",
            "sip:h;transport=sctp",
            "sips:h;transport=udp",
            "sip:h;transport",
            "sip:",
            "sip:h:0",
        ] {
            assert!(trunk_uri(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn port_ranges() {
        assert_eq!(port_range("10000-60000"), Ok(10_000..=60_000));
        assert_eq!(port_range(" 1024 - 1025 "), Ok(1024..=1025));
        for bad in [
            "",
            "10000",
            "1000-2000",
            "20000-10000",
            "10000-10000",
            "10000-70000",
            "a-b",
        ] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts() {
        for (text, expected) in [
            ("Fra.EU.example.net.", "fra.eu.example.net"),
            ("[2001:db8:0::1]", "2001:db8::1"),
            ("2001:db8:0::1", "2001:db8::1"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(host(text).as_deref(), Ok(expected));
        }
        for bad in ["", "a b", "host:5060", "sip:host", "*.example.net"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
