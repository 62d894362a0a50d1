//! Damaged messages: nothing panics, and framer and parser never disagree about where a message ends.

use crate::corpus::corpus;
use crate::fuzz;
use crate::properties::cut;
use bytes::Bytes;
use edge_proto::sip::{MessageLimits, StreamFramer};
use proptest::collection::vec;
use proptest::prelude::*;

/// One way to damage a message.
#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    /// Copies a part of the message to another place.
    Splice(usize, usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let fragments: Vec<Vec<u8>> = [
        "\r\n",
        "\n",
        "\r",
        "\r\n\r\n",
        " ",
        "\t",
        "\r\n ",
        ":",
        ",",
        ";",
        "<",
        ">",
        "\"",
        "\\",
        "@",
        "%00",
        "%0d%0a",
        "\0",
        "Content-Length: 5\r\n",
        "l:0\r\n",
        "SIP/2.0",
        "\u{e9}",
        "[::1]",
        "=",
        "?",
        "*",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([vec![0xff], vec![0xc3]])
    .collect();
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<usize>(), prop::sample::select(fragments)).prop_map(|(at, b)| Damage::Insert(at, b)),
        (any::<usize>(), 1..20_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        (any::<usize>(), 1..60_usize, any::<usize>())
            .prop_map(|(from, count, to)| Damage::Splice(from, count, to)),
    ]
}

fn apply(message: &mut Vec<u8>, damage: &Damage) {
    let within = |at: usize| at % (message.len() + 1);
    match damage {
        Damage::Set(at, byte) => {
            let at = within(*at);
            if let Some(target) = message.get_mut(at) {
                *target = *byte;
            }
        }
        Damage::Insert(at, bytes) => {
            let at = within(*at);
            message.splice(at..at, bytes.iter().copied());
        }
        Damage::Remove(at, count) => {
            let at = within(*at);
            let end = (at + count).min(message.len());
            message.drain(at..end);
        }
        Damage::Splice(from, count, to) => {
            let (from, to) = (within(*from), within(*to));
            let end = (from + count).min(message.len());
            let part = message[from..end].to_vec();
            message.splice(to..to, part);
        }
    }
}

fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let messages: Vec<Bytes> = corpus()
        .into_values()
        .map(|torture| torture.bytes)
        .collect();
    (prop::sample::select(messages), vec(damage(), 0..6)).prop_map(|(message, damages)| {
        let mut message = message.to_vec();
        for damage in &damages {
            apply(&mut message, damage);
        }
        message
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn framer_and_parser_agree(raw in damaged(), positions in vec(any::<usize>(), 0..6)) {
        let limits = MessageLimits::default();
        let whole = fuzz::frames(StreamFramer::new(limits), [&raw[..]]);
        let cut = fuzz::frames(StreamFramer::new(limits), cut(&raw, &positions));
        prop_assert_eq!(whole, cut);
        fuzz::message(&raw);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(raw in vec(any::<u8>(), 0..200)) {
        fuzz::message(&raw);
        fuzz::uri(&raw);
        fuzz::name_addr(&raw);
        let text = String::from_utf8_lossy(&raw);
        fuzz::name_addr(text.as_bytes());
        fuzz::uri(format!("sip:{text}").as_bytes());
    }
}
