//! `cargo xtask demo`: a live trace of a mixed workload, in a guest.

use std::{
    io::{IsTerminal, stderr, stdout},
    time::Duration,
};

use anyhow::Result;
use clap::Args;

use crate::{kernel, programs::Programs, qemu::Iommu, setup, vm::Vm};

/// What runs in the guest. The workload's own account of what it does is for tests: here it would only be in the way.
const COMMAND: &[&str] =
    &["iommu-trace", "trace", "--", "guest", "--truth", "/dev/null", "workload", "mixed", "--seconds"];

/// Options of `cargo xtask demo`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// A kernel of `cargo xtask kernel list`, or a bzImage
    #[arg(long, default_value = "built-7.3")]
    kernel: String,
    /// The emulated IOMMU
    #[arg(long, value_enum, default_value_t)]
    iommu: Iommu,
    /// How long the workload runs
    #[arg(long, default_value_t = 20)]
    seconds: u32,
}

/// Runs it; the exit status is that of the tracer.
pub fn main(arguments: &Arguments) -> Result<u8> {
    setup::ensure()?;
    let image = kernel::find(&arguments.kernel)?;
    let programs = Programs::build(true)?;
    let command = COMMAND.iter().map(|&word| word.to_owned()).chain([arguments.seconds.to_string()]);
    eprintln!("xtask: booting {} {} …", image.name, image.version);
    let mut vm = Vm::new(&image, &programs)
        .command(command)
        .iommu(arguments.iommu)
        .timeout(Duration::from_secs(u64::from(arguments.seconds) + 90));
    if stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) {
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
