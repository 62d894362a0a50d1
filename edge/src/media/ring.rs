//! The io_uring of one media thread, behind an interface that is safe to use: whatever the kernel is told to read or write
//! belongs to [`Ring`] for as long as the kernel may use it.

use super::buffers::{Buffer, BufferPool, Memory};
use super::error::MediaError;
use super::link::LINKS;
use super::link::sender::LinkSender;
use super::received::{ReceivedFrom, ReceivedShared, ReceivedStamped, SharedShape};
use super::token::{Kind, Token};
use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use socket2::SockAddr;
use std::cell::UnsafeCell;
use std::io;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// The one group of provided buffers.
const GROUP: u16 = 0;

/// Completions that end a [`Wait::gather`] early, and so about the most sockets that one turn serves.
pub const GATHERED: usize = 512;

/// How a [`Ring`] is laid out.
#[derive(Clone, Copy, Debug)]
pub struct RingOptions {
    /// Submission queue entries, and so the most packets per system call.
    pub entries: u32,
    pub buffers: u16,
    pub buffer_bytes: usize,
    /// Entries of the fixed file table.
    pub files: u32,
}

/// How [`Ring::turn`] waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    /// For how long at most; `None`: for ever.
    pub timeout: Option<Duration>,
    /// Let completions gather for this long, unless there are [`GATHERED`] before. Ignored by a kernel that cannot (before 6.12).
    pub gather: Duration,
}

/// One completion, its buffer claimed.
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    /// What the operation returned: a count, or a negative errno.
    pub result: i32,
    pub buffer: Option<Buffer>,
    /// The multishot operation stays armed.
    pub more: bool,
}

/// A sender past the kernel's IP that has come to its end.
#[derive(Debug)]
pub struct FailedLink {
    pub link: u8,
    pub sender: Box<LinkSender>,
    pub error: io::Error,
}

/// The ring, its buffers and its fixed files. Bound to the thread that made it (SINGLE_ISSUER).
pub struct Ring {
    // Dropped first. What is in flight then is cancelled, not completed: with DEFER_TASKRUN receives and reads run only
    // when this thread enters the kernel for this ring, which can no longer happen.
    uring: IoUring,
    pool: BufferPool,
    /// Tells the kernel how much room the source needs; shared by all receives, never written.
    shape: Box<libc::msghdr>,
    /// The same for receives that tell the time instead.
    stamped_shape: Box<libc::msghdr>,
    /// The same for receives of shared sockets, by [`SharedShape::index`].
    shared_shapes: Box<[libc::msghdr; SharedShape::ALL.len()]>,
    /// Whether the kernel can let completions gather.
    gathers: bool,
    /// Where the kernel writes the wake-up's count, which nobody reads.
    wake_count: Box<UnsafeCell<[u8; 8]>>,
    /// Destinations of the sends that wait for submission, by order of use.
    destinations: Box<[SockAddr]>,
    destinations_used: usize,
    /// Buffers of the sends that wait for submission.
    sending: Vec<Buffer>,
    /// Senders past the kernel's IP. What is given to one leaves with the next submission.
    links: [Option<Box<LinkSender>>; LINKS],
    /// One of them holds frames.
    links_hold: bool,
    /// Frames that they were given and that did not leave.
    link_losses: u64,
    /// At most one for each, until they are told.
    failed_links: Vec<FailedLink>,
    thread_bound: PhantomData<*const ()>,
}

impl Ring {
    /// Sets up the ring on the calling thread, which alone may use it. `Err` names what the kernel lacks.
    pub fn new(options: RingOptions) -> Result<Ring, MediaError> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completion_entries(options));
        let uring = builder
            .build(options.entries)
            .map_err(|error| MediaError::setup(error, disabled_sysctl()))?;
        check_features(&uring)?;
        let pool = BufferPool::new(options.buffers, options.buffer_bytes);
        let (address, count) = pool.ring();
        // SAFETY: the ring's memory is the pool's, which is dropped after `uring`.
        unsafe {
            uring
                .submitter()
                .register_buf_ring_with_flags(address, count, GROUP, 0)
        }
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => MediaError::TooOld {
                missing: "provided-buffer ring",
            },
            Some(libc::ENOMEM) => MediaError::Memory,
            _ => MediaError::system("registering receive buffers")(error),
        })?;
        uring
            .submitter()
            .register_files_sparse(options.files)
            .map_err(MediaError::system("registering the file table"))?;
        let entries = uring.params().sq_entries() as usize;
        let nobody = SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Ok(Ring {
            pool,
            shape: Box::new(ReceivedFrom::shape()),
            stamped_shape: Box::new(ReceivedStamped::shape()),
            shared_shapes: Box::new(SharedShape::ALL.map(SharedShape::shape)),
            gathers: uring.params().is_feature_min_timeout(),
            wake_count: Box::new(UnsafeCell::new([0; 8])),
            destinations: vec![nobody; entries].into(),
            destinations_used: 0,
            sending: Vec::with_capacity(entries),
            links: [const { None }; LINKS],
            links_hold: false,
            link_losses: 0,
            failed_links: Vec::with_capacity(LINKS),
            thread_bound: PhantomData,
            uring,
        })
    }

    /// The most completions that can wait at once without the kernel keeping some aside.
    pub fn completion_capacity(&self) -> usize {
        self.uring.params().cq_entries() as usize
    }

    /// Octets of one receive buffer. A datagram that fills one may have been cut.
    pub fn buffer_bytes(&self) -> usize {
        self.pool.size()
    }

    /// Puts sockets into the file table, or takes them out (`None`), from index `first` on.
    pub fn set_files<const N: usize>(
        &mut self,
        first: u32,
        files: [Option<BorrowedFd<'_>>; N],
    ) -> io::Result<()> {
        // What was decided for the present files goes out through them.
        self.submit();
        let files = files.map(|file| file.map_or(-1, |fd| fd.as_raw_fd()));
        let submitter = self.uring.submitter();
        submitter.register_files_update(first, &files).map(drop)
    }

    /// Arms a multishot receive that tells the source of each packet ([`Ring::received_from`]).
    pub fn receive_from(&mut self, file: u32, token: Token) -> io::Result<()> {
        let entry = opcode::RecvMsgMulti::new(Fixed(file), &raw const *self.shape, GROUP)
            .build()
            .user_data(token.to_bits());
        self.push(&entry)
    }

    /// Arms a multishot receive that tells when each packet was received ([`Ring::received_stamped`]), for a connected socket
    /// that has the times taken.
    pub fn receive_stamped(&mut self, file: u32, token: Token) -> io::Result<()> {
        let shape = &raw const *self.stamped_shape;
        let entry = opcode::RecvMsgMulti::new(Fixed(file), shape, GROUP)
            .build()
            .user_data(token.to_bits());
        self.push(&entry)
    }

    /// Arms a multishot receive on a socket that flows share ([`Ring::received_shared`]).
    pub fn receive_shared(
        &mut self,
        file: u32,
        token: Token,
        shape: SharedShape,
    ) -> io::Result<()> {
        let shape: *const libc::msghdr = self.shared_shape(shape);
        let entry = opcode::RecvMsgMulti::new(Fixed(file), shape, GROUP)
            .build()
            .user_data(token.to_bits());
        self.push(&entry)
    }

    /// Arms a multishot receive on a connected socket: a packet is the whole buffer.
    pub fn receive(&mut self, file: u32, token: Token) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fixed(file), GROUP)
            .build()
            .user_data(token.to_bits());
        self.push(&entry)
    }

    /// Ends the operation of `token`, which then completes without [`Completion::more`].
    pub fn cancel(&mut self, token: Token) -> io::Result<()> {
        let own = Token {
            kind: Kind::Cancel,
            ..token
        };
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(token.to_bits()))
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(own.to_bits());
        self.push(&entry)
    }

    /// Arms one read of an eventfd; its completion is [`Token::WAKE`].
    pub fn wait_for_wake(&mut self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        let entry = opcode::Read::new(Fd(eventfd.as_raw_fd()), self.wake_count.get().cast(), 8)
            .build()
            .user_data(Token::WAKE.to_bits());
        self.push(&entry)
    }

    /// Sends the octets `range` of `buffer` from socket `file`: to `destination`, or to the socket's peer without one. The buffer
    /// returns to the pool by itself. Only a failure has a completion. An error hands the buffer back.
    pub fn send(
        &mut self,
        file: u32,
        token: Token,
        buffer: Buffer,
        range: Range<usize>,
        destination: Option<SocketAddr>,
    ) -> Result<(), Buffer> {
        if self.uring.submission().is_full() {
            self.submit();
        }
        let Some(bytes) = self.pool.bytes(&buffer, range) else {
            return Err(buffer);
        };
        let (octets, length) = (bytes.as_ptr(), bytes.len() as u32);
        // MSG_DONTWAIT makes the kernel finish the send, or fail it, while it submits: it never keeps the octets, so
        // buffer and destination are free once the submission queue is empty.
        let mut send = opcode::Send::new(Fixed(file), octets, length)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        if let Some(destination) = destination {
            let Some(slot) = self.destinations.get_mut(self.destinations_used) else {
                return Err(buffer);
            };
            *slot = SockAddr::from(destination);
            self.destinations_used += 1;
            send = send
                .dest_addr(slot.as_ptr().cast())
                .dest_addr_len(slot.len());
        }
        let entry = send
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(token.to_bits());
        // SAFETY: the octets are the pool's and the destination is this ring's. Neither is reused before the kernel has
        // consumed the entry: `sending` keeps the buffer and `destinations_used` the slot until `after_submit` saw that.
        match unsafe { self.uring.submission().push(&entry) } {
            Ok(()) => {
                self.sending.push(buffer);
                Ok(())
            }
            Err(_) => Err(buffer),
        }
    }

    /// What the buffers are in.
    pub fn memory(&self) -> Arc<Memory> {
        self.pool.memory().clone()
    }

    /// From now on `sender` sends what is given to `link`. Returns the one before.
    pub fn open_link(&mut self, link: u8, sender: Box<LinkSender>) -> Option<Box<LinkSender>> {
        let place = self.links.get_mut(usize::from(link));
        let Some(place) = place else {
            return Some(sender);
        };
        let mut before = place.replace(sender)?;
        self.link_losses += before.waiting() as u64;
        before.abandon(&mut self.pool);
        Some(before)
    }

    /// Sends the octets `frame` of `buffer`, an Ethernet frame, by `link`, at the next submission at the latest. The buffer returns to the pool by
    /// itself. An error hands the buffer back: there is no such link, or it takes less than comes.
    pub fn send_by_link(
        &mut self,
        link: u8,
        buffer: Buffer,
        frame: Range<usize>,
    ) -> Result<(), Buffer> {
        if frame.end > self.pool.size() {
            return Err(buffer);
        }
        let (place, octets) = (self.pool.place(&buffer, frame.start), frame.len());
        let full = match self.links.get_mut(usize::from(link)) {
            Some(Some(sender)) => sender.push(buffer, place, octets),
            _ => Err(buffer),
        };
        let pushed = full.or_else(|buffer| {
            self.flush_link(link);
            match self.links.get_mut(usize::from(link)) {
                Some(Some(sender)) => sender.push(buffer, place, octets),
                _ => Err(buffer),
            }
        });
        self.links_hold |= pushed.is_ok();
        pushed
    }

    /// Whether frames wait for an interface that takes none at present.
    pub fn links_hold(&self) -> bool {
        self.links_hold
    }

    /// Frames that were given to links and lost since the last call.
    pub fn take_link_losses(&mut self) -> u64 {
        std::mem::take(&mut self.link_losses)
    }

    /// A link that has failed. It is not a link any more.
    pub fn take_failed_link(&mut self) -> Option<FailedLink> {
        self.failed_links.pop()
    }

    /// Lets what was given to links leave.
    fn flush_links(&mut self) {
        if std::mem::take(&mut self.links_hold) {
            (0..LINKS as u8).for_each(|link| self.flush_link(link));
        }
    }

    fn flush_link(&mut self, link: u8) {
        let Some(place) = self.links.get_mut(usize::from(link)) else {
            return;
        };
        let Some(sender) = place else { return };
        match sender.flush(&mut self.pool) {
            Ok(refused) => {
                self.link_losses += u64::from(refused);
                self.links_hold |= sender.waiting() > 0;
            }
            Err(error) => {
                self.link_losses += sender.waiting() as u64;
                sender.abandon(&mut self.pool);
                if let Some(sender) = place.take() {
                    self.failed_links.push(FailedLink {
                        link,
                        sender,
                        error,
                    });
                }
            }
        }
    }

    /// Gives a buffer back to the kernel, at the next submission.
    pub fn recycle(&mut self, buffer: Buffer) {
        self.pool.recycle(buffer);
    }

    /// Octets of a claimed buffer; `None` for a range that is not within it.
    pub fn bytes(&mut self, buffer: &Buffer, range: Range<usize>) -> Option<&mut [u8]> {
        self.pool.bytes(buffer, range)
    }

    /// Takes apart what a [`Kind::ReceiveFrom`] completion of `length` octets left in its buffer.
    pub fn received_from(&mut self, buffer: &Buffer, length: usize) -> Option<ReceivedFrom> {
        let shape = &*self.shape;
        ReceivedFrom::read(self.pool.bytes(buffer, 0..length)?, shape)
    }

    /// Takes apart what a [`Kind::ReceiveStamped`] completion of `length` octets left in its buffer.
    pub fn received_stamped(&mut self, buffer: &Buffer, length: usize) -> Option<ReceivedStamped> {
        let shape = &*self.stamped_shape;
        ReceivedStamped::read(self.pool.bytes(buffer, 0..length)?, shape)
    }

    /// Takes apart what a [`Kind::ReceiveShared`] completion of `length` octets left in its buffer.
    pub fn received_shared(
        &mut self,
        buffer: &Buffer,
        length: usize,
        shape: SharedShape,
    ) -> Option<ReceivedShared> {
        let shape = *self.shared_shape(shape);
        ReceivedShared::read(self.pool.bytes(buffer, 0..length)?, &shape)
    }

    fn shared_shape(&self, shape: SharedShape) -> &libc::msghdr {
        let [first, ..] = &*self.shared_shapes;
        // There is one for each.
        self.shared_shapes.get(shape.index()).unwrap_or(first)
    }

    /// Submits what waits, without waiting for completions. No system call where nothing waits.
    pub fn submit(&mut self) {
        self.flush_links();
        self.pool.publish();
        if self.uring.submission().is_empty() {
            return;
        }
        // The kernel may take the queue in parts; an error other than an interruption is met again, and told, by `turn`.
        for _ in 0..8 {
            let interrupted = matches!(self.uring.submit(), Err(error) if error.raw_os_error() == Some(libc::EINTR));
            if self.after_submit() || !interrupted {
                return;
            }
        }
    }

    /// Submits what waits, then waits for a completion.
    pub fn turn(&mut self, wait: Wait) -> io::Result<()> {
        if wait.timeout == Some(Duration::ZERO) {
            return self.look();
        }
        self.flush_links();
        self.pool.publish();
        let timespec = wait.timeout.map(Timespec::from);
        let gather_us = match self.gathers {
            // Beyond the timeout it would delay what has to be done then. Rounded down: the kernel counts microseconds, and
            // takes none for "wait for all that are wanted".
            true => wait
                .gather
                .min(wait.timeout.unwrap_or(Duration::MAX))
                .as_micros(),
            false => 0,
        };
        let result = if timespec.is_none() && gather_us == 0 {
            self.uring.submit_and_wait(1)
        } else {
            let mut args = SubmitArgs::new();
            if let Some(timespec) = &timespec {
                args = args.timespec(timespec);
            }
            let mut wanted = 1;
            if gather_us > 0 {
                args = args.min_wait_usec(u32::try_from(gather_us).unwrap_or(u32::MAX));
                wanted = GATHERED;
            }
            self.uring.submitter().submit_with_args(wanted, &args)
        };
        self.after_submit();
        waited(result)
    }

    /// Submits what waits, and lets the kernel post the completions that there are. A wait for no time would set a timer and sleep until
    /// that rings.
    fn look(&mut self) -> io::Result<()> {
        self.flush_links();
        self.pool.publish();
        let submission = self.uring.submission();
        if submission.is_empty() && !submission.taskrun() && !submission.cq_overflow() {
            return Ok(());
        }
        drop(submission);
        let result = self.uring.submit();
        self.after_submit();
        waited(result)
    }

    /// Moves the completions that have arrived to `batch`, as many as it has room for.
    pub fn completions(&mut self, batch: &mut Vec<Completion>) {
        let room = batch.capacity() - batch.len();
        for entry in self.uring.completion().take(room) {
            let flags = entry.flags();
            let buffer = cqueue::buffer_select(flags)
                // SAFETY: the kernel names the buffer in this completion, which is seen once.
                .and_then(|id| unsafe { self.pool.claim(id) });
            match Token::from_bits(entry.user_data()) {
                Some(token) => batch.push(Completion {
                    token,
                    result: entry.result(),
                    buffer,
                    more: cqueue::more(flags),
                }),
                None => {
                    if let Some(buffer) = buffer {
                        self.pool.recycle(buffer);
                    }
                }
            }
        }
    }

    /// Whether [`Ring::turn`] would find something without waiting: looks at memory alone.
    pub fn has_work(&mut self) -> bool {
        !self.uring.completion().is_empty() || self.uring.submission().taskrun()
    }

    /// Whether the kernel keeps completions aside because the queue was full.
    pub fn overflowed(&mut self) -> bool {
        self.uring.submission().cq_overflow()
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.uring.submission().is_full() {
            self.submit();
        }
        // SAFETY: called by the methods above only, whose entries refer to the shapes, `wake_count` and the buffer group: all
        // live as long as the ring and are written by nobody else.
        unsafe { self.uring.submission().push(entry) }
            .map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))
    }

    /// Frees what the consumed sends referred to. Returns whether all were consumed.
    fn after_submit(&mut self) -> bool {
        if !self.uring.submission().is_empty() {
            return false;
        }
        self.destinations_used = 0;
        for buffer in self.sending.drain(..) {
            self.pool.recycle(buffer);
        }
        true
    }
}

/// What came of waiting for completions.
fn waited(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            // Timed out, interrupted, or short of memory or room for completions for the moment.
            Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
            _ => Err(error),
        },
    }
}

/// Room for a completion per buffer, and as many again for failed sends and ended receives.
fn completion_entries(options: RingOptions) -> u32 {
    (u32::from(options.buffers) * 2)
        .max(options.entries * 2)
        .next_power_of_two()
}

fn check_features(uring: &IoUring) -> Result<(), MediaError> {
    let missing = |missing| Err(MediaError::TooOld { missing });
    let params = uring.params();
    if !params.is_feature_ext_arg() {
        return missing("EXT_ARG (timed waits)");
    }
    if !params.is_feature_nodrop() {
        return missing("NODROP (overflowed completions are kept)");
    }
    if !params.is_feature_skip_cqe_on_success() {
        return missing("CQE_SKIP_SUCCESS");
    }
    let mut probe = Probe::new();
    uring
        .submitter()
        .register_probe(&mut probe)
        .map_err(MediaError::system("probing io_uring"))?;
    for (code, name) in [
        (opcode::RecvMsgMulti::CODE, "RECVMSG"),
        (opcode::RecvMulti::CODE, "RECV"),
        (opcode::Send::CODE, "SEND"),
        (opcode::Read::CODE, "READ"),
        (opcode::AsyncCancel2::CODE, "ASYNC_CANCEL"),
        // Came with 6.0, like multishot receives, for which there is no probe of their own.
        (opcode::SendZc::CODE, "multishot receive"),
    ] {
        if !probe.is_supported(code) {
            return missing(name);
        }
    }
    Ok(())
}

/// `kernel.io_uring_disabled` (since 6.6): 0 for everybody, 1 for privileged processes only, 2 for nobody.
fn disabled_sysctl() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// Below the microsecond that the kernel counts in, a time to gather is none: waiting for more completions without it would
    /// be for ever.
    #[test]
    fn one_completion_ends_a_wait_however_short_the_time_to_gather() {
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut ring = Ring::new(RingOptions {
                entries: 8,
                buffers: 8,
                buffer_bytes: 2048,
                files: 2,
            })
            .unwrap();
            let eventfd = rustix::event::eventfd(1, rustix::event::EventfdFlags::empty()).unwrap();
            for nanos in [0, 1, 999, 1_000, 50_000] {
                rustix::io::write(&eventfd, &1u64.to_ne_bytes()).unwrap();
                ring.wait_for_wake(eventfd.as_fd()).unwrap();
                let mut batch = Vec::with_capacity(8);
                while batch.is_empty() {
                    ring.turn(Wait {
                        timeout: None,
                        gather: Duration::from_nanos(nanos),
                    })
                    .unwrap();
                    ring.completions(&mut batch);
                }
                ended.send(nanos).unwrap();
            }
        });
        for nanos in [0, 1, 999, 1_000, 50_000] {
            let deadline = Duration::from_secs(20);
            assert_eq!(end.recv_timeout(deadline), Ok(nanos), "{nanos} ns");
        }
    }

    #[test]
    fn this_kernel_has_what_is_needed() {
        let ring = Ring::new(RingOptions {
            entries: 8,
            buffers: 8,
            buffer_bytes: 2048,
            files: 2,
        })
        .unwrap();
        assert!(ring.completion_capacity() >= 16);
    }
}
