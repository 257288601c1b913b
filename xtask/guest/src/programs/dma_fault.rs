//! `dma-fault`: QEMU's edu device reads and writes where nothing is mapped.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;

use super::pause;
use crate::NotApplicable;
use crate::edu::Edu;
use crate::pci::Pci;
use crate::programs::default_domain::group_of;
use crate::sys;
use crate::truth::Truth;

/// What `dma-fault` does.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The edu device; else the first one.
    #[arg(long, value_name = "ADDRESS")]
    pub device: Option<String>,
    /// How many transfers.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub count: u32,
    /// The first address; each transfer goes one page further. edu keeps only the low 28 bits unless told
    /// otherwise (`dma_mask=`).
    #[arg(long, default_value = "0x0bad000", value_parser = parse_address, value_name = "ADDRESS")]
    pub addr: u64,
    /// Which way.
    #[arg(long, value_enum, default_value_t = Direction::Both)]
    pub direction: Direction,
    /// Pause between transfers, in milliseconds.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub interval: u64,
}

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    /// The device reads memory.
    Read,
    /// The device writes memory.
    Write,
    /// Write and read in turn.
    Both,
}

impl Direction {
    fn write(self, n: u32) -> bool {
        match self {
            Self::Read => false,
            Self::Write => true,
            Self::Both => n.is_multiple_of(2),
        }
    }
}

fn parse_address(text: &str) -> Result<u64, String> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    u64::from_str_radix(digits, radix).map_err(|e| format!("{text:?} is no address: {e}"))
}

/// Makes sure that the edu device is translated: in an identity domain nothing would fault, and the
/// transfers would hit memory.
pub fn ready(device: Option<&str>, truth: &Truth) -> Result<Edu> {
    let pci = Pci::edu(device)?;
    let group = group_of(&pci)?;
    if group.default_domain() == "identity" {
        group.set_default_domain(truth, "DMA")?;
    }
    if group.default_domain() == "identity" {
        bail!(NotApplicable(format!("{} is not translated", pci.address)));
    }
    Ok(Edu::open(pci)?)
}

/// Runs the program.
pub fn run(args: &Args, truth: &Arc<Truth>) -> Result<()> {
    let edu = ready(args.device.as_deref(), truth)?;
    for n in 0..args.count {
        if sys::stopped() {
            break;
        }
        edu.dma(truth, args.addr + u64::from(n) * 4096, 64, args.direction.write(n))?;
        pause(Duration::from_millis(args.interval));
    }
    // The fault comes by an interrupt of its own, after the transfer: do not end (and with it a tracer that
    // waits for this program) before the last one.
    pause(Duration::from_millis(200));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hexadecimal_with_a_prefix_and_decimal_without() {
        assert_eq!(parse_address("0x10"), Ok(16));
        assert_eq!(parse_address("10"), Ok(10));
        assert!(parse_address("ten").is_err());
    }
}
