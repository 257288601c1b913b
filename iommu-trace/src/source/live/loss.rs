//! What did not come through: records without room in the ring, runs that the kernel skipped.

use std::{collections::BTreeMap, fs, os::fd::AsRawFd as _};

use anyhow::Context as _;
use aya::{
    Ebpf, Pod,
    maps::{Map, MapData, PerCpuArray},
    programs::Program,
};
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
    /// Runs skipped because the program was already running on that CPU.
    pub recursion_misses: u64,
    /// Runs.
    pub run_cnt: u64,
    /// Their time, nanoseconds.
    pub run_time_ns: u64,
}

/// What the kernel tells of each loaded program, by name.
pub fn fdinfo(ebpf: &Ebpf) -> impl Iterator<Item = (String, FdInfo)> + '_ {
    ebpf.programs().filter_map(|(name, program)| {
        let fd = match program {
            Program::FEntry(p) => p.fd(),
            Program::FExit(p) => p.fd(),
            Program::KProbe(p) => p.fd(),
            Program::BtfTracePoint(p) => p.fd(),
            Program::RawTracePoint(p) => p.fd(),
            _ => return None,
        };
        let fd = fd.ok()?;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", {
            use std::os::fd::AsFd as _;
            fd.as_fd().as_raw_fd()
        }))
        .ok()?;
        Some((name.to_owned(), parse(&text)))
    })
}

fn parse(text: &str) -> FdInfo {
    let mut info = FdInfo::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim().parse().unwrap_or(0);
        match key {
            "recursion_misses" => info.recursion_misses = value,
            "run_cnt" => info.run_cnt = value,
            "run_time_ns" => info.run_time_ns = value,
            _ => {}
        }
    }
    info
}

/// Runs that the kernel skipped, by probe.
pub fn recursion_misses(ebpf: &Ebpf) -> Vec<(ProbeId, Phase, u64)> {
    fdinfo(ebpf)
        .filter(|(_, info)| info.recursion_misses > 0)
        .filter_map(|(name, info)| {
            let (stem, suffix) = name.rsplit_once('_')?;
            let probe = CATALOGUE.iter().find(|probe| probe.stem == stem)?;
            let phase = if matches!(suffix, "enter" | "kprobe") { Phase::Enter } else { Phase::Exit };
            Some((probe.id, phase, info.recursion_misses))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_runs_are_read_from_the_kernels_text() {
        let info = parse("pos:\t0\nprog_id:\t9\nrun_time_ns:\t120\nrun_cnt:\t3\nrecursion_misses:\t7\n");
        assert_eq!((info.recursion_misses, info.run_cnt, info.run_time_ns), (7, 3, 120));
    }
}
