//! The maps as the XDP object describes them (its BTF) and as the daemon writes them are the same, byte for byte.

use sip_edge::access::OBJECT;
use sip_edge::access::layout::*;
use sip_edge::media::{steered, steering};
use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap()
}

fn text(bytes: &[u8], at: u32) -> &str {
    let rest = &bytes[usize::try_from(at).unwrap()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap();
    str::from_utf8(&rest[..end]).unwrap()
}

/// A section of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], name: &str) -> &'a [u8] {
    let headers = u64_at(elf, 0x28);
    let size = usize::from(u16_at(elf, 0x3a));
    let count = usize::from(u16_at(elf, 0x3c));
    let header = |n: usize| &elf[headers + n * size..headers + (n + 1) * size];
    let content = |header: &[u8]| {
        let start = u64_at(header, 0x18);
        &elf[start..start + u64_at(header, 0x20)]
    };
    let names = content(header(usize::from(u16_at(elf, 0x3e))));
    (0..count)
        .map(header)
        .find(|header| text(names, u32_at(header, 0)) == name)
        .map(content)
        .unwrap_or_else(|| panic!("no section {name}"))
}

/// One type of the BTF.
struct Type<'a> {
    name: &'a str,
    kind: u32,
    /// Size in bytes, or the type that this one refers to.
    size_or_type: u32,
    /// (name, type, bit offset) of a struct's members, (name, value, 0) of an enum's.
    members: Vec<(&'a str, u32, u32)>,
    /// (element type, elements) of an array.
    array: (u32, u32),
}

struct Btf<'a>(Vec<Type<'a>>);

impl<'a> Btf<'a> {
    fn parse(section: &'a [u8]) -> Btf<'a> {
        assert_eq!(u16_at(section, 0), 0xeb9f, "BTF magic");
        let header = u32_at(section, 4) as usize;
        let (type_start, type_bytes) = (u32_at(section, 8) as usize, u32_at(section, 12) as usize);
        let types = &section[header + type_start..header + type_start + type_bytes];
        let strings = &section[header + u32_at(section, 16) as usize..];
        // Type 0 is void.
        let mut all = vec![Type {
            name: "void",
            kind: 0,
            size_or_type: 0,
            members: Vec::new(),
            array: (0, 0),
        }];
        let mut at = 0;
        while at < types.len() {
            let info = u32_at(types, at + 4);
            let (kind, entries) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
            let mut found = Type {
                name: text(strings, u32_at(types, at)),
                kind,
                size_or_type: u32_at(types, at + 8),
                members: Vec::new(),
                array: (0, 0),
            };
            at += 12;
            let word = |n: usize| u32_at(types, at + 4 * n);
            let words = match kind {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 1,
                KIND_ARRAY => {
                    found.array = (word(0), word(2));
                    3
                }
                KIND_STRUCT | KIND_UNION => {
                    for n in 0..entries {
                        let name = text(strings, word(3 * n));
                        found.members.push((name, word(3 * n + 1), word(3 * n + 2)));
                    }
                    3 * entries
                }
                KIND_ENUM => {
                    for n in 0..entries {
                        found
                            .members
                            .push((text(strings, word(2 * n)), word(2 * n + 1), 0));
                    }
                    2 * entries
                }
                KIND_DATASEC | KIND_ENUM64 => 3 * entries,
                KIND_FUNC_PROTO => 2 * entries,
                _ => 0,
            };
            at += 4 * words;
            all.push(found);
        }
        Btf(all)
    }

    fn named(&self, kind: u32, name: &str) -> &Type<'a> {
        let mut found = self.0.iter().filter(|t| t.kind == kind && t.name == name);
        let first = found.next();
        first.unwrap_or_else(|| panic!("the object's BTF has no {name}"))
    }

    fn get(&self, id: u32) -> &Type<'a> {
        &self.0[id as usize]
    }

    fn size(&self, id: u32) -> u32 {
        let found = self.get(id);
        match found.kind {
            KIND_INT | KIND_STRUCT | KIND_UNION | KIND_ENUM => found.size_or_type,
            KIND_TYPEDEF => self.size(found.size_or_type),
            KIND_ARRAY => self.size(found.array.0) * found.array.1,
            other => panic!("a member of kind {other}"),
        }
    }

    /// (offset, size) in bytes of each member.
    fn members(&self, name: &str) -> BTreeMap<&str, (usize, usize)> {
        let found = self.named(KIND_STRUCT, name);
        let members = found.members.iter().map(|&(member, id, bits)| {
            assert_eq!(bits % 8, 0);
            (member, (bits as usize / 8, self.size(id) as usize))
        });
        members.collect()
    }

    /// A `__uint` attribute of a map: a pointer to an array of so many.
    fn map_number(&self, map: &str, attribute: &str) -> Option<u32> {
        let definition = self.get(self.named(KIND_VAR, map).size_or_type);
        let &(_, pointer, _) = definition.members.iter().find(|m| m.0 == attribute)?;
        let pointer = self.get(pointer);
        assert_eq!(pointer.kind, KIND_PTR);
        Some(self.get(pointer.size_or_type).array.1)
    }

    /// The struct that is a map's key or value.
    fn map_struct(&self, map: &str, which: &str) -> &str {
        let definition = self.get(self.named(KIND_VAR, map).size_or_type);
        let (_, pointer, _) = *definition.members.iter().find(|m| m.0 == which).unwrap();
        self.get(self.get(pointer).size_or_type).name
    }
}

/// Compares a struct of the object with one of the daemon: every member, and nothing between or behind them.
macro_rules! same_layout {
    ($btf:expr, $c:literal, $rust:ty { $($member:ident),+ $(,)? }) => {{
        let members = $btf.members($c);
        let size_of_member = |get: &dyn Fn(&$rust) -> usize| get(&<$rust>::default());
        let expected: BTreeMap<&str, (usize, usize)> = BTreeMap::from([$((
            stringify!($member),
            (
                offset_of!($rust, $member),
                size_of_member(&|value| std::mem::size_of_val(&value.$member)),
            ),
        )),+]);
        assert_eq!(members, expected, $c);
        let size = $btf.named(KIND_STRUCT, $c).size_or_type as usize;
        assert_eq!(size, size_of::<$rust>(), "size of {}", $c);
        assert_eq!(members.values().map(|m| m.1).sum::<usize>(), size, "padding in {}", $c);
    }};
}

#[test]
fn the_steering_program_has_the_same_structs() {
    let btf = Btf::parse(section(steering::OBJECT, ".BTF"));
    same_layout!(btf, "edge_steer_scope", steering::Scope { media4, media6 });
    same_layout!(
        btf,
        "edge_steered",
        steered::Steered {
            source,
            port,
            socket,
            others,
            thread,
            window,
            packets,
            strangers,
        }
    );
    assert_eq!(btf.map_struct("steered", "value"), "edge_steered");
    assert_eq!(btf.map_struct("steer_scope", "value"), "edge_steer_scope");
    assert_eq!(btf.map_number("steered", "max_entries"), Some(2 * PORTS));
}

#[test]
fn structs_are_the_same() {
    let btf = Btf::parse(section(OBJECT, ".BTF"));
    same_layout!(btf, "edge_control", Control { active });
    same_layout!(
        btf,
        "edge_scope",
        Scope {
            media4,
            media6,
            media_low,
            media_high,
            media4_scope,
            media6_scope,
            listeners,
            bounds4_first,
            bounds4,
            bounds6_first,
            bounds6,
            sets_first,
        }
    );
    same_layout!(btf, "edge_port", Port { tcp, udp });
    same_layout!(btf, "edge_trunks", Trunks { words });
    same_layout!(
        btf,
        "edge_listener",
        ListenerEntry {
            trunks,
            address,
            counter,
            port,
            next,
            family,
            protocol,
            any,
            reserved,
        }
    );
    same_layout!(btf, "edge_bound4", Bound4 { start, set });
    same_layout!(
        btf,
        "edge_bound6",
        Bound6 {
            start_high,
            start_low,
            set,
            reserved
        }
    );
    same_layout!(btf, "edge_flow_key", FlowKey { port, family });
    same_layout!(
        btf,
        "edge_source",
        Source {
            address,
            port,
            reserved
        }
    );
    same_layout!(
        btf,
        "edge_flow",
        Flow {
            sources,
            count,
            any,
            relay
        }
    );
}

#[test]
fn maps_hold_the_structs_and_have_the_room_that_the_daemon_counts_on() {
    let btf = Btf::parse(section(OBJECT, ".BTF"));
    for (map, value, entries) in [
        ("control", "edge_control", 1),
        ("scopes", "edge_scope", GENERATIONS),
        ("ports", "edge_port", GENERATIONS * PORTS),
        ("listeners", "edge_listener", GENERATIONS * LISTENERS),
        ("bounds4", "edge_bound4", GENERATIONS * BOUNDS),
        ("bounds6", "edge_bound6", GENERATIONS * BOUNDS),
        ("sets", "edge_trunks", GENERATIONS * SETS),
        ("drops", "__u64", COUNTER_ROWS * REASONS),
    ] {
        assert_eq!(btf.map_struct(map, "value"), value, "value of {map}");
        assert_eq!(btf.map_struct(map, "key"), "__u32", "key of {map}");
        assert_eq!(
            btf.map_number(map, "max_entries"),
            Some(entries),
            "entries of {map}"
        );
    }
    assert_eq!(btf.map_struct("flows", "key"), "edge_flow_key");
    assert_eq!(btf.map_struct("flows", "value"), "edge_flow");
    let sources = btf.members("edge_flow")["sources"].1;
    assert_eq!(sources / size_of::<Source>(), FLOW_SOURCES);
}

#[test]
fn reasons_have_the_same_numbers() {
    let btf = Btf::parse(section(OBJECT, ".BTF"));
    let object: BTreeMap<String, u32> = btf
        .named(KIND_ENUM, "edge_reason")
        .members
        .iter()
        .map(|&(name, value, _)| (name.to_owned(), value))
        .collect();
    let daemon: BTreeMap<String, u32> = Reason::ALL
        .iter()
        .map(|&reason| {
            (
                format!("EDGE_{}", reason.as_str().to_uppercase()),
                reason as u32,
            )
        })
        .collect();
    assert_eq!(object, daemon);
    assert!(daemon.values().all(|reason| *reason < REASONS));
}
