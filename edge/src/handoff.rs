//! Bounded queues between threads, and the wake-up that goes with them.
//!
//! A thread owns one [`Waker`] (an eventfd) and any number of [`Receiver`]s that share it. A sender pays for a system call
//! only when the receiving thread said that it is about to sleep, so a busy thread is fed without one. Nothing here blocks
//! and nothing grows: a full queue hands the item back, and the sender decides what that means.
//!
//! How a receiving thread sleeps without missing an item:
//! 1. take items until every queue is empty;
//! 2. [`Waker::announce_sleep`];
//! 3. look at every queue once more; if there was something, go to 1;
//! 4. wait until the eventfd is readable and read it (through io_uring, or [`Waker::wait`]).

use crossbeam::queue::ArrayQueue;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

/// Wakes one thread. Cloned into every sender that feeds it.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Blocking, so that an io_uring read of it waits instead of failing with `EAGAIN`. Reading takes the whole count.
    event: OwnedFd,
    /// Set by the owner before it sleeps, cleared by whoever writes `event`: at most one write per sleep.
    asleep: AtomicBool,
}

impl Waker {
    /// A waker for one thread. Fails when the process or the system is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Waker(Arc::new(Shared {
            event: eventfd(0, EventfdFlags::CLOEXEC)?,
            asleep: AtomicBool::new(false),
        })))
    }

    /// Makes the eventfd readable if the thread announced that it sleeps. Call after the item is in its queue.
    pub fn wake(&self) {
        // Pairs with the fence in `announce_sleep`: either this thread sees `asleep`, or the owner sees the item.
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed) && self.0.asleep.swap(false, Ordering::AcqRel) {
            // The count is at most 1 per sleep, so the write can neither block nor fail for lack of room.
            let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
        }
    }

    /// Called by the owning thread when its queues are empty; it must look at them once more before it waits.
    pub fn announce_sleep(&self) {
        self.0.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Called by the owning thread when it does not sleep after all, which saves senders the write. Optional: a wake-up
    /// without an item is harmless. True: it had announced that it sleeps, and nobody has woken it.
    pub fn cancel_sleep(&self) -> bool {
        // The flag is the owner's but for whoever wakes it.
        self.0.asleep.load(Ordering::Relaxed) && self.0.asleep.swap(false, Ordering::AcqRel)
    }

    /// Blocks until woken or until `timeout` has passed (`None`: forever), for threads without a ring of their own.
    /// `Ok(false)`: timed out. Signals do not end the wait.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let deadline = timeout.map(|t| Instant::now() + t);
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let timespec = left.map(|left| Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            match poll(
                &mut [PollFd::new(&self.0.event, PollFlags::IN)],
                timespec.as_ref(),
            ) {
                Ok(0) => return Ok(false),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut count = [0; 8];
        rustix::io::read(&self.0.event, &mut count)?;
        Ok(true)
    }
}

impl AsFd for Waker {
    /// The eventfd, to be read (8 bytes) or polled by the owning thread.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

/// A queue for at most `capacity` items with a waker of its own.
///
/// # Panics
/// When `capacity` is 0.
pub fn bounded<T>(capacity: usize) -> io::Result<(Sender<T>, Receiver<T>)> {
    Ok(bounded_on(capacity, &Waker::new()?))
}

/// A queue for at most `capacity` items whose sends wake the thread of `waker`.
///
/// # Panics
/// When `capacity` is 0.
pub fn bounded_on<T>(capacity: usize, waker: &Waker) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(ArrayQueue::new(capacity));
    (
        Sender {
            queue: queue.clone(),
            waker: waker.clone(),
        },
        Receiver {
            queue,
            waker: waker.clone(),
        },
    )
}

/// The queue was full; the item comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full<T>(pub T);

/// Any number of threads may send.
#[derive(Debug)]
pub struct Sender<T> {
    queue: Arc<ArrayQueue<T>>,
    waker: Waker,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender {
            queue: self.queue.clone(),
            waker: self.waker.clone(),
        }
    }
}

impl<T> Sender<T> {
    /// Queues `item` and wakes the receiving thread if it sleeps. Never blocks. Items of one sender stay in order.
    pub fn try_send(&self, item: T) -> Result<(), Full<T>> {
        self.try_queue(item)?;
        self.wake();
        Ok(())
    }

    /// Queues `item` and lets the receiving thread sleep on, until [`Sender::wake`] after the last of several.
    pub fn try_queue(&self, item: T) -> Result<(), Full<T>> {
        self.queue.push(item).map_err(Full)
    }

    /// Wakes the receiving thread if it sleeps.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Items waiting, for a gauge.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// One thread receives.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: Arc<ArrayQueue<T>>,
    waker: Waker,
}

impl<T> Receiver<T> {
    /// The oldest item, or `None` when the queue is empty. Never blocks.
    pub fn try_recv(&self) -> Option<T> {
        self.queue.pop()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What sends to this queue wake.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// The oldest item, waiting for one until `timeout` has passed (`None`: forever). For a thread that sleeps on this queue
    /// (or on its waker's queues) alone and without a ring of its own. `Ok(None)`: timed out, or woken for another queue.
    pub fn recv_timeout(&self, timeout: Option<Duration>) -> io::Result<Option<T>> {
        if let Some(item) = self.try_recv() {
            return Ok(Some(item));
        }
        self.waker.announce_sleep();
        if let Some(item) = self.try_recv() {
            self.waker.cancel_sleep();
            return Ok(Some(item));
        }
        self.waker.wait(timeout)?;
        Ok(self.try_recv())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const DEADLINE: Option<Duration> = Some(Duration::from_secs(20));

    #[test]
    fn a_full_queue_hands_the_item_back() {
        let (sender, receiver) = bounded(2).unwrap();
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Ok(()));
        assert_eq!(sender.try_send(3), Err(Full(3)));
        assert_eq!(sender.len(), 2);
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(sender.try_send(3), Ok(()));
        assert_eq!(receiver.try_recv(), Some(2));
        assert_eq!(receiver.try_recv(), Some(3));
        assert_eq!(receiver.try_recv(), None);
        assert!(receiver.is_empty());
    }

    #[test]
    fn the_eventfd_is_written_only_for_a_sleeper_and_once_per_sleep() {
        let (sender, receiver) = bounded(8).unwrap();
        let readable = |receiver: &Receiver<u8>| {
            let fd = receiver.waker().clone();
            poll(
                &mut [PollFd::new(&fd, PollFlags::IN)],
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                }),
            )
            .unwrap()
                == 1
        };
        sender.try_send(1).unwrap();
        assert!(!readable(&receiver), "nobody sleeps: no system call");
        receiver.waker().announce_sleep();
        sender.try_send(2).unwrap();
        sender.try_send(3).unwrap();
        let mut count = [0; 8];
        rustix::io::read(receiver.waker(), &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
        receiver.waker().announce_sleep();
        receiver.waker().cancel_sleep();
        sender.try_send(4).unwrap();
        assert!(!readable(&receiver));
    }

    #[test]
    fn what_is_only_queued_is_told_with_the_next_wake_up() {
        let (sender, receiver) = bounded(8).unwrap();
        receiver.waker().announce_sleep();
        sender.try_queue(1).unwrap();
        sender.try_queue(2).unwrap();
        let now = Some(Duration::ZERO);
        assert!(!receiver.waker().wait(now).unwrap(), "nothing was told");
        sender.wake();
        assert!(receiver.waker().wait(now).unwrap());
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(receiver.try_recv(), Some(2));
    }

    #[test]
    fn a_wait_ends_at_its_timeout_and_for_any_queue_of_the_thread() {
        let waker = Waker::new().unwrap();
        let (_first, first) = bounded_on::<u8>(1, &waker);
        let (second_sender, second) = bounded_on::<u8>(1, &waker);
        assert_eq!(
            first.recv_timeout(Some(Duration::from_millis(1))).unwrap(),
            None
        );
        let sender = thread::spawn(move || second_sender.try_send(7).unwrap());
        // Either the item was there before the sleep (its waker was not needed) or the wait ends because of it.
        while second.is_empty() {
            assert_eq!(first.recv_timeout(DEADLINE).unwrap(), None);
        }
        assert_eq!(second.try_recv(), Some(7));
        sender.join().unwrap();
    }

    /// Two senders and a receiver that sleeps whenever it can: every item arrives, in order per sender, none is missed.
    #[test]
    fn no_wake_up_is_lost() {
        const ITEMS: u32 = 50_000;
        let (sender, receiver) = bounded::<(u8, u32)>(4).unwrap();
        let senders: Vec<_> = (0..2u8)
            .map(|who| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for number in 0..ITEMS {
                        let mut item = (who, number);
                        while let Err(Full(back)) = sender.try_send(item) {
                            item = back;
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0u32; 2];
        while next != [ITEMS; 2] {
            let Some((who, number)) = receiver.try_recv() else {
                receiver.waker().announce_sleep();
                if receiver.is_empty() {
                    assert!(receiver.waker().wait(DEADLINE).unwrap(), "missed wake-up");
                }
                continue;
            };
            assert_eq!(number, next[usize::from(who)]);
            next[usize::from(who)] += 1;
        }
        for sender in senders {
            sender.join().unwrap();
        }
    }
}
