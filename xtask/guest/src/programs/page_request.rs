//! `page-request`: a device's page requests through VT-d's own queue, interrupt and response.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};

use super::pause;
use crate::NotApplicable;
use crate::pci::Pci;
use crate::prq::{BATCH, Queue, Request};
use crate::sys;
use crate::truth::{Code, Fact, Hex, Outcome, Truth};

/// What `page-request` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The PCI device that makes the requests; else the first one with ATS.
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,
    /// How many interrupts.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub count: u32,
    /// How many requests an interrupt finds, each a group of its own.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=BATCH as i64))]
    pub batch: u16,
    /// The PASID of the requests; 0 for none, which Linux 6.12 refuses by itself and QEMU 11.1 takes no response for.
    #[arg(long, default_value_t = 1)]
    pub pasid: u32,
    /// Pause between interrupts, in milliseconds.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub interval: u64,
}

/// The first address asked for; each request asks for the page after.
const ADDRESS: u64 = 0x1000_0000;
/// Group ids have 9 bits.
const GROUPS: u32 = 512;

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let pci = requester(args.device.as_deref())?;
    let mut queue = Queue::open(truth)?;
    for round in 0..args.count {
        if sys::stopped() {
            break;
        }
        let first = round * u32::from(args.batch);
        let requests = requests(&pci, args, first)?;
        let (outcome, result) = Outcome::of(|| {
            let raised = queue.raise(&requests).map_err(|e| sys::Failure::new(libc::EINVAL, e.to_string()));
            raised.and_then(|()| queue.wait())
        });
        for request in &requests {
            truth.tell(&Fact::PageRequest {
                device: pci.address.clone(),
                group: pci.group(),
                device_id: None,
                pasid: request.pasid,
                grpid: request.grpid,
                addr: Hex(request.addr),
                last: request.last,
                // Nobody handles them: the core answers, on the interrupt's thread.
                response: Some(Code::Invalid),
                outcome,
            });
        }
        result?;
        pause(Duration::from_millis(args.interval));
    }
    Ok(())
}

/// The device that makes requests: VT-d knows those with ATS by their requester id.
fn requester(named: Option<&str>) -> Result<Pci> {
    let found = match named {
        Some(address) => Some(Pci::at(address)?),
        None => Pci::all().into_iter().find(|device| device.group().is_some() && device.has_ats()),
    };
    match found {
        Some(device) => Ok(device),
        None => bail!(NotApplicable("no PCI device behind an IOMMU has ATS here".to_owned())),
    }
}

/// The requests of one interrupt.
fn requests(pci: &Pci, args: &Args, first: u32) -> Result<Vec<Request>> {
    let rid = pci.rid()?;
    let request = |n: u32| Request {
        rid,
        pasid: Some(args.pasid).filter(|&pasid| pasid != 0),
        grpid: n % GROUPS,
        read: true,
        write: n % 2 == 1,
        last: true,
        addr: ADDRESS + u64::from(n) * 4096,
    };
    Ok((first..first + u32::from(args.batch)).map(request).collect())
}
