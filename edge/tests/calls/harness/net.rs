//! Addresses of one test: a /24 of the loopback network that no other test uses at the same time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

/// Needs no privilege, and lies below the ports that the kernel gives out by itself.
const LOCK_PORT: u16 = 5999;

/// Addresses for the edge and its peers. The lock is a bound port, so it is released when the test's process ends.
pub struct Net {
    pub edge: IpAddr,
    pub carrier: IpAddr,
    pub ai: IpAddr,
    pub human: IpAddr,
    pub stranger: IpAddr,
    _lock: Option<TcpListener>,
}

impl Net {
    /// A fresh /24 of 127.0.0.0/8.
    pub fn v4() -> Net {
        let start = std::process::id();
        for step in 0..25_600u32 {
            let number = 16 * 256 + (start.wrapping_mul(7919).wrapping_add(step)) % (100 * 256);
            let [_, _, a, b] = number.to_be_bytes();
            let host = |last: u8| IpAddr::V4(Ipv4Addr::new(127, a, b, last));
            if let Ok(lock) = TcpListener::bind((host(254), LOCK_PORT)) {
                return Net {
                    edge: host(1),
                    carrier: host(2),
                    ai: host(3),
                    human: host(4),
                    stranger: host(66),
                    _lock: Some(lock),
                };
            }
        }
        panic!("no free loopback network");
    }

    /// The addresses that config/demo.toml names.
    pub fn demo() -> Net {
        let host = |last: u8| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        Net {
            edge: host(1),
            carrier: host(2),
            ai: host(3),
            human: host(4),
            stranger: host(66),
            _lock: None,
        }
    }

    /// Addresses of fd00:ed6e::/64 on the loopback interface of a network namespace that this thread enters; what it starts
    /// is in it, too. `None`, said aloud, without the privilege.
    pub fn v6() -> Option<Net> {
        // SAFETY: a new network namespace changes nothing that this thread's memory or open files depend on.
        let entered =
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.is_ok();
        if !entered {
            eprintln!("SKIPPED: no privilege for a network namespace");
            return None;
        }
        let ip = |arguments: &str| {
            std::process::Command::new("ip")
                .args(arguments.split(' '))
                .status()
                .is_ok_and(|status| status.success())
        };
        assert!(ip("link set lo up"), "the loopback interface comes up");
        let host = |last: u16| IpAddr::V6(Ipv6Addr::new(0xfd00, 0xed6e, 0, 0, 0, 0, 0, last));
        for last in [1, 2, 3, 4, 66] {
            assert!(ip(&format!("-6 addr add {}/128 dev lo nodad", host(last))));
        }
        Some(Net {
            edge: host(1),
            carrier: host(2),
            ai: host(3),
            human: host(4),
            stranger: host(66),
            _lock: None,
        })
    }

    /// Addresses that the test has given out itself.
    pub fn of(edge: IpAddr, [carrier, ai, human, stranger]: [IpAddr; 4]) -> Net {
        Net {
            edge,
            carrier,
            ai,
            human,
            stranger,
            _lock: None,
        }
    }

    /// `address`, in brackets where it is IPv6.
    pub fn host(address: IpAddr) -> String {
        match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        }
    }
}
