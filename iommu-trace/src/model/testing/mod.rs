//! Event sequences for tests and benchmarks, in the kernel's words.
//!
//! A [`Script`] is a list of events on one clock; [`Script::by`] says on which thread the next ones happen. The small
//! methods make one event each; [`By::attach`], [`By::fault`] and their like make the whole sequence that an undisturbed
//! kernel would. [`examples`] has one script for each rule, which breaks it.

use crate::event::{
    Body, Comm, DeviceRef, DomainType, Event, FLAG_LAST_PAGE, FLAG_PASID_VALID, HandleRef, Name, OwnerHint, Ptr, Task,
};

mod by;
pub mod examples;

pub use by::By;

use super::{Effects, Features, Model, ModelOptions};

/// `-ENOENT`.
pub const ENOENT: i64 = -2;
/// `-EINVAL`.
pub const EINVAL: i64 = -22;
/// `-EBUSY`.
pub const EBUSY: i64 = -16;

/// A kernel as 7.3 is: the handle is stored after the attach op, and everything is probed.
#[must_use]
pub fn kernel_7_3() -> Features {
    Features {
        store_after_op: true,
        tagged_slots: true,
        handles: true,
        iommufd: true,
        reset_blocking: true,
        group_dequeue: true,
        sees_responses: true,
        sees_driver_responses: true,
        sees_mock_responses: true,
        sees_group_frees: true,
        sees_reports: true,
        sees_lookups: true,
        sees_iommufd: true,
    }
}

/// A kernel as 6.12 is: the handle is stored before the attach op.
#[must_use]
pub fn kernel_6_12() -> Features {
    Features { store_after_op: false, tagged_slots: false, reset_blocking: false, ..kernel_7_3() }
}

/// A device of iommufd, or of SVA.
#[derive(Clone, Copy, Debug)]
pub struct Dev {
    /// The device and its group.
    pub device: DeviceRef,
    /// Its `struct iommufd_device`, and that object's id.
    pub idev: Ptr,
    /// See `idev`.
    pub id: u32,
}

/// The `n`th device, alone in the `n`th group.
#[must_use]
pub fn dev(n: u32) -> Dev {
    dev_in(n, n)
}

/// The `n`th device, in a group of several.
#[must_use]
pub fn dev_in(n: u32, group: u32) -> Dev {
    Dev {
        device: DeviceRef {
            ptr: Ptr(0xd000_0000 + u64::from(n) * 0x1000),
            group: Ptr(0x6000_0000 + u64::from(group) * 0x1000),
            group_id: Some(group),
            name: Name::new(&format!("0000:{:02x}:{:02x}.{}", n >> 8 & 0xff, n >> 3 & 0x1f, n & 7)),
        },
        idev: Ptr(0x1de0_0000 + u64::from(n) * 0x100),
        id: n + 1,
    }
}

/// A handle, for one device.
#[derive(Clone, Copy, Debug)]
pub struct Hnd {
    /// The handle, as a look-up finds it.
    pub handle: HandleRef,
}

/// The `n`th handle of iommufd, for `dev` and the `n`th domain.
#[must_use]
pub fn hnd(n: u32, dev: &Dev) -> Hnd {
    Hnd {
        handle: HandleRef {
            ptr: Ptr(0xa000_0000 + u64::from(n) * 0x100),
            domain: domain(n),
            domain_type: DomainType::UNMANAGED,
            device: dev.device.ptr,
            idev: dev.idev,
            device_id: Some(dev.id),
            owner: OwnerHint::Iommufd,
        },
    }
}

/// The `n`th bond's handle.
#[must_use]
pub fn bond(n: u32, dev: &Dev) -> Hnd {
    let mut bond = hnd(n, dev);
    bond.handle.domain_type = DomainType::SVA;
    bond.handle.idev = Ptr::NULL;
    bond.handle.device_id = None;
    bond.handle.owner = OwnerHint::Sva;
    bond
}

/// The `n`th domain.
#[must_use]
pub fn domain(n: u32) -> Ptr {
    Ptr(0xe000_0000 + u64::from(n) * 0x1000)
}

/// The domain that blocks everything.
pub const BLOCKING: Ptr = Ptr(0xb10c);
/// The default domain.
pub const DEFAULT: Ptr = Ptr(0xdef0);
/// A claim of DMA ownership: iommufd's context, VFIO's group.
pub const DMA_OWNER: Ptr = Ptr(0x0d0e);
/// A fault queue object.
pub const QUEUE: Ptr = Ptr(0xf0f0_0000);
/// A `struct iopf_queue`.
pub const IOPF_QUEUE: Ptr = Ptr(0x10f0_0000);

/// A page request.
#[derive(Clone, Copy, Debug)]
pub struct Req {
    /// `None` is a request by RID.
    pub pasid: Option<u32>,
    /// Group index.
    pub grpid: u32,
    /// Address.
    pub addr: u64,
    /// Ends its group.
    pub last: bool,
}

impl Req {
    /// The last (and only) request of group `grpid`.
    #[must_use]
    pub fn new(pasid: Option<u32>, grpid: u32, addr: u64) -> Self {
        Req { pasid, grpid, addr, last: true }
    }

    /// A request that is followed by others of its group.
    #[must_use]
    pub fn partial(pasid: Option<u32>, grpid: u32, addr: u64) -> Self {
        Req { last: false, ..Req::new(pasid, grpid, addr) }
    }

    /// `IOMMU_FAULT_PAGE_REQUEST_*`.
    #[must_use]
    pub fn flags(&self) -> u32 {
        u32::from(self.pasid.is_some()) * FLAG_PASID_VALID + u32::from(self.last) * FLAG_LAST_PAGE
    }

    /// As `struct iommu_fault` has it.
    #[must_use]
    pub fn raw_pasid(&self) -> u32 {
        self.pasid.unwrap_or(0)
    }
}

/// The `n`th fault group.
#[must_use]
pub fn group(n: u32) -> Ptr {
    Ptr(0x9000_0000 + u64::from(n) * 0x100)
}

/// Events on one clock.
#[derive(Clone, Debug)]
pub struct Script {
    /// What has been written.
    pub events: Vec<Event>,
    /// The time of the next event.
    pub now: u64,
    /// Time between events.
    pub step: u64,
}

impl Default for Script {
    fn default() -> Self {
        Script { events: Vec::new(), now: 1_000_000, step: 100 }
    }
}

impl Script {
    /// An empty script.
    #[must_use]
    pub fn new() -> Self {
        Script::default()
    }

    /// Lets time pass.
    pub fn pass(&mut self, ns: u64) -> &mut Self {
        self.now += ns;
        self
    }

    /// The next events happen on thread `tid` (of a process of its own, on the CPU of that number modulo 8).
    pub fn by(&mut self, tid: u32) -> By<'_> {
        By { script: self, task: Task { cpu: tid % 8, pid: tid, tid, comm: Comm::new(&format!("task-{tid}")) } }
    }

    /// The next events happen on thread `tid` of process `pid`, which calls itself `comm`.
    pub fn task(&mut self, pid: u32, tid: u32, comm: &str) -> By<'_> {
        By { script: self, task: Task { cpu: tid % 8, pid, tid, comm: Comm::new(comm) } }
    }

    /// Groups seen from the event `from` on come back with a cookie, as those do that user space was told of.
    pub fn answer_with_cookie(&mut self, from: usize, cookie: u32) {
        for event in self.events.iter_mut().skip(from) {
            if let Body::FaultGroup(group) = &mut event.body {
                group.cookie = cookie;
            }
        }
    }

    /// What a fresh model makes of it, without [`Model::finish`].
    #[must_use]
    pub fn model(&self, features: Features, options: ModelOptions) -> (Model, Effects) {
        let mut model = Model::new(features, options);
        let mut effects = Effects::default();
        for event in &self.events {
            model.apply(event, &mut effects);
        }
        (model, effects)
    }

    /// What a fresh model of a 7.3 kernel makes of it, to the end.
    #[must_use]
    pub fn run(&self) -> Effects {
        self.run_on(kernel_7_3())
    }

    /// What a fresh model makes of it, to the end.
    #[must_use]
    pub fn run_on(&self, features: Features) -> Effects {
        let (mut model, mut effects) = self.model(features, ModelOptions::default());
        model.finish(self.now, &mut effects);
        effects
    }
}
