//! One cell of the matrix of kernels and IOMMUs: what attaches there, which guest programs run, and whether the trace is
//! what they did.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Checks, Ctx, Guest, GuestTest,
    compare::{Trust, compare},
    session::{Files, Script, case, quoted},
    trace::{Schema, Trace},
    truth::Truth,
};
use crate::{arch::Arch, kernel, qemu::Iommu};

/// The exit status of a guest program that this kernel or machine has no use for.
const NOT_APPLICABLE: i32 = 77;
/// A whole cell, boot to shutdown.
const LIMIT: Duration = Duration::from_secs(300);
/// The same of another architecture, which is always emulated.
const FOREIGN_LIMIT: Duration = Duration::from_secs(900);

/// Cells that are part of the test command; `cargo xtask matrix` runs all of them.
pub const TESTS: &[GuestTest] = &[
    GuestTest {
        name: "cell-stock-6.1-intel",
        about: "the oldest kernel: what it lacks is told as missing, and the rest is traced as it happens",
        kernel: "stock-6.1",
        iommu: Iommu::Intel,
        tracer: true,
        run: test,
    },
    GuestTest {
        name: "cell-stock-7.3-virtio",
        about: "virtio-iommu as a module: each fault of its event queue is told",
        kernel: "stock-7.3",
        iommu: Iommu::Virtio,
        tracer: true,
        run: test,
    },
    GuestTest {
        name: "arm64-6.1",
        about: "arm64 before it had fentry: kprobes tell the same",
        kernel: "stock-6.1-arm64",
        iommu: Iommu::Smmuv3,
        tracer: true,
        run: test,
    },
    GuestTest {
        name: "arm64-7.3",
        about: "the newest arm64 kernel with SMMUv3: nothing is broken, and what is traced is what was done",
        kernel: "stock-7.3-arm64",
        iommu: Iommu::Smmuv3,
        tracer: true,
        run: test,
    },
    GuestTest {
        name: "arm64-6.12",
        about: "arm64 with SMMUv3: nothing is broken, and what is traced there is what was done, DMA faults among it",
        kernel: "stock-6.12-arm64",
        iommu: Iommu::Smmuv3,
        tracer: true,
        run: test,
    },
];

/// What every cell tries, in this order. Those that a kernel or IOMMU has no use for say so by themselves.
const PROGRAMS: &[(&str, &str)] = &[
    ("dma-fault", "dma-fault --count 4"),
    ("vfio-container", "vfio --container --cycles 2"),
    // AMD-Vi's driver of 7.3 takes a fault-capable page table for a device without page requests, which VT-d's refuses.
    ("vfio", "vfio --cycles 2 --no-failures"),
    ("attach", "attach --cycles 2"),
    ("iopf", "iopf --faults 40"),
    ("iopf-pasid", "iopf --faults 20 --pasid 2 --pasid-via slot"),
    // It removes the device and finds it again: after that a device may be behind no IOMMU.
    ("default-domain", "default-domain"),
];
/// What is tried with mappings traced.
const WITH_MAPS: &[(&str, &str)] = &[("map-load", "map-load --ops 20")];

/// What is left out of a cell: kernel, IOMMU, program and why. What the guest does not survive was seen without iommu-trace
/// in it.
const LEFT_OUT: &[(&str, &str, &str, &str)] = &[(
    "stock-6.1",
    "amd",
    "dma-fault",
    "left out: from the first fault on, this kernel's interrupt thread of QEMU's AMD-Vi takes a whole CPU for ever, \
         with iommu-trace or without",
)];

/// Lets a driver take edu for a moment: before Linux 6.15 a device comes behind an SMMUv3, or a virtio-iommu that is a module, only then.
pub(super) const TAKEN_ONCE: &str = "cd /sys/bus/pci/devices/0000:00:02.0 || exit 0; test -e iommu_group && exit 0
echo vfio-pci > driver_override; echo 0000:00:02.0 > /sys/bus/pci/drivers_probe
echo 0000:00:02.0 > driver/unbind; echo > driver_override";

/// The names of all programs, in the order of the table.
pub fn programs() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().chain(WITH_MAPS).map(|(name, _)| *name)
}

/// What was seen in a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The kernel's name in the catalogue.
    pub kernel: String,
    /// Debian's version of it.
    pub version: String,
    /// The emulated IOMMU.
    pub iommu: String,
    /// The units in `/sys/class/iommu`.
    pub units: Vec<String>,
    /// Whether the kernel has a driver for the IOMMU.
    pub driver: bool,
    /// How many probes attached.
    pub attached: usize,
    /// Those that the kernel lacks: function, and what that costs.
    pub missing: BTreeMap<String, String>,
    /// Those that the machine has no use for, with why.
    pub not_applicable: BTreeMap<String, String>,
    /// Those that the kernel has and would not let us attach, with why.
    pub broken: BTreeMap<String, String>,
    /// How each program's trace compares with what it did.
    pub programs: BTreeMap<String, Judged>,
    /// Events traced.
    pub events: usize,
    /// What else went wrong.
    pub trouble: Vec<String>,
}

/// A program's trace beside what it did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judged {
    /// Event by event the same.
    Exact,
    /// This kernel or machine has no use for the program, which says why.
    NotApplicable(String),
    /// Not the same, or the program failed.
    Wrong(String),
}

impl Cell {
    /// Whether everything that can work here does.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.trouble.is_empty()
            && self.broken.is_empty()
            && !self.programs.values().any(|judged| matches!(judged, Judged::Wrong(_)))
    }
}

/// An IOMMU's name on the command line.
#[must_use]
pub fn name(iommu: Iommu) -> String {
    iommu.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Runs a cell. Whatever goes wrong in it is part of what was seen.
pub fn run(ctx: &Ctx, kernel: &str, iommu: Iommu) -> Cell {
    let mut cell = Cell { kernel: kernel.to_owned(), iommu: name(iommu), ..Cell::default() };
    let result = kernel::find(kernel).and_then(|image| {
        cell.version.clone_from(&image.version);
        let guest = Guest { image, programs: ctx.programs(iommu.arch(), true)?.clone(), iommu };
        fill(&guest, &mut cell)
    });
    if let Err(error) = result {
        cell.trouble.push(format!("{error:#}"));
    }
    cell
}

fn test(guest: &Guest, checks: &mut Checks) -> Result<()> {
    let mut cell = Cell::default();
    fill(guest, &mut cell)?;
    let broken: Vec<String> = cell.broken.iter().map(|(function, why)| format!("{function}: {why}")).collect();
    checks.check("nothing is broken", none_of(&broken));
    checks.check("nothing else", none_of(&cell.trouble));
    let mut exact = 0;
    for (name, judged) in cell.programs {
        match judged {
            Judged::Exact => {
                exact += 1;
                checks.check(name, Ok(()));
            }
            Judged::NotApplicable(why) => checks.note(format!("{name}: {why}")),
            Judged::Wrong(why) => checks.check(name, Err(anyhow::anyhow!(why))),
        }
    }
    ensure!(exact > 1, "of {} programs only {exact} ran", programs().count());
    Ok(())
}

fn none_of(wrong: &[String]) -> Result<()> {
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn fill(guest: &Guest, cell: &mut Cell) -> Result<()> {
    let mut script = Script::new();
    script.case("doctor", "exec iommu-trace doctor --json");
    script.case("driver", &format!("exec grep -qw {} /proc/kallsyms", driver(guest.iommu)));
    let iommu = name(guest.iommu);
    let left_out: Vec<_> = LEFT_OUT.iter().filter(|out| out.0 == guest.image.name && out.1 == iommu).collect();
    let run: Vec<_> = PROGRAMS.iter().copied().filter(|(name, _)| left_out.iter().all(|out| out.2 != *name)).collect();
    for out in left_out {
        cell.programs.insert(out.2.to_owned(), Judged::NotApplicable(out.3.to_owned()));
    }
    script.case("taken", TAKEN_ONCE);
    script.case("trace", &traced("trace", "", &run));
    script.case("taken-again", TAKEN_ONCE);
    script.case("maps", &traced("maps", "--events attach,fault,sva,iommufd,reset,dma", WITH_MAPS));
    let files = script.run(guest.vm().timeout(limit(guest.iommu)))?;
    let doctor = files.text("doctor.stdout")?;
    let doctor: Value = serde_json::from_str(&doctor).with_context(|| format!("doctor tells no JSON: {doctor}"))?;
    examined(cell, &doctor)?;
    cell.driver = files.status("driver")? == 0;
    if cell.driver && cell.units.is_empty() && guest.iommu != Iommu::None {
        cell.trouble.push("the kernel has a driver for this IOMMU, and it found none".to_owned());
    }
    for (session, programs) in [("trace", run.as_slice()), ("maps", WITH_MAPS)] {
        if let Err(error) = judge(cell, &files, session, programs) {
            cell.trouble.push(format!("{session}: {error:#}"));
        }
    }
    Ok(())
}

fn limit(iommu: Iommu) -> Duration {
    if iommu.arch() == Arch::default() { LIMIT } else { FOREIGN_LIMIT }
}

fn traced(session: &str, options: &str, programs: &[(&str, &str)]) -> String {
    let programs: String = programs
        .iter()
        .map(|(name, arguments)| case(name, &format!("exec guest {arguments} --truth /out/{name}.truth")))
        .collect();
    format!(
        "exec iommu-trace trace --format json --output /out/{session}.jsonl {options} -- sh -c {}",
        quoted(&programs)
    )
}

/// A function that the driver of an IOMMU has in every kernel.
fn driver(iommu: Iommu) -> &'static str {
    match iommu {
        Iommu::Intel | Iommu::IntelPri => "intel_iommu_init",
        Iommu::Amd => "amd_iommu_prepare",
        Iommu::Virtio => "viommu_probe",
        Iommu::Smmuv3 => "arm_smmu_device_probe",
        Iommu::None => "iommu_device_register",
    }
}

/// What doctor tells.
fn examined(cell: &mut Cell, doctor: &Value) -> Result<()> {
    let units = doctor["units"].as_array().into_iter().flatten();
    cell.units = units.filter_map(|unit| Some(unit["name"].as_str()?.to_owned())).collect();
    if let Some(trouble) = doctor["trouble"].as_str() {
        cell.trouble.push(format!("doctor could not attach: {trouble}"));
    }
    for probe in doctor["probes"].as_array().context("doctor tells no probes")? {
        let text = |field: &str| probe[field].as_str().unwrap_or_default().to_owned();
        match probe["verdict"].as_str() {
            Some("ok") => cell.attached += 1,
            Some("missing") => drop(cell.missing.insert(text("function"), text("cost"))),
            Some("not_applicable") => drop(cell.not_applicable.insert(text("function"), text("reason"))),
            _ => drop(cell.broken.insert(text("function"), text("reason"))),
        }
    }
    Ok(())
}

/// The trace of a session beside what its programs did.
fn judge(cell: &mut Cell, files: &Files, session: &str, programs: &[(&str, &str)]) -> Result<()> {
    files.expect_status(session, 0)?;
    let text = files.text(&format!("{session}.jsonl"))?;
    Schema::load()?.check(&text)?;
    let trace = Trace::parse(&text)?;
    cell.events += trace.spans.len();
    trace.check_frame()?;
    trace.check_clean()?;
    let mut ran = Vec::new();
    let mut truths = Vec::new();
    for (name, _) in programs {
        let (judged, truth) = ended(files, name);
        if let Some(truth) = truth {
            ran.push((*name, judged));
            truths.push(truth);
        } else {
            cell.programs.insert((*name).to_owned(), judged);
        }
    }
    let (results, rest) = compare(&trace, &truths, Trust::Whole);
    for ((name, judged), result) in ran.into_iter().zip(results) {
        let judged = match result {
            Ok(()) => judged,
            // It gave up in the midst of something: what it tells of that is not whole.
            Err(_) if matches!(judged, Judged::NotApplicable(_)) => judged,
            Err(error) => Judged::Wrong(format!("{error:#}")),
        };
        cell.programs.insert(name.to_owned(), judged);
    }
    rest
}

/// How a program ended by its own account, and what it did.
fn ended(files: &Files, name: &str) -> (Judged, Option<Truth>) {
    let truth = files.text(&format!("{name}.truth")).and_then(|text| Truth::parse(&text));
    let said = files.text(&format!("{name}.stderr")).unwrap_or_default();
    // The last line says what came of it; those before are the way there.
    let why = said.lines().last().unwrap_or_default();
    let why = why.split_once("not applicable: ").map_or(why, |(_, why)| why).to_owned();
    match (files.status(name), truth) {
        (Ok(0), Ok(truth)) => (Judged::Exact, Some(truth)),
        (Ok(NOT_APPLICABLE), truth) => (Judged::NotApplicable(why), truth.ok()),
        (Err(error), _) | (Ok(0), Err(error)) => (Judged::Wrong(format!("{error:#}")), None),
        (Ok(status), truth) => (Judged::Wrong(format!("the program ended with {status}: {why}")), truth.ok()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_probe_of_doctor_is_counted_once_with_its_reason() {
        let mut cell = Cell::default();
        let doctor = json!({"units": [{"name": "dmar0", "devices": 3}], "trouble": null, "probes": [
            {"function": "a", "verdict": "ok", "reason": null, "cost": "x"},
            {"function": "b", "verdict": "missing", "reason": "no function b", "cost": "b is not seen"},
            {"function": "c", "verdict": "not_applicable", "reason": "no ivhd", "cost": "x"},
            {"function": "d", "verdict": "broken", "reason": "refused", "cost": "x"},
        ]});
        examined(&mut cell, &doctor).unwrap();
        assert_eq!((cell.attached, cell.units.as_slice()), (1, &["dmar0".to_owned()][..]));
        assert_eq!(cell.missing["b"], "b is not seen");
        assert_eq!(cell.not_applicable["c"], "no ivhd");
        assert_eq!(cell.broken["d"], "refused");
        assert!(!cell.is_well());
        cell.broken.clear();
        assert!(cell.is_well());
        cell.programs.insert("iopf".into(), Judged::NotApplicable("no test device".into()));
        assert!(cell.is_well());
        cell.programs.insert("iopf".into(), Judged::Wrong("differs".into()));
        assert!(!cell.is_well());
    }
}
