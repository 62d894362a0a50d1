//! Who has which media ports of this host's network namespace.
//!
//! Where ports have no sockets of their own, the kernel does not keep two edges from using the same one. So each says which range it uses
//! at which address, by the name of a unix socket in the abstract namespace (unix(7)): everybody in the network namespace sees it, and it
//! is gone when the process is.

use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use thiserror::Error;

/// How all names begin.
const PREFIX: &str = "sip-edge/media";

/// The sockets of the thread's network namespace.
const SOCKETS: &str = "/proc/thread-self/net/unix";

/// Claims of the same range at most.
const NUMBERS: u32 = 256;

/// Others that may ask whose a claim is, during its life.
const QUESTIONS: i32 = 4096;

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
    name: Name,
    #[expect(dead_code, reason = "its name is the claim")]
    socket: Socket,
}

#[derive(Debug, Error)]
pub enum ClaimError {
    #[error("another edge (process {process}) uses ports {}-{} at {address}", ports.start(), ports.end())]
    Taken {
        /// As this process's namespace of processes numbers it; 0: it is in another.
        process: i32,
        address: IpAddr,
        ports: RangeInclusive<u16>,
    },
    #[error("{doing}: {error}")]
    System {
        doing: &'static str,
        error: io::Error,
    },
}

impl ClaimError {
    fn system(doing: &'static str) -> impl FnOnce(io::Error) -> ClaimError {
        move |error| ClaimError::System { doing, error }
    }
}

impl PortClaim {
    /// Says that this process uses `ports` at `address` (a wildcard: at every address of its family).
    pub fn say(
        address: IpAddr,
        ports: RangeInclusive<u16>,
        usage: Use,
    ) -> Result<PortClaim, ClaimError> {
        let mut name = Name {
            address,
            ports,
            usage,
            number: 0,
        };
        loop {
            match name.listen() {
                Ok(socket) => return Ok(PortClaim { name, socket }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && name.number < NUMBERS => {
                    name.number += 1;
                }
                Err(error) => return Err(ClaimError::system("claiming the media ports")(error)),
            }
        }
    }

    /// The error names another claim that excludes this one. Of two that say theirs and look at the same moment, both may find the
    /// other, but never neither.
    pub fn look(&self) -> Result<(), ClaimError> {
        let sockets = std::fs::read(SOCKETS).map_err(ClaimError::system(SOCKETS))?;
        // Names are octets, anybody's.
        let sockets = String::from_utf8_lossy(&sockets);
        let others = sockets
            .lines()
            .filter_map(Name::find)
            .filter(|other| *other != self.name && other.excludes(&self.name));
        for other in others {
            if let Some(process) = other.claimant() {
                return Err(ClaimError::Taken {
                    process,
                    address: other.address,
                    ports: other.ports,
                });
            }
        }
        Ok(())
    }

    /// [`PortClaim::say`], then [`PortClaim::look`].
    pub fn take(
        address: IpAddr,
        ports: RangeInclusive<u16>,
        usage: Use,
    ) -> Result<PortClaim, ClaimError> {
        let claim = PortClaim::say(address, ports, usage)?;
        claim.look()?;
        Ok(claim)
    }
}

/// What a claim's socket is called.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Name {
    address: IpAddr,
    ports: RangeInclusive<u16>,
    usage: Use,
    /// Tells those apart that claim the same.
    number: u32,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Name {
            address,
            ports,
            usage,
            number,
        } = self;
        let usage = match usage {
            Use::Shared => "shared",
            Use::Sole => "sole",
        };
        let (first, last) = (ports.start(), ports.end());
        write!(f, "{PREFIX}/{address}/{first}-{last}/{usage}/{number}")
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
            number: parts.next()?.parse().ok()?,
        })
    }

    fn address(&self) -> io::Result<SockAddr> {
        SockAddr::unix(format!("\0{self}"))
    }

    /// A socket of this name, which tells whoever connects whose it is.
    fn listen(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&self.address()?)?;
        socket.listen(QUESTIONS)?;
        Ok(socket)
    }

    /// The process whose claim it is. Anybody may give a socket such a name: root and this process's own user are believed.
    fn claimant(&self) -> Option<i32> {
        let ask = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.connect(&self.address()?)?;
            Ok::<_, io::Error>(socket_peercred(&socket)?)
        };
        let owner = ask().ok()?;
        let believed = owner.uid.is_root() || owner.uid == rustix::process::geteuid();
        believed.then(|| owner.pid.as_raw_nonzero().get())
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
        matches!(claim, Err(ClaimError::Taken { process, .. }) if *process == std::process::id() as i32)
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

    /// Names are octets, and anybody may choose them.
    #[test]
    fn a_name_that_is_no_text_hides_no_claim_and_one_that_nobody_listens_at_is_none() {
        let bind = |name: &[u8]| {
            use std::os::unix::ffi::OsStrExt;
            let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).unwrap();
            let address = SockAddr::unix(std::ffi::OsStr::from_bytes(name)).unwrap();
            socket.bind(&address).unwrap();
            socket
        };
        let _no_text = bind(b"\0\xff\xfe test");
        let sole = take("192.0.2.74", 10_000..=20_000, Use::Sole).unwrap();
        assert!(is_taken(&take("192.0.2.74", 10_000..=20_000, Use::Shared)));
        drop(sole);
        let _pretended = bind(b"\0sip-edge/media/192.0.2.74/1-65535/sole/9");
        take("192.0.2.74", 10_000..=20_000, Use::Sole).unwrap();
    }

    #[test]
    fn other_names_are_no_claims() {
        let line =
            |name: &str| format!("0000000000000000: 00000002 00000000 00000000 0002 01 123 {name}");
        let name = "@sip-edge/media/192.0.2.1/1-2/sole/3";
        assert!(Name::find(&line(name)).is_some());
        for other in [
            "",
            "@",
            "/run/x",
            "@sip-edge/media",
            "@sip-edge/media/192.0.2.1/1-2/sole/",
        ] {
            assert_eq!(Name::find(&line(other)), None);
        }
        for end in 0..name.len() {
            let _ = Name::find(&line(&name[..end]));
        }
    }
}
