//! Medians with their range, and percentiles of histograms.

use serde::Serialize;

/// Median, least and most of some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// `None` for no numbers.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let lower = sorted.get((sorted.len() - 1) / 2)?;
        let upper = sorted.get(sorted.len() / 2)?;
        Some(Spread {
            median: f64::midpoint(*lower, *upper),
            least,
            most,
        })
    }

    /// `median (least-most)`.
    pub fn text(self, digits: usize) -> String {
        format!(
            "{:.digits$} ({:.digits$}-{:.digits$})",
            self.median, self.least, self.most
        )
    }
}

/// The upper bound of the bucket in which the `quantile` of a histogram lies; `buckets`: upper bound and how many are in
/// that bucket alone, ascending. `None`: nothing was counted.
pub fn quantile(buckets: &[(f64, u64)], quantile: f64) -> Option<f64> {
    let all: u64 = buckets.iter().map(|(_, count)| count).sum();
    let wanted = ((all as f64 * quantile).ceil() as u64).max(1);
    let mut seen = 0;
    buckets.iter().find_map(|&(bound, count)| {
        seen += count;
        (seen >= wanted).then_some(bound)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 2.0, 9.0]).unwrap();
        assert_eq!(spread.text(1), "3.0 (1.0-9.0)");
        assert_eq!(Spread::of([5.0]).unwrap().median, 5.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let buckets = [(1.0, 90), (2.0, 9), (f64::INFINITY, 1)];
        assert_eq!(quantile(&buckets, 0.5), Some(1.0));
        assert_eq!(quantile(&buckets, 0.99), Some(2.0));
        assert_eq!(quantile(&buckets, 1.0), Some(f64::INFINITY));
        assert_eq!(quantile(&[(1.0, 0)], 0.5), None);
    }
}
