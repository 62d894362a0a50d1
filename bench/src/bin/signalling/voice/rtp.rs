//! A party's RTP: numbered packets that carry the time at which they left, and the kernel's time of those that arrive, so that
//! neither a busy sender's nor a busy receiver's core adds to what is measured.

use anyhow::{Context as _, Result};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::SystemTime;

/// 20 ms of G.711 behind the RTP header.
const PACKET: usize = 172;
const HEADER: usize = 12;

/// What arrived.
pub struct Arrival {
    /// The sender's number.
    pub number: u64,
    /// From the sender's clock to the kernel's receive timestamp, in nanoseconds.
    pub took: u64,
}

pub struct Party {
    socket: UdpSocket,
    ssrc: u32,
}

impl Party {
    pub fn bind(ip: IpAddr, ssrc: u32) -> Result<Party> {
        let socket = UdpSocket::bind((ip, 0))?;
        socket.set_nonblocking(true)?;
        let on: libc::c_int = 1;
        // SAFETY: pointer and length are those of `on`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_TIMESTAMPNS,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as u32,
            )
        };
        (result == 0)
            .then_some(())
            .ok_or_else(io::Error::last_os_error)
            .context("SO_TIMESTAMPNS")?;
        Ok(Party { socket, ssrc })
    }

    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Sends the packet of that number.
    pub fn send(&self, number: u64, to: SocketAddr) -> Result<()> {
        let mut packet = [0xff; PACKET];
        packet[..2].copy_from_slice(&[0x80, 0]);
        packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
        packet[4..8].copy_from_slice(&(number as u32).wrapping_mul(160).to_be_bytes());
        packet[8..HEADER].copy_from_slice(&self.ssrc.to_be_bytes());
        packet[HEADER..HEADER + 8].copy_from_slice(&number.to_be_bytes());
        packet[HEADER + 8..HEADER + 16].copy_from_slice(&now().to_be_bytes());
        self.socket.send_to(&packet, to)?;
        Ok(())
    }

    /// The next packet that is there.
    pub fn receive(&self) -> Result<Option<Arrival>> {
        let mut packet = [0; PACKET];
        let Some((length, arrived)) = receive(&self.socket, &mut packet)? else {
            return Ok(None);
        };
        // RTCP is none of ours.
        if length != PACKET {
            return self.receive();
        }
        let word = |at: usize| {
            packet[at..]
                .first_chunk()
                .map(|word| u64::from_be_bytes(*word))
        };
        let (number, left) = word(HEADER).zip(word(HEADER + 8)).context("too short")?;
        Ok(Some(Arrival {
            number,
            took: arrived.saturating_sub(left),
        }))
    }
}

/// Nanoseconds since 1970, as the kernel's timestamps.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// Length of a datagram, and when the kernel got it, in nanoseconds since 1970. `None`: there is none.
fn receive(socket: &UdpSocket, packet: &mut [u8]) -> Result<Option<(usize, u64)>> {
    #[repr(align(8))]
    struct Control([MaybeUninit<u8>; 64]);
    let mut control = Control([MaybeUninit::uninit(); 64]);
    let mut vector = libc::iovec {
        iov_base: packet.as_mut_ptr().cast(),
        iov_len: packet.len(),
    };
    // SAFETY: a msghdr is plain data; its pointers are to locals that outlive the calls, with their lengths. CMSG_FIRSTHDR and
    // CMSG_NXTHDR stay within what the kernel said it wrote; the data of SCM_TIMESTAMPNS is a timespec.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control.0);
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT);
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(None),
                _ => Err(error.into()),
            };
        };
        let mut item = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(header) = item.as_ref() {
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
                let time: libc::timespec = libc::CMSG_DATA(item)
                    .cast::<libc::timespec>()
                    .read_unaligned();
                let nanos = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
                return Ok(Some((length, nanos)));
            }
            item = libc::CMSG_NXTHDR(&raw const message, item);
        }
    }
    anyhow::bail!("a packet without a timestamp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_tell_their_number_and_their_time() {
        let [one, other] = [1, 2].map(|ssrc| Party::bind([127, 0, 0, 1].into(), ssrc).unwrap());
        assert!(other.receive().unwrap().is_none());
        for number in [7, 70_000] {
            one.send(number, other.address().unwrap()).unwrap();
        }
        for number in [7, 70_000] {
            let arrival = other.receive().unwrap().expect("loopback is at once");
            assert_eq!(arrival.number, number);
            assert!(arrival.took < 60_000_000_000, "{}", arrival.took);
        }
    }
}
