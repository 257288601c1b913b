//! The floor: the smallest tracer of the same stages, written for nothing but to be compared with.
//!
//! A ring buffer from which whole stretches are written to a file as they are, every 10 ms. What it writes tells all that a
//! fault's, an attach's or a mapping's line needs, and nobody reads it.

mod ring;

use std::{
    ffi::OsString,
    fs::File,
    io::Write as _,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{PerCpuArray, RingBuf},
    programs::{FEntry, FExit},
};
use btf_rs::Type;
use clap::{Parser, ValueEnum};

use ring::Ring;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/floor.bpf.o"));

/// How often the ring is looked at.
const EVERY: Duration = Duration::from_millis(10);

/// Trace the stages of one thing, raw, with as little as possible.
#[derive(Debug, Parser)]
struct Arguments {
    /// What is traced.
    #[arg(value_enum)]
    what: What,
    /// The file.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// A command to start when all is attached; its end is the end.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Page faults from report to free.
    Fault,
    /// Attach, replace and detach of handles.
    Attach,
    /// Map and unmap, each call.
    Map,
    /// Map and unmap, calls and bytes.
    Sum,
}

/// A program, the function it is for, and whether it is at the function's entry.
type Row = (&'static str, &'static str, bool);

const FAULT: &[Row] = &[
    ("report", "iommu_report_device_fault", true),
    ("reported", "iommu_report_device_fault", false),
    ("looked_up", "iommu_attach_handle_get", false),
    ("handler", "iommufd_fault_iopf_handler", true),
    ("delivered", "iommufd_fault_fops_read", false),
    ("response", "mock_domain_page_response", true),
    ("freed", "iopf_free_group", true),
];
const ATTACH: &[Row] = &[
    ("attach", "iommu_attach_group_handle", true),
    ("attached", "iommu_attach_group_handle", false),
    ("replace", "iommu_replace_group_handle", true),
    ("replaced", "iommu_replace_group_handle", false),
    ("detach", "iommu_detach_group_handle", true),
    ("detached", "iommu_detach_group_handle", false),
    ("attach_pasid", "iommu_attach_device_pasid", true),
    ("attached_pasid", "iommu_attach_device_pasid", false),
    ("replace_pasid", "iommu_replace_device_pasid", true),
    ("replaced_pasid", "iommu_replace_device_pasid", false),
    ("detach_pasid", "iommu_detach_device_pasid", true),
    ("detached_pasid", "iommu_detach_device_pasid", false),
];
const MAP: &[Row] = &[
    ("map", "iommu_map_nosync", true),
    ("mapped", "iommu_map_nosync", false),
    ("unmap", "iommu_unmap", true),
    ("unmapped", "iommu_unmap", false),
];
const SUM: &[Row] = &[("map_sum", "iommu_map_nosync", false), ("unmap_sum", "iommu_unmap", false)];

impl What {
    fn rows(self) -> &'static [Row] {
        match self {
            What::Fault => FAULT,
            What::Attach => ATTACH,
            What::Map => MAP,
            What::Sum => SUM,
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("floor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut file =
        File::create(&arguments.output).with_context(|| format!("cannot create {}", arguments.output.display()))?;
    let mut ebpf = attach(arguments.what)?;
    let map = RingBuf::try_from(ebpf.take_map("RING").context("no map RING")?)?;
    let mut ring = Ring::new(map)?;
    let (program, rest) = arguments.command.split_first().context("no command")?;
    let mut child = Command::new(program).args(rest).spawn().context("cannot start the command")?;
    let mut records = 0;
    loop {
        let ended = child.try_wait()?.is_some();
        let (stretch, count) = ring.readable();
        if count > 0 {
            file.write_all(stretch).context("cannot write the records")?;
            let len = stretch.len();
            ring.consume(len);
            records += count;
        }
        if ended {
            break;
        }
        std::thread::sleep(EVERY);
    }
    let lost: PerCpuArray<_, u64> = PerCpuArray::try_from(ebpf.map("LOST").context("no map LOST")?)?;
    let lost: u64 = lost.get(&0, 0)?.iter().sum();
    let sums: PerCpuArray<_, [u64; 2]> = PerCpuArray::try_from(ebpf.map("SUMS").context("no map SUMS")?)?;
    let calls: u64 = (0..2).map(|i| sums.get(&i, 0).map_or(0, |cpus| cpus.iter().map(|sum| sum[0]).sum())).sum();
    eprintln!("records={records} lost={lost} calls={calls}");
    Ok(ExitCode::SUCCESS)
}

/// Loads and attaches what is asked for.
fn attach(what: What) -> Result<Ebpf> {
    let offsets = offsets()?;
    let mut ebpf = EbpfLoader::new().btf(None).override_global("OFFSETS", offsets.as_slice(), true).load(OBJECT)?;
    let btf = Btf::from_sys_fs()?;
    for &(name, function, enter) in what.rows() {
        let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
        let attached = || format!("cannot attach {name} to {function}");
        if enter {
            let program: &mut FEntry = program.try_into()?;
            program.load(function, &btf).with_context(attached)?;
            program.attach().with_context(attached)?;
        } else {
            let program: &mut FExit = program.try_into()?;
            program.load(function, &btf).with_context(attached)?;
            program.attach().with_context(attached)?;
        }
    }
    Ok(ebpf)
}

/// The offsets that the programs want, in their order.
fn offsets() -> Result<[u32; 5]> {
    let btf = btf_rs::Btf::from_file("/sys/kernel/btf/vmlinux").context("cannot read the kernel's types")?;
    let of = |structure: &str, member: &str| offset(&btf, structure, member);
    Ok([
        of("device", "iommu_group")?,
        of("device", "kobj")? + of("kobject", "name")?,
        of("iommu_group", "id")?,
        of("iommu_domain", "type")?,
        of("iommufd_object", "id")?,
    ])
}

fn offset(btf: &btf_rs::Btf, structure: &str, member: &str) -> Result<u32> {
    let types = btf.resolve_types_by_name(structure).with_context(|| format!("no struct {structure}"))?;
    for found in types {
        let Type::Struct(found) = found else { continue };
        for there in &found.members {
            if btf.resolve_name(there).is_ok_and(|name| name == member) {
                return Ok(there.bit_offset() / 8);
            }
        }
    }
    anyhow::bail!("struct {structure} has no member {member}")
}
