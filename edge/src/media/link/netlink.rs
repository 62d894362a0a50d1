//! Questions to the kernel by netlink(7), answered in order. What comes back is taken for what it is: octets.

use netlink_packet_core::{
    Emitable as _, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkHeader, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

/// The kernel answers at once; a dump's next part as well.
const PATIENCE: Duration = Duration::from_secs(1);

/// Octets that the kernel sends at once are 32 KiB at most (netlink_dump, net/netlink/af_netlink.c), but a message may be larger
/// where one thing alone is.
const BUFFER: usize = 256 << 10;

/// Datagrams of an answer at most.
const DATAGRAMS: usize = 1 << 16;

/// How often to ask again for what changes while it is told.
const DUMPS: u32 = 4;

/// Octets of a `struct nlmsghdr`.
const HEADER: usize = 16;

/// Types of messages that every protocol has (linux/netlink.h).
const NOOP: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// The kernel's own port.
const KERNEL: u32 = 0;

/// A socket for questions, one after the other, in the network namespace of the thread that makes it.
pub struct Channel {
    protocol: isize,
    /// None after an answer that broke off: the rest of it would be in the way of the next one.
    socket: Option<Socket>,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    /// `protocol`: `NETLINK_ROUTE`, `NETLINK_NETFILTER` (linux/netlink.h).
    pub fn open(protocol: isize) -> io::Result<Channel> {
        Ok(Channel {
            protocol,
            socket: Some(connect(protocol)?),
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Asks for one thing, or for a change. `each` gets what is answered: type and payload of a message, if any. The error is the kernel's (its
    /// number is [`io::Error::raw_os_error`]), or [`io::ErrorKind::TimedOut`] or [`io::ErrorKind::InvalidData`] of an answer that is none.
    pub fn ask(
        &mut self,
        kind: u16,
        payload: &[u8],
        each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.exchange(kind, NLM_F_REQUEST | NLM_F_ACK, payload, each)
    }

    /// Asks for all there is of a kind, and takes what `read` finds in the payloads. The error is as of [`Channel::ask`] or
    /// [`io::ErrorKind::Interrupted`]: it changes so fast that what is told is never all of one moment.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        payload: &[u8],
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut tries = DUMPS;
        loop {
            tries -= 1;
            let mut found = Vec::new();
            let told = self.exchange(kind, flags, payload, |_, answer| found.extend(read(answer)));
            match told {
                Ok(()) => return Ok(found),
                Err(error) if error.kind() == io::ErrorKind::Interrupted && tries > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
        each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(self.protocol)?,
        };
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        header.flags = flags;
        header.sequence_number = self.sequence;
        header.length = (HEADER + payload.len()) as u32;
        let mut request = vec![0; HEADER];
        header.emit(&mut request);
        request.extend_from_slice(payload);
        socket.send(&request, 0)?;
        let answered = self.hear(&socket, each)?;
        self.socket = Some(socket);
        answered
    }

    /// The inner result is the kernel's, after which the socket may be asked again.
    fn hear(
        &mut self,
        socket: &Socket,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<io::Result<()>> {
        let mut interrupted = false;
        for _ in 0..DATAGRAMS {
            let datagram = receive(socket, &mut self.buffer, 0)?;
            for message in Messages(datagram) {
                let message = message?;
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NOOP => {}
                    // An acknowledgement is an error of number zero.
                    ERROR => return Ok(status(message.payload)),
                    DONE if interrupted => return Ok(Err(io::ErrorKind::Interrupted.into())),
                    DONE => return Ok(status(message.payload)),
                    kind => each(kind, message.payload),
                }
            }
        }
        Err(invalid("netlink: an answer without an end"))
    }
}

/// A socket that hears the kernel alone.
fn connect(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(KERNEL, 0))?;
    SockRef::from(&socket).set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// One datagram.
fn receive<'b>(socket: &Socket, buffer: &'b mut [u8], flags: i32) -> io::Result<&'b [u8]> {
    let received = socket.recv_from(&mut &mut *buffer, flags | libc::MSG_TRUNC);
    let (length, source) = received.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock if flags & libc::MSG_DONTWAIT == 0 => {
            io::Error::new(io::ErrorKind::TimedOut, "netlink: no answer")
        }
        _ => error,
    })?;
    if source.port_number() != KERNEL {
        // Somebody else's, who may then do without.
        return Ok(&[]);
    }
    buffer
        .get(..length)
        .ok_or_else(|| invalid("netlink: a message larger than any"))
}

/// What ends an answer tells.
fn status(payload: &[u8]) -> io::Result<()> {
    // Some kernels' DONE has none.
    match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        None | Some(0) => Ok(()),
        Some(code) if code < 0 && code != i32::MIN => Err(io::Error::from_raw_os_error(-code)),
        Some(_) => Err(invalid("netlink: an error of no number")),
    }
}

pub fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// One message.
pub struct Message<'b> {
    pub kind: u16,
    flags: u16,
    sequence: u32,
    pub payload: &'b [u8],
}

/// The messages of a datagram.
struct Messages<'b>(&'b [u8]);

impl<'b> Iterator for Messages<'b> {
    type Item = io::Result<Message<'b>>;

    fn next(&mut self) -> Option<Self::Item> {
        let octets = std::mem::take(&mut self.0);
        if octets.is_empty() {
            return None;
        }
        let header = NetlinkBuffer::new_checked(octets).ok();
        let message = header.and_then(|header| {
            let length = header.length() as usize;
            let payload = octets.get(HEADER..length)?;
            // Only what makes sense is followed by another.
            self.0 = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(Message {
                kind: header.message_type(),
                flags: header.flags(),
                sequence: header.sequence_number(),
                payload,
            })
        });
        Some(message.ok_or_else(|| invalid("netlink: a message of no length")))
    }
}

/// What follows the header of a message to rtnetlink(7).
pub fn payload(request: &RouteNetlinkMessage) -> Vec<u8> {
    let mut payload = vec![0; request.buffer_len()];
    request.emit(&mut payload);
    payload
}

/// The first attribute of a kind. None as well where those before it make no sense.
pub fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let found = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == kind)?;
    let end = NLA_HEADER_SIZE + found.value_length();
    found.into_inner().get(NLA_HEADER_SIZE..end)
}

/// The text of an attribute that holds a name.
pub fn name(attribute: &[u8]) -> String {
    let end = attribute.iter().position(|octet| *octet == 0);
    let text = attribute.get(..end.unwrap_or(attribute.len()));
    String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
}

/// What the kernel tells unasked.
pub struct Events {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Events {
    /// Everything that is told to any of `groups` of a protocol from now on.
    pub fn open(protocol: isize, groups: &[u32]) -> io::Result<Events> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Events {
            socket,
            buffer: vec![0; BUFFER],
        })
    }

    /// Readable when there is one.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next datagram's messages, if there is one yet. The error may be `ENOBUFS`: some were lost, and the next one is another matter.
    pub fn next(&mut self) -> io::Result<Option<impl Iterator<Item = io::Result<Message<'_>>>>> {
        match receive(&self.socket, &mut self.buffer, libc::MSG_DONTWAIT) {
            Ok(datagram) => Ok(Some(Messages(datagram))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = (HEADER + payload.len()) as u32;
        let mut octets = length.to_ne_bytes().to_vec();
        octets.extend(kind.to_ne_bytes());
        octets.extend([0; 2]);
        octets.extend(sequence.to_ne_bytes());
        octets.extend([0; 4]);
        octets.extend(payload);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    #[test]
    fn messages_of_a_datagram_are_told_apart_and_end_where_one_makes_no_sense() {
        let both = [message(20, 7, &[1, 2, 3]), message(21, 8, &[])].concat();
        fn read(octets: &[u8]) -> Vec<Option<(u16, u32, usize)>> {
            Messages(octets)
                .map(|message| message.map(|m| (m.kind, m.sequence, m.payload.len())).ok())
                .collect()
        }
        assert_eq!(read(&both), [Some((20, 7, 3)), Some((21, 8, 0))]);
        // The last one's padding may be missing.
        assert_eq!(read(&message(20, 7, &[1])[..17]), [Some((20, 7, 1))]);
        for length in [0u32, 15, 21, u32::MAX] {
            let mut odd = message(20, 7, &[0; 4]);
            odd[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(read(&odd), [None], "{length}");
        }
        assert_eq!(read(&both[..5]), [None]);
    }

    #[test]
    fn the_end_of_an_answer_tells_the_error() {
        assert!(status(&[]).is_ok());
        assert!(status(&0i32.to_ne_bytes()).is_ok());
        let error = status(&(-libc::EPERM).to_ne_bytes()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        for code in [1, i32::MIN] {
            let error = status(&code.to_ne_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn attributes_are_found_behind_others_and_names_end_at_their_zero() {
        let attributes = [
            7, 0, 1, 0, b'a', b'b', 0, 9, 6, 0, 2, 0x80, b'c', b'd', 0, 0,
        ];
        assert_eq!(attribute(&attributes, 1), Some(&b"ab\0"[..]));
        assert_eq!(attribute(&attributes, 2), Some(&b"cd"[..]));
        assert_eq!(attribute(&attributes, 3), None);
        assert_eq!(name(b"ab\0c"), "ab");
        assert_eq!(name(b"cd"), "cd");
        assert_eq!(name(b""), "");
        // Longer than there is, or shorter than its own header.
        assert_eq!(attribute(&[9, 0, 1, 0, 1], 1), None);
        assert_eq!(attribute(&[3, 0, 1, 0, 1], 1), None);
    }

    proptest! {
        #[test]
        fn anything_is_read_to_its_end(octets in prop::collection::vec(any::<u8>(), 0..200), kind in 0u16..4) {
            prop_assert!(Messages(&octets).count() <= octets.len());
            let _ = attribute(&octets, kind).map(name);
            let _ = status(&octets);
        }
    }
}
