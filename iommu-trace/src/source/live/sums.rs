//! What BPF has summed up of the hot functions, told as the difference to the last look.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya::{
    Pod,
    maps::{Map, MapData, PerCpuHashMap},
};
use iommu_trace_common::record::{SumKey, SumValue};

use crate::event::{Body, Event, Phase, ProbeId, Sum, Task};

/// Functions, domains, IOMMUs and kinds that are told apart; each takes 120 bytes on each CPU. Calls that find no room count
/// as lost.
pub const ROOM: u32 = 8192;
/// How often they are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// When the table gets full, what was idle for so many looks leaves it.
const IDLE_LOOKS: u32 = 10;

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Key(SumKey);
// SAFETY: integers without padding: any bytes are a value.
unsafe impl Pod for Key {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Value(SumValue);
// SAFETY: as above.
unsafe impl Pod for Value {}

/// What was told of one key.
struct Told {
    value: SumValue,
    idle: u32,
}

/// The map and what of it was told already.
pub struct Sums {
    map: PerCpuHashMap<MapData, Key, Value>,
    told: BTreeMap<(u64, u32, u32), Told>,
    looked: Instant,
}

impl Sums {
    pub fn new(map: Map) -> anyhow::Result<Sums> {
        let map = PerCpuHashMap::try_from(map).context("the map SUMS is no per-CPU hash")?;
        Ok(Sums { map, told: BTreeMap::new(), looked: Instant::now() })
    }

    /// Whether it is time to look.
    pub fn is_due(&self) -> bool {
        self.looked.elapsed() >= EVERY
    }

    /// What was added since the last look, as events of the time `now`.
    pub fn take(&mut self, now: u64) -> anyhow::Result<Vec<Event>> {
        self.looked = Instant::now();
        let mut events = Vec::new();
        let mut entries = 0;
        for entry in &self.map {
            let (Key(key), cpus) = entry.context("cannot read the sums of map, unmap and invalidation")?;
            entries += 1;
            let sum = cpus.iter().fold(SumValue::ZERO, |sum, cpu| sum.plus(&cpu.0));
            let told =
                self.told.entry((key.object, key.probe, key.kind)).or_insert(Told { value: SumValue::ZERO, idle: 0 });
            let more = sum.minus(&told.value);
            told.idle = if more.calls == 0 { told.idle.saturating_add(1) } else { 0 };
            told.value = sum;
            if more.calls > 0
                && let Some(sum) = Sum::new(&key, &more)
            {
                events.push(Event {
                    ts: now,
                    task: Task::default(),
                    probe: ProbeId::Sums,
                    phase: Phase::Exit,
                    stack: None,
                    body: Body::Sum(Box::new(sum)),
                });
            }
        }
        if entries > ROOM * 3 / 4 {
            self.forget_idle();
        }
        Ok(events)
    }

    /// Makes room. A domain that is freed is never called again; one that is called after all begins anew.
    fn forget_idle(&mut self) {
        let map = &mut self.map;
        self.told.retain(|&(object, probe, kind), told| {
            told.idle < IDLE_LOOKS || map.remove(&Key(SumKey { object, probe, kind })).is_err()
        });
    }
}
