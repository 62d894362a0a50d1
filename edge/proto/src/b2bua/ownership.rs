//! Which core a message belongs to.
//!
//! Everything the edge mints (tag, branch) starts with the core's number in two hex digits, so that a message within a dialog or
//! a response finds its owner without a shared map. What starts a dialog is owned by a keyed hash of Call-ID and From-tag, so
//! that its retransmissions and its CANCEL meet it wherever they arrive.

use crate::id::CoreId;
use crate::sip::Message;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// RFC 3261 §8.1.1.7.
pub(crate) const MAGIC_COOKIE: &str = "z9hG4bK";

/// The core in a minted tag, or in a branch behind the magic cookie; bounds-checked.
fn minted_core(text: &str, cores: u8) -> Option<CoreId> {
    let core = u8::from_str_radix(text.get(..2)?, 16).ok()?;
    (core < cores).then_some(CoreId(core))
}

/// The owner of `message`, or `None` for a response to nothing this process sent.
///
/// A request with a To-tag that the edge did not mint belongs to whoever received it (`here`): it gets its 481 there.
pub fn owner_of(message: &Message, key: &[u8; 32], here: CoreId, cores: u8) -> Option<CoreId> {
    if !message.is_request() {
        let branch = message.top_via().branch()?;
        return minted_core(branch.strip_prefix(MAGIC_COOKIE)?, cores);
    }
    if let Some(tag) = message.to_tag() {
        return Some(minted_core(tag, cores).unwrap_or(here));
    }
    if cores <= 1 {
        return Some(here);
    }
    Some(hash_owner(
        message.call_id(),
        message.from_tag().unwrap_or_default(),
        key,
        cores,
    ))
}

fn hash_owner(call_id: &str, from_tag: &str, key: &[u8; 32], cores: u8) -> CoreId {
    // A keyed hash, so that a peer cannot steer all of its calls onto one core.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return CoreId(0);
    };
    mac.update(call_id.as_bytes());
    mac.update(&[0]);
    mac.update(from_tag.as_bytes());
    let digest = mac.finalize().into_bytes();
    let word = digest
        .iter()
        .take(8)
        .fold(0u64, |word, &byte| (word << 8) | u64::from(byte));
    CoreId((word % u64::from(cores.max(1))) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_names_are_bounds_checked() {
        assert_eq!(minted_core("03abcdef", 4), Some(CoreId(3)));
        assert_eq!(minted_core("04abcdef", 4), None);
        assert_eq!(minted_core("zz", 4), None);
        assert_eq!(minted_core("0", 4), None);
        assert_eq!(minted_core("", 4), None);
    }

    #[test]
    fn hashing_spreads_and_stays() {
        let key = [7; 32];
        let owners: Vec<_> = (0..64)
            .map(|i| hash_owner(&format!("call-{i}"), "tag", &key, 4))
            .collect();
        for core in 0..4 {
            assert!(owners.contains(&CoreId(core)), "core {core} owns nothing");
        }
        assert_eq!(owners[5], hash_owner("call-5", "tag", &key, 4));
    }
}
