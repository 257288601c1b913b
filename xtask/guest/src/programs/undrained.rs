//! `undrained`: a detach, or a replace, while a page request waits in VT-d's queue.
//!
//! A detach has to wait until requests in the queue were handled (`intel_iommu_drain_pasid_prq`): only then may the handle be
//! freed. The request is put into the queue, and its interrupt raised later, by hand: a detach that drains waits for it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::page_request::{ADDRESS, requester};
use super::pause;
use crate::abi::iommufd::HWPT_PASID;
use crate::mock::{Expect, open};
use crate::prq::{Queue, Request};
use crate::shim::Shim;
use crate::sys;
use crate::truth::{Code, Fact, Hex, Outcome, Truth};
use crate::vfio::Claimed;

/// What `undrained` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The PCI device that makes the request; else the first one with ATS.
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,
    /// Keep a PASID with a fault queue attached meanwhile: the RID is not the last that makes page requests.
    #[arg(long)]
    pub not_the_last: bool,
    /// When the interrupt comes, in milliseconds after the detach began.
    #[arg(long, default_value_t = 1500, value_name = "MS", conflicts_with = "interrupt_first")]
    pub after: u64,
    /// Raise the interrupt right before the detach: for a kernel that is slow between look-up and handler.
    #[arg(long)]
    pub interrupt_first: bool,
    /// Detach so many milliseconds after it was begun to raise the interrupt, which takes edu two transfers of 100 ms each: around 200
    /// the two meet.
    #[arg(long, value_name = "MS", requires = "interrupt_first")]
    pub detach_at: Option<u64>,
    /// Replace a PASID's page table instead; the request itself, with that PASID, comes only with the interrupt.
    #[arg(long, conflicts_with_all = ["interrupt_first", "not_the_last"])]
    pub replace: bool,
}

/// The PASID of `--not-the-last` and `--replace`.
const PASID: u32 = 1;

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let pci = requester(args.device.as_deref())?;
    let mut queue = Queue::open(truth)?;
    let (fd, _) = open(truth)?;
    let shim = Shim::load(&pci)?;
    let claimed = Claimed::new(pci.clone(), truth)?;
    let mut device = claimed.open(&fd)?;
    let ioas = fd.ioas_alloc()?;
    let faults = fd.fault_queue_alloc()?;
    let one = fd.hwpt_paging(device.device_id, ioas, HWPT_PASID, Some(faults.id))?;
    let two = fd.hwpt_paging(device.device_id, ioas, HWPT_PASID, Some(faults.id))?;
    device.attach(one, Expect::Success)?;
    if args.not_the_last {
        device.attach_pasid(PASID, two)?;
    }
    if args.replace {
        device.attach_pasid(PASID, one)?;
    }
    let pasid = args.replace.then_some(PASID);
    let request = Request { rid: pci.rid()?, pasid, grpid: 1, read: true, write: false, last: true, addr: ADDRESS };
    if !args.replace {
        queue.put(&[request])?;
    }
    let ts0 = sys::now();
    let (mut device, result) = if args.replace {
        let replace = thread::spawn(move || {
            let result = device.attach_pasid(PASID, two);
            (device, result)
        });
        pause(Duration::from_millis(args.after));
        queue.put(&[request])?;
        queue.interrupt()?;
        replace.join().ok().context("the replacing thread panicked")?
    } else if let Some(at) = args.detach_at {
        let detach = thread::spawn(move || {
            pause(Duration::from_millis(at));
            let result = device.detach();
            (device, result)
        });
        queue.interrupt()?;
        detach.join().ok().context("the detaching thread panicked")?
    } else if args.interrupt_first {
        queue.interrupt()?;
        let result = device.detach();
        (device, result)
    } else {
        let detach = thread::spawn(move || {
            let result = device.detach();
            (device, result)
        });
        pause(Duration::from_millis(args.after));
        queue.interrupt()?;
        detach.join().ok().context("the detaching thread panicked")?
    };
    result?;
    queue.wait()?;
    let outcome = Outcome { ts0, ts1: sys::now(), ..Outcome::default() };
    truth.tell(&Fact::PageRequest {
        device: pci.address.clone(),
        group: pci.group(),
        pasid,
        grpid: request.grpid,
        addr: Hex(request.addr),
        // By the core, for there is nobody any more, or by iommufd, for the handle goes.
        response: Code::Invalid,
        outcome,
    });
    // A reporter that was overtaken has its end, too.
    pause(Duration::from_secs(1));
    if args.not_the_last {
        device.detach_pasid(PASID)?;
    }
    if args.replace {
        device.detach_pasid(PASID)?;
        device.detach()?;
    }
    device.close();
    for page_table in [two, one] {
        fd.destroy("hwpt_paging", page_table.id)?;
    }
    let id = faults.id;
    // After a replace one may be left whose handle is gone: to read it may crash the kernel.
    if !args.replace {
        let waiting = faults.read(8)?;
        ensure!(waiting.is_empty(), "a fault was left for user space: {waiting:?}");
    }
    faults.close();
    fd.destroy("fault_queue", id)?;
    fd.destroy("ioas", ioas.id)?;
    drop(claimed);
    drop(shim);
    fd.close_shared()?;
    Ok(())
}
