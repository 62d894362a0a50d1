//! From bytes to whole messages, and each of them to the core that owns it.

use super::B2bua;
use super::connections::Origin;
use super::io::{HandoffMessage, Hop, Output};
use super::ownership::owner_of;
use crate::config::Transport;
use crate::event::EventKind;
use crate::id::{ConnectionId, ListenerId};
use crate::sip::{Frame, FramingError, Message, ResponseBuilder, ResponseHint};
use bytes::Bytes;
use std::net::SocketAddr;

/// Seconds that a refused caller is asked to wait (RFC 3261 §20.33).
pub(crate) const RETRY_AFTER_S: u32 = 5;

impl B2bua {
    pub(super) fn on_bytes(&mut self, connection: ConnectionId, bytes: Bytes) {
        let Some(stream) = self.cx.connections.get_mut(connection) else {
            return;
        };
        stream.framer.push_bytes(bytes);
        // One message may close the connection, so it is looked up again for each.
        while let Some(stream) = self.cx.connections.get_mut(connection) {
            match stream.framer.next() {
                Ok(Some(Frame::Message(raw))) => {
                    self.cx.unfinished.cancel(connection);
                    let origin = Origin {
                        hop: Hop::Stream(connection),
                        listener: stream.listener,
                        trunk: stream.trunk.clone(),
                        called: stream.called.clone(),
                        transport: stream.transport,
                        local: stream.local,
                        remote: stream.remote,
                    };
                    // A copy of its own: a call that keeps it would keep all that was received with it.
                    self.on_raw(origin, Bytes::copy_from_slice(&raw));
                }
                Ok(Some(Frame::KeepAlivePing)) => self.cx.outputs.push_back(Output::Transmit {
                    connection,
                    bytes: Bytes::from_static(b"\r\n"),
                }),
                Ok(Some(Frame::KeepAlivePong)) => {}
                Ok(None) => {
                    let unfinished = stream.framer.is_mid_message();
                    return self.cx.expect_rest(connection, unfinished);
                }
                Err(fault) => return self.on_framing_error(connection, fault),
            }
        }
    }

    /// What follows on the connection cannot be understood any more: it is closed, after an answer where there is somebody to
    /// address one to.
    fn on_framing_error(&mut self, connection: ConnectionId, fault: FramingError) {
        let Some(stream) = self.cx.connections.get(connection) else {
            return;
        };
        let hint = stream
            .framer
            .rejected_head()
            .and_then(|head| ResponseHint::read(head));
        self.malformed(stream.remote, fault.to_string());
        if let (Some(code), Some(hint)) = (fault.status(), hint) {
            self.answer_hint(Hop::Stream(connection), &hint, code, &fault.to_string());
        }
        self.cx.close(connection);
    }

    /// A peer began a message and never finished it: it would hold its buffer and its place for ever.
    pub(super) fn on_unfinished(&mut self, connection: ConnectionId) {
        if let Some(remote) = self.cx.connections.get(connection).map(|s| s.remote) {
            self.malformed(remote, "the rest of a message never came".to_owned());
            self.cx.close(connection);
        }
    }

    /// A refusal of a request of which no more than the hint could be read; `fault` says why.
    fn answer_hint(&mut self, hop: Hop, hint: &ResponseHint, code: u16, fault: &str) {
        let tag = self.cx.tag();
        let answer = ResponseBuilder::to_hint(hint, code)
            .because(fault)
            .to_tag(&tag);
        self.cx.transmit(hop, answer.build());
    }

    /// Reports what a peer got wrong.
    pub(super) fn malformed(&mut self, source: SocketAddr, fault: String) {
        self.cx
            .event(None, None, EventKind::Malformed { source, fault });
    }

    pub(super) fn on_datagram(&mut self, listener: ListenerId, source: SocketAddr, bytes: Bytes) {
        if self
            .cx
            .config
            .allow
            .lookup(listener, source.ip())
            .is_empty()
        {
            self.cx.access_dropped(listener, source.ip(), "unlisted");
            return;
        }
        let Some(local) = self.cx.config.listener(listener).map(|l| l.address) else {
            return;
        };
        match crate::sip::frame_datagram(bytes) {
            // A keep-alive (RFC 5626 §3.5.2).
            Ok(raw) if raw.is_empty() => {}
            Ok(raw) => self.on_raw(
                Origin {
                    hop: Hop::Datagram {
                        listener,
                        remote: source,
                    },
                    listener: Some(listener),
                    trunk: None,
                    called: None,
                    transport: Transport::Udp,
                    local,
                    remote: source,
                },
                raw,
            ),
            Err(fault) => self.malformed(source, fault.to_string()),
        }
    }

    fn on_raw(&mut self, origin: Origin, raw: Bytes) {
        let message = match Message::parse(raw, &self.cx.message_limits()) {
            Ok(message) => message,
            Err(fault) => {
                let text = fault.to_string();
                self.malformed(origin.remote, text.clone());
                // A 400 where enough could be read to address one; never for a response or an ACK.
                if let Some(hint) = &fault.response_hint {
                    self.answer_hint(origin.hop, hint, fault.status(), &text);
                }
                return;
            }
        };
        let owner = owner_of(&message, &self.cx.owner_key, self.cx.core, self.cx.cores);
        match owner {
            Some(core) if core == self.cx.core => self.on_message(&origin, message),
            Some(core) => self.cx.outputs.push_back(Output::Handoff {
                core,
                message: HandoffMessage::Message {
                    hop: origin.hop,
                    listener: origin.listener,
                    trunk: origin.trunk,
                    called: origin.called,
                    transport: origin.transport,
                    local: origin.local,
                    remote: origin.remote,
                    raw: message.raw().clone(),
                },
            }),
            None => self.malformed(
                origin.remote,
                "response to nothing that was sent".to_owned(),
            ),
        }
    }

    pub(super) fn on_handoff(&mut self, message: HandoffMessage) {
        match message {
            HandoffMessage::Message {
                hop,
                listener,
                trunk,
                called,
                transport,
                local,
                remote,
                raw,
            } => {
                // It was parsed once where it arrived; a failure here cannot happen and costs only this message.
                if let Ok(message) = Message::parse(raw, &self.cx.message_limits()) {
                    let origin = Origin {
                        hop,
                        listener,
                        trunk,
                        called,
                        transport,
                        local,
                        remote,
                    };
                    self.on_message(&origin, message);
                }
            }
            HandoffMessage::Transmit {
                from,
                connection,
                bytes,
            } => {
                if self.cx.connections.contains(connection) {
                    self.cx
                        .outputs
                        .push_back(Output::Transmit { connection, bytes });
                } else {
                    self.cx.outputs.push_back(Output::Handoff {
                        core: from,
                        message: HandoffMessage::ConnectionGone { connection },
                    });
                }
            }
            HandoffMessage::ConnectionGone { connection } => {
                self.cx
                    .transactions
                    .hop_failed(self.cx.now, Hop::Stream(connection));
            }
        }
    }
}
