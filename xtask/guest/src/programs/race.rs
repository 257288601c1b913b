//! `race`: page faults on a PASID that is attached and detached meanwhile.
//!
//! One thread raises faults without a pause, another attaches, answers and detaches. A fault finds the PASID's page
//! table or no handler at all; both are lawful, and who answers is for the kernel to say. So there are no `fault` lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::pause;
use crate::abi::iommufd::{HWPT_NEST_PARENT, HWPT_PASID, PERM_READ, PageResponse, RESP_SUCCESS};
use crate::abi::iommufd_test::DEVICE_PASID;
use crate::mock::{Expect, Mock, open};
use crate::sys;
use crate::truth::Truth;

/// What `race` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Rounds of attach and detach.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub cycles: u32,
}

const PASID: u32 = 1;
/// Stays attached, so that the device never leaves its fault queue: page requests are looked up also while the other PASID
/// is on its way in or out.
const STAYING: u32 = 2;

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let (fd, features) = open(truth)?;
    features.need_mock()?;
    features.need_pasid()?;
    let ioas = fd.ioas_alloc()?;
    let queue = fd.fault_queue_alloc()?;
    let mut mock = Mock::create(&fd, ioas, DEVICE_PASID)?;
    let parent = fd.hwpt_paging(mock.device_id, ioas, HWPT_NEST_PARENT | HWPT_PASID, None)?;
    let faulting = fd.hwpt_nested(mock.device_id, parent, Some(queue.id), true)?;
    // PASIDs want the RID on such a page table; without a fault queue it handles no fault.
    mock.replace(0, parent, Expect::Success)?;
    mock.pasid_attach(STAYING, faulting, Expect::Success)?;

    let grpid = AtomicU32::new(0);
    let device = mock.device_id;
    // A fault without a handler is answered by the core, and fails nothing.
    let raise = || {
        let n = grpid.fetch_add(1, Ordering::Relaxed);
        let _ = fd.trigger_iopf(device, PASID, n, PERM_READ, 0x1000_0000 + u64::from(n) * 0x1000);
    };
    let over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) && !sys::stopped() {
                raise();
                thread::sleep(Duration::from_millis(2));
            }
        });
        let result = (0..args.cycles).try_for_each(|_| -> Result<()> {
            mock.pasid_attach(PASID, faulting, Expect::Success)?;
            pause(Duration::from_millis(10));
            let faults = queue.read(64)?;
            let answers: Vec<_> =
                faults.iter().map(|fault| PageResponse { cookie: fault.cookie, code: RESP_SUCCESS }).collect();
            if !answers.is_empty() {
                queue.answer(&answers)?;
            }
            mock.pasid_detach(PASID)?;
            // At least one finds the empty slot.
            raise();
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        result
    });
    result?;
    mock.pasid_detach(STAYING)?;
    mock.detach()?;
    fd.destroy("hwpt_nested", faulting.id)?;
    fd.destroy("hwpt_nest_parent", parent.id)?;
    let id = queue.id;
    queue.close();
    fd.destroy("fault_queue", id)?;
    Ok(fd.destroy("ioas", ioas.id)?)
}
