//! Subjects that break one rule on purpose, to show that a checker reports it.

mod forge;

use crate::subject::Subject;
use edge_proto::b2bua::{B2bua, B2buaParams, Input, Output};
use edge_proto::event::EventKind;
use edge_proto::id::AllocationId;
use edge_proto::relay::MediaCommand;
use edge_proto::time::Instant;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is done to a sound B2BUA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// Messages lose their Content-Length.
    Garble,
    /// Connections go to a stranger.
    Misconnect,
    /// Every INVITE that leaves is followed by one that nobody asked for.
    ForgeInvite,
    /// INVITEs show credentials before anybody asks.
    ShowCredentials,
    /// A caller is bridged to the callee of another call.
    CrossCalls,
    /// Ports are not given back.
    KeepPorts,
    /// Answers to BYE are sent twice.
    AnswerTwice,
    /// Nothing is acknowledged.
    SwallowAck,
    /// The final NOTIFY is sent twice.
    NotifyTwice,
    /// The transferor gets its BYE right behind the final NOTIFY.
    ReleaseAtOnce,
    /// Nobody is ever sent a BYE.
    SwallowBye,
    /// More calls than allowed.
    HoardCalls,
    /// CDRs are written twice.
    RecordTwice,
    /// Connections of strangers stay open.
    KeepStrangers,
    /// It is never done.
    NeverIdle,
    /// What it does depends on what it did in another life.
    Remember,
}

impl Sabotage {
    /// Each with the checker that must report it.
    pub const ALL: [(Sabotage, &'static str); 15] = [
        (Sabotage::Garble, "wellformed"),
        (Sabotage::Misconnect, "addressing"),
        (Sabotage::ForgeInvite, "referrals"),
        (Sabotage::ShowCredentials, "credentials"),
        (Sabotage::CrossCalls, "hearing"),
        (Sabotage::KeepPorts, "allocations"),
        (Sabotage::AnswerTwice, "finals"),
        (Sabotage::SwallowAck, "acks"),
        (Sabotage::NotifyTwice, "notifies"),
        (Sabotage::ReleaseAtOnce, "release"),
        (Sabotage::SwallowBye, "hangups"),
        (Sabotage::HoardCalls, "limits"),
        (Sabotage::RecordTwice, "records"),
        (Sabotage::KeepStrangers, "access"),
        (Sabotage::NeverIdle, "termination"),
    ];
}

/// Lives on from run to run: what [`Sabotage::Remember`] remembers.
static MEMORY: AtomicU64 = AtomicU64::new(0);

/// A B2BUA with somebody in between.
pub struct Saboteur {
    inner: B2bua,
    sabotage: Sabotage,
    outputs: VecDeque<Output>,
    /// The callee of the bridge before.
    bridged: Option<AllocationId>,
}

impl Saboteur {
    pub fn new(params: B2buaParams, now: Instant, sabotage: Sabotage) -> Self {
        Saboteur {
            inner: B2bua::new(params, now),
            sabotage,
            outputs: VecDeque::new(),
            bridged: None,
        }
    }

    fn meddle(&mut self, output: Output) {
        match output {
            Output::Transmit { connection, bytes } => {
                for bytes in forge::messages(self.sabotage, bytes) {
                    self.outputs
                        .push_back(Output::Transmit { connection, bytes });
                }
            }
            Output::Connect {
                connection,
                transport,
                local,
                tls,
                ..
            } if self.sabotage == Sabotage::Misconnect => {
                self.outputs.push_back(Output::Connect {
                    connection,
                    transport,
                    local,
                    remote: std::net::SocketAddr::from(([203, 0, 113, 66], 5060)),
                    tls,
                });
            }
            Output::Close { .. } if self.sabotage == Sabotage::KeepStrangers => {}
            Output::Media(command) => self.meddle_media(command),
            Output::Event(mut event) => {
                let ended = matches!(event.kind, EventKind::LegEnded(_));
                if ended && self.sabotage == Sabotage::RecordTwice {
                    self.outputs.push_back(Output::Event(event.clone()));
                }
                if let EventKind::Malformed { fault, .. } = &mut event.kind
                    && self.sabotage == Sabotage::Remember
                {
                    let lives = MEMORY.fetch_add(1, Ordering::Relaxed);
                    fault.push_str(&lives.to_string());
                }
                self.outputs.push_back(Output::Event(event));
            }
            output => self.outputs.push_back(output),
        }
    }

    fn meddle_media(&mut self, command: MediaCommand) {
        let command = match command {
            MediaCommand::Close { .. } if self.sabotage == Sabotage::KeepPorts => return,
            MediaCommand::Bridge {
                a,
                b,
                a_to_b,
                b_to_a,
            } if self.sabotage == Sabotage::CrossCalls => {
                let other = self.bridged.replace(b).unwrap_or(b);
                MediaCommand::Bridge {
                    a,
                    b: other,
                    a_to_b,
                    b_to_a,
                }
            }
            command => command,
        };
        self.outputs.push_back(Output::Media(command));
    }
}

impl Subject for Saboteur {
    fn handle(&mut self, now: Instant, input: Input) {
        self.inner.handle(now, input);
    }

    fn poll_output(&mut self) -> Option<Output> {
        while self.outputs.is_empty() {
            let output = self.inner.poll_output()?;
            self.meddle(output);
        }
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn calls(&self) -> usize {
        match self.sabotage {
            Sabotage::HoardCalls => self.inner.calls() + 1_000,
            _ => self.inner.calls(),
        }
    }

    fn is_idle(&self) -> bool {
        self.sabotage != Sabotage::NeverIdle && self.inner.is_idle()
    }

    fn leftovers(&self) -> Vec<(&'static str, usize)> {
        self.inner.leftovers()
    }
}
