//! The non-INVITE server transaction (RFC 3261 §17.2.2, figure 8).

use super::action::{Actions, ServerAction as Action, actions};
use super::timing::{ResponseClass, Timer, Timings};

/// The states, by the RFC's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The request is with the transaction user.
    Trying,
    /// A provisional response was sent.
    Proceeding,
    /// The final response was sent; it is sent again for a retransmitted request.
    Completed,
    Terminated,
}

/// What can happen to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The request came again.
    Request,
    /// The transaction user responds.
    Respond(ResponseClass),
    Timer(Timer),
}

/// One non-INVITE server transaction.
#[derive(Clone, Debug)]
pub struct ServerNonInvite {
    state: State,
    timings: Timings,
    reliable: bool,
}

impl ServerNonInvite {
    /// A transaction for a request that just came and goes to the transaction user.
    pub fn start(timings: Timings, reliable: bool) -> Self {
        ServerNonInvite {
            state: State::Trying,
            timings,
            reliable,
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether a final response was sent.
    pub fn is_final(&self) -> bool {
        matches!(self.state, State::Completed | State::Terminated)
    }

    /// The transport under it changed; affects timers that are set from now on.
    pub fn set_reliable(&mut self, reliable: bool) {
        self.reliable = reliable;
    }

    /// One transition. What a state does not expect asks for nothing.
    pub fn on(&mut self, event: Event) -> Actions<Action> {
        match self.state {
            State::Trying => self.trying(event),
            State::Proceeding => self.proceeding(event),
            State::Completed => self.completed(event),
            State::Terminated => actions(&[]),
        }
    }

    fn trying(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Respond(ResponseClass::Provisional) => {
                self.state = State::Proceeding;
                actions(&[Action::Send])
            }
            Event::Respond(_) => self.complete(),
            Event::Request | Event::Timer(_) => actions(&[]),
        }
    }

    fn proceeding(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Request | Event::Respond(ResponseClass::Provisional) => actions(&[Action::Send]),
            Event::Respond(_) => self.complete(),
            Event::Timer(_) => actions(&[]),
        }
    }

    fn completed(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Request => actions(&[Action::Send]),
            Event::Timer(Timer::J) => {
                self.state = State::Terminated;
                actions(&[])
            }
            // One final response, once (§17.2.2).
            Event::Respond(_) | Event::Timer(_) => actions(&[]),
        }
    }

    fn complete(&mut self) -> Actions<Action> {
        let mut asked = actions(&[Action::Send]);
        if self.reliable {
            self.state = State::Terminated;
        } else {
            self.state = State::Completed;
            asked.push(Action::Set(Timer::J, self.timings.transaction()));
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SipConfig;
    use crate::time::Duration;

    const LONG: Duration = Duration::from_secs(32);

    const EVENTS: [Event; 5] = [
        Event::Request,
        Event::Respond(ResponseClass::Provisional),
        Event::Respond(ResponseClass::Success),
        Event::Respond(ResponseClass::Failure),
        Event::Timer(Timer::J),
    ];

    fn machine_in(state: State, reliable: bool) -> ServerNonInvite {
        let mut machine = ServerNonInvite::start((&SipConfig::default()).into(), reliable);
        machine.state = state;
        machine
    }

    /// What `event` asks for in `state`, and the state after it; RFC 3261 figure 8, row by row.
    fn expected(state: State, event: Event, reliable: bool) -> (Vec<Action>, State) {
        use Action::{Send, Set};
        use ResponseClass::{Failure, Provisional, Success};
        match (state, event) {
            (State::Trying | State::Proceeding, Event::Respond(Provisional)) => {
                (vec![Send], State::Proceeding)
            }
            (State::Trying | State::Proceeding, Event::Respond(Success | Failure)) => {
                if reliable {
                    (vec![Send], State::Terminated)
                } else {
                    (vec![Send, Set(Timer::J, LONG)], State::Completed)
                }
            }
            (State::Proceeding | State::Completed, Event::Request) => (vec![Send], state),
            (State::Completed, Event::Timer(Timer::J)) => (vec![], State::Terminated),
            (unmoved, _) => (vec![], unmoved),
        }
    }

    #[test]
    fn every_state_and_event() {
        for reliable in [false, true] {
            for state in [
                State::Trying,
                State::Proceeding,
                State::Completed,
                State::Terminated,
            ] {
                for event in EVENTS {
                    let mut machine = machine_in(state, reliable);
                    let asked = machine.on(event);
                    assert_eq!(
                        (asked.to_vec(), machine.state()),
                        expected(state, event, reliable),
                        "{event:?} in {state:?}, reliable: {reliable}"
                    );
                }
            }
        }
    }
}
