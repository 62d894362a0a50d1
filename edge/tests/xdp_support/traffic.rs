//! Sockets and packets of the namespace tests.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Longer than anything takes on a loaded machine; reached only by a failure.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for something that is about to become true.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::yield_now();
    }
}

pub fn udp(local: &str) -> UdpSocket {
    let socket = UdpSocket::bind(local).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// What arrives next, and from whom.
pub fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = [0; 2048];
    let (length, source) = socket.recv_from(&mut bytes).expect("a datagram");
    (bytes[..length].to_vec(), source)
}

/// Connects from `local`.
pub fn connect(local: &str, remote: &str) -> TcpStream {
    let socket = stream(local);
    let remote: SocketAddr = remote.parse().unwrap();
    socket
        .connect_timeout(&remote.into(), DEADLINE)
        .expect("a connection");
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.into()
}

/// Sends a SYN and waits for nothing.
pub fn knock(local: &str, remote: &str) -> Socket {
    let socket = stream(local);
    socket.set_nonblocking(true).unwrap();
    let remote: SocketAddr = remote.parse().unwrap();
    let fault = socket.connect(&remote.into()).unwrap_err();
    assert_eq!(fault.raw_os_error(), Some(libc::EINPROGRESS));
    socket
}

fn stream(local: &str) -> Socket {
    let local: SocketAddr = local.parse().unwrap();
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, None).unwrap();
    socket.bind(&local.into()).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    socket
}

/// Asserts that what was sent comes back.
pub fn echoes(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(message).unwrap();
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back).expect("an echo");
    assert_eq!(back, message);
}

/// Echoes everything on every connection, until the listener's process ends.
pub fn echo_server(listener: &TcpListener) {
    let listener = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut copy = stream.try_clone().unwrap();
                let _ = io::copy(&mut stream, &mut copy);
            });
        }
    });
}

/// Sends an ICMP or ICMPv6 echo request and waits for the reply.
pub fn ping(local: &str, remote: &str, number: u16) {
    let (local, remote): (IpAddr, IpAddr) = (local.parse().unwrap(), remote.parse().unwrap());
    let (protocol, request, reply) = match remote {
        IpAddr::V4(_) => (Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Protocol::ICMPV6, 128, 129),
    };
    let domain = Domain::for_address(SocketAddr::new(local, 0));
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    socket.bind(&SocketAddr::new(local, 0).into()).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let [high, low] = number.to_be_bytes();
    let mut message = [request, 0, 0, 0, 0x5e, 0x1f, high, low];
    if remote.is_ipv4() {
        // RFC 1071; of ICMPv6 the kernel makes the checksum.
        let sum: u32 = message
            .chunks(2)
            .map(|b| u32::from(b[0]) << 8 | u32::from(b[1]))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from(folded).unwrap();
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    let to = SockAddr::from(SocketAddr::new(remote, 0));
    socket.send_to(&message, &to).unwrap();
    let mut socket = socket;
    loop {
        let mut bytes = [0; 256];
        let length = socket.read(&mut bytes).expect("an echo reply");
        // A raw IPv4 socket gives the IP header, too.
        let body = if remote.is_ipv4() { 20 } else { 0 };
        let answer = &bytes[body..length];
        if answer[0] == reply && answer[4..8] == message[4..8] {
            return;
        }
    }
}
