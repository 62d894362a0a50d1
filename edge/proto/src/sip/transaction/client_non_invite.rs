//! The non-INVITE client transaction (RFC 3261 §17.1.2, figure 6).

use super::action::{Actions, ClientAction as Action, actions};
use super::timing::{ResponseClass, Timer, Timings};
use crate::time::Duration;

/// The states, by the RFC's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The request is out and nothing came back.
    Trying,
    /// A provisional response came.
    Proceeding,
    /// The final response came; retransmissions of it are absorbed.
    Completed,
    Terminated,
}

/// What can happen to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Response(ResponseClass),
    Timer(Timer),
    /// The connection that carried the request is gone.
    TransportError,
}

/// One non-INVITE client transaction.
#[derive(Clone, Debug)]
pub struct ClientNonInvite {
    state: State,
    timings: Timings,
    reliable: bool,
    /// Timer E's present interval.
    interval: Duration,
}

impl ClientNonInvite {
    /// A transaction that just got its request.
    pub fn start(timings: Timings, reliable: bool) -> (Self, Actions<Action>) {
        let machine = ClientNonInvite {
            state: State::Trying,
            timings,
            reliable,
            interval: timings.t1,
        };
        let mut first = actions(&[Action::Send, Action::Set(Timer::F, timings.transaction())]);
        if !reliable {
            first.push(Action::Set(Timer::E, timings.t1));
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
            State::Trying => self.trying(event),
            State::Proceeding => self.proceeding(event),
            State::Completed => self.completed(event),
            State::Terminated => actions(&[]),
        }
    }

    fn trying(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Response(ResponseClass::Provisional) => {
                self.state = State::Proceeding;
                actions(&[Action::Deliver])
            }
            Event::Timer(Timer::E) => {
                self.interval = self.timings.next_interval(self.interval);
                actions(&[Action::Send, Action::Set(Timer::E, self.interval)])
            }
            other => self.unanswered(other),
        }
    }

    fn proceeding(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Response(ResponseClass::Provisional) => actions(&[Action::Deliver]),
            // The server has the request: it is only reminded now and then (§17.1.2.2).
            Event::Timer(Timer::E) => {
                actions(&[Action::Send, Action::Set(Timer::E, self.timings.t2)])
            }
            other => self.unanswered(other),
        }
    }

    /// What Trying and Proceeding have in common.
    fn unanswered(&mut self, event: Event) -> Actions<Action> {
        match event {
            Event::Response(ResponseClass::Success | ResponseClass::Failure) => {
                let mut asked = actions(&[
                    Action::Deliver,
                    Action::Clear(Timer::E),
                    Action::Clear(Timer::F),
                ]);
                if self.reliable {
                    self.state = State::Terminated;
                } else {
                    self.state = State::Completed;
                    asked.push(Action::Set(Timer::K, self.timings.t4));
                }
                asked
            }
            Event::Timer(Timer::F) => self.terminate(Action::Timeout),
            Event::TransportError => self.terminate(Action::TransportFailed),
            Event::Response(ResponseClass::Provisional) | Event::Timer(_) => actions(&[]),
        }
    }

    fn completed(&mut self, event: Event) -> Actions<Action> {
        if event == Event::Timer(Timer::K) {
            self.state = State::Terminated;
        }
        actions(&[])
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
    const T2: Duration = Duration::from_secs(4);
    const T4: Duration = Duration::from_secs(5);
    const LONG: Duration = Duration::from_secs(32);

    const EVENTS: [Event; 7] = [
        Event::Response(ResponseClass::Provisional),
        Event::Response(ResponseClass::Success),
        Event::Response(ResponseClass::Failure),
        Event::Timer(Timer::E),
        Event::Timer(Timer::F),
        Event::Timer(Timer::K),
        Event::TransportError,
    ];

    fn machine_in(state: State, reliable: bool) -> ClientNonInvite {
        let (mut machine, _) = ClientNonInvite::start((&SipConfig::default()).into(), reliable);
        machine.state = state;
        machine
    }

    /// What `event` asks for in `state`, and the state after it; RFC 3261 figure 6, row by row.
    fn expected(state: State, event: Event, reliable: bool) -> (Vec<Action>, State) {
        use Action::{Clear, Deliver, Send, Set};
        use ResponseClass::{Failure, Provisional, Success};
        match (state, event) {
            (State::Trying | State::Proceeding, Event::Response(Provisional)) => {
                (vec![Deliver], State::Proceeding)
            }
            (State::Trying | State::Proceeding, Event::Response(Success | Failure)) => {
                let last = vec![Deliver, Clear(Timer::E), Clear(Timer::F)];
                if reliable {
                    (last, State::Terminated)
                } else {
                    ([last, vec![Set(Timer::K, T4)]].concat(), State::Completed)
                }
            }
            (State::Trying, Event::Timer(Timer::E)) => {
                (vec![Send, Set(Timer::E, T1 * 2)], State::Trying)
            }
            (State::Proceeding, Event::Timer(Timer::E)) => {
                (vec![Send, Set(Timer::E, T2)], State::Proceeding)
            }
            (State::Trying | State::Proceeding, Event::Timer(Timer::F)) => {
                (vec![Action::Timeout], State::Terminated)
            }
            (State::Trying | State::Proceeding, Event::TransportError) => {
                (vec![Action::TransportFailed], State::Terminated)
            }
            (State::Completed, Event::Timer(Timer::K)) => (vec![], State::Terminated),
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

    #[test]
    fn start_sends_and_arms() {
        let timings = Timings::from(&SipConfig::default());
        let (_, unreliable) = ClientNonInvite::start(timings, false);
        assert_eq!(
            unreliable.to_vec(),
            [
                Action::Send,
                Action::Set(Timer::F, LONG),
                Action::Set(Timer::E, T1)
            ]
        );
        let (_, reliable) = ClientNonInvite::start(timings, true);
        assert_eq!(
            reliable.to_vec(),
            [Action::Send, Action::Set(Timer::F, LONG)]
        );
    }

    #[test]
    fn timer_e_doubles_up_to_t2() {
        let mut machine = machine_in(State::Trying, false);
        let intervals: Vec<_> = (0..5)
            .map(|_| machine.on(Event::Timer(Timer::E))[1])
            .collect();
        // §17.1.2.2: 500 ms, 1 s, 2 s, 4 s, 4 s, 4 s, ...
        let expected = [T1 * 2, T1 * 4, T2, T2, T2].map(|after| Action::Set(Timer::E, after));
        assert_eq!(intervals, expected);
    }
}
