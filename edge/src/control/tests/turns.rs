//! The end of a turn: what the media thread answers is taken before the thread sleeps again. Its part is played by the script,
//! which has the answer in the queue when the turn ends, as the real one, which goes before the control thread, has as a rule.

use super::*;
use crate::control::driver::{Driver, Parts};
use crate::control::handle::Control;
use crate::control::inbox::Inbox;
use crate::control::resolver::Resolver;
use crate::control::tasks;
use edge_proto::id::AllocationId;
use edge_proto::relay::LatchMode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::rc::Rc;

/// A control thread's parts, of which only those run that the test runs.
struct Scene {
    control: Control<Script>,
    inbox: Rc<Inbox>,
    seen: mpsc::Receiver<Input>,
    /// What the media thread was told.
    media: Receiver<MediaCommand>,
    answers: Sender<MediaEvent>,
    waker: Waker,
    _events: Receiver<Batch>,
}

fn allocation(slot: u32) -> AllocationId {
    AllocationId {
        slot,
        generation: 0,
    }
}

fn open(slot: u32) -> MediaCommand {
    MediaCommand::Open {
        allocation: allocation(slot),
        local: "127.0.0.1:10000".parse().unwrap(),
        latch: LatchMode::Off,
    }
}

fn opened(slot: u32) -> MediaEvent {
    MediaEvent::Opened {
        allocation: allocation(slot),
    }
}

impl Scene {
    /// Opens `ports` allocations one after the other, each when the one before is open; the media thread answers at once.
    fn new(ports: u32) -> Scene {
        let waker = Waker::new().unwrap();
        let (_commands, commands) = bounded_on(8, &waker);
        let (_handoffs, handoffs) = bounded_on(8, &waker);
        let (answers, answered) = bounded_on(64, &waker);
        let (media_sender, media) = bounded(64).unwrap();
        let (event_sender, events) = bounded(64).unwrap();
        let (seen_sender, seen) = mpsc::channel();
        let media_thread = answers.clone();
        let reaction: Reaction = Box::new(move |input| {
            let next = match input {
                Input::Media(MediaEvent::Opened { allocation }) => allocation.slot + 1,
                _ => 0,
            };
            if next == ports {
                return Vec::new();
            }
            // The first is answered when the turn comes to its end, which this thread cannot know of: nobody is woken for it.
            let answer = opened(next);
            let told = match next {
                0 => media_thread.try_queue(answer),
                _ => media_thread.try_send(answer),
            };
            told.unwrap();
            vec![Output::Media(open(next))]
        });
        let clock = Clock::start();
        let parts = Parts {
            core: CoreId(0),
            clock,
            config: config(10),
            tls: Arc::default(),
            limits: ControlLimits::default(),
            batch: Duration::ZERO,
            outlets: Outlets::new(CoreId(0), media_sender, Vec::new(), event_sender),
            early: EarlyJournal::absent(clock),
            status: Arc::default(),
            resolver: Resolver::new(&ResolverSettings::default()),
        };
        let script = Script {
            seen: seen_sender,
            queued: Arc::default(),
            reaction,
            outputs: VecDeque::new(),
            timeout: Arc::default(),
        };
        Scene {
            control: Control::new(Driver::new(parts, script)),
            inbox: Rc::new(Inbox {
                commands,
                handoffs,
                media: answered,
            }),
            seen,
            media,
            answers,
            waker,
            _events: events,
        }
    }

    /// Anything that makes the script open the first.
    fn input(&self) {
        self.control.input(Input::Drain);
    }

    /// The slots of what was opened so far, as the protocol has heard.
    fn heard(&self) -> Vec<u32> {
        let opened = self.seen.try_iter().filter_map(|input| match input {
            Input::Media(MediaEvent::Opened { allocation }) => Some(allocation.slot),
            _ => None,
        });
        opened.collect()
    }

    /// Whether somebody has woken the thread that sleeps.
    fn is_woken(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(&self.waker, PollFlags::IN)], Some(&now)).unwrap() == 1
    }
}

#[test]
fn a_turn_takes_what_the_media_thread_answers() {
    let scene = Scene::new(3);
    scene.input();
    assert!(scene.heard().is_empty());
    scene.inbox.converse(&scene.control);
    assert_eq!(scene.heard(), [0, 1, 2]);
    for slot in 0..3 {
        assert_eq!(scene.media.try_recv(), Some(open(slot)));
    }
    assert_eq!(scene.media.try_recv(), None);
}

#[test]
fn answers_within_a_turn_wake_nobody_and_later_ones_do() {
    let scene = Scene::new(2);
    scene.waker.announce_sleep();
    scene.input();
    scene.inbox.converse(&scene.control);
    assert_eq!(scene.heard(), [0, 1]);
    assert!(!scene.is_woken());
    scene.answers.try_send(opened(7)).unwrap();
    assert!(scene.is_woken());
}

#[test]
fn one_who_was_woken_before_is_not_kept_asleep() {
    let scene = Scene::new(2);
    scene.waker.announce_sleep();
    scene.waker.wake();
    scene.input();
    scene.inbox.converse(&scene.control);
    assert!(scene.is_woken());
}

#[test]
fn a_conversation_without_end_leaves_the_turn_to_end() {
    let scene = Scene::new(u32::MAX);
    scene.waker.announce_sleep();
    scene.input();
    scene.inbox.converse(&scene.control);
    assert_eq!(scene.heard(), [0, 1, 2, 3]);
    assert!(scene.is_woken(), "an answer waits");
}

/// Nobody else takes answers here: it is the end of the turn that does.
#[test]
fn a_turn_in_which_the_media_thread_was_told_something_is_ended() {
    let scene = Scene::new(3);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let begun = std::time::Instant::now();
    let heard = async {
        scene.input();
        let mut heard = Vec::new();
        while heard.len() < 3 {
            assert!(begun.elapsed() < DEADLINE, "heard only {heard:?}");
            tokio::task::yield_now().await;
            heard.extend(scene.heard());
        }
        heard
    };
    let heard = runtime.block_on(async {
        tokio::select! {
            heard = heard => heard,
            () = tasks::gather(scene.control.clone(), scene.inbox.clone()) => unreachable!(),
        }
    });
    assert_eq!(heard, [0, 1, 2]);
}
