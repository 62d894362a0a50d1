//! Who has which media ports of this host's network namespace.
//!
//! Where ports have no sockets of their own, the kernel does not keep two edges from using the same one. So each says which range it uses
//! at which address, by the name of a unix socket in the abstract namespace (unix(7)): everybody in the network namespace sees it, and it
//! is gone when the process is.

use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use thiserror::Error;

/// How all names begin.
const PREFIX: &str = "sip-edge/media";

/// The sockets of the thread's network namespace.
const SOCKETS: &str = "/proc/thread-self/net/unix";

/// Whether the claimed ports have sockets of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// They have, and the kernel gives each to one process. Several may claim a range so.
    Shared,
    /// They have none: nobody else may use any of them.
    Sole,
}

/// A claim, for as long as it lives.
#[derive(Debug)]
pub struct PortClaim {
    #[expect(dead_code, reason = "its name is the claim")]
    socket: Socket,
}

#[derive(Debug, Error)]
pub enum ClaimError {
    #[error("another edge (process {process}) uses ports {}-{} at {address}", ports.start(), ports.end())]
    Taken {
        process: u32,
        address: IpAddr,
        ports: RangeInclusive<u16>,
    },
    #[error("{doing}: {error}")]
    System {
        doing: &'static str,
        error: io::Error,
    },
}

impl PortClaim {
    /// Claims `ports` at `address` (a wildcard: at every address of its family). Of two that claim at the same moment, both may be refused, but
    /// never neither.
    pub fn take(
        address: IpAddr,
        ports: RangeInclusive<u16>,
        usage: Use,
    ) -> Result<PortClaim, ClaimError> {
        // One process may claim a range twice.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let own = Name {
            address,
            ports,
            usage,
            process: std::process::id(),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
        };
        let system = |doing| move |error| ClaimError::System { doing, error };
        let bind = || {
            let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
            socket.bind(&SockAddr::unix(format!("\0{own}"))?)?;
            Ok(socket)
        };
        // First said, then looked: of two, the later one sees the other.
        let socket = bind().map_err(system("claiming the media ports"))?;
        let sockets = std::fs::read_to_string(SOCKETS).map_err(system(SOCKETS))?;
        let other = sockets
            .lines()
            .filter_map(Name::find)
            .find(|other| *other != own && other.excludes(&own));
        match other {
            None => Ok(PortClaim { socket }),
            Some(other) => Err(ClaimError::Taken {
                process: other.process,
                address: other.address,
                ports: other.ports,
            }),
        }
    }
}

/// What a claim's socket is called.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Name {
    address: IpAddr,
    ports: RangeInclusive<u16>,
    usage: Use,
    process: u32,
    number: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Name {
            address,
            ports,
            usage,
            process,
            number,
        } = self;
        let usage = match usage {
            Use::Shared => "shared",
            Use::Sole => "sole",
        };
        let (first, last) = (ports.start(), ports.end());
        write!(
            f,
            "{PREFIX}/{address}/{first}-{last}/{usage}/{process}/{number}"
        )
    }
}

impl Name {
    /// The claim in a line of [`SOCKETS`], if there is one.
    fn find(line: &str) -> Option<Name> {
        let (_, name) = line.split_once(" @")?;
        let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('/')?.split('/');
        let address = parts.next()?.parse().ok()?;
        let (first, last) = parts.next()?.split_once('-')?;
        let usage = match parts.next()? {
            "shared" => Use::Shared,
            "sole" => Use::Sole,
            _ => return None,
        };
        Some(Name {
            address,
            ports: first.parse().ok()?..=last.parse().ok()?,
            usage,
            process: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        })
    }

    /// Whether not both can be.
    fn excludes(&self, other: &Name) -> bool {
        let one_family = self.address.is_ipv4() == other.address.is_ipv4();
        let one_place = self.address == other.address
            || self.address.is_unspecified()
            || other.address.is_unspecified();
        let one_port =
            self.ports.start() <= other.ports.end() && other.ports.start() <= self.ports.end();
        let sole = [self.usage, other.usage].contains(&Use::Sole);
        one_family && one_place && one_port && sole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(
        address: &str,
        ports: RangeInclusive<u16>,
        usage: Use,
    ) -> Result<PortClaim, ClaimError> {
        PortClaim::take(address.parse().unwrap(), ports, usage)
    }

    fn is_taken(claim: &Result<PortClaim, ClaimError>) -> bool {
        matches!(claim, Err(ClaimError::Taken { process, .. }) if *process == std::process::id())
    }

    #[test]
    fn a_range_of_its_own_meets_no_other() {
        // Nobody else's: the addresses are for documentation.
        let sole = take("192.0.2.71", 10_000..=20_000, Use::Sole).unwrap();
        let meets = [
            ("192.0.2.71", 10_000..=20_000),
            ("192.0.2.71", 20_000..=20_001),
            ("192.0.2.71", 1..=10_000),
            ("192.0.2.71", 11_000..=11_001),
            ("192.0.2.71", 1..=65_535),
            ("0.0.0.0", 20_000..=30_000),
        ];
        for (address, ports) in meets {
            for usage in [Use::Sole, Use::Shared] {
                assert!(
                    is_taken(&take(address, ports.clone(), usage)),
                    "{address} {ports:?}"
                );
            }
        }
        for (address, ports) in [
            ("192.0.2.71", 1..=9_999),
            ("192.0.2.71", 20_001..=20_001),
            ("192.0.2.72", 10_000..=20_000),
            ("2001:db8::71", 10_000..=20_000),
        ] {
            take(address, ports, Use::Sole).unwrap();
        }
        let error = take("192.0.2.71", 10_000..=10_001, Use::Shared).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("10000-20000 at 192.0.2.71"), "{text}");
        drop(sole);
        take("192.0.2.71", 10_000..=20_000, Use::Sole).unwrap();
    }

    #[test]
    fn ranges_with_sockets_may_meet_but_no_sole_one() {
        let shared = [(); 2].map(|()| take("2001:db8::73", 10_000..=20_000, Use::Shared).unwrap());
        assert!(is_taken(&take("2001:db8::73", 15_000..=15_001, Use::Sole)));
        drop(shared);
        take("2001:db8::73", 15_000..=15_001, Use::Sole).unwrap();
    }

    #[test]
    fn other_names_are_no_claims() {
        let line =
            |name: &str| format!("0000000000000000: 00000002 00000000 00000000 0002 01 123 {name}");
        let name = "@sip-edge/media/192.0.2.1/1-2/sole/3/4";
        assert!(Name::find(&line(name)).is_some());
        for other in [
            "",
            "@",
            "/run/x",
            "@sip-edge/media",
            "@sip-edge/media/192.0.2.1/1-2/sole/3/",
        ] {
            assert_eq!(Name::find(&line(other)), None);
        }
        for end in 0..name.len() {
            let _ = Name::find(&line(&name[..end]));
        }
    }
}
