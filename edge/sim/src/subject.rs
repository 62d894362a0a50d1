//! What is simulated: one core's protocol, the real one or one that was sabotaged.

use edge_proto::b2bua::{B2bua, B2buaParams, Input, Output};
use edge_proto::time::Instant;

/// One control thread's protocol.
pub trait Subject {
    fn handle(&mut self, now: Instant, input: Input);
    fn poll_output(&mut self) -> Option<Output>;
    fn poll_timeout(&self) -> Option<Instant>;
    /// Calls alive on this core.
    fn calls(&self) -> usize;
    /// Whether nothing is left to finish.
    fn is_idle(&self) -> bool;
    /// What it still holds for calls and transactions, by name and count.
    fn leftovers(&self) -> Vec<(&'static str, usize)>;
}

impl Subject for B2bua {
    fn handle(&mut self, now: Instant, input: Input) {
        B2bua::handle(self, now, input);
    }

    fn poll_output(&mut self) -> Option<Output> {
        B2bua::poll_output(self)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        B2bua::poll_timeout(self)
    }

    fn calls(&self) -> usize {
        B2bua::calls(self)
    }

    fn is_idle(&self) -> bool {
        B2bua::is_idle(self)
    }

    fn leftovers(&self) -> Vec<(&'static str, usize)> {
        B2bua::leftovers(self)
    }
}

/// Makes the subject of each core.
pub type Make = dyn Fn(B2buaParams, Instant) -> Box<dyn Subject>;

/// The real thing.
pub fn real(params: B2buaParams, now: Instant) -> Box<dyn Subject> {
    Box::new(B2bua::new(params, now))
}
