//! Stops between two steps of a program, where somebody else looks at the kernel.

use std::cell::Cell;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::group::Group;
use crate::sys;
use crate::truth::{Fact, Truth};

/// Where a program stops. Nothing changes while the command runs.
pub struct Steps {
    command: Option<String>,
    truth: Arc<Truth>,
    count: Cell<u32>,
}

impl Steps {
    /// With a command for the shell; without one, nothing stops.
    pub fn new(command: Option<&str>, truth: &Arc<Truth>) -> Self {
        Self { command: command.map(str::to_owned), truth: Arc::clone(truth), count: Cell::new(0) }
    }

    /// Tells how the groups are, and runs the command with the step's number in `STEP`.
    pub fn after(&self, what: &'static str) -> Result<()> {
        let Some(command) = &self.command else { return Ok(()) };
        let step = self.count.get();
        self.count.set(step + 1);
        self.truth.tell(&Fact::Step { step, after: what, groups: Group::all_views(), ts: sys::now() });
        let status = Command::new("sh")
            .args(["-c", command])
            .env("STEP", step.to_string())
            .status()
            .with_context(|| format!("cannot run {command:?}"))?;
        ensure!(status.success(), "{command:?} after {what}: {status}");
        Ok(())
    }
}
