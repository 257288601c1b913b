//! Observations in classic buckets.
//!
//! The bounds reach from what hardware can do to what a test guest under emulation needs: in one (`cargo xtask test --only
//! serve-built-7.3`, 60 faults) 49 look-ups took up to 10 µs, the slowest up to 10 ms, and the mirror's own 53 times up to
//! 1 µs. Prometheus draws a straight line within a bucket, so steps of 2 to 2.5 tell a quantile no worse than that.

use iommu_trace_common::SUM_BOUNDS_NS;

/// What the buckets are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// Work within the kernel: 100 ns to 100 ms.
    Kernel,
    /// What user space, or another CPU, takes part in: 1 µs to 30 s. 10 s is when a page request counts as unanswered.
    User,
}

const USER_NS: [u64; 23] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

impl Bounds {
    /// The upper ends of the buckets, nanoseconds; the last one, without an end, is left out.
    #[must_use]
    pub fn nanoseconds(self) -> &'static [u64] {
        match self {
            Bounds::Kernel => &SUM_BOUNDS_NS,
            Bounds::User => &USER_NS,
        }
    }

    /// The same in seconds.
    pub fn seconds(self) -> impl Iterator<Item = f64> {
        self.nanoseconds().iter().map(|&ns| seconds(ns))
    }
}

/// Nanoseconds as seconds.
#[must_use]
pub fn seconds(ns: u64) -> f64 {
    // Divided, not multiplied: 250 ns is written as 0.00000025 and not as something next to it.
    ns as f64 / 1e9
}

/// How many observations fell into each bucket, and their sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    bounds: Bounds,
    /// One more than there are bounds.
    counts: Vec<u64>,
    sum_ns: u128,
}

impl Histogram {
    /// Nothing was observed yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Histogram { bounds, counts: vec![0; bounds.nanoseconds().len() + 1], sum_ns: 0 }
    }

    /// Takes note of one observation.
    pub fn observe(&mut self, ns: u64) {
        self.observe_many(ns, 1);
    }

    /// Takes note of `count` observations of one value.
    pub fn observe_many(&mut self, ns: u64, count: u64) {
        // Le: a value at a bound belongs to the bucket that ends there.
        let bucket = self.bounds.nanoseconds().partition_point(|&bound| bound < ns);
        if let Some(counted) = self.counts.get_mut(bucket) {
            *counted = counted.saturating_add(count);
        }
        self.sum_ns = self.sum_ns.saturating_add(u128::from(ns) * u128::from(count));
    }

    /// Takes note of observations that were sorted into the same buckets already, and of their sum.
    pub fn observe_sorted(&mut self, counts: &[u32], sum_ns: u64) {
        for (counted, &more) in self.counts.iter_mut().zip(counts) {
            *counted = counted.saturating_add(u64::from(more));
        }
        self.sum_ns = self.sum_ns.saturating_add(u128::from(sum_ns));
    }

    /// The bounds.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// By bucket, not cumulative; the last is what is above all bounds.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_a_bound_is_in_the_bucket_that_ends_there() {
        let mut histogram = Histogram::new(Bounds::Kernel);
        for ns in [0, 100, 101, 100_000_000, u64::MAX] {
            histogram.observe(ns);
        }
        assert_eq!((histogram.counts()[0], histogram.counts()[1]), (2, 1));
        assert_eq!((histogram.counts()[18], histogram.counts()[19]), (1, 1));
        assert_eq!(histogram.count(), 5);
    }

    #[test]
    fn bounds_rise_and_are_written_as_a_person_would() {
        for bounds in [Bounds::Kernel, Bounds::User] {
            assert!(bounds.nanoseconds().is_sorted());
            for second in bounds.seconds() {
                assert!(second.to_string().len() <= "0.00000025".len(), "{second}");
            }
        }
    }
}
