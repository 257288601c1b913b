//! A simulated kernel: threads that follow the real rules step by step, interleaved at random, on several CPUs.
//!
//! What a thread does is a queue of small steps: take a lock, wait for something, change the state, make an event. So
//! an event may come long after what it tells of, as with real probes. The heap gives freed addresses out again.

mod bugs;
mod core;
mod faults;
mod iommufd;
mod life;
mod sva;
mod trials;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use crate::{
    event::{Body, Comm, Delivered, DeviceRef, Event, HandleRef, Phase, ProbeId, Ptr, Task},
    model::{
        Features,
        testing::{Dev, Req, dev_in},
    },
};

pub(super) use bugs::Bug;

/// Groups; the first has two devices.
const GROUPS: usize = 3;
/// PASIDs that are used, the RID among them.
const PASIDS: [u32; 4] = [0, 1, 2, 3];
/// PASIDs that SVA uses, on the last device.
const SVA_PASIDS: [u32; 2] = [8, 9];

/// `SplitMix64`: all that is asked of it is that a seed gives one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A lock of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lock {
    /// `igroup->lock` of iommufd.
    Igroup(usize),
    /// `group->mutex`.
    Group(usize),
    /// `fault->mutex`.
    Queue,
    /// `iommu_sva_lock`.
    Sva,
}

type Do = Box<dyn FnOnce(&mut Sim, usize)>;

/// A step of a thread.
enum Step {
    Lock(Lock),
    Unlock(Lock),
    Wait(Box<dyn Fn(&Sim) -> bool>),
    Do(Do),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Attaches, replaces and detaches through iommufd.
    Vmm,
    /// A device's fault interrupt.
    Reporter,
    /// User space at the fault file.
    Reader,
    /// A driver that binds address spaces.
    Binder,
    /// The work queue of SVA's faults.
    Worker,
    /// PCI resets.
    Resetter,
}

struct Thread {
    task: Task,
    role: Role,
    steps: VecDeque<Step>,
    /// Steps that the running one adds, to come before the rest.
    added: Vec<Step>,
}

/// Whether the hardware lets a device use a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hardware {
    /// Nothing is attached; requests are refused.
    #[default]
    Off,
    /// A change is running: the driver holds requests back.
    Busy,
    On,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    handle: Option<Ptr>,
    /// The one before, for a look-up that is wrong.
    before: Option<Ptr>,
    hardware: Hardware,
}

/// What a handle is embedded in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle {
    seen: HandleRef,
    group: usize,
    pasid: u32,
    /// Its domain has a fault handler.
    faulting: bool,
}

#[derive(Clone, Debug)]
struct Device {
    dev: Dev,
    group: usize,
    bound: bool,
    attached: HashSet<u32>,
    /// Faulting domains that it is attached to.
    faulting: u32,
    partial: Vec<Req>,
}

#[derive(Clone, Debug)]
struct FaultGroup {
    device: usize,
    requests: Vec<Req>,
    handle: Ptr,
    seen: HandleRef,
    /// What user space answers it with, once it was told.
    cookie: u32,
}

#[derive(Clone, Copy, Debug)]
struct Bond {
    handle: Ptr,
    users: u32,
}

/// The simulated kernel and its threads.
pub(super) struct Sim {
    rng: Rng,
    now: u64,
    /// Time between events, on average.
    pub pace: u64,
    threads: Vec<Thread>,
    locks: HashMap<Lock, usize>,
    features: Features,
    bug: Option<Bug>,
    /// How often the bug was put in.
    pub bugs: u32,
    pub events: Vec<Event>,
    slots: BTreeMap<(usize, u32), Slot>,
    handles: HashMap<Ptr, Handle>,
    devices: Vec<Device>,
    groups: HashMap<Ptr, FaultGroup>,
    deliver: VecDeque<Ptr>,
    response: BTreeMap<u32, Ptr>,
    queue: Ptr,
    /// Reads and writes of the fault file that run: they hold its object.
    users: u32,
    work: VecDeque<Ptr>,
    bonds: BTreeMap<u32, Bond>,
    /// Binds that have returned and are not undone, by PASID.
    held: Vec<u32>,
    /// Reports that run, by number: group and PASID.
    reports: BTreeMap<u64, (usize, u32)>,
    numbers: u64,
    /// Messages of a group that was freed.
    ghosts: Vec<Delivered>,
    /// Resets that block a group.
    blocked: [u32; GROUPS],
    heap: Vec<Ptr>,
    settling: bool,
}

impl Sim {
    pub fn new(seed: u64, features: Features, bug: Option<Bug>) -> Self {
        let device = |n: u32, group: usize| Device {
            dev: dev_in(n, group as u32 + 1),
            group,
            bound: false,
            attached: HashSet::new(),
            faulting: 0,
            partial: Vec::new(),
        };
        use Role::{Binder, Reader, Reporter, Resetter, Vmm, Worker};
        let roles = [Vmm, Vmm, Vmm, Reporter, Reporter, Reporter, Reader, Reader, Binder, Binder, Worker, Resetter];
        let threads = roles.into_iter().enumerate().map(|(n, role)| Thread {
            task: Task { cpu: n as u32 % 4, pid: 100, tid: 100 + n as u32, comm: Comm::new(&format!("{role:?}")) },
            role,
            steps: VecDeque::new(),
            added: Vec::new(),
        });
        let mut sim = Sim {
            rng: Rng(seed),
            now: 1_000_000,
            pace: 50_000,
            threads: threads.collect(),
            locks: HashMap::new(),
            features,
            bug,
            bugs: 0,
            events: Vec::new(),
            slots: BTreeMap::new(),
            handles: HashMap::new(),
            devices: vec![device(1, 0), device(2, 0), device(3, 1), device(4, 2)],
            groups: HashMap::new(),
            deliver: VecDeque::new(),
            response: BTreeMap::new(),
            queue: Ptr(0xf0f0_0000),
            users: 0,
            work: VecDeque::new(),
            bonds: BTreeMap::new(),
            held: Vec::new(),
            reports: BTreeMap::new(),
            numbers: 0,
            ghosts: Vec::new(),
            blocked: [0; GROUPS],
            heap: Vec::new(),
            settling: false,
        };
        for group in 0..GROUPS {
            for pasid in PASIDS.into_iter().chain(SVA_PASIDS) {
                sim.slots.insert((group, pasid), Slot::default());
            }
        }
        sim
    }

    /// Lets threads make `steps` steps.
    pub fn run(&mut self, steps: usize) {
        let mut idle = 0;
        for _ in 0..steps {
            let thread = self.below(self.threads.len());
            if self.step(thread) {
                idle = 0;
            } else {
                idle += 1;
                assert!(idle < 10_000, "the simulated kernel hangs: {:?}", self.locks);
            }
        }
    }

    /// Lets every thread end what it is doing, and starts nothing new.
    pub fn settle(&mut self) {
        self.settling = true;
        for _ in 0..1_000_000 {
            let busy: Vec<_> = (0..self.threads.len())
                .filter(|&n| {
                    let thread = &self.threads[n];
                    !thread.steps.is_empty() || (thread.role == Role::Worker && !self.work.is_empty())
                })
                .collect();
            if busy.is_empty() {
                return;
            }
            let at = self.below(busy.len());
            self.step(busy[at]);
        }
        panic!("the simulated kernel does not settle: {:?}", self.locks);
    }

    /// Whether the thread got any further.
    fn step(&mut self, n: usize) -> bool {
        let Some(step) = self.threads[n].steps.pop_front() else {
            self.begin(n);
            self.put_added(n);
            return true;
        };
        match step {
            Step::Lock(lock) => {
                if self.locks.contains_key(&lock) {
                    self.threads[n].steps.push_front(Step::Lock(lock));
                    return false;
                }
                self.locks.insert(lock, n);
            }
            Step::Unlock(lock) => {
                assert_eq!(self.locks.remove(&lock), Some(n), "{lock:?} is not this thread's");
            }
            Step::Wait(ready) => {
                if !ready(self) {
                    self.threads[n].steps.push_front(Step::Wait(ready));
                    return false;
                }
            }
            Step::Do(run) => {
                run(self, n);
                self.put_added(n);
            }
        }
        true
    }

    fn put_added(&mut self, n: usize) {
        let thread = &mut self.threads[n];
        for step in std::mem::take(&mut thread.added).into_iter().rev() {
            thread.steps.push_front(step);
        }
    }

    fn begin(&mut self, n: usize) {
        match self.threads[n].role {
            Role::Vmm => self.vmm(n),
            Role::Reporter => self.reporter(n),
            Role::Reader => self.reader(n),
            Role::Binder => self.binder(n),
            Role::Worker => self.worker(n),
            Role::Resetter => self.resetter(n),
        }
    }

    // What programs are written with.

    fn add(&mut self, n: usize, run: impl FnOnce(&mut Sim, usize) + 'static) {
        self.threads[n].added.push(Step::Do(Box::new(run)));
    }

    fn lock(&mut self, n: usize, lock: Lock) {
        self.threads[n].added.push(Step::Lock(lock));
    }

    fn unlock(&mut self, n: usize, lock: Lock) {
        self.threads[n].added.push(Step::Unlock(lock));
    }

    fn wait(&mut self, n: usize, ready: impl Fn(&Sim) -> bool + 'static) {
        self.threads[n].added.push(Step::Wait(Box::new(ready)));
    }

    /// An event, as a step of its own.
    fn emit(&mut self, n: usize, probe: ProbeId, phase: Phase, body: Body) {
        self.add(n, move |sim, n| sim.event(n, probe, phase, body));
    }

    fn enter(&mut self, n: usize, probe: ProbeId, body: Body) {
        self.emit(n, probe, Phase::Enter, body);
    }

    fn ret(&mut self, n: usize, probe: ProbeId, ret: i64) {
        self.emit(n, probe, Phase::Exit, Body::Return { ret });
    }

    /// An event, now.
    fn event(&mut self, n: usize, probe: ProbeId, phase: Phase, body: Body) {
        self.now += 1 + self.rng.next() % (2 * self.pace);
        let task = self.threads[n].task;
        self.events.push(Event { ts: self.now, task, probe, phase, stack: None, body });
    }

    fn below(&mut self, n: usize) -> usize {
        (self.rng.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.rng.next() % 100 < percent
    }

    /// Whether to be wrong here, and in this way.
    fn wrong(&mut self, bug: Bug) -> bool {
        let wrong = self.bug == Some(bug) && self.chance(30);
        self.bugs += u32::from(wrong);
        wrong
    }

    fn alloc(&mut self) -> Ptr {
        if !self.heap.is_empty() && self.chance(80) {
            return self.heap.pop().unwrap_or_default();
        }
        self.numbers += 1;
        Ptr(0xffff_8000_0000_0000 + self.numbers * 0x100)
    }

    /// `kfree`, which a probe sees.
    fn free(&mut self, n: usize, ptr: Ptr) {
        self.event(n, ProbeId::Kfree, Phase::Enter, Body::Free { ptr });
        self.heap.push(ptr);
    }

    fn slot(&mut self, group: usize, pasid: u32) -> &mut Slot {
        self.slots.entry((group, pasid)).or_default()
    }

    /// A group without one of its devices, as functions that take a group show it.
    fn group_ref(&self, group: usize) -> DeviceRef {
        let device = self.devices.iter().find(|device| device.group == group).map(|device| device.dev.device);
        DeviceRef { ptr: Ptr::NULL, name: crate::event::Name::default(), ..device.unwrap_or_default() }
    }

    fn devices_of(&self, group: usize) -> Vec<usize> {
        (0..self.devices.len()).filter(|&n| self.devices[n].group == group).collect()
    }
}
