//! `dangling`: page requests of a device whose group's handle names another device, which is gone.
//!
//! Two functions of one slot are one group, and share one handle, which names the first that was attached. It is detached
//! and closed, and the other makes a page request.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::page_request::{ADDRESS, requester};
use super::pause;
use crate::NotApplicable;
use crate::abi::iommufd::{HWPT_PASID, PageResponse, RESP_SUCCESS};
use crate::iommufd::FaultQueue;
use crate::mock::{Expect, open};
use crate::pci::Pci;
use crate::prq::{Queue, Request};
use crate::shim::Shim;
use crate::truth::Truth;
use crate::vfio::Claimed;

/// What `dangling` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The PCI device that is attached first; its sibling makes the requests.
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,
}

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let one = requester(args.device.as_deref())?;
    let mut queue = Queue::open(truth)?;
    let (fd, _) = open(truth)?;
    let shim = Shim::load(&one)?;
    let sibling = |other: &Pci| other.address != one.address && other.group() == one.group() && other.has_ats();
    let two = Pci::all().into_iter().find(sibling).ok_or_else(|| {
        NotApplicable(format!("{} has no sibling with ATS in its group (--device of cargo xtask vm)", one.address))
    })?;
    let rid = two.rid()?;
    let claimed = [Claimed::new(one, truth)?, Claimed::new(two, truth)?];
    let mut first = claimed[0].open(&fd)?;
    let mut second = claimed[1].open(&fd)?;
    eprintln!("dangling: device ids {} and {}", first.device_id, second.device_id);
    let ioas = fd.ioas_alloc()?;
    let faults = fd.fault_queue_alloc()?;
    let hwpt = fd.hwpt_paging(first.device_id, ioas, HWPT_PASID, Some(faults.id))?;
    first.attach(hwpt, Expect::Success)?;
    second.attach(hwpt, Expect::Joins)?;
    request(&mut queue, &faults, rid, 1, "both attached")?;
    first.leave()?;
    first.close();
    request(&mut queue, &faults, rid, 2, "the first gone")?;
    second.detach()?;
    second.close();
    fd.destroy("hwpt_paging", hwpt.id)?;
    let id = faults.id;
    faults.close();
    fd.destroy("fault_queue", id)?;
    fd.destroy("ioas", ioas.id)?;
    drop(claimed);
    drop(shim);
    Ok(())
}

/// One request of the second device, read and answered: which id user space is told.
fn request(queue: &mut Queue, faults: &FaultQueue, rid: u16, grpid: u32, when: &str) -> Result<()> {
    queue
        .raise(&[Request { rid, pasid: None, grpid, read: true, write: false, last: true, addr: ADDRESS }])
        .with_context(|| format!("page request, {when}"))?;
    queue.wait()?;
    pause(Duration::from_millis(300));
    let told = faults.read(8)?;
    let ids: Vec<u32> = told.iter().map(|fault| fault.dev_id).collect();
    eprintln!("dangling: {when}: the second device's page request was delivered with device id {ids:?}");
    let answers: Vec<_> = told.iter().map(|fault| PageResponse { cookie: fault.cookie, code: RESP_SUCCESS }).collect();
    if !answers.is_empty() {
        faults.answer(&answers)?;
    }
    Ok(())
}
