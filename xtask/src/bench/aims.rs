//! What the project wants to come to, and whether it does. Pure.

use super::{
    figures::Figures,
    modes::{AGGREGATING, BARE, FILTERED, FLOOR, PRINTING, TWO},
};

/// Something wanted of a cell, in words with the figure that was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aim {
    /// What, and what it is.
    pub words: String,
    /// Whether it is reached.
    pub reached: bool,
}

/// What a cell's operation costs more than one that nobody traces.
#[must_use]
pub fn added(cells: &[Figures], cell: &Figures) -> Option<f64> {
    let bare = find(cells, &cell.workload, BARE)?;
    Some(cell.instructions() - bare.instructions())
}

/// A cell that was measured.
#[must_use]
pub fn find<'a>(cells: &'a [Figures], workload: &str, mode: &str) -> Option<&'a Figures> {
    cells.iter().find(|cell| cell.workload == workload && cell.mode == mode && cell.error.is_none())
}

/// What is wanted of a cell.
#[must_use]
pub fn of(cells: &[Figures], cell: &Figures) -> Vec<Aim> {
    let added_by = |mode: &str| added(cells, find(cells, &cell.workload, mode)?);
    let own = added(cells, cell);
    let times = |limit: f64, mode: &str, words: &str| {
        let ratio = own? / added_by(mode)?;
        Some(Aim { words: format!("at most {words}: {ratio:.2}"), reached: ratio <= limit })
    };
    let mut aims = Vec::new();
    match (cell.workload.as_str(), cell.mode.as_str()) {
        ("fault", "record") => {
            aims.push(times(1.3, FLOOR, "1.3 × the floor"));
            aims.push(times(0.1, PRINTING, "0.1 × bpftrace printing"));
            aims.push(cell.lost.map(|lost| Aim { words: format!("nothing lost: {lost}"), reached: lost == 0 }));
            let mib = cell.resident_kib as f64 / 1024.0;
            aims.push(Some(Aim { words: format!("below 20 MiB resident: {mib:.1}"), reached: mib < 20.0 }));
            aims.push(find(cells, &cell.workload, TWO).map(|two| Aim {
                words: format!("attached before bpftrace has two functions ({:.0} M)", two.attach_million),
                reached: cell.attach_million < two.attach_million,
            }));
        }
        ("fault", "trace-json") => aims.push(times(1.0 / 3.0, PRINTING, "a third of bpftrace printing")),
        ("fault", FILTERED) => aims.push(own.zip(cell.bpf_runs.filter(|runs| *runs > 0.0)).map(|(own, runs)| {
            let each = own / runs;
            Aim { words: format!("at most 150 a probe hit: {each:.0}"), reached: each <= 150.0 }
        })),
        ("map", "trace-sums") => {
            aims.push(own.map(|own| Aim { words: format!("at most 300: {own:.0}"), reached: own <= 300.0 }));
            aims.push(times(1.0, AGGREGATING, "what bpftrace counting adds"));
        }
        _ => {}
    }
    aims.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(workload: &str, mode: &str, instructions: f64) -> Figures {
        Figures {
            workload: workload.into(),
            mode: mode.into(),
            workload_instructions: instructions,
            ..Figures::default()
        }
    }

    #[test]
    fn an_aim_is_judged_by_what_is_added() {
        let cells = [
            cell("fault", BARE, 10_000.0),
            cell("fault", FLOOR, 12_000.0),
            cell("fault", PRINTING, 40_000.0),
            cell("fault", "record", 12_500.0),
            cell("fault", "trace-json", 21_000.0),
        ];
        let record = of(&cells, &cells[3]);
        assert_eq!(record[0], Aim { words: "at most 1.3 × the floor: 1.25".into(), reached: true });
        assert_eq!(record[1], Aim { words: "at most 0.1 × bpftrace printing: 0.08".into(), reached: true });
        assert_eq!(
            of(&cells, &cells[4]),
            [Aim { words: "at most a third of bpftrace printing: 0.37".into(), reached: false }]
        );
        // What is not measured is not judged.
        assert_eq!(of(&cells[3..4], &cells[3]).len(), 1);
    }
}
