//! The tasks of a control thread: they wait, the driver decides.

use super::CoreStatus;
use super::connection::{Connection, State, tune};
use super::driver::Protocol;
use super::handle::Control;
use super::inbox::Inbox;
use super::load::Standing;
use super::tls::TlsSession;
use bytes::{Buf as _, Bytes, BytesMut};
use edge_proto::b2bua::{CloseReason, Input};
use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bounds of a connection's read buffer, in bytes. A buffer belongs to the ring while a read waits, so an idle connection
/// holds a small one.
const READ_MIN: usize = 2 * 1024;
const READ_MAX: usize = 64 * 1024;

/// The pause before another thread's full queue is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// Starts the reader and the writer of a connection that has a socket.
pub(super) fn start<P: Protocol>(control: &Control<P>, connection: &Rc<Connection>) {
    let Some(stream) = connection.stream() else {
        return;
    };
    connection.tasks.set(connection.tasks.get() + 2);
    tokio_uring::spawn(read(control.clone(), connection.clone(), stream.clone()));
    tokio_uring::spawn(write(control.clone(), connection.clone(), stream));
}

async fn read<P: Protocol>(
    control: Control<P>,
    connection: Rc<Connection>,
    stream: Rc<tokio_uring::net::TcpStream>,
) {
    let (mut size, mut standing) = (READ_MIN, Standing::default());
    let mut buffer = BytesMut::with_capacity(size);
    loop {
        // Never under select! or a timeout: a read in flight that is dropped loses what it has read.
        let room = buffer.capacity();
        let (result, filled) = stream.read(buffer).await;
        buffer = filled;
        match result {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                size = match length {
                    _ if length >= size => (size * 2).min(READ_MAX),
                    _ if length < size / 4 => (size / 2).max(READ_MIN),
                    _ => size,
                };
                // As a rule everything fits, and nobody has to be asked.
                control.taken(&mut standing, length >= room && connection.has_more());
                // Zero copy: the framer slices what it is handed, the rest of the buffer takes the next read.
                control.received(&connection, buffer.split().freeze());
                if buffer.capacity() < size {
                    buffer = BytesMut::with_capacity(size);
                }
            }
        }
    }
    control.ended(&connection, CloseReason::Peer);
    control.task_ended(&connection);
}

async fn write<P: Protocol>(
    control: Control<P>,
    connection: Rc<Connection>,
    stream: Rc<tokio_uring::net::TcpStream>,
) {
    loop {
        if let Some(chunk) = connection.next_chunk(control.now()) {
            let length = chunk.len();
            let result = send(&connection, &stream, chunk).await;
            connection.written(length, control.now());
            if result.is_err() {
                // The reader finds out too, after it has read what the peer sent before.
                connection.shut_down();
                break;
            }
        } else if connection.state() == State::Flushing {
            connection.finish_writing();
            break;
        } else if connection.state() == State::Dead {
            break;
        } else {
            connection.wake.notified().await;
        }
    }
    control.task_ended(&connection);
}

/// Writes all of `chunk`. What the socket takes at once goes by a plain system call: a write on the ring would end there and
/// then, too, but its completion costs the thread another turn. The ring waits for room when the peer is slow.
async fn send(
    connection: &Connection,
    stream: &tokio_uring::net::TcpStream,
    mut chunk: Bytes,
) -> io::Result<()> {
    chunk.advance(connection.send_now(&chunk)?);
    if chunk.is_empty() {
        return Ok(());
    }
    stream.write_all(chunk).await.0
}

/// Opens an outbound connection.
pub(super) async fn connect<P: Protocol>(
    control: Control<P>,
    connection: Rc<Connection>,
    local: IpAddr,
    session: Option<TlsSession>,
    timeout: Duration,
) {
    let remote = connection.remote;
    let opened = tokio::select! {
        biased;
        () = given_up(&connection) => None,
        opened = tokio::time::timeout(timeout, open(local, remote)) => Some(opened),
    };
    match opened {
        None => {}
        Some(Ok(Ok(stream))) => control.established(&connection, stream, session),
        Some(Ok(Err(error))) => {
            control.ended(
                &connection,
                CloseReason::ConnectFailed(format!("{remote} from {local}: {error}")),
            );
        }
        Some(Err(_elapsed)) => {
            control.ended(
                &connection,
                CloseReason::ConnectFailed(format!(
                    "{remote} from {local}: no answer within {timeout:?}"
                )),
            );
        }
    }
    control.task_ended(&connection);
}

async fn given_up(connection: &Connection) {
    while connection.state() != State::Dead {
        connection.wake.notified().await;
    }
}

// Connecting waits for readiness in tokio: unlike a connect on the ring it can be given up.
async fn open(local: IpAddr, remote: SocketAddr) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(
        Domain::for_address(remote),
        Type::STREAM.nonblocking(),
        None,
    )?;
    tune(&SockRef::from(&socket))?;
    socket.bind(&SocketAddr::new(local, 0).into())?;
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
    let stream = socket.connect(remote).await?.into_std()?;
    // On a non-blocking socket the ring answers EAGAIN instead of waiting.
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Hands the protocol its timeouts.
pub(super) async fn keep_time<P: Protocol>(control: Control<P>) {
    let timer = control.timer();
    let clock = control.clock();
    loop {
        match control.deadline() {
            None => timer.notified().await,
            Some(at) => {
                let at = tokio::time::Instant::from_std(clock.monotonic(at));
                tokio::select! {
                    biased;
                    () = timer.notified() => {}
                    () = tokio::time::sleep_until(at) => {
                        control.input(Input::Timeout);
                        // A deadline that stays in the past must not starve the thread's other tasks.
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }
}

/// Ends turns: tells the media thread, and lets inputs gather before the next turn while they come fast.
pub(super) async fn gather<P: Protocol>(control: Control<P>, inbox: Rc<Inbox>) {
    let turn = control.turn_signal();
    loop {
        // The writers, who were told before, have gone first.
        turn.notified().await;
        let gathering = control.begin_end();
        if gathering {
            // So do other tasks that are ready: what they have for peers leaves before the thread rests.
            tokio::task::yield_now().await;
        }
        inbox.converse(&control);
        if gathering {
            tokio::task::yield_now().await;
        }
        let rest = control.end_turn();
        if !rest.is_zero() {
            // The whole thread, which is the point: the kernel and the queues hold what comes meanwhile.
            std::thread::sleep(rest);
        }
    }
}

/// Enforces the connections' time limits.
pub(super) async fn sweep<P: Protocol>(
    control: Control<P>,
    status: Arc<CoreStatus>,
    period: Duration,
) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = ticks.tick().await;
        control.sweep(due.elapsed());
        status.beats.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends what other threads had no room for, once they have.
pub(super) async fn retry_outlets<P: Protocol>(control: Control<P>) {
    let signal = control.retry_signal();
    loop {
        signal.notified().await;
        empty_outlets(&control).await;
    }
}

/// Tries until nothing waits for other threads.
pub(super) async fn empty_outlets<P: Protocol>(control: &Control<P>) {
    while !control.retry_outlets() {
        tokio::time::sleep(RETRY).await;
    }
}
