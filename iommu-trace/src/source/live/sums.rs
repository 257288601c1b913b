//! What BPF has summed up of the hot functions, told as the difference to the last look.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use aya::{
    Pod,
    maps::{Map, MapData, PerCpuHashMap},
    util::nr_cpus,
};
use aya_obj::generated::{bpf_attr, bpf_cmd};
use iommu_trace_common::record::{SumKey, SumValue};

use super::near::NearSums;
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

/// The maps and what of them was told already.
pub struct Sums {
    /// Where most of map and unmap is.
    near: NearSums,
    map: PerCpuHashMap<MapData, Key, Value>,
    /// The same map, for what the library does not do.
    fd: OwnedFd,
    cpus: usize,
    told: BTreeMap<(u64, u32, u32), Told>,
    looked: Instant,
}

impl Sums {
    pub fn new(near: &Map, map: Map) -> anyhow::Result<Sums> {
        let Map::PerCpuHashMap(data) = &map else { bail!("the map SUMS is no per-CPU hash") };
        let fd = data.fd().as_fd().try_clone_to_owned().context("cannot keep the map SUMS open")?;
        let cpus = nr_cpus().map_err(|(_, error)| error).context("cannot tell the number of CPUs")?;
        let map = PerCpuHashMap::try_from(map).context("the map SUMS is no per-CPU hash")?;
        let near = NearSums::new(near, cpus)?;
        Ok(Sums { near, map, fd, cpus, told: BTreeMap::new(), looked: Instant::now() })
    }

    /// Whether it is time to look.
    pub fn is_due(&self) -> bool {
        self.looked.elapsed() >= EVERY
    }

    /// What was added since the last look, as events of the time `now`.
    pub fn take(&mut self, now: u64) -> anyhow::Result<Vec<Event>> {
        self.looked = Instant::now();
        let mut sums = BTreeMap::new();
        self.near.take(&mut sums);
        let mut entries = 0;
        for entry in &self.map {
            let (Key(key), cpus) = entry.context("cannot read the sums of map, unmap and invalidation")?;
            entries += 1;
            let sum = cpus.iter().fold(SumValue::ZERO, |sum, cpu| sum.plus(&cpu.0));
            let key = (key.object, key.probe, key.kind);
            let told = self.told.entry(key).or_insert(Told { value: SumValue::ZERO, idle: 0 });
            let more = sum.minus(&told.value);
            told.idle = if more.calls == 0 { told.idle.saturating_add(1) } else { 0 };
            told.value = sum;
            add(&mut sums, key, &more);
        }
        if entries > ROOM * 3 / 4 {
            self.forget_idle(&mut sums);
        }
        Ok(sums.iter().filter_map(|(key, more)| event(now, *key, more)).collect())
    }

    /// Makes room. A domain that is freed is never called again; one that is called after all begins anew. What has come
    /// since the look is told.
    fn forget_idle(&mut self, sums: &mut More) {
        let (fd, cpus) = (self.fd.as_fd(), self.cpus);
        self.told.retain(|&(object, probe, kind), told| {
            if told.idle < IDLE_LOOKS {
                return true;
            }
            match take_out(fd, &SumKey { object, probe, kind }, cpus) {
                Ok(last) => {
                    add(sums, (object, probe, kind), &last.minus(&told.value));
                    false
                }
                Err(error) => {
                    tracing::debug!(%error, "an idle sum stays in its table");
                    true
                }
            }
        });
    }
}

/// What came since the last look, by object, function and kind.
pub type More = BTreeMap<(u64, u32, u32), SumValue>;

/// Adds to it.
pub fn add(sums: &mut More, key: (u64, u32, u32), more: &SumValue) {
    if more.calls > 0 {
        let sum = sums.entry(key).or_insert(SumValue::ZERO);
        *sum = sum.plus(more);
    }
}

fn event(now: u64, (object, probe, kind): (u64, u32, u32), more: &SumValue) -> Option<Event> {
    let body = Body::Sum(Box::new(Sum::new(&SumKey { object, probe, kind }, more)?));
    Some(Event { ts: now, task: Task::default(), probe: ProbeId::Sums, phase: Phase::Exit, stack: None, body })
}

/// Reads an entry and removes it, under the lock of its bucket: of what comes between reading and removing in two steps, nothing
/// would be known.
fn take_out(map: BorrowedFd<'_>, key: &SumKey, cpus: usize) -> io::Result<SumValue> {
    let mut values = vec![SumValue::ZERO; cpus];
    // SAFETY: integers and arrays of them: zeroes are a value.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    // SAFETY: these are the members that commands about an element use; all are integers.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = map.as_raw_fd() as u32;
    element.key = std::ptr::from_ref(key) as u64;
    element.__bindgen_anon_1.value = values.as_mut_ptr() as u64;
    let command = bpf_cmd::BPF_MAP_LOOKUP_AND_DELETE_ELEM as libc::c_long;
    // SAFETY: the command reads `attr` and the key, and writes a value, which is a multiple of eight bytes long, for each
    // possible CPU.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<bpf_attr>()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(values.iter().fold(SumValue::ZERO, |sum, cpu| sum.plus(cpu)))
}

const _: () = assert!(size_of::<SumValue>().is_multiple_of(8), "the kernel rounds each CPU's value up to eight bytes");
