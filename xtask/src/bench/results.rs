//! The figures as they were measured last, kept beside the document that is made of them.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::{document, figures::Figures, modes::MODES, plot, workloads::WORKLOADS};
use crate::workspace;

fn data() -> PathBuf {
    workspace::root().join("docs/performance.json")
}

/// All cells that were ever measured, in the order of the tables.
pub fn load() -> Result<Vec<Figures>> {
    let path = data();
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what `cargo xtask bench` writes", path.display()))
}

/// Puts a cell in the place of what was measured before, and makes document and plots anew.
pub fn merge(cell: &Figures) -> Result<()> {
    let cells = merged(load()?, cell.clone());
    let path = data();
    let text = serde_json::to_string_pretty(&cells)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    document::write(&cells)?;
    plot::write(&cells)
}

fn merged(mut cells: Vec<Figures>, mut cell: Figures) -> Vec<Figures> {
    cell.round();
    cells.retain(|old| (&old.workload, &old.mode) != (&cell.workload, &cell.mode));
    cells.push(cell);
    let place = |cell: &Figures| {
        let workload = WORKLOADS.iter().position(|workload| workload.name == cell.workload);
        (workload, MODES.iter().position(|mode| mode.name == cell.mode))
    };
    // What was renamed has no place any more.
    cells.retain(|cell| matches!(place(cell), (Some(_), Some(_))));
    cells.sort_by_key(place);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(workload: &str, mode: &str, functions: u64) -> Figures {
        Figures { workload: workload.into(), mode: mode.into(), functions, ..Figures::default() }
    }

    #[test]
    fn a_cell_takes_the_place_of_its_last_run_and_no_other() {
        let cells = merged(vec![cell("fault", "trace", 1), cell("map", "bare", 2)], cell("map", "bare", 3));
        let cells = merged(cells, cell("fault", "bare", 4));
        let cells = merged(cells, cell("fault", "gone", 5));
        let seen: Vec<_> =
            cells.iter().map(|cell| (cell.workload.as_str(), cell.mode.as_str(), cell.functions)).collect();
        assert_eq!(seen, [("fault", "bare", 4), ("fault", "trace", 1), ("map", "bare", 3)]);
    }

    #[test]
    fn the_document_is_made_of_the_data() {
        let cells = load().unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            document::write(&cells).unwrap();
            plot::write(&cells).unwrap();
        }
        let there = fs::read_to_string(document::path()).unwrap();
        let made = document::made(&there, &cells).unwrap();
        assert!(there == made, "docs/performance.md is out of step: UPDATE_DOCS=1 cargo test -p xtask --lib bench");
    }
}
