//! Netfilter's hooks on the way of what this host sends: `LOCAL_OUT` and `POST_ROUTING` of a family, and the egress of an interface.
//!
//! The kernel lists them since 5.14, where it is built to (`CONFIG_NETFILTER_NETLINK_HOOK`, as distributions' kernels are). Else the two users that
//! nearly all hooks are of are asked: nf_tables for its base chains, and the older ip_tables for its tables. What hooks on its own account then
//! goes unseen, as IPVS and BPF programs do; connection tracking only comes with rules of the two.

use super::bystanders::Bystander;
use super::netlink::{Channel, attribute, name};
use libc::{
    NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NF_NETDEV_EGRESS, NFNL_SUBSYS_HOOK,
    NFNL_SUBSYS_NFTABLES, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_NETDEV,
    NFT_MSG_GETCHAIN,
};
use netlink_packet_core::{DefaultNla, Emitable as _};
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::io;
use std::net::IpAddr;
use thiserror::Error;

/// Octets of a `struct nfgenmsg` (linux/netfilter/nfnetlink.h).
const HEADER: usize = 4;

/// linux/netfilter/nfnetlink_hook.h.
const GET_HOOKS: i32 = 0;
const HOOK_NUMBER: u16 = 1;
const HOOK_DEVICE: u16 = 3;
const HOOK_FUNCTION: u16 = 4;
const HOOK_CHAIN: u16 = 6;
const CHAIN_DESCRIPTION: u16 = 1;
const DESCRIBED_TABLE: u16 = 1;
const DESCRIBED_CHAIN: u16 = 3;

/// linux/netfilter/nf_tables.h.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_HOOK_NUMBER: u16 = 1;

/// The tables of ip_tables and ip6_tables in use in the thread's network namespace, a line each. Root's alone to read.
const TABLES: [&str; 2] = [
    "/proc/thread-self/net/ip_tables_names",
    "/proc/thread-self/net/ip6_tables_names",
];

/// What is there on every host with AppArmor, and only judges packets that are marked (`SECMARK`): rules mark them, which are found themselves
/// (apparmor_ip_postroute, security/apparmor/lsm.c).
const HARMLESS: [&str; 1] = ["apparmor_ip_postroute"];

/// Somebody's hook.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Hook {
    /// As the kernel names it.
    #[error("{function} at {place}")]
    Function {
        function: String,
        place: &'static str,
    },
    /// A base chain of nf_tables.
    #[error("chain {chain:?} of table {table:?} at {place}")]
    Chain {
        table: String,
        chain: String,
        place: &'static str,
    },
    /// Of ip_tables or ip6_tables: it has rules for what leaves, or may be given some at any moment.
    #[error("table {0:?} of iptables")]
    Table(String),
}

/// Where a hook may be: the numbers of its family and place, and the place's name.
const LOCAL_OUT: (i32, &str) = (NF_INET_LOCAL_OUT, "LOCAL_OUT");
const POST_ROUTING: (i32, &str) = (NF_INET_POST_ROUTING, "POST_ROUTING");
const EGRESS: (i32, &str) = (NF_NETDEV_EGRESS, "the interface's egress");

pub struct Netfilter {
    /// None: the kernel has no such sockets.
    channel: Option<Channel>,
    /// Whether the kernel lists its hooks. Where it does not, each question would have it look for a module that does.
    lists: bool,
}

impl Netfilter {
    pub fn open() -> io::Result<Netfilter> {
        let channel = match Channel::open(NETLINK_NETFILTER) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => None,
            channel => Some(channel?),
        };
        Ok(Netfilter {
            lists: channel.is_some(),
            channel,
        })
    }

    /// The error is somebody whose hook packets from an address of the family of `local` meet on their way to an interface.
    pub fn look(&mut self, device: &str, local: IpAddr) -> Result<(), Bystander> {
        if let Some(channel) = &mut self.channel {
            self.lists = self.lists && hooks(channel, device, local)?;
            if self.lists {
                return Ok(());
            }
            chains(channel, local)?;
        }
        let [ipv4, ipv6] = TABLES;
        let path = if local.is_ipv4() { ipv4 } else { ipv6 };
        tables(std::fs::read(path)).map_err(|error| match error {
            Ok(hook) => Bystander::Netfilter(hook),
            Err(error) => Bystander::unknown(path)(error),
        })
    }
}

fn family(local: IpAddr) -> i32 {
    match local {
        IpAddr::V4(_) => NFPROTO_IPV4,
        IpAddr::V6(_) => NFPROTO_IPV6,
    }
}

/// The kernel's own list of hooks. False: it keeps none.
fn hooks(channel: &mut Channel, device: &str, local: IpAddr) -> Result<bool, Bystander> {
    let places = [
        (family(local), LOCAL_OUT, None),
        (family(local), POST_ROUTING, None),
        // Hooks of nf_tables' family inet are in both of the others.
        (NFPROTO_NETDEV, EGRESS, Some(device)),
    ];
    for (family, (number, place), device) in places {
        let mut request = header(family);
        let number = number.to_be_bytes().to_vec();
        push(&mut request, HOOK_NUMBER, number);
        if let Some(device) = device {
            let device = [device.as_bytes(), &[0]].concat();
            push(&mut request, HOOK_DEVICE, device);
        }
        let kind = kind(NFNL_SUBSYS_HOOK, GET_HOOKS);
        let told = channel.dump(kind, &request, |answer| hook(answer, place));
        match told.map(|hooks| hooks.into_iter().next()) {
            Ok(Some(hook)) => return Err(Bystander::Netfilter(hook)),
            Ok(None) => {}
            Err(error) => match error.raw_os_error() {
                // No such subsystem (nfnetlink_rcv_msg).
                Some(libc::EINVAL) => return Ok(false),
                // No such place.
                Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => {}
                _ => return Err(Bystander::unknown("netfilter's hooks")(error)),
            },
        }
    }
    Ok(true)
}

/// What the kernel tells of one hook, unless it does nothing to packets that no other one has marked.
fn hook(answer: &[u8], place: &'static str) -> Option<Hook> {
    let attributes = answer.get(HEADER..).unwrap_or_default();
    let function = attribute(attributes, HOOK_FUNCTION).map(name);
    // Without CONFIG_KALLSYMS it has no name.
    let function = function.unwrap_or_else(|| "a function".to_owned());
    if HARMLESS.contains(&function.as_str()) {
        return None;
    }
    let chain = attribute(attributes, HOOK_CHAIN)
        .and_then(|chain| attribute(chain, CHAIN_DESCRIPTION))
        .and_then(|description| {
            Some(Hook::Chain {
                table: name(attribute(description, DESCRIBED_TABLE)?),
                chain: name(attribute(description, DESCRIBED_CHAIN)?),
                place,
            })
        });
    Some(chain.unwrap_or(Hook::Function { function, place }))
}

/// The base chains of nf_tables. A kernel without has none.
fn chains(channel: &mut Channel, local: IpAddr) -> Result<(), Bystander> {
    const EVERY_FAMILY: i32 = 0;
    let own = family(local);
    let kind = kind(NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN);
    let told = channel.dump(kind, &header(EVERY_FAMILY), |answer| chain(answer, own));
    match told.map(|hooks| hooks.into_iter().next()) {
        Ok(Some(hook)) => Err(Bystander::Netfilter(hook)),
        Ok(None) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        Err(error) => Err(Bystander::unknown("the chains of nf_tables")(error)),
    }
}

/// What nf_tables tells of one chain, if packets of a family that leave come by it. An egress chain may name other interfaces alone; that is
/// not looked at.
fn chain(answer: &[u8], own: i32) -> Option<Hook> {
    let family = i32::from(*answer.first()?);
    let attributes = answer.get(HEADER..)?;
    // Other chains are only jumped to.
    let hook = attribute(attributes, CHAIN_HOOK)?;
    let number = attribute(hook, CHAIN_HOOK_NUMBER)?.try_into().ok()?;
    let number = i32::from_be_bytes(number);
    let places: &[_] = match family {
        NFPROTO_INET => &[LOCAL_OUT, POST_ROUTING],
        family if family == own => &[LOCAL_OUT, POST_ROUTING],
        NFPROTO_NETDEV => &[EGRESS],
        _ => &[],
    };
    let (_, place) = places.iter().find(|(place, _)| *place == number)?;
    let text = |kind| attribute(attributes, kind).map(name).unwrap_or_default();
    Some(Hook::Chain {
        table: text(CHAIN_TABLE),
        chain: text(CHAIN_NAME),
        place,
    })
}

/// The first table in the text of one of [`TABLES`]: each has a chain for what leaves. No file: this kernel has no such tables.
fn tables(text: io::Result<Vec<u8>>) -> Result<(), Result<Hook, io::Error>> {
    let text = match text {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(Err)?,
    };
    let text = String::from_utf8_lossy(&text);
    match text.lines().map(str::trim).find(|name| !name.is_empty()) {
        Some(name) => Err(Ok(Hook::Table(name.to_owned()))),
        None => Ok(()),
    }
}

/// The type of a message to a subsystem of netfilter's.
fn kind(subsystem: i32, message: i32) -> u16 {
    (subsystem << 8 | message) as u16
}

/// What precedes the attributes: the family; version and resource are zero.
fn header(family: i32) -> Vec<u8> {
    vec![family as u8, 0, 0, 0]
}

fn push(request: &mut Vec<u8>, kind: u16, value: Vec<u8>) {
    let attribute = DefaultNla::new(kind, value);
    let start = request.len();
    request.resize(start + attribute.buffer_len(), 0);
    if let Some(room) = request.get_mut(start..) {
        attribute.emit(room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attributes(family: i32, all: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut octets = header(family);
        for (kind, value) in all {
            push(&mut octets, *kind, value.clone());
        }
        octets
    }

    fn nested(all: &[(u16, Vec<u8>)]) -> Vec<u8> {
        attributes(0, all).split_off(HEADER)
    }

    #[test]
    fn a_hook_is_named_by_its_chain_or_else_its_function() {
        let function = (HOOK_FUNCTION, b"ipv4_conntrack_local\0".to_vec());
        let text = |answer: &[u8]| hook(answer, "LOCAL_OUT").map(|hook| hook.to_string());
        let answer = attributes(NFPROTO_IPV4, std::slice::from_ref(&function));
        let named = text(&answer);
        assert_eq!(named.as_deref(), Some("ipv4_conntrack_local at LOCAL_OUT"));
        let description = nested(&[
            (DESCRIBED_TABLE, b"filter\0".to_vec()),
            (DESCRIBED_CHAIN, b"output\0".to_vec()),
        ]);
        let chain = (HOOK_CHAIN, nested(&[(CHAIN_DESCRIPTION, description)]));
        let answer = attributes(NFPROTO_IPV4, &[function, chain]);
        let named = text(&answer);
        let expected = r#"chain "output" of table "filter" at LOCAL_OUT"#;
        assert_eq!(named.as_deref(), Some(expected));
        assert_eq!(text(&[]).as_deref(), Some("a function at LOCAL_OUT"));
        let harmless = (HOOK_FUNCTION, b"apparmor_ip_postroute\0".to_vec());
        assert_eq!(text(&attributes(NFPROTO_IPV4, &[harmless])), None);
    }

    #[test]
    fn chains_count_where_what_leaves_comes_by() {
        let base = |family, number: i32| {
            let hook = nested(&[(CHAIN_HOOK_NUMBER, number.to_be_bytes().to_vec())]);
            let names = [
                (CHAIN_TABLE, b"t\0".to_vec()),
                (CHAIN_NAME, b"c\0".to_vec()),
            ];
            attributes(family, &[names.as_slice(), &[(CHAIN_HOOK, hook)]].concat())
        };
        // prerouting, input, forward; netdev: ingress
        for number in 0..3 {
            assert_eq!(chain(&base(NFPROTO_INET, number), NFPROTO_IPV4), None);
        }
        assert_eq!(chain(&base(NFPROTO_NETDEV, 0), NFPROTO_IPV4), None);
        for (number, place) in [LOCAL_OUT, POST_ROUTING] {
            for (family, own) in [
                (NFPROTO_INET, NFPROTO_IPV4),
                (NFPROTO_IPV4, NFPROTO_IPV4),
                (NFPROTO_IPV6, NFPROTO_IPV6),
            ] {
                let expected = Hook::Chain {
                    table: "t".to_owned(),
                    chain: "c".to_owned(),
                    place,
                };
                assert_eq!(chain(&base(family, number), own), Some(expected));
            }
            assert_eq!(chain(&base(NFPROTO_IPV6, number), NFPROTO_IPV4), None);
            assert_eq!(chain(&base(NFPROTO_IPV4, number), NFPROTO_IPV6), None);
        }
        assert!(chain(&base(NFPROTO_NETDEV, EGRESS.0), NFPROTO_IPV4).is_some());
        // Not a base chain.
        assert_eq!(
            chain(
                &attributes(NFPROTO_INET, &[(CHAIN_NAME, b"c\0".to_vec())]),
                NFPROTO_IPV4
            ),
            None
        );
    }

    #[test]
    fn a_table_of_iptables_counts_and_a_list_that_cannot_be_read() {
        let look = |text: &[u8]| match tables(Ok(text.to_vec())) {
            Ok(()) => None,
            Err(Ok(hook)) => Some(hook.to_string()),
            Err(Err(error)) => panic!("{error}"),
        };
        assert_eq!(look(b""), None);
        assert_eq!(look(b"\n \n"), None);
        assert_eq!(
            look(b"nat\nfilter\n").unwrap(),
            r#"table "nat" of iptables"#
        );
        assert!(look(b"\xff\n").is_some());
        assert!(tables(Err(io::ErrorKind::NotFound.into())).is_ok());
        let denied = tables(Err(io::ErrorKind::PermissionDenied.into()));
        assert!(matches!(denied, Err(Err(_))));
    }

    proptest! {
        #[test]
        fn anything_may_be_answered(octets in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = hook(&octets, "LOCAL_OUT");
            let _ = chain(&octets, NFPROTO_IPV4);
        }
    }
}
