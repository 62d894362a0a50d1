//! Everybody that the edge talks to, well behaved or not.

mod callee;
mod caller;
mod challenge;
mod media;
mod pranks;
mod requests;
mod sdp;
mod session;
mod transferor;
mod ua;

pub use media::{STRANGER, party_at, speaker};
pub use pranks::Prank;

use crate::check::Party;
use crate::net::{Happening, Net};
use crate::scenario::{HostId, Side};
use crate::wire::Sip;
use edge_proto::id::ConnectionId;
use edge_proto::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;
use ua::Ua;

/// Index into [`Peers::uas`], and the identity that its packets carry.
pub type UaId = u32;

/// What a peer may plan.
#[derive(Clone, Debug)]
pub enum Act {
    /// Send the initial INVITE.
    Invite,
    /// The same with credentials.
    InviteWith(String),
    Cancel,
    /// Acknowledge a final response of ours.
    Ack {
        response: Rc<Sip>,
        body: String,
    },
    /// The next step of answering an INVITE.
    Step {
        generation: u32,
        index: usize,
    },
    /// Send the 2xx again until it is acknowledged.
    Repeat2xx {
        generation: u32,
        tries: u8,
    },
    /// Another endpoint answers too.
    Fork {
        generation: u32,
    },
    Hangup,
    /// See whether the BYE with this CSeq was answered.
    ByeDone {
        cseq: u32,
        tries: u8,
    },
    Reinvite,
    Update,
    Options,
    Refer(usize),
    ReferWith(usize, String),
    /// A delayed answer to a request of the edge.
    Answer(ConnectionId, Rc<Sip>, u16),
    /// Close a connection that is not needed any more.
    Close(ConnectionId),
    /// A message again, as it was.
    Send(ConnectionId, Rc<Sip>),
    Talk,
    Vanish,
    /// Forget the dialog.
    Leave,
}

/// All peers.
pub struct Peers {
    uas: Vec<Ua>,
    by_tag: BTreeMap<String, UaId>,
    by_call_id: BTreeMap<String, Vec<UaId>>,
    /// One connection per host that many dialogs share.
    shared: BTreeMap<HostId, ConnectionId>,
    /// Nonces that the edge has minted, for those who reflect or borrow them.
    edge_nonces: Vec<String>,
    /// Passwords are the new ones.
    pub passwords_changed: bool,
    /// Nobody starts anything any more.
    curfew: bool,
    /// What peers found wrong with the edge, once each.
    pub complaints: Vec<String>,
}

impl Peers {
    /// How long after the last call began all peers go home.
    pub const STAY: Duration = Duration::from_secs(70);

    /// Peers that have planned their calls and pranks.
    pub fn new(net: &mut Net) -> Peers {
        let mut peers = Peers {
            uas: Vec::new(),
            by_tag: BTreeMap::new(),
            by_call_id: BTreeMap::new(),
            shared: BTreeMap::new(),
            edge_nonces: Vec::new(),
            passwords_changed: false,
            curfew: false,
            complaints: Vec::new(),
        };
        let span = net.scenario.span.as_millis() as u32;
        for call in 0..net.scenario.calls {
            let side = match net.dice.below(100) {
                0..80 => Side::Carrier,
                _ => Side::Platform,
            };
            let hosts: Vec<HostId> = net.scenario.places.hosts_of(side).collect();
            let host = *net.dice.pick(&hosts);
            let id = peers.add(net, call, side, host);
            let at = net.dice.millis(0, span);
            net.after(at, Happening::Act(id, Act::Invite));
        }
        pranks::plan(net);
        net.after(
            net.scenario.span + Self::STAY,
            Happening::Prank(Prank::Curfew),
        );
        peers
    }

    fn add(&mut self, net: &mut Net, call: u32, side: Side, host: HostId) -> UaId {
        let id = self.uas.len() as UaId;
        let mut ua = Ua::new(id, call, side, host);
        media::settle(net, &mut ua);
        ua.local_tag = format!("p{id}-{}", net.dice.word());
        self.by_tag.insert(ua.local_tag.clone(), id);
        self.uas.push(ua);
        id
    }

    fn ua(&mut self, id: UaId) -> Option<&mut Ua> {
        self.uas.get_mut(id as usize)
    }

    /// The connection that dialogs of a host share.
    fn shared_conn(&mut self, net: &mut Net, host: HostId) -> ConnectionId {
        if let Some(&conn) = self.shared.get(&host)
            && net.is_usable(conn)
        {
            return conn;
        }
        let conn = net.open(host);
        self.shared.insert(host, conn);
        conn
    }

    /// A message from the edge is complete at a peer.
    pub fn on_message(&mut self, net: &mut Net, conn: ConnectionId, sip: &Rc<Sip>) {
        for challenge in sip.headers("www-authenticate") {
            let nonce = crate::digest::parameter(challenge, "nonce");
            self.edge_nonces.extend(nonce);
        }
        if !sip.is_request() {
            return self.on_response(net, conn, sip);
        }
        if sip.is_initial_invite() {
            return self.on_initial_invite(net, conn, sip);
        }
        if sip.method() == "CANCEL" {
            return self.on_cancel(net, conn, sip);
        }
        let id = self.by_tag.get(sip.to_tag()).copied();
        if sip.method() == "ACK" {
            if let Some(id) = id {
                self.on_ack(net, id, sip);
            }
            return;
        }
        match id {
            Some(id) => self.on_request(net, id, conn, sip),
            None => {
                let tag = format!("{};tag=none", sip.header("to"));
                let to = match sip.to_tag() {
                    "" => tag.as_str(),
                    _ => sip.header("to"),
                };
                let answer = ua::write_response(sip, 481, to, None, &[], "");
                net.peer_send(conn, &answer);
            }
        }
    }

    fn on_response(&mut self, net: &mut Net, conn: ConnectionId, sip: &Rc<Sip>) {
        let Some(&id) = self.by_tag.get(sip.from_tag()) else {
            return;
        };
        let (cseq, method) = sip.cseq();
        let Some(ua) = self.ua(id).filter(|ua| !ua.vanished) else {
            return;
        };
        if sip.code() >= 200 && sip.code() != 503 {
            ua.open_requests.remove(&cseq);
        }
        match method {
            "INVITE" => self.on_invite_response(net, id, conn, sip),
            "REFER" => self.on_refer_response(net, id, sip),
            "BYE" if sip.code() >= 200 && sip.code() != 503 => {
                if let Some(ua) = self.ua(id) {
                    ua.phase = ua::Phase::Gone;
                }
            }
            _ => {}
        }
    }

    /// A connection ended.
    pub fn on_closed(&mut self, conn: ConnectionId) {
        for ua in &mut self.uas {
            ua.conn.take_if(|own| *own == conn);
        }
        self.shared.retain(|_, shared| *shared != conn);
    }

    /// Closes a connection unless some dialog uses it.
    fn close_unused(&mut self, net: &mut Net, conn: ConnectionId) {
        let used = self.uas.iter().any(|ua| ua.conn == Some(conn));
        if !used && !self.shared.values().any(|&shared| shared == conn) {
            net.peer_close(conn);
        }
    }

    /// The time of an act has come.
    pub fn act(&mut self, net: &mut Net, id: UaId, act: Act) {
        let Some(ua) = self.ua(id).filter(|ua| !ua.vanished) else {
            return;
        };
        match act {
            Act::Invite => self.start_call(net, id),
            Act::InviteWith(credentials) => self.invite_again(net, id, credentials),
            Act::Cancel => self.cancel(net, id),
            Act::Ack { response, body } => self.ack(net, id, &response, &body),
            Act::Step { generation, index } => self.step(net, id, generation, index),
            Act::Repeat2xx { generation, tries } => self.repeat_2xx(net, id, generation, tries),
            Act::Fork { generation } => self.fork(net, id, generation),
            Act::Hangup => self.hang_up(net, id),
            Act::ByeDone { cseq, tries } => self.bye_done(net, id, cseq, tries),
            Act::Reinvite => self.reinvite(net, id),
            Act::Update => self.update(net, id),
            Act::Options => self.options(net, id),
            Act::Refer(index) => self.refer(net, id, index, None),
            Act::ReferWith(index, credentials) => self.refer(net, id, index, Some(credentials)),
            Act::Answer(conn, request, code) => ua.respond(net, conn, &request, code, &[], ""),
            Act::Send(conn, sip) => {
                net.peer_send(conn, &sip);
            }
            Act::Close(conn) => self.close_unused(net, conn),
            Act::Talk => media::talk(net, ua),
            Act::Vanish => self.vanish(net, id),
            Act::Leave => ua.phase = ua::Phase::Gone,
        }
    }

    /// Who a party is.
    pub fn party(&self, id: UaId) -> Party {
        let Some(ua) = self.uas.get(id as usize) else {
            return Party {
                id: STRANGER,
                call: u32::MAX,
                side: Side::Stranger,
                call_id: String::new(),
                tag: String::new(),
            };
        };
        Party {
            id,
            call: ua.call,
            side: ua.side,
            call_id: ua.call_id.clone(),
            tag: ua.local_tag.clone(),
        }
    }
}
