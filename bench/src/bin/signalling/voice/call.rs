//! One call through the edge whose parties are this program's: as much SIP as that takes.

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long the edge may take for any message of the call.
const PATIENCE: Duration = Duration::from_secs(10);
const NUMBER: &str = "+19995550123";

/// A call that was answered.
pub struct Call {
    caller: Stream,
    platform: Stream,
    /// The 200 that the caller got.
    answer: String,
    /// Where the edge wants the caller's media, and the platform's.
    pub media: [SocketAddr; 2],
}

impl Call {
    /// From `caller` to the platform, which is called at `platform`; `media`: where they want their RTP.
    pub fn establish(
        edge: SocketAddr,
        caller: IpAddr,
        platform: SocketAddr,
        media: [SocketAddr; 2],
    ) -> Result<Call> {
        let listener = TcpListener::bind(platform).context("the platform's port")?;
        listener.set_nonblocking(true)?;
        let mut caller = Stream::connect(caller, edge)?;
        let invite = caller.request("INVITE", 1, &format!("sip:{NUMBER}@{edge}"), "", media[0])?;
        caller.send(&invite)?;
        let mut platform = Stream::accept(&listener)?;
        let invited = platform.until("INVITE ")?;
        let contact = format!("<sip:platform@{};transport=tcp>", platform.local);
        let ok = response(&invited, &contact, Some(media[1]));
        platform.send(&ok)?;
        let answer = caller.until("SIP/2.0 200")?;
        let target = target(&answer)?;
        let to = header(&answer, "To")?.to_owned();
        let ack = caller.request("ACK", 1, &target, &to, media[0])?;
        caller.send(&ack)?;
        platform.until("ACK ")?;
        Ok(Call {
            media: [described(&answer)?, described(&invited)?],
            caller,
            platform,
            answer,
        })
    }

    /// The caller hangs up; both sides end in order.
    pub fn hang_up(mut self) -> Result<()> {
        let (target, to) = (
            target(&self.answer)?,
            header(&self.answer, "To")?.to_owned(),
        );
        let bye = self.caller.request("BYE", 2, &target, &to, self.media[0])?;
        self.caller.send(&bye)?;
        let bye = self.platform.until("BYE ")?;
        self.platform.send(&response(&bye, "", None))?;
        self.caller.until("SIP/2.0 200")?;
        Ok(())
    }
}

/// A SIP connection.
struct Stream {
    stream: TcpStream,
    local: SocketAddr,
    buffer: Vec<u8>,
}

impl Stream {
    fn connect(from: IpAddr, to: SocketAddr) -> Result<Stream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Stream::over(socket.into())
    }

    fn accept(listener: &TcpListener) -> Result<Stream> {
        let end = Instant::now() + PATIENCE;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Stream::over(stream);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    ensure!(Instant::now() < end, "the edge does not call the platform");
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn over(stream: TcpStream) -> Result<Stream> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Stream {
            local: stream.local_addr()?,
            stream,
            buffer: Vec::new(),
        })
    }

    fn send(&mut self, message: &str) -> Result<()> {
        Ok(self.stream.write_all(message.as_bytes())?)
    }

    /// The next message that starts so; others before it are passed over.
    fn until(&mut self, start: &str) -> Result<String> {
        loop {
            let message = self.next().with_context(|| format!("no {start}"))?;
            if message.starts_with(start) {
                return Ok(message);
            }
            let is_final = message.starts_with("SIP/2.0 ") && !message.starts_with("SIP/2.0 1");
            ensure!(!is_final, "instead of {start}:\n{message}");
        }
    }

    fn next(&mut self) -> Result<String> {
        loop {
            if let Some(length) = whole(&self.buffer)? {
                let message = self.buffer.drain(..length).collect();
                return Ok(String::from_utf8(message)?);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk)? {
                0 => bail!("the edge closed the connection"),
                read => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }

    /// A request of the caller; `to`: empty in the first.
    fn request(
        &self,
        method: &str,
        number: u32,
        target: &str,
        to: &str,
        media: SocketAddr,
    ) -> Result<String> {
        let local = self.local;
        let to = match to {
            "" => format!("<{target}>"),
            to => to.to_owned(),
        };
        let body = match method {
            "INVITE" => description(media),
            _ => String::new(),
        };
        Ok(format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/TCP {local};branch=z9hG4bKvoice{method}\r\nMax-Forwards: 70\r\n\
             From: <sip:+15550100000@{}>;tag=voice\r\nTo: {to}\r\nCall-ID: voice-{}@{}\r\nCSeq: {number} {method}\r\n\
             Contact: <sip:voice@{local};transport=tcp>\r\n{}",
            local.ip(),
            local.port(),
            local.ip(),
            with_body(&body)
        ))
    }
}

/// A 200 to a request.
fn response(request: &str, contact: &str, media: Option<SocketAddr>) -> String {
    let mut text = "SIP/2.0 200 OK\r\n".to_owned();
    for line in request.split("\r\n").take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default();
        if matches!(
            name,
            "Via" | "From" | "To" | "Call-ID" | "CSeq" | "Record-Route"
        ) {
            text += line;
            if name == "To" && !line.contains(";tag=") {
                text += ";tag=platform";
            }
            text += "\r\n";
        }
    }
    if !contact.is_empty() {
        text += &format!("Contact: {contact}\r\n");
    }
    text + &with_body(&media.map(description).unwrap_or_default())
}

fn description(media: SocketAddr) -> String {
    let (ip, port) = (media.ip(), media.port());
    format!(
        "v=0\r\no=voice 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n"
    )
}

/// The last headers, the empty line and the body.
fn with_body(body: &str) -> String {
    let length = body.len();
    match body {
        "" => "Content-Length: 0\r\n\r\n".to_owned(),
        body => format!("Content-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{body}"),
    }
}

/// Length of the first message, if all of it is there.
fn whole(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..head])?;
    let body: usize = header(text, "Content-Length")?.parse()?;
    let length = head + 4 + body;
    Ok((bytes.len() >= length).then_some(length))
}

fn header<'a>(message: &'a str, name: &str) -> Result<&'a str> {
    let value = message
        .split("\r\n")
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {name}"))?.trim())
}

/// The URI of the Contact.
fn target(message: &str) -> Result<String> {
    let contact = header(message, "Contact")?;
    let uri = contact
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'));
    Ok(uri.context("a Contact without brackets")?.0.to_owned())
}

/// Where a message's description wants audio.
fn described(message: &str) -> Result<SocketAddr> {
    let line = |prefix: &str| message.lines().find_map(|line| line.strip_prefix(prefix));
    let ip = line("c=IN IP4 ").context("no c=")?;
    let port = line("m=audio ").and_then(|rest| rest.split(' ').next());
    Ok(SocketAddr::new(
        ip.trim().parse()?,
        port.context("no m=")?.parse()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_and_answered() {
        let invite = "INVITE sip:x SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\n\
                      Call-ID: c\r\nCSeq: 1 INVITE\r\nContact: <sip:a@192.0.2.1:5060>\r\n";
        let media = "192.0.2.1:4000".parse().unwrap();
        let invite = invite.to_owned() + &with_body(&description(media));
        let bytes = [invite.as_bytes(), b"ACK"].concat();
        assert_eq!(whole(&bytes).unwrap(), Some(invite.len()));
        assert_eq!(whole(&bytes[..invite.len() - 1]).unwrap(), None);
        assert_eq!(described(&invite).unwrap(), media);
        assert_eq!(target(&invite).unwrap(), "sip:a@192.0.2.1:5060");
        let ok = response(&invite, "<sip:p@192.0.2.2>", None);
        assert_eq!(
            ok,
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>;tag=platform\r\n\
             Call-ID: c\r\nCSeq: 1 INVITE\r\nContact: <sip:p@192.0.2.2>\r\nContent-Length: 0\r\n\r\n"
        );
    }
}
