//! The command line, and how a run ends.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::NotApplicable;
use crate::programs::{
    as_user, attach, bench, default_domain, dma_fault, iopf, map_load, page_request, race, replace_race, siblings,
    undrained, unplug, vfio, workload,
};
use crate::sys;
use crate::truth::{Fact, Truth};

/// The version of the ground truth's schema.
const SCHEMA: u32 = 1;

/// Makes the IOMMU do real work, and writes down what it did.
#[derive(Debug, Parser)]
#[command(name = "guest", version, about)]
struct Cli {
    /// Write the ground truth here instead of to standard output.
    #[arg(long, global = true, value_name = "FILE")]
    truth: Option<PathBuf>,

    /// Write only the first and last lines (with counts), not one line per operation.
    #[arg(long, global = true)]
    summary: bool,

    #[command(subcommand)]
    program: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// I/O page faults on iommufd's test device: raised, read, answered or not.
    Iopf(iopf::Args),
    /// Attach, replace and detach on iommufd's test device, by RID and PASID, good and bad.
    Attach(attach::Args),
    /// A PCI device through VFIO and iommufd: bind, attach, replace, map, detach, close.
    Vfio(vfio::Args),
    /// Change a group's default domain, bind and unbind its driver, remove and rescan its device.
    DefaultDomain(default_domain::Args),
    /// DMA faults by QEMU's edu device.
    DmaFault(dma_fault::Args),
    /// Page requests by VT-d's own queue and interrupt.
    PageRequest(page_request::Args),
    /// Detach while a page request of VT-d waits in its queue.
    Undrained(undrained::Args),
    /// Remove a PCI device while it is attached and open, and find it again.
    Unplug(unplug::Args),
    /// Page faults on a PASID that comes and goes.
    Race(race::Args),
    /// Page faults while a slot is moved from one page table with a fault queue to another.
    ReplaceRace(replace_race::Args),
    /// Two devices of one group on a page table with a fault queue; the first leaves, the second faults.
    Siblings(siblings::Args),
    /// Map and unmap as fast as it goes.
    MapLoad(map_load::Args),
    /// A mix of the above, at a human's pace or as fast as it goes.
    Workload(workload::Args),
    /// Run a command as another user with some capabilities; writes no ground truth.
    As(as_user::Args),
    /// Measure what tracers cost; writes no ground truth.
    Bench(bench::Args),
    /// What `bench` has a tracer start when it is attached; writes no ground truth.
    Gate(bench::GateArgs),
}

impl Program {
    fn name(&self) -> &'static str {
        match self {
            Self::Iopf(_) => "iopf",
            Self::Attach(_) => "attach",
            Self::Vfio(_) => "vfio",
            Self::DefaultDomain(_) => "default-domain",
            Self::DmaFault(_) => "dma-fault",
            Self::PageRequest(_) => "page-request",
            Self::Undrained(_) => "undrained",
            Self::Unplug(_) => "unplug",
            Self::Race(_) => "race",
            Self::ReplaceRace(_) => "replace-race",
            Self::Siblings(_) => "siblings",
            Self::MapLoad(_) => "map-load",
            Self::Workload(_) => "workload",
            Self::As(_) => "as",
            Self::Bench(_) => "bench",
            Self::Gate(_) => "gate",
        }
    }

    fn run(&self, truth: &Arc<Truth>) -> Result<()> {
        match self {
            Self::Iopf(args) => iopf::run(args, truth),
            Self::Attach(args) => attach::run(args, truth),
            Self::Vfio(args) => vfio::run(args, truth),
            Self::DefaultDomain(args) => default_domain::run(args, truth),
            Self::DmaFault(args) => dma_fault::run(args, truth),
            Self::PageRequest(args) => page_request::run(args, truth),
            Self::Undrained(args) => undrained::run(args, truth),
            Self::Unplug(args) => unplug::run(args, truth),
            Self::Race(args) => race::run(args, truth),
            Self::ReplaceRace(args) => replace_race::run(args, truth),
            Self::Siblings(args) => siblings::run(args, truth),
            Self::MapLoad(args) => map_load::run(args, truth),
            Self::Workload(args) => workload::run(args, truth),
            Self::As(_) | Self::Bench(_) | Self::Gate(_) => Ok(()),
        }
    }
}

/// Parses, runs, reports.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match &cli.program {
        Program::As(args) => return as_user::run(args),
        Program::Bench(args) => return bench::run(args),
        Program::Gate(args) => return bench::gate(args),
        _ => {}
    }
    sys::catch_signals();
    let truth = match Truth::open(cli.truth.as_deref(), cli.summary) {
        Ok(truth) => Arc::new(truth),
        Err(error) => {
            eprintln!("guest: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let name = cli.program.name();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    truth.tell(&Fact::Start {
        schema: SCHEMA,
        program: name,
        pid: std::process::id(),
        kernel: kernel.trim().to_owned(),
        ts: sys::now(),
    });
    let result = cli.program.run(&truth);
    let status = match &result {
        Ok(()) => 0,
        Err(error) if error.is::<NotApplicable>() => 77,
        Err(_) => 1,
    };
    let mut status = status;
    if let Err(error) = result {
        eprintln!("guest {name}: {error:#}");
    }
    if let Err(error) = truth.end(status) {
        eprintln!("guest {name}: {error:#}");
        status = status.max(1);
    }
    ExitCode::from(status as u8)
}
