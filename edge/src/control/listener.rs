//! Listening sockets: one per core and listener, so that the kernel spreads connections over the cores (SO_REUSEPORT), and
//! the accept loop. They are bound by the supervisor, before any thread starts, so that an error is precise and a reload
//! with an unusable address changes nothing.

use super::connection::tune;
use super::driver::Protocol;
use super::handle::Control;
use super::load::Standing;
use bytes::Bytes;
use edge_proto::b2bua::Input;
use edge_proto::config::{Listener, Transport};
use edge_proto::id::ListenerId;
use rustix::io::Errno;
use socket2::{Domain, Protocol as IpProtocol, SockRef, Socket, Type};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// Connections the kernel completes while the control thread is busy; the system's `somaxconn` caps it.
const BACKLOG: i32 = 4096;

/// The pause after an accept failed for lack of a resource (file descriptors, memory): without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a listener could not be opened.
#[derive(thiserror::Error, Debug)]
pub enum ListenError {
    #[error("listener \"{name}\": address {address} is in use by another socket")]
    InUse { name: String, address: SocketAddr },
    #[error("listener \"{name}\": {address} is not an address of this host")]
    NotLocal { name: String, address: SocketAddr },
    #[error(
        "listener \"{name}\": no permission for {address} (ports below 1024 need CAP_NET_BIND_SERVICE)"
    )]
    Permission { name: String, address: SocketAddr },
    #[error("listener \"{name}\": {address}: {error}")]
    Other {
        name: String,
        address: SocketAddr,
        error: io::Error,
    },
}

/// One core's socket of a listener.
#[derive(Debug)]
pub enum ListenSocket {
    Stream(std::net::TcpListener),
    Datagram(std::net::UdpSocket),
}

impl ListenSocket {
    /// The address bound, with the port that the system chose for port 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            ListenSocket::Stream(socket) => socket.local_addr(),
            ListenSocket::Datagram(socket) => socket.local_addr(),
        }
    }
}

/// Opens `cores` sockets on the address of `listener`.
pub fn bind(listener: &Listener, cores: usize) -> Result<Vec<ListenSocket>, ListenError> {
    let explain = |error: io::Error| {
        let (name, address) = (listener.name.clone(), listener.address);
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ADDRINUSE) => ListenError::InUse { name, address },
            Some(Errno::ADDRNOTAVAIL) => ListenError::NotLocal { name, address },
            Some(Errno::ACCESS | Errno::PERM) => ListenError::Permission { name, address },
            _ => ListenError::Other {
                name,
                address,
                error,
            },
        }
    };
    let stream = listener.transport.is_reliable();
    // Another process of the same user could share a SO_REUSEPORT address with us and take half the calls, unseen. A
    // bind without the option finds it.
    if listener.address.port() != 0 {
        open(listener.address, stream, false).map_err(explain)?;
    }
    let mut address = listener.address;
    (0..cores)
        .map(|_| {
            let socket = open(address, stream, true)?;
            let socket = if stream {
                socket.listen(BACKLOG)?;
                ListenSocket::Stream(socket.into())
            } else {
                ListenSocket::Datagram(socket.into())
            };
            address = socket.local_addr()?;
            Ok(socket)
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(explain)
}

fn open(address: SocketAddr, stream: bool, shared: bool) -> io::Result<Socket> {
    let (kind, protocol) = if stream {
        (Type::STREAM, IpProtocol::TCP)
    } else {
        (Type::DGRAM, IpProtocol::UDP)
    };
    let socket = Socket::new(
        Domain::for_address(address),
        kind.nonblocking(),
        Some(protocol),
    )?;
    if address.is_ipv6() {
        // 0.0.0.0 and [::] are two listeners, and an IPv4 peer never shows as ::ffff:a.b.c.d.
        socket.set_only_v6(true)?;
    }
    if stream {
        // A restart does not wait for connections in TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A listener of a configuration, as a control thread sees it.
#[derive(Debug)]
pub struct ListenerSetup {
    pub id: ListenerId,
    pub transport: Transport,
    /// As configured: what tells a listener that stays in a reload.
    pub address: SocketAddr,
    /// `None`: the thread already has the socket for this transport and address.
    pub socket: Option<ListenSocket>,
}

/// A listener that is open on this core. Its loop ends when this is dropped.
pub(super) struct ActiveListener {
    pub transport: Transport,
    pub address: SocketAddr,
    /// Renumbered by a reload.
    pub id: Rc<Cell<ListenerId>>,
    pub datagram: Option<Rc<tokio::net::UdpSocket>>,
    stop: Rc<Notify>,
}

impl Drop for ActiveListener {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

impl ActiveListener {
    /// Starts the loop of `socket`. Must run inside the control thread's runtime.
    pub(super) fn start<P: Protocol>(
        control: &Control<P>,
        id: ListenerId,
        transport: Transport,
        address: SocketAddr,
        socket: ListenSocket,
    ) -> io::Result<Self> {
        let id = Rc::new(Cell::new(id));
        let stop = Rc::new(Notify::new());
        let mut datagram = None;
        match socket {
            ListenSocket::Stream(socket) => {
                let socket = tokio::net::TcpListener::from_std(socket)?;
                let accepting = Accepting {
                    socket,
                    transport,
                    id: id.clone(),
                };
                tokio_uring::spawn(accepting.run(control.clone(), stop.clone()));
            }
            ListenSocket::Datagram(socket) => {
                let socket = Rc::new(tokio::net::UdpSocket::from_std(socket)?);
                datagram = Some(socket.clone());
                tokio_uring::spawn(receive_datagrams(
                    control.clone(),
                    socket,
                    id.clone(),
                    stop.clone(),
                ));
            }
        }
        Ok(ActiveListener {
            transport,
            address,
            id,
            datagram,
            stop,
        })
    }
}

struct Accepting {
    socket: tokio::net::TcpListener,
    transport: Transport,
    id: Rc<Cell<ListenerId>>,
}

impl Accepting {
    // Accepting waits for readiness in tokio rather than in the ring: an accept in flight on the ring cannot be given up
    // without losing the connection that completes it, and a listener must be able to go away in a reload.
    async fn run<P: Protocol>(self, control: Control<P>, stop: Rc<Notify>) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.notified() => return,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, remote)) => self.accept(&control, stream, remote),
                Err(error) if is_peers_fault(&error) => {}
                Err(error) => {
                    control.note_accept_failure(self.id.get(), &error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accept<P: Protocol>(
        &self,
        control: &Control<P>,
        stream: tokio::net::TcpStream,
        remote: SocketAddr,
    ) {
        let prepared = stream.local_addr().and_then(|local| {
            let stream = stream.into_std()?;
            tune(&SockRef::from(&stream))?;
            // On a non-blocking socket the ring answers EAGAIN instead of waiting.
            stream.set_nonblocking(false)?;
            Ok((stream, local))
        });
        // An error here means that the peer is gone already.
        if let Ok((stream, local)) = prepared {
            control.accepted(self.id.get(), self.transport, stream, local, remote);
        }
    }
}

/// accept(2): errors of the connection that was about to be accepted, after which the next can be.
fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(
            Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::AGAIN
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NETUNREACH
                | Errno::PERM
        )
    )
}

async fn receive_datagrams<P: Protocol>(
    control: Control<P>,
    socket: Rc<tokio::net::UdpSocket>,
    id: Rc<Cell<ListenerId>>,
    stop: Rc<Notify>,
) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut standing = Standing::default();
    loop {
        let received = tokio::select! {
            biased;
            () = stop.notified() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((length, source)) => {
                let Some(bytes) = buffer.get(..length) else {
                    continue;
                };
                // The length of the next one.
                let more = rustix::io::ioctl_fionread(&*socket).is_ok_and(|length| length > 0);
                control.taken(&mut standing, more);
                control.input(Input::Datagram {
                    listener: id.get(),
                    source,
                    bytes: Bytes::copy_from_slice(bytes),
                });
            }
            // An ICMP error that an earlier datagram of ours caused; transactions have their own timers.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if is_peers_fault(&error) => {}
            Err(error) => {
                control.note_accept_failure(id.get(), &error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(transport: Transport, address: &str) -> Listener {
        let address = address.parse().unwrap();
        Listener {
            id: ListenerId(0),
            name: "public".to_owned(),
            transport,
            address,
            advertised: address,
        }
    }

    #[test]
    fn every_core_gets_a_socket_on_the_same_address() {
        for transport in [Transport::Tcp, Transport::Tls, Transport::Udp] {
            let sockets = bind(&listener(transport, "[::1]:0"), 4).unwrap();
            let addresses: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
            assert_eq!(addresses.len(), 4);
            assert_ne!(addresses[0].port(), 0);
            assert!(addresses.iter().all(|address| *address == addresses[0]));
        }
    }

    #[test]
    fn both_families_can_have_the_same_port_on_all_addresses() {
        // The port that the system chooses for one may be taken in the other family by someone else.
        let both = (0..50).any(|_| {
            let v6 = bind(&listener(Transport::Tcp, "[::]:0"), 1).unwrap();
            let port = v6[0].local_addr().unwrap().port();
            bind(&listener(Transport::Tcp, &format!("0.0.0.0:{port}")), 1).is_ok()
        });
        assert!(both);
    }

    #[test]
    fn errors_name_the_listener_the_address_and_the_reason() {
        let first = bind(&listener(Transport::Tcp, "127.0.0.1:0"), 2).unwrap();
        let address = first[0].local_addr().unwrap().to_string();
        let error = bind(&listener(Transport::Tcp, &address), 2).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("listener \"public\": address {address} is in use by another socket")
        );
        let error = bind(&listener(Transport::Udp, "192.0.2.1:5060"), 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "listener \"public\": 192.0.2.1:5060 is not an address of this host"
        );
    }
}
