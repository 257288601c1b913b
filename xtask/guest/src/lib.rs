//! Programs that make the IOMMU do real work inside a test guest, and write down what they did.
//!
//! One static binary, `guest`, with a subcommand for each way to get there: iommufd's own test device,
//! VFIO on an emulated IOMMU, a group's default domain, a DMA fault. What they write is the ground truth that
//! a tracer's output is compared with; README.md beside this crate is its schema.
//!
//! Layers, each using only those above it: `abi` is the kernel's headers as plain data; `sys` makes the
//! calls; `truth` writes lines; `iommufd`, `mock`, `vfio`, `container`, `notice`, `pci`, `emulator`, `group`, `edu`,
//! `page`, `prq`, `shim`, `steps` are typed handles that tell what they do; `programs` puts them in an order.

mod abi;
mod cli;
mod container;
mod edu;
mod emulator;
mod group;
mod iommufd;
mod mock;
mod notice;
mod page;
mod pci;
mod programs;
mod prq;
mod shim;
mod steps;
pub mod stuck;
mod sys;
mod truth;
mod vfio;

use std::fmt;
use std::process::ExitCode;

/// This machine or kernel cannot do what was asked: exit status 77.
#[derive(Debug)]
struct NotApplicable(String);

impl fmt::Display for NotApplicable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not applicable: {}", self.0)
    }
}

impl std::error::Error for NotApplicable {}

/// Runs the program that the command line names. The exit status is 0 when it did what it was to do, 1 when
/// something went otherwise than it had to, 2 for a wrong command line, 77 when it does not apply here.
#[must_use]
pub fn main() -> ExitCode {
    cli::run()
}
