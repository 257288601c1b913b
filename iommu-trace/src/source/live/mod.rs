//! The live kernel: BPF programs attached, the ring drained.

mod attach;
mod detach;
mod diagnostics;
mod groups;
mod intake;
mod loss;
mod memory;
mod modules;
mod near;
mod order;
mod ring;
mod stacks;
mod stretch;
mod sums;
mod targets;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use aya::{Ebpf, maps::Array};
use clap::ValueEnum;
use iommu_trace_common::stacks as stacks_of;

use self::{
    diagnostics::Diagnostics,
    loss::{Losses, Misses},
    modules::Modules,
    ring::Ring,
    stacks::LiveStacks,
    stretch::LiveWaits,
    sums::Sums,
};
pub use self::{
    groups::Groups,
    intake::{Intake, Records},
    ring::Mark,
};
use super::{Batch, Cost, ProgramCost, Progress, Source, SourceInfo, Stacks, Waits};
use crate::{
    event::ProbeId,
    kernel::{Kernel, iommu_groups, privileges::explain},
    model::{Features, span::Topic},
    probes::{Plan, ProbeStatus, Verdict, Wanted, stretch::Stretch},
    sandbox::{Grant, Needs},
};

/// How long the ring is waited for where a module may come meanwhile.
const MODULE_WAIT: Duration = Duration::from_millis(10);
/// The nice value of the threads that read the ring and take what was in it.
const READER_NICE: i32 = -15;
/// The ring's size for each CPU unless another is asked for: more CPUs tell more while the reader is away, and there is one reader
/// (docs/performance.md). All of it counts as resident.
const RING_OF_A_CPU: u32 = 1 << 20;
/// The least of that: some 2,300 faults with all their stages.
const LEAST_DEFAULT_RING: u32 = 4 << 20;
/// The most of it.
const MOST_DEFAULT_RING: u32 = 32 << 20;
/// The least ring that holds some records of every kind.
pub const MIN_RING: u32 = 4096;
/// The largest: the map's size is a `u32`, a power of two.
pub const MAX_RING: u32 = 1 << 30;

/// The ring's size where nobody says anything.
#[must_use]
pub fn default_ring() -> u32 {
    // Where that cannot be told, there are few.
    ring_for(aya::util::online_cpus().map_or(1, |cpus| cpus.len()))
}

fn ring_for(cpus: usize) -> u32 {
    let wanted = u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(RING_OF_A_CPU);
    wanted.clamp(LEAST_DEFAULT_RING, MOST_DEFAULT_RING).next_power_of_two()
}

/// What a live source is asked for.
#[derive(Clone, Debug)]
pub struct LiveOptions {
    /// Topics wanted; probes that none of them needs are not attached.
    pub topics: Vec<Topic>,
    /// Whose kernel stacks are taken.
    pub stacks: StackLevel,
    /// Bytes of the ring, rounded up to a power of two.
    pub buffer_size: u32,
    /// Carry the BPF side's own diagnostics to the log.
    pub verbose: bool,
    /// Take the snapshot of what is attached already.
    pub snapshot: bool,
    /// Watch the frees of handles and fault groups.
    pub track_frees: bool,
    /// Sum map, unmap and invalidation up in the kernel, in place of a record for each.
    pub sums: bool,
    /// The groups whose page faults are wanted.
    pub groups: Groups,
    /// Where the kernel is made to wait, and for how long: a later word for a step counts.
    pub stretch: Vec<Stretch>,
}

/// Whose kernel stacks are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum StackLevel {
    /// Nobody's.
    #[default]
    None,
    /// Of what is rare: attaches, detaches, SVA binds, iommufd's calls, resets, fault queues, watched frees.
    Rare,
    /// Of page faults, DMA faults, mappings and invalidations, too, each of which becomes many times as dear.
    All,
}

impl StackLevel {
    /// Whether there are any.
    #[must_use]
    pub fn is_any(self) -> bool {
        self != StackLevel::None
    }

    /// As the BPF programs are told.
    fn setting(self) -> u32 {
        match self {
            StackLevel::None => stacks_of::NONE,
            StackLevel::Rare => stacks_of::RARE,
            StackLevel::All => stacks_of::ALL,
        }
    }
}

impl LiveOptions {
    fn wanted(&self) -> Wanted {
        Wanted { topics: self.topics.clone(), snapshot: self.snapshot, frees: self.track_frees, sums: self.sums }
    }
}

impl Default for LiveOptions {
    fn default() -> Self {
        LiveOptions {
            topics: vec![Topic::Attach, Topic::Fault, Topic::Sva, Topic::Iommufd, Topic::Reset],
            stacks: StackLevel::None,
            buffer_size: default_ring(),
            verbose: false,
            snapshot: true,
            track_frees: false,
            sums: false,
            groups: Groups::All,
            stretch: Vec::new(),
        }
    }
}

/// Attaches the probes and starts to trace. Every probe that can be attached is attached when this returns.
pub fn open(options: &LiveOptions) -> anyhow::Result<Box<dyn Source>> {
    let started = Instant::now();
    let kernel = Kernel::running()?;
    let types = started.elapsed();
    let mut plan = Plan::new(&kernel, &options.wanted());
    let mut stretch = stretch::Plan::new(&kernel, &options.stretch)?;
    let btf = attach::kernel_types(&kernel, &plan, &stretch)?;
    let mut ebpf = attach::load_and_attach(&kernel, &btf, &mut plan, &mut stretch, options).map_err(explain)?;
    options.groups.leave_out(&mut ebpf)?;
    let about = About::of(&kernel);
    let modules = Modules::new(kernel, &mut plan, &mut ebpf)?;
    drop(btf);
    memory::give_back();
    tracing::debug!(?types, all = ?started.elapsed(), "probes attached");
    let missing: Vec<String> = plan
        .status()
        .into_iter()
        .filter(|status| status.essential && matches!(status.verdict, Verdict::Missing | Verdict::Broken))
        .map(|status| format!("{} ({})", status.function, status.reason.unwrap_or_default()))
        .collect();
    if !missing.is_empty() && options.topics.contains(&Topic::Attach) {
        let error = anyhow!("essential probes could not be attached: {}", missing.join("; "));
        return Err(explain(error.context("`iommu-trace doctor` tells more")));
    }
    let mut live = Live::new(about, &plan, ebpf, options)?;
    live.modules = modules;
    live.begin_to_wait(&stretch)?;
    if plan.has(ProbeId::GroupShowType) {
        live.take_snapshot()?;
    }
    Ok(Box::new(live))
}

/// The verdicts on this kernel without tracing: every probe is attached and detached again.
pub fn probe_verdicts(options: &LiveOptions) -> anyhow::Result<Vec<ProbeStatus>> {
    let kernel = Kernel::running()?;
    let mut plan = Plan::new(&kernel, &options.wanted());
    let mut stretch = stretch::Plan::default();
    let btf = attach::kernel_types(&kernel, &plan, &stretch)?;
    let mut ebpf = attach::load_and_attach(&kernel, &btf, &mut plan, &mut stretch, options)?;
    Modules::new(kernel, &mut plan, &mut ebpf)?;
    detach::in_background(ebpf);
    Ok(plan.status())
}

/// What is told of the kernel.
struct About {
    release: String,
    machine: String,
    host: String,
    features: Features,
}

impl About {
    fn of(kernel: &Kernel) -> About {
        About {
            release: kernel.release.clone(),
            machine: kernel.machine.clone(),
            host: kernel.host.clone(),
            features: kernel.features(),
        }
    }
}

/// The running trace.
struct Live {
    info: SourceInfo,
    intake: Intake<Ring>,
    losses: Losses,
    /// Where hot functions are summed up.
    sums: Option<Sums>,
    misses: Misses,
    stacks: Arc<LiveStacks>,
    /// The BPF side's own diagnostics.
    diagnostics: Option<Diagnostics>,
    /// The programs; `None` once they are detached.
    ebpf: Option<Ebpf>,
    /// iommufd, where it is a module.
    modules: Option<Modules>,
    /// Where the kernel is made to wait.
    waits: Option<Arc<LiveWaits>>,
    costs: Cost,
    /// When it was asked to stop.
    stopped: Option<Mark>,
    ended: bool,
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(ebpf) = self.ebpf.take() {
            detach::in_background(ebpf);
        }
    }
}

impl Live {
    fn new(about: About, plan: &Plan, mut ebpf: Ebpf, options: &LiveOptions) -> anyhow::Result<Live> {
        let diagnostics = if options.verbose { Some(Diagnostics::new(&mut ebpf)?) } else { None };
        let ring = Ring::new(ebpf.take_map("RING").context("the BPF object has no map RING")?)?;
        let losses = Losses::new(ebpf.take_map("LOST").context("the BPF object has no map LOST")?)?;
        let stacks = ebpf.take_map("STACKS").context("the BPF object has no map STACKS")?;
        let stacks = LiveStacks::new(stacks, options.stacks.is_any())?;
        let sums = if options.sums {
            let near = ebpf.take_map("NEAR").context("the BPF object has no map NEAR")?;
            Some(Sums::new(&near, ebpf.take_map("SUMS").context("the BPF object has no map SUMS")?)?)
        } else {
            None
        };
        let now = monotonic_ns();
        let info = SourceInfo {
            kernel: about.release,
            machine: about.machine,
            host: about.host,
            features: plan.features(&about.features),
            probes: plan.status(),
            epoch_offset_ns: epoch_offset_ns(),
            started_ns: now,
            settled: false,
            stretched: Vec::new(),
        };
        Ok(Live {
            info,
            intake: Intake::new(ring, options.buffer_size, now),
            losses,
            sums,
            misses: Misses::of(&ebpf),
            stacks: Arc::new(stacks),
            diagnostics,
            ebpf: Some(ebpf),
            modules: None,
            waits: None,
            costs: Cost::default(),
            stopped: None,
            ended: false,
        })
    }

    /// Switches the waits on whose programs are attached.
    fn begin_to_wait(&mut self, stretch: &stretch::Plan) -> anyhow::Result<()> {
        if stretch.is_empty() {
            return Ok(());
        }
        let ebpf = self.ebpf.as_mut().context("the probes are detached")?;
        let switch = ebpf.take_map("STRETCH_NS").context("the BPF object has no map STRETCH_NS")?;
        let counters = ebpf.take_map("STRETCHED").context("the BPF object has no map STRETCHED")?;
        self.waits = Some(Arc::new(LiveWaits::begin(stretch, switch, counters)?));
        self.info.stretched = stretch.told();
        Ok(())
    }

    /// Has the BPF side tell what every group holds. The ring is emptied after each group, so that a small one will do.
    fn take_snapshot(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let ebpf = self.ebpf.as_mut().context("the probes are detached")?;
        let map = ebpf.take_map("SNAPSHOT").context("the BPF object has no map SNAPSHOT")?;
        let mut on = Array::<_, u32>::try_from(map).context("the map SNAPSHOT is no array")?;
        on.set(0, 1, 0).context("cannot begin the snapshot")?;
        let groups = iommu_groups();
        for group in &groups {
            let path = group.join("type");
            // A group may go while this runs; its events tell so. Any other failure leaves its state unknown.
            if let Err(error) = std::fs::read(&path)
                && group.exists()
            {
                tracing::warn!("what group {} holds is not known: cannot read its type: {error}", group.display());
            }
            while !self.intake.drain() {
                self.tell_diagnostics();
            }
            self.tell_diagnostics();
        }
        on.set(0, 0, 0).context("cannot end the snapshot")?;
        tracing::debug!(groups = groups.len(), took = ?started.elapsed(), "snapshot taken");
        Ok(())
    }

    /// Tells what was summed up, when it is time to, or now.
    fn look_at_sums(&mut self, now: bool) -> anyhow::Result<()> {
        let Some(sums) = self.sums.as_mut().filter(|sums| now || sums.is_due()) else { return Ok(()) };
        for event in sums.take(monotonic_ns())? {
            self.intake.push(event);
        }
        Ok(())
    }

    /// Follows iommufd where it is a module. What it may have done unseen is a loss like any other.
    fn look_at_modules(&mut self) -> anyhow::Result<()> {
        if let (Some(modules), Some(ebpf)) = (&mut self.modules, &mut self.ebpf) {
            let missed = modules.look(ebpf, &mut self.info.probes)?;
            self.losses.add(missed);
        }
        Ok(())
    }

    fn tell_diagnostics(&mut self) {
        if let Some(diagnostics) = &mut self.diagnostics {
            diagnostics.flush();
        }
    }
}

impl Source for Live {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    fn is_live(&self) -> bool {
        true
    }

    fn on_reader_thread(&mut self) {
        hurry();
    }

    fn poll(&mut self, timeout: Duration, batch: &mut Batch) -> anyhow::Result<Progress> {
        if self.ended {
            batch.upto = self.intake.released();
            return Ok(Progress::End);
        }
        if let Some(stopped) = self.stopped {
            // The end of the trace is the moment it was stopped at; what came after it is nobody's.
            self.intake.read_to(stopped);
            self.tell_diagnostics();
            self.intake.release(stopped.ts, self.losses.take(), batch);
            self.ended = true;
            return Ok(Progress::End);
        }
        self.look_at_modules()?;
        let due = self.intake.read(if self.modules.is_some() { timeout.min(MODULE_WAIT) } else { timeout })?;
        self.tell_diagnostics();
        self.look_at_sums(false)?;
        if let Some(upto) = due {
            // What was lost until now is told before anything that is given out now.
            self.losses.update(monotonic_ns())?;
            self.losses.add(self.misses.take(false));
            self.intake.release(upto, self.losses.take(), batch);
        }
        Ok(Progress::More)
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(ebpf) = self.ebpf.take() {
            if let Some(waits) = &self.waits {
                waits.end()?;
            }
            self.costs = costs(&ebpf);
            self.look_at_sums(true)?;
            self.stopped = Some(self.intake.end());
            self.losses.update(monotonic_ns())?;
            self.losses.add(self.misses.take(true));
            let started = Instant::now();
            detach::in_background(ebpf);
            tracing::debug!(took = ?started.elapsed(), "probes handed over to be detached");
        }
        Ok(())
    }

    fn stacks(&self) -> Arc<dyn Stacks> {
        Arc::clone(&self.stacks) as Arc<dyn Stacks>
    }

    fn needs(&self) -> Needs {
        // What is told of programs and modules is in procfs and sysfs.
        let needs = Needs::NOTHING.and(Grant::Read).and(Grant::Maps).and(Grant::Detach);
        if self.modules.is_some() { needs.and(Grant::Probe) } else { needs }
    }

    fn waits(&self) -> Option<Arc<dyn Waits>> {
        self.waits.clone().map(|waits| waits as Arc<dyn Waits>)
    }

    fn cost(&self) -> Cost {
        match &self.ebpf {
            Some(ebpf) => costs(ebpf),
            None => self.costs.clone(),
        }
    }
}

/// Has this thread not be late: what finds no room in the ring meanwhile is lost. Who takes the events must keep up, too, or they
/// fill the memory and then the ring. Without the right to it, things stay as they are.
pub fn hurry() {
    if let Err(error) = rustix::process::setpriority_process(None, READER_NICE) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

/// Run time and run count of each program; zero unless the kernel keeps statistics (`kernel.bpf_stats_enabled`).
fn costs(ebpf: &Ebpf) -> Cost {
    let programs = loss::fdinfo(ebpf)
        .map(|(name, info)| ProgramCost { program: name, runs: info.run_cnt, run_ns: info.run_time_ns })
        .collect();
    Cost { programs }
}

/// Has the kernel keep run times and counts of BPF programs while the result lives; `None` where it does not let us
/// (that takes `CAP_SYS_ADMIN`). A run then costs two readings of the clock more.
#[must_use]
pub fn run_time_statistics() -> Option<std::os::fd::OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .inspect_err(|error| tracing::debug!(%error, "the kernel keeps no statistics of BPF programs"))
        .ok()
}

/// `CLOCK_MONOTONIC`, as `bpf_ktime_get_ns()` has it.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC) as u64
}

fn epoch_offset_ns() -> i64 {
    clock_ns(libc::CLOCK_REALTIME) - clock_ns(libc::CLOCK_MONOTONIC)
}

fn clock_ns(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` of ours. The clocks asked for exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_grows_with_the_cpus_within_bounds() {
        let mib = |cpus| ring_for(cpus) >> 20;
        assert_eq!([0, 1, 4, 5, 8, 12, 32, 64, 8192, usize::MAX].map(mib), [4, 4, 4, 8, 8, 16, 32, 32, 32, 32]);
        assert!(ring_for(3) >= MIN_RING && ring_for(usize::MAX) <= MAX_RING);
    }
}
