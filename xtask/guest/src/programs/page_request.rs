//! `page-request`: a device's page requests through VT-d's own queue, interrupt and response.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use super::pause;
use crate::NotApplicable;
use crate::abi::iommufd::{HWPT_PASID, PageResponse, RESP_SUCCESS};
use crate::mock::{Expect, open};
use crate::pci::Pci;
use crate::prq::{BATCH, Queue, Request};
use crate::shim::Shim;
use crate::sys::{self, Failure, Untouched};
use crate::truth::{Code, Fact, Hex, Outcome, Truth};
use crate::vfio::Claimed;

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
    /// Who handles them.
    #[arg(long, value_enum, default_value_t = Handler::None)]
    pub handler: Handler,
    /// The PASID of the requests, unless the bond to a process has its own; 0 for none, which Linux 6.12 refuses by itself
    /// and QEMU 11.1 takes no response for.
    #[arg(long, default_value_t = 1)]
    pub pasid: u32,
    /// Pause between interrupts, in milliseconds.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub interval: u64,
}

/// Who handles page requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Handler {
    /// Nobody: the core answers INVALID.
    None,
    /// The device is bound to this process, whose pages are brought in.
    Sva,
    /// This program, through VFIO and a fault queue of iommufd.
    Iommufd,
}

/// The first address asked for; each request asks for the page after.
pub const ADDRESS: u64 = 0x1000_0000;
/// Group ids have 9 bits.
const GROUPS: u32 = 512;
/// How long a request may take to be answered.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let pci = requester(args.device.as_deref())?;
    let queue = Queue::open(truth)?;
    let mut requester = Requester { rid: pci.rid()?, pci, queue, args, truth, n: 0 };
    match args.handler {
        Handler::None => {
            let pasid = Some(args.pasid).filter(|&pasid| pasid != 0);
            for _ in 0..args.count {
                requester.round(args.batch, ADDRESS, pasid, Code::Invalid, |_| Ok(()))?;
            }
            Ok(())
        }
        Handler::Sva => sva(&mut requester),
        Handler::Iommufd => iommufd(&mut requester),
    }
}

/// The device that makes requests: VT-d knows those with ATS by their requester id.
pub fn requester(named: Option<&str>) -> Result<Pci> {
    let found = match named {
        Some(address) => Some(Pci::at(address)?),
        None => Pci::all().into_iter().find(|device| device.group().is_some() && device.has_ats()),
    };
    match found {
        Some(device) => Ok(device),
        None => bail!(NotApplicable("no PCI device behind an IOMMU has ATS here".to_owned())),
    }
}

/// The device is bound to this process: the kernel itself brings pages in that are mapped and were never touched, and refuses
/// what is not mapped.
fn sva(requester: &mut Requester<'_>) -> Result<()> {
    let shim = Shim::load(&requester.pci)?;
    let pasid = shim.bind()?;
    let args = requester.args;
    let memory = Untouched::new(args.count as usize * usize::from(args.batch))?;
    let address = memory.addr();
    for _ in 0..args.count {
        requester.round(args.batch, address, Some(pasid), Code::Success, |requests| {
            for request in requests {
                until("the kernel to bring a page in", || Ok(memory.is_in(request.addr)?))?;
            }
            Ok(())
        })?;
    }
    drop(memory);
    requester.n = 0;
    requester.round(1, address, Some(pasid), Code::Invalid, |_| {
        // Its answer is not seen from here: what is under way when the bond ends would be told as its end.
        pause(Duration::from_millis(500));
        Ok(())
    })?;
    Ok(shim.unbind()?)
}

/// The device is handed to user space, and this program answers through a fault queue.
fn iommufd(requester: &mut Requester<'_>) -> Result<()> {
    let (fd, _) = open(requester.truth)?;
    let shim = Shim::load(&requester.pci)?;
    let claimed = Claimed::new(requester.pci.clone(), requester.truth)?;
    let pasid = requester.args.pasid;
    let mut device = claimed.open(&fd)?;
    let ioas = fd.ioas_alloc()?;
    // The RID goes to a page table that may share the device with PASIDs.
    let plain = fd.hwpt_paging(device.device_id, ioas, HWPT_PASID, None)?;
    let faults = fd.fault_queue_alloc()?;
    let faulting = fd.hwpt_paging(device.device_id, ioas, HWPT_PASID, Some(faults.id))?;
    device.attach(plain, Expect::Success)?;
    device.attach_pasid(pasid, faulting)?;
    let device_id = device.device_id;
    for _ in 0..requester.args.count {
        requester.round(requester.args.batch, ADDRESS, Some(pasid), Code::Success, |requests| {
            let mut left = requests.len();
            until("page requests at the fault file", || {
                let read = faults.read(left)?;
                for fault in &read {
                    ensure!(fault.dev_id == device_id, "delivered with device {}, not {device_id}", fault.dev_id);
                    ensure!(requests.iter().any(|r| r.addr == fault.addr), "{:#x} was never asked for", fault.addr);
                }
                let answers: Vec<_> =
                    read.iter().map(|fault| PageResponse { cookie: fault.cookie, code: RESP_SUCCESS }).collect();
                if !answers.is_empty() {
                    faults.answer(&answers)?;
                }
                left -= read.len();
                Ok(left == 0)
            })
        })?;
    }
    device.detach_pasid(pasid)?;
    device.detach()?;
    device.close();
    fd.destroy("hwpt_paging", faulting.id)?;
    let id = faults.id;
    faults.close();
    fd.destroy("fault_queue", id)?;
    fd.destroy("hwpt_paging", plain.id)?;
    fd.destroy("ioas", ioas.id)?;
    drop(claimed);
    drop(shim);
    fd.close_shared()?;
    Ok(())
}

/// Waits until something is so.
fn until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !so()? {
        if sys::stopped() || Instant::now() > deadline {
            bail!(Failure::new(libc::ETIMEDOUT, format!("waiting for {what}")));
        }
        pause(Duration::from_millis(5));
    }
    Ok(())
}

/// Who makes requests.
struct Requester<'a> {
    pci: Pci,
    rid: u16,
    queue: Queue,
    args: &'a Args,
    truth: &'a Arc<Truth>,
    /// How many were made.
    n: u32,
}

impl Requester<'_> {
    /// Makes the requests of one interrupt, waits until the kernel has taken them and `answered` is through, and tells.
    /// Each request asks for the page after the last one's, the first one for that at `address`.
    fn round(
        &mut self,
        batch: u16,
        address: u64,
        pasid: Option<u32>,
        response: Code,
        answered: impl FnOnce(&[Request]) -> Result<()>,
    ) -> Result<()> {
        if sys::stopped() {
            return Ok(());
        }
        let rid = self.rid;
        let request = |n: u32| Request {
            rid,
            pasid,
            grpid: n % GROUPS,
            read: true,
            write: n % 2 == 1,
            last: true,
            addr: address + u64::from(n) * 4096,
        };
        let requests: Vec<_> = (self.n..self.n + u32::from(batch)).map(request).collect();
        self.n += u32::from(batch);
        let ts0 = sys::now();
        self.queue.raise(&requests)?;
        self.queue.wait()?;
        answered(&requests)?;
        let outcome = Outcome { ts0, ts1: sys::now(), ..Outcome::default() };
        for request in &requests {
            self.truth.tell(&Fact::PageRequest {
                device: self.pci.address.clone(),
                group: self.pci.group(),
                pasid: request.pasid,
                grpid: request.grpid,
                addr: Hex(request.addr),
                response,
                outcome,
            });
        }
        pause(Duration::from_millis(self.args.interval));
        Ok(())
    }
}
