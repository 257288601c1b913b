//! The marked part of `docs/compatibility.md`, made of what was seen in the cells. Pure but for the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
};

use anyhow::{Context, Result};

use crate::{
    guest_tests::cell::{self, Cell, Judged},
    workspace,
};

const BEGIN: &str = "<!-- cargo xtask matrix: begin -->\n";
const END: &str = "<!-- cargo xtask matrix: end -->\n";

/// The document.
pub fn path() -> PathBuf {
    workspace::root().join("docs/compatibility.md")
}

/// Writes the marked part anew.
pub fn write(cells: &[Cell]) -> Result<()> {
    let path = path();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    fs::write(&path, made(&text, cells)?).with_context(|| format!("cannot write {}", path.display()))
}

/// The document with its marked part anew.
pub fn made(text: &str, cells: &[Cell]) -> Result<String> {
    let marks = || format!("docs/compatibility.md needs the lines {} and {}", BEGIN.trim(), END.trim());
    let (before, rest) = text.split_once(BEGIN).with_context(marks)?;
    let (_, after) = rest.split_once(END).with_context(marks)?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", [table(cells), reasons(cells), lacks(cells)].join("\n")))
}

/// One line a cell.
fn table(cells: &[Cell]) -> String {
    let mut text = String::from("| kernel | IOMMU | its units | probes: attached, missing, broken |");
    let programs: Vec<&str> = cell::programs().collect();
    for program in &programs {
        let _ = write!(text, " {program} |");
    }
    text.push_str(" verdict |\n|---|---|---|---|");
    text.push_str(&"---|".repeat(programs.len() + 1));
    text.push('\n');
    for cell in cells {
        let units = match cell.units.as_slice() {
            [] if cell.iommu != "none" && !cell.driver => "no driver in this kernel".to_owned(),
            [] => "none".to_owned(),
            units => units.join(", "),
        };
        let _ = write!(
            text,
            "| {} ({}) | {} | {units} | {}, {}, {} |",
            cell.kernel,
            cell.version,
            cell.iommu,
            cell.attached,
            cell.missing.len(),
            cell.broken.len()
        );
        for program in &programs {
            let judged = match cell.programs.get(*program) {
                Some(Judged::Exact) => "exact",
                Some(Judged::NotApplicable(_)) => "–",
                Some(Judged::Wrong(_)) => "**wrong**",
                None => "not run",
            };
            let _ = write!(text, " {judged} |");
        }
        let _ = writeln!(text, " {} |", if cell.is_well() { "well" } else { "**bad**" });
    }
    text
}

/// Why a program does not run, by what it said itself, and what went wrong.
fn reasons(cells: &[Cell]) -> String {
    let mut not_run: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
    let mut wrong = String::new();
    for cell in cells {
        let place = format!("{} {}", cell.kernel, cell.iommu);
        for (program, judged) in &cell.programs {
            match judged {
                Judged::NotApplicable(why) => not_run.entry((program, line(why))).or_default().push(place.clone()),
                Judged::Wrong(why) => drop(writeln!(wrong, "- {place}, {program}: {}", line(why))),
                Judged::Exact => {}
            }
        }
        for (function, why) in &cell.broken {
            let _ = writeln!(wrong, "- {place}, `{function}` is broken: {}", line(why));
        }
        for trouble in &cell.trouble {
            let _ = writeln!(wrong, "- {place}: {}", line(trouble));
        }
    }
    let mut text =
        String::from("Why a program does not run (–), in its own words:\n\n| program | why | where |\n|---|---|---|\n");
    for ((program, why), places) in not_run {
        let _ = writeln!(text, "| {program} | {why} | {} |", places.join(", "));
    }
    if !wrong.is_empty() {
        let _ = write!(text, "\nWhat is not as it should be:\n\n{wrong}");
    }
    text
}

/// What each kernel lacks, and what that costs.
fn lacks(cells: &[Cell]) -> String {
    let mut lacking: BTreeMap<&str, (&str, BTreeSet<&str>)> = BTreeMap::new();
    for cell in cells {
        for (function, cost) in &cell.missing {
            lacking.entry(function).or_insert((cost, BTreeSet::new())).1.insert(&cell.kernel);
        }
    }
    let order: Vec<&str> = cells.iter().map(|cell| cell.kernel.as_str()).fold(Vec::new(), |mut order, kernel| {
        if !order.contains(&kernel) {
            order.push(kernel);
        }
        order
    });
    let mut text = String::from(
        "What a kernel lacks, and what that costs:\n\n| function | lacking in | without it |\n|---|---|---|\n",
    );
    for (function, (cost, kernels)) in lacking {
        let kernels: Vec<&str> = order.iter().copied().filter(|kernel| kernels.contains(kernel)).collect();
        let _ = writeln!(text, "| `{function}` | {} | {cost} |", kernels.join(", "));
    }
    text
}

/// A reason as one line of a table.
fn line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell() -> Cell {
        let mut cell = Cell {
            kernel: "stock-6.1".into(),
            version: "6.1.2-1".into(),
            iommu: "amd".into(),
            units: vec!["ivhd0".into()],
            attached: 20,
            ..Cell::default()
        };
        cell.missing.insert("f".into(), "f is not seen".into());
        cell.programs.insert("dma-fault".into(), Judged::Exact);
        cell.programs.insert("vfio".into(), Judged::NotApplicable("no /dev/iommu".into()));
        cell
    }

    #[test]
    fn only_the_marked_part_is_made_anew() {
        let text = format!("# Head\n{BEGIN}old\n{END}tail\n");
        let made = made(&text, &[cell()]).unwrap();
        assert!(made.starts_with("# Head\n") && made.ends_with("tail\n") && !made.contains("old"), "{made}");
        assert!(made.contains("| stock-6.1 (6.1.2-1) | amd | ivhd0 | 20, 1, 0 |"), "{made}");
        assert!(made.contains("| vfio | no /dev/iommu | stock-6.1 amd |"), "{made}");
        assert!(made.contains("| `f` | stock-6.1 | f is not seen |"), "{made}");
        assert!(!made.contains("What is not as it should be"), "{made}");
        assert!(super::made("no marks", &[]).is_err());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_cell() {
        let mut cell = cell();
        cell.broken.insert("g".into(), "refused\nat length".into());
        cell.programs.insert("iopf".into(), Judged::Wrong("differs | twice".into()));
        let made = made(&format!("{BEGIN}{END}"), &[cell]).unwrap();
        assert!(made.contains("- stock-6.1 amd, `g` is broken: refused\n"), "{made}");
        assert!(made.contains("iopf: differs \\| twice"), "{made}");
        assert!(made.contains("**bad**"), "{made}");
    }
}
