//! Names that peers choose, as keys of one size that they do not choose.
//!
//! An index by names would hold a copy of each, find one by comparing several, and pay a visit to memory for each comparison. An
//! index by fingerprints holds 16 bytes and finds its entry at once. Whoever does not know the key can neither make two names
//! meet nor crowd a hash table; 128 bits do not meet by chance.

use siphasher::sip128::{Hasher128 as _, SipHasher13};
use std::hash::{Hash, Hasher};

/// Stands for a list of fields; equal for equal lists, and for no others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fingerprint(u128);

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As good as random already: any part of it does.
        state.write_u64(self.0 as u64);
    }
}

/// Takes fingerprints with one key.
#[derive(Clone, Copy)]
pub(crate) struct Fingerprints {
    key: [u8; 16],
}

impl Fingerprints {
    /// `key`: secret and random.
    pub fn new(key: [u8; 16]) -> Self {
        Fingerprints { key }
    }

    /// Begins one. `kind` tells apart lists that are of different kinds.
    pub fn begin(&self, kind: u8) -> Fields {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u8(kind);
        Fields(hasher)
    }
}

impl std::fmt::Debug for Fingerprints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fingerprints(..)")
    }
}

/// The fields of a fingerprint, in order.
pub(crate) struct Fields(SipHasher13);

impl Fields {
    /// The next field. Its length counts too, so that no two lists read the same.
    pub fn bytes(mut self, field: &[u8]) -> Self {
        self.0.write_usize(field.len());
        self.0.write(field);
        self
    }

    /// The next field.
    pub fn text(self, field: &str) -> Self {
        self.bytes(field.as_bytes())
    }

    /// The next field, of a fixed size.
    pub fn number(mut self, field: u32) -> Self {
        self.0.write_u32(field);
        self
    }

    pub fn finish(self) -> Fingerprint {
        Fingerprint(self.0.finish128().as_u128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_told_apart_by_kind_field_and_border() {
        let names = Fingerprints::new([7; 16]);
        let of = |kind, fields: &[&str]| {
            let begun = names.begin(kind);
            fields
                .iter()
                .fold(begun, |all, field| all.text(field))
                .finish()
        };
        assert_eq!(of(1, &["ab", "c"]), of(1, &["ab", "c"]));
        let different = [
            of(1, &["ab", "c"]),
            of(2, &["ab", "c"]),
            of(1, &["a", "bc"]),
            of(1, &["abc"]),
            of(1, &["ab", "c", ""]),
            of(1, &["AB", "c"]),
            of(1, &[]),
            names.begin(1).number(1).finish(),
            names.begin(1).number(2).finish(),
        ];
        for (place, one) in different.iter().enumerate() {
            assert!(!different[..place].contains(one), "{place}");
        }
    }

    #[test]
    fn another_key_gives_others() {
        let of = |key| Fingerprints::new([key; 16]).begin(0).text("a").finish();
        assert_ne!(of(1), of(2));
    }
}
