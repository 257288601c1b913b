//! `unplug`: a PCI device is removed while user space has it attached, mapped and open.
//!
//! The kernel waits with the removal until user space lets the device go, and then takes everything away. Removed through
//! sysfs, the device is found again by a rescan; by QEMU, it comes and goes as a card in a slot does.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::vfio::LENGTH;
use super::{join_all, pause};
use crate::container::{Container, Orphan};
use crate::emulator::{Emulator, Port};
use crate::iommufd::{Iommufd, Pt};
use crate::mock::{Expect, open};
use crate::notice::Notice;
use crate::pci::Pci;
use crate::sys::{self, Buffer};
use crate::truth::{Outcome, Truth};
use crate::vfio::{Claimed, Vfio, pick};

/// What `unplug` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The PCI device (0000:00:02.0); else edu, else the first that suits.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "ports")]
    pub device: Option<String>,
    /// How many times, on each port.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub count: u32,
    /// Who removes it.
    #[arg(long, value_enum, default_value_t = By::Sysfs)]
    pub by: By,
    /// With --by qemu: use so many ports at once, each with a device of its own.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ports: u32,
    /// Use VFIO's container instead of iommufd.
    #[arg(long)]
    pub container: bool,
    /// With --by sysfs: how long the kernel is kept waiting, in milliseconds.
    #[arg(long, default_value_t = 50, value_name = "MS")]
    pub grace: u64,
}

/// Who removes the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// A write to `remove` in sysfs. The program does not ask VFIO to be told.
    Sysfs,
    /// QEMU's `device_del`, after its `device_add`. VFIO tells the program, which then lets the device go.
    Qemu,
}

/// Where the program maps: below the MSI window of every machine here.
const IOVA: u64 = 0x1000_0000;
/// How long VFIO may take to ask for the device: see [`crate::emulator`].
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let fd = if args.container { None } else { Some(open(truth)?.0) };
    match args.by {
        By::Sysfs => rounds(args, truth, fd.as_ref(), &Bus { args })?,
        By::Qemu => {
            let emulator = Arc::new(Emulator::reach()?);
            thread::scope(|scope| {
                let fd = fd.as_ref();
                let ports = (0..args.ports).map(|number| {
                    let emulator = Arc::clone(&emulator);
                    scope.spawn(move || rounds(args, truth, fd, &Port::new(&emulator, number)?))
                });
                join_all(ports.collect())
            })?;
        }
    }
    fd.map_or(Ok(()), |fd| fd.close_shared().map(drop))
}

/// Where a device comes and goes.
trait Place: Sync {
    /// It is there.
    fn arrive(&self, truth: &Truth) -> Result<Pci>;
    /// It is asked for, and goes when it is let go.
    fn remove(&self, pci: &Pci, truth: &Truth) -> Result<Outcome>;
    /// What is done when it is gone.
    fn afterwards(&self, pci: &Pci, truth: &Truth) -> Result<()>;
    /// Whether the program is to have VFIO tell it.
    const TELLS: bool;
}

/// The bus, by sysfs.
struct Bus<'a> {
    args: &'a Args,
}

impl Place for Bus<'_> {
    const TELLS: bool = false;

    fn arrive(&self, _: &Truth) -> Result<Pci> {
        pick(self.args.device.as_deref())
    }

    fn remove(&self, pci: &Pci, truth: &Truth) -> Result<Outcome> {
        Ok(pci.remove(truth)?)
    }

    fn afterwards(&self, pci: &Pci, truth: &Truth) -> Result<()> {
        Ok(pci.rescan(truth)?)
    }
}

impl Place for Port {
    const TELLS: bool = true;

    fn arrive(&self, truth: &Truth) -> Result<Pci> {
        Ok(self.plug(truth)?)
    }

    fn remove(&self, pci: &Pci, truth: &Truth) -> Result<Outcome> {
        Ok(self.unplug(pci, truth)?)
    }

    fn afterwards(&self, _: &Pci, _: &Truth) -> Result<()> {
        Ok(())
    }
}

fn rounds<P: Place>(args: &Args, truth: &Arc<Truth>, fd: Option<&Arc<Iommufd>>, place: &P) -> Result<()> {
    let buffer = Buffer::new(LENGTH)?;
    for _ in 0..args.count {
        if sys::stopped() {
            break;
        }
        let pci = place.arrive(truth)?;
        let claimed = Claimed::new(pci.clone(), truth)?;
        let held = Held::take(&claimed, truth, fd, &buffer)?;
        let notice = if P::TELLS { Some(held.notice()?) } else { None };
        let (left, outcome) = thread::scope(|scope| {
            let remover = scope.spawn(|| place.remove(&pci, truth));
            match &notice {
                Some(notice) => notice.wait(PATIENCE)?,
                None => drop(pause(Duration::from_millis(args.grace))),
            }
            ensure!(!remover.is_finished(), "{} was removed while user space had it open", pci.address);
            let left = held.let_go();
            Ok((left, remover.join().ok().context("the removing thread panicked")??))
        })?;
        ensure!(!pci.path("").exists(), "{} is still there after its removal", pci.address);
        left.end(outcome)?;
        place.afterwards(&pci, truth)?;
        // Whoever had it before gets it again.
        drop(claimed);
    }
    Ok(())
}

/// A device that is attached, mapped and open.
enum Held {
    Iommufd { fd: Arc<Iommufd>, device: Vfio, ioas: Pt },
    Container(Container),
}

/// What is left of it when its file is closed.
enum Left {
    Iommufd { fd: Arc<Iommufd>, ioas: Pt },
    Container(Orphan),
}

impl Held {
    fn take(claimed: &Claimed, truth: &Arc<Truth>, fd: Option<&Arc<Iommufd>>, buffer: &Buffer) -> Result<Self> {
        let Some(fd) = fd else {
            let container = Container::open(claimed, truth)?;
            container.map(IOVA, buffer.addr(), LENGTH as u64)?;
            return Ok(Self::Container(container));
        };
        let mut device = claimed.open(fd)?;
        let ioas = fd.ioas_alloc()?;
        device.attach(ioas, Expect::Success)?;
        fd.map(ioas.id, IOVA, buffer.addr(), LENGTH as u64)?;
        Ok(Self::Iommufd { fd: Arc::clone(fd), device, ioas })
    }

    fn notice(&self) -> Result<Notice> {
        Ok(match self {
            Self::Iommufd { device, .. } => device.notice()?,
            Self::Container(container) => container.notice()?,
        })
    }

    /// Closes the device's file. In a container, the group stays attached.
    fn let_go(self) -> Left {
        match self {
            Self::Iommufd { fd, device, ioas } => {
                device.close();
                Left::Iommufd { fd, ioas }
            }
            Self::Container(container) => Left::Container(container.close_device()),
        }
    }
}

impl Left {
    /// After the removal.
    fn end(self, removal: Outcome) -> Result<()> {
        match self {
            Self::Iommufd { fd, ioas } => {
                fd.unmap(ioas.id, IOVA, LENGTH as u64)?;
                fd.destroy("ioas", ioas.id)?;
            }
            Self::Container(orphan) => orphan.removed(removal),
        }
        Ok(())
    }
}
