//! A scripted user agent: it writes requests and responses by hand, so that a fault shared with the edge's builder shows.

use crate::world::World;
use edge_proto::id::ConnectionId;
use edge_proto::sip::{HeaderName, Message};
use std::net::SocketAddr;

/// One dialog of one user agent.
#[derive(Clone, Debug)]
pub struct Ua {
    pub address: SocketAddr,
    pub connection: ConnectionId,
    pub call_id: String,
    /// Our From or To value with its tag.
    pub local: String,
    /// The edge's, with its tag once it is known.
    pub remote: String,
    /// The edge's Contact.
    pub target: String,
    pub cseq: u32,
    pub rtp_port: u16,
    serial: u32,
    /// Request-URI and branch of the last INVITE, for its ACK and CANCEL.
    last_invite: Option<(String, String, u32)>,
}

/// SDP with PCMU and telephone-event at the user agent's address.
pub fn sdp(address: SocketAddr, port: u16) -> String {
    sdp_with(
        address,
        port,
        "0 101",
        &["101 telephone-event/8000"],
        "sendrecv",
    )
}

pub fn sdp_with(
    address: SocketAddr,
    port: u16,
    formats: &str,
    maps: &[&str],
    direction: &str,
) -> String {
    let kind = if address.is_ipv4() { "IP4" } else { "IP6" };
    let ip = address.ip();
    let maps: String = maps
        .iter()
        .map(|map| format!("a=rtpmap:{map}\r\n"))
        .collect();
    format!(
        "v=0\r\no=ua 1 1 IN {kind} {ip}\r\ns=-\r\nc=IN {kind} {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP {formats}\r\n{maps}a={direction}\r\n"
    )
}

impl Ua {
    /// A caller that is about to send an INVITE over `connection`.
    pub fn caller(
        address: SocketAddr,
        connection: ConnectionId,
        number: &str,
        rtp_port: u16,
    ) -> Ua {
        Ua {
            address,
            connection,
            call_id: format!("{number}-{rtp_port}@caller"),
            local: format!(
                "\"Caller\" <sip:+15550100@{}>;tag=caller{rtp_port}",
                address.ip()
            ),
            remote: format!("<sip:{number}@192.0.2.1>"),
            target: format!("sip:{number}@192.0.2.1:5060;transport=tcp"),
            cseq: 1,
            rtp_port,
            serial: 0,
            last_invite: None,
        }
    }

    /// A callee that received `invite`.
    pub fn callee(
        connection: ConnectionId,
        invite: &Message,
        address: SocketAddr,
        rtp_port: u16,
    ) -> Ua {
        let contact = invite
            .header(HeaderName::Contact)
            .expect("the INVITE has a Contact");
        Ua {
            address,
            connection,
            call_id: invite.call_id().to_owned(),
            local: format!("{};tag=callee{rtp_port}", invite.to_header()),
            remote: invite.from_header().to_owned(),
            target: contact
                .trim_start_matches('<')
                .split('>')
                .next()
                .unwrap_or_default()
                .to_owned(),
            cseq: 100,
            rtp_port,
            serial: 0,
            last_invite: None,
        }
    }

    pub fn sdp(&self) -> String {
        sdp(self.address, self.rtp_port)
    }

    fn via(&mut self) -> (String, String) {
        self.serial += 1;
        let branch = format!("z9hG4bKua{}-{}-{}", self.rtp_port, self.cseq, self.serial);
        (
            format!("Via: SIP/2.0/TCP {};branch={branch}\r\n", self.address),
            branch,
        )
    }

    /// A request of the dialog, as text.
    pub fn request(&mut self, method: &str, extra: &[&str], body: &str) -> String {
        if method != "ACK" {
            self.cseq += 1;
        }
        let (via, branch) = self.via();
        if method == "INVITE" {
            self.last_invite = Some((self.target.clone(), branch, self.cseq));
        }
        let extra: String = extra.iter().map(|line| format!("{line}\r\n")).collect();
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        format!(
            "{method} {} SIP/2.0\r\n{via}Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} {method}\r\nContact: <sip:ua@{};transport=tcp>\r\n{extra}{kind}Content-Length: {}\r\n\r\n{body}",
            self.target,
            self.local,
            self.remote,
            self.call_id,
            self.cseq,
            self.address,
            body.len()
        )
    }

    pub fn send(&mut self, world: &mut World, method: &str, extra: &[&str], body: &str) {
        let text = self.request(method, extra, body);
        world.send(self.connection, text);
    }

    /// INVITE with our SDP.
    pub fn invite(&mut self, world: &mut World) {
        let body = self.sdp();
        self.send(world, "INVITE", &[], &body);
    }

    /// CANCEL of the last INVITE.
    pub fn cancel(&mut self, world: &mut World) {
        let (uri, branch, cseq) = self.last_invite.clone().expect("an INVITE was sent");
        let text = format!(
            "CANCEL {uri} SIP/2.0\r\nVia: SIP/2.0/TCP {};branch={branch}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} CANCEL\r\nContent-Length: 0\r\n\r\n",
            self.address,
            self.local,
            without_tag(&self.remote),
            self.call_id
        );
        world.send(self.connection, text);
    }

    /// ACK of a 2xx (a transaction of its own) or of a failure (in the INVITE's).
    pub fn ack(&mut self, world: &mut World, response: &Message, body: &str) {
        let code = response.status().expect("a response");
        let (uri, branch, cseq) = self.last_invite.clone().expect("an INVITE was sent");
        let (uri, via) = if code < 300 {
            (self.target.clone(), self.via().0)
        } else {
            (
                uri,
                format!("Via: SIP/2.0/TCP {};branch={branch}\r\n", self.address),
            )
        };
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        let text = format!(
            "ACK {uri} SIP/2.0\r\n{via}Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} ACK\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            self.local,
            response.to_header(),
            self.call_id,
            body.len()
        );
        world.send(self.connection, text);
    }

    /// A response to a request of the edge.
    pub fn respond(
        &mut self,
        world: &mut World,
        request: &Message,
        code: u16,
        extra: &[&str],
        body: &str,
    ) {
        let text = self.response(request, code, extra, body);
        world.send(self.connection, text);
    }

    pub fn response(&self, request: &Message, code: u16, extra: &[&str], body: &str) -> String {
        let vias: String = request
            .headers(HeaderName::Via)
            .map(|via| format!("Via: {via}\r\n"))
            .collect();
        let to = match request.to_tag() {
            Some(_) => request.to_header().to_owned(),
            None if code == 100 => request.to_header().to_owned(),
            None => self.local.clone(),
        };
        let extra: String = extra.iter().map(|line| format!("{line}\r\n")).collect();
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        format!(
            "SIP/2.0 {code} Status\r\n{vias}From: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: <sip:ua@{};transport=tcp>\r\n{extra}{kind}Content-Length: {}\r\n\r\n{body}",
            request.from_header(),
            request.call_id(),
            request.header(HeaderName::CSeq).expect("CSeq"),
            self.address,
            body.len()
        )
    }

    /// Takes the next message, which must be a response with `code` to `method`; remembers the edge's tag and Contact.
    pub fn expect(&mut self, world: &mut World, code: u16, method: &str) -> Message {
        let (connection, message) = world.recv(self.address);
        assert_eq!(
            (message.status(), message.cseq().method.as_str()),
            (Some(code), method),
            "{}",
            crate::world::text(&message)
        );
        self.connection = connection;
        if code > 100 && method == "INVITE" && message.to_tag().is_some() {
            self.remote = message.to_header().to_owned();
        }
        if (200..300).contains(&code)
            && method == "INVITE"
            && let Some(contact) = message.header(HeaderName::Contact)
        {
            self.target = contact
                .trim_start_matches('<')
                .split('>')
                .next()
                .unwrap_or_default()
                .to_owned();
        }
        message
    }

    /// Takes the next message, which must be a request with `method`.
    pub fn expect_request(&mut self, world: &mut World, method: &str) -> Message {
        let (connection, message) = world.recv(self.address);
        assert_eq!(
            message.method().map(|m| m.as_str().to_owned()).as_deref(),
            Some(method),
            "{}",
            crate::world::text(&message)
        );
        self.connection = connection;
        message
    }
}

fn without_tag(value: &str) -> &str {
    value.split(";tag=").next().unwrap_or(value)
}

/// An INVITE that reached a peer that has no dialog yet.
pub fn expect_invite(world: &mut World, address: SocketAddr, rtp_port: u16) -> (Ua, Message) {
    let (connection, invite) = world.recv(address);
    assert_eq!(
        invite.method().map(|m| m.as_str().to_owned()).as_deref(),
        Some("INVITE"),
        "{}",
        crate::world::text(&invite)
    );
    (Ua::callee(connection, &invite, address, rtp_port), invite)
}
