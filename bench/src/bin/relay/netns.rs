//! Two network namespaces joined by a veth pair: the relay's, and the generator's, whose end has no address. Packets to the
//! generator are addressed to a MAC that is nobody's, so that its IP stack drops them at once and only the generator's packet
//! socket sees them.

use crate::plan::{GATEWAY, PEERS, PREFIX, RELAY};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

const PEER_LINK: &str = "peers";
const RELAY_LINK: &str = "relay";
/// Nobody's.
pub const PEER_MAC: [u8; 6] = [2, 0, 0x5e, 0, 0, 0x99];

/// Removed when dropped.
pub struct Network {
    relay: String,
    peers: String,
    pub relay_mac: [u8; 6],
}

impl Network {
    /// Needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
    pub fn new() -> Result<Network> {
        remove_stale();
        let id = std::process::id();
        let mut network = Network {
            relay: format!("edge-bench-relay-{id}"),
            peers: format!("edge-bench-peers-{id}"),
            relay_mac: [0; 6],
        };
        let (relay, peers) = (network.relay.clone(), network.peers.clone());
        ip(&["netns", "add", &relay])?;
        ip(&["netns", "add", &peers])?;
        ip(&[
            "-n", &relay, "link", "add", RELAY_LINK, "type", "veth", "peer", "name", PEER_LINK,
            "netns", &peers,
        ])?;
        for (namespace, link) in [(&relay, RELAY_LINK), (&peers, PEER_LINK)] {
            // No router solicitations in between.
            ip(&["-n", namespace, "link", "set", link, "addrgenmode", "none"])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", namespace, "link", "set", link, "up"])?;
        }
        let address = format!("{RELAY}/{PREFIX}");
        ip(&["-n", &relay, "address", "add", &address, "dev", RELAY_LINK])?;
        let (gateway, mac) = (GATEWAY.to_string(), text(PEER_MAC));
        ip(&[
            "-n",
            &relay,
            "neighbour",
            "add",
            &gateway,
            "lladdr",
            &mac,
            "dev",
            RELAY_LINK,
            "nud",
            "permanent",
        ])?;
        ip(&[
            "-n",
            &relay,
            "route",
            "add",
            &PEERS.to_string(),
            "via",
            &gateway,
        ])?;
        network.relay_mac = network.in_relay(|| link_mac(RELAY_LINK))?;
        Ok(network)
    }

    /// Runs `action` on a thread of its own in the relay's namespace. Sockets that it makes stay there.
    pub fn in_relay<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        within(&self.relay, action)
    }

    /// The same in the generator's.
    pub fn in_peers<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        within(&self.peers, action)
    }

    /// The namespace for a relay process.
    pub fn relay_namespace(&self) -> Result<File> {
        open(&self.relay)
    }

    pub const fn peer_link(&self) -> &'static str {
        PEER_LINK
    }

    /// Packets that the relay sent and that the other end of its link had no room for so far.
    pub fn link_drops(&self) -> Result<u64> {
        // After the colon: eight counters of what came, then octets, packets, errors and drops of what left (netdev_seq_show).
        const DROPS: usize = 8 + 3;
        self.in_relay(|| {
            let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
            let mut links = text.lines().filter_map(|line| line.trim().split_once(':'));
            links
                .find(|(name, _)| *name == RELAY_LINK)
                .and_then(|(_, counters)| counters.split_whitespace().nth(DROPS)?.parse().ok())
                .context("no counters of the link in /proc/net/dev")
        })
    }

    /// UDP datagrams that the relay's sockets had no room for so far.
    pub fn relay_socket_drops(&self) -> Result<u64> {
        self.in_relay(|| {
            let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
            let mut udp = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
            let (names, values) = (udp.next().unwrap_or(""), udp.next().unwrap_or(""));
            names
                .split(' ')
                .zip(values.split(' '))
                .find(|(name, _)| *name == "RcvbufErrors")
                .and_then(|(_, value)| value.parse().ok())
                .context("no RcvbufErrors in /proc/net/snmp")
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.relay, &self.peers] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

/// Removes what a bench left that was killed.
fn remove_stale() {
    let Ok(names) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for name in names.flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix("edge-bench-")
            .and_then(|rest| rest.rsplit('-').next());
        if let Some(owner) = owner
            && !std::path::Path::new("/proc").join(owner).exists()
        {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// The interface's hardware address, in the calling thread's namespace.
fn link_mac(link: &str) -> Result<[u8; 6]> {
    // SAFETY: an ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *to = from as libc::c_char;
    }
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    // SAFETY: `request` is an ifreq that outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) } != 0 {
        return Err(std::io::Error::last_os_error()).context("SIOCGIFHWADDR");
    }
    // SAFETY: the kernel has filled in this member.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr }.sa_data;
    Ok(std::array::from_fn(|n| address[n] as u8))
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

fn open(namespace: &str) -> Result<File> {
    let path = format!("/run/netns/{namespace}");
    File::open(&path).with_context(|| path)
}

fn within<T: Send>(namespace: &str, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = open(namespace)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: setns takes a file descriptor and touches the calling thread alone.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(std::io::Error::last_os_error()).context("setns");
            }
            action()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("running ip (package iproute2)")?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )
}
