//! `workload`: a mix of what this machine can do: at a human's pace for a demonstration, or as a storm.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};

use super::iopf::{Flights, Hwpt, Rig, RigOptions};
use super::{dma_fault, join_all, pause};
use crate::NotApplicable;
use crate::abi::iommufd::HWPT_PASID;
use crate::abi::iommufd_test::{APERTURE_START, DEVICE_PASID};
use crate::edu::Edu;
use crate::iommufd::{FaultQueue, Iommufd, Pt};
use crate::mock::{Expect, Features, Mock, open};
use crate::pci::Pci;
use crate::programs::{default_domain, vfio};
use crate::steps::Steps;
use crate::sys::{self, Buffer};
use crate::truth::{Code, Fact, Truth};
use crate::vfio::{Claimed, pick};

/// What `workload` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Clone, Debug, Subcommand)]
enum Kind {
    /// A bit of everything, slow enough to read along.
    Mixed(Mixed),
    /// Attaches, faults and detaches as fast as they go.
    Storm(Storm),
}

/// The slow mix.
#[derive(Clone, Debug, clap::Args)]
struct Mixed {
    /// How long.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Steps a second.
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
}

/// The fast one.
#[derive(Clone, Debug, clap::Args)]
struct Storm {
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Threads, each with devices of its own.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
    /// Faults between two attachments.
    #[arg(long, default_value_t = 64)]
    faults: u32,
    /// What the storm is made of.
    #[arg(long, value_enum, default_value_t = Weather::Both)]
    of: Weather,
}

/// What a storm is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Weather {
    /// Attach, replace and detach only.
    Slots,
    /// Faults only, on devices that stay.
    Faults,
    Both,
}

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    match &args.kind {
        Kind::Mixed(mixed) => run_mixed(mixed, truth),
        Kind::Storm(storm) => run_storm(storm, truth),
    }
}

/// Keeps the pace, and says when the time is over.
struct Pace {
    end: Instant,
    step: Duration,
}

impl Pace {
    fn new(seconds: f64, rate: f64) -> Self {
        Self {
            end: Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 1e6)),
            step: Duration::from_secs_f64(1.0 / rate.clamp(0.01, 1e6)),
        }
    }

    /// Waits for the next step; false when it is over.
    fn next(&self) -> bool {
        !pause(self.step.min(self.end.saturating_duration_since(Instant::now()))) && Instant::now() < self.end
    }
}

fn run_mixed(args: &Mixed, truth: &Arc<Truth>) -> Result<()> {
    let (fd, features) = match open(truth) {
        Ok((fd, features)) => (Some(fd), Some(features)),
        Err(error) if error.is::<NotApplicable>() => (None, None),
        Err(error) => return Err(error),
    };
    let mock = match (&fd, features) {
        (Some(fd), Some(features)) => mock_works(fd, features)?,
        _ => false,
    };
    let edu = Pci::edu(None).ok().filter(|pci| pci.group().is_some());
    if !mock && edu.is_none() {
        bail!(NotApplicable(
            "this machine has neither a working iommufd test device nor an edu device behind an IOMMU".to_owned()
        ));
    }
    let pace = Pace::new(args.seconds, args.rate);
    let flights = Flights::default();
    while pace.next() {
        if let (true, Some(fd), Some(features)) = (mock, &fd, features) {
            mock_scene(fd, features, &flights, &pace)?;
        }
        if let Some(edu) = &edu {
            edu_scene(edu, fd.as_ref(), truth, &pace)?;
        }
    }
    Ok(())
}

/// Whether a mock device can be made here, found by making one.
fn mock_works(fd: &Arc<Iommufd>, features: Features) -> Result<bool> {
    if !features.mock {
        return Ok(false);
    }
    let ioas = fd.ioas_alloc()?;
    let works = match Mock::create(fd, ioas, 0) {
        Ok(mock) => {
            mock.detach()?;
            true
        }
        Err(error) if error.is::<NotApplicable>() => {
            let why = error.to_string();
            fd.truth().tell(&Fact::Skipped { what: "mock", why });
            false
        }
        Err(error) => return Err(error),
    };
    fd.destroy("ioas", ioas.id)?;
    Ok(works)
}

/// Steps of a scene, each at its pace. Once the time is over the steps left are skipped, the tidying up at
/// the scene's end is not.
macro_rules! paced {
    ($pace:expr; $($step:expr;)*) => {{
        $(if $pace.next() { $step; })*
    }};
}

/// Raises a fault, and a moment later reads and answers it.
fn fault(rig: &Rig, flights: &Flights, pace: &Pace, pasid: u32, code: Code) -> Result<()> {
    flights.raise(&rig.mock, pasid, 0)?;
    pause(pace.step / 4);
    let faults = flights.read(&rig.queue, 1)?;
    pause(pace.step / 4);
    flights.answer(rig.mock.fd().truth(), &rig.queue, &[(faults[0], code)])
}

/// A device's life: attached, its PASIDs too, faults answered, one left to the kernel, detached.
fn mock_scene(fd: &Arc<Iommufd>, features: Features, flights: &Flights, pace: &Pace) -> Result<()> {
    let ioas = fd.ioas_alloc()?;
    let queue = Arc::new(fd.fault_queue_alloc()?);
    let slots = if features.pasid_attach { 2 } else { 0 };
    let options = RigOptions { hwpt: Hwpt::Nested, pasid_slots: slots, pasid_capable: slots > 0 };
    let rig = Rig::new(fd, ioas, &queue, options)?;
    paced! { pace;
        fault(&rig, flights, pace, 0, Code::Success)?;
        fault(&rig, flights, pace, 1, Code::Success)?;
        fault(&rig, flights, pace, 2, Code::Invalid)?;
        neighbour(fd, ioas, features, pace)?;
        fault(&rig, flights, pace, 0, Code::Success)?;
        flights.raise(&rig.mock, 0, 0)?;
    }
    pause(pace.step);
    // The last fault is never read: the kernel answers it as the device goes.
    rig.end(flights)?;
    let id = queue.id;
    if let Some(queue) = Arc::into_inner(queue) {
        queue.close();
    }
    fd.destroy("fault_queue", id)?;
    fd.destroy("ioas", ioas.id)?;
    Ok(())
}

/// A second device that never faults: attached, moved, a PASID attached and moved, one attempt that fails.
fn neighbour(fd: &Arc<Iommufd>, ioas: Pt, features: Features, pace: &Pace) -> Result<()> {
    let (flags, hwpt_flags) = if features.pasid_attach { (DEVICE_PASID, HWPT_PASID) } else { (0, 0) };
    let mut mock = Mock::create(fd, ioas, flags)?;
    let one = fd.hwpt_paging(mock.device_id, ioas, hwpt_flags, None)?;
    let two = fd.hwpt_paging(mock.device_id, ioas, hwpt_flags, None)?;
    let missing = Expect::Refused(libc::ENOENT, "there is no such object");
    paced! { pace;
        mock.replace(0, one, Expect::Success)?;
        mock.replace(0, Pt::missing(), missing)?;
        mock.replace(0, two, Expect::Success)?;
    }
    if features.pasid_attach && mock.held(0).is_some_and(|held| held.hwpt_id == two.id) {
        mock.pasid_attach(7, one, Expect::Success)?;
        pause(pace.step);
        mock.replace(7, two, Expect::Success)?;
        pause(pace.step);
        mock.pasid_detach(7)?;
    }
    mock.detach()?;
    fd.destroy("hwpt_paging", two.id)?;
    fd.destroy("hwpt_paging", one.id)?;
    Ok(())
}

/// A real (emulated) IOMMU: DMA faults, default domains, and VFIO where iommufd is there.
fn edu_scene(pci: &Pci, fd: Option<&Arc<Iommufd>>, truth: &Arc<Truth>, pace: &Pace) -> Result<()> {
    let group = default_domain::group_of(pci)?;
    paced! { pace;
        dma(pci, truth)?;
        group.set_default_domain(truth, "identity")?;
        group.set_default_domain(truth, "DMA")?;
    }
    if group.default_domain() == "identity" {
        group.set_default_domain(truth, "DMA")?;
    }
    if !vfio_pci() || !pace.next() {
        return Ok(());
    }
    let claimed = Claimed::new(pci.clone(), truth)?;
    let buffer = Buffer::new(vfio::LENGTH)?;
    let Some(fd) = fd else { return vfio::container_cycle(&claimed, truth, &buffer, &Steps::new(None, truth)) };
    let ioas = fd.ioas_alloc()?;
    let mut device = claimed.open(fd)?;
    device.attach(ioas, Expect::Success)?;
    if pace.next() {
        fd.map(ioas.id, APERTURE_START, buffer.addr(), vfio::LENGTH as u64)?;
        pause(pace.step);
        fd.unmap(ioas.id, APERTURE_START, vfio::LENGTH as u64)?;
    }
    device.detach()?;
    device.close();
    fd.destroy("ioas", ioas.id)?;
    Ok(())
}

/// Whether vfio-pci is there to be used.
fn vfio_pci() -> bool {
    Path::new("/sys/bus/pci/drivers/vfio-pci").exists()
}

/// One DMA fault, if the device is free.
fn dma(pci: &Pci, truth: &Truth) -> Result<()> {
    let edu: Edu = dma_fault::ready(Some(&pci.address), truth)?;
    edu.dma(truth, 0x00ba_d000, 64, true)?;
    Ok(())
}

fn run_storm(args: &Storm, truth: &Arc<Truth>) -> Result<()> {
    let (fd, features) = match open(truth) {
        Err(error) if error.is::<NotApplicable>() && vfio_pci() => return container_storm(args, truth),
        result => result?,
    };
    let seconds = Duration::from_secs_f64(args.seconds.clamp(0.0, 1e6));
    let end = Instant::now() + seconds;
    if !mock_works(&fd, features)? {
        return vfio_storm(&fd, truth, end);
    }
    thread::scope(|scope| {
        let threads = (0..args.threads).map(|_| {
            scope.spawn(move || {
                let fd = Arc::new(Iommufd::open(truth)?);
                let ioas = fd.ioas_alloc()?;
                let queue = Arc::new(fd.fault_queue_alloc()?);
                let flights = Flights::default();
                while Instant::now() < end && !sys::stopped() {
                    gust(args, features, &fd, ioas, &queue, &flights, end)?;
                }
                let id = queue.id;
                if let Some(queue) = Arc::into_inner(queue) {
                    queue.close();
                }
                fd.destroy("fault_queue", id)?;
                fd.destroy("ioas", ioas.id)?;
                Ok(())
            })
        });
        join_all(threads.collect())
    })?;
    Ok(())
}

/// One device's life, in a hurry.
fn gust(
    args: &Storm,
    features: Features,
    fd: &Arc<Iommufd>,
    ioas: Pt,
    queue: &Arc<FaultQueue>,
    flights: &Flights,
    end: Instant,
) -> Result<()> {
    let slots = if features.pasid_attach { 2 } else { 0 };
    let options = RigOptions { hwpt: Hwpt::Nested, pasid_slots: slots, pasid_capable: slots > 0 };
    let rig = Rig::new(fd, ioas, queue, options)?;
    if args.of != Weather::Slots {
        let mut n = 0;
        loop {
            flights.raise(&rig.mock, n % 3, 0)?;
            let faults = flights.read(queue, 1)?;
            let code = if n.is_multiple_of(2) { Code::Success } else { Code::Invalid };
            flights.answer(fd.truth(), queue, &[(faults[0], code)])?;
            n += 1;
            let over = sys::stopped() || Instant::now() >= end;
            if over || (args.of == Weather::Both && n >= args.faults) {
                break;
            }
        }
    }
    rig.end(flights)
}

/// Without the test device: attach and detach of a VFIO device.
fn vfio_storm(fd: &Arc<Iommufd>, truth: &Arc<Truth>, end: Instant) -> Result<()> {
    let claimed = Claimed::new(pick(None)?, truth)?;
    let ioas = fd.ioas_alloc()?;
    let mut device = claimed.open(fd)?;
    let one = fd.hwpt_paging(device.device_id, ioas, 0, None)?;
    while Instant::now() < end && !sys::stopped() {
        device.attach(ioas, Expect::Success)?;
        device.attach(one, Expect::Success)?;
        device.detach()?;
    }
    device.close();
    fd.destroy("hwpt_paging", one.id)?;
    fd.destroy("ioas", ioas.id)?;
    Ok(())
}

/// Without iommufd: the same with VFIO's container.
fn container_storm(args: &Storm, truth: &Arc<Truth>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs_f64(args.seconds.clamp(0.0, 1e6));
    let claimed = Claimed::new(pick(None)?, truth)?;
    let buffer = Buffer::new(vfio::LENGTH)?;
    while Instant::now() < end && !sys::stopped() {
        vfio::container_cycle(&claimed, truth, &buffer, &Steps::new(None, truth))?;
    }
    Ok(())
}
