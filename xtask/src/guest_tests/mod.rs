//! Tests in guests, as tables: each file of this directory has its own, and [`all`] chains them.

mod boot;
mod broken;
pub mod cell;
mod clean;
mod compare;
mod disturbed;
mod dropped;
mod hot;
mod lifecycle;
mod modules;
mod one_group;
mod package;
mod page_requests;
mod privileges;
mod recorded;
mod replaced;
mod serve;
mod service;
mod session;
mod steps;
mod stretched;
mod top;
mod trace;
mod traced;
mod truth;
mod unplug;
mod usage;

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::{
    arch::Arch,
    kernel::{self, Image},
    programs::Programs,
    qemu::Iommu,
    vm::{Unlucky, Vm},
};

/// A test in a guest.
#[derive(Debug)]
pub struct GuestTest {
    /// Its name, in words with dashes; the kernel's name is part of it where several run the same.
    pub name: &'static str,
    /// What it shows, as a sentence about the kernel or the guest.
    pub about: &'static str,
    /// The kernel, by its name in the catalogue.
    pub kernel: &'static str,
    /// The emulated IOMMU.
    pub iommu: Iommu,
    /// Whether iommu-trace is in the guest. Without it a test runs even while iommu-trace does not build.
    pub tracer: bool,
    /// The test itself: boots the guest of [`Guest::vm`], once or more, and judges what comes out. An error ends it; what
    /// it has checked until then counts.
    pub run: fn(&Guest, &mut Checks) -> Result<()>,
}

/// What a test has checked. One that checks nothing by name is one check itself.
#[derive(Debug, Default)]
pub struct Checks {
    /// How many held.
    pub passed: usize,
    /// Those that did not, with why.
    pub failed: Vec<(String, String)>,
    /// Figures for people: they decide nothing.
    pub notes: Vec<String>,
}

impl Checks {
    /// Counts one check.
    pub fn check(&mut self, name: impl Into<String>, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => self.failed.push((name.into(), format!("{error:#}"))),
        }
    }

    /// Adds a figure or a remark.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Ends it.
    fn close(mut self, name: &str, result: Result<()>) -> Self {
        match result {
            Ok(()) if self.passed + self.failed.len() == 0 => self.passed = 1,
            Ok(()) => {}
            Err(error) => self.failed.push((name.to_owned(), format!("{error:#}"))),
        }
        self
    }
}

impl GuestTest {
    /// Runs it. A guest that had no luck ([`Unlucky`]) is tried once more, and that it did is told.
    pub fn run(&self, ctx: &Ctx) -> Checks {
        let mut checks = Checks::default();
        let mut result = self.run_into(ctx, &mut checks);
        if let Err(error) = &result
            && error.is::<Unlucky>()
        {
            checks = Checks::default();
            checks.note(format!("had no luck, and was tried once more: {error:#}"));
            result = self.run_into(ctx, &mut checks);
        }
        checks.close(self.name, result)
    }

    fn run_into(&self, ctx: &Ctx, checks: &mut Checks) -> Result<()> {
        let guest = Guest {
            image: kernel::find(self.kernel)?,
            programs: ctx.programs(self.iommu.arch(), self.tracer)?,
            iommu: self.iommu,
        };
        (self.run)(&guest, checks)
            .with_context(|| format!("{} ({} {})", self.about, guest.image.name, guest.image.version))
    }
}

/// What tests share: the programs, built once.
#[derive(Debug, Default)]
pub struct Ctx {
    with_tracer: Mutex<Option<Programs>>,
    foreign: Mutex<Option<Programs>>,
    without: Mutex<Option<Programs>>,
}

impl Ctx {
    /// Who comes while they are built waits.
    fn programs(&self, arch: Arch, tracer: bool) -> Result<Programs> {
        let built = match (arch, tracer) {
            (Arch::Arm64, _) => &self.foreign,
            (Arch::Amd64, true) => &self.with_tracer,
            (Arch::Amd64, false) => &self.without,
        };
        let mut built = built.lock().unwrap_or_else(PoisonError::into_inner);
        if built.is_none() {
            *built = Some(Programs::build(arch, tracer || arch != Arch::Amd64)?);
        }
        built.clone().context("the programs are gone")
    }
}

/// What a test gets.
#[derive(Debug)]
pub struct Guest {
    /// The kernel.
    pub image: Image,
    programs: Programs,
    iommu: Iommu,
}

impl Guest {
    /// The guest that the test's row of the table describes.
    #[must_use]
    pub fn vm(&self) -> Vm {
        Vm::new(&self.image, &self.programs).iommu(self.iommu)
    }
}

/// All tests.
pub fn all() -> impl Iterator<Item = &'static GuestTest> {
    [
        boot::TESTS,
        traced::TESTS,
        recorded::TESTS,
        lifecycle::TESTS,
        hot::TESTS,
        serve::TESTS,
        service::TESTS,
        privileges::TESTS,
        dropped::TESTS,
        usage::TESTS,
        clean::TESTS,
        broken::TESTS,
        top::TESTS,
        modules::TESTS,
        page_requests::TESTS,
        one_group::TESTS,
        package::TESTS,
        replaced::TESTS,
        unplug::TESTS,
        disturbed::TESTS,
        steps::TESTS,
        stretched::TESTS,
        cell::TESTS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_test_without_named_checks_is_one() {
        assert_eq!(Checks::default().close("boot", Ok(())).passed, 1);
        let failed = Checks::default().close("boot", Err(anyhow!("no"))).failed;
        assert_eq!(failed, [("boot".to_owned(), "no".to_owned())]);
    }

    #[test]
    fn named_checks_are_counted_one_by_one() {
        let mut checks = Checks::default();
        checks.check("a", Ok(()));
        checks.check("b", Err(anyhow!("no")));
        let checks = checks.close("test", Ok(()));
        assert_eq!((checks.passed, checks.failed.len()), (1, 1));
    }
}
