//! Nonces that carry their own proof: nothing is stored for a challenge that is never answered.

use crate::id::CoreId;
use crate::time::Instant;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// time (8) core (1) serial (4) call (8).
const BODY_BYTES: usize = 21;
const TAG_BYTES: usize = 16;
const NONCE_BYTES: usize = BODY_BYTES + TAG_BYTES;

/// When and as the how-manieth a nonce was minted by its core. Orders the nonces of one core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Stamp {
    pub(super) minted: Instant,
    pub(super) serial: u32,
}

/// What a genuine nonce says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Opened {
    pub(super) stamp: Stamp,
    pub(super) core: CoreId,
    call: [u8; 8],
}

/// The key under which nonces are minted.
#[derive(Clone)]
pub(super) struct NonceKey(Hmac<Sha256>);

impl NonceKey {
    pub(super) fn new(key: [u8; 32]) -> Self {
        // A key shorter than the hash's block is padded with zeros (RFC 2104 §2); doing it here makes construction infallible.
        let mut block = [0; 64];
        for (to, from) in block.iter_mut().zip(key) {
            *to = from;
        }
        NonceKey(Hmac::new(&block.into()))
    }

    /// A nonce for one challenge in the call `call_id`, as lower-case hexadecimal.
    pub(super) fn mint(&self, stamp: Stamp, core: CoreId, call_id: &str) -> String {
        let mut bytes = Vec::with_capacity(NONCE_BYTES);
        bytes.extend_from_slice(&stamp.minted.as_nanos().to_be_bytes());
        bytes.push(core.0);
        bytes.extend_from_slice(&stamp.serial.to_be_bytes());
        bytes.extend_from_slice(&self.call(call_id));
        let tag = self.tag(&bytes);
        bytes.extend_from_slice(&tag);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads a nonce that was minted under this key, by any core and for any call; `None` for every other string.
    pub(super) fn open(&self, nonce: &str) -> Option<Opened> {
        let bytes = decode(nonce)?;
        let (body, tag) = bytes.split_at_checked(BODY_BYTES)?;
        if !bool::from(self.tag(body).ct_eq(tag)) {
            return None;
        }
        let (minted, rest) = body.split_first_chunk()?;
        let (&[core], rest) = rest.split_first_chunk()?;
        let (serial, rest) = rest.split_first_chunk()?;
        let (&call, _) = rest.split_first_chunk()?;
        Some(Opened {
            stamp: Stamp {
                minted: Instant::from_nanos(u64::from_be_bytes(*minted)),
                serial: u32::from_be_bytes(*serial),
            },
            core: CoreId(core),
            call,
        })
    }

    /// Whether a nonce was minted for that call.
    pub(super) fn is_for(&self, opened: &Opened, call_id: &str) -> bool {
        self.call(call_id).ct_eq(&opened.call).into()
    }

    fn call(&self, call_id: &str) -> [u8; 8] {
        self.mac(b"call", call_id.as_bytes())
    }

    fn tag(&self, body: &[u8]) -> [u8; TAG_BYTES] {
        self.mac(b"nonce", body)
    }

    /// The leading octets of an HMAC; `purpose` keeps the uses of the one key apart.
    fn mac<const N: usize>(&self, purpose: &[u8], data: &[u8]) -> [u8; N] {
        let mac = self
            .0
            .clone()
            .chain_update(purpose)
            .chain_update([0])
            .chain_update(data)
            .finalize()
            .into_bytes();
        let mut out = [0; N];
        for (to, from) in out.iter_mut().zip(mac) {
            *to = from;
        }
        out
    }
}

/// Lower-case hexadecimal only: each nonce has exactly one spelling.
fn decode(nonce: &str) -> Option<[u8; NONCE_BYTES]> {
    fn digit(byte: u8) -> Option<u8> {
        match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        }
    }
    if nonce.len() != NONCE_BYTES * 2 {
        return None;
    }
    let mut out = [0; NONCE_BYTES];
    let (pairs, _) = nonce.as_bytes().as_chunks::<2>();
    for (to, &[high, low]) in out.iter_mut().zip(pairs) {
        *to = digit(high)? << 4 | digit(low)?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        minted: Instant::from_millis(1234),
        serial: 7,
    };

    #[test]
    fn a_nonce_opens_under_its_key_only_and_names_its_call() {
        let key = NonceKey::new([1; 32]);
        let nonce = key.mint(STAMP, CoreId(3), "call@a");
        let opened = key.open(&nonce).unwrap();
        assert_eq!((opened.stamp, opened.core), (STAMP, CoreId(3)));
        assert!(key.is_for(&opened, "call@a"));
        assert!(!key.is_for(&opened, "call@b"));
        assert_eq!(NonceKey::new([2; 32]).open(&nonce), None);
    }

    #[test]
    fn any_other_spelling_is_no_nonce_of_ours() {
        let key = NonceKey::new([1; 32]);
        let nonce = key.mint(STAMP, CoreId(3), "call@a");
        assert_eq!(key.open(&nonce.to_uppercase()), None);
        assert_eq!(key.open(&format!("{nonce}00")), None);
        assert_eq!(key.open(""), None);
        for at in 0..nonce.len() {
            for bit in 0..7 {
                let mut bytes = nonce.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let changed = String::from_utf8(bytes).unwrap();
                assert_eq!(key.open(&changed), None, "byte {at} bit {bit}");
            }
        }
    }
}
