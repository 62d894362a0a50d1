//! The order in which located servers are tried.

use hickory_resolver::proto::rr::rdata::SRV;

/// Random numbers for spreading load; nothing depends on their being unpredictable.
pub(super) struct Dice(u64);

impl Dice {
    /// Seeded by the kernel.
    pub(super) fn from_os() -> Self {
        let mut seed = [0; 8];
        // Fails only where the kernel has no getrandom; then every start has the same order, which is harmless.
        let _ = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
        Dice(u64::from_ne_bytes(seed))
    }

    #[cfg(test)]
    pub(super) fn from_seed(seed: u64) -> Self {
        Dice(seed)
    }

    /// Between 0 and `max`, both included (SplitMix64).
    fn roll(&mut self, max: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        match max.checked_add(1) {
            Some(sides) => z % sides,
            None => z,
        }
    }
}

/// RFC 2782: the lowest priority first; among equals each place is drawn with a chance proportional to the weight, weight 0
/// having a small one.
pub(super) fn by_priority_and_weight(mut records: Vec<SRV>, dice: &mut Dice) -> Vec<SRV> {
    // Weight 0 first: only then can a draw of 0 select it.
    records.sort_by_key(|srv| (srv.priority, srv.weight != 0));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let same = records
            .iter()
            .take_while(|srv| srv.priority == first.priority);
        let sum = same.map(|srv| u64::from(srv.weight)).sum();
        let drawn = dice.roll(sum);
        let mut running = 0;
        let chosen = records.iter().position(|srv| {
            running += u64::from(srv.weight);
            running >= drawn
        });
        ordered.push(records.remove(chosen.unwrap_or(0)));
    }
    ordered
}

/// One of the first, one of the second, and so on until both are exhausted.
pub(super) fn in_turn<T>(
    mut first: impl Iterator<Item = T>,
    mut second: impl Iterator<Item = T>,
) -> impl Iterator<Item = T> {
    let mut turn = false;
    std::iter::from_fn(move || {
        turn = !turn;
        if turn {
            first.next().or_else(|| second.next())
        } else {
            second.next().or_else(|| first.next())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::Name;

    fn srv(priority: u16, weight: u16, port: u16) -> SRV {
        SRV::new(priority, weight, port, Name::root())
    }

    fn ports(records: &[SRV], seed: u64) -> Vec<u16> {
        by_priority_and_weight(records.to_vec(), &mut Dice::from_seed(seed))
            .iter()
            .map(|srv| srv.port)
            .collect()
    }

    #[test]
    fn priorities_are_strict_whatever_the_weights() {
        let records = [srv(20, 65_535, 3), srv(10, 0, 1), srv(15, 1, 2)];
        for seed in 0..100 {
            assert_eq!(ports(&records, seed), [1, 2, 3]);
        }
    }

    #[test]
    fn weights_are_chances_and_every_record_comes_once() {
        let records = [srv(1, 60, 60), srv(1, 30, 30), srv(1, 10, 10), srv(1, 0, 1)];
        let mut first = std::collections::BTreeMap::<u16, u32>::new();
        for seed in 0..20_000 {
            let mut order = ports(&records, seed);
            *first.entry(order[0]).or_default() += 1;
            order.sort_unstable();
            assert_eq!(order, [1, 10, 30, 60]);
        }
        // Expected: 60, 30, 10 and about 1 of 101; bounds far beyond chance.
        assert!((11_000..13_000).contains(&first[&60]), "{first:?}");
        assert!((5_400..6_600).contains(&first[&30]), "{first:?}");
        assert!((1_600..2_400).contains(&first[&10]), "{first:?}");
        assert!((50..500).contains(&first[&1]), "{first:?}");
    }

    #[test]
    fn families_take_turns_until_both_are_exhausted() {
        let turns =
            |a: &[u8], b: &[u8]| in_turn(a.iter().copied(), b.iter().copied()).collect::<Vec<_>>();
        assert_eq!(turns(&[1, 2, 3], &[9]), [1, 9, 2, 3]);
        assert_eq!(turns(&[1], &[7, 8, 9]), [1, 7, 8, 9]);
        assert_eq!(turns(&[], &[]), Vec::<u8>::new());
    }
}
