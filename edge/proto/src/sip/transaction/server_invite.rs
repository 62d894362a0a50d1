//! The INVITE server transaction (RFC 3261 §17.2.1, figure 7, as updated by RFC 6026 §7.1), with the retransmission of 2xx
//! that RFC 3261 §13.3.1.4 asks of the transaction user.

use super::action::{Actions, ServerAction as Action, actions};
use super::timing::{ResponseClass, Timer, Timings};
use crate::time::Duration;

/// The states, by the RFC's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No final response yet.
    Proceeding,
    /// A 3xx-6xx was sent and waits for its ACK.
    Completed,
    /// The ACK for the 3xx-6xx came; retransmissions of it are absorbed.
    Confirmed,
    /// A 2xx was sent; retransmissions of the INVITE are absorbed (RFC 6026).
    Accepted,
    Terminated,
}

/// What can happen to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The INVITE came again.
    Request,
    /// An ACK that matches this transaction by its branch.
    Ack,
    /// The transaction user responds.
    Respond(ResponseClass),
    /// The transaction user saw the ACK for its 2xx.
    Acknowledged,
    Timer(Timer),
}

/// One INVITE server transaction.
#[derive(Clone, Debug)]
pub struct ServerInvite {
    state: State,
    timings: Timings,
    reliable: bool,
    /// The present interval of timer G, or of the retransmission of the 2xx.
    interval: Duration,
    /// The ACK for the 2xx came.
    acknowledged: bool,
}

impl ServerInvite {
    /// A transaction for an INVITE that just came and goes to the transaction user.
    pub fn start(timings: Timings, reliable: bool) -> Self {
        ServerInvite {
            state: State::Proceeding,
            timings,
            reliable,
            interval: timings.t1,
            acknowledged: false,
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the ACK for its final response came.
    pub fn is_acknowledged(&self) -> bool {
        match self.state {
            State::Proceeding | State::Completed => false,
            State::Accepted => self.acknowledged,
            State::Confirmed | State::Terminated => true,
        }
    }

    /// Whether a final response was sent.
    pub fn is_final(&self) -> bool {
        self.state != State::Proceeding
    }

    /// The transport under it changed; affects timers that are set from now on.
    pub fn set_reliable(&mut self, reliable: bool) {
        self.reliable = reliable;
    }

    /// One transition. What a state does not expect asks for nothing.
    pub fn on(&mut self, event: Event) -> Actions<Action> {
        match self.state {
            State::Proceeding => self.proceeding(event),
            State::Completed => self.completed(event),
            State::Confirmed => self.confirmed(event),
            State::Accepted => self.accepted(event),
            State::Terminated => actions(&[]),
        }
    }

    fn proceeding(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Request | Event::Respond(ResponseClass::Provisional) => actions(&[Action::Send]),
            Event::Respond(ResponseClass::Success) => {
                self.state = State::Accepted;
                actions(&[
                    Action::Send,
                    Action::Set(Timer::L, self.timings.transaction()),
                    Action::Set(Timer::Success, self.timings.t1),
                ])
            }
            Event::Respond(ResponseClass::Failure) => {
                self.state = State::Completed;
                let mut asked = actions(&[
                    Action::Send,
                    Action::Set(Timer::H, self.timings.transaction()),
                ]);
                if !self.reliable {
                    asked.push(Action::Set(Timer::G, self.timings.t1));
                }
                asked
            }
            Event::Ack | Event::Acknowledged | Event::Timer(_) => actions(&[]),
        }
    }

    fn completed(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Request => actions(&[Action::Send]),
            Event::Ack => {
                let mut asked = actions(&[Action::Clear(Timer::G), Action::Clear(Timer::H)]);
                if self.reliable {
                    self.state = State::Terminated;
                } else {
                    self.state = State::Confirmed;
                    asked.push(Action::Set(Timer::I, self.timings.t4));
                }
                asked
            }
            // Set while its connection was gone; the answer has left over another, which repeats by itself.
            Event::Timer(Timer::G) if self.reliable => actions(&[]),
            Event::Timer(Timer::G) => {
                self.interval = self.timings.next_interval(self.interval);
                actions(&[Action::Send, Action::Set(Timer::G, self.interval)])
            }
            Event::Timer(Timer::H) => {
                self.state = State::Terminated;
                actions(&[])
            }
            // One final response, once: a second one is the transaction user's mistake and never sent.
            Event::Respond(_) | Event::Acknowledged | Event::Timer(_) => actions(&[]),
        }
    }

    fn confirmed(&mut self, event: Event) -> Actions<Action> {
        if event == Event::Timer(Timer::I) {
            self.state = State::Terminated;
        }
        actions(&[])
    }

    fn accepted(&mut self, event: Event) -> Actions<Action> {
        match event {
            // A peer that acknowledges a 2xx within the INVITE's own branch (RFC 6026 §7.1: never absorbed).
            Event::Ack => actions(&[Action::DeliverAck]),
            Event::Respond(ResponseClass::Success) => actions(&[Action::Send]),
            Event::Acknowledged => {
                self.acknowledged = true;
                actions(&[Action::Clear(Timer::Success)])
            }
            Event::Timer(Timer::Success) if !self.acknowledged => {
                self.interval = self.timings.next_interval(self.interval);
                actions(&[Action::Send, Action::Set(Timer::Success, self.interval)])
            }
            Event::Timer(Timer::L) => {
                self.state = State::Terminated;
                if self.acknowledged {
                    actions(&[])
                } else {
                    actions(&[Action::NoAck])
                }
            }
            Event::Request | Event::Respond(_) | Event::Timer(_) => actions(&[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SipConfig;

    const T1: Duration = Duration::from_millis(500);
    const T2: Duration = Duration::from_secs(4);
    const T4: Duration = Duration::from_secs(5);
    const LONG: Duration = Duration::from_secs(32);

    const EVENTS: [Event; 11] = [
        Event::Request,
        Event::Ack,
        Event::Respond(ResponseClass::Provisional),
        Event::Respond(ResponseClass::Success),
        Event::Respond(ResponseClass::Failure),
        Event::Acknowledged,
        Event::Timer(Timer::G),
        Event::Timer(Timer::H),
        Event::Timer(Timer::I),
        Event::Timer(Timer::L),
        Event::Timer(Timer::Success),
    ];

    fn machine_in(state: State, reliable: bool) -> ServerInvite {
        let mut machine = ServerInvite::start((&SipConfig::default()).into(), reliable);
        machine.state = state;
        machine
    }

    /// What `event` asks for in `state`, and the state after it; RFC 3261 figure 7 and RFC 6026 §7.1, row by row.
    fn expected(state: State, event: Event, reliable: bool) -> (Vec<Action>, State) {
        use Action::{Clear, DeliverAck, NoAck, Send, Set};
        use ResponseClass::{Failure, Provisional, Success};
        match (state, event) {
            (State::Proceeding, Event::Request | Event::Respond(Provisional)) => {
                (vec![Send], State::Proceeding)
            }
            (State::Proceeding, Event::Respond(Success)) => (
                vec![Send, Set(Timer::L, LONG), Set(Timer::Success, T1)],
                State::Accepted,
            ),
            (State::Proceeding, Event::Respond(Failure)) if reliable => {
                (vec![Send, Set(Timer::H, LONG)], State::Completed)
            }
            (State::Proceeding, Event::Respond(Failure)) => (
                vec![Send, Set(Timer::H, LONG), Set(Timer::G, T1)],
                State::Completed,
            ),
            (State::Completed, Event::Request) => (vec![Send], State::Completed),
            (State::Completed, Event::Ack) if reliable => {
                (vec![Clear(Timer::G), Clear(Timer::H)], State::Terminated)
            }
            (State::Completed, Event::Ack) => (
                vec![Clear(Timer::G), Clear(Timer::H), Set(Timer::I, T4)],
                State::Confirmed,
            ),
            (State::Completed, Event::Timer(Timer::G)) if !reliable => {
                (vec![Send, Set(Timer::G, T1 * 2)], State::Completed)
            }
            (State::Completed, Event::Timer(Timer::H))
            | (State::Confirmed, Event::Timer(Timer::I)) => (vec![], State::Terminated),
            (State::Accepted, Event::Ack) => (vec![DeliverAck], State::Accepted),
            (State::Accepted, Event::Respond(Success)) => (vec![Send], State::Accepted),
            (State::Accepted, Event::Acknowledged) => {
                (vec![Clear(Timer::Success)], State::Accepted)
            }
            (State::Accepted, Event::Timer(Timer::Success)) => {
                (vec![Send, Set(Timer::Success, T1 * 2)], State::Accepted)
            }
            (State::Accepted, Event::Timer(Timer::L)) => (vec![NoAck], State::Terminated),
            (unmoved, _) => (vec![], unmoved),
        }
    }

    #[test]
    fn every_state_and_event() {
        for reliable in [false, true] {
            for state in [
                State::Proceeding,
                State::Completed,
                State::Confirmed,
                State::Accepted,
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

    #[test]
    fn an_acknowledged_2xx_is_not_sent_again_and_ends_quietly() {
        let mut machine = machine_in(State::Accepted, false);
        machine.on(Event::Acknowledged);
        assert!(machine.on(Event::Timer(Timer::Success)).is_empty());
        assert!(machine.on(Event::Request).is_empty());
        assert!(machine.on(Event::Timer(Timer::L)).is_empty());
        assert_eq!(machine.state(), State::Terminated);
    }

    #[test]
    fn retransmission_of_finals_doubles_up_to_t2() {
        for (state, timer) in [
            (State::Completed, Timer::G),
            (State::Accepted, Timer::Success),
        ] {
            let mut machine = machine_in(state, false);
            let intervals: Vec<_> = (0..5).map(|_| machine.on(Event::Timer(timer))[1]).collect();
            let expected = [T1 * 2, T1 * 4, T2, T2, T2].map(|after| Action::Set(timer, after));
            assert_eq!(intervals, expected);
        }
    }
}
