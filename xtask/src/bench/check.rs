//! Whether tracing has become dearer: ratios to the floor, which is measured in the same run, against those that are recorded.
//!
//! Ratios, because another compiler or kernel moves both; and on the map workload what is added is so little that it is compared
//! as it is.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::{
    figures::Figures,
    modes::{BARE, FLOOR},
};
use crate::progress::say;

/// What a ratio may become worse by.
const MARGIN: f64 = 0.10;
/// Instructions an operation that are no difference.
const NOTHING: f64 = 25.0;

/// Compares; the exit status is 1 where something has become dearer or could not be measured.
pub fn compare(recorded: &[Figures], measured: &[Figures]) -> Result<u8> {
    ensure!(!recorded.is_empty(), "nothing is recorded yet: run `cargo xtask bench` first");
    let (before, now) = (ratios(recorded), ratios(measured));
    let mut bad = 0;
    for cell in measured.iter().filter(|cell| cell.error.is_some() || cell.lost.is_some_and(|lost| lost > 0)) {
        let why = cell.error.clone().unwrap_or_else(|| format!("{} records were lost", cell.lost.unwrap_or(0)));
        say(&format!("BAD  {} {}: {why}\n", cell.workload, cell.mode));
        bad += 1;
    }
    for (key, now) in now {
        let Some(before) = before.get(&key) else {
            say(&format!("new  {} {}: {:.2} × the floor\n", key.0, key.1, now.ratio));
            continue;
        };
        let worse = is_worse(before, &now);
        bad += u32::from(worse);
        say(&format!(
            "{} {} {}: {:.2} × the floor, was {:.2} ({:.0} instructions, was {:.0})\n",
            if worse { "BAD " } else { "ok  " },
            key.0,
            key.1,
            now.ratio,
            before.ratio,
            now.added,
            before.added
        ));
    }
    Ok(u8::from(bad > 0))
}

/// What a mode adds to an operation, and how that compares with what the floor adds.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    added: f64,
    ratio: f64,
}

fn is_worse(before: &Ratio, now: &Ratio) -> bool {
    now.ratio > before.ratio * (1.0 + MARGIN) && now.added > before.added + NOTHING
}

fn ratios(cells: &[Figures]) -> BTreeMap<(String, String), Ratio> {
    let added = |cell: &Figures| {
        let bare = cells.iter().find(|bare| bare.workload == cell.workload && bare.mode == BARE)?;
        Some(cell.instructions() - bare.instructions())
    };
    let of = |cell: &Figures| {
        let floor = cells.iter().find(|floor| floor.workload == cell.workload && floor.mode == FLOOR)?;
        let (added, floor) = (added(cell)?, added(floor)?);
        Some(((cell.workload.clone(), cell.mode.clone()), Ratio { added, ratio: added / floor }))
    };
    let compared = cells.iter().filter(|cell| cell.error.is_none() && cell.mode != BARE && cell.mode != FLOOR);
    compared.filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(mode: &str, workload: f64, tool: f64) -> Figures {
        Figures {
            workload: "fault".into(),
            mode: mode.into(),
            workload_instructions: workload,
            tool_instructions: tool,
            ..Figures::default()
        }
    }

    #[test]
    fn a_mode_is_compared_by_what_it_adds_over_what_the_floor_adds() {
        let cells = [cell(BARE, 10_000.0, 0.0), cell(FLOOR, 11_500.0, 500.0), cell("trace", 14_000.0, 2_000.0)];
        let ratios = ratios(&cells);
        assert_eq!(ratios.len(), 1);
        let trace = ratios[&("fault".to_owned(), "trace".to_owned())];
        assert!((trace.ratio - 3.0).abs() < 1e-9 && (trace.added - 6_000.0).abs() < 1e-9, "{trace:?}");
    }

    #[test]
    fn a_tenth_is_let_pass_and_more_is_not() {
        let before = Ratio { added: 6_000.0, ratio: 3.0 };
        assert!(!is_worse(&before, &Ratio { added: 6_500.0, ratio: 3.25 }));
        assert!(is_worse(&before, &Ratio { added: 6_800.0, ratio: 3.4 }));
        assert!(!is_worse(&before, &Ratio { added: 1_000.0, ratio: 0.5 }));
        // Where next to nothing is added, next to nothing more is nothing.
        assert!(!is_worse(&Ratio { added: 10.0, ratio: 0.1 }, &Ratio { added: 30.0, ratio: 0.3 }));
    }

    #[test]
    fn what_is_dearer_or_lost_fails() {
        let recorded = [cell(BARE, 10_000.0, 0.0), cell(FLOOR, 12_000.0, 0.0), cell("trace", 14_000.0, 0.0)];
        let mut measured = recorded.clone();
        assert_eq!(compare(&recorded, &measured).unwrap(), 0);
        measured[2].workload_instructions = 15_000.0;
        assert_eq!(compare(&recorded, &measured).unwrap(), 1);
        let mut lossy = recorded.clone();
        lossy[2].lost = Some(1);
        assert_eq!(compare(&recorded, &lossy).unwrap(), 1);
        assert!(compare(&[], &measured).is_err());
    }
}
