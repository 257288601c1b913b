//! The command line.

use std::{io, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{bench, demo, dist, kernel, matrix, picture, prototypes, selftests, setup, test, vm};

/// Builds, kernels, virtual machines and tests of iommu-trace
#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Install what building and testing needs and this machine lacks
    Setup(setup::Arguments),
    /// Kernels for the guests
    Kernel(kernel::Arguments),
    /// Run a command in a guest
    Vm(vm::Arguments),
    /// See a live trace of a mixed workload in a guest
    Demo(demo::Arguments),
    /// Take a picture of the dashboard, from a real run in a guest
    Picture(picture::Arguments),
    /// Compare kernels' functions with what the probes were written against
    Prototypes(prototypes::Arguments),
    /// Build the kernel's own selftests of iommufd
    Selftests(selftests::Arguments),
    /// Run every kernel with every IOMMU, and write docs/compatibility.md
    Matrix(matrix::Arguments),
    /// Measure what tracing costs, and write docs/performance.md
    Bench(bench::Arguments),
    /// Make a release: static tarballs and Debian packages
    Dist(dist::Arguments),
    /// Run every check and test
    Test(test::Arguments),
}

/// Runs the command line; the exit status.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.command) {
        Ok(code) => ExitCode::from(code),
        // Who read our output has left: as if SIGPIPE had ended us.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(141),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            match cli.command {
                // 1 may be the command's own status.
                Command::Vm(_) => ExitCode::from(vm::CRASH_CODE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Setup(arguments) => setup::main(arguments),
        Command::Kernel(arguments) => kernel::command_main(arguments).map(|()| 0),
        Command::Vm(arguments) => vm::command_main(arguments),
        Command::Demo(arguments) => demo::main(arguments),
        Command::Picture(arguments) => picture::main(arguments),
        Command::Prototypes(arguments) => prototypes::main(arguments),
        Command::Selftests(arguments) => selftests::main(arguments).map(|()| 0),
        Command::Matrix(arguments) => matrix::main(arguments),
        Command::Bench(arguments) => bench::main(arguments),
        Command::Dist(arguments) => dist::main(arguments).map(|()| 0),
        Command::Test(arguments) => test::main(arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_the_dashes_is_the_guests_alone() {
        let cli = Cli::try_parse_from(["xtask", "vm", "--kernel", "k", "--", "sh", "-c", "--smp"]).unwrap();
        assert!(matches!(cli.command, Command::Vm(_)));
        assert!(Cli::try_parse_from(["xtask", "vm", "--kernel", "k"]).is_err());
        assert!(Cli::try_parse_from(["xtask", "vm", "--", "true"]).is_err());
    }
}
