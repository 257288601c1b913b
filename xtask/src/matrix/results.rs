//! What was seen in the cells, kept beside the document that is made of it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use super::{all, document};
use crate::{
    guest_tests::cell::{Cell, name},
    workspace,
};

fn data() -> PathBuf {
    workspace::root().join("docs/compatibility.json")
}

/// All cells that were ever run, in the order of the matrix.
pub fn load() -> Result<Vec<Cell>> {
    let path = data();
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not what `cargo xtask matrix` writes", path.display()))
}

/// Puts a cell in the place of what was seen in it before, and makes the document anew.
pub fn merge(cell: Cell) -> Result<()> {
    let cells = merged(load()?, cell);
    let path = data();
    let text = serde_json::to_string_pretty(&cells)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    document::write(&cells)
}

fn merged(mut cells: Vec<Cell>, cell: Cell) -> Vec<Cell> {
    cells.retain(|old| (&old.kernel, &old.iommu) != (&cell.kernel, &cell.iommu));
    cells.push(cell);
    let place =
        |cell: &Cell| all().iter().position(|(kernel, iommu)| *kernel == cell.kernel && name(*iommu) == cell.iommu);
    cells.sort_by_key(place);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(kernel: &str, iommu: &str, attached: usize) -> Cell {
        Cell { kernel: kernel.into(), iommu: iommu.into(), attached, ..Cell::default() }
    }

    #[test]
    fn a_cell_takes_the_place_of_its_last_run_and_no_other() {
        let cells =
            merged(vec![cell("stock-6.1", "intel", 1), cell("stock-7.3", "amd", 2)], cell("stock-7.3", "amd", 3));
        let cells = merged(cells, cell("stock-6.1", "virtio", 4));
        let seen: Vec<_> =
            cells.iter().map(|cell| (cell.kernel.as_str(), cell.iommu.as_str(), cell.attached)).collect();
        assert_eq!(seen, [("stock-6.1", "intel", 1), ("stock-6.1", "virtio", 4), ("stock-7.3", "amd", 3)]);
    }

    #[test]
    fn the_document_is_made_of_the_data() {
        if std::env::var_os("UPDATE_DOCS").is_some() {
            document::write(&load().unwrap()).unwrap();
        }
        let there = fs::read_to_string(document::path()).unwrap();
        let made = document::made(&there, &load().unwrap()).unwrap();
        assert!(there == made, "docs/compatibility.md is out of step: UPDATE_DOCS=1 cargo test -p xtask --lib matrix");
    }
}
