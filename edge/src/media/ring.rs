//! The io_uring of one media thread, behind an interface that is safe to use: whatever the kernel is told to read or write
//! belongs to [`Ring`] for as long as the kernel may use it.

use super::buffers::{Buffer, BufferPool};
use super::error::MediaError;
use super::token::{Kind, Token};
use io_uring::types::{CancelBuilder, Fd, Fixed, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use socket2::SockAddr;
use std::cell::UnsafeCell;
use std::io;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// The one group of provided buffers.
const GROUP: u16 = 0;

/// Room that each [`Kind::ReceiveFrom`] buffer keeps for the source.
const NAME_OCTETS: usize = std::mem::size_of::<libc::sockaddr_in6>();

/// Octets of `struct io_uring_recvmsg_out`, which precedes the source.
const RECVMSG_HEADER: usize = 16;

/// Room that each [`Kind::ReceiveStamped`] buffer keeps for the time of arrival: a control message with a timespec.
const STAMP_OCTETS: usize = CONTROL_HEADER + 16;

/// Octets of a `cmsghdr` on a 64-bit machine.
const CONTROL_HEADER: usize = 16;

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
    /// [`Ring::has_work`] will be asked.
    pub polled: bool,
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

/// A packet of a [`Kind::ReceiveFrom`] completion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceivedFrom {
    pub source: SocketAddr,
    /// Where in the buffer the datagram is.
    pub payload: Range<usize>,
    pub truncated: bool,
}

/// A packet of a [`Kind::ReceiveStamped`] completion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceivedStamped {
    /// Where in the buffer the datagram is.
    pub payload: Range<usize>,
    pub truncated: bool,
    /// When the kernel received it: nanoseconds of the wall clock. `None` where it does not say.
    pub at: Option<u64>,
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
    /// Whether the kernel can let completions gather.
    gathers: bool,
    /// Where the kernel writes the wake-up's count, which nobody reads.
    wake_count: Box<UnsafeCell<[u8; 8]>>,
    /// Destinations of the sends that wait for submission, by order of use.
    destinations: Box<[SockAddr]>,
    destinations_used: usize,
    /// Buffers of the sends that wait for submission.
    sending: Vec<Buffer>,
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
            .setup_submit_all()
            .setup_cqsize(completion_entries(options));
        if options.polled {
            builder.setup_taskrun_flag();
        }
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
            shape: Box::new(recvmsg_shape(NAME_OCTETS, 0)),
            stamped_shape: Box::new(recvmsg_shape(0, STAMP_OCTETS)),
            gathers: uring.params().is_feature_min_timeout(),
            wake_count: Box::new(UnsafeCell::new([0; 8])),
            destinations: vec![nobody; entries].into(),
            destinations_used: 0,
            sending: Vec::with_capacity(entries),
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
        let bytes = self.pool.bytes(buffer, 0..length)?;
        let out = RecvMsgOut::parse(bytes, shape).ok()?;
        let start = RECVMSG_HEADER + NAME_OCTETS;
        Some(ReceivedFrom {
            source: socket_address(out.name_data())?,
            payload: start..start + out.payload_data().len(),
            truncated: out.is_payload_truncated(),
        })
    }

    /// Takes apart what a [`Kind::ReceiveStamped`] completion of `length` octets left in its buffer.
    pub fn received_stamped(&mut self, buffer: &Buffer, length: usize) -> Option<ReceivedStamped> {
        let shape = &*self.stamped_shape;
        let bytes = self.pool.bytes(buffer, 0..length)?;
        let out = RecvMsgOut::parse(bytes, shape).ok()?;
        let start = RECVMSG_HEADER + STAMP_OCTETS;
        Some(ReceivedStamped {
            payload: start..start + out.payload_data().len(),
            truncated: out.is_payload_truncated(),
            at: stamp(out.control_data()),
        })
    }

    /// Submits what waits, without waiting for completions.
    pub fn submit(&mut self) {
        self.pool.publish();
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
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Timed out, interrupted, or short of memory or room for completions for the moment.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(error),
            },
        }
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

    /// Whether [`Ring::turn`] would find something without waiting: looks at memory alone. Needs [`RingOptions::polled`].
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
        // SAFETY: called by the methods above only, whose entries refer to `shape`, `stamped_shape`, `wake_count` and the buffer group: all
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

/// Only the lengths matter: a multishot recvmsg puts everything into the buffer.
fn recvmsg_shape(name_octets: usize, control_octets: usize) -> libc::msghdr {
    // SAFETY: all zeros is a valid msghdr: null pointers and zero lengths.
    let mut shape: libc::msghdr = unsafe { std::mem::zeroed() };
    shape.msg_namelen = name_octets as libc::socklen_t;
    shape.msg_controllen = control_octets;
    shape
}

/// Reads the one control message that a socket with SO_TIMESTAMPNS adds: nanoseconds of the wall clock.
fn stamp(control: &[u8]) -> Option<u64> {
    let (length, rest) = control.split_first_chunk::<8>()?;
    let (level, rest) = rest.split_first_chunk::<4>()?;
    let (kind, rest) = rest.split_first_chunk::<4>()?;
    let (seconds, rest) = rest.split_first_chunk::<8>()?;
    let nanos = rest.first_chunk::<8>()?;
    let is_stamp = usize::from_ne_bytes(*length) == STAMP_OCTETS
        && i32::from_ne_bytes(*level) == libc::SOL_SOCKET
        && i32::from_ne_bytes(*kind) == libc::SCM_TIMESTAMPNS;
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).ok()?;
    let nanos = u64::try_from(i64::from_ne_bytes(*nanos)).ok()?;
    is_stamp.then_some(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?)
}

/// Reads a `sockaddr_in` or `sockaddr_in6`.
fn socket_address(name: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = name.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => {
            let address = rest.first_chunk::<4>()?;
            Some((Ipv4Addr::from(*address), port).into())
        }
        libc::AF_INET6 => {
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            let (address, rest) = rest.split_first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*rest.first_chunk::<4>()?);
            // A flow label says nothing about who the source is.
            Some(SocketAddrV6::new(Ipv6Addr::from(*address), port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_source_is_read_as_the_kernel_writes_it() {
        for text in ["192.0.2.1:4000", "[2001:db8::1]:4001", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let raw = SockAddr::from(address);
            // SAFETY: a SockAddr has `len` initialised octets.
            let bytes = unsafe {
                std::slice::from_raw_parts(raw.as_ptr().cast::<u8>(), raw.len() as usize)
            };
            assert_eq!(socket_address(bytes), Some(address));
            assert_eq!(socket_address(&bytes[..bytes.len() - 13]), None);
        }
        assert_eq!(socket_address(&[0; 28]), None);
    }

    #[test]
    fn a_stamp_is_read_and_nothing_else() {
        let mut control = [0; STAMP_OCTETS];
        control[..8].copy_from_slice(&STAMP_OCTETS.to_ne_bytes());
        control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        control[12..16].copy_from_slice(&libc::SCM_TIMESTAMPNS.to_ne_bytes());
        control[16..24].copy_from_slice(&3i64.to_ne_bytes());
        control[24..].copy_from_slice(&14i64.to_ne_bytes());
        assert_eq!(stamp(&control), Some(3_000_000_014));
        assert_eq!(stamp(&control[..31]), None);
        control[12] ^= 1;
        assert_eq!(stamp(&control), None);
        assert_eq!(stamp(&[]), None);
    }

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
                polled: false,
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
            polled: true,
        })
        .unwrap();
        assert!(ring.completion_capacity() >= 16);
    }
}
