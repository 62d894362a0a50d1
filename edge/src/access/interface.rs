//! What the kernel says about a network interface: its index, whether it carries Ethernet, and which XDP program it runs. Asked
//! over rtnetlink, which answers for the network namespace of the calling thread.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use std::time::{Duration, Instant};
use thiserror::Error;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
/// The attribute's length field ignores these two bits of the type.
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSG_HEADER: usize = 16;
const IFINFO: usize = 16;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
/// An answer about one link is some 2 kB; virtual functions and statistics are not asked for.
const ANSWER_BYTES: usize = 64 * 1024;
/// Far more than a grace period of the kernel's.
const LETTING_GO: Duration = Duration::from_secs(1);
/// IFNAMSIZ, with its final zero.
const NAME_BYTES: usize = 16;

/// An interface as the kernel describes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    pub index: u32,
    /// Whether frames start with an Ethernet header, which the program expects.
    pub ethernet: bool,
    /// Ids of the programs attached in native and in generic mode.
    pub native: Option<u32>,
    pub generic: Option<u32>,
}

/// Why the kernel told nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InterfaceError {
    #[error("no such interface")]
    Absent,
    #[error("not a name that an interface can have")]
    Name,
    #[error("the kernel could not be asked about it: {0}")]
    Netlink(Errno),
    #[error("the kernel's answer about it is not understood")]
    Answer,
}

/// The interface called `name`.
pub fn query(name: &str) -> Result<Interface, InterfaceError> {
    if name.is_empty() || name.len() >= NAME_BYTES || name.bytes().any(|b| b == 0 || b == b'/') {
        return Err(InterfaceError::Name);
    }
    // Protocol 0 is NETLINK_ROUTE.
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(InterfaceError::Netlink)?;
    ask(&socket, &request(name))
        .map_err(InterfaceError::Netlink)
        .and_then(|answer| parse(&answer))
}

/// Waits until what `before` shows attached to `name` is not any more: the kernel lets go of an attachment that was pinned
/// only some time after its last holder did. Gives up after a second, and what follows sees the rest.
pub fn await_release(name: &str, before: Interface) {
    let end = Instant::now() + LETTING_GO;
    let holds = |now: Interface| {
        let same = |before: Option<u32>, now| before.is_some() && before == now;
        now.index == before.index
            && (same(before.native, now.native) || same(before.generic, now.generic))
    };
    while query(name).is_ok_and(holds) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ask(socket: &OwnedFd, request: &[u8]) -> Result<Vec<u8>, Errno> {
    send(socket, request, SendFlags::empty())?;
    // The kernel answers while it takes the request: there is nothing to wait for.
    let mut answer = vec![0; ANSWER_BYTES];
    let (length, _) = recv(socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    answer.truncate(length);
    Ok(answer)
}

fn request(name: &str) -> Vec<u8> {
    let attribute = 4 + name.len() + 1;
    let length = NLMSG_HEADER + IFINFO + attribute.next_multiple_of(4);
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_ne_bytes());
    message.extend_from_slice(&RTM_GETLINK.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message.extend_from_slice(&[0; 8 + IFINFO]);
    message.extend_from_slice(&u16::try_from(attribute).unwrap_or(0).to_ne_bytes());
    message.extend_from_slice(&IFLA_IFNAME.to_ne_bytes());
    message.extend_from_slice(name.as_bytes());
    message.resize(length, 0);
    message
}

fn parse(answer: &[u8]) -> Result<Interface, InterfaceError> {
    let kind = u16_at(answer, 4).ok_or(InterfaceError::Answer)?;
    if kind == NLMSG_ERROR {
        let code = u32_at(answer, NLMSG_HEADER)
            .ok_or(InterfaceError::Answer)?
            .cast_signed();
        let errno = Errno::from_raw_os_error(code.saturating_neg());
        return Err(match errno {
            Errno::NODEV => InterfaceError::Absent,
            other => InterfaceError::Netlink(other),
        });
    }
    let body = answer.get(NLMSG_HEADER..).ok_or(InterfaceError::Answer)?;
    let (Some(hardware), Some(index), Some(rest)) =
        (u16_at(body, 2), u32_at(body, 4), body.get(IFINFO..))
    else {
        return Err(InterfaceError::Answer);
    };
    if kind != RTM_NEWLINK {
        return Err(InterfaceError::Answer);
    }
    let xdp = attributes(rest).find(|(kind, _)| *kind == IFLA_XDP);
    let id = |wanted| {
        let (_, nested) = xdp?;
        let (_, value) = attributes(nested).find(|(kind, _)| *kind == wanted)?;
        u32_at(value, 0)
    };
    Ok(Interface {
        index,
        ethernet: matches!(hardware, ARPHRD_ETHER | ARPHRD_LOOPBACK),
        native: id(IFLA_XDP_DRV_PROG_ID),
        generic: id(IFLA_XDP_SKB_PROG_ID),
    })
}

/// (type, value) of each attribute; ends at the first one that does not fit.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let (field, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_ne_bytes(*field))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let (field, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_ne_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_there() {
        let lo = query("lo").unwrap();
        assert_eq!(lo.index, 1);
        assert!(lo.ethernet);
    }

    #[test]
    fn what_is_not_there_or_cannot_be_is_told_apart() {
        assert_eq!(query("sip-edge-none"), Err(InterfaceError::Absent));
        for name in ["", "a/b", "longer-than-a-name-can-be", "nul\0"] {
            assert_eq!(query(name), Err(InterfaceError::Name), "{name:?}");
        }
    }

    #[test]
    fn attributes_end_at_the_first_that_does_not_fit() {
        let bytes = [5, 0, 3, 0, b'x', 0, 0, 0, 200, 0, 4, 0];
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all, [(3, &b"x"[..])]);
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
    }
}
