//! KVM or emulation: KVM only where a guest has come through it.
//!
//! `/dev/kvm` being there says little: nested virtualisation may hang in the guest's first instructions. So a short
//! guest is run once for each boot of the host, and the verdict kept.

use std::{fs, fs::File, time::Duration};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    arch::Arch,
    cache::{self, Lock},
    kernel::Image,
    programs::Programs,
    qemu::{Accelerator, Iommu},
    vm::Vm,
};

/// The longest a probe may take. A guest that works is through in two seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(8);

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM if it works here, otherwise TCG.
    #[default]
    Auto,
    /// Emulation.
    Tcg,
    /// KVM, without asking whether it works.
    Kvm,
}

/// Decides what runs a guest.
pub fn choose(accel: Accel, icount: bool, arch: Arch, kernel: &Image, programs: &Programs) -> Result<Accelerator> {
    match accel {
        Accel::Kvm if arch != Arch::Amd64 => {
            bail!("a guest of {} is emulated: leave --accel kvm out", arch.facts().debian)
        }
        _ if arch != Arch::Amd64 => Ok(Accelerator::Tcg),
        // Counting instructions is TCG's alone.
        Accel::Kvm if icount => bail!("--icount works with TCG only: leave --accel kvm out"),
        Accel::Kvm => Ok(Accelerator::Kvm),
        Accel::Auto if !icount && kvm_works(kernel, programs)? => Ok(Accelerator::Kvm),
        Accel::Auto | Accel::Tcg => Ok(Accelerator::Tcg),
    }
}

fn kvm_works(kernel: &Image, programs: &Programs) -> Result<bool> {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(false);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot tell this boot from others")?;
    let record = cache::sub("kvm")?.join(boot.trim());
    if let Some(works) = recorded(&record) {
        return Ok(works);
    }
    let _lock = Lock::take("kvm-probe")?;
    if let Some(works) = recorded(&record) {
        return Ok(works);
    }
    eprintln!("xtask: trying KVM once (at most {} s)", PROBE_LIMIT.as_secs());
    let probe = Vm::new(kernel, programs)
        .bare()
        .iommu(Iommu::None)
        .accel(Accel::Kvm)
        .timeout(PROBE_LIMIT)
        .command(["/init"])
        .run();
    // In a bare guest init runs itself, which refuses with 2 when it is not process 1.
    let verdict = match &probe {
        Ok(outcome) if outcome.exited(2).is_ok() => "works".to_owned(),
        Ok(outcome) => outcome.trouble().unwrap_or_else(|| "no verdict".to_owned()),
        Err(error) => format!("{error:#}"),
    };
    let works = verdict == "works";
    eprintln!("xtask: KVM {}", if works { "works" } else { "does not work here: TCG it is" });
    fs::write(&record, format!("{verdict}\n")).with_context(|| format!("cannot write {}", record.display()))?;
    Ok(works)
}

fn recorded(record: &std::path::Path) -> Option<bool> {
    fs::read_to_string(record).ok().map(|verdict| verdict.trim() == "works")
}
