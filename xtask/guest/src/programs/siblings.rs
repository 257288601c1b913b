//! `siblings`: two devices of one group on a page table with a fault queue; the first leaves, and the second faults.
//!
//! The handle of the group's slot names the device that was attached first. It takes a kernel whose test devices share a group.

use std::sync::Arc;

use anyhow::{Result, bail};

use crate::NotApplicable;
use crate::abi::iommufd::{HWPT_NEST_PARENT, PERM_READ, PageResponse, RESP_SUCCESS};
use crate::mock::{Expect, Mock, open};
use crate::truth::Truth;

/// What `siblings` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Make a third device before the fault: the kernel may give it the memory of the first.
    #[arg(long)]
    pub another: bool,
}

/// Runs the program. Which device the kernel names in the message is for the kernel to say: there are no `fault` lines.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let (fd, features) = open(truth)?;
    features.need_mock()?;
    let ioas = fd.ioas_alloc()?;
    let queue = fd.fault_queue_alloc()?;
    let mut first = Mock::create(&fd, ioas, 0)?;
    let parent = fd.hwpt_paging(first.device_id, ioas, HWPT_NEST_PARENT, None)?;
    let nested = fd.hwpt_nested(first.device_id, parent, Some(queue.id), true)?;
    first.replace(0, nested, Expect::Success)?;
    let Some(second) = Mock::create_as(&fd, nested, 0, Expect::Joins)? else { bail!("no second device") };
    if first.group != second.group {
        bail!(NotApplicable("this kernel's test devices have a group each".to_owned()));
    }
    let (gone, faulting) = (first.device_id, second.device_id);
    first.detach()?;
    let third = if args.another { Mock::create_as(&fd, nested, 0, Expect::Joins)? } else { None };
    fd.trigger_iopf(faulting, 0, 0, PERM_READ, 0x1000_0000)?;
    let faults = queue.read(8)?;
    for fault in &faults {
        let told = fault.dev_id;
        let third =
            third.as_ref().map(|mock| format!(", device {} came afterwards", mock.device_id)).unwrap_or_default();
        eprintln!(
            "siblings: device {faulting} faulted, the message says device {told}; device {gone} was destroyed{third}"
        );
    }
    let answers: Vec<_> =
        faults.iter().map(|fault| PageResponse { cookie: fault.cookie, code: RESP_SUCCESS }).collect();
    if answers.is_empty() {
        bail!("no fault was delivered");
    }
    queue.answer(&answers)?;
    if let Some(third) = third {
        third.detach()?;
    }
    second.detach()?;
    fd.destroy("hwpt_nested", nested.id)?;
    fd.destroy("hwpt_nest_parent", parent.id)?;
    let id = queue.id;
    queue.close();
    fd.destroy("fault_queue", id)?;
    Ok(fd.destroy("ioas", ioas.id)?)
}
