//! VFIO's way of asking a program to let a device go: an eventfd that the kernel signals when the device is to be removed.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::abi::size_u32;
use crate::abi::vfio::{IRQ_ACTION_TRIGGER, IRQ_DATA_EVENTFD, PCI_REQ_IRQ, SetIrqs};
use crate::sys::{Failure, Tried, eventfd, ioctl, readable};

/// An eventfd that the kernel knows.
pub struct Notice(OwnedFd);

impl Notice {
    /// Has the kernel signal the removal of the device of this file.
    pub fn of(device: BorrowedFd<'_>) -> Tried<Self> {
        let notice = eventfd()?;
        let mut set = SetIrqs {
            argsz: size_u32::<SetIrqs>(),
            flags: IRQ_DATA_EVENTFD | IRQ_ACTION_TRIGGER,
            index: PCI_REQ_IRQ,
            start: 0,
            count: 1,
            eventfd: notice.as_raw_fd(),
        };
        ioctl(device, &mut set, || "the request to let it go".to_owned())?;
        Ok(Self(notice))
    }

    /// Waits until the kernel wants the device back.
    pub fn wait(&self, limit: Duration) -> Tried<()> {
        if readable(&self.0, limit)? {
            return Ok(());
        }
        Err(Failure::new(libc::ETIMEDOUT, "waiting for VFIO to ask for the device"))
    }
}
