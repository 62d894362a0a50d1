//! Who else on this host has a say in packets that leave by an interface, or wants to see them: what is handed to the interface past
//! the kernel's IP passes all of them by.
//!
//! - Captures: packet(7) sockets for all protocols see what leaves, too.
//! - Netfilter: hooks on the way of what the host itself sends, and at an interface's egress ([`Hook`]).
//! - Traffic control: a queueing discipline that holds packets back, orders or filters them (tc(8)), and programs at tcx.
//! - The control group of the process: programs that count or drop what its sockets send ([`cgroup`]).
//!
//! IPsec policies are [`crate::media::ipsec`]'s.

use super::cgroup;
use super::interface::Link;
pub use super::netfilter::Hook;
use super::netfilter::Netfilter;
use super::netlink::{Channel, attribute, name, payload};
use aya::programs::{ProgramError, SchedClassifier, tc::TcAttachType};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcHandle, TcHeader, TcMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use thiserror::Error;

/// The packet sockets of the thread's network namespace (packet_seq_show, net/packet/af_packet.c).
const CAPTURES: &str = "/proc/thread-self/net/packet";
/// `ETH_P_ALL` (linux/if_ether.h).
const ALL_PROTOCOLS: u16 = 3;

/// Queueing disciplines that do no more than queue: what comes while the interface has room leaves at once.
const QUEUES: [&str; 5] = ["noqueue", "pfifo_fast", "fq_codel", "fq", "mq"];
/// Where a discipline would be that only filters: both ways (`clsact`), or what comes in (`ingress`).
const FILTERS: TcHandle = TcHandle::CLSACT;
const FILTERS_WHAT_COMES_IN: &str = "ingress";

/// Octets of a `struct tcmsg`, and an attribute after it (linux/rtnetlink.h).
const TC_HEADER: usize = 20;
const TCA_KIND: u16 = 1;

/// Who it is that packets have to go through the kernel's IP for.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Bystander {
    #[error(
        "a packet socket (inode {inode}, user {user}; `ss -0p` tells whose) sees all that leaves"
    )]
    Capture { inode: String, user: String },
    #[error("netfilter: {0}")]
    Netfilter(Hook),
    #[error("traffic control: {interface} has the queueing discipline {kind}")]
    Discipline { interface: String, kind: String },
    #[error("traffic control: {interface} has no queueing discipline, as while it is down")]
    NoDiscipline { interface: String },
    #[error("traffic control: {interface} has {programs} programs at its egress (tcx)")]
    Programs { interface: String, programs: usize },
    #[error("{programs} programs see what the control group {group} sends")]
    ControlGroup { group: String, programs: u32 },
    #[error("there may be somebody: {what}: {why}")]
    Unknown { what: &'static str, why: String },
}

impl Bystander {
    pub(super) fn unknown<E: Display>(what: &'static str) -> impl FnOnce(E) -> Bystander {
        move |why| Bystander::Unknown {
            what,
            why: why.to_string(),
        }
    }
}

/// Looks, in the network namespace of the thread that opened it, which has to be the one that looks. Needs CAP_NET_ADMIN.
pub struct Bystanders {
    route: Channel,
    netfilter: Netfilter,
}

impl Bystanders {
    pub fn open() -> io::Result<Bystanders> {
        Ok(Bystanders {
            route: Channel::open(NETLINK_ROUTE)?,
            netfilter: Netfilter::open()?,
        })
    }

    /// Somebody who has a say in what leaves by an interface from an address of the family of `local`. `None`: nobody. What cannot be
    /// found out counts as somebody.
    pub fn look(&mut self, interface: u32, local: IpAddr) -> Option<Bystander> {
        self.find(interface, local).err()
    }

    fn find(&mut self, interface: u32, local: IpAddr) -> Result<(), Bystander> {
        let sockets = std::fs::read(CAPTURES).map_err(Bystander::unknown(CAPTURES))?;
        captures(&String::from_utf8_lossy(&sockets), interface)?;
        let link = Link::ask(&mut self.route, interface);
        let link = link.map_err(Bystander::unknown("the interface"))?;
        let gone = || Bystander::unknown("the interface")("it is gone");
        let device = link.ok_or_else(gone)?.name;
        self.disciplines(interface, &device)?;
        programs(&device)?;
        control_group()?;
        self.netfilter.look(&device, local)
    }

    fn disciplines(&mut self, interface: u32, device: &str) -> Result<(), Bystander> {
        let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let told = self
            .route
            .dump(request.message_type(), &payload(&request), |answer| {
                Discipline::read(answer, interface)
            });
        judge(
            &told.map_err(Bystander::unknown("queueing disciplines"))?,
            device,
        )
    }
}

/// The first packet socket in the text of [`CAPTURES`] that sees what leaves by an interface: it is for all protocols, and for this
/// interface or all of them (0). One that nobody can read counts.
fn captures(text: &str, interface: u32) -> Result<(), Bystander> {
    // sk RefCnt Type Proto Iface R Rmem User Inode
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, _, _, protocol, at, _, _, user, inode] = fields.as_slice() else {
            return Err(Bystander::unknown(CAPTURES)(format!("{line:?}")));
        };
        let protocol = u16::from_str_radix(protocol, 16);
        let at = at.parse::<u32>();
        let (Ok(protocol), Ok(at)) = (protocol, at) else {
            return Err(Bystander::unknown(CAPTURES)(format!("{line:?}")));
        };
        if protocol == ALL_PROTOCOLS && (at == 0 || at == interface) {
            return Err(Bystander::Capture {
                inode: (*inode).to_owned(),
                user: (*user).to_owned(),
            });
        }
    }
    Ok(())
}

/// A queueing discipline of the interface in question.
#[derive(Debug)]
struct Discipline {
    parent: TcHandle,
    kind: String,
}

impl Discipline {
    /// `None`: another interface's. Its options are its own, and are not looked at.
    fn read(payload: &[u8], interface: u32) -> Option<Discipline> {
        let header = TcHeader::parse(payload).ok()?;
        (header.index.cast_unsigned() == interface).then(|| {
            let kind = payload.get(TC_HEADER..);
            let kind = kind.and_then(|attributes| attribute(attributes, TCA_KIND));
            Discipline {
                parent: header.parent,
                kind: kind.map(name).unwrap_or_default(),
            }
        })
    }
}

/// All disciplines of an interface are queues: the root, and where that is `mq` each of its own.
fn judge(disciplines: &[Discipline], device: &str) -> Result<(), Bystander> {
    let interface = device.to_owned();
    let stranger = disciplines.iter().find(|discipline| {
        let kind = discipline.kind.as_str();
        match discipline.parent {
            FILTERS => kind != FILTERS_WHAT_COMES_IN,
            _ => !QUEUES.contains(&kind),
        }
    });
    if let Some(Discipline { kind, .. }) = stranger {
        let kind = kind.clone();
        return Err(Bystander::Discipline { interface, kind });
    }
    match disciplines.iter().any(|d| d.parent == TcHandle::ROOT) {
        true => Ok(()),
        false => Err(Bystander::NoDiscipline { interface }),
    }
}

/// BPF programs that a packet meets before its interface sends it. A kernel before 6.6 has none such; those of the `clsact` discipline are another
/// matter.
fn programs(device: &str) -> Result<(), Bystander> {
    match SchedClassifier::query_tcx(device, TcAttachType::Egress) {
        Ok((_, programs)) if programs.is_empty() => Ok(()),
        Ok((_, programs)) => Err(Bystander::Programs {
            interface: device.to_owned(),
            programs: programs.len(),
        }),
        Err(ProgramError::SyscallError(error))
            if error.call == "bpf_prog_query"
                && error.io_error.raw_os_error() == Some(libc::EINVAL) =>
        {
            Ok(())
        }
        // They exist, and only CAP_SYS_ADMIN may know which: or they may not be asked for.
        Err(error) => Err(Bystander::unknown(
            "programs at the interface's egress (tcx)",
        )(error)),
    }
}

/// The programs of the thread's control group: that of all the process's sockets, unless somebody has moved it meanwhile.
fn control_group() -> Result<(), Bystander> {
    const WHAT: &str = "programs of the control group";
    let Some(group) = cgroup::own().map_err(Bystander::unknown(WHAT))? else {
        return Ok(());
    };
    match cgroup::egress_programs(&group).map_err(Bystander::unknown(WHAT))? {
        0 => Ok(()),
        programs => Err(Bystander::ControlGroup {
            group: group.display().to_string(),
            programs,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n";

    fn line(protocol: &str, interface: &str) -> String {
        format!("0000000000000000 3      3    {protocol}   {interface}     1 0      104    20017\n")
    }

    #[test]
    fn captures_are_sockets_for_all_protocols_here_or_everywhere() {
        let look = |lines: &[String]| captures(&format!("{HEAD}{}", lines.concat()), 7);
        assert_eq!(look(&[]), Ok(()));
        assert_eq!(captures("", 7), Ok(()));
        // ARP, EAPOL, none yet, and everything of other interfaces.
        let harmless = ["0806", "888e", "0000", "0800"].map(|protocol| line(protocol, "7"));
        assert_eq!(look(&harmless), Ok(()));
        assert_eq!(look(&[line("0003", "8"), line("0003", "77")]), Ok(()));
        let capture = Err(Bystander::Capture {
            inode: "20017".to_owned(),
            user: "104".to_owned(),
        });
        for interface in ["7", "0"] {
            let mut lines = harmless.to_vec();
            lines.push(line("0003", interface));
            assert_eq!(look(&lines), capture);
        }
    }

    #[test]
    fn a_socket_that_nobody_can_read_counts() {
        let odd = [
            "one two three".to_owned(),
            String::from(" "),
            line("0003", "-1"),
            line("wxyz", "7"),
            line("10003", "7"),
            line("0003", "99999999999"),
            line("0800", "7").replace('\n', " more\n"),
        ];
        for odd in odd {
            let text = format!("{HEAD}{odd}");
            let found = captures(&text, 7);
            assert!(
                matches!(found, Err(Bystander::Unknown { .. })),
                "{odd:?}: {found:?}"
            );
        }
    }

    fn discipline(parent: TcHandle, kind: &str) -> Discipline {
        let kind = kind.to_owned();
        Discipline { parent, kind }
    }

    #[test]
    fn disciplines_that_only_queue_are_nobody() {
        let child = |minor| TcHandle { major: 0, minor };
        let root = |kind| discipline(TcHandle::ROOT, kind);
        let verdict = |disciplines: &[Discipline]| match judge(disciplines, "edge0") {
            Ok(()) => "nobody".to_owned(),
            Err(Bystander::Discipline { kind, .. }) => kind,
            Err(Bystander::NoDiscipline { .. }) => "none".to_owned(),
            Err(other) => panic!("{other}"),
        };
        for kind in QUEUES {
            assert_eq!(verdict(&[root(kind)]), "nobody");
            assert_eq!(
                verdict(&[discipline(TcHandle::INGRESS, "ingress"), root(kind)]),
                "nobody"
            );
            assert_eq!(
                verdict(&[root(kind), discipline(FILTERS, "clsact")]),
                "clsact"
            );
            assert_eq!(
                verdict(&[
                    root("mq"),
                    discipline(child(1), kind),
                    discipline(child(2), "htb")
                ]),
                "htb"
            );
        }
        assert_eq!(
            verdict(&[
                root("mq"),
                discipline(child(1), "fq"),
                discipline(child(2), "fq_codel")
            ]),
            "nobody"
        );
        for kind in ["tbf", "htb", "netem", "prio", "cake", "", "FQ"] {
            assert_eq!(verdict(&[root(kind)]), kind);
        }
        assert_eq!(verdict(&[]), "none");
        assert_eq!(verdict(&[discipline(TcHandle::INGRESS, "ingress")]), "none");
    }

    #[test]
    fn a_discipline_is_read_whatever_its_options() {
        let mut octets = vec![0, 0, 0, 0];
        octets.extend(7i32.to_ne_bytes());
        octets.extend([0; 4]);
        octets.extend(u32::MAX.to_ne_bytes());
        octets.extend([0; 4]);
        octets.extend([8, 0, 1, 0]);
        octets.extend(b"tbf\0");
        octets.extend([5, 0, 2, 0, 0xff]);
        let read = Discipline::read(&octets, 7).unwrap();
        assert_eq!((read.parent, read.kind.as_str()), (TcHandle::ROOT, "tbf"));
        assert!(Discipline::read(&octets, 8).is_none());
        // Cut off, it is no queue.
        assert_eq!(Discipline::read(&octets[..22], 7).unwrap().kind, "");
    }

    proptest! {
        #[test]
        fn anything_may_be_in_the_list_of_sockets(text in ".{0,200}", octets in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = captures(&text, 7);
            let _ = captures(&format!("{HEAD}{text}"), 7);
            let _ = Discipline::read(&octets, 7);
        }
    }
}
