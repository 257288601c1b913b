//! Runs the cells of a workload in guests, and hands on the figures of each as they come.

use std::{
    fs,
    io::{self, Write},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    KERNEL,
    figures::{Figures, Seen},
    modes::{Mode, Recipe, SCRIPTS, TOOLS},
    tools,
    workloads::Workload,
};
use crate::{
    arch::Arch,
    kernel::{self, Image},
    programs::Programs,
    qemu::Iommu,
    vm::Vm,
};

/// A guest's wall-clock limit: emulated, and on a machine that may be busy.
const LIMIT: Duration = Duration::from_secs(45 * 60);
/// The share of the operations that are enough to see the BPF programs' run times.
const STATISTICS_SHARE: u32 = 5;

/// Runs all of them. `quick`: without the run times of BPF programs.
pub fn all(
    workload: &Workload,
    modes: &[&Mode],
    quick: bool,
    seen: &mut dyn FnMut(Figures) -> Result<()>,
) -> Result<()> {
    crate::vm::require_qemu()?;
    let image = kernel::find(KERNEL)?;
    let mut programs = Programs::build(Arch::Amd64, false)?;
    for package in ["iommu-trace", "iommu-trace-floor"] {
        programs.add_optimised(package)?;
    }
    let cells: Vec<(&Mode, Recipe)> = modes.iter().filter_map(|mode| Some((*mode, mode.recipe(workload)?))).collect();
    // Debian's tools fill the guest's memory: only those who need them have them.
    let (ours, others): (Vec<_>, Vec<_>) = cells.into_iter().partition(|(_, recipe)| !recipe.tools);
    guest(&image, &programs, workload, &ours, quick, seen)?;
    guest(&image, &programs, workload, &others, quick, seen)
}

fn guest(
    image: &Image,
    programs: &Programs,
    workload: &Workload,
    cells: &[(&Mode, Recipe)],
    quick: bool,
    seen: &mut dyn FnMut(Figures) -> Result<()>,
) -> Result<()> {
    if cells.is_empty() {
        return Ok(());
    }
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let mut lines = Vec::new();
    for (mode, recipe) in cells {
        lines.push(case(mode, recipe, workload, quick));
    }
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(dir.path().join("cases"), lines.join("\n")).context("cannot write the cases")?;
    for (name, script) in SCRIPTS.iter().zip(workload.bpftrace) {
        fs::write(dir.path().join(format!("{}-{name}.bt", workload.name)), script)?;
    }
    fs::write(dir.path().join(format!("{}.events", workload.name)), workload.events)?;
    let mut vm = Vm::new(image, programs)
        .iommu(Iommu::None)
        .icount(true)
        .smp(1)
        .memory("2G")
        .timeout(LIMIT)
        .copy(dir.path(), "/scripts")
        .command(["guest", "bench", "/scripts/cases"]);
    if cells.iter().any(|(_, recipe)| recipe.tools) {
        vm = vm.tree(tools::get()?.0, TOOLS);
    }
    let mut taken = Taken { rest: Vec::new(), cells, workload, image, seen };
    let mut errors = Vec::new();
    let outcome = vm.run_into(&mut taken, &mut errors)?;
    outcome.success().with_context(|| String::from_utf8_lossy(&errors).into_owned())?;
    Ok(())
}

/// A line for `guest bench`.
fn case(mode: &Mode, recipe: &Recipe, workload: &Workload, quick: bool) -> Value {
    let ready = recipe.says.map_or_else(|| json!("command"), |words| json!({ "says": words }));
    json!({
        "name": mode.name,
        "tool": recipe.tool,
        "ready": ready,
        "stop": if recipe.ends { "command" } else { "terminate" },
        "terminal": recipe.terminal,
        "workload": workload.command.split(' ').collect::<Vec<_>>(),
        "n": recipe.n,
        "n_statistics": if quick { 0 } else { statistics(recipe) },
        "warm_up": workload.warm_up,
        "before": recipe.before,
        "verify": recipe.verify,
        "after": recipe.after,
    })
}

/// How often the workload does its thing while BPF programs are timed.
fn statistics(recipe: &Recipe) -> u32 {
    (recipe.n / STATISTICS_SHARE).max(1)
}

/// Takes the guest's lines as they come.
struct Taken<'a> {
    rest: Vec<u8>,
    cells: &'a [(&'a Mode, Recipe)],
    workload: &'a Workload,
    image: &'a Image,
    seen: &'a mut dyn FnMut(Figures) -> Result<()>,
}

impl Taken<'_> {
    fn line(&mut self, line: &str) -> Result<()> {
        let outcome: Value = serde_json::from_str(line).with_context(|| format!("{line:?} is no outcome"))?;
        let name = outcome["name"].as_str().unwrap_or_default();
        let Some((mode, recipe)) = self.cells.iter().find(|(mode, _)| mode.name == name) else {
            bail!("nobody has asked for {name}");
        };
        let seen = Seen { account: recipe.account, statistics: statistics(recipe), outcome: &outcome };
        (self.seen)(Figures::of(self.workload, mode, &self.image.version, &seen))
    }
}

impl Write for Taken<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        while let Some(at) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=at).collect();
            self.line(String::from_utf8_lossy(&line).trim()).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
