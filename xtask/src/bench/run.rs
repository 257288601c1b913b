//! Runs the cells of a workload in guests, and hands on the figures of each as they come.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    KERNEL,
    figures::{Figures, Seen},
    modes::{Mode, Recipe, SCRIPTS, TOOLS, Whose},
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
pub fn all(workload: &Workload, modes: &[&Mode], quick: bool, seen: &mut dyn FnMut(Figures)) -> Result<()> {
    crate::vm::require_qemu()?;
    let image = kernel::find(KERNEL)?;
    let mut programs = Programs::build(Arch::Amd64, true)?;
    programs.add("iommu-trace-floor")?;
    let cells: Vec<(&Mode, Recipe)> = modes.iter().filter_map(|mode| Some((*mode, mode.recipe(workload)?))).collect();
    // Debian's tools fill the guest's memory: only those who need them have them. And the kernel's own probes have to be set
    // once a boot only.
    let (ours, others): (Vec<_>, Vec<_>) = cells.into_iter().partition(|(_, recipe)| !recipe.tools);
    guest(&image, &programs, workload, &ours, quick, seen)?;
    for cell in others {
        guest(&image, &programs, workload, std::slice::from_ref(&cell), quick, seen)?;
    }
    Ok(())
}

fn guest(
    image: &Image,
    programs: &Programs,
    workload: &Workload,
    cells: &[(&Mode, Recipe)],
    quick: bool,
    seen: &mut dyn FnMut(Figures),
) -> Result<()> {
    if cells.is_empty() {
        return Ok(());
    }
    let dir = tempfile::tempdir().context("cannot make a directory")?;
    let mut lines = Vec::new();
    for (mode, recipe) in cells {
        lines.push(case(mode, recipe, workload, false));
        if !quick && mode.whose != Whose::Nobody {
            lines.push(case(mode, recipe, workload, true));
        }
    }
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(dir.path().join("cases"), text).context("cannot write the cases")?;
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
    let mut taken = Taken { rest: Vec::new(), told: BTreeMap::new(), cells, workload, image, quick, seen };
    let mut errors = Vec::new();
    let outcome = vm.run_into(&mut taken, &mut errors)?;
    outcome.success().with_context(|| String::from_utf8_lossy(&errors).into_owned())?;
    Ok(())
}

/// A line for `guest bench`.
fn case(mode: &Mode, recipe: &Recipe, workload: &Workload, statistics: bool) -> Value {
    let ready = recipe.says.map_or_else(|| json!("command"), |words| json!({ "says": words }));
    json!({
        "name": if statistics { format!("{}+", mode.name) } else { mode.name.to_owned() },
        "tool": recipe.tool,
        "ready": ready,
        "stop": if recipe.ends { "command" } else { "terminate" },
        "terminal": recipe.terminal,
        "workload": workload.command.split(' ').collect::<Vec<_>>(),
        "n": if statistics { (recipe.n / STATISTICS_SHARE).max(1) } else { recipe.n },
        "warm_up": workload.warm_up,
        "bpf_statistics": statistics,
        "before": recipe.before,
        "verify": if statistics { "" } else { &recipe.verify },
        "after": recipe.after,
    })
}

/// Takes the guest's lines as they come: first a mode's figures, then the run times of its BPF programs.
struct Taken<'a> {
    rest: Vec<u8>,
    told: BTreeMap<String, Value>,
    cells: &'a [(&'a Mode, Recipe)],
    workload: &'a Workload,
    image: &'a Image,
    quick: bool,
    seen: &'a mut dyn FnMut(Figures),
}

impl Taken<'_> {
    fn line(&mut self, line: &str) -> Result<()> {
        let value: Value = serde_json::from_str(line).with_context(|| format!("{line:?} is no outcome"))?;
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        let (mode_name, statistics) = name.strip_suffix('+').map_or((name.as_str(), false), |mode| (mode, true));
        let Some((mode, recipe)) = self.cells.iter().find(|(mode, _)| mode.name == mode_name) else {
            bail!("nobody has asked for {name}");
        };
        let whole = statistics || self.quick || mode.whose == Whose::Nobody;
        if !whole {
            self.told.insert(name, value);
            return Ok(());
        }
        let (first, second) = if statistics {
            let first = self.told.remove(mode_name);
            (first.with_context(|| format!("{mode_name} is not told"))?, Some(value))
        } else {
            (value, None)
        };
        let seen = Seen { account: recipe.account, outcome: &first, statistics: second.as_ref() };
        (self.seen)(Figures::of(self.workload, mode, &self.image.version, &seen));
        Ok(())
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
