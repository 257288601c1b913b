//! `attach`: slots of the test device, by RID and by PASID, filled, moved and emptied, and every way in which
//! that can fail without harm.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::{join_all, pause, wait_for};
use crate::abi::iommufd::{HWPT_DIRTY_TRACKING, HWPT_NEST_PARENT, HWPT_PASID};
use crate::abi::iommufd_test::{DEVICE_NO_DIRTY, DEVICE_PASID, PASID_FAILING, PASID_WIDTH};
use crate::iommufd::{Iommufd, Pt};
use crate::mock::{Expect, Mock, open};
use crate::sys;
use crate::truth::{Fact, Truth};

/// What `attach` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Rounds of attach, replaces, detach.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub cycles: u32,
    /// Threads, each with an iommufd and a device of its own.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// Also attach, replace and detach PASIDs 1 to N, but for the one that the test device fails on purpose.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..100_000))]
    pub pasids: u32,
    /// Leave out what has to fail.
    #[arg(long)]
    pub no_failures: bool,
    /// Attach the RID and the PASIDs, stay for so long, then detach.
    #[arg(long, value_name = "SECONDS")]
    pub hold: Option<f64>,
    /// The same until FILE exists.
    #[arg(long, value_name = "FILE", conflicts_with = "hold")]
    pub hold_until: Option<PathBuf>,
    /// With --hold or --hold-until: create FILE when everything is attached.
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

impl Args {
    fn pasids(&self) -> impl Iterator<Item = u32> {
        (1..=self.pasids).filter(|&pasid| pasid != PASID_FAILING)
    }
}

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let (fd, features) = open(truth)?;
    features.need_mock()?;
    if args.pasids > 0 {
        features.need_pasid()?;
    }
    if args.hold.is_some() || args.hold_until.is_some() {
        return hold(args, &fd);
    }
    thread::scope(|scope| {
        let threads = (0..args.threads).map(|i| {
            let fd = if i == 0 { Ok(Arc::clone(&fd)) } else { Iommufd::open(truth).map(Arc::new) };
            scope.spawn(move || {
                let fd = fd?;
                for _ in 0..args.cycles {
                    if sys::stopped() {
                        break;
                    }
                    cycle(args, &fd)?;
                }
                Ok(())
            })
        });
        join_all(threads.collect())
    })?;
    Ok(())
}

/// Attaches everything, stays, detaches.
fn hold(args: &Args, fd: &Arc<Iommufd>) -> Result<()> {
    let ioas = fd.ioas_alloc()?;
    let with_pasids = args.pasids > 0;
    let flags = if with_pasids { DEVICE_PASID } else { 0 };
    let mut mock = Mock::create(fd, ioas, flags)?;
    let hwpt_flags = if with_pasids { HWPT_PASID } else { 0 };
    let hwpt = fd.hwpt_paging(mock.device_id, ioas, hwpt_flags, None)?;
    mock.replace(0, hwpt, Expect::Success)?;
    for pasid in args.pasids() {
        mock.pasid_attach(pasid, hwpt, Expect::Success)?;
    }
    fd.truth().tell(&Fact::Ready { slots: 1 + args.pasids().count() as u32, ts: sys::now() });
    if let Some(path) = &args.ready_file {
        std::fs::write(path, b"")?;
    }
    match (&args.hold_until, args.hold) {
        (Some(path), _) => wait_for(path),
        (None, Some(seconds)) => drop(pause(Duration::from_secs_f64(seconds.max(0.0)))),
        (None, None) => {}
    }
    for pasid in mock.pasids() {
        mock.pasid_detach(pasid)?;
    }
    mock.detach()?;
    fd.destroy("hwpt_paging", hwpt.id)?;
    fd.destroy("ioas", ioas.id)?;
    Ok(())
}

/// One round on one device.
fn cycle(args: &Args, fd: &Arc<Iommufd>) -> Result<()> {
    let ioas = fd.ioas_alloc()?;
    let other_ioas = fd.ioas_alloc()?;
    let flags = if args.pasids > 0 { DEVICE_PASID } else { 0 };
    let mut mock = Mock::create(fd, ioas, flags)?;
    let device = mock.device_id;
    let paging = fd.hwpt_paging(device, ioas, 0, None)?;
    let parent = fd.hwpt_paging(device, ioas, HWPT_NEST_PARENT, None)?;
    let queue = fd.fault_queue_alloc()?;
    let nested = fd.hwpt_nested(device, parent, None, false)?;
    let faulting = fd.hwpt_nested(device, parent, Some(queue.id), false)?;

    // Every kind of page table, in an order that takes each transition of the fault queue: none to none,
    // on, off.
    for pt in [paging, nested, faulting, parent, other_ioas, faulting, ioas] {
        mock.replace(0, pt, Expect::Success)?;
    }
    // The page table that is already there: a success that the core never hears of.
    mock.replace(0, paging, Expect::Success)?;
    mock.replace(0, paging, Expect::Success)?;
    if !args.no_failures {
        rid_failures(fd, &mut mock, ioas, queue.id)?;
    }
    if args.pasids > 0 {
        pasids(args, &mut mock, ioas, paging)?;
    }
    mock.detach()?;
    for (kind, pt) in
        [("hwpt_nested", faulting), ("hwpt_nested", nested), ("hwpt_nest_parent", parent), ("hwpt_paging", paging)]
    {
        fd.destroy(kind, pt.id)?;
    }
    let id = queue.id;
    queue.close();
    fd.destroy("fault_queue", id)?;
    fd.destroy("ioas", other_ioas.id)?;
    fd.destroy("ioas", ioas.id)?;
    Ok(())
}

/// Replaces and attaches of a RID that must fail, and leave the slot as it is.
fn rid_failures(fd: &Arc<Iommufd>, mock: &mut Mock, ioas: Pt, fault_id: u32) -> Result<()> {
    let no_pt = Expect::Refused(libc::EINVAL, "the object is no page table");
    let missing = Expect::Refused(libc::ENOENT, "there is no such object");
    mock.replace(0, Pt::wrong(fault_id), no_pt)?;
    mock.replace(0, Pt::wrong(mock.device_id), no_pt)?;
    mock.replace(0, Pt::missing(), missing)?;
    Mock::create_as(fd, Pt::wrong(fault_id), 0, no_pt)?;
    Mock::create_as(fd, Pt::missing(), 0, missing)?;

    // The driver's own refusal: a page table with dirty tracking on a device that has none.
    let dirty = fd.hwpt_paging(mock.device_id, ioas, HWPT_DIRTY_TRACKING, None)?;
    let no_dirty = Expect::Failed(libc::EINVAL, "the device has no dirty tracking");
    Mock::create_as(fd, dirty, DEVICE_NO_DIRTY, no_dirty)?;
    let mut clean = Mock::create(fd, ioas, DEVICE_NO_DIRTY)?;
    clean.replace(0, dirty, no_dirty)?;
    clean.detach()?;
    fd.destroy("hwpt_paging", dirty.id)?;
    Ok(())
}

/// PASIDs 1 to N: attach, replace, the failures, detach. `plain` is where the RID is now: no place for
/// PASIDs.
fn pasids(args: &Args, mock: &mut Mock, ioas: Pt, plain: Pt) -> Result<()> {
    let fd = Arc::clone(mock.fd());
    let device = mock.device_id;
    let one = fd.hwpt_paging(device, ioas, HWPT_PASID, None)?;
    let two = fd.hwpt_paging(device, ioas, HWPT_PASID, None)?;
    let fail = !args.no_failures;
    let invalid = |why| Expect::Refused(libc::EINVAL, why);
    if fail {
        mock.pasid_attach(1, one, invalid("the RID's page table was not allocated for PASIDs"))?;
    }
    mock.replace(0, one, Expect::Success)?;
    for pasid in args.pasids() {
        mock.pasid_attach(pasid, one, Expect::Success)?;
    }
    for pasid in args.pasids() {
        mock.replace(pasid, two, Expect::Success)?;
    }
    // The page table that is already there: a success that the core never hears of.
    mock.replace(1, two, Expect::Success)?;
    if fail {
        pasid_failures(args, mock, [one, two], plain)?;
    }
    for pasid in mock.pasids() {
        mock.pasid_detach(pasid)?;
    }
    // An empty slot: a success that the core never hears of.
    mock.pasid_detach(1)?;
    mock.replace(0, plain, Expect::Success)?;
    fd.destroy("hwpt_paging", two.id)?;
    fd.destroy("hwpt_paging", one.id)?;
    Ok(())
}

/// What must fail while PASIDs 1 to N are attached.
fn pasid_failures(args: &Args, mock: &mut Mock, [one, two]: [Pt; 2], plain: Pt) -> Result<()> {
    let invalid = |why| Expect::Refused(libc::EINVAL, why);
    let free = args.pasids + 1;
    mock.pasid_attach(1, one, Expect::Refused(libc::EBUSY, "the PASID is attached already"))?;
    mock.pasid_attach(free, plain, invalid("the page table was not allocated for PASIDs"))?;
    mock.pasid_attach(free, Pt::missing(), Expect::Refused(libc::ENOENT, "there is no such object"))?;
    mock.replace(free, one, invalid("the PASID is not attached"))?;
    mock.replace(0, plain, invalid("the RID's page table must allow PASIDs while some are attached"))?;
    let wide = 1 << PASID_WIDTH;
    mock.pasid_attach(wide, one, Expect::Failed(libc::EINVAL, "the PASID is too large"))?;
    // The driver fails the first replace on this PASID on purpose; the core must roll back.
    mock.pasid_attach(PASID_FAILING, one, Expect::Success)?;
    let own = Expect::Failed(libc::ENOMEM, "the test driver's own failure");
    mock.replace(PASID_FAILING, two, own)?;
    mock.pasid_detach(PASID_FAILING)?;
    Ok(())
}
