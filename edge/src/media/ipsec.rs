//! Whether the host has IPsec policies for what it sends. They may select media by its ports, which the kernel does not look for in what a
//! raw socket sends: such media would leave in the clear.

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

/// `XFRM_MSG_GETSPDINFO` and the message that answers it (linux/xfrm.h).
const GET_SPD_INFO: u16 = 0x25;
const SPD_INFO: u16 = 0x24;
/// The attribute with the number of policies in, out, forwarded, ...
const POLICIES: u16 = 1;
const REQUEST: u16 = 1;
/// Octets of a `struct nlmsghdr`, and of the flags that follow it in both messages.
const HEADER: usize = 16;
const FLAGS: usize = 4;

/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Policies of the calling thread's network namespace for packets that leave. Needs CAP_NET_ADMIN. A kernel without IPsec has none.
pub fn outbound_policies() -> io::Result<u32> {
    let family = Domain::from(libc::AF_NETLINK);
    let protocol = Protocol::from(libc::NETLINK_XFRM);
    let mut socket = match Socket::new(family, Type::RAW, Some(protocol)) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(0),
        socket => socket?,
    };
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::with_capacity(HEADER + FLAGS);
    request.extend(((HEADER + FLAGS) as u32).to_ne_bytes());
    request.extend(GET_SPD_INFO.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    request.resize(HEADER + FLAGS, 0);
    socket.write_all(&request)?;
    let mut answer = [0; 512];
    let length = socket.read(&mut answer)?;
    let answer = answer.get(..length).unwrap_or_default();
    read(answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The number of outbound policies that an answer tells.
fn read(answer: &[u8]) -> Option<u32> {
    let kind = answer.get(4..6)?.try_into().ok()?;
    if u16::from_ne_bytes(kind) != SPD_INFO {
        return None;
    }
    let mut attributes = answer.get(HEADER + FLAGS..)?;
    loop {
        let (length, rest) = attributes.split_first_chunk::<2>()?;
        let (kind, rest) = rest.split_first_chunk::<2>()?;
        if u16::from_ne_bytes(*kind) == POLICIES {
            // Inbound ones first.
            let outbound = rest.get(4..8)?.try_into().ok()?;
            return Some(u32::from_ne_bytes(outbound));
        }
        let length = usize::from(u16::from_ne_bytes(*length));
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_nothing_else() {
        let mut answer = vec![0; HEADER + FLAGS];
        answer[4..6].copy_from_slice(&SPD_INFO.to_ne_bytes());
        // Another attribute of five octets goes before.
        answer.extend([9, 0, 2, 0, 1, 2, 3, 4, 5, 0, 0, 0]);
        answer.extend([28, 0, 1, 0]);
        for number in [7u32, 8, 9, 0, 0, 0] {
            answer.extend(number.to_ne_bytes());
        }
        assert_eq!(read(&answer), Some(8));
        for length in 0..answer.len() - 16 {
            assert_eq!(read(&answer[..length]), None, "{length}");
        }
        // An error.
        answer[4..6].copy_from_slice(&2u16.to_ne_bytes());
        assert_eq!(read(&answer), None);
    }
}
