//! Which entries of the ring's file table are free.

/// Lends entries of the file table in pairs: RTP's and RTCP's of one allocation.
#[derive(Debug)]
pub struct FilePairs {
    /// First entries of pairs that were lent and came back.
    free: Vec<u32>,
    /// The first entry that was never lent.
    next: u32,
    /// The first entry that is not to be lent.
    end: u32,
}

impl FilePairs {
    /// `pairs` of them, from entry 0 on.
    pub fn new(pairs: u32) -> FilePairs {
        FilePairs {
            free: Vec::new(),
            next: 0,
            end: pairs.saturating_mul(2),
        }
    }

    /// The first entry of a pair that nobody has until it is given back; `None`: all are lent.
    pub fn take(&mut self) -> Option<u32> {
        let first = self.free.pop();
        first.or_else(|| {
            let first = self.next;
            (first < self.end).then(|| self.next = first + 2)?;
            Some(first)
        })
    }

    /// Takes back what [`FilePairs::take`] has lent.
    pub fn give_back(&mut self, first: u32) {
        self.free.push(first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_lent_to_one_at_a_time() {
        let mut files = FilePairs::new(3);
        assert_eq!(
            [(); 4].map(|()| files.take()),
            [Some(0), Some(2), Some(4), None]
        );
        files.give_back(2);
        assert_eq!([(); 2].map(|()| files.take()), [Some(2), None]);
    }
}
