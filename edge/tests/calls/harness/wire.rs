//! A SIP connection of the test's own, for what SIPp cannot do: strangers, connections at will, bytes at will.

use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use super::wait::{self, PATIENCE};

/// One TCP connection, read message by message.
pub struct Wire {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Wire {
    /// Connects from an address of this host, so that the edge takes it for that peer.
    pub fn connect(from: IpAddr, to: SocketAddr) -> Wire {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        socket
            .bind(&SocketAddr::new(from, 0).into())
            .expect("an address of this host");
        socket.connect(&to.into()).expect("somebody listens");
        Wire::over(socket.into())
    }

    /// The next connection that somebody opens.
    pub fn accept(listener: &TcpListener) -> Wire {
        listener.set_nonblocking(true).expect("a socket's mode");
        let stream = wait::until("somebody connects", || listener.accept().ok()).0;
        stream.set_nonblocking(false).expect("a socket's mode");
        Wire::over(stream)
    }

    /// The next connection to `listener`, or one of `open` that has something to say, which is taken out: each core of the edge
    /// has connections of its own.
    pub fn next_to_speak(listener: &TcpListener, open: &mut Vec<Wire>) -> Wire {
        listener.set_nonblocking(true).expect("a socket's mode");
        wait::until("somebody speaks", || {
            if let Ok((stream, _)) = listener.accept() {
                return Some(Wire::over(stream));
            }
            let ready = open.iter().position(Wire::is_readable)?;
            Some(open.swap_remove(ready))
        })
    }

    fn is_readable(&self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket's mode");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("a socket's mode");
        !self.received.is_empty() || peeked.is_ok()
    }

    fn over(stream: TcpStream) -> Wire {
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a read timeout");
        Wire {
            stream,
            received: Vec::new(),
        }
    }

    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket")
    }

    /// Sends a message; lines are ended as SIP wants, Content-Length and the empty line are added.
    pub fn send(&mut self, head: &str, body: &str) {
        let head: Vec<&str> = head
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
        let body = body.replace('\n', "\r\n");
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        let message = format!(
            "{}\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            head.join("\r\n"),
            body.len()
        );
        self.bytes(message.as_bytes());
    }

    /// Sends bytes as they are. A peer that has closed already is no failure of the test.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next message; `None` when the peer has closed the connection.
    pub fn next(&mut self) -> Option<String> {
        self.try_next().expect("a message or the end")
    }

    fn try_next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(length) => self.received.extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message that starts with `start`; others are passed over.
    pub fn next_of(&mut self, start: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.try_next() {
                Ok(Some(message)) if message.starts_with(start) => return message,
                Ok(Some(message)) => before.push(message),
                end => panic!("{end:?} before {start}: {before:#?}"),
            }
        }
    }

    /// Bytes received that make no whole message.
    pub fn rest(&self) -> &[u8] {
        &self.received
    }

    /// Cuts one whole message from what was received.
    fn take(&mut self) -> Option<String> {
        let head = self.received.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&self.received[..head]).into_owned();
        let body: usize = header(&text, "Content-Length")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0);
        if self.received.len() < head + body {
            return None;
        }
        let message: Vec<u8> = self.received.drain(..head + body).collect();
        Some(String::from_utf8(message).expect("SIP is text"))
    }
}

/// The value of a header of a message.
pub fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The response `line` to a request, with `tag` where its To has none.
pub fn response_to(request: &str, line: &str, tag: &str) -> String {
    let mut answer = format!("SIP/2.0 {line}");
    for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
        let value = header(request, name).unwrap_or_else(|| panic!("no {name} in {request}"));
        answer.push_str(&format!("\n{name}: {value}"));
        if name == "To" && !value.contains(";tag=") {
            answer.push_str(&format!(";tag={tag}"));
        }
    }
    answer
}
