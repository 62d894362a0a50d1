//! What must hold in every run. Each checker watches what enters and leaves the cores, and nothing else of them.

mod access;
mod acks;
mod addressing;
mod allocations;
mod book;
mod credentials;
mod finals;
mod hangups;
mod hearing;
mod judge;
mod limits;
mod notifies;
mod records;
mod referrals;
mod release;
mod subscriptions;
mod termination;
mod wellformed;

pub use book::{Book, Leg};

use crate::peers::UaId;
use crate::scenario::{Scenario, Side};
use crate::wire::Sip;
use edge_proto::b2bua::{Input, Output};
use edge_proto::config::Config;
use edge_proto::id::{ConnectionId, CoreId};
use edge_proto::time::{Duration, Instant};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// How long after a reload what was decided before it may still come out.
const RELOAD_GRACE: Duration = Duration::from_secs(1);

/// Something that was seen at the border of the cores.
pub enum Seen<'a> {
    Input(CoreId, &'a Input),
    Output(CoreId, &'a Output),
    /// The last byte of a message has arrived at the edge.
    Received {
        conn: ConnectionId,
        from: SocketAddr,
        sip: &'a Rc<Sip>,
    },
    /// The edge has decided to send a message, over a connection of whichever core. Seen once, at once or a little later
    /// followed by `Sent`.
    Decided {
        conn: ConnectionId,
        to: SocketAddr,
        sip: &'a Rc<Sip>,
    },
    /// The edge has written a message.
    Sent {
        conn: ConnectionId,
        to: SocketAddr,
        sip: &'a Rc<Sip>,
    },
    /// The edge has written something that is no message.
    Gibberish {
        to: SocketAddr,
        text: &'a str,
        fault: &'a str,
    },
    /// The edge's end of a connection is closed.
    Ended(ConnectionId),
    /// A media thread let a packet pass.
    Heard {
        speaker: Party,
        listener: Party,
    },
    /// A core has handled an input.
    Handled {
        core: CoreId,
        calls: usize,
        connections: usize,
    },
    /// A peer says that the edge did something wrong to it.
    Complaint(&'a str),
}

/// Whose packet it is, or who gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Party {
    pub id: UaId,
    pub call: u32,
    pub side: Side,
    /// Its dialog.
    pub call_id: String,
    pub tag: String,
}

/// What every checker may know.
pub struct Facts<'a> {
    pub now: Instant,
    pub scenario: &'a Scenario,
    pub book: &'a Book,
    pub config: &'a Arc<Config>,
    /// The configuration before the reload, and when that was.
    pub before: Option<(&'a Arc<Config>, Instant)>,
}

impl Facts<'_> {
    /// The configurations that a decision seen now may come from.
    pub fn configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        let recent = self
            .before
            .filter(|&(_, at)| self.now.saturating_since(at) <= RELOAD_GRACE)
            .map(|(config, _)| config);
        [self.config].into_iter().chain(recent)
    }

    /// T1 of the scenario.
    pub fn t1(&self) -> Duration {
        self.scenario.policy.t1
    }
}

/// How a run ended.
pub struct Ending {
    /// Everything that was planned has happened.
    pub quiet: bool,
    pub cores: Vec<CoreEnding>,
}

/// How one core ended.
pub struct CoreEnding {
    pub calls: usize,
    pub idle: bool,
    pub timeout: Option<Instant>,
    pub leftovers: Vec<(&'static str, usize)>,
    /// Allocations that its media thread still has.
    pub allocations: usize,
}

/// One thing that must hold.
pub trait Checker {
    fn name(&self) -> &'static str;

    /// Looks at something. Faults are sentences.
    fn see(&mut self, facts: &Facts<'_>, seen: &Seen<'_>, faults: &mut Vec<String>);

    /// Looks back, once nothing happens any more.
    fn end(&mut self, _facts: &Facts<'_>, _ending: &Ending, _faults: &mut Vec<String>) {}
}

/// The first thing that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub checker: &'static str,
    pub at: Instant,
    pub text: String,
}

/// All checkers, and what they share.
pub struct Checks {
    checkers: Vec<Box<dyn Checker>>,
    book: Book,
    pub violation: Option<Violation>,
}

impl Default for Checks {
    fn default() -> Self {
        Checks {
            checkers: vec![
                Box::<wellformed::Wellformed>::default(),
                Box::<addressing::Addressing>::default(),
                Box::<referrals::Referrals>::default(),
                Box::<credentials::CredentialUse>::default(),
                Box::<hearing::Hearing>::default(),
                Box::<allocations::Allocations>::default(),
                Box::<finals::Finals>::default(),
                Box::<acks::Acks>::default(),
                Box::<notifies::Notifies>::default(),
                Box::<release::Release>::default(),
                Box::<hangups::Hangups>::default(),
                Box::<limits::LimitsKept>::default(),
                Box::<records::Records>::default(),
                Box::<access::Access>::default(),
                Box::<termination::Termination>::default(),
            ],
            book: Book::default(),
            violation: None,
        }
    }
}

impl Checks {
    /// Shows something to every checker.
    pub fn see(&mut self, now: Instant, scenario: &Scenario, configs: &Configs, seen: &Seen<'_>) {
        self.book.see(now, scenario, seen);
        self.each(now, scenario, configs, |checker, facts, faults| {
            checker.see(facts, seen, faults);
        });
    }

    /// Lets every checker look back.
    pub fn end(&mut self, now: Instant, scenario: &Scenario, configs: &Configs, ending: &Ending) {
        self.each(now, scenario, configs, |checker, facts, faults| {
            checker.end(facts, ending, faults);
        });
    }

    fn each(
        &mut self,
        now: Instant,
        scenario: &Scenario,
        configs: &Configs,
        mut look: impl FnMut(&mut dyn Checker, &Facts<'_>, &mut Vec<String>),
    ) {
        if self.violation.is_some() {
            return;
        }
        let facts = Facts {
            now,
            scenario,
            book: &self.book,
            config: &configs.now,
            before: configs.before.as_ref().map(|(config, at)| (config, *at)),
        };
        let mut faults = Vec::new();
        for checker in &mut self.checkers {
            look(checker.as_mut(), &facts, &mut faults);
            if let Some(text) = faults.pop() {
                self.violation = Some(Violation {
                    checker: checker.name(),
                    at: now,
                    text,
                });
                return;
            }
        }
    }

    /// The names of all checkers.
    pub fn names(&self) -> Vec<&'static str> {
        self.checkers.iter().map(|checker| checker.name()).collect()
    }
}

/// The configuration in force, and the one before the reload.
pub struct Configs {
    pub now: Arc<Config>,
    pub before: Option<(Arc<Config>, Instant)>,
}
