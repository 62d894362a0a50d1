//! The torture messages on disk.
//!
//! The files in `../torture/` have the RFC's section and title, a verdict, the reason for it, and after a line of dashes the
//! message in the RFC's notation: a line is one that ends in CRLF, `<hex>0D0A</hex>` stands for bytes.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;

pub struct Torture {
    pub verdict: String,
    pub bytes: Bytes,
}

/// All files by name.
pub fn corpus() -> BTreeMap<String, Torture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture");
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let (head, message) = text.split_once("\n---\n").unwrap();
            let verdict = head
                .lines()
                .find_map(|line| line.strip_prefix("verdict: "))
                .unwrap_or_else(|| panic!("{name} has no verdict"));
            let torture = Torture {
                verdict: verdict.to_owned(),
                bytes: decode(message).into(),
            };
            (name, torture)
        })
        .collect()
}

/// The RFC's notation to bytes.
fn decode(notation: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = notation;
    while let Some((plain, tail)) = rest.split_once("<hex>") {
        bytes.extend(plain.replace('\n', "\r\n").bytes());
        let (hex, tail) = tail.split_once("</hex>").unwrap();
        for pair in hex.as_bytes().chunks(2) {
            let pair = std::str::from_utf8(pair).unwrap();
            bytes.push(u8::from_str_radix(pair, 16).unwrap());
        }
        rest = tail;
    }
    bytes.extend(rest.replace('\n', "\r\n").bytes());
    bytes
}
