//! The form of a ring's file: a header, then records wherever there was room, over what was there before.
//!
//! A record is `0xea length number checksum origin event`, numbers in little-endian order: four octets for the length of origin and
//! event, eight for each other. The event is as [`packed`] has it, the origin the UTC time of its clock's zero.

use crate::cdr::note::Note;
use crate::reporter::WallClock;
use edge_proto::event::packed::{self, FORMAT, Names};
use rustix::rand::{GetRandomFlags, getrandom};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Octets before the first record.
pub(super) const HEADER: u64 = 16;
const MAGIC: [u8; 8] = [b'e', b'a', b'r', b'l', b'y', b' ', FORMAT, b'\n'];
/// Where a record may begin.
const MARK: u8 = 0xea;
const FIXED: usize = 1 + 4 + 8 + 8;
/// What is longer is no record of ours.
const MAX: usize = 1 << 20;
/// More of a file is not read.
const MAX_FILE: u64 = 16 << 20;

/// What checksums of a file begin with: a peer's text in a record is none itself, wherever it is read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key(pub(super) u64);

impl Key {
    pub fn random() -> io::Result<Key> {
        let mut octets = [0; 8];
        // Eight octets come whole.
        getrandom(&mut octets, GetRandomFlags::empty())?;
        Ok(Key(u64::from_le_bytes(octets)))
    }

    pub fn header(self) -> [u8; HEADER as usize] {
        let mut header = [0; HEADER as usize];
        let (magic, key) = header.split_at_mut(MAGIC.len());
        magic.copy_from_slice(&MAGIC);
        key.copy_from_slice(&self.0.to_le_bytes());
        header
    }
}

/// Adds the record of an event.
pub(super) fn add(buffer: &mut Vec<u8>, key: Key, number: u64, origin: i64, event: &[u8]) {
    let Ok(length) = u32::try_from(size_of::<i64>() + event.len()) else {
        return;
    };
    let origin = origin.to_le_bytes();
    let sum = checksum(key.0, number, &origin, event);
    buffer.push(MARK);
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&number.to_le_bytes());
    buffer.extend_from_slice(&sum.to_le_bytes());
    buffer.extend_from_slice(&origin);
    buffer.extend_from_slice(event);
}

/// The notes in a ring that are whole, by number.
pub(in crate::cdr) fn read(path: &Path) -> io::Result<Vec<(u64, Note)>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    let mut notes: Vec<_> = match bytes.split_at_checked(HEADER as usize) {
        Some((header, records)) if header.starts_with(&MAGIC) => {
            let mut key = [0; 8];
            key.copy_from_slice(header.split_at(MAGIC.len()).1);
            records_of(Key(u64::from_le_bytes(key)), records)
        }
        _ => bytes
            .split(|byte| *byte == b'\n')
            .filter_map(line)
            .collect(),
    };
    notes.sort_by_key(|(number, _)| *number);
    notes.dedup_by_key(|(number, _)| *number);
    Ok(notes)
}

fn records_of(key: Key, mut bytes: &[u8]) -> Vec<(u64, Note)> {
    let mut notes = Vec::new();
    let mut names = Names::default();
    while let Some(at) = bytes.iter().position(|octet| *octet == MARK) {
        let Some(rest) = bytes.get(at..) else { break };
        let (length, note) = whole(key, rest, &mut names).unwrap_or((1, None));
        notes.extend(note);
        bytes = rest.get(length..).unwrap_or_default();
    }
    notes
}

/// The length of the record that begins here, and what it notes. `None`: it was torn or half overwritten, or is none.
fn whole(key: Key, bytes: &[u8], names: &mut Names) -> Option<(usize, Option<(u64, Note)>)> {
    let mut rest = bytes.get(1..)?;
    let length = u32::from_le_bytes(*rest.split_off(..4)?.as_array()?) as usize;
    let number = u64::from_le_bytes(*rest.split_off(..8)?.as_array()?);
    let sum = u64::from_le_bytes(*rest.split_off(..8)?.as_array()?);
    let (origin, event) = rest.get(..length.min(MAX + 1))?.split_first_chunk()?;
    if length > MAX || sum != checksum(key.0, number, origin, event) {
        return None;
    }
    let clock = WallClock::of_origin(i64::from_le_bytes(*origin));
    let event = packed::unpack(event, names);
    let note = event.and_then(|event| Note::of(&event, &clock));
    Some((FIXED + length, note.map(|note| (number, note))))
}

/// FNV-1a of eight octets at a time: tells a torn record.
fn checksum(key: u64, number: u64, origin: &[u8], event: &[u8]) -> u64 {
    let sum = mix(mix(mix(FNV, key), number), event.len() as u64);
    mix_all(mix_all(sum, origin), event)
}

const FNV: u64 = 0xcbf2_9ce4_8422_2325;

fn mix(sum: u64, word: u64) -> u64 {
    let mixed = (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    // What is in the highest octet would never come down otherwise.
    mixed ^ mixed >> 32
}

fn mix_all(sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words
        .iter()
        .fold(sum, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    rest.iter()
        .fold(sum, |sum, byte| mix(sum, u64::from(*byte)))
}

/// A whole line of the form before, `number checksum note`, which an upgrade may find.
fn line(line: &[u8]) -> Option<(u64, Note)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.splitn(3, ' ');
    let number = fields.next()?.parse().ok()?;
    let sum = u64::from_str_radix(fields.next()?, 16).ok()?;
    let text = fields.next()?;
    if sum != mix_all(mix(FNV, number), text.as_bytes()) {
        return None;
    }
    Some((number, serde_json::from_str(text).ok()?))
}
