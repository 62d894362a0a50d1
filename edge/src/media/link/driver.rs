//! What an interface's driver tells (ethtool ioctls, linux/ethtool.h).

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;

const GET_DRIVER: u32 = 0x03;
const GET_CHANNELS: u32 = 0x3c;

/// A `struct ethtool_drvinfo`: the driver's name is 32 octets after the command.
type DriverInfo = [u32; 49];
/// A `struct ethtool_channels`: command, four limits, then channels that receive, send, do neither, and do both.
type Channels = [u32; 9];

/// Drivers whose interfaces send from the memory of an AF_XDP socket even where that is bound in copy mode (`IFF_TX_SKB_NO_LINEAR`): it
/// is not known when that memory is free again.
const WITHOUT_COPY: [&str; 1] = ["virtio_net"];

/// Whether the kernel copies what is to be sent by the interface `name` of the thread's network namespace. False where that cannot be said.
pub fn copies(name: &str) -> bool {
    let mut info: DriverInfo = [0; 49];
    if ask(name, GET_DRIVER, &mut info).is_err() {
        return false;
    }
    let octets: Vec<u8> = info
        .iter()
        .skip(1)
        .take(8)
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let driver = octets.split(|octet| *octet == 0).next().unwrap_or_default();
    !driver.is_empty() && !WITHOUT_COPY.iter().any(|other| other.as_bytes() == driver)
}

/// Queues that the interface sends by now; one where the driver does not tell.
pub fn transmit_queues(name: &str) -> u32 {
    let mut channels: Channels = [0; 9];
    match (ask(name, GET_CHANNELS, &mut channels), channels) {
        (Ok(()), [_, _, _, _, _, _, send, _, both]) => send.saturating_add(both).max(1),
        _ => 1,
    }
}

/// Has the kernel answer `command` in place.
fn ask<const N: usize>(name: &str, command: u32, words: &mut [u32; N]) -> io::Result<()> {
    if let Some(first) = words.first_mut() {
        *first = command;
    }
    let mut interface = [0; libc::IFNAMSIZ];
    // The last octet ends the name.
    if name.len() >= interface.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in interface.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: interface,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: words.as_mut_ptr().cast(),
        },
    };
    let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    // SAFETY: the kernel reads the name, and writes what the command says into the words, which are as many as that is and outlive the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_left_to_the_kernel() {
        for name in ["", "no-such-iface", "a-name-that-no-interface-can-have"] {
            assert!(!copies(name));
            assert_eq!(transmit_queues(name), 1);
        }
    }
}
