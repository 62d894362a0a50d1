//! A scripted user agent: it writes requests and responses by hand, so that a fault shared with the edge's builder shows.

use super::peers::CALLER;
use super::sdp::Sdp;
use super::world::{Link, World, text};
use edge_proto::sip::{HeaderName, Message};
use std::net::SocketAddr;

/// One dialog of one user agent.
#[derive(Clone, Debug)]
pub struct Ua {
    pub address: SocketAddr,
    pub link: Link,
    pub call_id: String,
    /// Our From or To value with its tag.
    pub local: String,
    /// The edge's, with its tag once it is known.
    pub remote: String,
    /// The edge's Contact.
    pub target: String,
    pub cseq: u32,
    pub sdp: Sdp,
    /// What our Contact says.
    pub contact: String,
    serial: u32,
    /// Request-URI, branch and CSeq of the last INVITE, for its ACK and CANCEL.
    last_invite: Option<(String, String, u32)>,
}

impl Ua {
    /// A caller that is about to send an INVITE to `number`, over a connection of its own.
    pub fn caller(world: &mut World, address: SocketAddr, number: &str, rtp_port: u16) -> Ua {
        let link = Link::Stream(world.connect(address));
        Ua::caller_on(world, link, address, number, rtp_port)
    }

    pub fn caller_on(
        world: &mut World,
        link: Link,
        address: SocketAddr,
        number: &str,
        rtp_port: u16,
    ) -> Ua {
        let edge = world.site.edge;
        let parameter = match link {
            Link::Stream(_) => ";transport=tcp",
            Link::Datagram(_) => "",
        };
        Ua {
            address,
            link,
            call_id: format!("{}-{rtp_port}@caller", world.fresh()),
            local: format!(
                "\"Caller\" <sip:{CALLER}@{}>;tag=caller{rtp_port}",
                host(address)
            ),
            remote: format!("<sip:{number}@{}>", host(edge)),
            target: format!("sip:{number}@{edge}{parameter}"),
            cseq: 1,
            sdp: Sdp::new(address, rtp_port),
            contact: contact(link, address),
            serial: 0,
            last_invite: None,
        }
    }

    /// A callee that received `invite`.
    pub fn callee(link: Link, invite: &Message, address: SocketAddr, rtp_port: u16) -> Ua {
        Ua {
            address,
            link,
            call_id: invite.call_id().to_owned(),
            local: format!("{};tag=callee{rtp_port}", invite.to_header()),
            remote: invite.from_header().to_owned(),
            target: contact_uri(invite),
            cseq: 100,
            sdp: Sdp::new(address, rtp_port),
            contact: contact(link, address),
            serial: 0,
            last_invite: None,
        }
    }

    /// Another endpoint that answers the same INVITE: a fork.
    pub fn fork(&self, rtp_port: u16) -> Ua {
        let mut fork = self.clone();
        fork.local = format!("{};tag=fork{rtp_port}", without_tag(&self.local));
        fork.sdp = Sdp::new(self.address, rtp_port);
        fork.serial += 1000;
        fork
    }

    /// Leaves the present connection open and goes on over a new one.
    pub fn reconnects(&mut self, world: &mut World) {
        self.link = Link::Stream(world.connect(self.address));
    }

    fn via(&mut self) -> (String, String) {
        self.serial += 1;
        let call = self.call_id.replace('@', "-");
        let branch = format!("z9hG4bK{call}-{}-{}", self.cseq, self.serial);
        (self.via_with(&branch), branch)
    }

    fn via_with(&self, branch: &str) -> String {
        let transport = match self.link {
            Link::Stream(_) => "TCP",
            Link::Datagram(_) => "UDP",
        };
        format!(
            "Via: SIP/2.0/{transport} {};branch={branch}\r\n",
            self.address
        )
    }

    /// A request of the dialog, as text. A Content-Type in `extra` replaces application/sdp.
    pub fn request(&mut self, method: &str, extra: &[&str], body: &str) -> String {
        self.cseq += 1;
        let (via, branch) = self.via();
        if method == "INVITE" {
            self.last_invite = Some((self.target.clone(), branch, self.cseq));
        }
        let forwards = if extra.iter().any(|line| line.starts_with("Max-Forwards")) {
            ""
        } else {
            "Max-Forwards: 70\r\n"
        };
        format!(
            "{method} {} SIP/2.0\r\n{via}{forwards}From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} {method}\r\nContact: {}\r\n{}Content-Length: {}\r\n\r\n{body}",
            self.target,
            self.local,
            self.remote,
            self.call_id,
            self.cseq,
            self.contact,
            lines(extra, body),
            body.len()
        )
    }

    pub fn sends(&mut self, world: &mut World, method: &str, extra: &[&str], body: &str) {
        let text = self.request(method, extra, body);
        world.send(self.link, self.address, text);
    }

    /// A request with neither further headers nor a body.
    pub fn says(&mut self, world: &mut World, method: &str) {
        self.sends(world, method, &[], "");
    }

    /// INVITE with our description.
    pub fn invites(&mut self, world: &mut World) {
        let body = self.sdp.text();
        self.sends(world, "INVITE", &[], &body);
    }

    /// INVITE with a changed description.
    pub fn reinvites(&mut self, world: &mut World, change: impl FnOnce(Sdp) -> Sdp) {
        self.sdp = change(self.sdp.clone());
        self.sdp.version += 1;
        self.invites(world);
    }

    /// CANCEL of the last INVITE.
    pub fn cancels(&mut self, world: &mut World) {
        let text = self.cancel_text();
        world.send(self.link, self.address, text);
    }

    pub fn cancel_text(&self) -> String {
        let (uri, branch, cseq) = self.last_invite.clone().expect("an INVITE was sent");
        format!(
            "CANCEL {uri} SIP/2.0\r\n{}Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} CANCEL\r\nContent-Length: 0\r\n\r\n",
            self.via_with(&branch),
            self.local,
            without_tag(&self.remote),
            self.call_id
        )
    }

    /// ACK of a 2xx (a transaction of its own) or of a failure (in the INVITE's).
    pub fn acks(&mut self, world: &mut World, response: &Message) {
        self.acks_with(world, response, "");
    }

    pub fn acks_with(&mut self, world: &mut World, response: &Message, body: &str) {
        let code = response.status().expect("a response");
        let (uri, branch, cseq) = self.last_invite.clone().expect("an INVITE was sent");
        let (uri, via) = if code < 300 {
            (self.target.clone(), self.via().0)
        } else {
            (uri, self.via_with(&branch))
        };
        let text = format!(
            "ACK {uri} SIP/2.0\r\n{via}Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} ACK\r\n{}Content-Length: {}\r\n\r\n{body}",
            self.local,
            response.to_header(),
            self.call_id,
            lines(&[], body),
            body.len()
        );
        world.send(self.link, self.address, text);
    }

    /// A response without further headers and body.
    pub fn answers(&mut self, world: &mut World, request: &Message, code: u16) {
        self.answers_with(world, request, code, &[], "");
    }

    /// A response with our description.
    pub fn accepts(&mut self, world: &mut World, request: &Message, code: u16) {
        let body = self.sdp.text();
        self.answers_with(world, request, code, &[], &body);
    }

    pub fn answers_with(
        &mut self,
        world: &mut World,
        request: &Message,
        code: u16,
        extra: &[&str],
        body: &str,
    ) {
        let text = self.response(request, code, extra, body);
        world.send(self.link, self.address, text);
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
        format!(
            "SIP/2.0 {code} Status\r\n{vias}From: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: {}\r\n{}Content-Length: {}\r\n\r\n{body}",
            request.from_header(),
            request.call_id(),
            request.header(HeaderName::CSeq).expect("CSeq"),
            self.contact,
            lines(extra, body),
            body.len()
        )
    }

    /// Takes the next message that reached this address. `what` is `200 INVITE` for a response, `BYE` for a request; it must be
    /// of this dialog. The edge's tag and Contact are remembered.
    pub fn gets(&mut self, world: &mut World, what: &str) -> Message {
        let (link, message) = world.recv(self.address);
        assert_eq!(name(&message), what, "{}", text(&message));
        assert_eq!(message.call_id(), self.call_id, "{}", text(&message));
        self.link = link;
        if let Some(code) = message.status()
            && code > 100
            && message.cseq().method.as_str() == "INVITE"
        {
            self.remote = message.to_header().to_owned();
            if (200..300).contains(&code) {
                self.target = contact_uri(&message);
            }
        }
        message
    }
}

impl Ua {
    /// Takes messages that came by different connections, whose order means nothing; returns them in the order of `what`.
    pub fn gets_all(&mut self, world: &mut World, what: &[&str]) -> Vec<Message> {
        let mut got: Vec<Option<Message>> = vec![None; what.len()];
        for _ in what {
            let (link, message) = world.recv(self.address);
            self.link = link;
            let name = name(&message);
            let place = what
                .iter()
                .zip(&got)
                .position(|(w, g)| *w == name && g.is_none());
            got[place.unwrap_or_else(|| panic!("{name} is not expected"))] = Some(message);
        }
        got.into_iter().flatten().collect()
    }
}

/// `200 INVITE` for a response, `BYE` for a request.
fn name(message: &Message) -> String {
    let method = message.cseq().method.as_str().to_owned();
    match message.status() {
        Some(code) => format!("{code} {method}"),
        None => method,
    }
}

/// Further header lines, and the Content-Type of a body.
fn lines(extra: &[&str], body: &str) -> String {
    let mut text: String = extra.iter().map(|line| format!("{line}\r\n")).collect();
    if !body.is_empty() && !extra.iter().any(|line| line.starts_with("Content-Type")) {
        text.push_str("Content-Type: application/sdp\r\n");
    }
    text
}

fn contact(link: Link, address: SocketAddr) -> String {
    match link {
        Link::Stream(_) => format!("<sip:ua@{address};transport=tcp>"),
        Link::Datagram(_) => format!("<sip:ua@{address}>"),
    }
}

/// The URI of the edge's Contact.
fn contact_uri(message: &Message) -> String {
    let contact = message.header(HeaderName::Contact).expect("a Contact");
    let inner = contact
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'));
    inner.expect("angle brackets").0.to_owned()
}

/// The host of a URI at an address.
pub fn host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

pub fn without_tag(value: &str) -> &str {
    value.split(";tag=").next().unwrap_or(value)
}
