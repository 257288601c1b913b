//! `cargo xtask matrix`: every kernel with every IOMMU, and `docs/compatibility.md` made of what was seen.

mod document;
mod results;

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    guest_tests::{
        Ctx,
        cell::{self, Cell, Judged, name},
    },
    progress::{elapsed, say},
    qemu::Iommu,
};

/// The kernels, oldest first. Those with the test device of iommufd are run without an IOMMU, too.
const KERNELS: &[&str] = &["stock-6.1", "stock-6.12", "stock-6.18", "stock-7.3", "built-6.12", "built-7.3"];
/// The IOMMUs that each of them is run with.
const IOMMUS: &[Iommu] = &[Iommu::Intel, Iommu::Amd, Iommu::Virtio];
/// The kernels for arm64, oldest first, which are run with SMMUv3.
const ARM64_KERNELS: &[&str] = &["stock-6.1-arm64", "stock-6.12-arm64", "stock-7.3-arm64"];

/// Options of `cargo xtask matrix`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Run the cells of this kernel only; may be repeated
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
    /// Run the cells of this IOMMU only; may be repeated
    #[arg(long, value_name = "IOMMU")]
    iommu: Vec<String>,
    /// Show the cells, with what was seen in them last, and run none
    #[arg(long)]
    list: bool,
    /// Leave docs/compatibility.md and its data as they are
    #[arg(long)]
    no_docs: bool,
}

/// Runs the cells; the exit status is 1 if something in one is broken or told otherwise than it was.
pub fn main(arguments: &Arguments) -> Result<u8> {
    let cells = select(arguments)?;
    if arguments.list {
        let seen = results::load()?;
        for (kernel, iommu) in cells {
            let iommu = name(iommu);
            let last = seen.iter().find(|cell| cell.kernel == kernel && cell.iommu == iommu);
            say(&format!("{kernel:<17}{iommu:<8} {}\n", last.map_or_else(|| "-".to_owned(), summary)));
        }
        return Ok(0);
    }
    // Before anything is run: what cannot be added to would be lost.
    results::load()?;
    let ctx = Ctx::default();
    let mut bad = 0;
    for (kernel, iommu) in cells {
        say(&format!("{kernel:<17}{:<8} ", name(iommu)));
        let started = Instant::now();
        let cell = cell::run(&ctx, kernel, iommu);
        say(&format!("{} ({})\n", summary(&cell), elapsed(started.elapsed())));
        for line in complaints(&cell) {
            say(&format!("  {line}\n"));
        }
        bad += u8::from(!cell.is_well());
        // After each cell, so that one that never ends costs no other's.
        if !arguments.no_docs {
            results::merge(cell)?;
        }
    }
    Ok(u8::from(bad > 0))
}

/// All cells.
fn all() -> Vec<(&'static str, Iommu)> {
    let of = |kernel: &&'static str| {
        let alone = kernel.starts_with("built-").then_some(Iommu::None);
        let kernel = *kernel;
        IOMMUS.iter().copied().chain(alone).map(move |iommu| (kernel, iommu)).collect::<Vec<_>>()
    };
    let arm64 = ARM64_KERNELS.iter().map(|&kernel| (kernel, Iommu::Smmuv3));
    KERNELS.iter().flat_map(of).chain(arm64).collect()
}

fn select(arguments: &Arguments) -> Result<Vec<(&'static str, Iommu)>> {
    let all = all();
    let kernels: BTreeSet<String> = all.iter().map(|(kernel, _)| (*kernel).to_owned()).collect();
    let iommus: BTreeSet<String> = all.iter().map(|(_, iommu)| name(*iommu)).collect();
    for (what, asked, there) in [("kernel", &arguments.kernel, &kernels), ("IOMMU", &arguments.iommu, &iommus)] {
        if let Some(unknown) = asked.iter().find(|asked| !there.contains(*asked)) {
            let there: Vec<&str> = there.iter().map(String::as_str).collect();
            bail!("the matrix has no {what} {unknown}: it has {}", there.join(", "));
        }
    }
    let wanted = |asked: &[String], name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
    Ok(all
        .into_iter()
        .filter(|(kernel, iommu)| wanted(&arguments.kernel, kernel) && wanted(&arguments.iommu, &name(*iommu)))
        .collect())
}

/// A cell in one line.
fn summary(cell: &Cell) -> String {
    let count = |wanted: fn(&Judged) -> bool| cell.programs.values().filter(|judged| wanted(judged)).count();
    format!(
        "{}: {} probes attached, {} missing, {} broken; {} programs traced exactly, {} wrong, {} not applicable",
        if cell.is_well() { "ok" } else { "BAD" },
        cell.attached,
        cell.missing.len(),
        cell.broken.len(),
        count(|judged| *judged == Judged::Exact),
        count(|judged| matches!(judged, Judged::Wrong(_))),
        count(|judged| matches!(judged, Judged::NotApplicable(_))),
    )
}

/// What is wrong in a cell.
fn complaints(cell: &Cell) -> Vec<String> {
    let broken = cell.broken.iter().map(|(function, why)| format!("{function} is broken: {why}"));
    let wrong = cell.programs.iter().filter_map(|(program, judged)| match judged {
        Judged::Wrong(why) => Some(format!("{program}: {why}")),
        _ => None,
    });
    cell.trouble.iter().cloned().chain(broken).chain(wrong).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(kernel: &[&str], iommu: &[&str]) -> Arguments {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Arguments { kernel: owned(kernel), iommu: owned(iommu), list: false, no_docs: true }
    }

    #[test]
    fn cells_are_selected_by_kernel_and_iommu() {
        assert_eq!(select(&arguments(&[], &[])).unwrap().len(), KERNELS.len() * IOMMUS.len() + 2 + ARM64_KERNELS.len());
        let one = select(&arguments(&["stock-6.1"], &["amd"])).unwrap();
        assert_eq!(one, [("stock-6.1", Iommu::Amd)]);
        assert_eq!(select(&arguments(&[], &["none"])).unwrap().len(), 2);
        assert_eq!(select(&arguments(&[], &["smmuv3"])).unwrap().len(), ARM64_KERNELS.len());
        let error = select(&arguments(&["stock-5.10"], &[])).unwrap_err().to_string();
        assert!(error.contains("stock-6.12"), "{error}");
        assert!(select(&arguments(&[], &["smmu"])).is_err());
    }

    #[test]
    fn every_kernel_is_one_of_the_catalogue() {
        for (kernel, _) in all() {
            assert!(crate::kernel::CATALOGUE.iter().any(|entry| entry.name == kernel), "{kernel}");
        }
    }
}
