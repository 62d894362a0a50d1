//! One dialog of one peer: what it knows, and how it writes.

use super::media::Media;
use super::transferor::Refer;
use super::{Act, UaId};
use crate::net::{Happening, Net};
use crate::scenario::{HostId, Side};
use crate::wire::Sip;
use bytes::Bytes;
use edge_proto::config::Transport;
use edge_proto::id::ConnectionId;
use edge_proto::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How far a dialog is, as its peer sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Idle,
    /// Its initial INVITE is not answered.
    Calling,
    /// It has not answered the edge's initial INVITE.
    Called,
    Up,
    Gone,
}

/// An INVITE of its own.
#[derive(Clone, Debug)]
pub struct OurInvite {
    pub cseq: u32,
    pub branch: String,
    pub uri: String,
    pub initial: bool,
    /// It carried no offer, so the ACK must carry an answer.
    pub wants_offer: bool,
    pub provisional: bool,
    pub done: bool,
    pub cancelled: bool,
}

/// An INVITE of the edge's that it is answering.
#[derive(Clone, Debug)]
pub struct Asked {
    pub request: Rc<Sip>,
    pub conn: ConnectionId,
    pub steps: Vec<super::callee::Step>,
    /// Tells the steps of this INVITE from those of an earlier one.
    pub generation: u32,
    pub final_code: Option<u16>,
    pub acked: bool,
}

/// How it treats NOTIFYs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listening {
    AtOnce,
    Late,
    Unknown481,
    Broken500,
    Never,
}

/// One peer's end of a dialog.
#[derive(Debug)]
pub struct Ua {
    pub id: UaId,
    pub call: u32,
    pub side: Side,
    pub host: HostId,
    pub conn: Option<ConnectionId>,
    pub call_id: String,
    /// Our From or To value, tag included.
    pub local: String,
    pub local_tag: String,
    /// The edge's, with its tag once it is known.
    pub remote: String,
    /// Request-URI of our requests.
    pub target: String,
    pub cseq: u32,
    pub phase: Phase,
    pub invite: Option<OurInvite>,
    pub asked: Option<Asked>,
    pub generation: u32,
    pub media: Media,
    pub listening: Listening,
    pub refers: Vec<Refer>,
    /// Methods of our requests without a final answer, by CSeq.
    pub open_requests: BTreeMap<u32, String>,
    pub bye_sent: bool,
    /// It does and says nothing any more.
    pub vanished: bool,
    /// A second endpoint that answered one INVITE.
    pub ghost: bool,
    /// The edge's INVITE was challenged once.
    pub challenged: u8,
    serial: u32,
}

impl Ua {
    pub fn new(id: UaId, call: u32, side: Side, host: HostId) -> Ua {
        Ua {
            id,
            call,
            side,
            host,
            conn: None,
            call_id: String::new(),
            local: String::new(),
            local_tag: String::new(),
            remote: String::new(),
            target: String::new(),
            cseq: 0,
            phase: Phase::Idle,
            invite: None,
            asked: None,
            generation: 0,
            media: Media::default(),
            listening: Listening::AtOnce,
            refers: Vec::new(),
            open_requests: BTreeMap::new(),
            bye_sent: false,
            vanished: false,
            ghost: false,
            challenged: 0,
            serial: 0,
        }
    }

    /// Plans an act.
    pub fn plan(&self, net: &mut Net, delay: Duration, act: Act) {
        net.after(delay, Happening::Act(self.id, act));
    }

    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up && !self.vanished
    }

    /// A branch that nobody else uses.
    pub fn branch(&mut self) -> String {
        self.serial += 1;
        format!("z9hG4bK-p{}-{}", self.id, self.serial)
    }

    fn contact(&self, net: &Net) -> String {
        let host = &net.scenario.places.hosts[self.host];
        format!(
            "<sip:ua{}@{};transport={}>",
            self.id,
            host.address,
            host.transport.uri_name()
        )
    }

    /// A connection for a request: its own, or at times a new one, from any server of its side.
    pub fn path(&mut self, net: &mut Net) -> ConnectionId {
        if let Some(conn) = self.conn
            && net.is_usable(conn)
            && !net.dice.chance(120)
        {
            return conn;
        }
        let mut host = self.host;
        if self.side == Side::Platform && net.dice.chance(400) {
            let hosts: Vec<HostId> = net.scenario.places.hosts_of(self.side).collect();
            host = *net.dice.pick(&hosts);
        }
        let conn = net.open(host);
        if let Some(old) = self.conn.replace(conn) {
            // Nobody keeps connections for ever that he does not use.
            self.plan(net, Duration::from_secs(5), Act::Close(old));
        }
        conn
    }

    /// The text of a request within (or starting) the dialog. `branch` and `cseq` are the caller's choice.
    #[allow(clippy::too_many_arguments)]
    pub fn request(
        &self,
        net: &Net,
        conn: ConnectionId,
        method: &str,
        uri: &str,
        cseq: u32,
        branch: &str,
        extra: &[String],
        body: &str,
    ) -> Rc<Sip> {
        let host = net.conn(conn).map_or(self.host, |conn| conn.host);
        let host = &net.scenario.places.hosts[host];
        let transport = match host.transport {
            Transport::Tls => "TLS",
            _ => "TCP",
        };
        let to = match method {
            "CANCEL" => without_tag(&self.remote),
            _ => &self.remote,
        };
        let extra: String = extra.iter().map(|line| format!("{line}\r\n")).collect();
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} {};branch={branch}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: {}\r\n{extra}{}Content-Length: {}\r\n\r\n{body}",
            host.address,
            self.local,
            self.call_id,
            self.contact(net),
            content_type(body),
            body.len()
        );
        parsed(text)
    }

    /// Sends a request with the next CSeq. Gives what was sent.
    pub fn send(&mut self, net: &mut Net, method: &str, extra: &[String], body: &str) -> Rc<Sip> {
        let conn = self.path(net);
        self.send_on(net, conn, method, extra, body)
    }

    /// The same on a connection of the caller's choice.
    pub fn send_on(
        &mut self,
        net: &mut Net,
        conn: ConnectionId,
        method: &str,
        extra: &[String],
        body: &str,
    ) -> Rc<Sip> {
        self.cseq += 1;
        let branch = self.branch();
        let uri = self.target.clone();
        let sip = self.request(net, conn, method, &uri, self.cseq, &branch, extra, body);
        self.open_requests.insert(self.cseq, method.to_owned());
        net.peer_send(conn, &sip);
        self.maybe_repeat(net, conn, &sip);
        sip
    }

    /// Retransmits what needs no retransmission, as some do over any transport.
    pub fn maybe_repeat(&self, net: &mut Net, conn: ConnectionId, sip: &Rc<Sip>) {
        if net.rude(30) {
            net.coverage.hit("peer: request retransmitted");
            let delay = net.dice.millis(1, 3_000);
            self.plan(net, delay, Act::Send(conn, sip.clone()));
        }
    }

    /// A response of ours to `request`.
    pub fn response(
        &self,
        net: &Net,
        request: &Sip,
        code: u16,
        extra: &[String],
        body: &str,
    ) -> Rc<Sip> {
        let to = match request.to_tag() {
            "" if code != 100 => self.local.as_str(),
            _ => request.header("to"),
        };
        write_response(request, code, to, Some(&self.contact(net)), extra, body)
    }

    /// Sends a response on the connection of its request, or where that is gone, at times on a new one (RFC 3261 §18.2.2).
    pub fn respond(
        &mut self,
        net: &mut Net,
        conn: ConnectionId,
        request: &Sip,
        code: u16,
        extra: &[String],
        body: &str,
    ) {
        let sip = self.response(net, request, code, extra, body);
        send_response(net, self.host, conn, &sip);
        if code >= 200 && net.rude(25) {
            net.coverage.hit("peer: response retransmitted");
            let delay = net.dice.millis(1, 2_000);
            self.plan(net, delay, Act::Send(conn, sip));
        }
    }
}

/// Sends a response where its request came from, or on a new connection.
pub fn send_response(net: &mut Net, host: HostId, conn: ConnectionId, sip: &Rc<Sip>) {
    if net.peer_send(conn, sip) {
        return;
    }
    if net.dice.chance(500) {
        net.coverage.hit("peer: response on a new connection");
        let conn = net.open(host);
        net.peer_send(conn, sip);
    }
}

/// The text of a response.
pub fn write_response(
    request: &Sip,
    code: u16,
    to: &str,
    contact: Option<&str>,
    extra: &[String],
    body: &str,
) -> Rc<Sip> {
    let vias: String = request
        .headers("via")
        .map(|via| format!("Via: {via}\r\n"))
        .collect();
    let extra: String = extra.iter().map(|line| format!("{line}\r\n")).collect();
    let contact = contact.map_or(String::new(), |contact| format!("Contact: {contact}\r\n"));
    let text = format!(
        "SIP/2.0 {code} Status\r\n{vias}From: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\n{contact}{extra}{}Content-Length: {}\r\n\r\n{body}",
        request.header("from"),
        request.call_id(),
        request.header("cseq"),
        content_type(body),
        body.len()
    );
    parsed(text)
}

/// What peers write on purpose is well-formed.
pub fn parsed(text: String) -> Rc<Sip> {
    match Sip::parse(&Bytes::from(text.clone())) {
        Ok(sip) => Rc::new(sip),
        Err(fault) => panic!("a peer wrote a malformed message ({fault}):\n{text}"),
    }
}

fn content_type(body: &str) -> &'static str {
    if body.is_empty() {
        ""
    } else {
        "Content-Type: application/sdp\r\n"
    }
}

/// A From or To value without its tag.
pub fn without_tag(value: &str) -> &str {
    value.split(";tag=").next().unwrap_or(value)
}
