//! `map-load`: map and unmap on an address space that a device is attached to.

use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::join_all;
use crate::NotApplicable;
use crate::abi::iommufd_test::{APERTURE_LAST, APERTURE_START};
use crate::iommufd::{Iommufd, Pt};
use crate::mock::{Expect, Mock, open};
use crate::sys::{self, Buffer};
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
    /// With `vfio`: the PCI device.
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,
}

/// The device behind the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backing {
    /// VFIO if a device suits, else the test device.
    Auto,
    Mock,
    Vfio,
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
    let (fd, features) = open(truth)?;
    let ioas = fd.ioas_alloc()?;
    let pci = match args.backing {
        Backing::Mock => None,
        Backing::Vfio => Some(pick(args.device.as_deref())?),
        Backing::Auto => pick(args.device.as_deref()).ok(),
    };
    if let Some(pci) = pci {
        let claimed = Claimed::new(pci, truth)?;
        let mut device = claimed.open(&fd)?;
        device.attach(ioas, Expect::Success)?;
        let result = load(args, &fd, ioas);
        device.detach()?;
        device.close();
        result?;
    } else {
        features.need_mock()?;
        let mock = Mock::create(&fd, ioas, 0)?;
        let result = load(args, &fd, ioas);
        mock.detach()?;
        result?;
    }
    fd.destroy("ioas", ioas.id)?;
    Ok(())
}

/// All threads' pairs.
fn load(args: &Args, fd: &Arc<Iommufd>, ioas: Pt) -> Result<()> {
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
                    pair(fd, ioas, base, window, n, &args.sizes, &buffer)?;
                }
                Ok(())
            })
        });
        join_all(threads.collect())
    })?;
    Ok(())
}

/// Maps and unmaps once; `n` picks size and place.
fn pair(fd: &Iommufd, ioas: Pt, base: u64, window: u64, n: u32, sizes: &[u64], buffer: &Buffer) -> Result<()> {
    let size = sizes[n as usize % sizes.len()];
    let iova = base + (u64::from(n) * MAX_SIZE) % window;
    fd.map(ioas.id, iova, buffer.addr(), size)?;
    let unmapped = fd.unmap(ioas.id, iova, size)?;
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
