//! Which ports of the media addresses somebody has bound a socket to.
//!
//! Without a socket of its own the kernel does not tell that a port is taken. Packets to a port that a call leases go to the call,
//! so whoever else has it would hear nothing meanwhile; such a port is no call's.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

/// The UDP sockets of the thread's network namespace.
const SOCKETS: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];

/// A bit per port.
type Ports = [AtomicU64; 1024];

/// What was found at the last look.
#[derive(Debug)]
pub struct OccupiedPorts {
    addresses: Vec<IpAddr>,
    /// By family (0: IPv4).
    ports: [Box<Ports>; 2],
}

impl OccupiedPorts {
    /// Knows of none yet.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> OccupiedPorts {
        let none = || Box::new([const { AtomicU64::new(0) }; 1024]);
        OccupiedPorts {
            addresses: addresses.into_iter().collect(),
            ports: [none(), none()],
        }
    }

    /// Looks again. Some 100 us, and as much again for each few hundred sockets of the host.
    pub fn look(&self) -> io::Result<()> {
        let found = OccupiedPorts::new([]);
        for path in SOCKETS {
            let text = match fs::read_to_string(path) {
                // No IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text?,
            };
            for bound in text.lines().filter_map(bound_address) {
                for &address in &self.addresses {
                    if takes(bound.ip(), address) {
                        found.mark(SocketAddr::new(address, bound.port()));
                    }
                }
            }
        }
        for (known, found) in self.ports.iter().zip(&found.ports) {
            for (known, found) in known.iter().zip(found.iter()) {
                known.store(found.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Whether `local` was somebody's at the last look.
    pub fn contains(&self, local: SocketAddr) -> bool {
        let (word, bit) = place(local.port());
        let word = self.of(local.ip()).get(word);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// From now on until the next look `local` is nobody's.
    pub fn forget(&self, local: SocketAddr) {
        let (word, bit) = place(local.port());
        if let Some(word) = self.of(local.ip()).get(word) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    fn mark(&self, local: SocketAddr) {
        let (word, bit) = place(local.port());
        if let Some(word) = self.of(local.ip()).get(word) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn of(&self, address: IpAddr) -> &Ports {
        let [v4, v6] = &self.ports;
        if address.is_ipv4() { v4 } else { v6 }
    }
}

fn place(port: u16) -> (usize, u64) {
    (usize::from(port / 64), 1 << (port % 64))
}

/// Whether a socket bound at `bound` may receive what is sent to `address`.
fn takes(bound: IpAddr, address: IpAddr) -> bool {
    match bound {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.is_ipv4(),
        // IPv4 as well, unless it is for IPv6 only, which nobody tells.
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => true,
        bound => bound.to_canonical() == address.to_canonical(),
    }
}

/// The local address in a line of [`SOCKETS`]: the second word, hexadecimal, the address in words of the machine's order.
fn bound_address(line: &str) -> Option<SocketAddr> {
    let (address, port) = line.split_whitespace().nth(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |from: usize| {
        let digits = address.get(from..from + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => word(0)?.into(),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let mut octets = [0; 16];
            for (to, from) in octets.iter_mut().zip(words.as_flattened()) {
                *to = *from;
            }
            octets.into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_port_is_occupied_while_a_socket_is_bound_there() {
        let (here, there): (IpAddr, IpAddr) =
            ("127.0.0.71".parse().unwrap(), "127.0.0.72".parse().unwrap());
        let loopback6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let occupied = OccupiedPorts::new([here, loopback6]);
        for (bound, seen, unseen) in [
            (here, vec![here], vec![loopback6]),
            (there, vec![], vec![here, loopback6]),
            (Ipv4Addr::UNSPECIFIED.into(), vec![here], vec![loopback6]),
            (loopback6, vec![loopback6], vec![here]),
            (Ipv6Addr::UNSPECIFIED.into(), vec![here, loopback6], vec![]),
        ] {
            let socket = UdpSocket::bind((bound, 0)).unwrap();
            let port = socket.local_addr().unwrap().port();
            let is_occupied = |ip: &IpAddr| occupied.contains(SocketAddr::new(*ip, port));
            occupied.look().unwrap();
            assert!(seen.iter().all(is_occupied), "{bound}");
            assert!(!unseen.iter().any(is_occupied), "{bound}");
        }
    }

    #[test]
    fn what_the_kernel_writes_is_read_and_nothing_else() {
        let line = |local: &str| format!("  123: {local} 00000000:0000 07 00000000:00000000 00:0");
        if cfg!(target_endian = "little") {
            let v4 = bound_address(&line("0100007F:2710")).unwrap();
            assert_eq!(v4, "127.0.0.1:10000".parse().unwrap());
            let v6 = bound_address(&line("B80D0120000000000000000001000000:FFFF")).unwrap();
            assert_eq!(v6, "[2001:db8::1]:65535".parse().unwrap());
        }
        for bad in [
            "local_address",
            "0100007F",
            "0100007:1",
            "0100007F:10000",
            "é100007F:1",
        ] {
            assert_eq!(bound_address(&line(bad)), None);
        }
        assert_eq!(bound_address(""), None);
    }
}
