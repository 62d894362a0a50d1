//! The INVITE client transaction (RFC 3261 §17.1.1, figure 5, as updated by RFC 6026 §7.2).

use super::action::{Actions, ClientAction as Action, actions};
use super::timing::{ResponseClass, Timer, Timings};
use crate::time::Duration;

/// The states, by the RFC's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The INVITE is out and nothing came back.
    Calling,
    /// A provisional response came.
    Proceeding,
    /// A 3xx-6xx came and was acknowledged; retransmissions of it are acknowledged again.
    Completed,
    /// A 2xx came; further ones (retransmitted, or from other forks) go to the transaction user (RFC 6026).
    Accepted,
    Terminated,
}

/// What can happen to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Response(ResponseClass),
    Timer(Timer),
    /// The connection that carried the INVITE is gone.
    TransportError,
    /// The CANCEL for it was sent.
    Cancelled,
}

/// One INVITE client transaction.
#[derive(Clone, Debug)]
pub struct ClientInvite {
    state: State,
    timings: Timings,
    reliable: bool,
    /// Timer A's present interval.
    interval: Duration,
}

impl ClientInvite {
    /// A transaction that just got its INVITE.
    pub fn start(timings: Timings, reliable: bool) -> (Self, Actions<Action>) {
        let machine = ClientInvite {
            state: State::Calling,
            timings,
            reliable,
            interval: timings.t1,
        };
        let mut first = actions(&[Action::Send, Action::Set(Timer::B, timings.transaction())]);
        if !reliable {
            first.push(Action::Set(Timer::A, timings.t1));
        }
        (machine, first)
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// One transition. What a state does not expect asks for nothing.
    pub fn on(&mut self, event: Event) -> Actions<Action> {
        match self.state {
            State::Calling => self.calling(event),
            State::Proceeding => self.proceeding(event),
            State::Completed => self.completed(event),
            State::Accepted => self.accepted(event),
            State::Terminated => actions(&[]),
        }
    }

    fn calling(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Response(ResponseClass::Provisional) => {
                self.state = State::Proceeding;
                actions(&[
                    Action::Deliver,
                    Action::Clear(Timer::A),
                    Action::Clear(Timer::B),
                ])
            }
            Event::Response(ResponseClass::Success) => {
                self.state = State::Accepted;
                actions(&[
                    Action::Deliver,
                    Action::Clear(Timer::A),
                    Action::Clear(Timer::B),
                    Action::Set(Timer::M, self.timings.transaction()),
                ])
            }
            Event::Response(ResponseClass::Failure) => {
                let mut asked = actions(&[
                    Action::Deliver,
                    Action::Ack,
                    Action::Clear(Timer::A),
                    Action::Clear(Timer::B),
                ]);
                self.complete(&mut asked);
                asked
            }
            Event::Timer(Timer::A) => {
                // Unlike timers E and G it doubles without a bound: A backs off, B ends it.
                self.interval = self.interval.saturating_mul(2);
                actions(&[Action::Send, Action::Set(Timer::A, self.interval)])
            }
            Event::Timer(Timer::B) => self.terminate(Action::Timeout),
            Event::TransportError => self.terminate(Action::TransportFailed),
            Event::Timer(_) | Event::Cancelled => actions(&[]),
        }
    }

    fn proceeding(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Response(ResponseClass::Provisional) => actions(&[Action::Deliver]),
            Event::Response(ResponseClass::Success) => {
                self.state = State::Accepted;
                actions(&[
                    Action::Deliver,
                    Action::Clear(Timer::Cancelled),
                    Action::Set(Timer::M, self.timings.transaction()),
                ])
            }
            Event::Response(ResponseClass::Failure) => {
                let mut asked = actions(&[
                    Action::Deliver,
                    Action::Ack,
                    Action::Clear(Timer::Cancelled),
                ]);
                self.complete(&mut asked);
                asked
            }
            // RFC 3261 §9.1: a peer of RFC 2543 may never answer a cancelled INVITE.
            Event::Cancelled => {
                actions(&[Action::Set(Timer::Cancelled, self.timings.transaction())])
            }
            Event::Timer(Timer::Cancelled) => self.terminate(Action::Timeout),
            Event::TransportError => self.terminate(Action::TransportFailed),
            Event::Timer(_) => actions(&[]),
        }
    }

    fn completed(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Response(ResponseClass::Failure) => actions(&[Action::Ack]),
            Event::Timer(Timer::D) => {
                self.state = State::Terminated;
                actions(&[])
            }
            // The final response was delivered: a transport error now is no news to anyone.
            _ => actions(&[]),
        }
    }

    fn accepted(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Response(ResponseClass::Success) => actions(&[Action::Deliver]),
            Event::Timer(Timer::M) => {
                self.state = State::Terminated;
                actions(&[])
            }
            _ => actions(&[]),
        }
    }

    fn complete(&mut self, asked: &mut Actions<Action>) {
        if self.reliable {
            self.state = State::Terminated;
        } else {
            self.state = State::Completed;
            asked.push(Action::Set(Timer::D, self.timings.timer_d()));
        }
    }

    fn terminate(&mut self, why: Action) -> Actions<Action> {
        self.state = State::Terminated;
        actions(&[why])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SipConfig;

    const T1: Duration = Duration::from_millis(500);
    const LONG: Duration = Duration::from_secs(32);

    const EVENTS: [Event; 10] = [
        Event::Response(ResponseClass::Provisional),
        Event::Response(ResponseClass::Success),
        Event::Response(ResponseClass::Failure),
        Event::Timer(Timer::A),
        Event::Timer(Timer::B),
        Event::Timer(Timer::D),
        Event::Timer(Timer::M),
        Event::Timer(Timer::Cancelled),
        Event::TransportError,
        Event::Cancelled,
    ];

    fn machine_in(state: State, reliable: bool) -> ClientInvite {
        let (mut machine, _) = ClientInvite::start((&SipConfig::default()).into(), reliable);
        machine.state = state;
        machine
    }

    /// What `event` asks for in `state`, and the state after it; RFC 3261 figure 5 and RFC 6026 §7.2, row by row.
    fn expected(state: State, event: Event, reliable: bool) -> (Vec<Action>, State) {
        use Action::{Ack, Clear, Deliver, Send, Set};
        use ResponseClass::{Failure, Provisional, Success};
        let after_failure = if reliable {
            State::Terminated
        } else {
            State::Completed
        };
        let timer_d = if reliable {
            vec![]
        } else {
            vec![Set(Timer::D, LONG)]
        };
        match (state, event) {
            (State::Calling, Event::Response(Provisional)) => (
                vec![Deliver, Clear(Timer::A), Clear(Timer::B)],
                State::Proceeding,
            ),
            (State::Calling, Event::Response(Success)) => (
                vec![
                    Deliver,
                    Clear(Timer::A),
                    Clear(Timer::B),
                    Set(Timer::M, LONG),
                ],
                State::Accepted,
            ),
            (State::Calling, Event::Response(Failure)) => (
                [
                    vec![Deliver, Ack, Clear(Timer::A), Clear(Timer::B)],
                    timer_d,
                ]
                .concat(),
                after_failure,
            ),
            (State::Calling, Event::Timer(Timer::A)) => {
                (vec![Send, Set(Timer::A, T1 * 2)], State::Calling)
            }
            (State::Calling, Event::Timer(Timer::B))
            | (State::Proceeding, Event::Timer(Timer::Cancelled)) => {
                (vec![Action::Timeout], State::Terminated)
            }
            (State::Calling | State::Proceeding, Event::TransportError) => {
                (vec![Action::TransportFailed], State::Terminated)
            }
            (State::Proceeding, Event::Response(Provisional)) => (vec![Deliver], State::Proceeding),
            (State::Proceeding, Event::Response(Success)) => (
                vec![Deliver, Clear(Timer::Cancelled), Set(Timer::M, LONG)],
                State::Accepted,
            ),
            (State::Proceeding, Event::Response(Failure)) => (
                [vec![Deliver, Ack, Clear(Timer::Cancelled)], timer_d].concat(),
                after_failure,
            ),
            (State::Proceeding, Event::Cancelled) => {
                (vec![Set(Timer::Cancelled, LONG)], State::Proceeding)
            }
            (State::Completed, Event::Response(Failure)) => (vec![Ack], State::Completed),
            (State::Completed, Event::Timer(Timer::D))
            | (State::Accepted, Event::Timer(Timer::M)) => (vec![], State::Terminated),
            (State::Accepted, Event::Response(Success)) => (vec![Deliver], State::Accepted),
            (unmoved, _) => (vec![], unmoved),
        }
    }

    #[test]
    fn every_state_and_event() {
        for reliable in [false, true] {
            for state in [
                State::Calling,
                State::Proceeding,
                State::Completed,
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
    fn start_sends_and_arms() {
        let timings = Timings::from(&SipConfig::default());
        let (_, unreliable) = ClientInvite::start(timings, false);
        assert_eq!(
            unreliable.to_vec(),
            [
                Action::Send,
                Action::Set(Timer::B, LONG),
                Action::Set(Timer::A, T1)
            ]
        );
        let (_, reliable) = ClientInvite::start(timings, true);
        assert_eq!(
            reliable.to_vec(),
            [Action::Send, Action::Set(Timer::B, LONG)]
        );
    }

    #[test]
    fn timer_a_doubles_without_a_bound_until_timer_b() {
        let mut machine = machine_in(State::Calling, false);
        let (mut due, mut sent) = (T1, vec![]);
        while due < LONG {
            sent.push(due.as_millis());
            let asked = machine.on(Event::Timer(Timer::A));
            let Some(&Action::Set(Timer::A, interval)) = asked.last() else {
                panic!("timer A is not set again: {asked:?}");
            };
            due += interval;
        }
        // §17.1.1.2: at 0, T1, 3*T1, 7*T1, ... seven transmissions before timer B.
        assert_eq!(sent, [500, 1500, 3500, 7500, 15500, 31500]);
    }
}
