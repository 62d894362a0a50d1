//! The XDP program in the kernel and the maps that it reads.

use super::guard::MediaGuard;
use super::layout::{
    BOUNDS, Control, GENERATIONS, MOST_BOUNDS, PORTS, Port, REASONS, Reason, SETS, Scope,
};
use super::tables::{TableError, Tables};
use aya::maps::{Array, Map, MapError, PerCpuArray};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader, Pod, include_bytes_aligned};
use rustix::thread::{MembarrierCommand, membarrier};
use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, OnceLock};
use thiserror::Error as ThisError;

/// The compiled `ebpf/access.bpf.c`.
pub static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/access.bpf.o"));

/// The program that filters.
pub const PROGRAM: &str = "edge_access";
/// A program that passes everything: the yardstick of the benches.
pub const PASS_PROGRAM: &str = "edge_pass";

/// Why the program or a map is not in the kernel.
#[derive(Debug, ThisError)]
pub enum FilterError {
    #[error("the kernel refused the XDP object: {}", told(.0))]
    Object(#[from] EbpfError),
    #[error("the kernel refused the XDP program: {}", told(.0))]
    Program(#[from] ProgramError),
    #[error("the kernel refused an XDP map: {}", told(.0))]
    Map(#[from] MapError),
    #[error(transparent)]
    Room(#[from] TableError),
    #[error("the XDP object has no {0}")]
    Missing(&'static str),
    #[error("no file descriptor for an XDP map: {0}")]
    Descriptor(#[source] io::Error),
}

/// An error with its causes, in one line: aya leaves the system's word to the source, and puts the verifier's log, which has
/// thousands of lines, into the text.
pub(crate) fn told(error: &dyn Error) -> String {
    let mut text = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        text.push(
            cause
                .to_string()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        );
        next = cause.source();
    }
    // Some repeat their cause.
    text.dedup();
    text.join(": ")
}

/// Entries per generation of the maps whose size depends on the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Room {
    bounds4: u32,
    bounds6: u32,
    sets: u32,
}

impl Room {
    /// Twice what is needed now, so that a reload may add as much again, and never less than the object says.
    fn for_tables(tables: &Tables) -> Room {
        let room = |needed: usize, least: u32, most: u32| {
            u32::try_from(needed)
                .unwrap_or(u32::MAX)
                .saturating_mul(2)
                .clamp(least, most)
        };
        Room {
            bounds4: room(tables.bounds4.len(), BOUNDS, MOST_BOUNDS),
            bounds6: room(tables.bounds6.len(), BOUNDS, MOST_BOUNDS),
            sets: room(tables.sets.len(), SETS, MOST_BOUNDS),
        }
    }

    fn check(self, tables: &Tables) -> Result<(), TableError> {
        for (needed, room) in [
            (tables.bounds4.len(), self.bounds4),
            (tables.bounds6.len(), self.bounds6),
        ] {
            let room = room as usize;
            if needed > room {
                return Err(TableError::TooManyPrefixes { needed, room });
            }
        }
        let (needed, room) = (tables.sets.len(), self.sets as usize);
        if needed > room {
            return Err(TableError::TooManySets { needed, room });
        }
        Ok(())
    }
}

/// The loaded program. It passes everything until the first [`Filter::switch`], and again after [`Filter::disarm`].
#[derive(Debug)]
pub struct Filter {
    ebpf: Ebpf,
    program_id: u32,
    room: Room,
    /// As in [`Control`].
    active: u32,
    /// Ports that each generation's part of the map `ports` names.
    named: [BTreeSet<u16>; GENERATIONS as usize],
}

impl Filter {
    /// Loads the program and creates its maps, with room for `tables` and for a multiple of it. Nothing is attached.
    pub fn load(tables: &Tables) -> Result<Filter, FilterError> {
        let room = Room::for_tables(tables);
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("bounds4", room.bounds4 * GENERATIONS)
            .map_max_entries("bounds6", room.bounds6 * GENERATIONS)
            .map_max_entries("sets", room.sets * GENERATIONS)
            .load(OBJECT)?;
        let program = xdp(&mut ebpf, PROGRAM)?;
        program.load()?;
        Ok(Filter {
            program_id: program.info()?.id(),
            ebpf,
            room,
            active: 0,
            named: Default::default(),
        })
    }

    /// The kernel's id of the program.
    pub fn program_id(&self) -> u32 {
        self.program_id
    }

    /// The program, to attach it or to run it on a packet.
    pub fn program(&mut self) -> Result<&mut Xdp, FilterError> {
        xdp(&mut self.ebpf, PROGRAM)
    }

    /// The program that passes everything, loaded.
    pub fn pass_program(&mut self) -> Result<&mut Xdp, FilterError> {
        let program = xdp(&mut self.ebpf, PASS_PROGRAM)?;
        if program.fd().is_err() {
            program.load()?;
        }
        Ok(program)
    }

    /// Puts `tables` in force at once: they are written beside those in force, then one store switches. A packet is judged by
    /// the old tables or by the new, never by a mixture. After an error the old ones are still in force.
    pub fn switch(&mut self, tables: &Tables) -> Result<(), FilterError> {
        self.room.check(tables)?;
        let next = if self.active == 1 { 2 } else { 1 };
        let generation = next - 1;
        // A packet that began before the last switch may still be looking at the tables that are written now: every one that has
        // begun is done when this returns. Where the call is not to be had, such a packet would have to take longer than the
        // time between two reloads.
        let _ = membarrier(MembarrierCommand::Global);
        let mut scope = tables.scope;
        (scope.bounds4_first, scope.bounds4) = self.fill("bounds4", generation, &tables.bounds4)?;
        (scope.bounds6_first, scope.bounds6) = self.fill("bounds6", generation, &tables.bounds6)?;
        (scope.sets_first, _) = self.fill("sets", generation, &tables.sets)?;
        self.fill("listeners", generation, &tables.listeners)?;
        self.name_ports(generation, tables)?;
        Array::<_, Scope>::try_from(map(&mut self.ebpf, "scopes")?)?.set(generation, scope, 0)?;
        self.activate(next)
    }

    /// Writes the generation's part of an array; gives where it starts and how long it is.
    fn fill<V: Pod>(
        &mut self,
        name: &'static str,
        generation: u32,
        values: &[V],
    ) -> Result<(u32, u32), FilterError> {
        let mut array = Array::<_, V>::try_from(map(&mut self.ebpf, name)?)?;
        let room = array.len() / GENERATIONS;
        let first = generation * room;
        for (index, value) in (first..first + room).zip(values) {
            array.set(index, value, 0)?;
        }
        Ok((first, u32::try_from(values.len()).unwrap_or(room)))
    }

    fn name_ports(&mut self, generation: u32, tables: &Tables) -> Result<(), FilterError> {
        let mut ports = Array::<_, Port>::try_from(map(&mut self.ebpf, "ports")?)?;
        let Some(named) = self.named.get_mut(generation as usize) else {
            return Ok(());
        };
        // First noted, then written: after a failure half-way nothing stays behind that the next switch would not clear.
        named.extend(tables.ports.keys());
        for &port in named.iter() {
            let entry = tables.ports.get(&port).copied().unwrap_or_default();
            ports.set(generation * PORTS + u32::from(port), entry, 0)?;
        }
        named.retain(|port| tables.ports.contains_key(port));
        Ok(())
    }

    /// Lets everything pass.
    pub fn disarm(&mut self) -> Result<(), FilterError> {
        self.activate(0)
    }

    fn activate(&mut self, active: u32) -> Result<(), FilterError> {
        let mut control = Array::<_, Control>::try_from(map(&mut self.ebpf, "control")?)?;
        control.set(0, Control { active }, 0)?;
        self.active = active;
        Ok(())
    }

    /// Packets dropped in `row` for `reason` since the load, over all CPUs.
    pub fn drops(&self, row: u32, reason: Reason) -> Result<u64, FilterError> {
        let map = self
            .ebpf
            .map("drops")
            .ok_or(FilterError::Missing("drops"))?;
        let drops = PerCpuArray::<_, u64>::try_from(map)?;
        let values = drops.get(&(row * REASONS + reason as u32), 0)?;
        Ok(values.iter().fold(0, |sum: u64, &n| sum.wrapping_add(n)))
    }

    /// Another descriptor of the map of open media ports.
    pub fn flows(&self) -> Result<OwnedFd, FilterError> {
        match self.ebpf.map("flows") {
            Some(Map::HashMap(flows)) => {
                let fd = flows.fd().as_fd();
                fd.try_clone_to_owned().map_err(FilterError::Descriptor)
            }
            _ => Err(FilterError::Missing("flows")),
        }
    }

    /// A handle to the map of open media ports.
    pub fn media_guard(&self) -> Result<MediaGuard, FilterError> {
        Ok(MediaGuard::new(Arc::new(OnceLock::from(self.flows()?))))
    }

    /// Every map with the name that it is pinned under.
    pub fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.ebpf.maps()
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, FilterError> {
    let program = ebpf
        .program_mut(name)
        .ok_or(FilterError::Missing("program"))?;
    Ok(program.try_into()?)
}

fn map<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Map, FilterError> {
    ebpf.map_mut(name).ok_or(FilterError::Missing(name))
}
