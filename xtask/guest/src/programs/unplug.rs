//! `unplug`: a PCI device is removed while user space has it attached, mapped and open.
//!
//! The kernel waits with the removal until user space lets the device go, and then takes everything away. The device
//! is found again by a rescan.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::pause;
use super::vfio::LENGTH;
use crate::mock::{Expect, open};
use crate::sys::{self, Buffer};
use crate::truth::Truth;
use crate::vfio::{Claimed, pick};

/// What `unplug` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The PCI device (0000:00:02.0); else edu, else the first that suits.
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,
    /// How many times.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub count: u32,
    /// How long the kernel is kept waiting, in milliseconds.
    #[arg(long, default_value_t = 50, value_name = "MS")]
    pub grace: u64,
}

/// Where the program maps: below the MSI window of every machine here.
const IOVA: u64 = 0x1000_0000;

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let (fd, _) = open(truth)?;
    let buffer = Buffer::new(LENGTH)?;
    for _ in 0..args.count {
        if sys::stopped() {
            break;
        }
        let pci = pick(args.device.as_deref())?;
        let claimed = Claimed::new(pci.clone(), truth)?;
        let mut device = claimed.open(&fd)?;
        let ioas = fd.ioas_alloc()?;
        device.attach(ioas, Expect::Success)?;
        fd.map(ioas.id, IOVA, buffer.addr(), LENGTH as u64)?;
        let remover = {
            let (pci, truth) = (pci.clone(), Arc::clone(truth));
            thread::spawn(move || pci.remove(&truth))
        };
        pause(Duration::from_millis(args.grace));
        ensure!(!remover.is_finished(), "{} was removed while user space had it open", pci.address);
        device.close();
        remover.join().ok().context("the removing thread panicked")??;
        ensure!(!pci.path("").exists(), "{} is still there after its removal", pci.address);
        fd.unmap(ioas.id, IOVA, LENGTH as u64)?;
        fd.destroy("ioas", ioas.id)?;
        pci.rescan(truth)?;
        // Whoever had it before gets it again.
        drop(claimed);
    }
    fd.close_shared()?;
    Ok(())
}
