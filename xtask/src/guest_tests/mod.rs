//! Tests in guests, as tables: each file of this directory has its own, and [`all`] chains them.

mod boot;

use std::cell::OnceCell;

use anyhow::{Context, Result};

use crate::{
    kernel::{self, Image},
    programs::Programs,
    qemu::Iommu,
    vm::Vm,
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
    /// The test itself: boots the guest of [`Guest::vm`], once or more, and judges what comes out.
    pub run: fn(&Guest) -> Result<()>,
}

impl GuestTest {
    /// Runs it.
    pub fn run(&self, ctx: &Ctx) -> Result<()> {
        let guest = Guest {
            image: kernel::find(self.kernel)?,
            programs: ctx.programs(self.tracer)?.clone(),
            iommu: self.iommu,
        };
        (self.run)(&guest).with_context(|| format!("{} ({} {})", self.about, guest.image.name, guest.image.version))
    }
}

/// What tests share: the programs, built once.
#[derive(Debug, Default)]
pub struct Ctx {
    with_tracer: OnceCell<Programs>,
    without: OnceCell<Programs>,
}

impl Ctx {
    fn programs(&self, tracer: bool) -> Result<&Programs> {
        let cell = if tracer { &self.with_tracer } else { &self.without };
        if cell.get().is_none() {
            let built = Programs::build(tracer)?;
            let _ = cell.set(built);
        }
        cell.get().context("the programs are gone")
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
    boot::TESTS.iter()
}
