//! `dangling`: a page request of a device in a group whose handle names another device, which is gone.
//!
//! iommufd attaches a group once, with a handle that names the device it was asked for; a second device of the group joins. When
//! the first one leaves and its object is destroyed, the handle stays, and a page request of the second device finds it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::page_request::ADDRESS;
use super::pause;
use crate::NotApplicable;
use crate::abi::iommufd::{HWPT_PASID, PageResponse, RESP_SUCCESS};
use crate::mock::{Expect, open};
use crate::pci::Pci;
use crate::prq::{Queue, Request};
use crate::shim::Shim;
use crate::truth::Truth;
use crate::vfio::Claimed;

/// What `dangling` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Let the first device stay: the handle names a device that is there.
    #[arg(long)]
    pub stays: bool,
}

/// Runs the program. Which device the request was delivered with goes to standard error: it is what one wants to know.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let [one, two] = functions()?;
    let mut queue = Queue::open(truth)?;
    let (fd, _) = open(truth)?;
    let shim = Shim::load_for(&one, 2)?;
    let claimed = [Claimed::new(one, truth)?, Claimed::new(two.clone(), truth)?];
    let mut first = claimed[0].open(&fd)?;
    let mut second = claimed[1].open(&fd)?;
    let (gone, there) = (first.device_id, second.device_id);
    let ioas = fd.ioas_alloc()?;
    let faults = fd.fault_queue_alloc()?;
    let page_table = fd.hwpt_paging(gone, ioas, HWPT_PASID, Some(faults.id))?;
    first.attach(page_table, Expect::Success)?;
    second.attach(page_table, Expect::Joins)?;
    let first = if args.stays {
        Some(first)
    } else {
        first.leave()?;
        first.close();
        None
    };
    queue.raise(&[Request {
        rid: two.rid()?,
        pasid: None,
        grpid: 1,
        read: true,
        write: false,
        last: true,
        addr: ADDRESS,
    }])?;
    queue.wait()?;
    pause(Duration::from_secs(1));
    let read = faults.read(8)?;
    for fault in &read {
        eprintln!(
            "a request of device {there} was delivered with device {}; device {gone} was attached first",
            fault.dev_id
        );
    }
    ensure!(!read.is_empty(), "the request was not delivered");
    let answers: Vec<_> = read.iter().map(|fault| PageResponse { cookie: fault.cookie, code: RESP_SUCCESS }).collect();
    faults.answer(&answers)?;
    if let Some(mut first) = first {
        first.leave()?;
        first.close();
    }
    second.detach()?;
    second.close();
    fd.destroy("hwpt_paging", page_table.id)?;
    let id = faults.id;
    faults.close();
    fd.destroy("fault_queue", id)?;
    fd.destroy("ioas", ioas.id)?;
    drop(claimed);
    drop(shim);
    fd.close_shared()?;
    Ok(())
}

/// The first two functions of a device, both with ATS, in one group.
fn functions() -> Result<[Pci; 2]> {
    let able: Vec<Pci> = Pci::all().into_iter().filter(|device| device.group().is_some() && device.has_ats()).collect();
    let pair = able.iter().find_map(|one| {
        let two = able.iter().find(|two| two.group() == one.group() && two.address > one.address)?;
        Some([one.clone(), two.clone()])
    });
    match pair {
        Some(pair) => Ok(pair),
        None => bail!(NotApplicable("no two PCI devices of one group have ATS here".to_owned())),
    }
}
