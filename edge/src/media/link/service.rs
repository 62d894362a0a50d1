//! The thread that knows the ways past the kernel's IP, and tells the media threads.

use super::bystanders::Bystanders;
use super::routes::{Path, Routes};
use super::sender::{self, LinkSender};
use super::table::WayTable;
use super::{LINKS, Request, Update, Way};
use crate::handoff::{Receiver, Sender, Waker, bounded_on};
use crate::media::buffers::Memory;
use crate::media::{headers, ipsec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Requests of all threads that may wait, and updates for one of them.
const REQUESTS: usize = 4096;
const UPDATES: usize = 4096;

/// How often to look who else has a say. A capture that begins misses what leaves until then.
const LOOK: Duration = Duration::from_secs(1);
/// Routes and neighbours that change all the time are looked at no more often.
const SETTLE: Duration = Duration::from_millis(50);
/// How often the kernel is asked to check the neighbours that it does not send to itself.
const CONFIRM: Duration = Duration::from_secs(5);
/// How long an interface is left alone that could not be sent to.
const PAUSE: Duration = Duration::from_secs(10);

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
    memory: Option<(Arc<Memory>, u16)>,
    /// The interface of each of its senders.
    links: [Option<u32>; LINKS],
    hosts: HashMap<u16, Followed>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }
}

/// A host that a thread's flows send to.
#[derive(Debug)]
struct Followed {
    local: IpAddr,
    address: IpAddr,
    told: Option<Way>,
}

#[derive(Debug)]
struct Interface {
    name: String,
    queues: u32,
    /// Of each family that leaves by it: why not past the kernel's IP.
    objections: HashMap<Family, Option<String>>,
    /// Of which that was found out in this review.
    looked_at: HashSet<Family>,
    /// It could not be sent to.
    pause: Option<Instant>,
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

    /// Serves until it is stopped.
    pub fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            if let Err(error) = self.turn() {
                // Whatever it is, nothing is known to be as it was.
                self.changed = true;
                tracing::debug!(%error, "looking after the ways past the kernel's IP");
                std::thread::sleep(SETTLE);
            }
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
        if due || (self.changed || self.untold) && since.is_none_or(|since| since >= SETTLE) {
            self.looked = Some(now);
            self.changed = false;
            self.review(now);
        }
        changed.map(drop)
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> io::Result<()> {
        let waker = self.requests.waker().clone();
        waker.announce_sleep();
        let timeout = match (self.requests.is_empty(), self.changed || self.untold) {
            (false, _) => Duration::ZERO,
            (true, true) => SETTLE,
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
            Request::Memory(memory, buffers) => thread.memory = Some((memory, buffers)),
            Request::Follow {
                number: host,
                local,
                host: address,
            } => {
                let followed = Followed {
                    local,
                    address,
                    told: None,
                };
                thread.hosts.insert(host, followed);
                self.lead(now, number, host);
            }
            Request::Forget { number } => {
                thread.hosts.remove(&number);
            }
            Request::Failed { link, error } => {
                let place = thread.links.get_mut(usize::from(link));
                let interface = place.and_then(Option::take);
                // The thread has stopped using it by itself.
                for host in thread.hosts.values_mut() {
                    host.told = host.told.filter(|way| way.link != link);
                }
                if let Some(interface) = interface.and_then(|one| self.interfaces.get_mut(&one)) {
                    interface.pause = Some(now + PAUSE);
                    tracing::warn!(interface = interface.name, %error, "media leaves through the kernel's IP: its link has failed");
                }
            }
            Request::Retire(sender) => drop(sender),
        }
    }

    /// Looks at everything anew.
    fn review(&mut self, now: Instant) {
        self.untold = false;
        self.policies = policies();
        for interface in self.interfaces.values_mut() {
            interface.looked_at.clear();
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

    /// Whether packets from `local` may leave by an interface past the kernel's IP.
    fn permits(&mut self, index: u32, local: IpAddr) -> bool {
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return false;
        };
        let family = Family::of(local);
        if !interface.looked_at.insert(family) {
            return matches!(interface.objections.get(&family), Some(None));
        }
        let objection = self.policies.clone().or_else(|| {
            let bystander = self.bystanders.look(index, local);
            bystander.map(|bystander| bystander.to_string())
        });
        let permits = objection.is_none();
        let before = interface.objections.insert(family, objection.clone());
        if before.as_ref() != Some(&objection) {
            let interface = &interface.name;
            match objection {
                None => tracing::info!(
                    interface,
                    ?family,
                    "media leaves past the kernel's IP (media.fast_path)"
                ),
                Some(reason) => tracing::info!(
                    interface,
                    ?family,
                    reason,
                    "media leaves through the kernel's IP"
                ),
            }
        }
        permits
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
        let way = self.way(now, number, (local, address));
        let Some(thread) = self.threads.get_mut(number) else {
            return;
        };
        let Some(followed) = thread.hosts.get_mut(&host) else {
            return;
        };
        if followed.told == way {
            return;
        }
        let update = Update::Way {
            number: host,
            host: address,
            way,
        };
        match thread.updates.try_send(update) {
            Ok(()) => followed.told = way,
            Err(_) => self.untold = true,
        }
    }

    /// The way past the kernel's IP, if there is one.
    fn way(&mut self, now: Instant, thread: usize, (local, host): (IpAddr, IpAddr)) -> Option<Way> {
        let path = match self.routes.path(local, host) {
            Ok(Ok(path)) => path,
            Ok(Err(detour)) => {
                tracing::debug!(%host, %detour, "media leaves through the kernel's IP");
                return None;
            }
            Err(error) => {
                tracing::debug!(%host, %error, "media leaves through the kernel's IP: its route cannot be asked for");
                return None;
            }
        };
        if path.mtu < headers::smallest_mtu(host) {
            tracing::debug!(%host, mtu = path.mtu, "media leaves through the kernel's IP: the path takes no whole packets");
            return None;
        }
        self.know(&path);
        if !self.permits(path.interface, local) {
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
        let interface = Interface {
            name: link.name,
            queues: link.queues,
            objections: HashMap::new(),
            looked_at: HashSet::new(),
            pause: None,
        };
        self.interfaces.insert(path.interface, interface);
    }

    /// The number of a thread's sender at an interface, opened if there is none.
    fn link(&mut self, now: Instant, number: usize, index: u32) -> Option<u8> {
        let interface = self.interfaces.get_mut(&index)?;
        let thread = self.threads.get_mut(number)?;
        if let Some(link) = thread.links.iter().position(|&one| one == Some(index)) {
            return u8::try_from(link).ok();
        }
        if interface.pause.is_some_and(|until| until > now) {
            return None;
        }
        let free = thread.links.iter().position(Option::is_none)?;
        let link = u8::try_from(free).ok()?;
        let (memory, buffers) = thread.memory.clone()?;
        // Each thread begins with another of the interface's queues.
        let queues = (number as u32, interface.queues);
        match LinkSender::open(memory, buffers, index, queues) {
            Ok(sender) => {
                let sender = Box::new(sender);
                let told = thread.updates.try_send(Update::Open { link, sender });
                if told.is_err() {
                    self.untold = true;
                    return None;
                }
                if let Some(place) = thread.links.get_mut(free) {
                    *place = Some(index);
                }
                interface.pause = None;
                Some(link)
            }
            Err(error) => {
                interface.pause = Some(now + PAUSE);
                tracing::info!(thread = number, interface = interface.name, %error, "media leaves through the kernel's IP: it has no link");
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
            let used = |thread: &Thread| {
                let link = thread.links.iter().position(|&one| one == Some(index));
                link.is_some_and(|link| {
                    let mut told = thread.hosts.values().filter_map(|host| host.told);
                    told.any(|way| usize::from(way.link) == link)
                })
            };
            let gone = matches!(routes.link(index), Ok(None));
            if !gone || threads.iter().any(used) {
                return true;
            }
            for thread in threads.iter_mut() {
                for place in thread.links.iter_mut().filter(|one| **one == Some(index)) {
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
            for host in thread.hosts.values().filter(|host| host.told.is_some()) {
                if let Ok(Ok(path)) = self.routes.path(host.local, host.address)
                    && confirmed.insert((path.interface, path.neighbour))
                    && let Err(error) = self.routes.confirm(&path)
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
