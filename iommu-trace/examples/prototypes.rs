//! Compares kernels' types with what the probes were written against: `NAME=DIRECTORY`, each a copy of `/sys/kernel/btf`.
//!
//! It is what `cargo xtask prototypes` runs, which knows where kernels come from. Prints Markdown: a table of the probes, how
//! those that differ do, and the structure members that are missing.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use anyhow::Context as _;
use iommu_trace::{
    kernel::Types,
    probes::drift::{Comparison, Drift},
};

fn main() -> anyhow::Result<()> {
    let mut kernels = Vec::new();
    for argument in std::env::args().skip(1) {
        let (name, dir) = argument.split_once('=').context("an argument is NAME=DIRECTORY")?;
        let types = Types::load(Path::new(dir)).with_context(|| format!("kernel {name}"))?;
        kernels.push((name.to_owned(), Comparison::of(&types)));
    }
    let Some((_, first)) = kernels.first() else { anyhow::bail!("no kernel is named: NAME=DIRECTORY…") };
    let mut out = io::stdout().lock();
    let names: Vec<&str> = kernels.iter().map(|(name, _)| name.as_str()).collect();
    writeln!(out, "| function | {} |", names.join(" | "))?;
    writeln!(out, "|---|{}", "---|".repeat(names.len()))?;
    // What differs, told once for the kernels that agree in it.
    let mut notes: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for (row, (probe, _)) in first.probes.iter().enumerate() {
        let function = probe.id.function();
        let mut cells = Vec::new();
        for (name, comparison) in &kernels {
            let drift = &comparison.probes[row].1;
            cells.push(match drift {
                Drift::Same => "same",
                Drift::Missing => "–",
                Drift::Differs(how) => {
                    notes.entry((function.to_owned(), how.join("; "))).or_default().push(name);
                    "**differs**"
                }
            });
        }
        writeln!(out, "| `{function}` | {} |", cells.join(" | "))?;
    }
    writeln!(out, "\nWhat differs:\n")?;
    for ((function, how), names) in &notes {
        writeln!(out, "- `{function}`, {}: {how}", names.join(", "))?;
    }
    if notes.is_empty() {
        writeln!(out, "- nothing")?;
    }
    writeln!(out, "\nStructure members that are read and not there:\n")?;
    for (name, comparison) in &kernels {
        let absent: Vec<String> =
            comparison.absent.iter().map(|field| format!("`{}.{}`", field.structure(), field.path())).collect();
        writeln!(out, "- {name}: {}", if absent.is_empty() { "none".to_owned() } else { absent.join(", ") })?;
    }
    Ok(())
}
