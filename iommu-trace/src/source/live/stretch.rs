//! Has the kernel wait at the steps that were asked for, and tells how often it did.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, bail};
use aya::{
    Btf, Ebpf, Pod,
    maps::{Array, Map, MapData, PerCpuArray},
    programs::{FEntry, FExit},
};
use iommu_trace_common::stretch::{STEPS, Waited};

use super::attach;
use crate::{
    kernel::Kernel,
    probes::{
        Verdict, Way,
        stretch::{Planned, Step, Stretch, Stretched},
    },
    source::{StepWaits, Waits},
};

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Counters([Waited; STEPS]);
// SAFETY: an array of integers: any bytes are a value, and it has no padding.
unsafe impl Pod for Counters {}

/// What is to be stretched on this kernel, and for how long.
#[derive(Default)]
pub struct Plan {
    steps: BTreeMap<Step, u64>,
    planned: Vec<Planned>,
}

impl Plan {
    /// What is asked for; an error when this kernel cannot do it, for it was asked for by name.
    pub fn new(kernel: &Kernel, asked: &[Stretch]) -> anyhow::Result<Plan> {
        let mut steps = BTreeMap::new();
        for stretch in asked {
            let ns = u64::try_from(stretch.wait.as_nanos()).context("a wait is far too long")?;
            steps.extend(stretch.steps.iter().map(|&step| (step, ns)));
        }
        let planned: Vec<Planned> = steps.keys().map(|&step| Planned::new(kernel, step)).collect();
        planned.iter().try_for_each(refused)?;
        Ok(Plan { steps, planned })
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The functions that its programs are attached to.
    pub fn functions(&self) -> impl Iterator<Item = &'static str> {
        self.planned.iter().flat_map(|planned| &planned.points).flat_map(|point| point.functions())
    }

    /// As it is told.
    pub fn told(&self) -> Vec<Stretched> {
        let told = |planned: &Planned| Stretched {
            step: planned.step.name().into(),
            wait_ns: self.steps.get(&planned.step).copied().unwrap_or(0),
            functions: planned.points.iter().map(|point| point.function.to_owned()).collect(),
        };
        self.planned.iter().map(told).collect()
    }

    /// Loads and attaches its programs. This must come before any probe is attached: of the programs on one function the kernel
    /// runs the newest first (`__bpf_trampoline_link_prog`), and a probe must have told what it saw before the wait.
    pub fn attach(&mut self, ebpf: &mut Ebpf, btf: &Btf) -> anyhow::Result<()> {
        for planned in &mut self.planned {
            let reasons = &mut planned.reasons;
            planned.points.retain(|point| {
                let done =
                    point.programs().try_for_each(|(function, name, way)| attach_one(ebpf, btf, function, name, way));
                done.inspect_err(|error| reasons.push(format!("{}: {}", point.function, attach::reason(error)))).is_ok()
            });
            refused(planned)?;
        }
        Ok(())
    }
}

/// The error for a step that can be stretched nowhere.
fn refused(planned: &Planned) -> anyhow::Result<()> {
    let status = planned.status();
    if status.verdict != Verdict::Ok {
        let reason = status.reason.as_deref().unwrap_or("the reason is not known");
        bail!("cannot stretch `{}` on this kernel: {reason}", planned.step);
    }
    Ok(())
}

fn attach_one(ebpf: &mut Ebpf, btf: &Btf, function: &str, name: &str, way: Way) -> anyhow::Result<()> {
    let program = ebpf.program_mut(name).with_context(|| format!("the BPF object has no program {name}"))?;
    match way {
        Way::FEntry => {
            let program: &mut FEntry = program.try_into()?;
            program.load(function, btf)?;
            program.attach()?;
        }
        Way::FExit => {
            let program: &mut FExit = program.try_into()?;
            program.load(function, btf)?;
            program.attach()?;
        }
        _ => bail!("waits are at the entry or the return of a function"),
    }
    Ok(())
}

/// The waits of a running trace.
pub struct LiveWaits {
    steps: BTreeMap<Step, u64>,
    /// How long each step is waited at, as BPF reads it.
    switch: Mutex<Array<MapData, [u64; STEPS]>>,
    counters: PerCpuArray<MapData, Counters>,
}

impl LiveWaits {
    /// Begins to wait.
    pub fn begin(plan: &Plan, switch: Map, counters: Map) -> anyhow::Result<LiveWaits> {
        let mut switch = Array::try_from(switch).context("the map STRETCH_NS is no array")?;
        let counters = PerCpuArray::try_from(counters).context("the map STRETCHED is no per-CPU array")?;
        let mut ns = [0; STEPS];
        for (&step, &wait) in &plan.steps {
            ns[step.place()] = wait;
        }
        switch.set(0, ns, 0).context("cannot switch the waits on")?;
        Ok(LiveWaits { steps: plan.steps.clone(), switch: Mutex::new(switch), counters })
    }

    /// Ends it: the programs may stay attached for some seconds more.
    pub fn end(&self) -> anyhow::Result<()> {
        let mut switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        switch.set(0, [0; STEPS], 0).context("cannot switch the waits off")
    }
}

impl Waits for LiveWaits {
    fn waits(&self) -> Vec<StepWaits> {
        let cpus = self.counters.get(&0, 0).inspect_err(|error| tracing::warn!(%error, "the waits cannot be counted"));
        let of = |(step, &wait_ns): (&Step, &u64)| {
            let cpus = cpus.as_ref().ok();
            let sum = |what: fn(&Waited) -> u64| Some(cpus?.iter().map(|cpu| what(&cpu.0[step.place()])).sum());
            StepWaits {
                step: step.name().into(),
                wait_ns,
                waits: sum(|waited| waited.waits),
                waited_ns: sum(|waited| waited.ns),
            }
        };
        self.steps.iter().map(of).collect()
    }
}
