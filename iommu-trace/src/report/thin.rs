//! What of many faults is drawn, and the histograms of all of them.

use super::{Fault, NO_TIME};
use crate::model::Measure;

/// What is drawn of a fault: its stages from the report on.
pub const STAGES: [Measure; 5] = Measure::FROM_REPORT;

/// Faults, and lives of handles, that a page draws.
pub const MAX_DRAWN: usize = 100_000;
/// Of those, the slowest: what is looked for must not be what is left out.
const SLOWEST: usize = 5_000;
/// Columns of a histogram for each doubling.
const PER_DOUBLING: f64 = 4.0;

/// All, or the slowest and an even share of the others; in the order of time.
pub fn thin(faults: &[Fault]) -> Vec<Fault> {
    if faults.len() <= MAX_DRAWN {
        return faults.to_vec();
    }
    let answer = |fault: &Fault| match fault.times[STAGES.len() - 1] {
        NO_TIME => 0,
        ns => ns,
    };
    let mut slowest: Vec<usize> = (0..faults.len()).collect();
    let (slow, ..) = slowest.select_nth_unstable_by_key(SLOWEST, |&at| std::cmp::Reverse(answer(&faults[at])));
    let mut drawn = vec![false; faults.len()];
    for &mut at in slow {
        drawn[at] = true;
    }
    let (all, share) = (faults.len() as u64, (MAX_DRAWN - SLOWEST) as u64);
    let in_share = |at: u64| (at + 1) * share / all > at * share / all;
    faults.iter().enumerate().filter(|(at, _)| drawn[*at] || in_share(*at as u64)).map(|(_, fault)| *fault).collect()
}

/// For each stage, where each column begins (nanoseconds) and how many faults are in it; empty columns are left out.
pub fn histograms(faults: &[Fault]) -> Vec<Vec<(u64, u64)>> {
    (0..STAGES.len())
        .map(|stage| {
            let mut columns = std::collections::BTreeMap::new();
            for ns in faults.iter().map(|fault| fault.times[stage]).filter(|&ns| ns != NO_TIME) {
                let column = (f64::from(ns.max(1)).log2() * PER_DOUBLING).floor();
                *columns.entry(column as u64).or_insert(0) += 1;
            }
            columns.into_iter().map(|(column, count)| ((column as f64 / PER_DOUBLING).exp2() as u64, count)).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(ts: u64, answer: u32) -> Fault {
        Fault { ts, device: 0, pasid: 0, addr: 0, times: [1, 1, 1, 1, answer], response: 0 }
    }

    #[test]
    fn many_faults_are_thinned_and_the_slowest_stay() {
        let faults: Vec<Fault> = (0..350_000).map(|n| fault(n, if n % 100 == 7 { 1_000_000 } else { 10 })).collect();
        let drawn = thin(&faults);
        assert!(drawn.len() <= MAX_DRAWN && drawn.len() > 80_000, "{}", drawn.len());
        assert!(drawn.iter().filter(|fault| fault.times[4] == 1_000_000).count() >= 3_500);
        assert!(drawn.is_sorted_by_key(|fault| fault.ts));
        assert_eq!(thin(&faults[..MAX_DRAWN]).len(), MAX_DRAWN);
    }

    #[test]
    fn a_histogram_counts_every_fault_once() {
        let faults: Vec<Fault> = (0..1000).map(|n| fault(n, n as u32 * 37)).collect();
        let histograms = histograms(&faults);
        assert_eq!(histograms[4].iter().map(|(_, count)| count).sum::<u64>(), 1000);
        assert_eq!(histograms[0], [(1, 1000)]);
    }
}
