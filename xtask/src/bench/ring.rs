//! `cargo xtask bench --ring`: how much comes through the ring, and what a steady stream costs its reader.
//!
//! The measurement is `iommu-trace/benches/ring`: no guest, for the question is what happens when records come faster than any guest
//! here can make them. What it prints goes into docs/performance.md as it is.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::document;
use crate::{cargo, progress::say, workspace};

/// Seconds of each run that looks for losses.
const SECONDS: u32 = 2;

/// Measures, `soak` seconds of steady streams among it, and writes the tables into docs/performance.md unless told not to.
pub fn main(soak: u32, no_docs: bool) -> Result<u8> {
    let mut command = cargo::command();
    command
        .args(["bench", "--quiet", "--package", "iommu-trace", "--bench", "ring", "--"])
        .args(["--seconds", &SECONDS.to_string(), "--soak", &soak.to_string()])
        .current_dir(workspace::root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo bench")?;
    ensure!(output.status.success(), "cargo bench: {}", output.status);
    let tables = String::from_utf8(output.stdout).context("the tables are no text")?;
    let tables = tables.trim();
    ensure!(tables.contains("\n|--:|"), "there are no tables in {tables:?}");
    if no_docs {
        say(&format!("{tables}\n"));
    } else {
        document::write_ring(&format!("{tables}\n"))?;
    }
    Ok(0)
}
