//! `vfio`: a PCI device through VFIO and iommufd, from bind to close.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};

use crate::NotApplicable;
use crate::container::Container;
use crate::iommufd::{Iommufd, Pt};
use crate::mock::{Expect, open};
use crate::steps::Steps;
use crate::sys::Buffer;
use crate::truth::{Fact, Truth};
use crate::vfio::{Claimed, Vfio, pick, pick_siblings};

/// What `vfio` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The PCI device (0000:00:02.0); else edu, else the first that suits.
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,
    /// Rounds of attach, replaces, map, unmap, detach.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub cycles: u32,
    /// Use VFIO's container instead of iommufd: attach, map, unmap, detach.
    #[arg(long)]
    pub container: bool,
    /// Use two devices of one group: the first to be attached is the first to go, while the other stays.
    #[arg(long, conflicts_with_all = ["container", "device"])]
    pub siblings: bool,
    /// Leave out what has to fail.
    #[arg(long)]
    pub no_failures: bool,
    /// Stop after each step, and run this command, by a shell, with the step's number in `STEP`.
    #[arg(long, value_name = "COMMAND")]
    pub at_step: Option<String>,
}

/// Where the program maps: below the MSI window of every machine here.
const IOVA: u64 = 0x1000_0000;
/// How much it maps.
pub const LENGTH: usize = 64 * 4096;

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let steps = Steps::new(args.at_step.as_deref(), truth);
    steps.after("the start")?;
    if args.siblings {
        return siblings(args, truth, &steps);
    }
    let pci = pick(args.device.as_deref())?;
    if args.container {
        let claimed = Claimed::new(pci, truth)?;
        steps.after("the driver's bind")?;
        let buffer = Buffer::new(LENGTH)?;
        for _ in 0..args.cycles {
            container_cycle(&claimed, truth, &buffer, &steps)?;
        }
        drop(claimed);
        return steps.after("the end");
    }
    let (fd, _) = open(truth)?;
    let claimed = Claimed::new(pci, truth)?;
    steps.after("the driver's bind")?;
    let ioas = fd.ioas_alloc()?;
    let mut device = claimed.open(&fd)?;
    steps.after("the bind to iommufd")?;
    let buffer = Buffer::new(LENGTH)?;
    for _ in 0..args.cycles {
        cycle(args, &fd, ioas, &mut device, &buffer, &steps)?;
    }
    // The last attachment is left for the close to undo.
    device.attach(ioas, Expect::Success)?;
    steps.after("the last attach")?;
    device.close();
    steps.after("the close")?;
    fd.destroy("ioas", ioas.id)?;
    drop(claimed);
    fd.close_shared()?;
    steps.after("the end")
}

/// Two devices of one group. The core hears of the first attach and the last detach only; the handle it keeps
/// names the first device, which is unbound and gone while the second stays attached.
fn siblings(args: &Args, truth: &Arc<Truth>, steps: &Steps) -> Result<()> {
    let (fd, _) = open(truth)?;
    let [one, two] = pick_siblings()?;
    let one = Claimed::new(one, truth)?;
    let two = Claimed::new(two, truth)?;
    steps.after("the drivers' binds")?;
    for _ in 0..args.cycles {
        let ioas = fd.ioas_alloc()?;
        let mut first = one.open(&fd)?;
        steps.after("the first device's bind to iommufd")?;
        let mut second = two.open(&fd)?;
        steps.after("the second device's bind to iommufd")?;
        let hwpt = hwpt(&fd, &first, ioas)?;
        let other = self::hwpt(&fd, &first, ioas)?;
        first.attach(hwpt, Expect::Success)?;
        steps.after("the first device's attach")?;
        second.attach(hwpt, Expect::Joins)?;
        steps.after("the second device's attach")?;
        first.leave()?;
        steps.after("the first device's detach")?;
        first.close();
        steps.after("the first device's close")?;
        // A new handle for the device that is left.
        second.attach(other, Expect::Success)?;
        steps.after("the second device's replace")?;
        second.detach()?;
        steps.after("the second device's detach")?;
        second.close();
        steps.after("the second device's close")?;
        fd.destroy("hwpt_paging", other.id)?;
        fd.destroy("hwpt_paging", hwpt.id)?;
        fd.destroy("ioas", ioas.id)?;
    }
    drop((one, two));
    steps.after("the end")
}

/// One round with the container.
pub fn container_cycle(claimed: &Claimed, truth: &Arc<Truth>, buffer: &Buffer, steps: &Steps) -> Result<()> {
    let container = Container::open(claimed, truth)?;
    steps.after("the attach")?;
    container.map(IOVA, buffer.addr(), LENGTH as u64)?;
    steps.after("the map")?;
    let unmapped = container.unmap(IOVA, LENGTH as u64)?;
    ensure!(unmapped == LENGTH as u64, "{unmapped} bytes went where {LENGTH} were mapped");
    steps.after("the unmap")?;
    container.close()?;
    steps.after("the detach")
}

fn cycle(args: &Args, fd: &Arc<Iommufd>, ioas: Pt, device: &mut Vfio, buffer: &Buffer, steps: &Steps) -> Result<()> {
    let one = hwpt(fd, device, ioas)?;
    let two = hwpt(fd, device, ioas)?;
    device.attach(ioas, Expect::Success)?;
    steps.after("the attach")?;
    fd.map(ioas.id, IOVA, buffer.addr(), LENGTH as u64)?;
    steps.after("the map")?;
    device.attach(one, Expect::Success)?;
    steps.after("the replace")?;
    device.attach(two, Expect::Success)?;
    steps.after("the second replace")?;
    // The page table that is already there: a success that the core never hears of.
    device.attach(two, Expect::Success)?;
    steps.after("the replace by the same")?;
    if !args.no_failures {
        failures(fd, ioas, device)?;
        steps.after("what must fail")?;
    }
    fd.unmap(ioas.id, IOVA, LENGTH as u64)?;
    steps.after("the unmap")?;
    device.detach()?;
    steps.after("the detach")?;
    device.detach()?;
    steps.after("the detach of nothing")?;
    fd.destroy("hwpt_paging", two.id)?;
    fd.destroy("hwpt_paging", one.id)?;
    Ok(())
}

fn hwpt(fd: &Iommufd, device: &Vfio, ioas: Pt) -> Result<Pt> {
    match fd.hwpt_paging(device.device_id, ioas, 0, None) {
        Err(f) if f.errno == libc::EOPNOTSUPP => {
            bail!(NotApplicable(format!("the IOMMU's driver allocates no page tables ({f})")))
        }
        result => Ok(result?),
    }
}

/// Moves that must fail and leave the device where it is.
fn failures(fd: &Arc<Iommufd>, ioas: Pt, device: &mut Vfio) -> Result<()> {
    let no_pt = Expect::Refused(libc::EINVAL, "the object is no page table");
    let missing = Expect::Refused(libc::ENOENT, "there is no such object");
    device.attach(Pt::wrong(device.device_id), no_pt)?;
    device.attach(Pt::missing(), missing)?;

    // A page table with a fault queue on a device that cannot make page requests.
    let queue = fd.fault_queue_alloc()?;
    match fd.hwpt_paging(device.device_id, ioas, 0, Some(queue.id)) {
        Ok(faulting) => {
            let why = "the device makes no page requests";
            let expect = Expect::Failed(libc::ENODEV, why);
            device.attach(faulting, expect)?;
            fd.destroy("hwpt_paging", faulting.id)?;
        }
        Err(failure) => {
            let why = failure.to_string();
            fd.truth().tell(&Fact::Skipped { what: "attach to a fault-capable page table", why });
        }
    }
    let id = queue.id;
    queue.close();
    fd.destroy("fault_queue", id)?;
    Ok(())
}
