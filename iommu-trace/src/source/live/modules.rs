//! The probes on iommufd's functions while it is a module: attached when it comes, let go when it is unloaded.
//!
//! fentry would reach these functions too, through the module's own type information, but a program loaded for one holds
//! the module until the trace ends (`bpf_check_attach_target()` takes a reference), and so does a `kprobe_multi` link. A kprobe
//! does not: the kernel takes it away with the module.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use aya::{
    Ebpf, Pod,
    maps::{Array, MapData},
    programs::kprobe::KProbeLinkId,
};
use iommu_trace_common::{Late, Phase, ProbeId};

use super::attach::{attach_kprobe, detach_kprobe, reason};
use crate::{
    kernel::{Home, Kernel, MODULE, Presence, in_use},
    probes::{Plan, ProbeStatus, Program, Verdict, Way},
};

/// How often it is looked whether the module is there.
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[repr(transparent)]
#[derive(Clone, Copy)]
struct LateValue(Late);
// SAFETY: integers and an array of them: any bytes are a value, and there is no padding.
unsafe impl Pod for LateValue {}

/// A program for a function of the module.
struct Hook {
    probe: ProbeId,
    program: Program,
    link: Option<KProbeLinkId>,
}

/// The module and the programs for it.
pub struct Modules {
    kernel: Kernel,
    late: Array<MapData, LateValue>,
    hooks: Vec<Hook>,
    present: Option<Presence>,
    looked_at: Instant,
}

impl Modules {
    /// Takes over the programs of the plan that are for the module, and attaches them if it is loaded. `None` where it is
    /// built in, or nobody asked for it.
    pub fn new(kernel: Kernel, plan: &mut Plan, ebpf: &mut Ebpf) -> anyhow::Result<Option<Modules>> {
        if !kernel.iommufd_is_modular() {
            return Ok(None);
        }
        let hooks = plan
            .0
            .iter()
            .filter(|planned| matches!(planned.verdict, Verdict::Ok | Verdict::Waiting))
            .flat_map(|planned| planned.programs.iter().map(|program| (planned.probe.id, program)))
            .filter(|(_, program)| matches!(program.way, Way::KProbe | Way::KRetProbe))
            .map(|(probe, program)| Hook { probe, program: program.clone(), link: None })
            .collect();
        let map = ebpf.take_map("LATE").context("the BPF object has no map LATE")?;
        let late = Array::try_from(map).context("the map LATE is no array")?;
        let mut modules = Modules { kernel, late, hooks, present: None, looked_at: Instant::now() };
        modules.set(Late::ABSENT)?;
        if let Some(present) = Presence::now() {
            for (id, why) in modules.arrived(ebpf, present)? {
                plan.broken(id, &why);
            }
        }
        Ok(Some(modules))
    }

    /// Looks whether the module has come or gone, and attaches or lets go. Tells what may have been missed meanwhile.
    pub fn look(&mut self, ebpf: &mut Ebpf, probes: &mut [ProbeStatus]) -> anyhow::Result<Vec<(ProbeId, Phase, u64)>> {
        if self.looked_at.elapsed() < LOOK_EVERY {
            return Ok(Vec::new());
        }
        self.looked_at = Instant::now();
        let now = Presence::now();
        if now == self.present {
            return Ok(Vec::new());
        }
        if self.present.is_some() {
            self.left(ebpf, probes)?;
        }
        let Some(present) = now else { return Ok(Vec::new()) };
        let broken = self.arrived(ebpf, present)?;
        for status in probes.iter_mut() {
            let Some(hook) = self.hooks.iter().find(|hook| hook.probe.function() == status.function) else { continue };
            let why = broken.iter().find(|(id, _)| *id == hook.probe).map(|(_, why)| why.clone());
            (status.verdict, status.reason) = match (hook.link.is_some(), why) {
                (_, Some(why)) => (Verdict::Broken, Some(why)),
                (true, None) => (Verdict::Ok, None),
                (false, None) => (Verdict::Missing, Some(format!("module {MODULE} has no such function"))),
            };
        }
        // While it was not watched, something may have begun in it, or all of something.
        let missed = |hook: &Hook| in_gap(hook, &broken).then_some((hook.probe, hook.program.phase, 1));
        Ok(if in_use() { self.hooks.iter().filter_map(missed).collect() } else { Vec::new() })
    }

    /// Attaches everything; what the module lacks is passed over, what fails is told.
    fn arrived(&mut self, ebpf: &mut Ebpf, present: Presence) -> anyhow::Result<Vec<(ProbeId, String)>> {
        let started = Instant::now();
        self.present = Some(present);
        let late = self.kernel.reload()?;
        self.set(late)?;
        let mut broken = Vec::new();
        let mut attached = 0;
        for hook in &mut self.hooks {
            let function = hook.probe.function();
            if !matches!(self.kernel.home(function), Some(Home::Module(_))) {
                continue;
            }
            match attach_kprobe(ebpf, &hook.program.name, function) {
                Ok(link) => {
                    hook.link = Some(link);
                    attached += 1;
                }
                Err(error) => {
                    let why = format!("{} {}: {}", hook.program.way, hook.program.name, reason(&error));
                    tracing::warn!("a probe on module {MODULE} could not be attached: {why}");
                    broken.push((hook.probe, why));
                }
            }
        }
        tracing::debug!(attached, took = ?started.elapsed(), "module {MODULE} is there: its probes are attached");
        Ok(broken)
    }

    /// The module was unloaded: the kernel has taken the probes away, and the addresses mean nothing any more.
    fn left(&mut self, ebpf: &mut Ebpf, probes: &mut [ProbeStatus]) -> anyhow::Result<()> {
        self.present = None;
        self.set(Late::ABSENT)?;
        for hook in &mut self.hooks {
            if let Some(link) = hook.link.take()
                && let Err(error) = detach_kprobe(ebpf, &hook.program.name, link)
            {
                tracing::debug!(program = hook.program.name, %error, "a probe of a module that is gone");
            }
        }
        for status in probes.iter_mut() {
            if self.hooks.iter().any(|hook| hook.probe.function() == status.function) {
                status.verdict = Verdict::Waiting;
                status.reason =
                    Some(format!("module {MODULE} was unloaded; the probe is attached when it is loaded again"));
            }
        }
        tracing::debug!("module {MODULE} is gone, and its probes with it");
        Ok(())
    }

    fn set(&mut self, late: Late) -> anyhow::Result<()> {
        self.late.set(0, LateValue(late), 0).context("cannot tell the BPF side what iommufd's types are")
    }
}

/// Whether a probe may have missed something: it is there now, or ought to be.
fn in_gap(hook: &Hook, broken: &[(ProbeId, String)]) -> bool {
    hook.link.is_some() || broken.iter().any(|(id, _)| *id == hook.probe)
}
