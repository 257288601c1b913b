//! What did not come through: records without room in the ring, runs that the kernel skipped.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
};

use anyhow::Context as _;
use aya::{
    Ebpf, Pod,
    maps::{Map, MapData, PerCpuArray},
    programs::Program,
};
use aya_obj::generated::{bpf_attr, bpf_attr__bindgen_ty_9, bpf_cmd, bpf_prog_info};
use iommu_trace_common::{LossCounters, Phase, ProbeId};

use crate::{
    event::{Body, Event, Task},
    probes::CATALOGUE,
};

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Counters(LossCounters);
// SAFETY: an array of integers: any bytes are a value, and it has no padding.
unsafe impl Pod for Counters {}

/// The loss counters and what of them was told already.
pub struct Losses {
    map: PerCpuArray<MapData, Counters>,
    told: LossCounters,
    pending: BTreeMap<(u16, u16), u64>,
    /// When the counters were read last.
    read_at: u64,
}

impl Losses {
    pub fn new(map: Map) -> anyhow::Result<Losses> {
        let map = PerCpuArray::try_from(map).context("the map LOST is no per-CPU array")?;
        Ok(Losses { map, told: [0; 2 * ProbeId::ALL.len()], pending: BTreeMap::new(), read_at: 0 })
    }

    /// Looks at the counters; `now` is the time it is.
    pub fn update(&mut self, now: u64) -> anyhow::Result<()> {
        self.read_at = now;
        let cpus = self.map.get(&0, 0).context("cannot read the loss counters")?;
        for (index, told) in self.told.iter_mut().enumerate() {
            let count: u64 = cpus.iter().map(|counters| counters.0[index]).sum();
            if count > *told {
                *self.pending.entry(((index / 2) as u16, (index % 2) as u16)).or_default() += count - *told;
                *told = count;
            }
        }
        Ok(())
    }

    /// Adds losses found elsewhere.
    pub fn add(&mut self, losses: Vec<(ProbeId, Phase, u64)>) {
        for (probe, phase, count) in losses {
            *self.pending.entry((probe as u16, phase as u16)).or_default() += count;
        }
    }

    /// The losses not yet told, as events with the time at which they were known: what began before it may lack a part.
    pub fn take(&mut self) -> Vec<Event> {
        let ts = self.read_at;
        std::mem::take(&mut self.pending)
            .into_iter()
            .filter_map(|((probe, phase), count)| {
                Some(Event {
                    ts,
                    task: Task::default(),
                    probe: ProbeId::from_u16(probe)?,
                    phase: if phase == 0 { Phase::Enter } else { Phase::Exit },
                    stack: None,
                    body: Body::Lost { count },
                })
            })
            .collect()
    }
}

/// What the kernel tells of a program.
#[derive(Clone, Copy, Debug, Default)]
pub struct FdInfo {
    /// Runs.
    pub run_cnt: u64,
    /// Their time, nanoseconds.
    pub run_time_ns: u64,
}

/// What the kernel tells of each loaded program, by name.
pub fn fdinfo(ebpf: &Ebpf) -> impl Iterator<Item = (String, FdInfo)> + '_ {
    loaded(ebpf).filter_map(|(name, fd)| {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        Some((name.to_owned(), parse(&text)))
    })
}

/// Each loaded program's name and descriptor.
fn loaded(ebpf: &Ebpf) -> impl Iterator<Item = (&str, RawFd)> {
    ebpf.programs().filter_map(|(name, program)| {
        let fd = match program {
            Program::FEntry(p) => p.fd(),
            Program::FExit(p) => p.fd(),
            Program::KProbe(p) => p.fd(),
            Program::BtfTracePoint(p) => p.fd(),
            Program::RawTracePoint(p) => p.fd(),
            _ => return None,
        };
        Some((name, fd.ok()?.as_fd().as_raw_fd()))
    })
}

fn parse(text: &str) -> FdInfo {
    let mut info = FdInfo::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim().parse().unwrap_or(0);
        match key {
            "run_cnt" => info.run_cnt = value,
            "run_time_ns" => info.run_time_ns = value,
            _ => {}
        }
    }
    info
}

/// Runs that the kernel skipped: a program does not run on a CPU where it was preempted or interrupted in its midst.
pub struct Misses(Vec<Counted>);

struct Counted {
    fd: RawFd,
    probe: ProbeId,
    phase: Phase,
    told: u64,
}

impl Misses {
    /// Of these programs, which must stay loaded while they are looked at.
    pub fn of(ebpf: &Ebpf) -> Self {
        let counted = loaded(ebpf).filter_map(|(name, fd)| {
            let (stem, suffix) = name.rsplit_once('_')?;
            let probe = CATALOGUE.iter().find(|probe| probe.stem == stem)?.id;
            let phase = if matches!(suffix, "enter" | "kprobe") { Phase::Enter } else { Phase::Exit };
            Some(Counted { fd, probe, phase, told: 0 })
        });
        Misses(counted.collect())
    }

    /// Those since the last look. Frees are many, and no rule rests on seeing them all: they are left to the `last` look.
    pub fn take(&mut self, last: bool) -> Vec<(ProbeId, Phase, u64)> {
        let programs = self.0.iter_mut().filter(|program| last || program.probe != ProbeId::Kfree);
        programs
            .filter_map(|program| {
                let missed = recursion_misses(program.fd)?;
                let new = missed.checked_sub(program.told).filter(|&new| new > 0)?;
                program.told = missed;
                Some((program.probe, program.phase, new))
            })
            .collect()
    }
}

/// `None` where the kernel does not tell (before 5.12).
fn recursion_misses(fd: RawFd) -> Option<u64> {
    // SAFETY: integers and arrays of them: zeroes are a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let about = bpf_attr__bindgen_ty_9 {
        bpf_fd: u32::try_from(fd).ok()?,
        info_len: size_of::<bpf_prog_info>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.info = about;
    let command = bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_long;
    // SAFETY: the command reads `attr` and writes `info`, which are as long as it is told, and nothing else: every array in
    // `info` that it could fill has no length.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<bpf_attr__bindgen_ty_9>()) };
    (done == 0).then_some(info.recursion_misses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_their_time_are_read_from_the_kernels_text() {
        let info = parse("pos:\t0\nprog_id:\t9\nrun_time_ns:\t120\nrun_cnt:\t3\nrecursion_misses:\t7\n");
        assert_eq!((info.run_cnt, info.run_time_ns), (3, 120));
    }
}
