//! `replace-race`: page faults while a slot is moved from one page table with a fault queue to another.
//!
//! Which of the two queues gets a fault, and who answers it, is for the kernel to say: there are no `fault` lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::pause;
use crate::abi::iommufd::{HWPT_NEST_PARENT, HWPT_PASID, PERM_READ, PageResponse, RESP_SUCCESS};
use crate::abi::iommufd_test::DEVICE_PASID;
use crate::iommufd::FaultQueue;
use crate::mock::{Expect, Mock, open};
use crate::sys;
use crate::truth::Truth;

/// What `replace-race` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How many times the slot is moved.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub cycles: u32,
    /// The slot; 0 is the RID.
    #[arg(long, default_value_t = 1, value_name = "PASID")]
    pub pasid: u32,
    /// One fault a move, so many milliseconds after it began; else faults without a pause.
    #[arg(long, value_name = "MS")]
    pub delay: Option<u64>,
    /// Read the faults of the page table that was replaced, too. If one of them has a freed handle the kernel may crash.
    #[arg(long)]
    pub read_old: bool,
}

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let (fd, features) = open(truth)?;
    features.need_mock()?;
    features.need_pasid()?;
    let ioas = fd.ioas_alloc()?;
    let mut queues = [fd.fault_queue_alloc()?, fd.fault_queue_alloc()?];
    let mut mock = Mock::create(&fd, ioas, DEVICE_PASID)?;
    let device = mock.device_id;
    let parent = fd.hwpt_paging(device, ioas, HWPT_NEST_PARENT | HWPT_PASID, None)?;
    let mut tables = [
        fd.hwpt_nested(device, parent, Some(queues[0].id), true)?,
        fd.hwpt_nested(device, parent, Some(queues[1].id), true)?,
    ];
    if args.pasid == 0 {
        mock.replace(0, tables[0], Expect::Success)?;
    } else {
        // PASIDs want the RID on such a page table.
        mock.replace(0, parent, Expect::Success)?;
        mock.pasid_attach(args.pasid, tables[0], Expect::Success)?;
    }

    let raised = AtomicU32::new(0);
    // A fault without a handler is answered by the core, and fails nothing.
    let raise = || {
        let n = raised.fetch_add(1, Ordering::Relaxed);
        let _ = fd.trigger_iopf(device, args.pasid, n, PERM_READ, 0x1000_0000 + u64::from(n) * 0x1000);
    };
    let over = AtomicBool::new(false);
    let (mut from_new, mut from_old) = (0, 0);
    thread::scope(|scope| {
        if args.delay.is_none() {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) && !sys::stopped() {
                    raise();
                }
            });
        }
        let result = (0..args.cycles).try_for_each(|_| -> Result<()> {
            let one = args.delay.map(|delay| {
                scope.spawn(move || {
                    pause(Duration::from_millis(delay));
                    raise();
                })
            });
            mock.replace(args.pasid, tables[1], Expect::Success)?;
            if let Some(one) = one {
                one.join().ok().context("the thread that raises the fault panicked")?;
            }
            // The new one comes first from here on.
            tables.swap(0, 1);
            queues.swap(0, 1);
            from_new += answer(&queues[0])?;
            if args.read_old {
                from_old += answer(&queues[1])?;
            }
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        result
    })?;
    let raised = raised.into_inner();
    eprintln!(
        "replace-race: {raised} faults, {from_new} read from the new page table's queue, {from_old} from the old's"
    );

    let [new, old] = tables;
    let [new_queue, old_queue] = queues;
    // While the device is there: what is left in the queue is answered for it.
    fd.destroy("hwpt_nested", old.id)?;
    destroy(&fd, old_queue)?;
    if args.pasid != 0 {
        mock.pasid_detach(args.pasid)?;
    }
    mock.detach()?;
    fd.destroy("hwpt_nested", new.id)?;
    fd.destroy("hwpt_nest_parent", parent.id)?;
    destroy(&fd, new_queue)?;
    Ok(fd.destroy("ioas", ioas.id)?)
}

/// Reads what there is and answers it; how many.
fn answer(queue: &FaultQueue) -> Result<usize> {
    let faults = queue.read(64)?;
    let answers: Vec<_> =
        faults.iter().map(|fault| PageResponse { cookie: fault.cookie, code: RESP_SUCCESS }).collect();
    if !answers.is_empty() {
        queue.answer(&answers)?;
    }
    Ok(answers.len())
}

/// Closes a fault queue and destroys it.
fn destroy(fd: &crate::iommufd::Iommufd, queue: FaultQueue) -> Result<()> {
    let id = queue.id;
    queue.close();
    Ok(fd.destroy("fault_queue", id)?)
}
