//! `cargo xtask demo`: a live trace, or the dashboard, of a mixed workload in a guest.

use std::{
    io::{IsTerminal, stderr, stdin, stdout},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{kernel, programs::Programs, qemu::Iommu, setup, vm::Vm};

/// The tracer.
const TRACE: &[&str] = &["iommu-trace", "trace", "--"];
/// The dashboard, with everything that its views can show.
const TOP: &[&str] = &["iommu-trace", "top", "--dma", "--"];
/// What it watches. The workload's own account of what it does is for tests: here it would only be in the way.
const WORKLOAD: &[&str] = &["guest", "--truth", "/dev/null", "workload", "mixed", "--seconds"];
/// How long the dashboard may be looked at.
const TOP_LIMIT: Duration = Duration::from_secs(3600);

/// Options of `cargo xtask demo`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// A kernel of `cargo xtask kernel list`, or a bzImage
    #[arg(long, default_value = "built-7.3")]
    kernel: String,
    /// The emulated IOMMU
    #[arg(long, value_enum, default_value_t)]
    iommu: Iommu,
    /// How long the workload runs (the dashboard stays until it is left)
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// Open the dashboard on it, instead of a trace: `q` leaves
    #[arg(long)]
    top: bool,
}

/// Runs it; the exit status is that of the tracer.
pub fn main(arguments: &Arguments) -> Result<u8> {
    if arguments.top && !(stdin().is_terminal() && stdout().is_terminal()) {
        bail!("--top needs a terminal on standard input and output");
    }
    setup::ensure(arguments.iommu.arch())?;
    let image = kernel::find(&arguments.kernel)?;
    let programs = Programs::build(crate::arch::Arch::Amd64, true)?;
    let tracer = if arguments.top { TOP } else { TRACE };
    let words = tracer.iter().chain(WORKLOAD).map(|&word| word.to_owned());
    let command = words.chain([arguments.seconds.to_string()]);
    eprintln!("xtask: booting {} {} …", image.name, image.version);
    let mut vm = Vm::new(&image, &programs)
        .command(command)
        .iommu(arguments.iommu)
        .terminal(arguments.top)
        .timeout(if arguments.top { TOP_LIMIT } else { Duration::from_secs(u64::from(arguments.seconds) + 90) });
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        vm = vm.env("NO_COLOR", "1");
    } else if stdout().is_terminal() {
        // In the guest, output is no terminal; here, it is.
        vm = vm.env("CLICOLOR_FORCE", "1");
    }
    if let Ok(size) = rustix::termios::tcgetwinsize(stdout())
        && size.ws_col > 0
    {
        vm = vm.env("COLUMNS", size.ws_col.to_string());
    }
    let outcome = vm.run_into(&mut stdout().lock(), &mut stderr().lock())?;
    if let Some(trouble) = outcome.trouble() {
        eprintln!("xtask: {trouble}\n{}", outcome.console_tail());
    }
    Ok(outcome.exit_code())
}
