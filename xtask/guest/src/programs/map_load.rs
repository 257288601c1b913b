//! `map-load`: map and unmap on an address space that a device is attached to.

use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::join_all;
use crate::NotApplicable;
use crate::abi::iommufd_test::{APERTURE_LAST, APERTURE_START};
use crate::container::Container;
use crate::iommufd::Iommufd;
use crate::mock::{Expect, Mock, open};
use crate::sys::{self, Buffer, Tried};
use crate::truth::Truth;
use crate::vfio::{Claimed, pick};

/// What `map-load` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Pairs of map and unmap, all threads together.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub ops: u32,
    /// Sizes in bytes (K, M), used in turn; multiples of 4096.
    #[arg(long, value_delimiter = ',', default_value = "4K,64K,2M", value_parser = parse_size, value_name = "SIZE,…")]
    pub sizes: Vec<u64>,
    /// Threads, on ranges of their own.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub threads: u32,
    /// The device that is attached.
    #[arg(long, value_enum, default_value_t = Backing::Auto)]
    pub backing: Backing,
    /// With `vfio` and `container`: the PCI device.
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,
}

/// The device behind the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backing {
    /// VFIO if a device suits, else the test device; a container without iommufd.
    Auto,
    Mock,
    Vfio,
    Container,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let size = digits.parse::<u64>().map_err(|e| format!("{text:?} is no size: {e}"))? * unit;
    if size == 0 || size % 4096 != 0 || size > MAX_SIZE {
        return Err(format!("{text:?}: sizes are multiples of 4096 up to 32M"));
    }
    Ok(size)
}

const MAX_SIZE: u64 = 32 << 20;

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let (fd, features) = match (args.backing, open(truth)) {
        (Backing::Container, _) => return on_container(args, truth),
        (Backing::Auto, Err(error)) if error.is::<NotApplicable>() => return on_container(args, truth),
        (_, result) => result?,
    };
    let ioas = fd.ioas_alloc()?;
    let space = Space::Ioas(&fd, ioas.id);
    let pci = match args.backing {
        Backing::Mock | Backing::Container => None,
        Backing::Vfio => Some(pick(args.device.as_deref())?),
        Backing::Auto => pick(args.device.as_deref()).ok(),
    };
    if let Some(pci) = pci {
        let claimed = Claimed::new(pci, truth)?;
        let mut device = claimed.open(&fd)?;
        device.attach(ioas, Expect::Success)?;
        let result = load(args, &space);
        device.detach()?;
        device.close();
        result?;
    } else {
        features.need_mock()?;
        let mock = Mock::create(&fd, ioas, 0)?;
        let result = load(args, &space);
        mock.detach()?;
        result?;
    }
    fd.destroy("ioas", ioas.id)?;
    Ok(())
}

/// The same on a container.
fn on_container(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let claimed = Claimed::new(pick(args.device.as_deref())?, truth)?;
    let container = Container::open(&claimed, truth)?;
    let result = load(args, &Space::Container(&container));
    container.close()?;
    result
}

/// What is mapped into.
enum Space<'a> {
    /// An address space of iommufd.
    Ioas(&'a Iommufd, u32),
    /// A container's.
    Container(&'a Container),
}

impl Space<'_> {
    fn map(&self, iova: u64, user_va: u64, length: u64) -> Tried<()> {
        match self {
            Self::Ioas(fd, id) => fd.map(*id, iova, user_va, length),
            Self::Container(container) => container.map(iova, user_va, length),
        }
    }

    fn unmap(&self, iova: u64, length: u64) -> Tried<u64> {
        match self {
            Self::Ioas(fd, id) => fd.unmap(*id, iova, length),
            Self::Container(container) => container.unmap(iova, length),
        }
    }
}

/// All threads' pairs.
fn load(args: &Args, space: &Space<'_>) -> Result<()> {
    let largest = args.sizes.iter().copied().max().context("--sizes is empty")?;
    // The test device's window, which real ones have too: clear of the MSI window.
    let share = (APERTURE_LAST + 1 - APERTURE_START) / u64::from(args.threads);
    let window = share & !(MAX_SIZE - 1);
    if largest > window {
        bail!(NotApplicable(format!("{largest} bytes do not fit a thread's window of {window}")));
    }
    thread::scope(|scope| {
        let threads = (0..args.threads).map(|i| {
            let share = args.ops / args.threads + u32::from(i < args.ops % args.threads);
            let base = APERTURE_START + u64::from(i) * window;
            scope.spawn(move || {
                let buffer = Buffer::new(largest as usize)?;
                for n in 0..share {
                    if sys::stopped() {
                        break;
                    }
                    pair(space, base, window, n, &args.sizes, &buffer)?;
                }
                Ok(())
            })
        });
        join_all(threads.collect())
    })?;
    Ok(())
}

/// Maps and unmaps once; `n` picks size and place.
fn pair(space: &Space<'_>, base: u64, window: u64, n: u32, sizes: &[u64], buffer: &Buffer) -> Result<()> {
    let size = sizes[n as usize % sizes.len()];
    let iova = base + (u64::from(n) * MAX_SIZE) % window;
    space.map(iova, buffer.addr(), size)?;
    let unmapped = space.unmap(iova, size)?;
    if unmapped != size {
        bail!("{unmapped} bytes went where {size} were mapped");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units_and_must_be_pages() {
        assert_eq!(parse_size("4K"), Ok(4096));
        assert_eq!(parse_size("2M"), Ok(2 << 20));
        assert_eq!(parse_size("8192"), Ok(8192));
        assert!(parse_size("100").is_err());
        assert!(parse_size("64M").is_err());
    }
}
