//! What a media thread knows of the ways to the hosts that its flows send to.

use super::{EthernetHeader, LINKS, Request, Update, Way};
use crate::handoff::{Full, Receiver, Sender};
use crate::media::buffers::Memory;
use crate::media::link::sender::LinkSender;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// Hosts that have a number at most; packets to others leave through the kernel.
pub const HOSTS: usize = 1 << 14;

/// The link of a host that has no way.
const NO_LINK: u8 = u8::MAX;

/// What a packet needs: 15 octets, so that the ways of a hundred hosts are in a few cache lines.
#[derive(Clone, Copy, Debug)]
struct Entry {
    header: EthernetHeader,
    link: u8,
}

impl Entry {
    const NONE: Entry = Entry {
        header: [0; 14],
        link: NO_LINK,
    };
}

#[derive(Clone, Copy, Debug)]
struct Host {
    address: IpAddr,
    /// Flows that send to it.
    flows: u32,
}

/// One media thread's.
#[derive(Debug)]
pub struct WayTable {
    requests: Sender<(usize, Request)>,
    updates: Receiver<Update>,
    /// The thread's number with the service.
    thread: usize,
    /// By slot: one more than the number of the host that the flow's RTP goes to; 0: none.
    flows: Vec<u16>,
    /// By number.
    ways: Vec<Entry>,
    hosts: Vec<Option<Host>>,
    numbers: HashMap<IpAddr, u16>,
    free: Vec<u16>,
    /// Of each link: which sender it has.
    serials: [u64; LINKS],
    /// Senders that have come to their end, and that the service has had no room for: closing takes its time.
    #[expect(clippy::vec_box, reason = "they go as they came")]
    retired: Vec<Box<LinkSender>>,
}

/// What an update asks of the ring.
#[derive(Debug)]
pub enum Change {
    Open { link: u8, sender: Box<LinkSender> },
}

impl WayTable {
    pub(super) fn new(
        thread: usize,
        requests: Sender<(usize, Request)>,
        updates: Receiver<Update>,
    ) -> WayTable {
        WayTable {
            requests,
            updates,
            thread,
            flows: Vec::new(),
            ways: Vec::new(),
            hosts: Vec::new(),
            numbers: HashMap::new(),
            free: Vec::new(),
            serials: [0; LINKS],
            retired: Vec::new(),
        }
    }

    /// Says where the buffers are that are to be sent from.
    pub fn introduce(&self, memory: Arc<Memory>) {
        // The first of all requests: there is room.
        let _ = self.ask(Request::Memory(memory));
    }

    /// How a packet of the flow of `slot` leaves, if not through the kernel.
    #[inline]
    pub fn way(&self, slot: u32) -> Option<Way> {
        let number = self.flows.get(slot as usize)?.checked_sub(1)?;
        let entry = self.ways.get(usize::from(number))?;
        (entry.link != NO_LINK).then_some(Way {
            header: entry.header,
            link: entry.link,
        })
    }

    /// From now on the RTP of the flow of `slot` goes from `local` to `host`.
    pub fn follow(&mut self, slot: u32, local: IpAddr, host: IpAddr) {
        self.leave(slot);
        let slot = slot as usize;
        if self.flows.len() <= slot {
            self.flows.resize(slot + 1, 0);
        }
        let number = match self.numbers.get(&host) {
            Some(&number) => Some(number),
            None => self.add(local, host),
        };
        let Some(number) = number else { return };
        if let (Some(flow), Some(Some(host))) = (
            self.flows.get_mut(slot),
            self.hosts.get_mut(usize::from(number)),
        ) {
            *flow = number + 1;
            host.flows += 1;
        }
    }

    /// The flow of `slot` sends to nobody, or to whom is not known.
    pub fn leave(&mut self, slot: u32) {
        let Some(flow) = self.flows.get_mut(slot as usize) else {
            return;
        };
        let Some(number) = std::mem::take(flow).checked_sub(1) else {
            return;
        };
        let Some(Some(host)) = self.hosts.get_mut(usize::from(number)) else {
            return;
        };
        host.flows = host.flows.saturating_sub(1);
        // A number that could not be taken back stays, and is the host's again when the next flow sends to it.
        if host.flows == 0 && self.ask(Request::Forget { number }).is_ok() {
            self.remove(number);
        }
    }

    /// Takes what the service has told since the last call. To be called once a turn, before the turn's packets.
    pub fn update(&mut self) -> Option<Change> {
        while let Some(sender) = self.retired.pop() {
            if let Err(Some(sender)) = self.try_retire(sender) {
                self.retired.push(sender);
                break;
            }
        }
        while let Some(update) = self.updates.try_recv() {
            match update {
                Update::Open {
                    link,
                    serial,
                    sender,
                } => {
                    self.forget(link);
                    if let Some(place) = self.serials.get_mut(usize::from(link)) {
                        *place = serial;
                    }
                    return Some(Change::Open { link, sender });
                }
                Update::Way { number, host, way } => self.set(number, host, way),
            }
        }
        None
    }

    /// `sender` has come to its end, and `link` with it: its packets leave through the kernel until there is another.
    pub fn close(&mut self, link: u8, sender: Box<LinkSender>, error: io::Error) {
        self.forget(link);
        let serial = self.serials.get(usize::from(link)).copied().unwrap_or(0);
        // Where that has no room, the service goes on to tell ways by a link that there is none of: they lead through the kernel.
        let _ = self.ask(Request::Failed {
            link,
            serial,
            error,
        });
        self.retire(sender);
    }

    /// `sender` has been replaced.
    pub fn retire(&mut self, sender: Box<LinkSender>) {
        if let Err(Some(sender)) = self.try_retire(sender) {
            self.retired.push(sender);
        }
    }

    fn try_retire(&self, sender: Box<LinkSender>) -> Result<(), Option<Box<LinkSender>>> {
        let sent = self
            .requests
            .try_send((self.thread, Request::Retire(sender)));
        sent.map_err(|Full((_, request))| match request {
            Request::Retire(sender) => Some(sender),
            _ => None,
        })
    }

    /// No way leads by `link` any more.
    fn forget(&mut self, link: u8) {
        for entry in self.ways.iter_mut().filter(|entry| entry.link == link) {
            *entry = Entry::NONE;
        }
    }

    fn add(&mut self, local: IpAddr, host: IpAddr) -> Option<u16> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.hosts.len() < HOSTS => {
                self.hosts.push(None);
                self.ways.push(Entry::NONE);
                (self.hosts.len() - 1) as u16
            }
            None => return None,
        };
        let request = Request::Follow {
            number,
            local,
            host,
        };
        let place = self.hosts.get_mut(usize::from(number))?;
        if self.requests.try_send((self.thread, request)).is_err() {
            self.free.push(number);
            return None;
        }
        *place = Some(Host {
            address: host,
            flows: 0,
        });
        self.numbers.insert(host, number);
        Some(number)
    }

    fn remove(&mut self, number: u16) {
        let place = self.hosts.get_mut(usize::from(number));
        if let Some(host) = place.and_then(Option::take) {
            self.numbers.remove(&host.address);
            self.free.push(number);
        }
        if let Some(entry) = self.ways.get_mut(usize::from(number)) {
            *entry = Entry::NONE;
        }
    }

    fn set(&mut self, number: u16, host: IpAddr, way: Option<Way>) {
        let known = self.hosts.get(usize::from(number));
        // The number may have become another's meanwhile.
        if !known.is_some_and(|known| known.is_some_and(|known| known.address == host)) {
            return;
        }
        if let Some(entry) = self.ways.get_mut(usize::from(number)) {
            *entry = match way {
                Some(Way { header, link }) if usize::from(link) < LINKS => Entry { header, link },
                _ => Entry::NONE,
            };
        }
    }

    fn ask(&self, request: Request) -> Result<(), Full<()>> {
        let sent = self.requests.try_send((self.thread, request));
        sent.map_err(|Full(_)| Full(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::bounded;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn host(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn way(last: u8) -> Way {
        Way {
            header: [last; 14],
            link: 1,
        }
    }

    struct Bench {
        table: WayTable,
        requests: Receiver<(usize, Request)>,
        updates: Sender<Update>,
    }

    impl Bench {
        fn new(room: usize) -> Bench {
            let (sender, requests) = bounded(room).unwrap();
            let (updates, receiver) = bounded(16).unwrap();
            Bench {
                table: WayTable::new(7, sender, receiver),
                requests,
                updates,
            }
        }

        fn asked(&self) -> Option<String> {
            let (thread, request) = self.requests.try_recv()?;
            assert_eq!(thread, 7);
            Some(match request {
                Request::Follow { number, host, .. } => format!("follow {number} {host}"),
                Request::Forget { number } => format!("forget {number}"),
                other => format!("{other:?}"),
            })
        }

        fn tell(&mut self, number: u16, host: IpAddr, way: Option<Way>) {
            self.updates
                .try_send(Update::Way { number, host, way })
                .unwrap();
            assert!(self.table.update().is_none());
        }
    }

    #[test]
    fn flows_to_one_host_share_its_number_until_the_last_is_gone() {
        let mut bench = Bench::new(16);
        for slot in [3, 9] {
            bench.table.follow(slot, LOCAL, host(10));
        }
        assert_eq!(bench.asked().unwrap(), "follow 0 192.0.2.10");
        assert_eq!(bench.asked(), None);
        assert_eq!(bench.table.way(3), None);
        bench.tell(0, host(10), Some(way(1)));
        assert_eq!(bench.table.way(3), Some(way(1)));
        assert_eq!(bench.table.way(9), Some(way(1)));
        assert_eq!(bench.table.way(4), None);
        bench.table.leave(3);
        assert_eq!(bench.table.way(3), None);
        assert_eq!(bench.table.way(9), Some(way(1)));
        assert_eq!(bench.asked(), None);
        bench.table.leave(9);
        assert_eq!(bench.asked().unwrap(), "forget 0");
        bench.table.follow(9, LOCAL, host(20));
        assert_eq!(bench.asked().unwrap(), "follow 0 192.0.2.20");
        // A number does not bring the way of whoever had it.
        assert_eq!(bench.table.way(9), None);
    }

    #[test]
    fn a_way_that_was_meant_for_another_host_is_not_taken() {
        let mut bench = Bench::new(16);
        bench.table.follow(1, LOCAL, host(10));
        bench.table.follow(1, LOCAL, host(20));
        bench.tell(0, host(10), Some(way(1)));
        assert_eq!(bench.table.way(1), None);
        bench.tell(0, host(20), Some(way(2)));
        assert_eq!(bench.table.way(1), Some(way(2)));
        bench.tell(0, host(20), None);
        assert_eq!(bench.table.way(1), None);
        // Nonsense of the service is none of the packets'.
        let link = LINKS as u8;
        bench.tell(0, host(20), Some(Way { link, ..way(2) }));
        assert_eq!(bench.table.way(1), None);
        bench.tell(9, host(20), Some(way(2)));
    }

    #[test]
    fn a_service_that_does_not_listen_costs_the_way_alone() {
        let mut bench = Bench::new(1);
        bench.table.follow(1, LOCAL, host(10));
        bench.table.follow(2, LOCAL, host(20));
        assert_eq!(bench.table.way(2), None);
        assert_eq!(bench.asked().unwrap(), "follow 0 192.0.2.10");
        bench.table.follow(2, LOCAL, host(20));
        assert_eq!(bench.asked().unwrap(), "follow 1 192.0.2.20");
        // The request to forget the first finds no room: its number stays its own.
        bench.table.follow(3, LOCAL, host(30));
        bench.table.leave(1);
        assert_eq!(bench.asked().unwrap(), "follow 2 192.0.2.30");
        bench.table.follow(1, LOCAL, host(10));
        assert_eq!(bench.asked(), None);
        bench.tell(0, host(10), Some(way(1)));
        assert_eq!(bench.table.way(1), Some(way(1)));
    }

    #[test]
    fn there_is_a_limit_of_hosts() {
        let mut bench = Bench::new(1 << 16);
        for number in 0..HOSTS + 10 {
            let host = IpAddr::from([10, 0, (number >> 8) as u8, number as u8]);
            bench.table.follow(number as u32, LOCAL, host);
        }
        let asked = std::iter::from_fn(|| bench.asked()).count();
        assert_eq!(asked, HOSTS);
        assert_eq!(bench.table.flows[HOSTS - 1], HOSTS as u16);
        assert_eq!(bench.table.flows[HOSTS], 0);
    }
}
