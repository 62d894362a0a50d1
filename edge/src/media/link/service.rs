//! The thread that knows the ways past the kernel's IP, and tells the media threads.

use super::bystanders::Bystanders;
use super::interfaces::{Interface, Pause};
use super::routes::{Path, Routes};
use super::sender::{self, LinkSender};
use super::table::WayTable;
use super::{LINKS, Request, Update, Way};
use crate::handoff::{Receiver, Sender, Waker, bounded_on};
use crate::media::buffers::Memory;
use crate::media::{headers, ipsec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Requests of all threads that may wait, and updates for one of them.
const REQUESTS: usize = 4096;
const UPDATES: usize = 4096;

/// How often to look who else has a say. A capture that begins misses what leaves until then.
const LOOK: Duration = Duration::from_secs(1);
/// Routes and neighbours that change all the time are looked at no more often, and for a fifth of the time at most.
const SETTLE: Duration = Duration::from_millis(50);
const REST: u32 = 4;
/// How often the kernel is asked to check the neighbours that it does not send to itself.
const CONFIRM: Duration = Duration::from_secs(5);

/// See the module.
pub struct LinkService {
    requests: Receiver<(usize, Request)>,
    stop: Arc<AtomicBool>,
    routes: Routes,
    bystanders: Bystanders,
    threads: Vec<Thread>,
    /// By index: the interfaces that paths lead to.
    interfaces: HashMap<u32, Interface>,
    /// Of IPsec, which any packet may be subject to; as of the last review.
    policies: Option<String>,
    looked: Option<Instant>,
    /// How long to rest between two reviews.
    settle: Duration,
    /// Senders opened so far.
    opened: u64,
    confirmed: Instant,
    /// Something may have changed since the last review of all ways.
    changed: bool,
    /// An update has found no room.
    untold: bool,
}

/// A media thread.
#[derive(Debug)]
struct Thread {
    updates: Sender<Update>,
    memory: Option<Arc<Memory>>,
    links: [Option<Opened>; LINKS],
    hosts: HashMap<u16, Followed>,
}

/// A sender of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Opened {
    interface: u32,
    serial: u64,
}

/// A host that a thread's flows send to.
#[derive(Debug)]
struct Followed {
    local: IpAddr,
    address: IpAddr,
    /// `None`: whatever it was, it has to be told anew.
    told: Option<Option<Way>>,
    path: Option<Path>,
    /// Why there is none.
    obstacle: Option<String>,
}

impl Followed {
    fn leads_by(&self, link: usize) -> bool {
        matches!(self.told, Some(Some(way)) if usize::from(way.link) == link)
    }
}

/// Ends a [`LinkService`].
#[derive(Clone, Debug)]
pub struct LinkStop {
    stop: Arc<AtomicBool>,
    waker: Waker,
}

impl LinkStop {
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl LinkService {
    /// A service for `threads` media threads of the calling thread's network namespace, and what each is given. Needs CAP_NET_ADMIN and
    /// CAP_NET_RAW.
    pub fn new(threads: usize) -> io::Result<(LinkService, Vec<WayTable>)> {
        sender::probe()?;
        if routed_apart()? {
            return Err(io::Error::other(
                "sockets of this process get a mark or an interface, which routes would not be asked for with",
            ));
        }
        let waker = Waker::new()?;
        let (request, requests) = bounded_on(REQUESTS, &waker);
        let mut tables = Vec::with_capacity(threads);
        let mut served = Vec::with_capacity(threads);
        for number in 0..threads {
            // Nobody is woken: a thread that sleeps has no packets to send.
            let (updates, receiver) = bounded_on(UPDATES, &Waker::new()?);
            tables.push(WayTable::new(number, request.clone(), receiver));
            served.push(Thread {
                updates,
                memory: None,
                links: [None; LINKS],
                hosts: HashMap::new(),
            });
        }
        let service = LinkService {
            requests,
            stop: Arc::default(),
            routes: Routes::open()?,
            bystanders: Bystanders::open()?,
            threads: served,
            interfaces: HashMap::new(),
            policies: policies(),
            looked: None,
            settle: SETTLE,
            opened: 0,
            confirmed: Instant::now(),
            changed: false,
            untold: false,
        };
        Ok((service, tables))
    }

    pub fn stopper(&self) -> LinkStop {
        LinkStop {
            stop: self.stop.clone(),
            waker: self.requests.waker().clone(),
        }
    }

    /// Serves until it is stopped. Whatever goes wrong costs the ways alone.
    pub fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            match catch_unwind(AssertUnwindSafe(|| self.turn())) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    // Whatever it is, nothing is known to be as it was.
                    self.changed = true;
                    tracing::debug!(%error, "looking after the ways past the kernel's IP");
                    std::thread::sleep(SETTLE);
                }
                Err(_) => {
                    tracing::error!(
                        "the ways past the kernel's IP are not looked after any more: media leaves through the kernel"
                    );
                    return self.withdraw();
                }
            }
        }
    }

    /// Takes every way back, until it is stopped.
    fn withdraw(self) {
        while !self.stop.load(Ordering::Acquire) {
            while self.requests.try_recv().is_some() {}
            for thread in &self.threads {
                for (&number, followed) in &thread.hosts {
                    let _ = thread.updates.try_send(Update::Way {
                        number,
                        host: followed.address,
                        way: None,
                    });
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        self.wait()?;
        let now = Instant::now();
        while let Some((thread, request)) = self.requests.try_recv() {
            self.serve(now, thread, request);
        }
        let changed = self.routes.changed();
        self.changed |= *changed.as_ref().unwrap_or(&true);
        let since = self.looked.map(|at| now - at);
        let due = since.is_none_or(|since| since >= LOOK);
        let due = due && since.is_none_or(|since| since >= self.settle);
        if due || (self.changed || self.untold) && since.is_none_or(|since| since >= self.settle) {
            self.changed = false;
            self.review(now);
            self.settle = SETTLE.max(now.elapsed() * REST);
            self.looked = Some(Instant::now());
        }
        changed.map(drop)
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> io::Result<()> {
        let waker = self.requests.waker().clone();
        waker.announce_sleep();
        let timeout = match (self.requests.is_empty(), self.changed || self.untold) {
            (false, _) => Duration::ZERO,
            (true, true) => self.settle,
            (true, false) => LOOK,
        };
        let timespec = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut sources = [
            PollFd::new(&waker, PollFlags::IN),
            PollFd::from_borrowed_fd(self.routes.events(), PollFlags::IN),
        ];
        match poll(&mut sources, Some(&timespec)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let woken = sources.first().is_some_and(|one| !one.revents().is_empty());
        waker.cancel_sleep();
        if woken {
            let mut count = [0; 8];
            rustix::io::read(&waker, &mut count)?;
        }
        Ok(())
    }

    fn serve(&mut self, now: Instant, number: usize, request: Request) {
        let Some(thread) = self.threads.get_mut(number) else {
            return;
        };
        match request {
            Request::Memory(memory) => thread.memory = Some(memory),
            Request::Follow {
                number: host,
                local,
                host: address,
            } => {
                let followed = Followed {
                    local,
                    address,
                    // What a thread begins with.
                    told: Some(None),
                    path: None,
                    obstacle: None,
                };
                thread.hosts.insert(host, followed);
                self.lead(now, number, host);
            }
            Request::Forget { number } => {
                thread.hosts.remove(&number);
            }
            Request::Failed {
                link,
                serial,
                error,
            } => self.failed(now, (number, link, serial), &error),
            Request::Retire(sender) => drop(sender),
        }
    }

    /// A thread's sender has come to its end. The thread knows, but may be told of ways by it yet.
    fn failed(
        &mut self,
        now: Instant,
        (thread, link, serial): (usize, u8, u64),
        error: &io::Error,
    ) {
        let Some(thread) = self.threads.get_mut(thread) else {
            return;
        };
        let link = usize::from(link);
        let Some(place) = thread.links.get_mut(link) else {
            return;
        };
        let Some(opened) = place.take_if(|opened| opened.serial == serial) else {
            return;
        };
        for host in thread.hosts.values_mut().filter(|host| host.leads_by(link)) {
            host.told = None;
        }
        self.changed = true;
        if let Some(interface) = self.interfaces.get_mut(&opened.interface) {
            interface.pause = Some(Pause::after(interface.pause, now));
            tracing::warn!(interface = interface.name, %error, "media leaves through the kernel's IP: its link has failed");
        }
    }

    /// Looks at everything anew.
    fn review(&mut self, now: Instant) {
        self.untold = false;
        self.policies = policies();
        for interface in self.interfaces.values_mut() {
            interface.look_again();
        }
        for thread in 0..self.threads.len() {
            let hosts: Vec<u16> = match self.threads.get(thread) {
                Some(thread) => thread.hosts.keys().copied().collect(),
                None => continue,
            };
            for host in hosts {
                self.lead(now, thread, host);
            }
        }
        self.drop_gone();
        if now - self.confirmed >= CONFIRM {
            self.confirmed = now;
            self.confirm();
        }
    }

    /// Tells a thread the way to one of its hosts, if it is another than before.
    fn lead(&mut self, now: Instant, number: usize, host: u16) {
        let found = self.threads.get(number).and_then(|thread| {
            let followed = thread.hosts.get(&host)?;
            Some((followed.local, followed.address))
        });
        let Some((local, address)) = found else {
            return;
        };
        let (path, obstacle) = match self.path(local, address) {
            Ok(path) => (Some(path), None),
            Err(obstacle) => (None, Some(obstacle)),
        };
        let way = path.and_then(|path| self.way(now, (number, local), &path));
        let Some(thread) = self.threads.get_mut(number) else {
            return;
        };
        let Some(followed) = thread.hosts.get_mut(&host) else {
            return;
        };
        followed.path = path.filter(|_| way.is_some());
        if followed.obstacle != obstacle {
            if let Some(obstacle) = &obstacle {
                tracing::debug!(host = %address, obstacle, "media leaves through the kernel's IP");
            }
            followed.obstacle = obstacle;
        }
        if followed.told == Some(way) {
            return;
        }
        let update = Update::Way {
            number: host,
            host: address,
            way,
        };
        match thread.updates.try_send(update) {
            Ok(()) => followed.told = Some(way),
            Err(_) => self.untold = true,
        }
    }

    /// What the kernel would do with packets to a host, or why it has to do it itself.
    fn path(&mut self, local: IpAddr, host: IpAddr) -> Result<Path, String> {
        match self.routes.path(local, host) {
            Ok(Ok(path)) if path.mtu < headers::smallest_mtu(host) => {
                Err(format!("the path takes no more than {} octets", path.mtu))
            }
            Ok(Ok(path)) => Ok(path),
            Ok(Err(detour)) => Err(detour.to_string()),
            Err(error) => Err(format!("its route cannot be asked for ({error})")),
        }
    }

    /// The way of a path past the kernel's IP, if there is one.
    fn way(&mut self, now: Instant, (thread, local): (usize, IpAddr), path: &Path) -> Option<Way> {
        self.know(path);
        let interface = self.interfaces.get_mut(&path.interface)?;
        if !interface.permits(local, &mut self.bystanders, self.policies.as_deref()) {
            return None;
        }
        let link = self.link(now, thread, path.interface)?;
        Some(Way {
            header: path.ethernet,
            link,
        })
    }

    /// Gets to know the interface of a path.
    fn know(&mut self, path: &Path) {
        if self.interfaces.contains_key(&path.interface) {
            return;
        }
        let Ok(Some(link)) = self.routes.link(path.interface) else {
            return;
        };
        let interface = Interface::new(link);
        self.interfaces.insert(path.interface, interface);
    }

    /// The number of a thread's sender at an interface, opened if there is none.
    fn link(&mut self, now: Instant, number: usize, index: u32) -> Option<u8> {
        let interface = self.interfaces.get_mut(&index)?;
        let thread = self.threads.get_mut(number)?;
        let at = |opened: &Option<Opened>| opened.is_some_and(|opened| opened.interface == index);
        if let Some(link) = thread.links.iter().position(at) {
            return u8::try_from(link).ok();
        }
        if interface.pause.is_some_and(|pause| pause.until > now) {
            return None;
        }
        let free = thread.links.iter().position(Option::is_none)?;
        let link = u8::try_from(free).ok()?;
        let memory = thread.memory.clone()?;
        // Each thread begins with another of the interface's queues.
        let queues = (number as u32, interface.queues);
        match LinkSender::open(memory, index, queues) {
            Ok(sender) => {
                self.opened += 1;
                let serial = self.opened;
                let sender = Box::new(sender);
                let open = Update::Open {
                    link,
                    serial,
                    sender,
                };
                if thread.updates.try_send(open).is_err() {
                    self.untold = true;
                    return None;
                }
                if let Some(place) = thread.links.get_mut(free) {
                    *place = Some(Opened {
                        interface: index,
                        serial,
                    });
                }
                Some(link)
            }
            Err(error) => {
                let pause = Pause::after(interface.pause, now);
                if pause.is_first() {
                    tracing::info!(thread = number, interface = interface.name, %error, "media leaves through the kernel's IP: it has no link");
                }
                interface.pause = Some(pause);
                None
            }
        }
    }

    /// Forgets the interfaces that are gone, once nobody uses them.
    fn drop_gone(&mut self) {
        let Self {
            interfaces,
            routes,
            threads,
            ..
        } = self;
        interfaces.retain(|&index, _| {
            let at =
                |opened: &Option<Opened>| opened.is_some_and(|opened| opened.interface == index);
            let used = |thread: &Thread| {
                let link = thread.links.iter().position(at);
                link.is_some_and(|link| thread.hosts.values().any(|host| host.leads_by(link)))
            };
            let gone = matches!(routes.link(index), Ok(None));
            if !gone || threads.iter().any(used) {
                return true;
            }
            for thread in threads.iter_mut() {
                for place in thread.links.iter_mut().filter(|one| at(one)) {
                    *place = None;
                }
            }
            false
        });
    }

    /// Asks the kernel to check the neighbours that are sent to without its knowledge.
    fn confirm(&mut self) {
        let mut confirmed = HashSet::new();
        for thread in &self.threads {
            for path in thread.hosts.values().filter_map(|host| host.path.as_ref()) {
                if confirmed.insert((path.interface, path.neighbour))
                    && let Err(error) = self.routes.confirm(path)
                {
                    tracing::debug!(neighbour = %path.neighbour, %error, "cannot have a neighbour checked");
                }
            }
        }
    }
}

/// IPsec policies for what leaves, which may mean any of it.
fn policies() -> Option<String> {
    match ipsec::outbound_policies() {
        Ok(0) => None,
        Ok(policies) => Some(format!("the host has {policies} IPsec policies")),
        Err(error) => Some(format!("IPsec policies cannot be asked for ({error})")),
    }
}

/// Whether sockets of this process are born with a mark or bound to an interface, as by `ip vrf exec` or a program of their control
/// group: routing then depends on it.
fn routed_apart() -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    Ok(socket.mark()? != 0 || socket.device()?.is_some())
}
