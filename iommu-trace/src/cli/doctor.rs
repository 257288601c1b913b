//! `iommu-trace doctor`: what this machine offers, and what is missing.
//!
//! [`Report::collect`] reads `/proc` and `/sys` below a root, so that tests can lay one out; probes are judged by their
//! plan and, where privileges allow, by attaching them.

use std::{fmt::Write as _, fs, io::Write as _, path::Path, process::ExitCode};

use clap::{Args, ValueEnum as _};
use serde::Serialize;

use crate::{
    event::harmless,
    kernel::{
        Kernel,
        privileges::{self, Capability, Held, Lockdown, Privileges},
    },
    model::span::Topic,
    output::{Output, Palette},
    probes::{
        Plan, ProbeStatus, Verdict, Wanted,
        stretch::{self, Step, StepStatus},
    },
    source::live::{self, LiveOptions},
};

/// Tell what this kernel offers, what is missing, and what that costs.
///
/// Exits with 1 when something essential is missing.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Tell it as one JSON object.
    #[arg(long)]
    json: bool,
}

/// What `doctor` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of iommu-trace.
    pub version: &'static str,
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`, as this program was built for.
    pub machine: &'static str,
    /// Whether nothing essential is missing.
    pub ok: bool,
    /// What tracing stands on.
    pub checks: Vec<Check>,
    /// The IOMMU units in `/sys/class/iommu`.
    pub units: Vec<Unit>,
    /// Number of IOMMU groups.
    pub groups: usize,
    /// Number of devices in them.
    pub devices: usize,
    /// Whether the probes were attached, or only planned.
    pub attached: bool,
    /// Why they could not be attached, when that was tried.
    pub trouble: Option<String>,
    /// Each probe of the catalogue.
    pub probes: Vec<ProbeStatus>,
    /// Each step that `check --stretch` may be asked for: planned, never tried, for nobody asked for a wait.
    pub stretch: Vec<StepStatus>,
}

/// One thing that tracing stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
    /// Whether nothing can be traced without it.
    pub essential: bool,
    /// What was found.
    pub found: String,
    /// What its absence costs, when it is absent.
    pub cost: Option<&'static str>,
    /// What to do about it, when it is absent.
    pub remedy: Option<&'static str>,
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is.
    Ok,
    /// It is not.
    Missing,
}

/// An IOMMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unit {
    /// Its name, as `dmar0`.
    pub name: String,
    /// Devices behind it.
    pub devices: usize,
}

/// One row for each thing that can be looked for; adding one is one line.
struct Row {
    name: &'static str,
    essential: bool,
    /// What is there, or what is there instead.
    look: fn(&Root<'_>) -> Result<String, String>,
    cost: &'static str,
    remedy: &'static str,
}

impl Row {
    const fn capability(wanted: Capability, look: fn(&Root<'_>) -> Result<String, String>) -> Row {
        Row {
            name: wanted.name(),
            essential: !matches!(wanted, Capability::Syslog),
            look,
            cost: wanted.cost(),
            remedy: privileges::REMEDY,
        }
    }
}

const ROWS: &[Row] = &[
    Row::capability(Capability::Bpf, |root| root.capability(Capability::Bpf)),
    Row::capability(Capability::Perfmon, |root| root.capability(Capability::Perfmon)),
    Row::capability(Capability::Syslog, |root| root.capability(Capability::Syslog)),
    Row {
        name: "no lockdown",
        essential: true,
        look: |root| root.lockdown(),
        cost: privileges::LOCKDOWN_COST,
        remedy: privileges::LOCKDOWN_REMEDY,
    },
    Row {
        name: "others' BPF",
        essential: false,
        look: |root| Ok(privileges::unprivileged_bpf(root.0).unwrap_or_else(|| "no such switch in this kernel".into())),
        cost: "",
        remedy: "",
    },
    Row {
        name: "BTF",
        essential: true,
        look: |root| root.file("sys/kernel/btf/vmlinux"),
        cost: "no structure can be read and no function be traced: the offsets come from there",
        remedy: "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels are",
    },
    Row {
        name: "kprobes",
        essential: false,
        look: |root| root.file("sys/bus/event_source/devices/kprobe/type"),
        cost: "functions of modules, as iommufd's where it is not built in, are not seen",
        remedy: "use a kernel built with CONFIG_KPROBE_EVENTS=y",
    },
    Row {
        name: "tracefs",
        essential: false,
        look: |root| root.directory("sys/kernel/tracing/events"),
        cost: "other tracers' probes and the kernel's list of traceable functions cannot be looked at",
        remedy: "as root: mount -t tracefs tracefs /sys/kernel/tracing, if it is not there; only root may look into it",
    },
    Row {
        name: "iommufd",
        essential: false,
        look: |root| root.iommufd(),
        cost: "no device is attached through iommufd, and no page fault goes to user space",
        remedy: "modprobe iommufd: a trace that runs already takes it up",
    },
    Row {
        name: "IOMMU",
        essential: false,
        look: |root| match root.entries("sys/class/iommu") {
            units if units.is_empty() => Err("/sys/class/iommu is empty".into()),
            units => Ok(units.join(", ")),
        },
        cost: "no device is behind an IOMMU; iommufd's test device can be traced all the same",
        remedy: "switch it on in the firmware, and boot with intel_iommu=on where the kernel leaves it off",
    },
    Row {
        name: "groups",
        essential: false,
        look: |root| match root.entries("sys/kernel/iommu_groups").len() {
            0 => Err("/sys/kernel/iommu_groups is empty".into()),
            groups => Ok(format!("{groups} in /sys/kernel/iommu_groups")),
        },
        cost: "no device is behind an IOMMU now",
        remedy: "see IOMMU above",
    },
];

/// The file system as seen from a directory.
struct Root<'a>(&'a Path);

impl Root<'_> {
    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.0.join(path)).ok().map(|text| text.trim().to_owned())
    }

    fn entries(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| harmless(&entry.file_name().to_string_lossy()).into_owned()).collect();
        names.sort();
        names
    }

    fn file(&self, path: &str) -> Result<String, String> {
        match fs::File::open(self.0.join(path)) {
            Ok(_) => Ok(format!("/{path}")),
            Err(error) => Err(format!("/{path}: {error}")),
        }
    }

    fn directory(&self, path: &str) -> Result<String, String> {
        match fs::read_dir(self.0.join(path)) {
            Ok(_) => Ok(format!("/{path}")),
            Err(error) => Err(format!("/{path}: {error}")),
        }
    }

    fn capability(&self, wanted: Capability) -> Result<String, String> {
        let status = self.read("proc/self/status").ok_or("/proc/self/status cannot be read")?;
        match Privileges::parse(&status).ok_or("/proc/self/status does not tell")?.holds(wanted) {
            Held::Yes => Ok("held".into()),
            Held::ByAdmin => Ok("not held, CAP_SYS_ADMIN stands for it".into()),
            Held::No => Err("not held".into()),
        }
    }

    fn lockdown(&self) -> Result<String, String> {
        match Lockdown::of(self.0) {
            Lockdown::None => Ok("none".into()),
            Lockdown::Integrity => Ok("integrity, which tracing does not offend".into()),
            Lockdown::Confidentiality => Err("confidentiality".into()),
        }
    }

    fn iommufd(&self) -> Result<String, String> {
        if self.0.join("sys/module/iommufd").exists() {
            // A built-in has no reference count to show.
            let loaded = self.0.join("sys/module/iommufd/refcnt").exists();
            return Ok(if loaded { "loaded" } else { "built in" }.into());
        }
        if self.0.join("dev/iommu").exists() {
            return Ok("/dev/iommu".into());
        }
        Err("not loaded".into())
    }
}

impl Report {
    /// Looks around below `root`, which is `/` but in tests. `attached` tells whether `probes` were attached.
    #[must_use]
    pub fn collect(root: &Path, probes: Vec<ProbeStatus>, attached: bool) -> Self {
        let root = Root(root);
        let checks: Vec<Check> = ROWS
            .iter()
            .map(|row| {
                let (state, found) = match (row.look)(&root) {
                    Ok(found) => (State::Ok, found),
                    Err(found) => (State::Missing, found),
                };
                let missing = state == State::Missing;
                Check {
                    name: row.name,
                    state,
                    essential: row.essential,
                    found,
                    cost: missing.then_some(row.cost),
                    remedy: missing.then_some(row.remedy),
                }
            })
            .collect();
        let count = |path: String| root.entries(&path).len();
        let groups = root.entries("sys/kernel/iommu_groups");
        Report {
            version: crate::version::VERSION,
            kernel: root
                .read("proc/sys/kernel/osrelease")
                .map_or_else(|| "unknown".into(), |release| harmless(&release).into_owned()),
            machine: std::env::consts::ARCH,
            ok: !checks.iter().any(|check| check.essential && check.state == State::Missing)
                && !probes.iter().any(is_essential_and_missing),
            checks,
            units: root
                .entries("sys/class/iommu")
                .into_iter()
                .map(|name| Unit { devices: count(format!("sys/class/iommu/{name}/devices")), name })
                .collect(),
            devices: groups.iter().map(|group| count(format!("sys/kernel/iommu_groups/{group}/devices"))).sum(),
            groups: groups.len(),
            attached,
            trouble: None,
            probes,
            stretch: Vec::new(),
        }
    }

    /// Tells the steps that can be stretched.
    #[must_use]
    pub fn with_stretch(mut self, stretch: Vec<StepStatus>) -> Self {
        self.stretch = stretch;
        self
    }

    /// Tells what is known of the moment in which ftrace changes its functions.
    #[must_use]
    pub fn with_ftrace(mut self, known: Result<&'static str, String>) -> Self {
        let (state, found) = match known {
            Ok(found) => (State::Ok, found.to_owned()),
            Err(found) => (State::Missing, found),
        };
        let missing = state == State::Missing;
        self.checks.push(Check {
            name: "ftrace",
            state,
            essential: false,
            found,
            cost: missing.then_some("a crash of the kernel, now and then; any other tracer costs the same"),
            remedy: missing
                .then_some("use a kernel built with CONFIG_CC_OPTIMIZE_FOR_PERFORMANCE=y, as distributions' are"),
        });
        self
    }

    /// Says that the probes could not be attached although nothing seemed to be missing.
    #[must_use]
    pub fn with_trouble(mut self, trouble: String) -> Self {
        self.ok = false;
        self.trouble = Some(trouble);
        self
    }

    /// As people read it.
    #[must_use]
    pub fn text(&self, palette: Palette) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write_text(palette, &mut text);
        text
    }

    fn write_text(&self, palette: Palette, text: &mut String) -> std::fmt::Result {
        let strong = |title: String| paint(palette.strong, &title);
        writeln!(text, "{}", strong(format!("iommu-trace {}, Linux {} {}", self.version, self.kernel, self.machine)))?;
        writeln!(text)?;
        for check in &self.checks {
            let (word, style) = match (check.state, check.essential) {
                (State::Ok, _) => ("ok", palette.good),
                (State::Missing, true) => ("MISSING", palette.bad),
                (State::Missing, false) => ("missing", palette.warn),
            };
            writeln!(text, "  {} {:<12} {}", paint(style, &format!("{word:<9}")), check.name, check.found)?;
            for (label, said) in [("costs:", check.cost), ("to do:", check.remedy)] {
                if let Some(said) = said {
                    writeln!(text, "{:25}{label} {said}", "")?;
                }
            }
        }

        writeln!(text)?;
        let behind = format!("Devices behind an IOMMU: {}, in groups: {}", self.devices, self.groups);
        writeln!(text, "{}", strong(behind))?;
        for unit in &self.units {
            writeln!(text, "  {}: {}", unit.name, unit.devices)?;
        }

        writeln!(text)?;
        let count = |verdict| self.probes.iter().filter(|probe| probe.verdict == verdict).count();
        let how = if self.attached { "attached to try them, and detached" } else { "planned, not tried" };
        let title = format!(
            "{} probes ({how}): {} ok, {} missing, {} broken, {} waiting, {} not applicable",
            self.probes.len(),
            count(Verdict::Ok),
            count(Verdict::Missing),
            count(Verdict::Broken),
            count(Verdict::Waiting),
            count(Verdict::NotApplicable)
        );
        writeln!(text, "{}", strong(title))?;
        for probe in &self.probes {
            let (word, style) = match probe.verdict {
                Verdict::Ok => ("ok", palette.good),
                Verdict::Missing => ("missing", palette.warn),
                Verdict::Broken => ("BROKEN", palette.bad),
                Verdict::Waiting => ("waiting", palette.dim),
                Verdict::NotApplicable => ("n/a", palette.dim),
            };
            writeln!(
                text,
                "  {} {:<16} {:<33} {}",
                paint(style, &format!("{word:<9}")),
                probe.kind,
                probe.function,
                probe.topic
            )?;
            if matches!(probe.verdict, Verdict::Missing | Verdict::Broken) {
                writeln!(text, "{:12}{}", "", probe.reason.as_deref().unwrap_or("the reason is not known"))?;
                writeln!(text, "{:12}costs: {}", "", probe.cost)?;
            }
        }

        self.write_stretch(palette, text)?;
        writeln!(text)?;
        if self.ok {
            writeln!(text, "{}", paint(palette.good, "Nothing essential is missing."))
        } else {
            let missing: Vec<&str> = self
                .checks
                .iter()
                .filter(|check| check.essential && check.state == State::Missing)
                .map(|check| check.name)
                .chain(self.probes.iter().filter(|p| is_essential_and_missing(p)).map(|p| p.function.as_str()))
                .collect();
            if !missing.is_empty() {
                let told = format!("Tracing is not possible here without: {}.", missing.join(", "));
                writeln!(text, "{}", paint(palette.bad, &told))?;
            }
            if let Some(trouble) = &self.trouble {
                writeln!(text, "{}", paint(palette.bad, &format!("The probes could not be attached: {trouble}")))?;
            }
            Ok(())
        }
    }
}

impl Report {
    fn write_stretch(&self, palette: Palette, text: &mut String) -> std::fmt::Result {
        if self.stretch.is_empty() {
            return Ok(());
        }
        let there = self.stretch.iter().filter(|step| step.verdict == Verdict::Ok).count();
        let title = format!("Steps that check --stretch can widen: {there} of {}", self.stretch.len());
        writeln!(text)?;
        writeln!(text, "{}", paint(palette.strong, &title))?;
        for step in &self.stretch {
            let (word, style) = match step.verdict {
                Verdict::Ok => ("ok", palette.good),
                _ => ("missing", palette.warn),
            };
            writeln!(
                text,
                "  {} {:<8} {}",
                paint(style, &format!("{word:<9}")),
                step.step,
                if step.functions.is_empty() { step.about.to_owned() } else { step.functions.join(", ") }
            )?;
            if let Some(reason) = step.reason.as_deref().filter(|_| step.verdict != Verdict::Ok) {
                writeln!(text, "{:12}{reason}", "")?;
            }
        }
        Ok(())
    }
}

fn is_essential_and_missing(probe: &ProbeStatus) -> bool {
    probe.essential && matches!(probe.verdict, Verdict::Missing | Verdict::Broken)
}

fn paint(style: anstyle::Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

impl Doctor {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let topics = Topic::value_variants();
        let wanted = Wanted { topics: topics.to_vec(), snapshot: true, frees: true, sums: false };
        let kernel = Kernel::running().ok();
        let planned = || kernel.as_ref().map(|kernel| Plan::new(kernel, &wanted).status()).unwrap_or_default();
        let steps = |kernel: &Kernel| Step::ALL.map(|step| stretch::Planned::new(kernel, step).status()).to_vec();
        let root = Path::new("/");
        let mut report = Report::collect(root, planned(), false);
        // The probes can be tried only where all the rest is there.
        if report.ok {
            let options = LiveOptions { topics: topics.to_vec(), track_frees: true, ..LiveOptions::default() };
            report = match live::probe_verdicts(&options) {
                Ok(probes) => Report::collect(root, probes, true),
                Err(error) => report.with_trouble(format!("{error:#}")),
            };
        }
        if let Some(kernel) = &kernel {
            report = report.with_stretch(steps(kernel)).with_ftrace(kernel.ftrace_changes());
        }

        let mut out = Output::stdout();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        } else {
            let text = report.text(out.palette());
            out.write_all(text.as_bytes())?;
        }
        out.flush()?;
        Ok(ExitCode::from(u8::from(!report.ok)))
    }
}
