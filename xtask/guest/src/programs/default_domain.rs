//! `default-domain`: what the kernel does to a group on its own account: another default domain, a driver
//! bound and unbound, the device removed and found again.

use std::sync::Arc;

use anyhow::{Result, bail};

use crate::NotApplicable;
use crate::group::Group;
use crate::pci::{EDU, Pci};
use crate::sys::Failure;
use crate::truth::{Fact, Truth};

/// What `default-domain` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The PCI device whose group to change; else edu, else the first whose group has no driver.
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,
    /// The types to write, in order.
    #[arg(long, value_delimiter = ',', default_value = "identity,DMA,DMA-FQ,identity,auto", value_name = "TYPE,…")]
    pub types: Vec<String>,
    /// Rounds.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub cycles: u32,
    /// Do not unbind or bind a driver.
    #[arg(long)]
    pub no_driver: bool,
    /// Do not remove and rescan the device.
    #[arg(long)]
    pub no_remove: bool,
    /// Leave out what has to fail.
    #[arg(long)]
    pub no_failures: bool,
}

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let pci = pick(args.device.as_deref())?;
    for _ in 0..args.cycles {
        let group = group_of(&pci)?;
        for asked in &args.types {
            match group.set_default_domain(truth, asked) {
                // A default domain that this device or IOMMU cannot have is told, not an error.
                Err(f) if f.errno == libc::EINVAL => {}
                result => result?,
            }
        }
        if !args.no_failures {
            refuse(group.set_default_domain(truth, "bogus"), libc::EINVAL)?;
        }
        if !args.no_driver {
            driver(args, &pci, group, truth)?;
        }
        if !args.no_remove {
            pci.remove(truth)?;
            pci.rescan(truth)?;
        }
    }
    Ok(())
}

/// Unbinds the device's driver and binds it again; a device without one gets vfio-pci for a while.
fn driver(args: &Args, pci: &Pci, group: Group, truth: &Truth) -> Result<()> {
    if let Some(driver) = pci.unbind(truth)? {
        pci.bind(truth, &driver)?;
        return Ok(());
    }
    match pci.bind(truth, "vfio-pci") {
        Ok(()) => {
            if !args.no_failures {
                // vfio-pci manages its own DMA, so that the group has no owner until it is opened: allowed. Linux 6.1
                // refuses while any driver is bound.
                match group.set_default_domain(truth, "DMA") {
                    Err(f) if f.errno == libc::EBUSY => {}
                    result => result?,
                }
            }
            pci.unbind(truth)?;
        }
        Err(failure) => {
            truth.tell(&Fact::Skipped { what: "driver", why: failure.to_string() });
        }
    }
    Ok(())
}

fn refuse(result: Result<(), Failure>, errno: i32) -> Result<()> {
    match result {
        Err(failure) if failure.errno == errno => Ok(()),
        Err(failure) => Err(failure.into()),
        Ok(()) => bail!("the kernel took a default domain type that does not exist"),
    }
}

/// The group of `pci`; it may be another one after a rescan.
pub fn group_of(pci: &Pci) -> Result<Group> {
    let Some(group) = pci.group() else {
        bail!(NotApplicable(format!("{} is behind no IOMMU", pci.address)));
    };
    Ok(Group(group))
}

/// A device whose group's default domain can be changed: no driver in the group, no bridge.
pub fn pick(named: Option<&str>) -> Result<Pci> {
    if let Some(address) = named {
        return Pci::at(address);
    }
    let free = |device: &Pci| {
        let Some(group) = device.group() else { return false };
        Group(group)
            .devices()
            .iter()
            .all(|name| Pci::at(name).is_ok_and(|member| member.driver().is_none() && !member.is_bridge()))
    };
    let mut devices: Vec<_> = Pci::all().into_iter().filter(free).collect();
    devices.sort_by_key(|d| d.ids() != Some(EDU));
    match devices.into_iter().next() {
        Some(device) => Ok(device),
        None => {
            bail!(NotApplicable("this machine has no IOMMU group whose devices are all without a driver".to_owned()))
        }
    }
}
