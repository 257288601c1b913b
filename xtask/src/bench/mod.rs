//! `cargo xtask bench`: what a traced operation costs, in instructions, against what people would use instead.
//!
//! Guests run under QEMU's `-icount`, where a nanosecond is an instruction of the guest's one CPU, so that figures hardly depend
//! on what else the machine does. `guest bench` runs a workload with and without a tracer, and reads everybody's CPU clocks.
//! `modes` is the table of what is measured; the figures go to `docs/performance.json`, and `docs/performance.md` and its
//! plots are made of them.

mod aims;
mod check;
mod document;
mod figures;
mod modes;
mod plot;
mod results;
mod ring;
mod run;
mod scale;
mod tools;
mod workloads;

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use self::{
    figures::Figures,
    modes::{MODES, Mode},
    workloads::{WORKLOADS, Workload},
};
use crate::progress::{elapsed, say};

/// The kernel that everything is measured on.
pub const KERNEL: &str = "built-7.3";

/// Options of `cargo xtask bench`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Measure this mode only (and the workload alone); may be repeated
    #[arg(long, value_name = "MODE")]
    only: Vec<String>,
    /// Measure with this workload only; may be repeated
    #[arg(long, value_name = "WORKLOAD")]
    workload: Vec<String>,
    /// Measure our own modes and the floor again, compare with what is recorded, and fail where a ratio to the floor has
    /// become worse by more than a tenth; records nothing
    #[arg(long)]
    check: bool,
    /// Measure how many threads that fault at once `record` keeps up with, in rings of several sizes, in place of the modes
    #[arg(long, conflicts_with_all = ["only", "workload", "check"])]
    scale: bool,
    /// Measure how much comes through the ring from producers that are faster than a kernel, and what steady streams cost its reader, in
    /// place of the modes
    #[arg(long, conflicts_with_all = ["only", "workload", "check", "scale"])]
    ring: bool,
    /// How long the steady streams of --ring are
    #[arg(long, value_name = "N", default_value_t = 10, requires = "ring", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Show the modes and workloads, and measure nothing
    #[arg(long)]
    list: bool,
    /// Leave docs/performance.md, its data and its plots as they are
    #[arg(long)]
    no_docs: bool,
    /// Show what each tracer said
    #[arg(long)]
    verbose: bool,
}

/// Measures; the exit status is 1 where something could not be measured, or a check failed.
pub fn main(arguments: &Arguments) -> Result<u8> {
    if arguments.list {
        for workload in WORKLOADS {
            say(&format!("workload {:<10} {}\n", workload.name, workload.about));
        }
        for mode in MODES {
            say(&format!("mode     {:<18} {}\n", mode.name, mode.about));
        }
        return Ok(0);
    }
    if arguments.scale {
        return scale::main(arguments.no_docs);
    }
    if arguments.ring {
        return ring::main(arguments.seconds, arguments.no_docs);
    }
    let selected = select(arguments)?;
    // Before anything is run: what cannot be added to would be lost.
    let recorded = results::load()?;
    let started = Instant::now();
    let mut measured: Vec<Figures> = Vec::new();
    let mut bad = 0;
    for (workload, modes) in selected {
        let mut seen = |figures: Figures| {
            say(&format!("{:<8} {:<18} {}\n", workload.name, figures.mode, figures.line()));
            if arguments.verbose && !figures.said.is_empty() {
                say(&format!("{}\n", figures.said));
            }
            bad += u8::from(figures.error.is_some());
            if !arguments.check && !arguments.no_docs {
                // At once, so that one that never ends costs no other's.
                results::merge(&figures)?;
            }
            measured.push(figures);
            Ok(())
        };
        run::all(workload, &modes, arguments.check, &mut seen)?;
    }
    say(&format!("{} cells in {}\n", measured.len(), elapsed(started.elapsed())));
    if arguments.check {
        return check::compare(&recorded, &measured);
    }
    Ok(u8::from(bad > 0))
}

/// The workloads with their modes.
fn select(arguments: &Arguments) -> Result<Vec<(&'static Workload, Vec<&'static Mode>)>> {
    for name in &arguments.only {
        if !MODES.iter().any(|mode| mode.name == name) {
            bail!("there is no mode {name}: `cargo xtask bench --list` has them");
        }
    }
    for name in &arguments.workload {
        if !WORKLOADS.iter().any(|workload| workload.name == name) {
            bail!("there is no workload {name}: `cargo xtask bench --list` has them");
        }
    }
    let wanted = |workload: &Workload, mode: &Mode| {
        let asked = arguments.only.is_empty() || arguments.only.iter().any(|name| name == mode.name);
        // What is added needs what there is without, and a ratio needs the floor.
        mode.name == modes::BARE
            || if arguments.check {
                workload.checked.contains(&mode.name) && (asked || mode.name == modes::FLOOR)
            } else {
                asked
            }
    };
    Ok(WORKLOADS
        .iter()
        .filter(|workload| arguments.workload.is_empty() || arguments.workload.iter().any(|name| name == workload.name))
        .filter(|workload| !arguments.check || !workload.checked.is_empty())
        .map(|workload| {
            let modes = MODES.iter().filter(|mode| wanted(workload, mode) && mode.recipe(workload).is_some()).collect();
            (workload, modes)
        })
        .collect())
}
