//! What other threads send to a control thread: one task that sleeps on the thread's eventfd.

use super::ControlCommand;
use super::driver::Protocol;
use super::handle::Control;
use crate::handoff::Receiver;
use edge_proto::b2bua::{HandoffMessage, Input};
use edge_proto::relay::MediaEvent;
use std::io;
use std::os::fd::AsFd;

/// Items taken from one queue before the thread's other tasks run.
const BATCH: usize = 128;

/// Rounds with the media thread in one turn: opening the ports of a call takes one, or another for each port that is taken.
const MEDIA_ROUNDS: usize = 4;

/// The queues; they share one waker.
pub(super) struct Inbox {
    pub commands: Receiver<ControlCommand>,
    pub handoffs: Receiver<HandoffMessage>,
    pub media: Receiver<MediaEvent>,
}

impl Inbox {
    /// Feeds the driver until [`ControlCommand::Stop`].
    pub(super) async fn run<P: Protocol>(&self, control: &Control<P>) -> io::Result<()> {
        let waker = self.commands.waker().clone();
        let event = tokio_uring::fs::File::from_std(waker.as_fd().try_clone_to_owned()?.into());
        let mut count = Vec::with_capacity(8);
        loop {
            if self.take(control)? {
                return Ok(());
            }
            waker.announce_sleep();
            if self.is_empty() {
                // An eventfd has no position; reading it takes the whole count.
                let (result, buffer) = event.read_at(count, 0).await;
                result?;
                count = buffer;
                count.clear();
            } else {
                waker.cancel_sleep();
                tokio::task::yield_now().await;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.handoffs.is_empty() && self.media.is_empty()
    }

    /// Takes a batch from each queue; true when told to stop.
    fn take<P: Protocol>(&self, control: &Control<P>) -> io::Result<bool> {
        while let Some(command) = self.commands.try_recv() {
            match command {
                ControlCommand::Reload {
                    config,
                    tls,
                    resolver,
                    listeners,
                } => control.reload(config, tls, &resolver, listeners)?,
                ControlCommand::Drain => control.drain(Input::Drain),
                ControlCommand::End => control.drain(Input::End),
                ControlCommand::Stop => return Ok(true),
            }
        }
        let handoffs = std::iter::from_fn(|| self.handoffs.try_recv()).take(BATCH);
        control.inputs(self.media().chain(handoffs.map(Input::Handoff)));
        Ok(false)
    }

    /// Wakes the media thread for what there is for it, and takes what it answers, until it has nothing more to say or has said
    /// something [`MEDIA_ROUNDS`] times. It goes before this thread: as a rule it has answered by the time that it has been woken.
    pub(super) fn converse<P: Protocol>(&self, control: &Control<P>) {
        let waker = self.commands.waker();
        // The queues are looked at here: the answers have to wake nobody.
        let slept = waker.cancel_sleep();
        for _ in 0..MEDIA_ROUNDS {
            control.announce();
            if !self.take_media(control) {
                break;
            }
        }
        if slept {
            waker.announce_sleep();
            if !self.is_empty() {
                // For [`Inbox::run`], which sleeps on.
                waker.wake();
            }
        }
    }

    /// Takes a batch of what the media thread has said; false: nothing.
    fn take_media<P: Protocol>(&self, control: &Control<P>) -> bool {
        let mut media = self.media().peekable();
        // A turn without inputs would be a turn all the same.
        let some = media.peek().is_some();
        if some {
            control.inputs(media);
        }
        some
    }

    fn media(&self) -> impl Iterator<Item = Input> {
        std::iter::from_fn(|| self.media.try_recv())
            .map(Input::Media)
            .take(BATCH)
    }
}
